"""Feature and relational losses against plain float64 loops, closed forms and finite differences."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from steps import fitted, loss_of
from torch import nn

from kd.data.wants import Groups
from kd.methods import rkd
from kd.methods._features import unit
from kd.methods.ab import AB, ab_loss
from kd.methods.cat_kd import CatKD, activation_maps, cat_loss
from kd.methods.cc import CC, correlation_loss, neighbour_loss
from kd.methods.contract import EXTRA, STUDENT, Batch, Context, Output, Outputs, Progress, teacher
from kd.methods.fsp import FSP, fsp_loss
from kd.methods.kdsvd import KDSVD, kdsvd_loss
from kd.methods.nst import nst_loss
from kd.methods.ofd import OFD, negative_mean, ofd_loss
from kd.methods.pkt import pkt_loss
from kd.methods.rkd import RKD, angle_loss, distance_loss
from kd.methods.sp import sp_loss
from kd.methods.srrl import SRRL, regression_loss, representation_loss
from kd.methods.vid import VID, vid_loss
from kd.models.build import build_model
from kd.schema.cards import card
from kd.schema.config import ModelSettings
from kd.tools.errors import UserError

RNG = np.random.default_rng
HALF_WAY = Progress(0.5, 1)


def tensors(arrays):
    return [torch.tensor(array) for array in arrays]


def maps(rng, *shapes):
    return [rng.normal(size=shape) for shape in shapes]


def pooled(feature, times):
    """Average blocks of `times` pixels a side of maps (B,C,H,W)."""
    b, c, h, w = feature.shape
    return feature.reshape(b, c, h // times, times, w // times, times).mean(axis=(3, 5))


def numeric_gradient(function, array, step=1e-6):
    """Return central differences of a scalar function of a float64 array."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        moved = array.copy()
        moved[index] += step
        above = function(moved)
        moved[index] -= 2 * step
        gradient[index] = (above - function(moved)) / (2 * step)
    return gradient


# --- the tensors that several public codebases were run on --------------------------------------------


