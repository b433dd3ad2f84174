import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Normal, kl_divergence

from kd.asib import losses

torch.manual_seed(0)
MU = torch.randn(6, 4, dtype=torch.float64)
LOGVAR = torch.randn(6, 4, dtype=torch.float64)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_bottleneck_term_is_the_divergence_from_a_standard_normal(reduction):
    kl = kl_divergence(Normal(MU, (LOGVAR / 2).exp()), Normal(torch.zeros_like(MU), torch.ones_like(MU)))
    expected = getattr(kl, reduction)(dim=1)
    torch.testing.assert_close(losses.ib_kls(MU, LOGVAR, reduction), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(losses.ib_kl(MU, LOGVAR, reduction), expected.mean(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lowest", [0.1, 0.3])
def test_certainty_is_constant_and_clamped(lowest):
    logvar = torch.tensor([[-3.0, -3.0], [9.0, 9.0], [0.5, 1.5]], requires_grad=True)
    weights = losses.certainty(logvar, lowest)
    assert not weights.requires_grad
    between = (math.exp(-0.5) + math.exp(-1.5)) / 2
    torch.testing.assert_close(weights, torch.tensor([1.0, lowest, between]))


def test_soft_kl_is_the_divergence_from_the_target():
    student, target = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    expected = 9 * kl_divergence(Categorical(logits=target / 3), Categorical(logits=student / 3))
    torch.testing.assert_close(losses.soft_kl(student, target, 3.0), expected)


def test_ensemble_term_averages_logits():
    student, one, two = torch.randn(3, 5, 7).unbind()
    expected = losses.soft_kl(student, (one + two) / 2, 2.0)
    torch.testing.assert_close(losses.averaged_soft_kl(student, [one, two], 2.0), expected)


LABELS = torch.tensor([0, 1, 2, 0, 1])
PREDICTED = [torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 0, 2, 0])]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("pred", [0, 1, 0, 1, 1]), ("both_wrong", [0, 0, 1, 1, 0]), ("any_wrong", [0, 1, 1, 1, 1])],
)
def test_disagreement_is_what_its_name_says(name, expected):
    logits = [torch.nn.functional.one_hot(predicted, 3).float() for predicted in PREDICTED]
    assert losses.disagreement(logits, LABELS)[name].tolist() == list(map(bool, expected))


def test_three_teachers_disagree_if_any_two_do_and_either_label_of_a_mixed_image_is_right():
    logits = [torch.nn.functional.one_hot(torch.tensor(p), 3).float() for p in ([0, 1], [0, 1], [0, 2])]
    found = losses.disagreement(logits, torch.tensor([1, 0]), torch.tensor([0, 1]))
    assert found["pred"].tolist() == [False, True]
    assert found["both_wrong"].tolist() == [False, False]
    assert found["any_wrong"].tolist() == [False, True]


def test_feature_distance_is_a_mean_square_of_raw_or_unit_vectors():
    a, b = MU.numpy(), LOGVAR.numpy()
    np.testing.assert_allclose(losses.feature_distance(MU, LOGVAR), ((a - b) ** 2).mean(1))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    np.testing.assert_allclose(losses.feature_distance(MU, LOGVAR, "l2"), ((a - b) ** 2).mean(1))


def test_precise_dimensions_count_more_but_capped_at_the_batchs_99th_percentile():
    projected = torch.randn(6, 4, dtype=torch.float64)
    logvar = LOGVAR.clone()
    logvar[0, 0] = -20.0
    precision = 1 / (np.exp(logvar.numpy()) + 1e-2)
    cap = np.quantile(precision.astype(np.float32), 0.99)
    assert precision.max() > cap
    expected = (np.minimum(precision, cap) * (projected - MU).numpy() ** 2).sum(1)
    np.testing.assert_allclose(losses.precision_distance(projected, MU, logvar, 1e-2), expected, rtol=1e-6)


def test_angles():
    a = torch.tensor([[1.0, 0.0], [1.0, 1.0], [2.0, 0.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[0.0, 3.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    found = losses.angle_distance(a, b)
    torch.testing.assert_close(found, torch.tensor([1.0, 1 - math.sqrt(0.5), 2.0, 1.0], dtype=torch.float64))
    found.sum().backward()
    assert a.grad.isfinite().all()


@pytest.mark.parametrize("channels", [3, 5])
def test_maps_of_other_sizes_and_channels_are_compared(channels):
    student = torch.randn(2, channels, 4, 4, dtype=torch.float64, requires_grad=True)
    target = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    index = [k % 4 for k in range(channels)]
    # halving with aligned pixel areas, bilinear weights are one half each
    small = target.numpy().reshape(2, 4, 4, 2, 4, 2).mean((3, 5))[:, index]
    units = [x / np.sqrt((x**2).sum((2, 3), keepdims=True)) for x in (student.detach().numpy(), small)]
    found = losses.map_distance(student, target)
    np.testing.assert_allclose(found.item(), ((units[0] - units[1]) ** 2).mean())
    found.backward()
    assert student.grad.abs().sum() > 0, "the published term had no gradient"


def test_mean_square_weighs_tensors_alike():
    tensors = [torch.tensor([1.0, 3.0]), torch.full((10, 10), 2.0)]
    assert losses.mean_square(tensors) == (5 + 4) / 2
    assert losses.mean_square([]) is None
