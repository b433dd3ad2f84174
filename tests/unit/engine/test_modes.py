"""How networks run: what decides it, that it changes no more than rounding, and that interruptions change nothing."""

import functools

import pytest
import torch
from safetensors.torch import load_file
from told import told

from kd.engine import runner
from kd.engine.jobs import tune
from kd.engine.jobs.evaluate import evaluate_network
from kd.engine.jobs.evaluate_single import evaluate_single
from kd.engine.jobs.files import Files
from kd.engine.jobs.student import train_student
from kd.engine.jobs.teacher_outputs import teacher_outputs
from kd.engine.modes import Mode, Modes, choose_modes, evaluation_mode
from kd.engine.precision import Precision, training_device
from kd.engine.team import Team
from kd.methods._features_first import initial_stage
from kd.methods.contract import STUDENT, Stage, Update
from kd.models import winograd
from kd.models.build import build_model
from kd.schema.config import ModelSettings, Recipe
from kd.study.job_settings import parse_settings
from kd.study.jobs import Jobs
from kd.tools.files import read_json

CPU = torch.device("cpu")
CHOICE = {
    "device": "cpu",
    "trained": {"precision": "fp32", "channels_last": False, "kernels": "winograd"},
    "frozen": {"precision": "bf16", "channels_last": True, "kernels": "compiled"},
}


def test_a_measured_choice_fills_what_the_recipe_leaves_open():
    modes = choose_modes(Recipe(epochs=1), CPU, CHOICE)
    assert modes == Modes(Mode("fp32", False, "winograd"), Mode("bf16", True, "compiled"))
    modes = choose_modes(Recipe(epochs=1, precision="fp32", channels_last=True, kernels="torch"), CPU, CHOICE)
    assert modes.trained == modes.frozen == Mode("fp32", True, "torch")


def test_a_choice_of_another_device_is_left_aside(caplog):
    plain = choose_modes(Recipe(epochs=1), CPU)
    assert choose_modes(Recipe(epochs=1), CPU, {**CHOICE, "device": "cuda"}) == plain
    assert plain.trained.kernels == "torch"
    assert plain.trained.channels_last is True
    assert "chosen on a cuda" in caplog.text


def candidates(*seconds, builds=()):
    found = [tune.Candidate(Mode("fp32", True, str(number)), rounds=[each]) for number, each in enumerate(seconds)]
    for each, build in zip(found, builds, strict=False):
        each.build = build
    return found


@pytest.mark.parametrize(
    ("seconds", "builds", "passes", "chosen"),
    [
        ((1.0, 0.97), (), 1000, 0),  # hardly faster than the simpler mode
        ((1.0, 0.9), (), 1000, 1),
        ((1.0, 0.9, 0.5), (0, 0, 30), 1000, 2),  # 0.4 s a batch earn 3 x 30 s back
        ((1.0, 0.9, 0.5), (0, 0, 30), 200, 1),  # 80 s do not
        ((float("inf"), 0.9), (), 10, 1),
    ],
)
def test_the_fastest_mode_that_pays_its_way_is_chosen(seconds, builds, passes, chosen):
    assert tune.best(candidates(*seconds, builds=builds), passes).mode.kernels == str(chosen)


def test_emulated_bfloat16_is_never_tried(monkeypatch):
    monkeypatch.setattr(tune, "runs_bf16", lambda device: False)
    monkeypatch.setattr(tune, "has_fast_bf16", lambda device: False)
    tried = tune.modes_to_try(Recipe(epochs=1), CPU)
    assert {mode.precision for mode in tried} == {"fp32"}
    assert tried[0] == Mode("fp32", True, "torch")
    assert {mode.kernels for mode in tried} == {"torch", "winograd", "compiled"}
    assert all(mode.channels_last for mode in tried if mode.kernels == "winograd")
    monkeypatch.setattr(tune, "runs_bf16", lambda device: True)
    monkeypatch.setattr(tune, "has_fast_bf16", lambda device: True)
    asked = Recipe(epochs=1, channels_last=True, kernels="torch")
    assert tune.modes_to_try(asked, CPU) == [Mode("bf16", True, "torch"), Mode("fp32", True, "torch")]


