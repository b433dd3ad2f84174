"""The benchmark measures what it says: both loops do the same, and everything that is promised is written."""

import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from steps import fitted, loss_of
from torch.utils._python_dispatch import TorchDispatchMode

from kd.engine.modes import Mode
from kd.engine.resolve import build_method
from kd.methods.contract import STUDENT, Batch, Context, Output
from kd.methods.crd import Contrast
from kd.schema.cards import card
from kd.speed import figures
from kd.speed.compare import both_loops, build_engine, build_reference, compare
from kd.speed.host_contrast import GatheredCRD, HostNegatives
from kd.speed.measure import MATRIX, Memory, Stopwatch, matrix_flops
from kd.speed.reference import accuracy
from kd.speed.report import FIELD, hours, method_costs, read
from kd.speed.run import benchmark
from kd.speed.scale import Axis, scale
from kd.speed.settings import LOOPS, STEP_PARTS, method_entries, name_of, parse
from kd.speed.side_by_side import side_by_side
from kd.speed.switches import SWITCHES
from kd.speed.world import World, source_of, synthetic
from kd.study.job_settings import MethodPart
from kd.tools.errors import UserError

STEPS = 5
SCRIPT = Path(__file__).parents[3] / "workflow_scripts" / "benchmark.py"
TINY = {
    "precision": "fp32",  # or kernels would be chosen by a measurement
    "teachers": ["resnet14"],
    "student": "resnet8",
    "batch_size": 8,
    "images": 16,
    "repeats": 2,
    "train_images": 80,
    "classes": 4,
    "image_size": 8,
    "validation": 0.1,
    "workers": 0,
}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # what is held here is what a CPU's figures are
    monkeypatch.setitem(MATRIX, "cpu", 64)


def measured(part: str, folder: Path, **changes) -> tuple[dict, str]:
    """Return what a part leaves in the JSON file, and the report."""
    out = folder / "results" / "benchmark.json"
    benchmark(parse(**{**TINY, "methods": ["kd"], **changes}), part, out)
    (entry,) = read(out).values()
    report_text = (out.parent / "report.md").read_text(encoding="utf-8")
    pictures = {path.name for path in out.parent.iterdir()} - {"benchmark.json", "report.md"}
    assert len(pictures) == 1
    assert f"]({pictures.pop()})" in report_text
    return entry, report_text


def is_spread(found: dict, repeats: int = 2) -> bool:
    return all(
        len(one["values"]) == repeats and 0 < one["min"] <= one["median"] <= one["max"]
        for one in (found["own"], found["wall"])
    )


def test_speed_by_method(tmp_path):
    entry, text = measured("speed", tmp_path, methods=["kd", {"method": "crd", "negatives": 20}])
    assert list(entry["results"]) == ["kd", "crd"]
    for found in entry["results"].values():
        assert is_spread(found["ratio"])
        for loop in LOOPS:
            one = found[loop]
            assert set(one["seconds_by_part"]) == {*STEP_PARTS, "evaluation"}
            assert all(one["seconds_by_part"][part] > 0 for part in (*STEP_PARTS, "evaluation"))
            assert is_spread(one["images_per_second"])
            assert one["flops_per_second"] > 0
            assert one["share_of_peak"] == pytest.approx(
                one["flops_per_second"] / found["matrix_flops_per_second"][loop], rel=1e-3
            )
            assert one["memory_mb"] >= 0
            assert set(one["before_first_step"]) == {"build", "first_step"}
    assert {"torch", "python"} <= set(entry["versions"])
    assert (entry["hardware"]["threads"], entry["clock"]) == (1, "processor")
    assert "| crd |" in text


def test_methods_are_added_to_a_file_under_the_same_conditions_alone(tmp_path):
    out = tmp_path / "benchmark.json"
    for methods in (["ce"], ["kd"]):
        benchmark(parse(**TINY, methods=methods), "speed", out)
    (entry,) = read(out).values()
    assert list(entry["results"]) == ["ce", "kd"]
    assert [one["methods"] for one in entry["measured"]] == [["ce"], ["kd"]]
    benchmark(parse(**{**TINY, "images": 8}, methods=["kd"]), "speed", out)
    (entry,) = read(out).values()
    assert list(entry["results"]) == ["kd"]


def test_a_method_that_cannot_leaves_its_reason(tmp_path, monkeypatch):
    def refuse(world, entry, progress):
        if entry == "at":
            raise UserError("at cannot")
        return compare(world, entry, progress)

    monkeypatch.setattr("kd.speed.run.compare", refuse)
    entry, text = measured("speed", tmp_path, methods=["ce", "at"])
    assert entry["results"]["at"] == {"failed": "at cannot"}
    assert "Not measured: at: at cannot." in text
    with pytest.raises(UserError, match="at cannot"):
        benchmark(parse(**TINY, methods=["at"]), "speed", tmp_path / "other.json")


