"""The optimiser with a momentum buffer for each branch of the loss, against a plain numpy loop."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from kd.engine.optim import (
    SplitMomentum,
    branch_gradients,
    branch_totals,
    branches,
    build_optimizer,
    descend_by_branch,
    set_lr,
)
from kd.schema.config import Recipe
from kd.tools.errors import UserError

DOT = {"ce": -0.075, "*": 0.075}
RECIPE = {"epochs": 1, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
CPU = torch.device("cpu")
UNSCALED = torch.amp.GradScaler("cpu", enabled=False)

SHARED, CLASSIFIER, PROJECTOR = range(3)
REACHED = {SHARED: (0, 1), CLASSIFIER: (0,), PROJECTOR: (1,)}
"""Which branches reach each of three parameters."""


def gradients(step, branches=2):
    """Return (branch, parameter) gradients in float64; None where the branch does not reach the parameter."""
    rng = np.random.default_rng(step)
    drawn = rng.normal(size=(branches, len(REACHED), 2, 2))
    return [[drawn[k, p] if k in reached else None for p, reached in REACHED.items()] for k in range(branches)]


def as_tensors(arrays):
    return [[None if array is None else torch.tensor(array) for array in branch] for branch in arrays]


def parameters(seed=99):
    drawn = np.random.default_rng(seed).normal(size=(len(REACHED), 2, 2))
    return [nn.Parameter(torch.tensor(array)) for array in drawn]


def by_plain_loop(start, lrs, momentum, delta, decay):
    """Return the three parameters after one step for each learning rate."""
    weights = [array.copy() for array in start]
    buffers = {(k, p): np.zeros((2, 2)) for p, reached in REACHED.items() for k in reached}
    for step, lr in enumerate(lrs):
        drawn = gradients(step)
        for p, reached in REACHED.items():
            before = weights[p].copy()
            for place, k in enumerate(reached):
                own = momentum + (-delta, delta)[k] if len(reached) == 2 else momentum
                gradient = drawn[k][p] + (decay * before if place == 0 else 0)
                buffers[k, p] = own * buffers[k, p] + gradient
                weights[p] = weights[p] - lr * buffers[k, p]
    return weights


def run(optimizer, lrs, first=0):
    for step, lr in enumerate(lrs, start=first):
        set_lr(optimizer, lr / 0.1)
        optimizer.step(as_tensors(gradients(step)))


def build(own, momenta=DOT, **recipe):
    return build_optimizer(Recipe(**RECIPE | recipe), [([*own[:2]], 1.0), ([own[2]], 1.0)], False, momenta)


@pytest.mark.parametrize("delta", [0.0, 0.075])
def test_steps_equal_a_plain_loop(delta):
    own, lrs = parameters(), [0.1, 0.1, 0.05, 0.01]
    start = [p.detach().numpy().copy() for p in own]
    run(build(own, {"ce": -delta, "*": delta}), lrs)
    expected = by_plain_loop(start, lrs, 0.9, delta, 0.01)
    for found, wanted in zip(own, expected, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-12)


def test_without_offsets_it_is_sgd():
    own, other = parameters(), parameters()
    split = build(own, {"ce": 0.0, "*": 0.0})
    sgd = torch.optim.SGD(other, lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(4):
        found = as_tensors(gradients(step))
        split.step(found)
        for p, pair in zip(other, zip(*found, strict=True), strict=True):
            p.grad = sum(gradient for gradient in pair if gradient is not None)
        sgd.step()
    for found, wanted in zip(own, other, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), wanted.detach().numpy(), rtol=1e-12)


def test_groups_have_their_own_learning_rate():
    own = parameters()
    before = [p.detach().clone() for p in own]
    optimizer = build_optimizer(Recipe(**RECIPE | {"weight_decay": 0.0}), [(own[:2], 1.0), (own[2:], 10.0)], False, DOT)
    found = as_tensors(gradients(0))
    optimizer.step(found)
    assert torch.allclose(own[PROJECTOR], before[PROJECTOR] - 1.0 * found[1][PROJECTOR])
    assert torch.allclose(own[CLASSIFIER], before[CLASSIFIER] - 0.1 * found[0][CLASSIFIER])


def test_a_parameter_that_nothing_reaches_stays():
    own = parameters()
    before = own[PROJECTOR].detach().clone()
    optimizer = build(own)
    found = as_tensors(gradients(0))
    found[1][PROJECTOR] = None
    optimizer.step(found)
    assert torch.equal(own[PROJECTOR], before)
    assert own[PROJECTOR] not in optimizer.state


def test_a_restored_optimiser_goes_on_bit_for_bit():
    whole, halves = parameters(), parameters()
    run(build(whole), [0.1] * 4)
    first = build(halves)
    run(first, [0.1] * 2)
    saved = copy.deepcopy(first.state_dict())
    assert {key for state in saved["state"].values() for key in state} == {"momentum_0", "momentum_1"}
    second = build(halves)
    second.load_state_dict(saved)
    run(second, [0.1] * 2, first=2)
    for found, wanted in zip(halves, whole, strict=True):
        assert torch.equal(found, wanted)


# --- from terms to a step ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("momenta", "expected"),
    [
        (DOT, {"ce": -0.075, "*": 0.075}),
        ({"*": 0.1, "ce": -0.1}, {"ce": -0.1, "*": 0.1}),
        ({"ce": -0.1}, {"ce": -0.1, "*": 0.0}),
        ({"kd": 0.05, "crd": 0.1}, {"kd": 0.05, "crd": 0.1, "*": 0.0}),
    ],
)
def test_all_other_terms_are_the_last_branch(momenta, expected):
    assert list(branches(momenta).items()) == list(expected.items())


def test_terms_add_up_by_branch_whatever_method_they_are_of():
    terms = {"kd.ce": 1.0, "kd.kd": 2.0, "crd.ce": 4.0, "crd.crd": 8.0}
    found = branch_totals({name: torch.tensor(value) for name, value in terms.items()}, DOT)
    assert [total.item() for total in found] == [5.0, 10.0]
    assert branch_totals({"ce": torch.tensor(1.0)}, DOT)[1] is None


class Toy(nn.Module):
    """A trunk that both losses reach, a classifier and a projector that one each reaches."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.classifier, self.projector = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 5)

    def totals(self, seed):
        generator = torch.Generator().manual_seed(seed)
        x, target = torch.randn(6, 3, generator=generator), torch.randn(6, 5, generator=generator)
        hidden = self.trunk(x).tanh()
        ce = nn.functional.cross_entropy(self.classifier(hidden), torch.arange(6) % 2)
        return [ce, 3 * (self.projector(hidden) - target).square().mean()]


