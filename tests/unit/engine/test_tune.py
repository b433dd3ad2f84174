"""How a network's modes are measured: what is timed, what is tried, and what experiments of a machine share."""

import multiprocessing
import time
from dataclasses import replace

import pytest
import torch
from told import told

from kd.engine.jobs import tune
from kd.engine.jobs.files import Files
from kd.engine.jobs.shelf import Shelf
from kd.engine.modes import Mode
from kd.schema.config import Recipe
from kd.study.job_settings import parse_settings
from kd.tools.files import read_json, write_json

BF16, FP32 = Mode("bf16"), Mode("fp32")
COMPILED_BF16 = Mode("bf16", kernels="compiled")
GPU = torch.device("cuda")


@pytest.fixture
def job(world):
    return parse_settings(told(world("kd").plan, "tune", "digits", "resnet8"))


class Replayed:
    """A graph on a CPU: it takes down what it is asked to do, and replays by doing it."""

    def __init__(self, device):
        self.calls, Replayed.last = [], self

    def run(self, step):
        self.calls.append("run")
        step()

    def waits(self, step):
        self.calls.append("waits")
        step()

    def record(self, step):
        self.calls.append("record")
        self.step = step

    def replay(self):
        self.calls.append("replay")
        self.step()


class Waiting(Replayed):
    """One whose step reads from the device."""

    def waits(self, step):
        return "network.py:7 waits for the GPU"


class OnGpu:
    """What stands for images, or labels, on a GPU."""

    device = GPU

    def __getitem__(self, part):
        return self


