"""CKD, its ablations, its white-box form and the MixUp family against plain float64 loops and closed forms."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kd.data.groups import TwoSided
from kd.engine.resolve import method_class
from kd.methods.ckd import ckd_loss, difference, group_sizes, label_vectors
from kd.methods.contract import STUDENT, Batch, Context, Output, Progress, teacher
from kd.methods.cutmix import pasted
from kd.methods.mixup import mixed_cross_entropy, mixed_distillation, mixed_images
from kd.spec.cards import card, load_cards
from kd.spec.errors import UserError
from kd.spec.needs import Groups

CLASSES = 5
GROUPED = ["ckd", "ckd_add", "ckd_mixup"]
MIXED = {"mixup": 2, "mixup3": 3, "cutmix": 2}


def softmax(z, t=1.0):
    e = np.exp((z - z.max()) / t)
    return e / e.sum()


def kl(target, own, t):
    """T^2 KL between two vectors' softmaxes."""
    q, p = softmax(target, t), softmax(own, t)
    return t**2 * float((q * np.log(q / p)).sum())


def method_of(name, **settings):
    method = method_class(name)(card(name).resolve(settings, "test"))
    method.teachers = 1
    return method


def made(items, group, outputs, seed=0):
    """Return a batch of groups in float64 and so many logits of the student."""
    rng = np.random.default_rng(seed)
    images = items * group
    labels = torch.from_numpy(rng.integers(0, CLASSES, images))
    target = torch.from_numpy(rng.normal(size=(1, images, CLASSES)) * 4).requires_grad_()
    pictures = torch.from_numpy(rng.normal(size=(images, 3, 8, 8)))
    batch = Batch(pictures, labels, torch.arange(images), labels, group=group, teacher_logits=target)
    logits = torch.from_numpy(rng.normal(size=(outputs, CLASSES)) * 2).requires_grad_()
    return batch, logits


def terms_of(method, batch, logits):
    return method.loss(STUDENT, batch, {STUDENT: Output(logits, {})}, torch.nn.ModuleDict(), Progress(0.0, 1))


# --- CKD --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pos_and_neg", "sizes"), [(2, (1, 1)), (3, (2, 1)), (4, (2, 2)), (5, (3, 2))])
def test_the_sides_of_a_group(pos_and_neg, sizes):
    assert group_sizes(pos_and_neg) == sizes
    needs = method_of("ckd", pos_and_neg=pos_and_neg, max_rel_samples=77).needs()
    assert needs.groups == TwoSided(pos_and_neg, limit=77, positives=sizes[0])


def test_the_softened_difference_of_two_labels():
    vectors = label_vectors(torch.tensor([[7, 42]]), 100, smoothing=0.0)
    softened = F.softmax(difference(vectors, 1) / 4, dim=1)[0]
    found = [softened[k].item() for k in (7, 0, 42)]
    assert found == pytest.approx([0.01283, 0.00999, 0.00778], abs=5e-6)


