"""Logit losses of 2021 to 2025 against float64 loops, closed forms, and where the released code is not finite."""

import numpy as np
import pytest
import torch
from by_hand import kl, softmax
from steps import fitted, loss_of
from torch import nn

from kd.data.randaugment import View
from kd.data.wants import Wants
from kd.engine.resolve import method_class
from kd.methods import abkd
from kd.methods._classes import target_term
from kd.methods._standardise import standardise
from kd.methods.abkd import abkd_loss
from kd.methods.contract import STUDENT, Batch, Context, Output, Progress, teacher
from kd.methods.crld import Views, crld_losses
from kd.methods.dkd import dkd_loss
from kd.methods.hard_kd import hard_kd_loss
from kd.methods.kd import kd_loss
from kd.methods.kd_logit_std import kd_logit_std_loss
from kd.methods.nkd import nontarget_term
from kd.methods.normkd import normkd_loss
from kd.methods.rld import masked_correlation, sample_confidence
from kd.methods.sdd import cell_logits, emphasis, sdd_loss
from kd.methods.tekap import tekap_loss
from kd.methods.token_kd import token_kd_loss
from kd.schema.cards import card
from kd.tools.errors import UserError

LABELS = np.array([0, 3, 1, 1, 2])
Y = torch.tensor(LABELS)
START = Progress(0.0, 240)


def logits(seed, count=2, batch=5, classes=4, scale=3.0):
    """Return `count` float64 matrices (batch, classes)."""
    return np.random.default_rng(seed).normal(size=(count, batch, classes)) * scale


def rest(z, label):
    return np.delete(z, label, axis=-1)


# --- the losses in plain numpy --------------------------------------------------------------------


def nkd_by_loops(s, t, temperature):
    total = 0.0
    for own, target, label in zip(s, t, LABELS, strict=True):
        total -= softmax(target)[label] * np.log(softmax(own)[label])
        q, p = softmax(rest(own, label) / temperature), softmax(rest(target, label) / temperature)
        total -= 2.0 * temperature**2 * (p * np.log(q)).sum()
    return total / len(s)


def normkd_by_loops(s, t, factor):
    total = 0.0
    for own, target in zip(s, t, strict=True):
        hot, cold = factor * target.std(ddof=1), factor * own.std(ddof=1)
        total += hot**2 * kl(softmax(target / hot), softmax(own / cold))
    return total / len(s)


def rld_by_loops(s, t, temperature, scd_temperature):
    total = 0.0
    for own, target, label in zip(s, t, LABELS, strict=True):
        p, q = softmax(target / scd_temperature).max(), softmax(own / scd_temperature)[label]
        total += 0.7 * scd_temperature**2 * kl(np.array([p, 1 - p]), np.array([q, 1 - q]))
        below = target < target[label]
        if below.any():
            p, q = softmax(target[below] / temperature), softmax(own[below] / temperature)
            total += 3.0 * temperature**2 * kl(p, q)
    return total / len(s)


def abkd_by_loops(s, t, alpha, beta, temperature):
    p, q = softmax(t / temperature), softmax(s / temperature)
    total = alpha + beta
    inner = p**alpha * q**beta - alpha / total * p**total - beta / total * q**total
    return -inner.sum(axis=1).mean() / (alpha * beta)


NOISE = np.random.default_rng(9).normal(size=(3, 5, 4))


def tekap_by_loops(s, t, temperature):
    q = softmax(s / temperature)
    copies = [kl(softmax((0.9 * t + 0.1 * noise) / temperature), q).mean() for noise in NOISE]
    return temperature**2 * (kl(softmax(t / temperature), q).mean() + 0.8 * sum(copies))


def hard_by_loops(s, t):
    return -np.log(softmax(s)[np.arange(len(s)), t.argmax(axis=1)]).mean()


