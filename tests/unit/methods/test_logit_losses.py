"""Logit losses against float64 loops, closed forms, identities of the papers, and values of other implementations."""

import math

import numpy as np
import pytest
import torch
from by_hand import kl, softmax
from steps import loss_of
from torch import nn

from kd.engine.resolve import method_class
from kd.methods._classes import other_classes, target_or_not
from kd.methods._standardise import standardise
from kd.methods.contract import STUDENT, Batch, Context, Output, Progress, teacher
from kd.methods.ctkd import Temperature, ctkd_loss, ramp
from kd.methods.dist import correlation_loss, dist_loss
from kd.methods.dkd import dkd_loss
from kd.methods.kd import kd_loss
from kd.methods.kd_logit_std import kd_logit_std_loss
from kd.methods.mlkd import Views, described_levels, gram_rows, instance_rows, masks, released_levels, unsure_half
from kd.methods.tf_kd import tf_reg_losses, virtual_teacher
from kd.methods.ttm import ttm_loss
from kd.methods.wttm import wttm_loss
from kd.schema.cards import card
from kd.tools.errors import UserError

START = Progress(0.0, 240)


def z_score(z):
    return (z - z.mean(axis=1, keepdims=True)) / (z.std(axis=1, ddof=1, keepdims=True) + 1e-7)


def logits(seed, count=2, batch=5, classes=4, scale=3.0):
    """Return `count` float64 matrices (batch, classes)."""
    return np.random.default_rng(seed).normal(size=(count, batch, classes)) * scale


def tensors(*arrays):
    return [torch.tensor(array, requires_grad=True) for array in arrays]


def method(name, **settings):
    return method_class(name)(card(name).resolve(settings, "test"))


def batch_of(labels, group=1, mixing=1.0, other=None):
    labels = torch.tensor(labels)
    other = labels if other is None else torch.tensor(other)
    return Batch(torch.zeros(len(labels), 3, 2, 2), labels, torch.arange(len(labels)), other, mixing, group=group)


def seen_of(logits_by_role):
    return {role: Output(torch.as_tensor(value), {}) for role, value in logits_by_role.items()}


def terms_of(built, outputs, batch, extra=None, progress=START, views=None):
    outputs, views = seen_of(outputs), {name: seen_of(view) for name, view in (views or {}).items()}
    found = loss_of(built, STUDENT, batch, outputs, extra, progress, views)
    return {term: (value.item(), built.weight(term, progress)) for term, value in found.items()}


def cross_entropy(z, labels):
    return -np.log(softmax(z)[np.arange(len(z)), labels]).mean()