def test_a_network_that_fails_in_a_mode_is_measured_in_the_others(world, monkeypatch):
    here = world("kd")
    job = parse_settings(told(here.plan, "tune", "digits", "resnet8"))
    real = tune._pass

    def fails_contiguous(job, num_classes, mode, *rest):
        if not mode.channels_last:
            raise RuntimeError("no kernel\nat all")
        return real(job, num_classes, mode, *rest)

    monkeypatch.setattr(tune, "_pass", fails_contiguous)
    batch = torch.randn(8, 3, 8, 8), torch.zeros(8, dtype=torch.long)
    found = tune.measure(job, 10, batch, "trained", passes=1.0)
    assert {each.problem for each in found if not each.mode.channels_last and each.mode.kernels == "torch"} == {
        "no kernel"
    }
    assert tune.best(found, 1.0).mode.channels_last


def test_a_measurement_writes_a_choice_that_a_training_follows_and_records(world):
    here = world("kd")
    folders = {}
    for name in ("resnet8", "wrn_16_1"):
        folders[name] = here.folder / name
        tune.tune(parse_settings(told(here.plan, "tune", "digits", name)), Files(here.packed, folders[name]))
    choice, measured = (read_json(folders["resnet8"] / f"{name}.json") for name in ("choice", "measured"))
    assert choice["device"] == measured["hardware"]["device"] == training_device().type
    for use, rows in measured["measured"].items():
        (chosen,) = (row for row in rows if choice[use].items() <= row.items())
        assert chosen["seconds_a_batch"] > 0, "which of them it is depends on the machine"
    tried = measured["measured"]["frozen"]
    compiled = [row for row in tried if row["kernels"] == "compiled"]
    assert compiled
    assert all(row["seconds_a_batch"] is None for row in compiled), "two epochs of digits never earn a compilation back"
    assert all(row["seconds_of_trial"] > 0 for row in tried if row["kernels"] == "torch" and row["channels_last"])
    tuned = [folders["resnet8"] / "choice.json", folders["wrn_16_1"] / "choice.json"]
    files = here.files("tuned", tuned=tuned)
    train_student(here.job(), files, lambda row: None)
    record = read_json(files.folder / "run.json")
    assert record["hardware"]["kernels"][STUDENT]["trained"] == choice["trained"]
    assert record["hardware"]["kernels"]["teacher0"]["frozen"] == read_json(tuned[1])["frozen"]
    assert files.digest() != here.files("tuned").digest()


# --- the same numbers -----------------------------------------------------------------------------


def outputs_of(mode, model, images, frozen):
    team = Team({STUDENT: model}, CPU, {STUDENT: Modes(mode, mode)})
    model.eval()
    team.taps[STUDENT] = ("stage2", "embedding")
    team.fold([STUDENT] if frozen else [])
    with torch.no_grad():
        return team.forward(images, Precision("fp32", CPU))[STUDENT]


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize(
    ("mode", "tolerance"),
    [(Mode("fp32", True, "winograd"), 1e-4), (Mode("fp32", True, "torch"), 1e-5), (Mode("bf16", True, "torch"), 5e-2)],
    ids=str,
)
def test_modes_change_outputs_by_rounding_only(mode, tolerance, frozen):
    def network():
        torch.manual_seed(0)
        return build_model(ModelSettings(arch="resnet8x4"), 10, 8)

    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = outputs_of(Mode("fp32", False), network(), images, frozen=False)
    found = outputs_of(mode, network(), images, frozen)
    assert found.logits.dtype == found.taps["embedding"].dtype == torch.float32
    for a, b in [(found.logits, expected.logits), *((found.taps[key], expected.taps[key]) for key in expected.taps)]:
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def test_a_frozen_copy_without_a_norm_left_holds_bfloat16(world):
    model = build_model(ModelSettings(arch="resnet8"), 10, 8).eval()
    run = runner.Runner.frozen(model, Mode("bf16"), torch.randn(2, 3, 8, 8))
    assert {p.dtype for p in run.model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    kept = build_model(ModelSettings(arch="wrn_16_1"), 10, 8).eval()  # a norm before its convolution stays
    run = runner.Runner.frozen(kept, Mode("bf16"), torch.randn(2, 3, 8, 8))
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}


class Interrupted(Exception):
    pass