CASES = {
    "nkd": (
        lambda s, t: target_term(s, t, Y) + 2.0 * nontarget_term(s, t, Y, 2.5),
        lambda s, t: nkd_by_loops(s, t, 2.5),
    ),
    "normkd": (lambda s, t: normkd_loss(s, t, 1.5), lambda s, t: normkd_by_loops(s, t, 1.5)),
    "rld": (
        lambda s, t: 0.7 * sample_confidence(s, t, Y, 2.0) + 3.0 * masked_correlation(s, t, Y, 2.5),
        lambda s, t: rld_by_loops(s, t, 2.5, 2.0),
    ),
    "abkd": (lambda s, t: abkd_loss(s, t, 0.8, 0.3, 3.0), lambda s, t: abkd_by_loops(s, t, 0.8, 0.3, 3.0)),
    "abkd negative": (lambda s, t: abkd_loss(s, t, 1.4, -0.3, 3.0), lambda s, t: abkd_by_loops(s, t, 1.4, -0.3, 3.0)),
    "abkd both": (lambda s, t: abkd_loss(s, t, -0.4, -0.3, 3.0), lambda s, t: abkd_by_loops(s, t, -0.4, -0.3, 3.0)),
    "tekap": (
        lambda s, t: tekap_loss(s, t, torch.tensor(NOISE), 3.0, 0.1, 0.8),
        lambda s, t: tekap_by_loops(s, t, 3.0),
    ),
    "hard_kd": (hard_kd_loss, hard_by_loops),
    "token_kd deit": (
        lambda s, t: token_kd_loss(s, t, "soft", "deit", 3.0),
        lambda s, t: 9 * kl(softmax(t / 3), softmax(s / 3)).mean() / 4,
    ),
    "token_kd timm": (
        lambda s, t: token_kd_loss(s, t, "soft", "timm", 3.0),
        lambda s, t: 9 * kl(softmax(t / 3), softmax(s / 3)).mean(),
    ),
}

every_case = pytest.mark.parametrize(("loss", "plain"), CASES.values(), ids=CASES)


@every_case
def test_losses_equal_plain_loops(loss, plain):
    student, target = logits(0)
    assert loss(torch.tensor(student), torch.tensor(target)).item() == pytest.approx(plain(student, target), rel=1e-9)


@every_case
def test_gradients_equal_finite_differences_of_the_loops(loss, plain):
    student, target = logits(1)
    own, known = (torch.tensor(z, requires_grad=True) for z in (student, target))
    loss(own, known).backward()
    step = 1e-6
    for place in np.ndindex(student.shape):
        shift = np.zeros_like(student)
        shift[place] = step
        slope = (plain(student + shift, target) - plain(student - shift, target)) / (2 * step)
        assert own.grad[place].item() == pytest.approx(slope, rel=1e-4, abs=1e-7)
    assert known.grad is None, "the teacher is detached"


LIMITS = {f"abkd {a:g} {b:g}": (a, b) for a, b in [(0.0, -0.6), (-0.7, 0.0), (0.5, -0.5), (-0.5, 0.5), (0.0, 0.0)]}
BOUNDED = {
    **{name: loss for name, (loss, _) in CASES.items()},
    **{name: lambda s, t, powers=powers: abkd_loss(s, t, *powers, 3.0) for name, powers in LIMITS.items()},
}


@pytest.mark.parametrize("loss", BOUNDED.values(), ids=BOUNDED)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("own_scale", "scale"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1e4, 1.0), (1.0, 1e4), (1e4, 1e4)]
)
def test_losses_and_gradients_are_finite_for_equal_and_for_huge_logits(loss, kind, own_scale, scale):
    student, target = logits(2)
    own = torch.tensor(own_scale * student, dtype=torch.float32).requires_grad_()
    value = loss(own, torch.tensor(scale * target).to(kind))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(own.grad).all()


