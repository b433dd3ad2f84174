"""Schedules, optimisers, averages, precision, sums: each against values worked out by hand."""

import math
import random

import pytest
import torch
from flips import read_flipped
from torch import nn

from kd.engine.checkpoint import ResumeFile, load_state, restore_rng, rng_state, save_state
from kd.engine.ema import EMA, ema_decay
from kd.engine.history import Sums
from kd.engine.optim import build_optimizer, clip_norm, descend, lr_factor, set_lr
from kd.engine.precision import Precision, choose_precision, set_kernels
from kd.engine.seeds import derived_seed
from kd.record.epochs import write_metrics
from kd.schema.config import Recipe
from kd.tools.errors import DivergenceError, UserError

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
    optimizer = build_optimizer(Recipe(epochs=1, optimizer=name, lr=0.1), [([first], 1.0), ([second], 10.0)], CPU)
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
    found, expected = build_optimizer(recipe, [([ours], 1.0)], torch.device(device)), kinds[name](theirs)
    for step in range(6):
        if step == 3:
            state = found.state_dict()
            found = build_optimizer(recipe, [([ours], 1.0)], torch.device(device))
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
    return build_optimizer(Recipe(epochs=1, lr=0.01, **recipe), groups, torch.device(device))


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
    optimizer = build_optimizer(Recipe(epochs=1, lr=0.1, weight_decay=0.0), [([parameter], 1.0)], torch.device(device))
    scaler = Precision("fp16", CPU).scaler()
    for factor in (torch.inf, 1.0):
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(factor * parameter.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    torch.testing.assert_close(parameter, before - 0.1)


def test_generators_of_a_cpu_can_be_taken_up_on_a_gpu(monkeypatch):
    state, told = rng_state(CPU), []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *arguments: told.append(arguments))
    drawn = torch.rand(3)
    restore_rng(state, torch.device("cuda", 0))
    assert torch.equal(torch.rand(3), drawn)
    assert told == []


def test_ema_moves_by_its_decay_and_copies_buffers():
    model = nn.BatchNorm1d(2)
    ema = EMA(model)
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.running_mean.fill_(3.0)
    ema.update(model, 0.9)
    assert torch.allclose(ema.model.weight, torch.full((2,), 1.1))
    assert torch.equal(ema.model.running_mean, model.running_mean)


@pytest.mark.parametrize(("epoch", "expected"), [(0.0, 0.9), (2.5, 0.945), (5.0, 0.99), (9.0, 0.99)])
def test_ema_decay_rises_on_a_line(epoch, expected):
    recipe = Recipe(epochs=10, ema_decay=0.99, ema_start_decay=0.9)
    assert ema_decay(recipe, epoch) == pytest.approx(expected)
    assert ema_decay(Recipe(epochs=10, ema_decay=0.99), epoch) == 0.99


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


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_was_not_measured_runs_in_float32_on_every_machine(device):
    assert choose_precision("auto", torch.device(device)).name == "fp32"


@pytest.mark.parametrize("name", ["fp16", "tf32"])
def test_formats_of_gpus_are_refused_on_a_cpu(name):
    with pytest.raises(UserError, match=f"recipe.precision: {name} needs a GPU, found a CPU; allowed there are auto"):
        choose_precision(name, CPU)


@pytest.mark.parametrize(("generation", "refused"), [((7, 5), True), ((8, 0), False), ((9, 0), False)])
def test_tf32_is_refused_on_gpus_that_do_not_have_it(monkeypatch, generation, refused):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: generation)
    if not refused:
        assert choose_precision("tf32", torch.device("cuda")).name == "tf32"
        return
    with pytest.raises(UserError, match=r"tf32 needs a GPU of compute capability 8\.0 or later"):
        choose_precision("tf32", torch.device("cuda"))


