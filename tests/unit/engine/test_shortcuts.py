"""Ways around torch's own: each still avoids what it is there to avoid, and torch still does it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import kd
from kd.engine.shortcuts import SGD

HEAD = "import torch; p = torch.nn.Parameter(torch.ones(2))"
MOVE = "p.sum().backward(); o.step(); o.zero_grad(); o.load_state_dict(o.state_dict())"
OURS = {
    **{
        name: f"from kd.engine.shortcuts import {name}; o = {name}([p], lr=0.1); {MOVE}"
        for name in ("SGD", "Adam", "AdamW")
    },
    "flops": "from kd.engine.flops import FlopCounter\nwith FlopCounter(): torch.ones(2, 2) @ torch.ones(2, 2)",
    "deterministic": "from kd.engine.precision import make_deterministic; make_deterministic(True)",
}
TORCHS = {
    "optimizers": f"o = torch.optim.SGD([p], lr=0.1); {MOVE}",
    "flops": (
        "from torch.utils.flop_counter import FlopCounterMode\n"
        "with FlopCounterMode(display=False): torch.ones(2, 2) @ torch.ones(2, 2)"
    ),
    "deterministic": "torch.use_deterministic_algorithms(True, warn_only=True)",
}


def imports_the_compiler(*lines):
    """Run lines in a process of their own and return whether torch's compiler was imported."""
    code = "\n".join([HEAD, *lines, "import sys; print('torch._dynamo' in sys.modules)"])
    library = str(Path(kd.__path__[0]).parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        errors="backslashreplace",
        check=True,
        env={"PYTHONPATH": library},
    )
    return done.stdout.strip() == "True"


def test_none_of_them_imports_the_compiler():
    # torch fills new tensors where kernels are deterministic, a pass over memory that `make_deterministic` turns off
    fills = "torch.utils.deterministic.fill_uninitialized_memory"
    assert not imports_the_compiler(f"assert {fills}", *OURS.values(), f"assert not {fills}")


@pytest.mark.parametrize("way", TORCHS)
def test_torchs_own_way_still_imports_the_compiler(way):
    """Where it no longer does, the shortcut has served its time and goes."""
    assert imports_the_compiler(TORCHS[way])


def momentum_after_an_overflow(kind):
    """Return what a fused optimiser remembers of a parameter that a scaler kept from moving."""
    parameter = nn.Parameter(torch.ones(3))
    optimizer = kind([parameter], lr=0.1, momentum=0.9, fused=True)
    optimizer.found_inf, optimizer.grad_scale = torch.ones(()), torch.ones(())  # as torch.amp.GradScaler tells it
    parameter.grad = torch.full((3,), torch.inf)
    optimizer.step()
    return optimizer.state[parameter]["momentum_buffer"]


def moved_by_a_later_stage(kind):
    """Return a parameter that a fused optimiser moves while another one has moved before."""
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = kind([first, second], lr=0.1, momentum=0.9, fused=True)
    for parameters in ([first], [first, second]):
        for parameter in parameters:
            parameter.grad = torch.ones(3)
        optimizer.step()
    return second.detach()


def test_fused_momenta_begin_at_nothing(monkeypatch):
    monkeypatch.setattr(torch, "empty_like", lambda like: torch.full_like(like, torch.nan))  # memory may hold anything
    assert torch.equal(momentum_after_an_overflow(SGD), torch.zeros(3))
    torch.testing.assert_close(moved_by_a_later_stage(SGD), torch.full((3,), 0.9))


def test_torchs_fused_momenta_still_begin_at_whatever_memory_held(monkeypatch):
    monkeypatch.setattr(torch, "empty_like", lambda like: torch.full_like(like, torch.nan))
    assert momentum_after_an_overflow(torch.optim.SGD).isnan().all()
    with pytest.raises((RuntimeError, TypeError)):
        moved_by_a_later_stage(torch.optim.SGD)