@pytest.mark.parametrize("name", ["nkd", "rld"])
@pytest.mark.parametrize("classes", [2, 3])
def test_one_image_of_two_classes_is_enough(name, classes):
    student, target = (torch.tensor(z).float() for z in logits(3, batch=1, classes=classes))
    own, y = student.requires_grad_(), torch.tensor([1])
    if name == "nkd":
        value = target_term(own, target, y) + nontarget_term(own, target, y, 2.0)
    else:
        value = sample_confidence(own, target, y, 2.0) + masked_correlation(own, target, y, 2.0)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(own.grad).all()


# --- normkd ---------------------------------------------------------------------------------------


def test_normkd_weighs_images_where_standardised_distillation_does_not():
    # With deviations of 1 the two are the same, but for T^2 in place of the teacher's squared temperature.
    student, target = (standardise(torch.tensor(z)) for z in logits(4))
    expected = kd_logit_std_loss(student, target, 2.0).item()
    assert normkd_loss(student, target, 2.0).item() == pytest.approx(expected, rel=1e-5)
    assert normkd_loss(student, 3 * target, 2.0).item() == pytest.approx(9 * expected, rel=1e-5)


@pytest.mark.parametrize("deviation", [1e-5, 1e-3, 0.009])
def test_nearly_equal_logits_are_pulled_no_harder_than_by_a_hundredth(deviation):
    student, target = (torch.tensor(z).float() for z in logits(5))
    own = (deviation * student / student.std(dim=1, keepdim=True)).requires_grad_()
    normkd_loss(own, target, 2.0).backward()
    most = (2.0 * target.std(dim=1, keepdim=True)).square() / (2.0 * 0.01) / len(own)
    assert (own.grad.abs() <= most).all()
    assert (own.grad.abs().amax(dim=1) > 1e-3 * most.squeeze(1)).all()


@pytest.mark.parametrize("height", [0.0, 3.1, -1e4])
def test_equal_logits_are_uniform_and_take_no_gradient(height):
    student, target = (torch.tensor(z).float() for z in logits(5))
    flat = student.clone()
    flat[0] = height
    own = flat.requires_grad_()
    value = normkd_loss(own, target, 2.0)
    value.backward()
    t = target.double().numpy()
    hot = 2 * t.std(axis=1, ddof=1)
    images = [hot[0] ** 2 * kl(softmax(t[0] / hot[0]), np.full(4, 0.25))]
    images += [normkd_by_loops(student[i : i + 1].double().numpy(), t[i : i + 1], 2.0) for i in range(1, 5)]
    assert value.item() == pytest.approx(np.mean(images), rel=1e-5)
    assert torch.equal(own.grad[0], torch.zeros(4))
    assert (own.grad[1:] != 0).any()


# --- rld ------------------------------------------------------------------------------------------