@pytest.fixture(scope="module")
def reference_tensors():
    """torch.manual_seed(0), then draws in this order."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    draw(64, 100), draw(64, 100), torch.randint(0, 100, (64,), generator=generator)
    fs, ft = torch.relu(draw(64, 128, 8, 8)), torch.relu(draw(64, 128, 8, 8) * 1.5)
    fs2, ft2 = torch.relu(draw(64, 64, 16, 16)), torch.relu(draw(64, 64, 16, 16) * 1.5)
    return {"fs": fs, "ft": ft, "fs2": fs2, "ft2": ft2, "vs": fs.mean((2, 3)), "vt": ft.mean((2, 3))}


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        pytest.param(lambda x: nst_loss([x["fs"]], [x["ft"]]), 0.013865455985069275, id="nst, RepDistiller"),
        pytest.param(lambda x: sp_loss([x["fs"]], [x["ft"]]), 2.1238010958768427e-05, id="sp, RepDistiller"),
        pytest.param(
            lambda x: 25 * distance_loss(x["vs"], x["vt"]) + 50 * angle_loss(x["vs"], x["vt"]),
            0.28645676374435425,
            id="rkd, RepDistiller",
        ),
        pytest.param(lambda x: neighbour_loss(x["vs"], x["vt"]), 5.418492317199707, id="cc code, RepDistiller"),
        pytest.param(lambda x: correlation_loss(x["vs"], x["vt"]), 1.1078988791268785e-05, id="cc paper, KD-Zoo"),
        pytest.param(
            lambda x: fsp_loss([x["fs2"], x["fs"]], [x["ft2"], x["ft"]]), 0.04843222722411156, id="fsp, RepDistiller"
        ),
        pytest.param(lambda x: ab_loss([x["fs"] - 0.3], [x["ft"] - 0.3]), 33.54335403442383, id="ab, RepDistiller"),
        pytest.param(
            lambda x: kdsvd_loss([x["fs2"][:8], x["fs"][:8]], [x["ft2"][:8], x["ft"][:8]]),
            0.017267564311623573,
            id="kdsvd, RepDistiller",
        ),
    ],
)
def test_values_of_other_implementations(reference_tensors, loss, expected):
    assert loss(reference_tensors).item() == pytest.approx(expected, rel=1e-5)


# --- plain loops --------------------------------------------------------------------------------------


def test_nst_equals_plain_loops_over_channels():
    rng = RNG(0)
    student, target = maps(rng, (2, 3, 4, 4), (2, 2, 2, 2)), maps(rng, (2, 4, 2, 2), (2, 3, 2, 2))
    expected = 0.0
    for s_maps, t_maps in zip([pooled(student[0], 2), student[1]], target, strict=True):
        for s_image, t_image in zip(s_maps, t_maps, strict=True):
            s, t = ([channel.ravel() / np.linalg.norm(channel) for channel in image] for image in (s_image, t_image))
            within = [np.mean([(a @ b) ** 2 for a in x for b in x]) for x in (s, t)]
            expected += (sum(within) - 2 * np.mean([(a @ b) ** 2 for a in s for b in t])) / len(s_maps)
    assert nst_loss(tensors(student), tensors(target)).item() == pytest.approx(expected, rel=1e-10)


def test_sp_equals_plain_loops_over_pairs_of_images():
    rng = RNG(1)
    student, target = maps(rng, (4, 3, 2, 2), (4, 5)), maps(rng, (4, 2, 4, 4), (4, 6))
    expected = 0.0
    for s, t in zip(student, target, strict=True):
        rows = []
        for feature in (s, t):
            gram = np.array([[np.sum(a * b) for b in feature] for a in feature])
            rows.append([row / np.sqrt(np.sum(row**2)) for row in gram])
        expected += sum(np.sum((a - b) ** 2) for a, b in zip(*rows, strict=True)) / 4**2
    assert sp_loss(tensors(student), tensors(target)).item() == pytest.approx(expected, rel=1e-10)


def test_vid_and_its_gradients_equal_a_gaussian_likelihood():
    rng = RNG(2)
    mean, target, scale = rng.normal(size=(2, 3, 2, 2)), rng.normal(size=(2, 3, 2, 2)), rng.normal(size=3)

    def expected(mean, scale):
        sigma = np.sqrt(np.log(1 + np.exp(scale)) + 1e-5)[None, :, None, None]
        return -(norm.logpdf(target, mean, sigma) + 0.5 * math.log(2 * math.pi)).mean()

    m, a = torch.tensor(mean, requires_grad=True), torch.tensor(scale, requires_grad=True)
    loss = vid_loss([m], [torch.tensor(target)], [a])
    loss.backward()
    assert loss.item() == pytest.approx(expected(mean, scale), rel=1e-10)
    np.testing.assert_allclose(
        m.grad.numpy(), numeric_gradient(lambda x: expected(x, scale), mean), rtol=1e-6, atol=1e-9
    )
    np.testing.assert_allclose(a.grad.numpy(), numeric_gradient(lambda x: expected(mean, x), scale), rtol=1e-6)


def test_pkt_equals_plain_loops_over_all_entries():
    rng = RNG(3)
    student, target, epsilon = rng.normal(size=(5, 3)), rng.normal(size=(5, 4)), 1e-7
    p = []
    for x in (student, target):
        close = np.array([[(a @ b / np.linalg.norm(a) / np.linalg.norm(b) + 1) / 2 for b in x] for a in x])
        p.append([row / row.sum() for row in close])
    terms = [
        t * math.log((t + epsilon) / (s + epsilon)) for i in range(5) for s, t in zip(p[0][i], p[1][i], strict=True)
    ]
    assert pkt_loss(*tensors([student, target])).item() == pytest.approx(np.mean(terms), rel=1e-10)


def test_fsp_equals_plain_loops_over_pairs_of_channels():
    rng = RNG(4)
    student = maps(rng, (2, 2, 4, 4), (2, 3, 2, 2), (2, 2, 2, 2))
    target = maps(rng, (2, 2, 2, 2), (2, 3, 4, 4), (2, 2, 2, 2))
    expected = 0.0
    for k in range(2):
        gram = {}
        for side, feats in (("s", student), ("t", target)):
            first, second = feats[k], feats[k + 1]
            size = min(first.shape[2], second.shape[2])
            first, second = (pooled(f, f.shape[2] // size) for f in (first, second))
            gram[side] = np.array(
                [[[np.mean(a * b) for b in second[i]] for a in first[i]] for i in range(2)],
            )
        expected += np.mean((gram["s"] - gram["t"]) ** 2)
    assert fsp_loss(tensors(student), tensors(target)).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("margin", [1.0, 0.5])
def test_ab_equals_plain_loops_over_neurons(margin):
    rng = RNG(5)
    student, target = (maps(rng, (2, 2, 3, 3), (2, 3, 2, 2), (2, 4)) for _ in range(2))
    expected = 0.0
    for weight, s_maps, t_maps in zip((0.25, 0.5, 1.0), student, target, strict=True):
        for s, t in zip(s_maps.ravel(), t_maps.ravel(), strict=True):
            if t <= 0 and s > -margin:
                expected += weight * (s + margin) ** 2 / 2 * 3 / 1000
            if t > 0 and s <= margin:
                expected += weight * (s - margin) ** 2 / 2 * 3 / 1000
    assert ab_loss(tensors(student), tensors(target), margin).item() == pytest.approx(expected, rel=1e-10)


def test_ofd_equals_plain_loops_over_the_three_cases():
    rng = RNG(6)
    student, target = maps(rng, (2, 3, 2, 2), (2, 2, 2, 2)), maps(rng, (2, 3, 4, 4), (2, 2, 2, 2))
    margins = [-rng.uniform(0.1, 1.0, size=3), -rng.uniform(0.1, 1.0, size=2)]
    expected = 0.0
    for weight, s_maps, t_maps, margin in zip(
        (0.5, 1.0), student, [pooled(target[0], 2), target[1]], margins, strict=True
    ):
        for index in np.ndindex(s_maps.shape):
            s, t, m = s_maps[index], t_maps[index], margin[index[1]]
            if t > 0:
                expected += weight * (s - t) ** 2 / 2
            elif t > m:
                expected += weight * (s - t) ** 2 / 2 if s > t else 0.0
            else:
                expected += weight * (s - m) ** 2 / 2 if s > m else 0.0
    assert ofd_loss(tensors(student), tensors(target), tensors(margins)).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (-0.7, 0.4), (2.0, -3.0), (0.3, 0.9)])
def test_margins_are_means_of_the_negative_half_of_a_gaussian(scale, shift):
    density = norm(shift, abs(scale)).pdf
    mass = quad(density, -np.inf, 0)[0]
    expected = quad(lambda x: x * density(x), -np.inf, 0)[0] / mass
    found = negative_mean(*tensors([np.array([scale]), np.array([shift])]))
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_margins_of_channels_that_are_hardly_ever_negative_or_constant():
    found = negative_mean(torch.tensor([0.5, 0.0, 0.0]), torch.tensor([2.0, 1.0, -1.0]))
    torch.testing.assert_close(found, torch.tensor([-1.5, 0.0, -1.0]), atol=1e-6, rtol=0)


def test_cc_as_released_equals_plain_loops_over_neighbours():
    student, target = RNG(7).normal(size=(2, 4, 3))
    d = np.abs(student - target)
    expected = np.mean([sum(d[i] * d[i + 1]) for i in range(3)])
    assert neighbour_loss(*tensors([student, target])).item() == pytest.approx(expected, rel=1e-10)
    assert neighbour_loss(torch.ones(1, 3), torch.zeros(1, 3)).item() == 0.0


@pytest.mark.parametrize(("order", "rel"), [(2, 1e-10), (8, 1e-4)])
def test_cc_of_the_paper_equals_its_series_and_nears_the_gaussian_kernel(order, rel):
    rng, gamma = RNG(8), 0.4
    student, target = rng.normal(size=(4, 3)), rng.normal(size=(4, 5))
    kernel = []
    for x in (student, target):
        x = [v / np.linalg.norm(v) for v in x]
        if order == 2:
            series = [[sum((2 * gamma * (a @ b)) ** p / math.factorial(p) for p in range(3)) for b in x] for a in x]
            kernel.append(math.exp(-2 * gamma) * np.array(series))
        else:
            kernel.append(np.array([[math.exp(-gamma * np.sum((a - b) ** 2)) for b in x] for a in x]))
    expected = np.mean((kernel[0] - kernel[1]) ** 2)
    assert correlation_loss(*tensors([student, target]), gamma, order).item() == pytest.approx(expected, rel=rel)


def huber(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def test_rkd_equals_plain_loops_over_pairs_and_triples():
    rng, n = RNG(9), 5
    vectors = [rng.normal(size=(n, 3)), 3 * rng.normal(size=(n, 4))]
    relations = []
    for v in vectors:
        d = np.array([[np.linalg.norm(a - b) for b in v] for a in v])
        angles = np.zeros((n, n, n))
        for j, i, k in np.ndindex(n, n, n):
            if j not in (i, k):
                e, f = v[i] - v[j], v[k] - v[j]
                angles[j, i, k] = e @ f / np.linalg.norm(e) / np.linalg.norm(f)
        relations.append((d / d[d > 0].mean(), angles))
    expected = [np.mean([huber(x) for x in (s - t).ravel()]) for s, t in zip(*relations, strict=True)]
    found = [loss(*tensors(vectors)).item() for loss in (distance_loss, angle_loss)]
    assert found == pytest.approx(expected, rel=1e-9)


def test_srrl_equals_plain_loops():
    rng = RNG(10)
    v, t, weight, bias, logits = rng.normal(size=(3, 4)), rng.normal(size=(3, 4)), *maps(rng, (2, 4), (2,), (3, 2))
    assert representation_loss(*tensors([v, t])).item() == pytest.approx(np.mean((v - t) ** 2), rel=1e-12)
    expected = np.mean([(weight[c] @ v[i] + bias[c] - logits[i, c]) ** 2 for i in range(3) for c in range(2)])
    assert regression_loss(*tensors([v, weight, bias, logits])).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("normalize", [True, False])
def test_cat_equals_plain_loops_over_classes(normalize):
    rng = RNG(11)
    features, weights = maps(rng, (2, 3, 4, 4), (2, 5, 2, 2)), maps(rng, (4, 3), (4, 5))
    cams = []
    for feature, weight in zip(features, weights, strict=True):
        cam = np.array(
            [[sum(w * channel for w, channel in zip(row, f, strict=True)) for row in weight] for f in feature]
        )
        cam = pooled(cam, cam.shape[2] // 2)
        cams.append(cam / np.sqrt((cam**2).sum(axis=(2, 3), keepdims=True)) if normalize else cam)
    found = [[activation_maps(*tensors(pair))] for pair in zip(features, weights, strict=True)]
    assert cat_loss(*found, 2, normalize).item() == pytest.approx(np.mean((cams[0] - cams[1]) ** 2), rel=1e-10)


def kdsvd_by_numpy(student, target, k):
    """Return the loss from numpy's decompositions; the teacher's signs are torch's, which are arbitrary."""
    directions = {"s": [], "t": []}
    for s_maps, t_maps in zip(student, target, strict=True):
        rows = {"s": [], "t": []}
        for s, t in zip(s_maps, t_maps, strict=True):
            matrix = t.reshape(len(t), -1).T
            vh = torch.linalg.svd(torch.tensor(matrix), full_matrices=False)[2].numpy()[:k]
            values = np.linalg.svd(matrix)[1][:k]
            values = values / np.linalg.norm(values)
            candidates = np.linalg.svd(s.reshape(len(s), -1).T)[2][: min(k + 3, *s.reshape(len(s), -1).shape)]
            nearest = [max(candidates, key=lambda c, v=v: abs(c @ v)) for v in vh]
            rows["t"].append([v * x for v, x in zip(vh, values, strict=True)])
            rows["s"].append([c * np.sign(c @ v) * x for c, v, x in zip(nearest, vh, values, strict=True)])
        for side in rows:
            directions[side].append(np.array(rows[side]))
    total = 0.0
    for (s1, s2), (t1, t2) in zip(pairwise(directions["s"]), pairwise(directions["t"]), strict=True):
        for i, j in np.ndindex(len(s1), k):
            for c1, c2 in np.ndindex(s1.shape[2], s2.shape[2]):
                ds, dt = s2[i, j, c2] - s1[i, j, c1], t2[i, j, c2] - t1[i, j, c1]
                total += (math.exp(-(ds**2) / 8) - math.exp(-(dt**2) / 8)) ** 2 / len(s1)
    return total