def captured(monkeypatch):
    """Capture graphs as ever and run them as is: what a C++ compiler makes of them takes a minute."""
    compile_ = functools.partial(torch.compile, backend="aot_eager", dynamic=False)
    monkeypatch.setattr(runner.torch, "compile", lambda model, **options: compile_(model))


def test_frozen_copies_on_a_gpu_keep_torchs_convolutions(monkeypatch):
    """Weights are transformed on the CPU, and only there can Winograd's kernels read them."""
    monkeypatch.setattr(runner, "folded", lambda model, images: model)
    model = build_model(ModelSettings(arch="resnet8x4"), 10, 8).eval().to("meta")
    run = runner.Runner.frozen(model, Mode("fp32", True, "winograd"), torch.zeros(2, 3, 8, 8, device="meta"))
    assert not any(isinstance(module, winograd.WinogradConv2d) for module in run.model.modules())


@pytest.mark.parametrize("kernels", ["winograd", "compiled"])
def test_an_interrupted_run_ends_bit_identical_in_every_kernel(world, monkeypatch, kernels):
    captured(monkeypatch)
    wide = {"resnet8": {"arch": "resnet8x4"}}
    here = world("hint", recipe={"kernels": kernels, "epochs": 2, "precision": "fp32"}, models=wide)
    files = {name: here.files(name) for name in ("whole", "cut")}
    train_student(here.job(), files["whole"], lambda row: None)

    def stop(row):
        raise Interrupted

    with pytest.raises(Interrupted):
        train_student(here.job(), files["cut"], stop)
    train_student(here.job(), files["cut"], lambda row: None)
    records = [read_json(files[name].folder / "run.json") for name in files]
    assert records[0]["flops"] == records[1]["flops"]
    assert records[0]["flops"]["train"] > 0
    first, second = (load_file(files[name].folder / "checkpoints" / "last.safetensors") for name in files)
    assert all(torch.equal(first[key], second[key]) for key in first)
    ran = records[0]["hardware"]["kernels"][STUDENT]["trained"]["kernels"]
    native = winograd.library() is not None and training_device().type == "cpu"
    assert ran == (kernels if kernels == "compiled" or native else "torch")


def test_where_compiling_fails_the_network_runs_as_is_with_one_line(monkeypatch, caplog):
    def refuses(*inputs):
        raise torch._dynamo.exc.TorchDynamoException("no working C++ compiler\nat all")

    monkeypatch.setattr(runner.torch, "compile", lambda model, **options: refuses)
    model = build_model(ModelSettings(arch="resnet8"), 10, 8).eval()
    run = runner.Runner(model, Mode("fp32", False, "compiled"))
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = model(images)[0]
        for _ in range(2):
            assert torch.equal(run(images, ())[0], expected)
    assert len(caplog.messages) == 1
    assert "no working C++ compiler" in caplog.messages[0]


@pytest.mark.parametrize("trains_features_alone", [True, False])
def test_what_no_loss_reaches_takes_no_gradient_in_a_first_stage(monkeypatch, trains_features_alone):
    captured(monkeypatch)
    mode = Mode("fp32", False, "compiled")
    model = build_model(ModelSettings(arch="resnet8"), 10, 8)
    team = Team({STUDENT: model}, CPU, {STUDENT: Modes(mode, mode)})
    team.taps[STUDENT] = ("stage2",)
    update = Update("features", (STUDENT,))
    team.enter(initial_stage("features", 1) if trains_features_alone else Stage("all", (update,)))
    outputs = team.forward(torch.randn(4, 3, 8, 8), Precision("fp32", CPU), frozenset({STUDENT}))
    outputs[STUDENT].taps["stage2"].square().mean().backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())
    assert (model.classifier.weight.grad is None) == trains_features_alone, "what the stages' rule is for"


def test_one_shape_is_compiled_and_the_last_batch_runs_as_is(monkeypatch):
    seen = []

    def compile_(model, **options):
        def run(images, taps):
            seen.append(len(images))
            return model(images, taps)

        return run

    monkeypatch.setattr(runner.torch, "compile", compile_)
    model = build_model(ModelSettings(arch="resnet8"), 10, 8)
    run = runner.Runner(model, Mode("fp32", False, "compiled"))
    for size in (4, 4, 3, 4):
        run(torch.randn(size, 3, 8, 8), ())
    assert seen == [4, 4, 4]


