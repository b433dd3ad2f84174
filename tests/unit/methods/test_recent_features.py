"""Feature methods since 2021: plain loops, closed forms, and what stays finite where the authors' code does not."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from steps import fitted, loss_of
from torch import nn
from torch.nn.utils import parametrizations

from kd.engine.resolve import build_method, method_class
from kd.methods.contract import STUDENT, Batch, Context, Output, Outputs, Progress, teacher
from kd.methods.ickd import channel_correlations, ickd_loss
from kd.methods.mgd import Generator, channel_mask, mgd_loss
from kd.methods.nd import nd_loss
from kd.methods.ofa import AttentionHead, ConvolutionHead, ofa_loss, quarters, stages_to_come
from kd.methods.semckd import Attention, relations, semckd_loss
from kd.methods.srd import srd_loss
from kd.methods.vkd import Orthogonal, vkd_loss
from kd.methods.wkd_f import cells, wkd_f_loss
from kd.schema.cards import card
from kd.study.job_settings import MethodPart
from kd.tools.errors import UserError

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
    assert method.weight("wkd_f", Progress(0.5, 1)) == 0.08
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


# --- ofa --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["released", "described"])
@pytest.mark.parametrize(("eps", "temperature"), [(1.0, 1.0), (1.5, 1.0), (0.7, 2.0)])
def test_ofa_equals_plain_loops_over_classes(form, eps, temperature):
    student, target = draws(6, (3, 4), (3, 4))
    labels = [0, 2, 3]
    expected = 0.0
    for z, t, y in zip(student, target, labels, strict=True):
        q, p = (np.exp(x / temperature) / np.sum(np.exp(x / temperature)) for x in (z, t))
        for c in range(4):
            other = p[c] ** eps if form == "released" else p[c]
            expected -= ((p[c] + 1) ** eps - 1 if c == y else other) * math.log(q[c]) / 3
    found = ofa_loss(torch.tensor(student), torch.tensor(target), torch.tensor(labels), eps, temperature, form)
    assert found.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("form", "whole"), [("released", 6.06399), ("described", 8.91444)])
def test_both_forms_with_cross_entropy_have_the_values_noted_beside_the_authors_own(form, whole):
    with np.load(Path(__file__).parents[2] / "data" / "parity" / "ofa-b.npz") as case:
        student, target, labels = (
            torch.from_numpy(case[f"in/{n}"]) for n in ("student_logits", "teacher_logits", "labels")
        )
    found = ofa_loss(student, target, labels, 1.5, 1.0, form) + nn.functional.cross_entropy(student, labels)
    assert found.item() == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("margin", [50.0, 104.0, 1e4, 1e30])
@pytest.mark.parametrize("classes", [2, 5])
def test_ofa_is_finite_at_any_margin_and_its_gradient_that_of_cross_entropy(margin, classes):
    student = torch.zeros(1, classes)
    student[0, 0] = margin
    student.requires_grad_()
    target = torch.randn(1, classes, generator=torch.Generator().manual_seed(0))
    loss = ofa_loss(student, target, torch.tensor([1]), 1.5)
    loss.backward()
    shares = target.softmax(1)[0].clone()
    shares[1] = (shares[1] + 1) ** 1.5 - 1
    shares[[0, *range(2, classes)]] **= 1.5
    certain = nn.functional.one_hot(torch.tensor(0), classes)
    torch.testing.assert_close(student.grad[0], shares.sum() * certain - shares, rtol=1e-4, atol=1e-6)
    assert math.isfinite(loss.item())


@pytest.mark.parametrize(
    ("stages", "expected", "to_come"),
    [
        (3, [1, 2, 3], [2, 1, 0]),
        (4, [1, 2, 3, 4], [3, 2, 1, 0]),
        (6, [2, 3, 5, 6], [3, 2, 1, 0]),
        (12, [3, 6, 9, 12], [3, 2, 1, 0]),
        (1, [1], [0]),
    ],
)
def test_heads_stand_at_the_ends_of_quarters(stages, expected, to_come):
    names = [f"stage{k}" for k in range(1, stages + 1)]
    assert quarters(names) == tuple(f"stage{k}" for k in expected)
    assert [stages_to_come(names, f"stage{k}") for k in expected] == to_come
    assert stages_to_come(names, "stem") == min(4, stages)
    assert stages_to_come(names, "neck") == 0


CNN = {"stage1": (4, 8, 8), "stage2": (6, 4, 4), "stage3": (8, 1, 1), "embedding": (8,)}
TOKENS = {**{f"stage{k}": (6, 4, 4) for k in range(1, 13)}, "embedding": (6,)}


@pytest.mark.parametrize(
    ("student", "target", "kind", "count"), [(CNN, TOKENS, ConvolutionHead, 3), (TOKENS, CNN, AttentionHead, 4)]
)
def test_heads_fit_their_network_and_read_no_stage_of_the_teacher(student, target, kind, count):
    context = context_of(student, target)
    terms, outputs, extra = terms_of("ofa", context)
    assert [type(head) for head in extra["heads"]] == [kind] * count
    assert teacher(0) not in method_class("ofa")(card("ofa").resolve({}, "test")).taps(context)
    terms["ofa"].backward()
    assert all(value.grad.any() for value in outputs[STUDENT].features)
    assert all(p.grad is not None for p in extra.parameters())


@pytest.mark.parametrize(("side", "merged"), [(28, 7), (14, 7), (8, 8), (16, 8), (15, 15), (1, 1)])
def test_tokens_are_merged_to_seven_a_side_or_a_little_more(side, merged):
    head = AttentionHead(torch.Size((4, side, side)), 8, 3, to_come=0)
    assert head.merge(torch.randn(2, side, side, 4)).shape[1:3] == (merged, merged)
    assert head(torch.randn(2, 4, side, side)).shape == (2, 3)


def test_ofa_takes_an_exponent_a_head_and_refuses_another_number_of_them():
    context = context_of(CNN, TOKENS)
    alike, _, _ = terms_of("ofa", context, eps=[1.5] * 4)
    single, _, _ = terms_of("ofa", context, eps=[1.5])
    assert {name: value.item() for name, value in alike.items()} == {n: v.item() for n, v in single.items()}
    last, _, _ = terms_of("ofa", context, eps=[1.5, 1.5, 1.5, 1.0])
    assert last["ofa"].item() == single["ofa"].item()
    assert last["kd"].item() != single["kd"].item()
    with pytest.raises(UserError, match=r"eps must hold one value, or one for each of the 3 heads and one .*, found 2"):
        built("ofa", context, eps=[1.0, 1.5])


@pytest.mark.parametrize("mixing", [0.3, 0.7, torch.tensor(0.3), torch.tensor(0.7)])
def test_ofa_raises_the_label_that_an_image_is_mostly_of(mixing):
    batch = batch_of(mixing=mixing)
    assert torch.equal(batch.dominant_labels, batch.labels if float(mixing) > 0.5 else batch.other_labels)


# --- semckd -----------------------------------------------------------------------------------------------


def test_semckd_equals_plain_loops_over_pairs_of_stages():
    rng = np.random.default_rng(7)
    attention = rng.dirichlet(np.ones(2), size=(3, 2))
    values = [[rng.normal(size=(3, 2, 2, 2)) for _ in range(2)] for _ in range(2)]
    targets = [[rng.normal(size=(3, 2, 2, 2)) for _ in range(2)] for _ in range(2)]
    expected = 0.0
    for b in range(3):
        for i in range(2):
            for j in range(2):
                expected += attention[b, i, j] * np.mean((values[i][j][b] - targets[i][j][b]) ** 2) / (3 * 2)
    tensors = [[[torch.tensor(x) for x in row] for row in rows] for rows in (values, targets)]
    assert semckd_loss(torch.tensor(attention), *tensors).item() == pytest.approx(expected, rel=1e-10)


def test_images_that_a_smaller_batch_lacks_are_related_to_none():
    feature = torch.randn(5, 2, 3, 3)
    whole = relations(feature, 5)
    torch.testing.assert_close(whole, whole.T)
    smaller = relations(feature[:3], 5)
    torch.testing.assert_close(smaller[:, :3], whole[:3, :3])
    assert smaller[:, 3:].eq(0).all()
    torch.testing.assert_close(relations(feature, 2), whole[:, :2])


MANY = {f"stage{k}": (2 + k, 2**k, 2**k) for k in (3, 2, 1)}


@pytest.mark.parametrize("size", [1, 3, 6, 9])
@pytest.mark.parametrize("factor", [1, 4, 100])
def test_semckd_learns_from_batches_of_any_size(size, factor):
    context = replace(context_of(CNN, MANY), batch_size=6)
    method, extra = built("semckd", context, factor=factor)
    outputs = outputs_of(method, context, size)
    extra.train(size > 1)  # BatchNorm of one image at one pixel has no statistics; the engine serves no such batch
    terms = loss_of(method, STUDENT, batch_of(size), outputs, extra)
    terms["semckd"].backward()
    assert all(value.grad.isfinite().all() for value in outputs[STUDENT].features)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in extra.parameters())
    attention = extra["attention"](outputs[STUDENT].features, outputs[teacher(0)].features)
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(size, 3))


def test_features_of_nothing_have_an_even_attention_and_no_nan():
    attention = Attention(2, 3, 4, 4)
    for p in attention.parameters():
        nn.init.zeros_(p)
    zeros = torch.zeros(4, 2, 2, 2, requires_grad=True)
    found = attention([zeros, zeros], [zeros] * 3)
    found.square().sum().backward()
    torch.testing.assert_close(found, torch.full((4, 2, 3), 1 / 3))
    assert zeros.grad.isfinite().all()


# --- nd ---------------------------------------------------------------------------------------------------


def test_nd_equals_plain_loops_over_images():
    student, target, means = draws(8, (4, 3), (4, 3), (5, 3))
    student[:2] *= 10  # longer than the teacher's
    labels = [0, 4, 2, 2]
    expected = 0.0
    for s, t, y in zip(student, target, labels, strict=True):
        longest = max(np.linalg.norm(s), np.linalg.norm(t))
        expected += (1 - s @ means[y] / np.linalg.norm(means[y]) / longest) / 4
    found = nd_loss(*map(torch.tensor, (student, target, means, labels)))
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_the_gradient_runs_through_the_students_length_where_it_is_the_longest_or_as_long():
    means, labels = torch.eye(2, dtype=torch.float64), torch.tensor([0])
    vector = torch.tensor([[3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    along = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for target, gradient in (
        (2 * vector.detach(), -along / 10),
        (vector.detach() / 2, -along / 5 + 3 * vector.detach() / 5**3),
        (vector.detach().clone(), -along / 5 + 3 * vector.detach() / 5**3),
    ):
        (found,) = torch.autograd.grad(nd_loss(vector, target, means, labels), vector)
        torch.testing.assert_close(found, gradient)


def test_features_and_means_of_length_zero_have_a_finite_nd_loss_and_gradient():
    student = torch.zeros(3, 2, requires_grad=True)
    means = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    loss = nd_loss(student, torch.zeros(3, 2), means, torch.tensor([0, 1, 0]))
    loss.backward()
    assert loss.item() == 1
    assert student.grad.abs().max() <= 1


def test_nd_widens_the_student_only_where_widths_differ():
    _, extra = built("nd", context_of({"embedding": (5,)}, {"embedding": (5,)}))
    assert set(extra) == {"class_means"}
    _, extra = built("nd", context_of({"embedding": (3,)}, {"embedding": (5,)}), dropout=0.25)
    assert [type(layer) for layer in extra["projector"]] == [nn.BatchNorm1d, nn.Dropout, nn.Linear]
    assert extra["projector"][1].p == 0.25
    assert extra["class_means"].values.shape == (CLASSES, 5)


@pytest.mark.parametrize("augmented", [True, False])
def test_the_pre_stage_of_nd_averages_each_class_in_one_pass(augmented):
    context = context_of({}, {"embedding": (3,)})
    del context.taps[STUDENT], context.shapes[STUDENT]
    method, extra = built("nd", context, augmented=augmented)
    features = torch.randn(9000, 3, generator=torch.Generator().manual_seed(0))
    labels, asked = torch.arange(9000) % 3, []  # there is no image of the last class

    def look(positions, augmented=False):
        asked.append((positions, augmented))
        return Output(torch.zeros(len(positions), CLASSES), {"embedding": features[positions]})

    method.survey(extra, labels, look)
    assert torch.equal(torch.cat([positions for positions, _ in asked]), torch.arange(9000))
    assert {flag for _, flag in asked} == {augmented}
    means = torch.stack([features[labels == label].mean(dim=0) for label in range(3)])
    torch.testing.assert_close(extra["class_means"].values[:3], means)
    assert extra["class_means"].values[3].eq(0).all()


def test_nd_composes_with_kd_dkd_and_reviewkd():
    context = context_of(CNN, {"stage1": (5, 8, 8), "stage2": (6, 4, 4), "stage3": (8, 2, 2), "embedding": (12,)})
    for other in ("kd", "dkd", "reviewkd"):
        parts = [MethodPart(card=name, settings=card(name).resolve({}, name).model_dump()) for name in (other, "nd")]
        method = build_method(parts, 1)
        torch.manual_seed(0)
        named, extra = fitted(method, context)
        terms = loss_of(method, STUDENT, batch_of(), outputs_of(method, context), extra)
        assert {"nd.ce", "nd.nd", f"{other}.{other}"} <= set(terms)
        assert all(value.isfinite() for value in terms.values())
        assert "embedding" in named[teacher(0)]