def test_sample_confidence_is_exact_far_past_where_a_softmax_saturates():
    # The student gives the label exp(-200): the divergence from a sure teacher is 200.
    student = torch.tensor([[0.0, 200.0, 0.0]], requires_grad=True)
    loss = sample_confidence(student, torch.tensor([[0.0, 600.0, 0.0]]), torch.tensor([0]), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(200, rel=1e-6)
    assert student.grad[0].tolist() == pytest.approx([-1.0, 1.0, 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ([0.0, 1.0, 2.0], 0.0),  # the label is the last choice
        ([1.0, 1.0, 1.0], 0.0),  # ties are not below
        ([1.0, 1.0, 0.0], 0.0),  # one class alone is sure
    ],
)
def test_masked_correlation_is_0_with_no_or_one_class_below_the_label(target, expected):
    student = torch.tensor([[3.0, -1.0, 0.5]], requires_grad=True)
    loss = masked_correlation(student, torch.tensor([target]), torch.tensor([0]), 4.0)
    loss.backward()
    assert loss.item() == expected
    assert torch.equal(student.grad, torch.zeros(1, 3))


def method(name, **settings):
    return method_class(name)(card(name).resolve(settings, "test"))


def batch_of(labels, mixing=1.0, other=None):
    labels = torch.tensor(labels)
    other = labels if other is None else torch.tensor(other)
    return Batch(torch.zeros(len(labels), 3, 2, 2), labels, torch.arange(len(labels)), other, mixing)


def outputs_of(student, target):
    return {STUDENT: Output(torch.tensor(student), {}), teacher(0): Output(torch.tensor(target), {})}


def terms_of(built, student, target, labels=LABELS):
    found = loss_of(built, STUDENT, batch_of(labels), outputs_of(student, target))
    return {term: (value.item(), built.weight(term, START)) for term, value in found.items()}


@pytest.mark.parametrize("standard", [False, True])
def test_rld_distils_standardised_logits_where_asked_and_warms_up(standard):
    student, target = logits(6)
    built = method("rld", standardize=standard, temperature=2.5, scd_temperature=2.0, scd_weight=0.7, mcd_weight=3.0)
    found = terms_of(built, student, target)
    s, t = (standardise(torch.tensor(z)).numpy() if standard else z for z in (student, target))
    whole = found["scd"][0] * 0.7 + found["mcd"][0] * 3.0
    assert whole == pytest.approx(rld_by_loops(s, t, 2.5, 2.0), rel=1e-9)
    assert [weight for _, weight in found.values()] == pytest.approx([1.0, 0.7 / 20, 3.0 / 20])
    assert built.weight("mcd", Progress(19.0, 240)) == 3.0
    assert found["ce"][0] == pytest.approx(-np.log(softmax(student)[np.arange(5), LABELS]).mean())


# --- abkd -----------------------------------------------------------------------------------------


def test_abkd_at_its_corners_is_kl_both_ways():
    student, target = (torch.tensor(z) for z in logits(7))
    for form in ("released", "described"):
        forward = abkd_loss(student, target, 1.0, 0.0, 3.0, form)
        assert forward.item() == pytest.approx(kd_loss(student, target, 3.0).item() / 9)
        backward = abkd_loss(student, target, 0.0, 1.0, 3.0, form)
        assert backward.item() == pytest.approx(kd_loss(target, student, 3.0).item() / 9)


@pytest.mark.parametrize(
    ("alpha", "beta", "near"),
    [(0.0, 0.6, (1e-5, 0.6)), (0.7, 0.0, (0.7, 1e-5)), (0.5, -0.5, (0.5, -0.50001)), (0.0, 0.0, (1e-3, 1e-3))],
)
def test_the_described_limits_are_continuous_and_the_released_ones_off_by_a_factor(alpha, beta, near):
    student, target = (torch.tensor(z) for z in logits(8))
    limit = abkd_loss(student, target, alpha, beta, 3.0, "described").item()
    assert abkd_loss(student, target, *near, 3.0, "described").item() == pytest.approx(limit, rel=1e-2)
    factor = abs(beta or 1.0) if alpha == 0 else alpha
    assert abkd_loss(student, target, alpha, beta, 3.0, "released").item() == pytest.approx(factor * limit, rel=1e-9)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, -0.6), (-0.5, 0.5)])
def test_the_released_limit_of_a_negative_exponent_is_below_0(alpha, beta):
    student, target = (torch.tensor(z) for z in logits(8))
    assert abkd_loss(student, target, alpha, beta, 3.0, "released") < 0
    assert abkd_loss(student, target, alpha, beta, 3.0, "described") > 0