@pytest.fixture(scope="module")
def published_tensors():
    """The logits and labels that several public codebases were run on (torch.manual_seed(0), in this order)."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(64, 100, generator=generator) * 2
    target = torch.randn(64, 100, generator=generator) * 4
    return student, target, torch.randint(0, 100, (64,), generator=generator)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        pytest.param(lambda s, t, y: dkd_loss(s, t, y, 1.0, 8.0, 4.0), 77.30712127685547, id="dkd, mdistiller"),
        pytest.param(lambda s, t, y: dist_loss(s, t), 31.592395782470703, id="dist, its authors"),
        pytest.param(lambda s, t, y: kd_logit_std_loss(s, t, 2.0), 0.9828105568885803, id="kd_logit_std, its authors"),
        pytest.param(
            lambda s, t, y: (instance_rows(s, t, (4.0,), False) * masks(t)[0]).mean(),
            4.617636203765869,
            id="mlkd instance as described",
        ),
        pytest.param(
            lambda s, t, y: instance_rows(s, t, (4.0,), False).mean() * masks(t)[0].mean(),
            4.823482990264893,
            id="mlkd instance as released",
        ),
        pytest.param(
            lambda s, t, y: gram_rows((s / 4).softmax(1), (t / 4).softmax(1)).mean(),
            0.00030389666790142655,
            id="mlkd batch, logit standardisation authors",
        ),
        pytest.param(
            lambda s, t, y: gram_rows((s / 4).softmax(1).T, (t / 4).softmax(1).T).mean(),
            0.00040671121678315103,
            id="mlkd class, logit standardisation authors",
        ),
    ],
)
def test_values_of_other_implementations(published_tensors, loss, expected):
    assert loss(*published_tensors).item() == pytest.approx(expected, rel=1e-5)


# --- the losses in plain numpy --------------------------------------------------------------------


def dkd_by_loops(s, t, labels, alpha, beta, temperature):
    total = 0.0
    for own, target, label in zip(softmax(s / temperature), softmax(t / temperature), labels, strict=True):
        others = [c for c in range(len(own)) if c != label]
        binary = [np.array([p[label], p[others].sum()]) for p in (own, target)]
        rest = [p[others] / p[others].sum() for p in (own, target)]
        total += alpha * kl(binary[1], binary[0]) + beta * kl(rest[1], rest[0])
    return temperature**2 * total / len(s)


def dist_by_loops(s, t, beta, gamma, temperature):
    p, q = softmax(s / temperature), softmax(t / temperature)
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    return temperature**2 * (beta * inter + gamma * intra)


def ttm_by_loops(s, t, exponent, weighted):
    p, powers = softmax(s), softmax(t) ** exponent
    sums = powers.sum(axis=1)
    return np.mean((sums if weighted else 1) * kl(powers / sums[:, None], p))


def tf_reg_by_loops(s, labels, confidence, temperature, form):
    classes = s.shape[1]
    d = np.full(s.shape, (1 - confidence) / (classes - 1))
    d[np.arange(len(s)), labels] = confidence
    if form == "code":
        return kl(softmax(d / temperature), softmax(s)).mean()
    softened = d ** (1 / temperature)
    return kl(softened / softened.sum(axis=1, keepdims=True), softmax(s / temperature)).mean()


LABELS = np.array([0, 3, 1, 1, 2])
Y = torch.tensor(LABELS)

CASES = {
    "dkd": (lambda s, t: dkd_loss(s, t, Y, 0.7, 3.0, 2.5), lambda s, t: dkd_by_loops(s, t, LABELS, 0.7, 3.0, 2.5)),
    "dist": (lambda s, t: dist_loss(s, t, 0.6, 1.7, 3.0), lambda s, t: dist_by_loops(s, t, 0.6, 1.7, 3.0)),
    "kd_logit_std": (
        lambda s, t: kd_logit_std_loss(s, t, 2.0),
        lambda s, t: 4 * kl(softmax(z_score(t) / 2), softmax(z_score(s) / 2)).mean(),
    ),
    "ttm": (lambda s, t: ttm_loss(s, t, 0.3), lambda s, t: ttm_by_loops(s, t, 0.3, weighted=False)),
    "wttm": (lambda s, t: wttm_loss(s, t, 0.3), lambda s, t: ttm_by_loops(s, t, 0.3, weighted=True)),
    "ctkd": (
        lambda s, t: ctkd_loss(s, t, torch.tensor(3.0)),
        lambda s, t: 9 * kl(softmax(t / 3), softmax(s / 3)).mean(),
    ),
    "tf_kd code": (
        lambda s, t: tf_reg_losses(s, Y, 0.9, 5.0, "code").mean(),
        lambda s, t: tf_reg_by_loops(s, LABELS, 0.9, 5.0, "code"),
    ),
    "tf_kd paper": (
        lambda s, t: tf_reg_losses(s, Y, 0.9, 5.0, "paper").mean(),
        lambda s, t: tf_reg_by_loops(s, LABELS, 0.9, 5.0, "paper"),
    ),
}

every_case = pytest.mark.parametrize(("loss", "plain"), CASES.values(), ids=CASES)


@every_case
def test_losses_equal_plain_loops(loss, plain):
    student, target = logits(0)
    assert loss(*tensors(student, target)).item() == pytest.approx(plain(student, target), rel=1e-6)


@every_case
def test_gradients_equal_finite_differences_of_the_loops(loss, plain):
    student, target = logits(1)
    own, known = tensors(student, target)
    loss(own, known).backward()
    step = 1e-6
    for place in np.ndindex(student.shape):
        shift = np.zeros_like(student)
        shift[place] = step
        slope = (plain(student + shift, target) - plain(student - shift, target)) / (2 * step)
        assert own.grad[place].item() == pytest.approx(slope, rel=1e-4, abs=1e-7)
    assert known.grad is None, "the teacher is detached"


@every_case
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_losses_and_gradients_are_finite_for_equal_and_for_huge_logits(loss, plain, scale):
    student, target = (torch.tensor(z, dtype=torch.float32) for z in logits(2))
    own = (scale * student).requires_grad_()
    value = loss(own, scale * target)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(own.grad).all()


# --- standardisation ------------------------------------------------------------------------------


def test_standardised_logits_have_mean_0_and_unbiased_deviation_1():
    (z,) = logits(3, count=1)
    found = standardise(torch.tensor(z)).numpy()
    np.testing.assert_allclose(found, z_score(z), rtol=1e-12)
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(found.std(axis=1, ddof=1), 1, rtol=1e-6)


def test_standardised_distillation_ignores_size_and_offset_of_logits():
    student, target = (torch.tensor(z) for z in logits(4))
    expected = kd_logit_std_loss(student, target, 2.0).item()
    assert kd_logit_std_loss(7 * student - 2, 0.3 * target + 5, 2.0).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("name", "term"), [("kd_logit_std", "kd"), ("dkd", "dkd"), ("mlkd", "instance")])
def test_the_classification_loss_is_never_of_standardised_logits(name, term):
    student, target, strong, strong_target = logits(5, count=4)
    outputs, views = {STUDENT: student, teacher(0): target}, {STUDENT: strong, teacher(0): strong_target}
    plain = method(name) if name == "kd_logit_std" else method(name, standardize=True)
    found = terms_of(plain, outputs, batch_of(LABELS), views={"strong": views})
    expected = cross_entropy(student, LABELS) + (cross_entropy(strong, LABELS) if name == "mlkd" else 0)
    assert found["ce"][0] == pytest.approx(expected, rel=1e-6)
    halved = [{role: 0.5 * value for role, value in seen.items()} for seen in (outputs, views)]
    shrunk = terms_of(plain, halved[0], batch_of(LABELS), views={"strong": halved[1]})
    assert shrunk[term][0] == pytest.approx(found[term][0], rel=1e-5)


# --- dkd ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dkd_with_beta_one_minus_the_targets_probability_is_the_softened_kl(temperature):
    student, target = logits(6, batch=9, classes=7)
    for k, label in enumerate(range(7)):
        s, t, y = torch.tensor(student[k : k + 1]), torch.tensor(target[k : k + 1]), torch.tensor([label])
        rest = 1 - softmax(target[k] / temperature)[label]
        expected = kd_loss(s, t, temperature).item()
        assert dkd_loss(s, t, y, 1.0, rest, temperature).item() == pytest.approx(expected, rel=1e-9)


def test_dkd_takes_the_label_apart_from_the_others_in_order():
    z, y = torch.arange(6.0).view(2, 3), torch.tensor([1, 0])
    assert other_classes(z, y).tolist() == [[0.0, 2.0], [4.0, 5.0]]
    found = target_or_not(z, y).softmax(dim=1)[:, 0]
    assert torch.allclose(found, z.softmax(dim=1).gather(1, y[:, None]).squeeze(1))


def test_dkd_is_exact_where_a_softmax_saturates():
    # At T = 4 the student gives the label exp(-150): the divergence of (target, not target) is 16 * 150.
    student = torch.tensor([[0.0, 600.0, -600.0]], requires_grad=True)
    target = torch.tensor([[600.0, 0.0, -600.0]])
    loss = dkd_loss(student, target, torch.tensor([0]), 1.0, 0.0, 4.0)
    loss.backward()
    assert loss.item() == pytest.approx(16 * 150, rel=1e-6)
    assert student.grad[0].tolist() == pytest.approx([-4.0, 4.0, 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("epoch", "factor"), [(0.0, 0.05), (0.99, 0.05), (1.0, 0.1), (18.5, 0.95), (19.0, 1.0), (200.0, 1.0)]
)
def test_dkd_warms_up_by_whole_epochs_from_the_first(epoch, factor):
    built, progress = method("dkd", dkd_weight=2.0), Progress(epoch, 240)
    assert built.weight("dkd", progress) == pytest.approx(2.0 * factor)
    assert built.weight("ce", progress) == 1.0


@pytest.mark.parametrize("classes", [2, 3])
def test_dkd_needs_three_classes(classes):
    context = Context(classes, torch.zeros(1), {}, {}, {})
    if classes == 3:
        assert len(method("dkd").build(context)) == 0
        return
    with pytest.raises(UserError, match="found 2 classes in all: allowed are 3 or more"):
        method("dkd").build(context)


# --- dist, ttm, wttm ------------------------------------------------------------------------------


def test_correlation_ignores_scale_and_offset_of_rows_and_flips_with_their_sign():
    (z,) = logits(7, count=1)
    z = torch.tensor(z)
    assert correlation_loss(z, 3 * z + 1).item() == pytest.approx(0, abs=1e-12)
    assert correlation_loss(z, -z).item() == pytest.approx(2)


def test_a_constant_row_counts_as_uncorrelated():
    assert correlation_loss(torch.zeros(2, 3), torch.eye(3)[:2]).item() == 1.0


def test_ttm_with_exponent_one_is_kd_at_temperature_one_and_wttm_too():
    student, target = (torch.tensor(z) for z in logits(8))
    expected = kd_loss(student, target, 1.0).item()
    assert ttm_loss(student, target, 1.0).item() == pytest.approx(expected, rel=1e-12)
    assert wttm_loss(student, target, 1.0).item() == pytest.approx(expected, rel=1e-12)


def test_wttm_weighs_an_unsure_teacher_most():
    # A uniform teacher over C classes has U = C^(1 - gamma), a certain one 1.
    student = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    uniform, gamma = torch.zeros(1, 4), 0.25
    ratio = wttm_loss(student, uniform, gamma) / ttm_loss(student, uniform, gamma)
    assert ratio.item() == pytest.approx(4**0.75, rel=1e-6)
    certain = torch.tensor([[1000.0, 0.0, 0.0, 0.0]])
    ratio = wttm_loss(student, certain, gamma) / ttm_loss(student, certain, gamma)
    assert ratio.item() == pytest.approx(1.0, rel=1e-6)


# --- ctkd -----------------------------------------------------------------------------------------


def test_ctkd_learns_its_temperature_against_the_student():
    student, target = logits(9)

    def loss_at(raw):
        temperature = 1 + 20 / (1 + math.exp(-raw))
        return temperature**2 * kl(softmax(target / temperature), softmax(student / temperature)).mean()

    own, known = tensors(student, target)
    module = Temperature(1.0, 20.0).double()
    loss = ctkd_loss(own, known, module(torch.tensor(0.25)))
    loss.backward()
    assert loss.item() == pytest.approx(loss_at(1.0), rel=1e-9)
    slope = (loss_at(1 + 1e-6) - loss_at(1 - 1e-6)) / 2e-6
    assert module.raw.grad.item() == pytest.approx(-0.25 * slope, rel=1e-5)
    # The student's own gradient is not reversed.
    temperature = 1 + 20 / (1 + math.exp(-1.0))
    expected = temperature * (softmax(student / temperature) - softmax(target / temperature)) / len(student)
    np.testing.assert_allclose(own.grad.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0.0, 0.5 - 0.5 * math.cos(0.1 * math.pi)), (4.9, 0.5), (9.0, 1.0), (100.0, 1.0)]
)
def test_the_curriculum_rises_along_half_a_cosine(epoch, expected):
    assert ramp(epoch, 10) == pytest.approx(expected)


def test_ctkd_bounds_its_temperature_and_reverses_more_as_epochs_pass():
    built = method("ctkd", temperature_min=2.0, temperature_span=6.0, reversal=3.0)
    extra = built.build(Context(4, torch.zeros(1), {}, {}, {}))
    student, target = (torch.tensor(z, dtype=torch.float32) for z in logits(10))
    outputs = {STUDENT: Output(student, {}), teacher(0): Output(target, {})}
    slopes = []
    for epoch in (0.0, 20.0):
        extra.zero_grad()
        loss_of(built, STUDENT, batch_of(LABELS), outputs, extra, Progress(epoch, 240))["kd"].backward()
        slopes.append(extra["temperature"].raw.grad.item())
    assert slopes[0] / slopes[1] == pytest.approx(ramp(0.0, 10), rel=1e-5)
    module = extra["temperature"]
    for raw, bound in ((-100.0, 2.0), (100.0, 8.0)):
        nn.init.constant_(module.raw, raw)
        assert module(torch.tensor(1.0)).item() == pytest.approx(bound)


# --- tf_kd ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["code", "paper"])
def test_the_virtual_teacher_is_a_distribution_that_prefers_the_label(form):
    found = virtual_teacher(Y, 4, 0.99, 20.0, form).exp()
    assert torch.allclose(found.sum(dim=1), torch.ones(5))
    assert torch.equal(found.argmax(dim=1), Y)


def test_the_released_virtual_teacher_is_close_to_uniform():
    found = virtual_teacher(torch.tensor([7]), 100, 0.99, 20.0, "code").exp()
    assert found[0, 7].item() == pytest.approx(math.exp(0.0495) / (math.exp(0.0495) + 99 * math.exp(0.01 / 99 / 20)))


def test_at_temperature_one_the_papers_virtual_teacher_is_label_smoothing():
    (z,) = tensors(*logits(11, count=1))
    entropy = -(0.7 * math.log(0.7) + 0.3 * math.log(0.1))  # of (0.7, 0.1, 0.1, 0.1)
    smoothed = nn.functional.cross_entropy(z, Y, label_smoothing=0.4)  # 0.4 spread over all four classes
    assert tf_reg_losses(z, Y, 0.7, 1.0, "paper").mean().item() == pytest.approx(smoothed.item() - entropy)


def test_a_mixed_image_has_a_share_of_two_virtual_teachers():
    (z,) = logits(12, count=1)
    other = LABELS[::-1].copy()
    found = terms_of(method("tf_kd"), {STUDENT: z}, batch_of(LABELS, mixing=0.3, other=other))
    parts = [tf_reg_by_loops(z, labels, 0.99, 20.0, "code") for labels in (LABELS, other)]
    assert found["tf_reg"][0] == pytest.approx(0.3 * parts[0] + 0.7 * parts[1], rel=1e-6)
    parts = [cross_entropy(z, labels) for labels in (LABELS, other)]
    assert found["ce"][0] == pytest.approx(0.3 * parts[0] + 0.7 * parts[1], rel=1e-6)


# --- cs_kd ----------------------------------------------------------------------------------------


def test_cs_kd_teaches_the_first_image_of_each_pair_by_label_and_by_the_second():
    pairs = logits(13, count=3, batch=2)
    (z,) = tensors(pairs.reshape(6, 4))
    batch = batch_of([0, 0, 3, 3, 1, 1], group=2)
    terms = loss_of(method("cs_kd"), STUDENT, batch, {STUDENT: Output(z, {})})
    first, second = pairs[:, 0], pairs[:, 1]
    assert terms["ce"].item() == pytest.approx(cross_entropy(first, np.array([0, 3, 1])))
    assert terms["cs"].item() == pytest.approx(16 * kl(softmax(second / 4), softmax(first / 4)).mean())
    terms["cs"].backward()
    expected = 4 * (softmax(first / 4) - softmax(second / 4)) / 3
    np.testing.assert_allclose(z.grad[::2].numpy(), expected, rtol=1e-9)
    assert torch.equal(z.grad[1::2], torch.zeros(3, 4, dtype=torch.float64)), "the second image is detached"


def test_cs_kd_asks_for_pairs_of_one_class_and_for_no_teacher():
    wants = method("cs_kd").wants()
    assert (wants.groups.size, wants.groups.kind, wants.live_teacher) == (2, "same_class", False)


# --- mlkd -----------------------------------------------------------------------------------------


def mlkd_by_loops(views, strong_at, weak_at, standardize, form):
    """Return (instance, batch, class) of float64 logits: student, teacher on the weak and on the strong view."""
    confidence = softmax(views[1]).max(axis=1)
    by_class = softmax(views[1]).sum(axis=0)
    images = confidence <= np.sort(confidence)[(len(confidence) - 1) // 2]
    classes = by_class <= np.sort(by_class)[(len(by_class) - 1) // 2]

    def divergences(s, t, temperature):
        s, t = (z_score(s), z_score(t)) if standardize else (s, t)
        return temperature**2 * kl(softmax(t / temperature), softmax(s / temperature))

    def grams(s, t, temperature):
        p, q = softmax(s / temperature), softmax(t / temperature)
        n, c = p.shape
        of_images = [[(p[i] @ p[j] - q[i] @ q[j]) ** 2 for j in range(n)] for i in range(n)]
        of_classes = [[(p[:, i] @ p[:, j] - q[:, i] @ q[:, j]) ** 2 for j in range(c)] for i in range(c)]
        return np.array(of_images), np.array(of_classes)

    weak, strong = views[:2], views[2:]
    total = np.zeros(3)
    for temperature in (*strong_at, *weak_at):
        if form == "described":
            for view in (weak, strong):
                rows, (of_images, of_classes) = divergences(*view, temperature), grams(*view, temperature)
                total[0] += rows[images].sum() / len(rows)
                total[1] += of_images[images].sum() / len(of_images)
                total[2] += of_classes[classes].sum() / len(of_classes)
        else:
            rows, (of_images, of_classes) = divergences(*weak, temperature), grams(*weak, temperature)
            total[0] += rows.mean() * images.mean()
            total[1] += of_images.sum() / len(of_images) * images.mean()
            total[2] += of_classes.sum() / len(of_classes) * classes.mean()
    if form == "released":
        total[0] += sum(divergences(*strong, temperature).mean() for temperature in strong_at)
        total[0] += sum(divergences(*weak, temperature).mean() for temperature in weak_at)
    return total


FORMS = {
    "described": lambda views, strong, weak, std: described_levels(views, (*strong, *weak), std),
    "released": released_levels,
}


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_mlkd_equals_plain_loops(form, standardize):
    views = logits(14, count=4, batch=7, classes=5)
    own = Views(*tensors(*views))
    found = FORMS[form](own, (4.0, 3.0, 5.0), (2.0, 6.0), standardize)
    expected = mlkd_by_loops(views, (4.0, 3.0, 5.0), (2.0, 6.0), standardize, form)
    assert [level.item() for level in found] == pytest.approx(list(expected), rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_mlkd_gradient_equals_finite_differences_of_the_loops(form):
    views = logits(15, count=4, batch=4, classes=3)
    own = Views(*tensors(*views))
    torch.stack(FORMS[form](own, (4.0,), (2.0,), False)).sum().backward()
    for view in (0, 2):
        for place in np.ndindex(views[view].shape):
            shift = np.zeros_like(views)
            shift[(view, *place)] = 1e-6
            ends = [mlkd_by_loops(views + sign * shift, (4.0,), (2.0,), False, form).sum() for sign in (1, -1)]
            assert own[view].grad[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-7)
    assert own.teacher_weak.grad is None
    assert own.teacher_strong.grad is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0, 1.0, 2.0, 4.0], [0, 1, 1, 0]), ([3.0, 1.0, 2.0], [0, 1, 1]), ([1.0, 1.0, 1.0], [1, 1, 1])],
)
def test_the_unsure_half_reaches_up_to_the_median(values, expected):
    assert unsure_half(torch.tensor(values)).tolist() == expected


@pytest.mark.parametrize("form", FORMS)
def test_mlkd_reads_both_views_of_both_models_at_five_temperatures(form):
    views = logits(16, count=4)
    weak, strong = (dict(zip((STUDENT, teacher(0)), pair, strict=True)) for pair in (views[:2], views[2:]))
    built = method("mlkd", form=form, temperature=2.5)
    found = terms_of(built, weak, batch_of(LABELS), views={"strong": strong})
    expected = mlkd_by_loops(views, (2.5, 3.0, 5.0), (2.0, 6.0), False, form)
    assert [found[term] for term in ("instance", "batch", "class")] == [
        (pytest.approx(value, rel=1e-6), 0.9) for value in expected
    ]
    both = cross_entropy(views[0], LABELS) + cross_entropy(views[2], LABELS)
    assert found["ce"] == (pytest.approx(both), 0.1)


def test_mlkd_asks_for_a_strong_view():
    (view,) = method("mlkd", strong_ops=3, strong_magnitude=7, strong_cutout=0.5).wants().views
    assert (view.name, view.ops, view.magnitude, view.cutout) == ("strong", 3, 7, 0.5)


# --- dot ------------------------------------------------------------------------------------------


def test_dot_takes_momentum_from_classification_and_gives_it_to_the_rest():
    built = method("dot", delta=0.05)
    assert built.momenta() == {"ce": -0.05, "*": 0.05}
    assert terms_of(built, {}, batch_of(LABELS)) == {}