# --- what ran, and who says so ----------------------------------------------------------------------


def test_a_job_of_each_kind_asks_for_float32(world, tmp_path, monkeypatch):
    """cuDNN's convolutions are rounded to TF32 until somebody says otherwise."""
    here = world("kd", recipe={"precision": "fp32"})
    files, teacher = here.files("run"), here.files("asked").teachers[:1]
    outputs = parse_settings(told(here.plan, "teacher_outputs", "digits", "wrn_16_1", 0))
    best = files.folder / "checkpoints" / "best.safetensors"
    kinds = {
        "training": lambda: train_student(here.job(), files, lambda row: None),
        "evaluation": lambda: evaluate_network(here.job(), here.packed, best),
        "single": lambda: evaluate_single(here.job(), here.packed, best),
        "outputs": lambda: teacher_outputs(outputs, Files(here.packed, tmp_path / "outputs", teachers=teacher)),
    }
    for kind, run in kinds.items():
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
        run()
        assert not torch.backends.cudnn.allow_tf32, kind


def test_a_log_says_how_each_network_runs_and_the_record_what_ran(world, caplog, monkeypatch):
    caplog.set_level("INFO")
    here = world("kd")
    here.train("plain")
    assert (
        "student resnet8 in fp32, channels-last, torch; teacher0 wrn_16_1 in fp32, channels-last, torch" in caplog.text
    )
    monkeypatch.setattr(winograd, "library", lambda: None)
    world("kd", recipe={"kernels": "winograd"}).train("without a compiler")
    for run in ("plain", "without a compiler"):
        record = read_json(here.folder / run / "run.json")["hardware"]["kernels"]
        plain = {"precision": "fp32", "channels_last": True, "kernels": "torch"}
        assert record == {role: {"trained": plain, "frozen": plain} for role in ("student", "teacher0")}, run


@pytest.mark.parametrize(
    ("mode", "device", "ran"),
    [
        (Mode("fp32", True, "winograd"), "cuda", "torch"),
        (Mode("bf16", True, "winograd"), "cpu", "torch"),
        (Mode("fp32", True, "compiled"), "cpu", "compiled"),
        (Mode("fp32", True, "torch"), "cpu", "torch"),
    ],
    ids=str,
)
def test_kernels_that_a_device_or_format_does_not_have_are_not_recorded(mode, device, ran):
    model = build_model(ModelSettings(arch="resnet8x4"), 10, 8)
    assert runner.as_run(model, mode, torch.device(device)).kernels == ran


def test_finished_weights_are_evaluated_by_the_recipe_and_never_compiled():
    assert evaluation_mode(Recipe(epochs=1), CPU) == Mode("fp32", True, "torch")
    assert evaluation_mode(Recipe(epochs=1, precision="bf16", kernels="compiled"), CPU) == Mode("bf16")


def test_a_measurement_on_a_gpu_never_picks_tf32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert {mode.precision for mode in tune.modes_to_try(Recipe(epochs=1), torch.device("cuda"))} == {"bf16", "fp32"}


# --- which measurements an experiment asks for ----------------------------------------------------


def test_only_long_trainings_that_leave_the_precision_open_ask_for_measurements(world):
    def tuned(here):
        return Jobs(here.plan).of("train_student", here.run).inputs["tuned"]

    assert tuned(world("kd")) == []
    long = world("kd", recipe={"epochs": 400})
    home = "results/unit/digits/tuned"
    assert tuned(long) == [f"{home}/resnet8/choice.json", f"{home}/wrn_16_1/choice.json"]
    teacher = Jobs(long.plan).of("train_teacher", "digits", "resnet14", 0)
    assert teacher.inputs["tuned"] == [f"{home}/resnet14/choice.json"]
    assert tuned(world("kd", recipe={"epochs": 400, "precision": "fp32"})) == []


def test_networks_that_are_built_the_same_are_measured_once(world):
    here = world("kd", recipe={"epochs": 400}, models={"resnet14": {"arch": "resnet8"}})
    assert here.plan.built_as["resnet14"] == here.plan.built_as["resnet8"]
