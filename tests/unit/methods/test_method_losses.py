"""Losses against closed forms, plain float64 loops, and the recorded values of other implementations."""

import math

import numpy as np
import pytest
import torch
from steps import loss_of

from kd.methods.at import at_loss
from kd.methods.contract import STUDENT, Batch, Output, peer
from kd.methods.dml import DML, mutual_loss
from kd.methods.ft import ft_loss
from kd.methods.kd import kd_loss
from kd.schema.cards import card


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def kl(q, p):
    return (q * np.log(q / p)).sum(axis=1)


def on_pixel(pixel, side=2, channels=1, channel=0, value=3.0):
    """Return a map (1,channels,side,side) that is nonzero at one place."""
    feature = torch.zeros(1, channels, side * side)
    feature[0, channel, pixel] = value
    return feature.view(1, channels, side, side)


@pytest.fixture(scope="module")
def reference_tensors():
    """The tensors whose losses several public codebases were run on (torch.manual_seed(0), in this order)."""
    generator = torch.Generator().manual_seed(0)
    zs = torch.randn(64, 100, generator=generator) * 2
    zt = torch.randn(64, 100, generator=generator) * 4
    torch.randint(0, 100, (64,), generator=generator)
    fs = torch.relu(torch.randn(64, 128, 8, 8, generator=generator))
    ft = torch.relu(torch.randn(64, 128, 8, 8, generator=generator) * 1.5)
    return {"zs": zs, "zt": zt, "fs": fs, "ft": ft}


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        pytest.param(lambda x: kd_loss(x["zs"], x["zt"], 4.0), 9.646966934204102, id="kd, RepDistiller"),
        pytest.param(lambda x: at_loss([x["fs"]], [x["ft"]]), 0.0011700664181262255, id="at code, RepDistiller"),
        pytest.param(
            lambda x: 2 * at_loss([x["fs"]], [x["ft"]], form="paper"),
            0.27287107706069946,
            id="at paper, torchdistill (without the half)",
        ),
        pytest.param(lambda x: ft_loss(x["fs"], x["ft"]), 0.027249149978160858, id="ft code, RepDistiller"),
        pytest.param(lambda x: ft_loss(x["fs"], x["ft"], form="paper"), 0.008819406852126122, id="ft paper, KD-Zoo"),
    ],
)
def test_values_of_other_implementations(reference_tensors, loss, expected):
    assert loss(reference_tensors).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_the_batch_mean_of_kl_times_t_squared(temperature):
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(2, 7, 5)) * 3
    expected = temperature**2 * kl(softmax(t / temperature), softmax(s / temperature)).mean()
    assert kd_loss(torch.tensor(s), torch.tensor(t), temperature).item() == pytest.approx(expected, rel=1e-10)


def test_kd_gradient_is_t_times_the_difference_of_probabilities():
    rng = np.random.default_rng(1)
    s, t = rng.normal(size=(2, 6, 4))
    logits = torch.tensor(s, requires_grad=True)
    kd_loss(logits, torch.tensor(t), 3.0).backward()
    np.testing.assert_allclose(logits.grad.numpy(), 3.0 * (softmax(s / 3) - softmax(t / 3)) / 6, rtol=1e-9)