@pytest.mark.parametrize("k", [1, 2])
def test_kdsvd_and_its_gradient_equal_decompositions_one_by_one(k):
    rng = RNG(12)
    # More positions than channels, and fewer.
    student, target = (maps(rng, (2, 3, 4, 4), (2, 6, 2, 2)) for _ in range(2))
    inputs = [torch.tensor(array, requires_grad=True) for array in student]
    loss = kdsvd_loss(inputs, tensors(target), k)
    loss.backward()
    assert loss.item() == pytest.approx(kdsvd_by_numpy(student, target, k), rel=1e-8)
    for number, own in enumerate(inputs):
        others = [*student[:number], None, *student[number + 1 :]]

        def moved(array, others=others, number=number):
            return kdsvd_by_numpy([*others[:number], array, *others[number + 1 :]], target, k)

        np.testing.assert_allclose(own.grad.numpy(), numeric_gradient(moved, student[number]), rtol=1e-4, atol=1e-7)


# --- gradients where a formula has none ---------------------------------------------------------------

ZEROS, ONES = torch.zeros(4, 3, 2, 2), torch.ones(4, 3, 2, 2)


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(lambda x: nst_loss([x], [torch.rand(4, 2, 2, 2)]), id="nst"),
        pytest.param(lambda x: sp_loss([x], [torch.rand(4, 5)]), id="sp"),
        pytest.param(lambda x: pkt_loss(x.flatten(1), torch.rand(4, 5)), id="pkt"),
        pytest.param(lambda x: correlation_loss(x.flatten(1), torch.rand(4, 5)), id="cc paper"),
        pytest.param(lambda x: distance_loss(x.flatten(1), torch.rand(4, 5)), id="rkd distance"),
        pytest.param(lambda x: angle_loss(x.flatten(1), torch.rand(4, 5)), id="rkd angle"),
        pytest.param(lambda x: cat_loss([x], [torch.rand(4, 3, 2, 2)]), id="cat_kd"),
        pytest.param(lambda x: kdsvd_loss([x, x], [torch.rand(4, 3, 2, 2)] * 2), id="kdsvd"),
    ],
)
@pytest.mark.parametrize("feature", [ZEROS, ONES, torch.cat([ZEROS[:1], torch.eye(12)[:3].view(3, 3, 2, 2)])])
def test_gradients_are_moderate_where_features_are_zero_or_equal(loss, feature):
    torch.manual_seed(0)
    x = feature.clone().requires_grad_()
    value = loss(x)
    value.backward()
    assert torch.isfinite(value)
    assert x.grad.abs().max() < 1e4


