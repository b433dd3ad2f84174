"""Methods trained side by side end as if each had been trained alone, interrupted or not."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from interrupted import Interrupted
from safetensors.torch import load_file
from told import told

from kd.analysis.collect import row_of
from kd.analysis.rows import PlannedRun
from kd.engine.jobs import room, students
from kd.engine.jobs.student import train_student
from kd.engine.jobs.students import train_students
from kd.engine.jobs.workbench import prepare
from kd.engine.teachers import FrozenForward
from kd.study.digests import SCRIPTS
from kd.study.job_settings import parse_settings
from kd.study.jobs import Jobs
from kd.study.jobs.reports import rows
from kd.tools.errors import DivergenceError
from kd.tools.files import read_json, write_json

METHODS = ["kd", {"method": "crd", "negatives": 32}, "hint", {"method": "hint", "two_stage": True, "hint_epochs": 1}]


@pytest.fixture
def worlds(world):
    return [world(method) for method in METHODS]


def files_of(worlds, name):
    return [here.files(f"{name}/{number}") for number, here in enumerate(worlds)]


def together(worlds, name, on_epoch=lambda row: None):
    return train_students([here.job() for here in worlds], files_of(worlds, name), on_epoch)


def stop_at(count, train):
    """Interrupt a training when it has told of so many epochs."""
    told = []

    def stop(row):
        told.append(row)
        if len(told) == count:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(stop)


def assert_equal_runs(worlds, first, second):
    for number, here in enumerate(worlds):
        for kept in ("best", "last"):
            a, b = (
                load_file(here.folder / name / str(number) / "checkpoints" / f"{kept}.safetensors")
                for name in (first, second)
            )
            assert all(torch.equal(a[key], b[key]) for key in a), f"method {number}, {kept}"


def test_each_run_ends_bit_identical_to_a_run_alone(worlds):
    results = together(worlds, "together")
    for here, files in zip(worlds, files_of(worlds, "alone"), strict=True):
        train_student(here.job(), files, lambda row: None)
    assert_equal_runs(worlds, "together", "alone")
    alone = [here.folder / "alone" / str(number) / "run.json" for number, here in enumerate(worlds)]
    flops = [read_json(path)["flops"]["train"] for path in alone]
    assert [result.flops for result in results] == pytest.approx(flops)


def test_seeds_side_by_side_end_as_alone_and_share_images_and_teachers(world, monkeypatch):
    """Each has its own order of images; one of two methods is interrupted in the middle of the group."""
    kd, hint = world("kd"), world("hint")
    jobs = [here.job().model_copy(update={"seed": seed}) for seed in (0, 5) for here in (kd, hint)]
    together_in, alone_in = ([kd.files(f"{name}/{number}") for number in range(4)] for name in ("together", "alone"))
    stop_at(5, lambda on_epoch: train_students(jobs, together_in, on_epoch))
    benches = []
    monkeypatch.setattr(students, "prepare", lambda *given: benches.append(prepare(*given)) or benches[-1])
    train_students(jobs, together_in, lambda row: None)
    first, *others = benches
    assert all(bench.data is first.data for bench in others)
    assert all(bench.team.models["teacher0"] is first.team.models["teacher0"] for bench in others)
    for job, files in zip(jobs, alone_in, strict=True):
        train_student(job, files, lambda row: None)
    assert_equal_runs([kd] * 4, "together", "alone")
    weights = [load_file(files.folder / "checkpoints" / "last.safetensors") for files in alone_in]
    assert not all(torch.equal(value, weights[2][key]) for key, value in weights[0].items()), "seeds differ"


@pytest.mark.parametrize("epochs_told", [1, 3, 6])
def test_an_interrupted_group_ends_bit_identical(worlds, epochs_told):
    """The interruption falls between two methods' ends of an epoch, so that some are ahead when they go on."""
    together(worlds, "whole")
    stop_at(epochs_told, lambda on_epoch: together(worlds, "broken", on_epoch))
    together(worlds, "broken")
    assert_equal_runs(worlds, "whole", "broken")