@pytest.fixture
def tf32_flags():
    """Leave torch's flags as they were found."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("name", ["auto", "fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("before", [True, False])
def test_float32_products_are_rounded_to_tf32_where_that_was_asked_for_by_name_alone(tf32_flags, name, before):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = before
    set_kernels(Recipe(epochs=1, precision=name))
    flags = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    newer = torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    assert flags == (name == "tf32",) * 2
    assert [value == "tf32" for value in newer] == [name == "tf32"] * 2, "torch's newer flags say the same"


def test_tf32_needs_neither_autocast_nor_a_scaler():
    precision = Precision("tf32", torch.device("cuda"))
    with precision.autocast():
        assert not torch.is_autocast_enabled("cuda")
    assert not Precision("tf32", CPU).scaler().is_enabled()


@pytest.mark.parametrize(("name", "enabled"), [("fp32", False), ("bf16", False), ("fp16", True)])
def test_losses_are_scaled_for_fp16_alone(name, enabled):
    # fp16 is refused on a CPU before training, but its scaler can be made there
    scaler = Precision(name, CPU).scaler()
    assert scaler.is_enabled() == enabled
    assert scaler.scale(torch.tensor(1.0)).item() == (1024.0 if enabled else 1.0)


class Descent:
    """A linear model and the ordinary optimiser step of a training."""

    def __init__(self, precision="fp32", **recipe):
        torch.manual_seed(0)
        self.model = nn.Linear(3, 2)
        self.recipe = Recipe(epochs=1, lr=0.1, **recipe)
        self.optimizer = build_optimizer(self.recipe, [(self.model.parameters(), 1.0)], CPU)
        self.scaler = Precision(precision, CPU).scaler()

    def loss(self, seed):
        x, y = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(seed))
        return 3 * (self.model(x) - y[:, :2]).square().mean()

    def step(self, total):
        """Take a step and return by how much the parameters moved, one after the other."""
        before = self.values()
        descend(self.optimizer, total, self.scaler, clip_norm(self.recipe, 0.0))
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


def test_sums_average_over_images_and_name_the_first_bad_step():
    sums = Sums(CPU)
    sums.add("loss", torch.tensor(1.0), 64)
    sums.add("loss", torch.tensor(4.0), 32)
    assert sums.means() == {"loss": 2.0}
    for step, value in enumerate([1.0, math.nan, math.inf]):
        sums.watch("kd", torch.tensor(value), step)
    with pytest.raises(DivergenceError, match="loss kd was not finite at step 2 of 3 in epoch 7"):
        sums.check(7, 3)


def test_metrics_keep_columns_of_all_rows(tmp_path):
    write_metrics(tmp_path / "metrics.csv", [{"epoch": 1, "a": 0.5}, {"epoch": 2, "b": None}])
    assert (tmp_path / "metrics.csv").read_text(encoding="utf-8") == "epoch,a,b\n1,0.5,\n2,,\n"


def test_states_hold_no_code(tmp_path):
    save_state(tmp_path / "state.pt", {"a": torch.ones(2), "rows": [{"epoch": 1}]})
    assert load_state(tmp_path / "state.pt")["rows"] == [{"epoch": 1}]
    torch.save({"bad": nn.Linear(1, 1)}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="cannot be read"):
        load_state(tmp_path / "bad.pt")


def test_flipped_bits_of_a_state_are_noticed_or_change_nothing(tmp_path):
    path, state = tmp_path / "state.pt", {"a": torch.arange(300.0), "rows": [{"epoch": 1, "val_top1": 71.5}]}
    save_state(path, state)
    whole, draws = path.read_bytes(), random.Random(0)
    tensors = whole.index(state["a"].numpy().tobytes())
    for byte in [*range(tensors, tensors + 1200, 31), *draws.sample(range(len(whole)), 60)]:
        found, refusal = read_flipped(path, whole, 8 * byte + draws.randrange(8), lambda: load_state(path))
        assert str(path) in refusal or not refusal
        if not refusal:
            assert not tensors <= byte < tensors + 1200
            assert torch.equal(found["a"], state["a"])
            assert found["rows"] == state["rows"]


def test_a_part_that_is_marked_as_a_folder_is_noticed(tmp_path):
    """Torch would read it without an error, and take its numbers from what memory held before."""
    path, state = tmp_path / "state.pt", {"a": torch.arange(300.0)}
    save_state(path, state)
    whole = path.read_bytes()
    listed = whole.index(b"PK\x01\x02", whole.index(b"byteorderPK\x01\x02") + len("byteorder"))
    _, refusal = read_flipped(path, whole, 8 * (listed + 38) + 4, lambda: load_state(path))
    assert "is damaged (its part archive/data/0 is marked as a folder): delete it" in refusal


def test_a_damaged_resume_file_means_a_new_start(tmp_path, caplog):
    file = ResumeFile(tmp_path / "resume.pt", "stamp")
    file.save({"a": torch.arange(300.0)})
    content = bytearray(file.path.read_bytes())
    content[content.index(torch.arange(300.0).numpy().tobytes()) + 9] ^= 4
    file.path.write_bytes(content)
    assert file.load() is None
    assert "starting from the beginning" in caplog.text
    assert "is damaged" in caplog.text


def test_the_same_state_is_the_same_bytes(tmp_path):
    for name in ("state.pt", "another_name.pt"):
        save_state(tmp_path / name, {"a": torch.ones(2), "rows": [{"epoch": 1}]})
    assert (tmp_path / "state.pt").read_bytes() == (tmp_path / "another_name.pt").read_bytes()


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"cannot write .*resume\.pt: No space left"):
        ResumeFile(tmp_path / "resume.pt", "stamp").save({})
    assert list(tmp_path.iterdir()) == []


def test_seeds_of_different_purposes_differ():
    seeds = {derived_seed(seed, purpose) for seed in range(50) for purpose in ("order", "augmentation", "student")}
    assert len(seeds) == 150