def test_unit_vectors_have_length_one_and_zero_stays_zero():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0]], requires_grad=True)
    found = unit(x, dim=1)
    found.sum().backward()
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0], [1.0, 0.0]]))
    assert torch.equal(x.grad[1:], torch.zeros(2, 2))


@pytest.mark.parametrize("length", [1e-11, 1e-9, 1e-7, 2e-6, 1e-3])
def test_the_gradient_of_a_direction_is_bounded(length):
    x = (length * torch.tensor([[0.6, 0.8]])).requires_grad_()
    unit(x, dim=1)[0, 0].backward()
    expected = torch.tensor([[0.64, -0.48]]) / length if length > 1e-6 else torch.zeros(1, 2)
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize("size", [1, 2])
def test_batches_of_one_or_two_images_have_finite_relations(size):
    student, target = (torch.rand(size, 3, requires_grad=True) for _ in range(2))
    loss = distance_loss(student, target) + angle_loss(student, target) + pkt_loss(student, target)
    (loss + correlation_loss(student, target) + neighbour_loss(student, target)).backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_teachers_take_no_gradient():
    generator = torch.Generator().manual_seed(0)
    s, t = ([torch.rand(4, 3, 4, 4, generator=generator, requires_grad=True) for _ in range(2)] for _ in range(2))
    vectors = (s[0].flatten(1), t[0].flatten(1))
    maps_losses = [nst_loss, sp_loss, fsp_loss, ab_loss, kdsvd_loss, cat_loss]
    total = sum(loss(s, t) for loss in maps_losses) + ofd_loss(s, t, [torch.full((3,), -0.5)] * 2)
    total = total + vid_loss(s, t, [torch.zeros(3)] * 2)
    total = total + sum(loss(*vectors) for loss in (pkt_loss, distance_loss, angle_loss, correlation_loss))
    (total + representation_loss(*vectors)).backward()
    assert all(f.grad is not None and f.grad.any() for f in s)
    assert all(f.grad is None for f in t)