BATCH = OnGpu(), OnGpu()


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Let two number formats be measured as on a GPU: a pass takes the seconds that a test says of mode and capture."""

    def prepare(seconds, graph=Replayed):
        asked = []

        def made(job, num_classes, mode, use, images, captured):
            asked.append((mode, captured))
            if (mode, captured) not in seconds:
                raise RuntimeError("no kernel\nat all")
            return lambda images, labels: spent.append(seconds[mode, captured])

        def timed(run, images, labels, times=1):
            spent.clear()
            run(images, labels)
            return spent[-1]

        spent = []
        monkeypatch.setattr(tune, "CudaGraph", graph)
        monkeypatch.setattr(tune, "_pass", made)
        monkeypatch.setattr(tune, "_timed", timed)
        monkeypatch.setattr(tune, "modes_to_try", lambda recipe, device: [BF16, FP32, COMPILED_BF16])
        return asked

    return prepare


def chosen(job, passes=1.0):
    return tune.best(tune.measure(job, 10, BATCH, "trained", passes), passes, "cuda").mode


def test_on_a_gpu_captured_passes_are_compared(on_a_gpu, job):
    """By its launches alone float32 would be chosen."""
    asked = on_a_gpu({(BF16, True): 1.0, (FP32, True): 2.0, (FP32, False): 0.1})
    assert chosen(job) == BF16
    assert asked == [(BF16, True), (FP32, True)], "one pass of a second never earns a compilation back"
    assert Replayed.last.calls[:4] == ["run", "run", "waits", "record"]
    assert set(Replayed.last.calls[4:]) == {"replay"}


def test_a_float32_that_is_faster_when_captured_is_chosen(on_a_gpu, job):
    on_a_gpu({(BF16, True): 2.0, (FP32, True): 1.0})
    assert chosen(job) == FP32


def test_a_compiled_network_is_tried_in_the_best_format_and_captured(on_a_gpu, job):
    asked = on_a_gpu({(BF16, True): 1.0, (FP32, True): 2.0, (COMPILED_BF16, True): 0.7})
    assert chosen(job, 1e5) == COMPILED_BF16
    assert asked[-1] == (COMPILED_BF16, True)


def test_a_gpu_is_not_left_in_float32_because_launches_were_counted(on_a_gpu, job):
    seconds = {(BF16, False): 1.0, (FP32, False): 0.5, (BF16, True): 1.0, (FP32, True): 1.0}
    asked = on_a_gpu(seconds, Waiting)
    found = tune.measure(job, 10, BATCH, "trained", 1.0)
    assert tune.best(found, 1.0, "cuda").mode == BF16
    assert {each.problem for each in found[:2]} == {"network.py:7 waits for the GPU"}
    assert asked == [(BF16, True), (FP32, True), (BF16, False)]


def test_who_launches_kernel_by_kernel_on_request_is_not_left_in_float32_either(on_a_gpu, job):
    asked = on_a_gpu({(BF16, False): 1.0, (FP32, False): 0.5})
    off = job.model_copy(update={"recipe": job.recipe.model_copy(update={"capture": "off"})})
    assert chosen(off) == BF16
    assert asked == [(BF16, False)]


def test_float32_is_what_is_left_where_nothing_else_runs(on_a_gpu, job):
    on_a_gpu({(FP32, False): 0.5})
    found = tune.measure(job, 10, BATCH, "trained", 1.0)
    assert tune.best(found, 1.0, "cuda").mode == FP32
    assert found[0].problem == "no kernel"


def test_a_real_pass_can_be_replayed(job, monkeypatch):
    monkeypatch.setattr(tune, "CudaGraph", Replayed)
    batch = torch.randn(8, 3, 8, 8), torch.zeros(8, dtype=torch.long)
    for use in tune.USES:
        run = tune._captured(tune._pass(job, 10, FP32, use, batch[0], captured=True), *batch)
        run(*batch)
        assert Replayed.last.calls[-1] == "replay"


def test_on_a_cpu_nothing_is_captured(job):
    assert not tune._captures(job.recipe, torch.device("cpu"))
    assert tune._captures(Recipe(epochs=1), GPU)
    assert not tune._captures(Recipe(epochs=1, capture="off"), GPU)


# --- what experiments share ------------------------------------------------------------------------


def measurements(monkeypatch):
    """Count measurements, which then take no time."""
    calls = []

    def measure(job, num_classes, batch, use, passes):
        calls.append(use)
        candidates = [tune.Candidate(mode) for mode in tune.modes_to_try(job.recipe, torch.device("cpu"))]
        candidates[0].rounds.append(1.0 + len(calls))
        return candidates

    monkeypatch.setattr(tune, "measure", measure)
    return calls


def choose(job, world, name, cache, code="digest of the code"):
    files = Files(world("kd").packed, cache.parent / name, code=code)
    tune.tune(job, files, cache)
    return [read_json(files.folder / f"{kind}.json") for kind in ("choice", "measured")]


def test_a_second_experiment_measures_nothing_and_chooses_the_same(job, world, tmp_path, monkeypatch):
    calls = measurements(monkeypatch)
    cache = tmp_path / "cache"
    first, of_first = choose(job, world, "first", cache)
    second, of_second = choose(job, world, "second", cache)
    assert calls == ["trained", "frozen"]
    assert second == first
    assert of_second["measured"] == of_first["measured"]
    assert (of_first["measured_before"], of_second["measured_before"]) == (
        {"trained": False, "frozen": False},
        {"trained": True, "frozen": True},
    )
    contents = [(tmp_path / name / "choice.json").read_bytes() for name in ("first", "second")]
    assert contents[0] == contents[1], "what a training reads, and so its resume file, is the same"


CHANGES = {
    "batch size": lambda job: job.model_copy(update={"recipe": job.recipe.model_copy(update={"batch_size": 16})}),
    "layout": lambda job: job.model_copy(update={"recipe": job.recipe.model_copy(update={"channels_last": True})}),
    "network": lambda job: job.model_copy(update={"student": job.student.model_copy(update={"arch": "wrn_16_1"})}),
    "classes": lambda job: job.model_copy(update={"dataset": {**job.dataset, "class_subset": [0, 1, 2]}}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_a_measurement_depends_on_is_measured_anew(job, world, tmp_path, monkeypatch, change):
    calls = measurements(monkeypatch)
    choose(job, world, "first", tmp_path / "cache")
    choose(change(job), world, "second", tmp_path / "cache")
    assert len(calls) == 4


def test_another_length_of_training_is_not_measured_anew(job, world, tmp_path, monkeypatch):
    calls = measurements(monkeypatch)
    longer = job.model_copy(update={"recipe": job.recipe.model_copy(update={"epochs": 3})})
    choose(job, world, "first", tmp_path / "cache")
    choose(longer, world, "second", tmp_path / "cache")
    assert len(calls) == 2


@pytest.mark.parametrize("what", ["code", "device", "threads", "torch"])
def test_another_machine_or_code_is_measured_anew(job, world, tmp_path, monkeypatch, what):
    calls = measurements(monkeypatch)
    choose(job, world, "first", tmp_path / "cache")
    hardware, versions = tune.hardware, tune.versions
    changed = {"device": {"cpu": "another"}, "threads": {"threads": 99}}.get(what, {})
    monkeypatch.setattr(tune, "hardware", lambda *given: {**hardware(*given), **changed})
    if what == "torch":
        monkeypatch.setattr(tune, "versions", lambda: {**versions(), "torch": "9.9"})
    choose(job, world, "second", tmp_path / "cache", code="another" if what == "code" else "digest of the code")
    assert len(calls) == 4


def test_without_a_digest_of_the_code_nothing_is_shared(job, world, tmp_path, monkeypatch):
    calls = measurements(monkeypatch)
    for name in ("first", "second"):
        choose(job, world, name, tmp_path / "cache", code="")
    assert len(calls) == 4
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"about": 1, "measured": 2}', b"\xff\xfe"])
def test_a_damaged_measurement_is_made_again(job, world, tmp_path, monkeypatch, damage):
    calls = measurements(monkeypatch)
    choose(job, world, "first", tmp_path / "cache")
    for path in (tmp_path / "cache").glob("*.json"):
        path.write_bytes(damage)
    choose(job, world, "second", tmp_path / "cache")
    choose(job, world, "third", tmp_path / "cache")
    assert len(calls) == 4


def test_a_cache_that_takes_no_file_is_done_without(job, world, tmp_path, monkeypatch):
    calls = measurements(monkeypatch)
    (tmp_path / "cache").write_text("a file where the folder should be", encoding="utf-8")
    for name in ("first", "second"):
        choose(job, world, name, tmp_path / "cache")
    assert len(calls) == 4


def test_a_training_long_enough_to_compile_is_measured_again_for_it(job, monkeypatch, tmp_path):
    """The one before it was too short to try; from then on both find what was measured."""
    shelf, tried = Shelf(tmp_path), []
    about = {"use": "trained"}

    def measure(job, num_classes, batch, use, passes):
        candidates = [tune.Candidate(mode) for mode in (FP32, replace(FP32, kernels="compiled"))]
        candidates[0].rounds.append(1.0)
        if tune.pays(tune.LARGEST_GAIN, passes):
            candidates[1].rounds.append(0.7)
        tried.append(passes)
        return candidates

    monkeypatch.setattr(tune, "measure", measure)
    known = [tune._kept(shelf, about, job, 10, BATCH, passes)[1] for passes in (10.0, 20.0, 1e4, 1e5, 10.0)]
    assert known == [False, True, False, True, True]
    assert tried == [10.0, 1e4]


def test_a_row_is_read_back_as_it_was_measured():
    full = tune.Candidate(FP32, 0.25, [0.5], 3.0, "")
    broken = tune.Candidate(BF16, problem="no kernel")
    for each in (full, broken, tune.Candidate(COMPILED_BF16)):
        assert tune.Candidate.of(tune._row(each)) == each


def hold(folder, name, begun, ended):
    with Shelf(folder).alone(name):
        begun.set()
        time.sleep(0.2)
        ended.value = time.monotonic()


def test_who_measures_the_same_waits_and_who_measures_another_does_not(tmp_path):
    context = multiprocessing.get_context("fork")
    begun, ended = context.Event(), context.Value("d", 0.0)
    other = context.Process(target=hold, args=(tmp_path, "one", begun, ended))
    other.start()
    assert begun.wait(30)
    with Shelf(tmp_path).alone("two"):
        assert ended.value == 0.0
    with Shelf(tmp_path).alone("one"):
        assert ended.value > 0.0
    other.join()


def test_a_shelf_tells_measurements_apart_that_its_file_names_do_not(tmp_path, monkeypatch):
    shelf = Shelf(tmp_path)
    shelf.keep({"use": "trained"}, [{"a": 1}])
    (path,) = tmp_path.glob("*.json")
    write_json(path, {"about": {"use": "frozen"}, "measured": [{"a": 2}]})
    assert shelf.read({"use": "trained"}) is None
