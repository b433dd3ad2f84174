"""Every method with bfloat16 autocast and with compiled networks, against float32 and eager ones.

Only the networks run in another format or compiled; losses are computed in float32, outside the compiled graphs, in the
engine as well as here. Tolerances:

- bfloat16 keeps 8 bits, so one rounding is off by up to 2^-8. Terms may be off by 8 such roundings (3 %): a few layers
  deep, and differences of like numbers lose some. Gradients have to point the same way (cosine 0.94) and be as long
  within 15 %; the batch is six images, so little averages out.
- A compiled graph runs the same float32 operations: those of the backend that only captures are the same kernels, so
  their results agree to rounding in the last bits; generated code adds up in another order.
"""

import shutil
import subprocess

import pytest
import torch
from method_world import BATCH, CARDS, CPU, PHASES, TWO_HEADS, World, tiny_net
from torch._dynamo.utils import counters
from torch._inductor.cpu_vec_isa import pick_vec_isa

from kd.engine.precision import Precision
from kd.methods.contract import STUDENT
from kd.models.base import StagedNet

BF16_TERM, BF16_COSINE, BF16_LENGTH = 8 * 2.0**-8, 0.94, 0.15
CAPTURED, GENERATED = 1e-5, 1e-3
GRAPHS = 64
"""Graphs that torch may keep of one function: a few for each mode and batch size, and SimKD's own networks."""


def measured(world):
    """Return the terms of every update, and of each one vector of the gradients of all that it trains."""
    terms, gradients = {}, {}
    for stage, update in world.updates():
        world.team.enter(stage)
        torch.manual_seed(0)
        found = world.backward(update, world.batch())
        terms.update({(update.name, term): value.item() for term, (value, _) in found.items()})
        gradients[update.name] = torch.cat([world.gradient(role) for role in sorted(update.trains)])
    return terms, gradients


@pytest.mark.parametrize(("name", "pretrain"), PHASES)
def test_bfloat16_agrees_with_float32(name, pretrain):
    terms, gradients = measured(World(name, pretrain=pretrain))
    rounded_terms, rounded = measured(World(name, pretrain=pretrain, precision=Precision("bf16", CPU)))
    assert rounded_terms == pytest.approx(terms, rel=BF16_TERM, abs=1e-6)
    for update, gradient in gradients.items():
        assert not torch.equal(rounded[update], gradient), "autocast had no effect"
        assert torch.cosine_similarity(rounded[update], gradient, dim=0) >= BF16_COSINE
        assert rounded[update].norm().item() == pytest.approx(gradient.norm().item(), rel=BF16_LENGTH)


def disagreements(eager, compiled, tolerance):
    """Return the terms and the updates' gradients that are further apart than the tolerance, in their own size."""
    (terms, gradients), (found_terms, found) = eager, compiled
    far = [key for key, value in terms.items() if abs(found_terms[key] - value) > tolerance * abs(value) + 1e-7]
    return far + [key for key, g in gradients.items() if (found[key] - g).norm() > tolerance * g.norm()]


def asked_for_everything(world):
    """Make every network return all of its taps, so that all methods share a few graphs."""
    world.team.taps = {role: model.tap_names for role, model in world.team.models.items()}
    return world


@pytest.fixture
def fresh_compiler():
    """A compiler that has seen nothing, and forgets what it saw."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compile_in_place(world, backend, roles):
    """Compile networks without a break in their graphs."""
    for role in roles:
        world.team.models[role].compile(backend=backend, fullgraph=True, dynamic=False)
    return world


def test_captured_networks_agree_with_eager_ones(fresh_compiler):
    """One test for all cards: instances of one network share their graphs within a process."""
    far = {}
    with torch._dynamo.config.patch(recompile_limit=GRAPHS):
        for name, pretrain in PHASES:
            world = asked_for_everything(World(name, pretrain=pretrain))
            compiled = measured(compile_in_place(world, "aot_eager", world.team.models))
            far[name, pretrain] = disagreements(measured(World(name, pretrain=pretrain)), compiled, CAPTURED)
    assert counters["stats"]["unique_graphs"] > 1, "nothing was compiled"
    assert not {phase: keys for phase, keys in far.items() if keys}


def has_compiler():
    """Whether there is what torch generates code for."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    return compiler is not None and subprocess.run([compiler, "--version"], capture_output=True).returncode == 0


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler, which compiled networks need on a CPU")
def test_generated_code_of_a_student_agrees_with_eager(fresh_compiler):
    """One graph, the slow part, serves every method that trains a plain student on batches of the usual size."""
    if not pick_vec_isa():
        pytest.skip("torch generates vector code that does not compile for a processor without vectors")
    far = {}
    nets = (lambda: tiny_net(2, 2), lambda: tiny_net(2, 2))
    for name in (name for name in CARDS if name not in TWO_HEADS):
        world = asked_for_everything(World(name, nets=nets))
        if world.wants.views or len(world.batch().images) != BATCH or type(world.team.models[STUDENT]) is not StagedNet:
            continue
        compiled = measured(compile_in_place(world, "inductor", [STUDENT]))
        far[name] = disagreements(measured(World(name, nets=nets)), compiled, GENERATED)
    assert counters["stats"]["unique_graphs"] > 0, "nothing was compiled"
    assert len(far) > len(CARDS) / 2
    assert not {name: keys for name, keys in far.items() if keys}