def test_lists_of_unequal_length_are_not_shortened():
    one, two = [torch.rand(2, 3, 4, 4)], [torch.rand(2, 3, 4, 4)] * 2
    for loss in (nst_loss, sp_loss, ab_loss, kdsvd_loss, cat_loss):
        with pytest.raises(ValueError, match=r"longer|shorter"):
            loss(one, two)


@pytest.mark.parametrize("block", [1, 200, 500])
def test_angles_in_blocks_equal_angles_at_once(monkeypatch, block):
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    found = []
    for limit in (rkd.BLOCK, block):
        monkeypatch.setattr(rkd, "BLOCK", limit)
        student = torch.linspace(-1, 1, 28, dtype=torch.float64).sin().view(7, 4).requires_grad_()
        loss = angle_loss(student, target)
        loss.backward()
        found.append((loss.detach(), student.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-14)


# --- methods ------------------------------------------------------------------------------------------


def context_of(student, target, norms=None, models=None):
    """Return a context from {tap: shape} of each role."""
    shapes = {
        role: {tap: torch.Size(s) for tap, s in taps.items()}
        for role, taps in ((STUDENT, student), (teacher(0), target))
    }
    return Context(
        num_classes=4,
        labels=torch.zeros(8, dtype=torch.int64),
        shapes=shapes,
        taps={role: tuple(taps) for role, taps in shapes.items()},
        stages={
            role: tuple(t for t in taps if t.startswith("stage") and "." not in t) for role, taps in shapes.items()
        },
        norms=norms or {},
        models=models or {},
        image_size=16,
    )


def built(kind, name, context, **settings):
    method = kind(card(name).resolve(settings, "test"))
    torch.manual_seed(0)
    return method, fitted(method, context)[1]


def batch_of(size=4):
    labels = torch.arange(size) % 4
    return Batch(torch.zeros(size, 3, 2, 2), labels, torch.arange(size), labels)


STAGES = {"stage1.pre": (2, 4, 4), "stage1": (2, 4, 4), "stage2.pre": (3, 2, 2), "stage2": (3, 2, 2)}
PLAIN = {"stage1": (2, 4, 4), "stage2": (3, 2, 2)}
WIDE = {"stage1.pre": (4, 4, 4), "stage1": (4, 4, 4), "stage2.pre": (3, 2, 2), "stage2": (3, 2, 2)}
NORMS = {teacher(0): {"stage1.pre": (torch.ones(4), torch.zeros(4)), "stage2.pre": (torch.ones(3), torch.ones(3))}}


@pytest.mark.parametrize(("kind", "name"), [(AB, "ab"), (OFD, "ofd")])
def test_taps_are_moved_before_the_activation_and_asked_for_there(kind, name):
    method = kind(card(name).resolve({"student_taps": ["stages"], "teacher_taps": ["stage1", "last"]}, "test"))
    wanted = ("stage1.pre", "stage2.pre")
    assert method.taps(context_of(STAGES, WIDE, NORMS)) == {STUDENT: wanted, teacher(0): wanted}


@pytest.mark.parametrize(("kind", "name"), [(AB, "ab"), (OFD, "ofd")])
@pytest.mark.parametrize(("student", "target", "role"), [(PLAIN, STAGES, STUDENT), (STAGES, PLAIN, teacher(0))])
def test_networks_without_features_before_the_activation_are_refused(kind, name, student, target, role):
    with pytest.raises(UserError, match=rf"method {name} compares .* but the {role} has no tap 'stage1.pre'.*timm"):
        built(kind, name, context_of(student, target))


def test_ab_connects_only_where_shapes_differ_and_without_a_relu():
    method, extra = built(AB, "ab", context_of(STAGES, WIDE))
    first, second = extra["connectors"]
    assert isinstance(second, nn.Identity)
    assert [type(layer) for layer in first] == [nn.Conv2d, nn.BatchNorm2d]
    boundaries, labels = method.plan()
    assert (boundaries.recipe["epochs"], boundaries.recipe["schedule"], boundaries.selects) == (30, "constant", False)
    assert labels.trained() == {STUDENT}


def test_ofd_takes_margins_from_the_teachers_norms_into_its_state():
    _, extra = built(OFD, "ofd", context_of(STAGES, WIDE, NORMS))
    state = extra.state_dict()
    torch.testing.assert_close(state["connectors.0.margin"], torch.full((4,), -math.sqrt(2 / math.pi)))
    assert extra["connectors"][0].layers[0].bias is None


def test_ofd_without_a_norm_before_the_activation_is_a_user_error():
    norms = {teacher(0): {"stage1.pre": NORMS[teacher(0)]["stage1.pre"]}}
    with pytest.raises(UserError, match=r"'stage2.pre' has none of all its channels: allowed are stage1.pre"):
        built(OFD, "ofd", context_of(STAGES, WIDE, norms))


@pytest.mark.parametrize(("kind", "name"), [(FSP, "fsp"), (KDSVD, "kdsvd")])
def test_unequal_channels_and_single_taps_are_user_errors(kind, name):
    taps = {"student_taps": ["stages"], "teacher_taps": ["stages"]}
    with pytest.raises(UserError, match=f"method {name} needs as many channels .* stage1 they have 2 and 4"):
        built(kind, name, context_of(STAGES, WIDE), **taps)
    one = {"student_taps": ["last"], "teacher_taps": ["last"]}
    with pytest.raises(
        UserError, match=f"method {name} compares neighbouring taps and needs at least two, found stage2"
    ):
        built(kind, name, context_of(STAGES, STAGES), **one)


def test_kdsvd_names_the_largest_k():
    with pytest.raises(UserError, match="2 singular values, found k 3: allowed are 1 to 2"):
        built(KDSVD, "kdsvd", context_of(PLAIN, PLAIN), k=3)


def test_the_first_stage_of_fsp_trains_feature_modules_only():
    torch.manual_seed(0)
    student, target = (build_model(ModelSettings(arch=arch), 4, 16) for arch in ("resnet8", "resnet14"))
    taps = ("stem", *student.stage_taps)
    method = FSP(card("fsp").resolve({}, "test"))
    (update,) = method.plan()[0].updates
    assert update.trains == (STUDENT, EXTRA)
    images = torch.randn(4, 3, 16, 16)
    outputs = {role: Output(*model(images, taps)) for role, model in ((STUDENT, student), (teacher(0), target))}
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    terms = loss_of(method, update.name, batch_of(), outputs)
    assert set(terms) == {"fsp"}
    terms["fsp"].backward()
    optimizer.step()
    moved = {name for name, p in student.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if not name.startswith("fc.")}


@pytest.mark.parametrize(("kind", "name"), [(FSP, "fsp"), (AB, "ab")])
def test_the_second_stage_is_cross_entropy_with_softened_logits_if_weighed(kind, name):
    generator = torch.Generator().manual_seed(0)
    outputs = {role: Output(torch.randn(4, 4, generator=generator), {}) for role in (STUDENT, teacher(0))}
    for weight, expected in ((0.0, {"ce"}), (0.9, {"ce", "kd"})):
        method = kind(card(name).resolve({"kd_weight": weight}, "test"))
        assert set(loss_of(method, STUDENT, batch_of(), outputs)) == expected


def test_vid_starts_from_its_variance_and_trains_it():
    context = context_of(PLAIN, WIDE)
    method, extra = built(VID, "vid", context, init_variance=2.5)
    scales = [p for name, p in extra.named_parameters() if name.endswith("scale")]
    assert [len(scale) for scale in scales] == [4, 3]
    for scale in scales:
        torch.testing.assert_close(nn.functional.softplus(scale) + 1e-5, torch.full_like(scale, 2.5))
    generator = torch.Generator().manual_seed(0)
    taps = [{tap: torch.randn(4, *shape, generator=generator) for tap, shape in taps.items()} for taps in (PLAIN, WIDE)]
    outputs = {role: Output(torch.zeros(4, 4), tap) for role, tap in zip((STUDENT, teacher(0)), taps, strict=True)}
    outputs = Outputs(outputs).narrowed(method.taps(context))
    loss_of(method, STUDENT, batch_of(), outputs, extra)["vid"].backward()
    assert all(scale.grad.ne(0).all() for scale in scales)
    assert all(key in extra.state_dict() for key, p in extra.named_parameters() if any(p is s for s in scales))


@pytest.mark.parametrize(("form", "sides"), [("code", {"student", "teacher"}), ("paper", set())])
def test_cc_learns_embeddings_in_its_released_form_only(form, sides):
    context = context_of({"embedding": (5,)}, {"embedding": (7,)})
    method, extra = built(CC, "cc", context, form=form, embedding_size=6)
    assert set(extra) == sides
    generator = torch.Generator().manual_seed(0)
    features = {STUDENT: torch.randn(4, 5, generator=generator), teacher(0): torch.randn(4, 7, generator=generator)}
    features[STUDENT].requires_grad_()
    outputs = {role: Output(torch.zeros(4, 4), {"embedding": feature}) for role, feature in features.items()}
    loss_of(method, STUDENT, batch_of(), outputs, extra)["cc"].backward()
    assert features[STUDENT].grad.any()
    assert all(p.grad is not None for p in extra.parameters())


def test_rkd_asks_for_what_it_compares():
    context = context_of({"embedding": (5,)}, {"embedding": (7,)})
    method = RKD(card("rkd").resolve({}, "test"))
    assert method.taps(context) == {STUDENT: ("embedding",), teacher(0): ("embedding",)}
    assert method.wants().groups is None
    method = RKD(card("rkd").resolve({"embed": "logits", "per_class": 5}, "test"))
    assert method.taps(context) == {}
    assert method.wants().groups == Groups(5, "balanced")


def test_srrl_reads_translated_features_with_the_teachers_classifier_and_leaves_it_alone():
    method, extra = built(SRRL, "srrl", context_of({"embedding": (5,)}, {"embedding": (7,)}))
    torch.manual_seed(0)
    classifier = nn.Conv2d(7, 4, 1)
    features = {STUDENT: torch.randn(6, 5), teacher(0): torch.rand(6, 7)}
    logits = {STUDENT: torch.randn(6, 4), teacher(0): torch.randn(6, 4)}
    outputs = {role: Output(logits[role], {"embedding": features[role]}, classifier) for role in features}
    terms = loss_of(method, STUDENT, batch_of(6), outputs, extra)
    translated = extra["translator"](features[STUDENT])
    read = classifier(translated[..., None, None]).flatten(1)
    assert terms["regression"].item() == pytest.approx((read - logits[teacher(0)]).square().mean().item(), rel=1e-5)
    terms["regression"].backward()
    assert classifier.weight.grad is None
    assert all(p.grad is not None for p in extra.parameters())
    nothing = {role: Output(output.logits, output.taps, nn.Identity()) for role, output in outputs.items()}
    with pytest.raises(UserError, match=r"method srrl needs a classifier .* but that of the teacher0 is Identity"):
        loss_of(method, STUDENT, batch_of(6), nothing, extra)


@pytest.mark.parametrize("arch", ["resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV2", "timm:test_resnet"])
def test_activation_maps_average_to_the_logits_without_bias(arch):
    torch.manual_seed(0)
    net = build_model(ModelSettings(arch=arch), 4, 16).eval()
    shapes = dict.fromkeys(net.tap_names, ())
    context = context_of(shapes, shapes, models={STUDENT: net, teacher(0): net})
    method, _ = built(CatKD, "cat_kd", context)
    with torch.no_grad():
        logits, taps = net(torch.randn(3, 3, 16, 16), method.taps(context)[STUDENT])
        classifier = net.classifier
        found = activation_maps(method.pooled[STUDENT].of(taps), classifier.weight.flatten(1)).mean(dim=(2, 3))
    torch.testing.assert_close(found + classifier.bias, logits, rtol=1e-4, atol=1e-4)


def test_a_network_whose_classifier_reads_no_tapped_map_has_no_activation_maps():
    net = build_model(ModelSettings(arch="timm:test_efficientnet"), 4, 32)
    shapes = dict.fromkeys(net.tap_names, ())
    message = r"method cat_kd needs a map .* no tap of the student \(timm:test_efficientnet\) is one"
    with pytest.raises(UserError, match=message):
        built(CatKD, "cat_kd", context_of(shapes, shapes, models={STUDENT: net, teacher(0): net}))