@pytest.mark.parametrize(
    ("alpha", "beta"), [(1.4, -0.3), (-0.3, 1.4), (-0.4, -0.3), (0.0, -0.6), (-0.7, 0.0), (0.5, -0.5)]
)
def test_a_power_beyond_the_largest_leaves_the_direction_of_the_gradient(alpha, beta):
    # far apart, with no class that is sure to rounding
    student, target = [[30.0, 29.0, -60.0, -150.0]], [[40.0, -150.0, -90.0, 60.0]]
    gradients = []
    for most in (1e6, 40.0):
        own = torch.tensor(student, dtype=torch.float64).requires_grad_()  # which holds what float32 does not
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(abkd, "LARGEST", most)
            value = abkd_loss(own, torch.tensor(target, dtype=torch.float64), alpha, beta, 1.0)
        value.backward()
        gradients.append(own.grad / own.grad.norm())
    assert abs(value.item()) < 1e21  # in float32, with room for its square
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.3), (0.5, 0.5), (0.0, 0.6), (0.7, 0.0), (0.5, -0.5), (0.0, 0.0)])
def test_abkd_is_0_where_both_agree(alpha, beta):
    (z,) = (torch.tensor(value) for value in logits(9, count=1))
    own = z.clone().requires_grad_()
    loss = abkd_loss(own, z, alpha, beta, 3.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert own.grad.abs().max() < 1e-12


# --- tekap ----------------------------------------------------------------------------------------


def test_tekap_without_noise_is_kd_of_all_copies_at_once():
    student, target = (torch.tensor(z) for z in logits(10))
    noise = torch.randn(3, *target.shape, dtype=torch.float64)
    found = tekap_loss(student, target, noise, 4.0, 0.0, 0.8)
    assert found.item() == pytest.approx(3.4 * kd_loss(student, target, 4.0).item())


def test_tekap_draws_its_noise_anew_from_the_runs_own_stream():
    student, target = (z.astype(np.float32) for z in logits(11))
    built, values = method("tekap", perturbations=2, noise_weight=0.5), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append([terms_of(built, student, target)["kd"][0] for _ in range(2)])
    assert values[0] == values[1] != values[2]
    assert values[0][0] != values[0][1]
    torch.manual_seed(0)
    noise = torch.randn(2, 5, 4)
    expected = tekap_loss(torch.tensor(student), torch.tensor(target), noise, 4.0, 0.5, 0.8)
    assert values[0][0] == pytest.approx(expected.item())


# --- sdd ------------------------------------------------------------------------------------------


def maps(side, channels=3, batch=4, seed=12):
    return torch.tensor(np.random.default_rng(seed).normal(size=(batch, channels, side, side)))


def classifier(channels=3, classes=4, seed=13):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=(classes, channels))), torch.tensor(rng.normal(size=classes))


def test_cells_are_means_of_the_map_read_by_the_classifier():
    feature, (weight, bias) = maps(8), classifier()
    found = cell_logits(feature, weight, bias, (1, 2, 4))
    assert found.shape == (4, 21, 4)
    places = [(1, 8, [(0, 0)]), (2, 4, [(0, 0), (0, 1), (1, 0), (1, 1)])]
    number = 0
    for _, side, cells in places:
        for i, j in cells:
            mean = feature[:, :, side * i : side * (i + 1), side * j : side * (j + 1)].mean(dim=(2, 3))
            torch.testing.assert_close(found[:, number], mean @ weight.T + bias)
            number += 1
    torch.testing.assert_close(found[:, 5 + 4 * 2 + 1], feature[:, :, 4:6, 2:4].mean(dim=(2, 3)) @ weight.T + bias)


def test_coarse_cells_come_from_the_4x4_grid_and_small_maps_are_repeated():
    weight, bias = classifier()
    odd = maps(7)
    grid = nn.functional.adaptive_avg_pool2d(odd, 4)
    found = cell_logits(odd, weight, bias, (1, 2))
    torch.testing.assert_close(found[:, 0], grid.mean(dim=(2, 3)) @ weight.T + bias)
    whole = odd.mean(dim=(2, 3)) @ weight.T + bias
    assert not torch.allclose(found[:, 0], whole)
    torch.testing.assert_close(cell_logits(odd, weight, bias, (1, 2), "described")[:, 0], whole)
    small = maps(2)
    found = cell_logits(small, weight, None, (4,)).unflatten(1, (4, 4))
    torch.testing.assert_close(found[:, 0, 3], small[:, :, 0, 1] @ weight.T)
    torch.testing.assert_close(found[:, 1, 2], small[:, :, 0, 1] @ weight.T)