def test_teachers_run_once_for_all(worlds, monkeypatch):
    calls, files = [], files_of(worlds, "together")  # the teachers are trained here, before anything is counted
    original = FrozenForward._outputs
    monkeypatch.setattr(FrozenForward, "_outputs", lambda self, *rest: calls.append(1) or original(self, *rest))
    results = train_students([here.job() for here in worlds], files, lambda row: None)
    steps = -(-160 // parse_settings(told(worlds[0].plan, "train_student", worlds[0].run)).recipe.batch_size)
    longest = max(len(result.rows) for result in results)
    assert len(calls) == steps * longest


def test_a_training_that_diverges_ends_alone(world, tmp_path):
    """The others end as they do without it; its folder says why, and holds the weights that it began with."""
    methods = [{"method": "kd", "recipe": {"lr": 1e30}}, "kd", {"method": "crd", "negatives": 32}]
    group = [world(method) for method in methods]
    outcomes = together(group, "group")
    assert isinstance(outcomes[0], DivergenceError)
    assert "loss" in str(outcomes[0])
    together(group[1:], "others")
    for number, here in enumerate(group[1:]):
        for kept in ("best", "last"):
            first = load_file(here.folder / "group" / str(number + 1) / "checkpoints" / f"{kept}.safetensors")
            second = load_file(here.folder / "others" / str(number) / "checkpoints" / f"{kept}.safetensors")
            assert all(torch.equal(first[key], second[key]) for key in first)
    failed = group[0].folder / "group" / "0"
    record = read_json(failed / "run.json")
    assert record["status"] == "failed"
    assert record["reason"] == str(outcomes[0])
    weights = load_file(failed / "checkpoints" / "last.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert (failed / "metrics.csv").exists()
    alone = {"teacher_paths": [], "prestage_paths": [], "taught_by": [], "made": {"steps": [], "before": []}}
    planned = PlannedRun(**{**rows(Jobs(group[0].plan))[0], "path": str(failed), **alone})
    assert row_of(planned, {}).status == "missing", "a run that diverged has nothing to evaluate"


def test_a_group_that_diverges_as_a_whole_is_an_error(world):
    group = [world({"method": name, "recipe": {"lr": 1e30}}) for name in ("kd", "ce")]
    with pytest.raises(DivergenceError, match="diverged"):
        together(group, "group")


def test_the_script_leaves_a_log_in_the_folder_of_each_run_and_does_without_the_compiler(worlds):
    script = SCRIPTS / "train_students.py"
    pairs = list(zip(worlds[:2], files_of(worlds[:2], "script"), strict=True))
    runs = [
        {
            **{"settings": told(here.plan, "train_student", here.run), "code": "test", "folder": str(files.folder)},
            **{"record": str(files.folder / "made" / "train_student.json"), "identity": "asked"},
            **{"outputs": [], "pretrained": [], "tuned": [], "title": here.run.method},
        }
        for here, files in pairs
    ]
    teachers = [str(path) for path in pairs[0][1].teachers]
    listed = pairs[0][1].folder.parent / "runs.json"
    write_json(listed, runs)
    arguments = ["--runs", str(listed), "--data", str(worlds[0].packed), "--teachers", *teachers]
    command = [sys.executable, "-X", "importtime", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="backslashreplace", check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines(keepends=True)
    imports = [line for line in lines if line.startswith("import time:")]
    assert [line for line in imports if "torch._C" in line], "the imports are listed"
    assert [line for line in imports if "torch._dynamo" in line or "torch._inductor" in line] == []
    together = f"{pairs[0][0].run.method}, {pairs[1][0].run.method} side by side: "
    on_terminal = [line for line in lines if line not in imports]
    assert all(together in line for line in on_terminal)
    logged = "".join(line.replace(together, "", 1) for line in on_terminal)
    for _, files in pairs:
        assert (files.folder / "run.json").exists()
        assert read_json(files.folder / "made" / "train_student.json")["identity"] == "asked"
        assert (files.folder / "train.log").read_text(encoding="utf-8") == logged


FEW_MORE = {"subset_size": 210}
"""168 images: five batches and a smaller one."""

# --- one graph for all -----------------------------------------------------------------------------


class Graph:
    """A graph of nothing: it takes a step by calling it, and notes what it was asked."""

    def __init__(self, device, generators=()):
        self.asked = []

    def run(self, step):
        self.asked.append("run")
        step()

    def waits(self, step):
        self.run(step)

    def record(self, step):
        self.asked.append("record")
        self.step = step

    def replay(self):
        self.asked.append("replay")
        self.step()


class OfSeveral(Graph):
    """That of students side by side, which knows them."""

    made: list["OfSeveral"] = []
    refused = ""
    """A method whose steps cannot be recorded."""

    def __init__(self, device, generators=()):
        super().__init__(device, generators)
        OfSeveral.made.append(self)

    def run(self, step):
        super().run(step)
        self.methods = [companion.training.method.name for companion in step.func.__self__.companions]

    def waits(self, step):
        self.run(step)
        return "own.py:7 waits for the GPU" if OfSeveral.refused in self.methods else None


@pytest.fixture
def graphs(monkeypatch, world):
    """Lay steps out for replay on the CPU, where such graphs stand for those of a GPU; teachers are trained before."""
    for images in ({}, FEW_MORE):
        world("kd", dataset=images).files("teachers")
    monkeypatch.setattr("kd.engine.training.replays", lambda device: True)
    monkeypatch.setattr("kd.engine.loop.CudaGraph", Graph)
    monkeypatch.setattr("kd.engine.cotraining.CudaGraph", OfSeveral)
    monkeypatch.setattr(OfSeveral, "made", [])
    monkeypatch.setattr(OfSeveral, "refused", "")
    return OfSeveral.made


def alone_and_together(worlds, jobs):
    """Train each of some jobs alone and all side by side, and return what side by side left."""
    files = {name: [worlds[0].files(f"{name}/{number}") for number in range(len(jobs))] for name in ("alone", "side")}
    for job, alone in zip(jobs, files["alone"], strict=True):
        train_student(job, alone, lambda row: None)
    return train_students(jobs, files["side"], lambda row: None)


def jobs_of(worlds, *seeds):
    return [here.job().model_copy(update={"seed": seed}) for seed in seeds for here in worlds]


def test_steps_of_all_are_one_graph_and_end_as_alone(world, graphs):
    """Two seeds of methods that draw, that prepare and that train in stages; 160 images are five equal batches."""
    worlds = [world(method, recipe={"epochs": 3}) for method in METHODS]
    results = alone_and_together(worlds, jobs_of(worlds, 0, 5))
    assert_equal_runs(worlds * 2, "alone", "side")
    # all until a first stage of one epoch ends, all from then on, and those that had that epoch more
    assert [len(graph.methods) for graph in graphs] == [8, 8, 2]
    assert all(graph.asked.count("record") == 1 for graph in graphs)
    assert all(result.seconds > 0 for result in results)


def test_a_smaller_last_batch_and_another_draw_within_steps_change_nothing(world, graphs):
    dropping = {"method": "kd", "name": "other", "recipe": {"mixup_alpha": 0.4}}
    worlds = [world(method, recipe={"epochs": 3}, dataset=FEW_MORE) for method in ("kd", dropping, "dml")]
    alone_and_together(worlds, jobs_of(worlds, 3))
    assert_equal_runs(worlds, "alone", "side")


BALANCED = {
    "name": "balanced",
    "combine": [{"method": "rkd", "embed": "logits", "per_class": 5}, {"method": "kd", "ce_weight": 0.0}],
}


@pytest.mark.parametrize("methods", [["kd", BALANCED], [BALANCED, "kd"]], ids=["drawn_last", "drawn_first"])
def test_students_whose_last_batches_differ_take_no_steps_at_once(world, graphs, methods):
    """Batches of classes that are drawn are always full; those that an epoch goes through end with a smaller one."""
    worlds = [world(method, recipe={"epochs": 3}, dataset=FEW_MORE) for method in methods]
    alone_and_together(worlds, jobs_of(worlds, 0))
    assert_equal_runs(worlds, "alone", "side")


def test_one_that_cannot_be_recorded_keeps_no_other_from_it(world, graphs, monkeypatch, caplog):
    monkeypatch.setattr(OfSeveral, "refused", "hint")
    worlds = [world(method, recipe={"epochs": 4}) for method in ("kd", "at", "hint", "crd")]
    alone_and_together(worlds, jobs_of(worlds, 0))
    assert_equal_runs(worlds, "alone", "side")
    assert [graph.methods for graph in graphs] == [
        ["kd", "at", "hint", "crd"],
        ["kd", "at"],
        ["hint", "crd"],
        ["hint"],
        ["crd"],
    ]
    recorded = [graph.methods for graph in graphs if "record" in graph.asked]
    assert recorded == [["kd", "at"], ["crd"]]
    assert "the step of 4 students side by side cannot be captured" in caplog.text
    assert "stage 'train' of method hint cannot be captured" in caplog.text


def test_one_that_diverges_leaves_the_graph_of_the_others(world, graphs):
    worlds = [world(method, recipe={"epochs": 3}) for method in ({"method": "kd", "recipe": {"lr": 1e30}}, "kd", "at")]
    jobs = jobs_of(worlds, 0)
    files = [worlds[0].files(f"side/{number}") for number in range(3)]
    outcomes = train_students(jobs, files, lambda row: None)
    assert isinstance(outcomes[0], DivergenceError)
    for number in (1, 2):
        train_student(jobs[number], worlds[0].files(f"alone/{number}"), lambda row: None)
        first, second = (
            load_file(worlds[0].folder / name / str(number) / "checkpoints" / "last.safetensors")
            for name in ("side", "alone")
        )
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert [len(graph.methods) for graph in graphs] == [3, 2]


def test_an_interrupted_graph_of_all_ends_bit_identical(world, graphs):
    worlds = [world(method, recipe={"epochs": 3}) for method in ("kd", {"method": "crd", "negatives": 32})]
    jobs = jobs_of(worlds, 0, 5)
    files = {name: [worlds[0].files(f"{name}/{number}") for number in range(4)] for name in ("whole", "broken")}
    train_students(jobs, files["whole"], lambda row: None)
    stop_at(6, lambda on_epoch: train_students(jobs, files["broken"], on_epoch))
    train_students(jobs, files["broken"], lambda row: None)
    assert_equal_runs(worlds * 2, "whole", "broken")


# --- room --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("needs", "free", "sets"),
    [
        ([3, 3, 3], 9, [[0, 1, 2]]),
        ([3, 3, 3], 8, [[0, 1], [2]]),
        ([3, 9, 3, 3], 8, [[0], [1], [2, 3]]),
        ([10], 8, [[0]]),
        ([1, 7, 1, 7], 8, [[0, 1], [2, 3]]),
    ],
)
def test_students_that_fit_are_trained_at_once_and_the_others_after_them(needs, free, sets):
    assert room.in_sets(needs, free) == sets


def test_room_on_a_gpu_is_measured_once_for_all_seeds_of_a_method(world, monkeypatch, caplog):
    measured = []

    def taken(job, files, companion):
        measured.append(job.method[0].card)
        return {"kd": 10, "at": 30}[job.method[0].card]

    monkeypatch.setattr(room, "taken", taken)
    monkeypatch.setattr(room, "free_memory", lambda device: 100)
    jobs = [world(name).job().model_copy(update={"seed": seed}) for seed in (0, 1) for name in ("kd", "at")]
    on_gpu = SimpleNamespace(team=SimpleNamespace(device=torch.device("cuda")))
    assert room.fitting(jobs, [None] * 4, on_gpu) == [[0, 1], [2, 3]], "80 of 85 twice, for a graph holds its own"
    assert measured == ["kd", "at"]
    assert "they are trained in 2 sets" in caplog.text
    on_cpu = SimpleNamespace(team=SimpleNamespace(device=torch.device("cpu")))
    assert room.fitting(jobs, [None] * 4, on_cpu) == [[0, 1, 2, 3]]


def test_sets_end_as_one_and_in_the_order_of_the_jobs(worlds, monkeypatch):
    together(worlds, "whole")
    monkeypatch.setattr(students, "fitting", lambda jobs, folders, companion: [[0, 2], [1], [3]])
    outcomes = together(worlds, "in_sets")
    assert_equal_runs(worlds, "whole", "in_sets")
    assert [len(outcome.rows) for outcome in outcomes] == [2, 2, 2, 3]
