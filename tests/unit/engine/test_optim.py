"""Schedules, optimisers and their steps, each against values worked out by hand or torch's own."""

import math

import pytest
import torch
from torch import nn

from kd.engine.optim import build_optimizer, clip_norm, descend, lr_factor, set_lr
from kd.engine.precision import Precision
from kd.schema.config import Recipe

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("settings", "epoch", "expected"),
    [
        ({"milestones": [150.0, 180.0, 210.0]}, 149.99, 1.0),
        ({"milestones": [150.0, 180.0, 210.0]}, 150.0, 0.1),
        ({"milestones": [150.0, 180.0, 210.0]}, 239.0, 1e-3),
        ({"milestones": [0.5]}, 119.9, 1.0),
        ({"milestones": [0.5]}, 120.0, 0.1),
        ({"schedule": "constant"}, 200.0, 1.0),
        ({"schedule": "cosine"}, 0.0, 1.0),
        ({"schedule": "cosine"}, 120.0, 0.5),
        ({"schedule": "cosine", "min_lr": 0.005}, 240.0, 0.1),
        ({"schedule": "cosine", "warmup_epochs": 10.0}, 5.0, 0.5),
        ({"schedule": "cosine", "warmup_epochs": 10.0}, 125.0, 0.5),
    ],
)
def test_learning_rate_factor(settings, epoch, expected):
    assert math.isclose(lr_factor(Recipe(epochs=240, **settings), epoch), expected, rel_tol=1e-12)


def test_warm_up_never_starts_at_zero():
    assert lr_factor(Recipe(epochs=10, warmup_epochs=5.0), 0.0) > 0


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_optimizers_scale_groups_and_decay_everything(name):
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = build_optimizer(Recipe(epochs=1, optimizer=name, lr=0.1), [([first], 1.0), ([second], 10.0)], False)
    set_lr(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.5]
    assert all(group["weight_decay"] == 5e-4 for group in optimizer.param_groups)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_optimizers_move_as_torchs_own_and_go_on_from_their_state(name, device):
    recipe, fused = Recipe(epochs=1, optimizer=name, lr=0.1), (device == "cuda") or None
    kinds = {
        "sgd": lambda p: torch.optim.SGD([p], lr=0.1, momentum=0.9, weight_decay=5e-4, fused=fused),
        "adam": lambda p: torch.optim.Adam([p], lr=0.1, weight_decay=5e-4, fused=fused),
        "adamw": lambda p: torch.optim.AdamW([p], lr=0.1, weight_decay=5e-4, fused=fused),
    }
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 8)) for _ in range(2))
    found, expected = build_optimizer(recipe, [([ours], 1.0)], device == "cuda"), kinds[name](theirs)
    for step in range(6):
        if step == 3:
            state = found.state_dict()
            found = build_optimizer(recipe, [([ours], 1.0)], device == "cuda")
            found.load_state_dict(state)
        for parameter, optimizer in ((ours, found), (theirs, expected)):
            optimizer.zero_grad()
            (parameter**3).sum().backward()
            optimizer.step()
    assert torch.equal(ours, theirs)
    assert ours.requires_grad


OPTIMIZERS = {
    "sgd": {},
    "nesterov": {"nesterov": True},
    "without momentum": {"momentum": 0.0},
    "adam": {"optimizer": "adam"},
    "adamw": {"optimizer": "adamw"},
}


def built(parameters, device, **recipe):
    """Return an optimiser as it is built for a device, over parameters on the CPU: fused kernels exist there too."""
    groups = [(parameters[:2], 1.0), (parameters[2:], 10.0)]
    return build_optimizer(Recipe(epochs=1, lr=0.01, **recipe), groups, device == "cuda")