def test_cells_that_are_right_where_the_whole_is_wrong_or_the_reverse_weigh_double():
    sure = torch.eye(3)
    cells = torch.stack([sure[[0, 1, 2]], sure[[0, 1, 2]]])
    whole = torch.stack([sure[[0]], sure[[1]]])
    assert emphasis(cells, whole, torch.tensor([0, 2])).tolist() == [[1.0, 2.0, 2.0], [1.0, 1.0, 2.0]]


@pytest.mark.parametrize("base", ["kd", "dkd"])
def test_the_cells_loss_is_the_bases_mean_weighed_cell_by_cell(base):
    weights, labels = classifier(), torch.tensor([0, 3, 1, 2])
    student = cell_logits(maps(8, seed=14), *weights, (1, 2))
    target = cell_logits(maps(8, seed=15), *weights, (1, 2))
    whole = target[:, :1]
    total = 0.0
    for i, label in enumerate(labels.tolist()):
        for cell in range(5):
            pair = (student[i, cell][None], target[i, cell][None])
            own = kd_loss(*pair, 3.0) if base == "kd" else dkd_loss(*pair, torch.tensor([label]), 0.7, 2.0, 3.0)
            right, known = int(target[i, cell].argmax()) == label, int(whole[i, 0].argmax()) == label
            total += (2 if right != known else 1) * own.item()
    found = sdd_loss(student, target, whole, labels, 3.0, base, 0.7, 2.0)
    assert found.item() == pytest.approx(total / (5 * len(labels)), rel=1e-9)


def test_sdd_takes_the_weights_of_its_base_and_warms_up_that_of_dkd_alone():
    kinds = {"kd": method("sdd"), "dkd": method("sdd", base="dkd")}
    weights = {base: [built.weight(term, START) for term in ("ce", "sdd")] for base, built in kinds.items()}
    assert weights == {"kd": [0.1, 0.9], "dkd": [1.0, 1 / 20]}
    assert method("sdd", base="dkd", sdd_weight=0.0).weight("sdd", START) == 0.0
    assert method("sdd", ce_weight=3.0).weight("ce", START) == 3.0


@pytest.mark.parametrize("scales", [[], [3], [1, 1]])
def test_other_scales_are_refused(scales):
    with pytest.raises(UserError, match="scales must be one or several of 1, 2 and 4, each once, found"):
        method("sdd", scales=scales).build(Context(4, torch.zeros(1), {}, {}, {}))


def test_sdd_with_base_dkd_needs_three_classes():
    with pytest.raises(UserError, match="found 2 classes in all: allowed are 3 or more"):
        method("sdd", base="dkd").build(Context(2, torch.zeros(1), {}, {}, {}))


# --- crld -----------------------------------------------------------------------------------------


def test_each_teachers_view_gates_both_terms_and_masked_images_stay_in_the_mean():
    views = logits(16, count=4)
    student_weak, teacher_weak, student_strong, teacher_strong = views
    confidences = [softmax(z).max(axis=1) for z in (teacher_weak, teacher_strong)]
    taus = [float(np.sort(values)[2]) for values in confidences]  # three of five images pass, the third by equality

    def rows(s, t):
        return 9 * kl(softmax(t / 3), softmax(s / 3))

    within = rows(student_weak, teacher_weak) + rows(student_strong, teacher_strong)
    cross = rows(student_strong, teacher_weak) + rows(student_weak, teacher_strong)
    passed = [(values > tau - 1e-9).astype(float) for values, tau in zip(confidences, taus, strict=True)]
    assert [mask.sum() for mask in passed] == [3, 3]
    found = crld_losses(Views(*(torch.tensor(z) for z in views)), 3.0, taus[0] - 1e-9, taus[1] - 1e-9)
    expected = [(mask * both).mean() for mask, both in zip(passed, (within, cross), strict=True)]
    assert [value.item() for value in found] == pytest.approx(expected, rel=1e-9)
    described = crld_losses(Views(*(torch.tensor(z) for z in views)), 3.0, taus[0] - 1e-9, taus[1] - 1e-9, "described")
    first, second = passed
    expected = [
        (first * rows(student_weak, teacher_weak) + second * rows(student_strong, teacher_strong)).mean(),
        (first * rows(student_strong, teacher_weak) + second * rows(student_weak, teacher_strong)).mean(),
    ]
    assert [value.item() for value in described] == pytest.approx(expected, rel=1e-9)