def test_the_report_is_made_from_the_file_alone(tmp_path):
    measured("contrast", tmp_path, train_images=20_000, batch_size=4, images=4)
    folder = tmp_path / "results"
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in set(kept) - {"benchmark.json"}:
        (folder / name).unlink()
    subprocess.run([sys.executable, SCRIPT, "--report", "--out", folder / "benchmark.json"], check=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept


def test_every_optimisation_is_done_without_in_turn(tmp_path, monkeypatch):
    quick = [switch for switch in SWITCHES if switch.name != "torch.compile"]  # which takes a minute
    monkeypatch.setattr("kd.speed.switches.SWITCHES", quick)
    entry, text = measured("switches", tmp_path)
    expected = {"channels_last", "folded", "resident", "host", "asked once", "deterministic"}
    found = entry["results"]
    assert all(any(word.replace("_", "-") in name for name in found) for word in expected)
    assert all(is_spread(one["gain"]) for one in found.values())
    assert "fused optimiser" not in found  # nothing is fused on a CPU
    assert "| channels-last layout |" in text


def test_side_by_side(tmp_path):
    found = side_by_side(parse(**TINY, methods=["kd"], counts=[1, 2]), tmp_path, lambda text: None)
    assert list(found) == ["1", "2"]
    assert all(is_spread(one["images_per_second"]) for one in found.values())
    assert found["1"]["gain"]["own"]["values"] == [1, 1]


def test_recipe_is_projected_over_all_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr("kd.speed.recipe.PAIRS", (("resnet14", "resnet8"), ("resnet20", "resnet8")))
    entry, text = measured("recipe", tmp_path)
    assert list(entry["results"]) == ["resnet14 → resnet8", "resnet20 → resnet8"]
    assert "once all of kd, hint" in text


def test_projected_hours():
    found = {"engine": {"images_per_second": {"own": {"median": 1000.0}}, "evaluation_seconds_per_image": 1e-4}}
    assert hours(found, "engine") == pytest.approx(240 * (50 + 1) / 3600)


def test_method_costs_need_every_method_of_the_field():
    speed = {"images_per_second": {"own": {"median": 50.0}}}
    results = {name: {"engine": speed} for name in FIELD}
    results["kd"] = {"engine": {"images_per_second": {"own": {"median": 100.0}}}}
    entry = {"part": "speed", "hardware": {"device": "cpu"}, "results": results}
    assert method_costs({"a": entry}, "cpu") == {name: 1.0 if name == "kd" else 2.0 for name in FIELD}
    assert method_costs({"a": entry}, "cuda") is None
    assert method_costs({"a": {**entry, "results": {**results, "at": {"failed": "no"}}}}, "cpu") is None


def test_scale(tmp_path):
    axes = [Axis("batch_size", (4, 8), ("kd",)), Axis("negatives", (5, 9), ("crd",))]
    found = scale(parse(**TINY, methods=["kd"]), tmp_path, lambda text: None, axes)
    assert {name: [point["x"] for point in curve["points"]] for name, curve in found.items()} == {
        "kd by batch_size": [4, 8],
        "crd by negatives": [5, 9],
    }
    assert all(point["ratio"] > 0 for curve in found.values() for point in curve["points"])
    figures.draw_scale(found, tmp_path / "scale.png")
    assert (tmp_path / "scale.png").stat().st_size > 0


def test_one_method_far_out_does_not_squeeze_the_others():
    ratios = {f"m{index}": {"median": 1.2 + index / 100, "min": 1.1, "max": 1.6} for index in range(39)}
    ratios["crd"] = {"median": 6.5, "min": 5.9, "max": 7.2}
    axes = Figure().subplots()
    figures._ranges(axes, ratios, "engine / reference loop")
    assert axes.get_xlim() == pytest.approx((0.9, 1.03 * 1.6))
    (told,) = axes.texts
    assert (told.get_text(), told.get_position()[1]) == ("6.5 (5.9 to 7.2) →", 39)
    assert len(axes.containers) == 39


@pytest.mark.parametrize(
    ("ratios", "out"), [([1.0], []), ([1.0, 6.5], []), ([1.2] * 9 + [1.3], []), ([1.2] * 9 + [2.0], [2.0])]
)
def test_few_ratios_are_never_far_out(ratios, out):
    assert [ratio for ratio in ratios if ratio > figures.fence(ratios)] == out


@pytest.mark.parametrize("method", ["kd", "ce", "at", "dml"])
def test_both_loops_compute_the_same_losses(tmp_path, method):
    world = World(parse(**TINY, methods=[method], augment=False), tmp_path)
    with both_loops(world, method) as pair:
        updates = len(pair.engine.stage.updates)
        pair.reference.run(STEPS - len(pair.reference.losses) // updates)
        pair.engine.run(STEPS - pair.engine.training.stage_run.steps_done)
        per_step = pair.reference.losses[::updates]  # the student's own update comes first
    assert len(per_step) == STEPS
    assert pair.engine.loss() == pytest.approx(statistics.mean(per_step), rel=1e-3)


class Operations(TorchDispatchMode):
    """Counts operations, and reads back to the host among them."""

    def __init__(self) -> None:
        super().__init__()
        self.all = self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.all += 1
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def operations(folder: Path, method: str, loop: str = "engine", **changes) -> Operations:
    """Return what three steps of a loop do."""
    world = World(parse(**{**TINY, "methods": [method], **changes}), folder)
    bench = world.workbench(method, loop == "reference")
    made = build_engine(bench, world) if loop == "engine" else build_reference(bench, world)
    made.run(2)  # the first step folds teachers and counts FLOPs
    if loop == "reference":  # torchvision's transforms read back too, where nothing waits for them
        made.fetch = iter([made.fetch() for _ in range(3)]).__next__
    with Operations() as counted:
        made.run(3)
    return counted


@pytest.mark.parametrize("method", ["kd", "crd", "rkd", "dml"])
def test_a_step_does_as_much_for_any_number_of_images_and_classes_and_reads_nothing_back(tmp_path, method):
    small = operations(tmp_path, method, train_images=160)
    large = operations(tmp_path, method, train_images=1600, classes=40)
    assert small.all == large.all > 0
    assert small.reads == large.reads == 0


def test_the_reference_reads_back_in_every_step(tmp_path):
    assert operations(tmp_path, "kd", "reference").reads == 3 * 3  # loss, top-1 and top-5


def test_gathered_contrast_is_the_methods_loss_on_the_same_negatives():
    images, classes, batch, count = 30, 3, 4, 7
    torch.manual_seed(0)
    labels = torch.arange(images) % classes
    settings = card("crd").resolve({"negatives": count, "embedding_size": 6}, "crd").model_dump()
    method = build_method([MethodPart(card="crd", settings=settings)], 1)
    shapes = {role: {"embedding": torch.Size([5])} for role in (STUDENT, "teacher0")}
    taps = dict.fromkeys(shapes, ("embedding",))
    context = Context(classes, labels, shapes, taps, dict.fromkeys(shapes, ()))
    _, extra = fitted(method, context)
    positions = torch.tensor([3, 11, 20, 28])
    host = HostNegatives(labels.numpy(), classes, count)
    negatives = torch.from_numpy(np.stack([host.draw(int(position)) for position in positions]))
    assert all(len(set(row)) == count for row in negatives.tolist())
    assert not (labels[negatives] == labels[positions][:, None]).any()
    outputs = {role: Output(torch.randn(batch, classes), {"embedding": torch.randn(batch, 5)}) for role in shapes}
    seen = Batch(torch.zeros(batch, 3, 4, 4), labels[positions], positions, labels[positions])
    state = {key: value.clone() for key, value in extra.state_dict().items()}

    counts = torch.zeros(batch, images).scatter_(1, negatives, 1.0)
    extra["sampler"].contrast = lambda *_: Contrast(positions, torch.arange(images), counts)
    expected = loss_of(method, "", seen, outputs, extra)
    remembered = extra["memory"].student.clone()
    extra.load_state_dict(state)
    gathered = GatheredCRD.like(method)
    gathered.negatives = negatives
    found = loss_of(gathered, "", seen, outputs, extra)
    assert found["crd"].item() == pytest.approx(expected["crd"].item(), rel=1e-5)
    assert torch.allclose(extra["memory"].student, remembered)


def test_accuracies_agree_with_a_count():
    logits = torch.tensor([[3.0, 2, 1, 0, -1, -2], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]])
    assert accuracy(logits, torch.tensor([0, 5, 0])) == pytest.approx((200 / 3, 200 / 3))
    assert accuracy(logits, torch.tensor([1, 4, 1])) == pytest.approx((0, 100))


def test_parity_trains_both_loops_on_the_digits(tmp_path):
    digits = {"data": ["digits"], "accuracy_epochs": 1, "seeds": 2, "augment": False}
    entry, text = measured("accuracy", tmp_path, precision="bf16", **digits)
    found = entry["results"]["kd"]
    assert set(found["top1"]) == {"reference", "engine, fp32", "engine, fp32, Winograd", "engine, bf16"}
    assert all(len(top1) == 2 and 0 <= min(top1) <= max(top1) <= 100 for top1 in found["top1"].values())
    assert found["summary"]["reference"]["difference"] == 0
    for loop, one in found["summary"].items():
        paired = [a - b for a, b in zip(found["top1"][loop], found["top1"]["reference"], strict=True)]
        assert one["difference"] == pytest.approx(sum(paired) / 2, abs=1e-3)
        half = 12.706 * abs(paired[0] - paired[1]) / 2  # t of one degree of freedom times sd / sqrt(2)
        assert (one["low"], one["high"]) == pytest.approx((sum(paired) / 2 - half, sum(paired) / 2 + half), abs=2e-2)
    assert "| engine, fp32 |" in text


def test_the_anchor_counts_the_seconds_of_training_until_the_accuracy(tmp_path, monkeypatch):
    """Three epochs of 1, 2 and 4 seconds; the second seed does not get there."""
    top1 = iter([(50.0, 91.0, 80.0), (10.0, 20.0, 30.0)])

    def trained(job, files, on_epoch):
        rows = [{"seconds": s, "val_top1": t} for s, t in zip((1.0, 2.0, 4.0), next(top1), strict=True)]
        return type("Result", (), {"rows": rows})

    monkeypatch.setattr("kd.speed.anchor.train_student", trained)
    entry, text = measured("anchor", tmp_path, data=["digits"], accuracy_epochs=3, seeds=2, train_images=None)
    (found,) = entry["results"].values()
    assert found["runs"][0] == {
        "seconds": [1.0, 3.0, 7.0],
        "top1": [50.0, 91.0, 80.0],
        "reached": 3.0,
        "epoch": 2,
    }
    assert (found["runs"][1]["reached"], found["seconds"]["values"]) == (None, [3.0])
    assert "resnet8 to 90 %: 3.0 (3.0 to 3.0) seconds." in text
    assert "| 1 | - | - | 30.00 |" in text


def test_the_anchor_trains_on_real_images(tmp_path):
    changes = {"data": ["digits"], "accuracy_epochs": 1, "seeds": 1, "train_images": 400, "target": 1.0}
    entry, _ = measured("anchor", tmp_path, **changes)
    (run,) = entry["results"]["resnet8 to 1 %"]["runs"]
    assert run["reached"] == run["seconds"][0] > 0
    with pytest.raises(UserError, match="anchor needs real images"):
        measured("anchor", tmp_path / "other")


def test_an_engine_that_replays_takes_the_steps_of_one_that_does_not(tmp_path, monkeypatch):
    """From epoch to epoch, warm-up and smaller batches included; parts are seen in steps of its own."""
    monkeypatch.setattr("kd.engine.training.replays", lambda device: True)
    monkeypatch.setattr("kd.engine.loop.CudaGraph", Recorded)
    losses = {}
    for capture in ("auto", "off"):
        settings = parse(**TINY, methods=["kd"], recipe={"capture": capture})
        engine = build_engine(World(settings, tmp_path).workbench("kd", reference=False), World(settings, tmp_path))
        assert engine.replays == (capture == "auto")
        engine.run(engine.training.feed.steps + 3)
        engine.run_by_step(1)
        engine.run(1)
        losses[capture] = engine.loss()
    assert losses["auto"] == losses["off"]


class Recorded:
    """A graph of nothing: it takes a step by calling it."""

    def __init__(self, device, generators=()):
        self.step = None

    def run(self, step):
        step()

    def waits(self, step):
        step()

    def record(self, step):
        self.step = step

    def replay(self):
        self.step()


def test_synthetic_images_are_a_packed_folder(tmp_path):
    folder = synthetic(tmp_path, 50, 5, 8)
    settings = parse(**{**TINY, "data": [str(folder)], "train_images": None}, methods=["kd"])
    world = World(settings, tmp_path)
    assert (world.num_classes, world.image_size) == (5, 8)
    modes = world.workbench("kd", reference=True).team.modes.values()
    assert {mode for both in modes for mode in (both.trained, both.frozen)} == {Mode("fp32", False, "torch")}


def test_inner_parts_do_not_count_twice(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 10.0, 11.0, 15.0])  # as each part is entered and left
    monkeypatch.setattr("kd.speed.measure.now", lambda device: next(clock))
    watch = Stopwatch(torch.device("cpu"))

    class Work:
        def outer(self) -> None:
            self.inner()

        def inner(self) -> None:
            pass

    work = Work()
    with watch.watching((work, "outer", "a"), (work, "inner", "b")), watch.part("host"):
        work.outer()
    assert watch.parts == {"host": 5.0, "a": 3.0, "b": 7.0}
    assert not vars(work)  # nothing stays wrapped


