"""Feature methods since 2021: plain loops, closed forms, and what stays finite where the authors' code does not."""

import math

import numpy as np
import pytest
import torch
from steps import fitted, loss_of
from torch import nn
from torch.nn.utils import parametrizations

from kd.engine.resolve import method_class
from kd.methods.contract import STUDENT, Batch, Context, Output, Outputs, Progress, teacher
from kd.methods.ickd import channel_correlations, ickd_loss
from kd.methods.mgd import Generator, channel_mask, mgd_loss
from kd.methods.srd import srd_loss
from kd.methods.vkd import Orthogonal, vkd_loss
from kd.methods.wkd_f import cells, wkd_f_loss
from kd.schema.cards import card

CLASSES = 4


def draws(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def context_of(student, target):
    """Return a context from {tap: shape} of each role."""
    shapes = {
        role: {tap: torch.Size(shape) for tap, shape in taps.items()}
        for role, taps in ((STUDENT, student), (teacher(0), target))
    }
    stages = {role: tuple(tap for tap in taps if tap.startswith("stage")) for role, taps in shapes.items()}
    labels = torch.arange(8) % CLASSES
    return Context(CLASSES, labels, shapes, {role: tuple(taps) for role, taps in shapes.items()}, stages)


def built(name, context, **settings):
    """Return a method with the modules that it builds."""
    method = method_class(name)(card(name).resolve(settings, "test"))
    torch.manual_seed(0)
    return method, fitted(method, context)[1]


def outputs_of(method, context, size=6):
    """Return random outputs of the taps that a method names; the student's take gradient."""
    generator = torch.Generator().manual_seed(1)
    named, found = method.taps(context), Outputs()
    for role, taps in context.shapes.items():
        features = {tap: torch.randn(size, *shape, generator=generator) for tap, shape in taps.items()}
        logits = torch.randn(size, CLASSES, generator=generator)
        if role == STUDENT:
            for value in (logits, *features.values()):
                value.requires_grad_()
        found[role] = Output(logits, features)
    return found.narrowed(named)


def batch_of(size=6, mixing=1.0):
    labels = torch.arange(size) % CLASSES
    return Batch(torch.zeros(size, 3, 2, 2), labels, torch.arange(size), labels.flip(0), mixing)


def terms_of(name, context, size=6, **settings):
    method, extra = built(name, context, **settings)
    outputs = outputs_of(method, context, size)
    return loss_of(method, STUDENT, batch_of(size), outputs, extra), outputs, extra


# --- ickd -------------------------------------------------------------------------------------------------


def test_ickd_equals_plain_loops_over_pairs_of_channels():
    student, target = draws(0, (2, 3, 2, 4), (2, 3, 4, 4))
    expected = 0.0
    for s, t in zip(student, target, strict=True):
        rows = []
        for image in (s, t):
            gram = np.array([[np.sum(a * b) for b in image] for a in image])
            rows.append([row / np.sqrt(np.sum(row**2)) for row in gram])
        expected += sum(np.sum((a - b) ** 2) for a, b in zip(*rows, strict=True)) / (3 * 2)
    assert ickd_loss([torch.tensor(student)], [torch.tensor(target)]).item() == pytest.approx(expected, rel=1e-10)


def test_a_channel_that_is_off_correlates_with_none_and_takes_no_gradient():
    feature = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    feature[:, 1] = 0
    feature.requires_grad_()
    loss = ickd_loss([feature], [torch.randn(2, 3, 4, 4)])
    loss.backward()
    assert channel_correlations(feature)[:, 1].eq(0).all()
    assert feature.grad.isfinite().all()
    assert feature.grad.abs().max() < 100


def test_equal_maps_have_no_ickd_loss():
    feature = torch.randn(1, 3, 1, 1)
    assert ickd_loss([feature], [feature]).item() == 0


# --- wkd_f ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "grid"), [((4, 4), 1), ((4, 6), 2), ((7, 5), 4), ((2, 3), 4), ((1, 1), 1)])
def test_wkd_f_equals_plain_loops_over_cells(size, grid):
    student, target = draws(1, (2, 3, *size), (2, 3, *size))
    rows, columns = list(cells(size[0], grid)), list(cells(size[1], grid))
    expected = 0.0
    for s, t in zip(student, target, strict=True):
        for row in rows:
            for column in columns:
                for channel in range(3):
                    a, b = s[channel, row, column].ravel(), t[channel, row, column].ravel()
                    spread = [math.sqrt((np.var(x, ddof=1) if len(x) > 1 else 0.0) + 1e-5) for x in (a, b)]
                    expected += 3.0 * (a.mean() - b.mean()) ** 2 + (spread[0] - spread[1]) ** 2
    expected /= grid**2 * 2
    found = wkd_f_loss(torch.tensor(student), torch.tensor(target), 3.0, grid, 1e-5)
    assert found.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_cells_are_the_bins_of_adaptive_pooling(size, count):
    pixels = torch.arange(float(size))
    pooled = nn.functional.adaptive_avg_pool1d(pixels[None], count)[0]
    assert [pixels[cell].mean().item() for cell in cells(size, count)] == pytest.approx(pooled.tolist())


def test_a_cell_of_one_pixel_has_no_spread_and_no_nan():
    student = torch.randn(2, 3, 2, 2, requires_grad=True)
    wkd_f_loss(student, torch.randn(2, 3, 2, 2), 4.0, 2).backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(("size", "target"), [(4, 4), (8, 4), (2, 4), (6, 4), (3, 4)])
def test_wkd_f_connects_maps_of_any_size(size, target):
    context = context_of({"stage1": (2, size, size)}, {"stage1": (5, target, target)})
    terms, outputs, extra = terms_of("wkd_f", context, grid=2)
    terms["wkd_f"].backward()
    assert all(p.grad is not None for p in extra.parameters())
    assert outputs[STUDENT].taps["stage1"].grad.any()


def test_wkd_f_has_the_released_bottleneck_or_one_convolution_and_a_relu_if_asked():
    context = context_of({"stage1": (2, 4, 4)}, {"stage1": (5, 4, 4)})
    _, extra = built("wkd_f", context)
    kinds = [type(layer) for layer in extra["connectors"][0]]
    assert kinds == [nn.Conv2d, nn.Conv2d, nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    _, extra = built("wkd_f", context, connector="conv1x1", rectify=False)
    assert [type(layer) for layer in extra["connectors"][0]] == [nn.Conv2d, nn.BatchNorm2d]


def test_the_weight_of_wkd_f_falls_along_half_a_cosine_after_150_of_240_epochs():
    method, _ = built("wkd_f", context_of({"stage1": (2, 4, 4)}, {"stage1": (5, 4, 4)}))
    weights = [method.weight("wkd_f", Progress(epoch, 240)) / 0.08 for epoch in (0, 149.9, 150, 194, 238.5, 239)]
    cosine = [0.5 * (1 + math.cos(math.pi * done / 90)) for done in (1, 45, 89, 90)]
    assert weights == pytest.approx([1.0, 1.0, *cosine])
    assert method.weight("ce", Progress(239, 240)) == 1.0
    kept, _ = built("wkd_f", context_of({"stage1": (2, 4, 4)}, {"stage1": (5, 4, 4)}), decay_from=1.0)
    assert kept.weight("wkd_f", Progress(239, 240)) == 0.08


# --- srd --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [1.0, 2.0, 4.0])
def test_srd_equals_plain_loops_over_dimensions(exponent):
    student, target = draws(2, (5, 3), (5, 3))
    total = 0.0
    for s, t in zip(student.T, target.T, strict=True):
        own, known = ((x - x.mean()) / math.sqrt(x.var() + 1e-4) for x in (s, t))
        total += sum(abs(a - b) ** exponent for a, b in zip(own, known, strict=True))
    found = srd_loss(torch.tensor(student), torch.tensor(target), exponent)
    assert found.item() == pytest.approx(2 * math.log(total), rel=1e-9)


def test_the_same_batch_twice_shifts_srd_by_twice_the_logarithm_of_two():
    student, target = (torch.tensor(x) for x in draws(3, (5, 3), (5, 3)))
    twice = srd_loss(torch.cat([student] * 2), torch.cat([target] * 2)) - srd_loss(student, target)
    assert twice.item() == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("size", [1, 4])
def test_equal_features_have_a_finite_srd_loss_and_no_gradient(size):
    student = torch.randn(size, 3, requires_grad=True)
    loss = srd_loss(student, student.detach().clone())
    loss.backward()
    assert math.isfinite(loss.item())
    assert student.grad.eq(0).all()


# --- vkd --------------------------------------------------------------------------------------------------


def test_vkd_is_a_smooth_distance_to_normalised_targets():
    student, target = draws(4, (3, 4), (3, 4))
    expected = []
    for s, t in zip(student, target, strict=True):
        normal = (t - t.mean()) / math.sqrt(t.var() + 1e-5)
        expected += [d**2 / 2 if d < 1 else d - 0.5 for d in np.abs(s - normal)]
    assert vkd_loss(torch.tensor(student), torch.tensor(target)).item() == pytest.approx(np.mean(expected), rel=1e-9)


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 9), (9, 5), (4, 4), (1, 3), (3, 1), (1, 1)])
def test_the_projection_is_torchs_parametrisation_by_reflections(inputs, outputs):
    torch.manual_seed(0)
    theirs = parametrizations.orthogonal(nn.Linear(inputs, outputs, bias=False).double(), orthogonal_map="householder")
    ours = Orthogonal(inputs, outputs).double()
    vectors, part = torch.randn_like(ours.reflections), theirs.parametrizations.weight
    n, k = vectors.shape
    with torch.no_grad():
        ours.reflections.copy_(vectors)
        signed = vectors.tril(-1) - torch.eye(n, k, dtype=vectors.dtype)
        part.original.copy_(signed.T if inputs > outputs else signed)
        ours.base.copy_(part[0].base)
    direction = torch.randn(outputs, inputs, dtype=torch.float64)
    for module in (ours, theirs):
        (module.weight * direction).sum().backward()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-9, atol=1e-12)
    gradient = part.original.grad.T if inputs > outputs else part.original.grad
    torch.testing.assert_close(ours.reflections.grad, gradient.tril(-1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 9), (9, 5)])