def moved(parameters, optimizer, moving):
    """Take a step that only some of the parameters have a gradient for."""
    optimizer.zero_grad(set_to_none=True)
    torch.stack([(parameters[k] ** 3).sum() for k in moving]).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("recipe", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize("carried", [False, True], ids=["one job", "from job to job"])
def test_parameters_set_free_later_move_as_if_they_were_new_with_a_gpus_kernels_too(recipe, carried):
    """Frozen, free, frozen again and free: whoever has no gradient stays, and its moments with it."""
    found = {}
    for device in ("cpu", "cuda"):
        own = [nn.Parameter(torch.linspace(-1, 1, 8) + k) for k in range(3)]
        optimizer = built(own, device, **recipe)
        for moving in ([0], [0, 1], [0, 1, 2], [1], [0, 2]):
            before = [p.detach().clone() for p in own]
            moved(own, optimizer, moving)
            stayed = [k for k, p in enumerate(own) if torch.equal(p, before[k])]
            assert stayed == [k for k in range(3) if k not in moving]
            if carried:
                state = optimizer.state_dict()
                optimizer = built(own, device, **recipe)
                optimizer.load_state_dict(state)
        found[device] = own
    for plain, fused in zip(found["cpu"], found["cuda"], strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("recipe", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize("here", ["cpu", "cuda"])
def test_a_state_from_another_kind_of_device_is_taken_with_the_kernels_of_this_one(recipe, here):
    there = "cuda" if here == "cpu" else "cpu"
    own = [nn.Parameter(torch.linspace(-1, 1, 8) + k) for k in range(3)]
    before, after = built(own, there, **recipe), built(own, here, **recipe)
    moved(own, before, [0, 1])
    after.load_state_dict(before.state_dict())
    assert [group["fused"] for group in after.param_groups] == [(here == "cuda") or None] * 2
    moved(own, after, [0, 1, 2])
    assert all(torch.isfinite(p).all() for p in own)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_first_step_that_overflows_leaves_no_momentum(device, monkeypatch):
    monkeypatch.setattr(torch, "empty_like", lambda like: torch.full_like(like, torch.nan))  # memory may hold anything
    parameter = nn.Parameter(torch.linspace(-1, 1, 8))
    before = parameter.detach().clone()
    optimizer = build_optimizer(Recipe(epochs=1, lr=0.1, weight_decay=0.0), [([parameter], 1.0)], device == "cuda")
    scaler = Precision("fp16", CPU).scaler()
    for factor in (torch.inf, 1.0):
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(factor * parameter.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    torch.testing.assert_close(parameter, before - 0.1)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 1.0), (0.75, 0.6), (1.0, 0.2)])
def test_clipping_is_held_then_moves_on_a_line(share, expected):
    recipe = Recipe(epochs=10, grad_clip=1.0, grad_clip_final=0.2)
    assert clip_norm(recipe, share) == pytest.approx(expected)
    assert clip_norm(Recipe(epochs=10, grad_clip=1.0), share) == 1.0


def test_schedules_without_what_they_move_are_told():
    with pytest.raises(ValueError, match="grad_clip_final needs a grad_clip"):
        Recipe(epochs=1, grad_clip_final=1.0)
    with pytest.raises(ValueError, match="ema_start_decay needs ema_decay"):
        Recipe(epochs=1, ema_start_decay=0.9)


class Descent:
    """A linear model and the ordinary optimiser step of a training."""

    def __init__(self, precision="fp32", **recipe):
        torch.manual_seed(0)
        self.model = nn.Linear(3, 2)
        self.recipe = Recipe(epochs=1, lr=0.1, **recipe)
        self.optimizer = build_optimizer(self.recipe, [(self.model.parameters(), 1.0)], False)
        self.scaler = Precision(precision, CPU).scaler()

    def loss(self, seed):
        x, y = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(seed))
        return 3 * (self.model(x) - y[:, :2]).square().mean()

    def step(self, total):
        """Take a step and return by how much the parameters moved, one after the other."""
        before, limit = self.values(), clip_norm(self.recipe, 0.0)
        descend(self.optimizer, total, self.scaler, torch.tensor(limit) if limit else None)
        return self.values() - before

    def values(self):
        return torch.cat([p.detach().flatten().clone() for p in self.model.parameters()])

    def gradient(self, seed):
        found = torch.autograd.grad(self.loss(seed), list(self.model.parameters()))
        return torch.cat([gradient.flatten() for gradient in found])


@pytest.mark.parametrize("recipe", [{}, {"optimizer": "adamw"}, {"grad_clip": 0.5}], ids=str)
def test_a_scaled_loss_gives_the_step_of_the_loss_itself(recipe):
    scaled, plain = Descent("fp16", **recipe), Descent("fp32", **recipe)
    for seed in range(3):
        moved = plain.step(plain.loss(seed))
        assert moved.abs().max() > 1e-3
        torch.testing.assert_close(scaled.step(scaled.loss(seed)), moved)
    assert scaled.scaler.get_scale() == 1024.0


@pytest.mark.parametrize("recipe", [{}, {"grad_clip": 0.5}], ids=str)
def test_an_overflow_moves_no_parameter_and_halves_the_scale(recipe):
    here = Descent("fp16", **recipe)
    assert not here.step(here.loss(0) * torch.inf).any()
    assert here.scaler.get_scale() == 512.0
    assert here.step(here.loss(1)).any(), "the next step is an ordinary one"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("share", [0.25, 1.5, 0.0])
def test_clipping_limits_the_norm_of_the_step_and_zero_clips_nothing(precision, share):
    plain = {"momentum": 0.0, "weight_decay": 0.0}
    gradient = Descent(**plain).gradient(0)
    here = Descent(precision, grad_clip=share * gradient.norm().item(), **plain)
    moved = here.step(here.loss(0))
    kept = share if 0 < share < 1 else 1.0
    torch.testing.assert_close(moved, -0.1 * kept * gradient, rtol=1e-4, atol=1e-6)
    if share:
        assert moved.norm() <= 0.1 * here.recipe.grad_clip * (1 + 1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_learning_rates_may_be_float64_tensors_and_move_every_bit_alike(name, device):
    """So a captured step may read them from a timetable; float32 would change Adam's steps."""
    found = []
    for kind in (float, lambda value: torch.tensor(value, dtype=torch.float64)):
        own = [nn.Parameter(torch.linspace(-1, 1, 8) + k) for k in range(3)]
        optimizer = built(own, device, optimizer=name)
        for step in range(6):
            for group in optimizer.param_groups:
                group["lr"] = kind(group["base_lr"] * (1 - 0.013 * step))
            moved(own, optimizer, [0, 1, 2])
        found.append(torch.stack(own))
    assert torch.equal(*found)