def test_memory_counts_what_is_added():
    memory = Memory(torch.device("cpu"))
    held = torch.ones(40, 2**18)  # 40 MB
    assert memory.added() >= 30
    del held
    assert matrix_flops(torch.device("cpu"), "fp32") > 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 1}, r"batch_size: .*found 1"),
        ({"precision": "fp8"}, r"precision: .*found 'fp8'"),
        ({"methods": ["kdd"]}, r"unknown method 'kdd': did you mean"),
        ({"methods": ["kd", "kd"]}, r"methods must differ"),
        ({"student": "resnet9000x"}, r"resnet9000x"),
        ({"repeats": 0}, r"repeats: .*found 0"),
        ({"methods": ["aekd"]}, r"needs several teachers"),
        ({"methods": ["born_again"]}, r"born_again is a chain of runs: time the method of its links, kd"),
    ],
)
def test_bad_options_are_one_sentence(options, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        parse(**{**TINY, "methods": ["kd"], **options})
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="allowed are digits, one folder of images, or archives that exist"):
        World(parse(**{**TINY, "data": [str(tmp_path / "nothing.tar")]}), tmp_path)
    with pytest.raises(UserError, match="1 files of weights for 2 teachers"):
        World(parse(**{**TINY, "teachers": ["resnet14", "resnet20"], "weights": ["one"]}), tmp_path)
    with pytest.raises(UserError, match="accuracy needs real images"):
        benchmark(parse(**TINY), "accuracy", tmp_path / "benchmark.json")
    (tmp_path / "other.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(UserError, match="is no benchmark's JSON file"):
        read(tmp_path / "other.json")


def test_names_on_the_command_line():
    assert method_entries(["dkd", "kd+dot"], 1) == ["dkd", {"name": "kd_dot", "combine": ["kd", "dot"]}]
    every = [name_of(entry) for entry in method_entries(["all"], 1)]
    assert {"kd", "kd_dot"} <= set(every)
    assert not {"asib", "ca_mkd"} & set(every)
    assert {"asib", "ca_mkd"} <= {name_of(entry) for entry in method_entries(["all"], 2)}


def test_folders_of_archives_and_of_images_are_told_apart(tmp_path):
    (tmp_path / "tree" / "train").mkdir(parents=True)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "a.tar.gz").touch()
    (tmp_path / "official" / "cifar-100-python").mkdir(parents=True)
    assert source_of([str(tmp_path / "tree")]).root == str(tmp_path / "tree")
    assert source_of([str(tmp_path / "packed")]).archives == [str(tmp_path / "packed" / "a.tar.gz")]
    (tmp_path / "fetched").mkdir()
    (tmp_path / "fetched" / "cifar-10-python.tar.gz").touch()
    assert source_of([str(tmp_path / "official")]).source == "cifar100"
    assert source_of([str(tmp_path / "fetched")]).source == "cifar10"
    assert source_of(["digits"]).source == "digits"


def script(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, "--threads", "1", *arguments]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, errors="backslashreplace", check=False)


def test_the_script_on_the_digits(tmp_path):
    out = tmp_path / "out" / "benchmark.json"
    pair = ["--pair", "resnet14", "resnet8", "--data", "digits", "--device", "cpu"]
    size = ["--batch-size", 16, "--images", 32, "--repeats", 2, "--workers", 0]
    done = script(*pair, *size, "--recipe", "channels_last=false", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "engine images/s" in done.stdout
    (entry,) = read(out).values()
    assert entry["settings"]["recipe"] == {"channels_last": False}
    assert entry["measured"][0]["command"].endswith(f"--out {out}")
    assert entry["measured"][0]["import_seconds"] > 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--methods", "kdd"], "unknown method 'kdd'"),
        (["--recipe", "channels_last"], "allowed is KEY=VALUE"),
        (["--recipe", "epoch=3"], "did you mean 'epochs'"),
        (["--report"], "does not exist, so there is nothing to report"),
    ],
)
def test_the_script_says_what_is_wrong_and_leaves_nothing(tmp_path, options, sentence):
    done = script(*options, "--out", tmp_path / "out" / "b.json")
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