def optimizer_of(toy):
    return build_optimizer(Recipe(**RECIPE), [(toy.parameters(), 1.0)], False, DOT)


def test_each_branch_has_the_gradient_of_its_own_loss():
    toy = Toy()
    names = [name for name, _ in toy.named_parameters()]
    found = branch_gradients(toy.totals(0), list(toy.parameters()))
    for k, branch in enumerate(found):
        toy.zero_grad()
        toy.totals(0)[k].backward()
        for name, p, gradient in zip(names, toy.parameters(), branch, strict=True):
            assert (gradient is None) == (p.grad is None), name
            assert gradient is None or torch.equal(gradient, p.grad), name
    assert branch_gradients([None, toy.totals(0)[1]], [toy.classifier.weight, toy.trunk.weight])[0] == [None, None]


def test_descending_takes_the_branches_gradients_and_leaves_none_behind():
    first, second = Toy(), Toy()
    optimizers = [optimizer_of(toy) for toy in (first, second)]
    for seed in range(3):
        descend_by_branch(optimizers[0], first.totals(seed), UNSCALED)
        optimizers[1].step(branch_gradients(second.totals(seed), list(second.parameters())))
    for found, wanted in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(found, wanted)
        assert found.grad is None


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_clipping_shrinks_every_branch_by_the_norm_of_their_sum(share):
    toy, plain = Toy(), Toy()
    rows = branch_gradients(plain.totals(0), list(plain.parameters()))
    sums = [sum(g for g in pair if g is not None) for pair in zip(*rows, strict=True)]
    norm = torch.stack([g.norm() for g in sums]).norm().item()
    descend_by_branch(optimizer_of(toy), toy.totals(0), UNSCALED, torch.tensor(share * norm))
    for p, before, gradient in zip(toy.parameters(), plain.parameters(), sums, strict=True):
        moved = before - 0.1 * (min(1.0, share) * gradient + 0.01 * before)
        torch.testing.assert_close(p, moved, rtol=1e-5, atol=1e-7)


def test_scaled_losses_give_the_same_step_and_an_overflow_gives_none():
    scaled, plain = Toy(), Toy()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    descend_by_branch(optimizer_of(plain), plain.totals(0), UNSCALED, torch.tensor(0.5))
    descend_by_branch(optimizer_of(scaled), scaled.totals(0), scaler, torch.tensor(0.5))
    for found, wanted in zip(scaled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, wanted)
    before = [p.detach().clone() for p in scaled.parameters()]
    descend_by_branch(optimizer_of(scaled), [total * torch.inf for total in scaled.totals(1)], scaler)
    assert all(torch.equal(p, old) for p, old in zip(scaled.parameters(), before, strict=True))
    assert scaler.get_scale() == 512.0


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"optimizer": "adam"}, "need recipe.optimizer sgd without nesterov, found adam"),
        ({"nesterov": True}, "found sgd with nesterov"),
        ({"momentum": 0.95}, r"momentum 0.95 with offsets -0.075, \+0.075 .* from 0 to below 1"),
        ({"momentum": 0.0}, "from 0 to below 1"),
    ],
)
def test_recipes_that_cannot_split_momentum_are_user_errors(recipe, message):
    with pytest.raises(UserError, match=message):
        build(parameters(), **recipe)


def test_without_momenta_the_recipe_gives_its_usual_optimiser():
    assert isinstance(build(parameters(), None), torch.optim.SGD)
    assert isinstance(build(parameters(), {}), torch.optim.SGD)
    assert isinstance(build(parameters()), SplitMomentum)