def test_the_projection_stays_orthogonal_under_steps_with_weight_decay(inputs, outputs):
    torch.manual_seed(0)
    module, k = Orthogonal(inputs, outputs), min(inputs, outputs)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5, momentum=0.9, weight_decay=1e-2)
    before = module.weight.detach().clone()
    for _ in range(50):
        optimizer.zero_grad()
        (module(torch.randn(3, inputs)) - torch.randn(3, outputs)).square().sum().backward()
        optimizer.step()
    weight = module.weight.detach()
    product = weight @ weight.T if inputs > outputs else weight.T @ weight
    torch.testing.assert_close(product, torch.eye(k), rtol=0, atol=1e-5)
    assert (weight - before).norm() > 0.1


@pytest.mark.parametrize(("student", "target"), [((3, 4, 4), (5, 2, 2)), ((3,), (5, 2, 2)), ((7, 2, 2), (5,))])
def test_vkd_averages_positions_of_maps_and_takes_vectors_as_they_are(student, target):
    context = context_of({"stage1": student}, {"stage1": target})
    terms, outputs, _ = terms_of("vkd", context, student_taps=["stage1"], teacher_taps=["stage1"])
    terms["vkd"].backward()
    assert outputs[STUDENT].taps["stage1"].grad.any()
    assert set(terms) == {"ce", "vkd", "kd"}