def test_crld_teaches_labels_on_both_views_and_asks_for_a_strong_one():
    asked = {"strong_ops": 3, "strong_magnitude": 7, "strong_cutout": 0.25}
    built, views = method("crld", **asked), logits(17, count=4)
    assert built.wants().views == (View("strong", 3, 7, 0.25),)
    assert method("crld").wants().views[0].cutout == 0.5  # as released
    strong = {"strong": outputs_of(*views[2:])}
    found = loss_of(built, STUDENT, batch_of(LABELS), outputs_of(*views[:2]), views=strong)
    both = sum(-np.log(softmax(z)[np.arange(5), LABELS]).mean() for z in (views[0], views[2]))
    assert found["ce"].item() == pytest.approx(both)
    assert [built.weight(term, START) for term in found] == [1.0, 2.0, 0.5]
    expected = crld_losses(Views(*(torch.tensor(z) for z in views)), 4.0, 0.9, 0.2)
    assert (found["within_view"], found["cross_view"]) == tuple(expected)


def test_two_methods_cannot_call_different_views_by_one_name():
    own, other = (Wants(views=(View("strong", 2, magnitude),)) for magnitude in (10, 5))
    assert (own | own).views == own.views
    with pytest.raises(
        UserError, match="see different views of one name cannot be combined, found strong of 2 at 10, "
    ):
        own | other


# --- deit -----------------------------------------------------------------------------------------


def test_a_tie_of_the_teacher_is_its_first_class():
    student = torch.tensor([[1.0, 2.0, 0.0]])
    found = hard_kd_loss(student, torch.tensor([[0.0, 5.0, 5.0]]))
    assert found.item() == pytest.approx(-np.log(softmax(student.numpy())[0, 1]), rel=1e-6)


def test_token_kd_teaches_labels_to_one_head_and_the_teacher_to_the_other():
    first, second, target = logits(18, count=3)
    taps = {"head": torch.tensor(first), "head_dist": torch.tensor(second)}
    outputs = {
        STUDENT: Output(torch.tensor((first + second) / 2), taps),
        teacher(0): Output(torch.tensor(target), {}),
    }
    other = LABELS[::-1].copy()
    built = method("token_kd", kind="soft", form="timm", temperature=3.0)
    found = loss_of(built, STUDENT, batch_of(LABELS, 0.3, other), outputs)
    of_label = [-np.log(softmax(first)[np.arange(5), labels]).mean() for labels in (LABELS, other)]
    assert found["ce"].item() == pytest.approx(0.3 * of_label[0] + 0.7 * of_label[1])
    assert found["token"].item() == pytest.approx(9 * kl(softmax(target / 3), softmax(second / 3)).mean())


def test_token_kd_names_a_student_that_has_two_heads():
    class One(nn.Module):
        arch = "resnet8"

    context = Context(4, torch.zeros(1), {}, {STUDENT: ("stage1", "embedding")}, {}, models={STUDENT: One()})
    with pytest.raises(UserError, match=r"timm:deit_tiny_distilled_patch16_224, and resnet8 has one head"):
        fitted(method("token_kd"), context)