def test_kd_is_finite_where_softmax_underflows():
    logits = torch.tensor([[0.0, -2000.0]], requires_grad=True)
    loss = kd_loss(logits, torch.tensor([[-2000.0, 0.0]]), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(2000.0)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(("form", "expected"), [("code", 2 / 4), ("paper", math.sqrt(2) / 2)])
def test_at_of_attention_on_two_different_pixels(form, expected):
    # Two unit vectors at right angles: squared distance 2 over 4 places, or half of its root.
    assert at_loss([on_pixel(0)], [on_pixel(3)], form=form).item() == pytest.approx(expected)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("form", ["code", "paper"])
def test_at_equals_plain_loops_over_signed_maps(form, p):
    rng = np.random.default_rng(2)
    student = [rng.normal(size=(3, 4, 4, 4)), rng.normal(size=(3, 5, 2, 2))]
    target = [rng.normal(size=(3, 6, 4, 4)), rng.normal(size=(3, 2, 4, 4))]
    expected = 0.0
    for s, t in zip(student, [target[0], target[1].reshape(3, 2, 2, 2, 2, 2).mean(axis=(3, 5))], strict=True):
        for s_image, t_image in zip(s, t, strict=True):
            q_s, q_t = ((np.abs(f) ** p).sum(axis=0).ravel() for f in (s_image, t_image))
            d = q_s / np.linalg.norm(q_s) - q_t / np.linalg.norm(q_t)
            expected += (d**2).mean() / 3 if form == "code" else 0.5 * np.linalg.norm(d) / 3
    found = at_loss([torch.tensor(s) for s in student], [torch.tensor(t) for t in target], p, form)
    assert found.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("form", ["code", "paper"])
def test_at_gradient_is_finite_where_attention_is_equal_or_zero(form):
    feature = torch.cat([on_pixel(1), torch.zeros(1, 1, 2, 2)]).requires_grad_()
    at_loss([feature], [feature.detach()], form=form).backward()
    assert torch.equal(feature.grad, torch.zeros_like(feature))


def test_at_does_not_shorten_lists_of_stages():
    with pytest.raises(ValueError, match=r"longer|shorter"):
        at_loss([on_pixel(0), on_pixel(0)], [on_pixel(0)])


@pytest.mark.parametrize(
    ("student", "target", "p2", "form", "expected"),
    [
        (on_pixel(0), on_pixel(3), 1, "code", 2 / 4),
        (on_pixel(0), on_pixel(3), 2, "code", 2 / 4),
        (on_pixel(0, value=-3.0), on_pixel(0), 1, "code", 0.0),  # squares lose the sign
        (on_pixel(0, value=-3.0), on_pixel(0), 1, "paper", 2 / 4),
        (on_pixel(0, channels=2), on_pixel(0, channels=2, channel=1), 1, "code", 0.0),  # the mean loses the channel
        (on_pixel(0, channels=2), on_pixel(0, channels=2, channel=1), 1, "paper", 2 / 8),
        (on_pixel(0, side=4), on_pixel(3, side=2), 1, "code", 2 / 4),  # pooled to the smaller map
    ],
)
def test_ft_of_single_activations(student, target, p2, form, expected):
    assert ft_loss(student, target, p2=p2, form=form).item() == pytest.approx(expected)


def test_mutual_loss_of_two_peers_in_closed_form():
    own, other = torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[0.0, 0.0]])
    # KL((1/2, 1/2) || (1/4, 3/4)) = 1/2 ln 2 + 1/2 ln(2/3)
    assert mutual_loss(own, [other]).item() == pytest.approx(0.5 * math.log(4 / 3))
    assert mutual_loss(other, [own]).item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))


def test_mutual_loss_averages_over_peers_and_detaches_them():
    rng = np.random.default_rng(3)
    logits = [torch.tensor(z, requires_grad=True) for z in rng.normal(size=(3, 5, 4))]
    loss = mutual_loss(logits[0], logits[1:])
    loss.backward()
    p = [softmax(z.detach().numpy()) for z in logits]
    assert loss.item() == pytest.approx((kl(p[1], p[0]).mean() + kl(p[2], p[0]).mean()) / 2, rel=1e-10)
    np.testing.assert_allclose(logits[0].grad.numpy(), (p[0] - (p[1] + p[2]) / 2) / 5, rtol=1e-9)
    assert logits[1].grad is None
    assert logits[2].grad is None


def test_each_peer_learns_from_all_others_and_not_from_itself():
    method = DML(card("dml").resolve({"peers": 2}, "test"))
    roles = (STUDENT, peer(1), peer(2))
    assert [(update.name, update.trains) for update in method.plan()[0].updates] == [(role, (role,)) for role in roles]
    generator = torch.Generator().manual_seed(4)
    outputs = {role: Output(torch.randn(5, 3, generator=generator), {}) for role in roles}
    labels = torch.tensor([0, 1, 2, 0, 1])
    batch = Batch(torch.zeros(5, 3, 2, 2), labels, torch.arange(5), labels)
    p = {role: softmax(outputs[role].logits.double().numpy()) for role in roles}
    for role in roles:
        terms = loss_of(method, role, batch, outputs)
        mutual = np.mean([kl(p[other], p[role]).mean() for other in roles if other != role])
        assert terms["mutual"].item() == pytest.approx(mutual, rel=1e-5)
        assert terms["ce"].item() == pytest.approx(-np.log(p[role][np.arange(5), labels]).mean(), rel=1e-5)