# --- mgd --------------------------------------------------------------------------------------------------


def test_mgd_sums_over_an_image_and_averages_over_the_batch():
    student, target = draws(5, (2, 3, 2, 2), (2, 3, 2, 2))
    found = mgd_loss(torch.tensor(student), torch.tensor(target))
    assert found.item() == pytest.approx(np.sum((student - target) ** 2) / 2, rel=1e-12)


def test_masks_are_of_whole_channels_image_by_image_and_follow_the_seed():
    feature = torch.randn(64, 50, 3, 3)
    torch.manual_seed(3)
    mask = channel_mask(feature, 0.15)
    torch.manual_seed(3)
    assert torch.equal(mask, channel_mask(feature, 0.15))
    assert not torch.equal(mask, channel_mask(feature, 0.15))
    assert mask.shape == (64, 50, 1, 1)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask.mean().item() == pytest.approx(0.85, abs=0.02)
    assert channel_mask(feature, 0.0).all()
    assert not channel_mask(feature, 1.0).any()


def test_mgd_aligns_widths_only_where_they_differ():
    assert isinstance(Generator(3, 3).align, nn.Identity)
    assert isinstance(Generator(3, 5).align, nn.Conv2d)


@pytest.mark.parametrize(("size", "target"), [(4, 4), (8, 4), (3, 5)])
def test_mgd_pools_the_larger_map(size, target):
    context = context_of({"stage1": (2, size, size)}, {"stage1": (5, target, target)})
    terms, outputs, extra = terms_of("mgd", context)
    terms["mgd"].backward()
    assert outputs[STUDENT].taps["stage1"].grad.any()
    assert all(p.grad is not None for p in extra.parameters())