def compared(name, values, positives, lam):
    """What a group (g,C) comes to, in plain words."""
    first = sum(values[:positives]) / positives
    second = sum(values[positives:]) / (len(values) - positives)
    return {
        "ckd": first - second,
        "ckd_add": 0.5 * first + 0.5 * second,
        "ckd_mixup": lam * first + (1 - lam) * second,
    }[name]


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("criterion", ["kl", "mse"])
@pytest.mark.parametrize("pos_and_neg", [2, 3, 5])
def test_terms_equal_plain_loops_over_groups(name, criterion, pos_and_neg):
    method, items, t = method_of(name, criterion=criterion, pos_and_neg=pos_and_neg, temperature=3.0), 4, 3.0
    batch, logits = made(items, pos_and_neg, items * pos_and_neg)
    batch = method.prepare(batch, torch.Generator().manual_seed(1))
    positives = -(-pos_and_neg // 2)
    expected = dict.fromkeys(("cls", "kd", "rel"), 0.0)
    for i in range(items):
        rows = slice(i * pos_and_neg, (i + 1) * pos_and_neg)
        truth = np.eye(CLASSES)[batch.labels[rows].numpy()]
        teacher_values = batch.teacher_logits[0, rows].detach().numpy()
        s, y, z = (
            compared(name, values, positives, batch.mixing)
            for values in (logits[rows].detach().numpy(), truth, teacher_values)
        )
        mse = criterion == "mse"
        expected["cls"] += (((s - y) ** 2).mean() if mse else kl(y, s, t)) / items
        expected["rel"] += (((s - z) ** 2).mean() if mse else kl(z, s, t)) / items
        expected["kd"] += kl(z, s, t) / items
    found = terms_of(method, batch, logits)
    assert {key: value.item() for key, value in found.items()} == pytest.approx(expected, rel=1e-10)
    sum(found.values()).backward()
    assert batch.teacher_logits.grad is None
    assert logits.grad.abs().sum() > 0


def test_the_gradient_of_a_difference_is_shared_by_its_images():
    """T (p_s - p_t) / B on the difference, of which each image of P has 1/n+ and each of N -1/n-."""
    student, target = (torch.from_numpy(np.random.default_rng(seed).normal(size=(4, 3, CLASSES))) for seed in (0, 1))
    student.requires_grad_()
    ckd_loss(difference(student, 2), difference(target, 2), "kl", 4.0).backward()
    own, other = (difference(values.detach(), 2).numpy() for values in (student, target))
    slope = np.stack([4 * (softmax(a, 4) - softmax(b, 4)) / 4 for a, b in zip(own, other, strict=True)])
    np.testing.assert_allclose(student.grad[:, 0].numpy(), slope / 2, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(student.grad[:, 1].numpy(), slope / 2, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(student.grad[:, 2].numpy(), -slope, rtol=1e-9, atol=1e-12)


def test_smoothing_shrinks_a_difference_of_labels():
    labels = torch.tensor([[0, 0, 3]])
    plain, smoothed = (difference(label_vectors(labels, CLASSES, share), 2) for share in (0.0, 0.2))
    torch.testing.assert_close(smoothed, 0.8 * plain)


def test_ckd_is_finite_for_extreme_logits():
    student = torch.tensor([[0.0, -5000.0]], requires_grad=True)
    loss = ckd_loss(student, torch.tensor([[-5000.0, 0.0]]), "kl", 4.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_one_share_a_batch_is_drawn_uniformly_and_from_the_generator_alone():
    method, (batch, _) = method_of("ckd_mixup"), made(2, 3, 6)
    stream, state = torch.Generator().manual_seed(0), torch.get_rng_state()
    drawn = [method.prepare(batch, stream).mixing for _ in range(2000)]
    assert torch.equal(torch.get_rng_state(), state)
    assert np.histogram(drawn, 4, (0, 1))[0] / 2000 == pytest.approx([0.25] * 4, abs=0.05)


# --- the MixUp family -------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "parts"), MIXED.items())
@pytest.mark.parametrize("loss_fn", ["ce", "kl"])
def test_mixed_terms_equal_plain_loops_over_parts(name, parts, loss_fn):
    method, items, t = method_of(name, loss_fn=loss_fn, temperature=3.0), 6, 3.0
    batch, logits = made(items, parts, items)
    batch = method.prepare(Batch(**{**vars(batch), "images": batch.images.float()}), torch.Generator().manual_seed(2))
    assert batch.images.shape == (items, 3, 8, 8)
    assert batch.shares.shape == (items, parts)
    shares = batch.shares[0].double().numpy()
    expected = dict.fromkeys(("cls", "kd", "rel"), 0.0)
    for i in range(items):
        own = logits[i].detach().numpy()
        for k in range(parts):
            row = i * parts + k
            z, share = batch.teacher_logits[0, row].detach().numpy(), shares[k] / items
            crossed = -float((softmax(z) * np.log(softmax(own))).sum())
            expected["cls"] -= share * np.log(softmax(own)[batch.labels[row]])
            expected["kd"] += share * kl(z, own, t)
            expected["rel"] += share * (crossed if loss_fn == "ce" else kl(z, own, t))
    found = terms_of(method, batch, logits)
    assert {key: value.item() for key, value in found.items()} == pytest.approx(expected, rel=1e-6)
    sum(found.values()).backward()
    assert batch.teacher_logits.grad is None


@pytest.mark.parametrize(("name", "parts"), MIXED.items())
def test_a_batch_has_one_draw_of_shares_that_sum_to_one(name, parts):
    method, stream, state = method_of(name), torch.Generator().manual_seed(0), torch.get_rng_state()
    needs = method.needs()
    assert needs.groups == Groups(parts, limit=100_000)
    batch, _ = made(3, parts, 3)
    batch = Batch(**{**vars(batch), "images": batch.images.float()})
    drawn = torch.stack([method.prepare(batch, stream).shares for _ in range(400)])
    assert torch.equal(torch.get_rng_state(), state)
    assert (drawn == drawn[:, :1]).all()
    torch.testing.assert_close(drawn.sum(dim=2), torch.ones(400, 3))
    assert drawn.min() >= 0
    if name != "cutmix":  # whose shares are those of clipped boxes
        assert drawn[:, 0].mean(dim=0).tolist() == pytest.approx([1 / parts] * parts, abs=0.06)


def test_three_shares_are_uniform_draws_over_their_sum():
    drawn = torch.stack([method_of("mixup3").draw_shares(torch.Generator().manual_seed(k)) for k in range(1500)])
    sample = np.random.default_rng(0).random((200_000, 3))
    expected = (sample / sample.sum(axis=1, keepdims=True)).std()
    assert drawn.std().item() == pytest.approx(expected, rel=0.05)
    assert expected < 0.9 * np.random.default_rng(0).dirichlet([1, 1, 1], 200_000).std(), "unlike a uniform Dirichlet"


def test_images_are_mixed_by_their_shares():
    images = torch.randn(2, 3, 3, 4, 4)
    expected = 0.5 * images[:, 0] + 0.2 * images[:, 1] + 0.3 * images[:, 2]
    torch.testing.assert_close(mixed_images(images, torch.tensor([0.5, 0.2, 0.3])), expected)


def test_a_box_of_the_second_image_is_pasted_and_counted():
    images = torch.stack([torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)], dim=1)
    mixed, shares = pasted(images, (1, 4, 2, 8))
    assert mixed[:, :, 1:4, 2:].min() == 1
    assert mixed.sum().item() == 2 * 3 * 18
    assert shares.tolist() == pytest.approx([1 - 18 / 64, 18 / 64])
    assert images[:, 0].max() == 0, "the batch's own images stay as they are"


@pytest.mark.parametrize("seed", range(5))
def test_cutmix_shares_are_what_the_picture_shows(seed):
    zeros_and_ones = torch.tensor([0.0, 1.0] * 3).view(6, 1, 1, 1).expand(6, 3, 16, 16)
    labels = torch.zeros(6, dtype=torch.int64)
    batch = Batch(zeros_and_ones, labels, labels, labels, group=2)
    mixed = method_of("cutmix").prepare(batch, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(mixed.images.mean(dim=(1, 2, 3)), mixed.shares[:, 1])


def test_cross_entropy_of_parts_is_smoothed_like_the_recipes():
    logits, labels = torch.randn(4, CLASSES), torch.randint(0, CLASSES, (4, 2))
    shares = torch.tensor([0.3, 0.7]).expand(4, 2)
    expected = sum(
        share * F.cross_entropy(logits, labels[:, k], label_smoothing=0.1) for k, share in enumerate((0.3, 0.7))
    )
    torch.testing.assert_close(mixed_cross_entropy(logits, labels, shares, 0.1), expected)


@pytest.mark.parametrize(("loss_fn", "t"), [("ce", 1.0), ("kl", 4.0)])
def test_the_gradient_of_distillation_is_that_of_the_mean_teacher(loss_fn, t):
    rng = np.random.default_rng(5)
    own, target = rng.normal(size=(3, CLASSES)), rng.normal(size=(3, 2, CLASSES)) * 3
    logits, shares = torch.tensor(own, requires_grad=True), torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    mixed_distillation(logits, torch.tensor(target), shares.expand(3, 2), loss_fn, 4.0).backward()
    for i in range(3):
        mean = 0.25 * softmax(target[i, 0], t) + 0.75 * softmax(target[i, 1], t)
        np.testing.assert_allclose(logits.grad[i].numpy(), t * (softmax(own[i], t) - mean) / 3, rtol=1e-9, atol=1e-14)


# --- CKD with a white-box loss ----------------------------------------------------------------------

SHAPES = {STUDENT: {"stage2": (2, 4, 4), "embedding": (3,)}, teacher(0): {"stage2": (6, 4, 4), "embedding": (7,)}}
STAGES = dict.fromkeys(SHAPES, ("stage2",))


def inner_world(inner, pos_and_neg=3, items=4, **settings):
    """Return a ckd_inter method with its modules in float64, a batch and outputs with features."""
    method = method_of("ckd_inter", inner=inner, pos_and_neg=pos_and_neg, **settings)
    shapes = {role: {tap: torch.Size(shape) for tap, shape in taps.items()} for role, taps in SHAPES.items()}
    context = Context(CLASSES, torch.zeros(9), shapes, {r: tuple(t) for r, t in SHAPES.items()}, STAGES)
    torch.manual_seed(0)
    method.bind(context)
    extra = method.build(context).double()
    batch, logits = made(items, pos_and_neg, items * pos_and_neg)
    rng = np.random.default_rng(3)
    features = {
        role: {tap: torch.from_numpy(rng.normal(size=(items * pos_and_neg, *shape))) for tap, shape in taps.items()}
        for role, taps in SHAPES.items()
    }
    for tap in features[teacher(0)].values():
        tap.requires_grad_()
    outputs = {role: Output(logits, features[role]) for role in SHAPES}
    return method, extra, batch, outputs


def differences(outputs, role, tap, positives, group):
    """Mean of the first images minus mean of the others, group by group."""
    values = outputs[role].taps[tap].detach().numpy()
    groups = [values[i : i + group] for i in range(0, len(values), group)]
    return np.stack([g[:positives].mean(axis=0) - g[positives:].mean(axis=0) for g in groups])


def by_hint(s, t, extra):
    """A 1x1 convolution, BatchNorm of the batch's own statistics, ReLU; mean of squares."""
    convolution, norm, _ = extra["regressors"][0]
    weight, bias = (p.detach().numpy() for p in (convolution.weight[:, :, 0, 0], convolution.bias))
    x = np.einsum("bihw,oi->bohw", s, weight) + bias[:, None, None]
    x = (x - x.mean(axis=(0, 2, 3), keepdims=True)) / np.sqrt(x.var(axis=(0, 2, 3), keepdims=True) + norm.eps)
    return ((np.maximum(x, 0) - t) ** 2).mean()


def by_vid(s, t, extra):
    """Three bias-free 1x1 convolutions; a Gaussian's negative log-likelihood at the initial variance 5."""
    convolutions = [layer.weight.detach().numpy()[:, :, 0, 0] for layer in extra["gaussians"][0].mean[::2]]
    x = s
    for k, weight in enumerate(convolutions):
        x = np.einsum("bihw,oi->bohw", np.maximum(x, 0) if k else x, weight)
    return (((x - t) ** 2 / 5 + np.log(5)) / 2).mean()


def by_cc(s, t, extra):
    """Linear embeddings; the product of neighbours' absolute differences, summed over 128 entries."""
    embedded = []
    for side, feature in (("student", s), ("teacher", t)):
        layer = extra[side][0]
        embedded.append(feature @ layer.weight.detach().numpy().T + layer.bias.detach().numpy())
    d = np.abs(embedded[0] - embedded[1])
    return sum(float(d[i] @ d[i + 1]) for i in range(len(d) - 1)) / (len(d) - 1)


@pytest.mark.parametrize(
    ("inner", "tap", "formula", "weight"),
    [("hint", "stage2", by_hint, 100.0), ("vid", "stage2", by_vid, 1.0), ("cc", "embedding", by_cc, 0.02)],
)
@pytest.mark.parametrize("pos_and_neg", [2, 3])
def test_the_white_box_loss_is_of_group_differences(inner, tap, formula, weight, pos_and_neg):
    method, extra, batch, outputs = inner_world(inner, pos_and_neg, inner_scale=0.5)
    positives = -(-pos_and_neg // 2)
    s, t = (differences(outputs, role, tap, positives, pos_and_neg) for role in SHAPES)
    found = method.loss(STUDENT, batch, outputs, extra, Progress(0.0, 1))
    assert found["inner"].item() == pytest.approx(formula(s, t, extra), rel=1e-6)
    plain = terms_of(method_of("ckd", pos_and_neg=pos_and_neg), batch, outputs[STUDENT].logits)
    assert {key: found[key].item() for key in plain} == {key: value.item() for key, value in plain.items()}
    assert method.weight("inner", Progress(0.0, 1)) == 0.5 * weight
    assert method.weight("rel", Progress(0.0, 1)) == 1.0
    found["inner"].backward()
    assert outputs[teacher(0)].taps[tap].grad is None
    assert all(p.grad is not None for p in extra.parameters())


def test_taps_of_the_white_box_loss_can_be_named():
    method, extra, batch, outputs = inner_world("cc", student_taps=["stage2"], teacher_taps=["embedding"])
    assert extra["student"][0].in_features == 2 * 4 * 4
    assert torch.isfinite(method.loss(STUDENT, batch, outputs, extra, Progress(0.0, 1))["inner"])
    with pytest.raises(UserError, match="student_taps: must name at least one tap"):
        inner_world("cc", student_taps=[], teacher_taps=[])


# --- what they ask for ------------------------------------------------------------------------------


def test_the_white_box_loss_needs_features_too():
    needs = method_of("ckd_inter").needs()
    assert needs.fixed_teacher
    assert needs.teacher_taps == ("stage2",)
    assert needs.groups == method_of("ckd").needs().groups


@pytest.mark.parametrize("name", [*GROUPED, *MIXED])
def test_the_teacher_is_asked_about_the_fixed_view_only(name):
    needs = method_of(name).needs()
    assert needs.fixed_teacher
    assert not needs.live_teacher
    assert not needs.teacher_taps


@pytest.mark.parametrize("name", load_cards())
def test_cards_say_who_reads_the_teachers_fixed_view(name):
    """The workflow makes the teachers' outputs for the cards that say so, and the code must not need them otherwise."""
    assert method_of(name).needs().fixed_teacher == card(name).fixed_teacher
    assert not (card(name).fixed_teacher and card(name).mixed_labels)
