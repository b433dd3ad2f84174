import pytest
import torch
from torch.distributions import Categorical, Normal, kl_divergence

from kd.asib import losses

MU = torch.randn(6, 4, dtype=torch.float64)
LOGVAR = torch.randn(6, 4, dtype=torch.float64)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_bottleneck_term_is_the_divergence_from_a_standard_normal(reduction):
    kl = kl_divergence(Normal(MU, (LOGVAR / 2).exp()), Normal(torch.zeros_like(MU), torch.ones_like(MU)))
    expected = getattr(kl, reduction)(dim=1).mean()
    torch.testing.assert_close(losses.ib_kl(MU, LOGVAR, reduction), expected, rtol=1e-12, atol=1e-12)


def test_certainty_is_constant_and_clamped():
    logvar = torch.tensor([[-3.0, -3.0], [9.0, 9.0], [1.0, 1.0]], requires_grad=True)
    weights = losses.certainty(logvar)
    assert not weights.requires_grad
    torch.testing.assert_close(weights, torch.tensor([1.0, 0.1, torch.tensor(-1.0).exp()]))


@pytest.mark.parametrize("epochs", [0.0, 0.5, 1.0, 5.0])
def test_warm_up_is_above_zero_at_the_first_step_and_linear_to_one(epochs):
    assert 0 < losses.warm_up(0.0, epochs) <= 1
    assert losses.warm_up(epochs, epochs) == losses.warm_up(epochs + 3, epochs) == 1
    middle = (losses.warm_up(0.0, epochs) + losses.warm_up(epochs, epochs)) / 2
    assert losses.warm_up(epochs / 2, epochs) == pytest.approx(middle)


def test_soft_kl_is_the_divergence_from_the_target():
    student, target = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    expected = 9 * kl_divergence(Categorical(logits=target / 3), Categorical(logits=student / 3))
    torch.testing.assert_close(losses.soft_kl(student, target, 3.0), expected)


def test_ensemble_term_averages_logits():
    student, one, two = torch.randn(3, 5, 7).unbind()
    expected = losses.soft_kl(student, (one + two) / 2, 2.0)
    torch.testing.assert_close(losses.averaged_soft_kl(student, [one, two], 2.0), expected)
