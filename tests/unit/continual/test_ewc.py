"""EWC against closed forms: the Fisher information of a linear softmax model, and sums of parabolas."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kd.continual.ewc import Anchors, fisher, grow, widened
from kd.models.base import TappedModel
from kd.models.build import build_model
from kd.schema.config import ModelSettings


class Linear(TappedModel):
    """Softmax regression, whose gradients are known in closed form."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__("linear", outputs, ("embedding",))
        self.fc = nn.Linear(inputs, outputs)

    def compute(self, x, taps, keep):
        return self.fc(x.flatten(1))

    @property
    def classifier(self):
        return self.fc

    def blocks(self):
        return []


def softmax_regression():
    generator = torch.Generator().manual_seed(0)
    model = Linear(12, 5).double()
    images = torch.randn(7, 3, 2, 2, generator=generator, dtype=torch.float64)
    return model, images, torch.tensor([0, 1, 2, 3, 4, 0, 1])


def test_fisher_of_softmax_regression_is_the_closed_form():
    """d log p(y|x) / dW = (onehot(y) - p) x^T: its squares are outer products of squares."""
    model, images, labels = softmax_regression()
    found = fisher(model, [(images[:3], labels[:3]), (images[3:], labels[3:])])
    x = images.flatten(1)
    error = F.one_hot(labels, 5) - model(images)[0].detach().softmax(1)
    torch.testing.assert_close(found["fc.weight"], (error.square().T @ x.square() / 7))
    torch.testing.assert_close(found["fc.bias"], error.square().mean(0))


def test_fisher_does_not_depend_on_how_images_come_in_batches():
    model, images, labels = softmax_regression()
    whole = fisher(model, [(images, labels)])
    single = fisher(model, zip(images.split(1), labels.split(1), strict=True))
    assert all(torch.allclose(whole[name], single[name]) for name in whole)


def test_fisher_agrees_with_finite_differences():
    model, images, labels = softmax_regression()
    found = fisher(model, [(images, labels)])["fc.weight"]
    step, weight = 1e-6, model.fc.weight
    squares = torch.zeros(7, dtype=torch.float64)
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            weight[2, 4] += sign * step
            values.append(F.cross_entropy(model(images)[0], labels, reduction="none"))
            weight[2, 4] -= sign * step
        squares = ((values[0] - values[1]) / (2 * step)).square()
    assert found[2, 4].item() == pytest.approx(squares.mean().item(), rel=1e-4)


def test_fisher_covers_trainable_parameters_only_and_leaves_statistics_alone():
    torch.manual_seed(0)
    model = build_model(ModelSettings(arch="resnet8"), 4, 8)
    frozen = next(iter(model.parameters())).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = fisher(model, [(torch.randn(3, 3, 8, 8), torch.tensor([0, 1, 2]))])
    assert found.keys() == {name for name, p in model.named_parameters() if p is not frozen}
    assert all((value >= 0).all() for value in found.values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --- the penalty ----------------------------------------------------------------------------------


def tasks(count):
    """Importance and parameters of several tasks; the head grows by two rows a task."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    shapes = [{"body": (3, 4), "scale": (), "head": (2 * k, 3)} for k in range(1, count + 1)]
    return [({n: draw(*s) for n, s in one.items()}, {n: draw(*s) for n, s in one.items()}) for one in shapes]


def test_the_penalty_is_the_explicit_sum_over_tasks():
    found, now = None, tasks(4)[3][1]
    expected = torch.zeros((), dtype=torch.float64)
    for importance, parameters in tasks(3):
        one = Anchors.of_task(importance, parameters)
        found = one if found is None else found.plus(one)
        for name, weight in importance.items():
            value = now[name] if now[name].shape == weight.shape else now[name][: len(weight)]
            expected += (weight * (value - parameters[name]) ** 2).sum()
    torch.testing.assert_close(found.penalty(now), expected, rtol=1e-12, atol=0)


def test_the_penalty_has_the_gradient_of_the_sum():
    (f1, a1), (f2, a2) = tasks(2)
    both = Anchors.of_task(f1, a1).plus(Anchors.of_task(f2, a2))
    theta = torch.full((3, 4), 0.3, dtype=torch.float64, requires_grad=True)
    both.penalty({**a2, "body": theta}).backward()
    expected = 2 * f1["body"] * (theta - a1["body"]) + 2 * f2["body"] * (theta - a2["body"])
    torch.testing.assert_close(theta.grad, expected.detach())


def test_parameters_that_mattered_to_no_task_cost_nothing():
    nothing = {"body": torch.zeros(2, 2)}
    one = Anchors.of_task(nothing, {"body": torch.ones(2, 2)})
    both = one.plus(Anchors.of_task(nothing, {"body": torch.full((2, 2), 3.0)}))
    theta = torch.full((2, 2), 9.0, requires_grad=True)
    penalty = both.penalty({"body": theta})
    penalty.backward()
    assert penalty.item() == 0
    assert torch.equal(theta.grad, torch.zeros(2, 2)), "no NaN where the importance is 0"


def test_a_kept_penalty_comes_back_whole():
    (f1, a1), _ = tasks(2)
    one = Anchors.of_task(f1, a1)
    again = Anchors(**one.state())
    assert again.penalty(tasks(2)[1][1]) == one.penalty(tasks(2)[1][1])


# --- growing --------------------------------------------------------------------------------------


def test_a_grown_network_gives_the_same_logits_for_the_classes_that_it_knew():
    torch.manual_seed(0)
    small = build_model(ModelSettings(arch="resnet8"), 4, 8).eval()
    large = build_model(ModelSettings(arch="resnet8"), 7, 8).eval()
    new_rows = large.classifier.weight[4:].clone()
    grow(large, small.state_dict())
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(large(images)[0][:, :4], small(images)[0])
    assert torch.equal(large.classifier.weight[4:], new_rows)


def test_widening_by_anything_but_rows_is_a_bug():
    with pytest.raises(AssertionError, match="by rows"):
        widened(torch.zeros(2, 3), torch.zeros(2, 4))
