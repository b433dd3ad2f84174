"""The benchmark measures what it says: both loops do the same, and everything that is promised is written."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kd.benchmark.compare import LOOPS, PARTS, make_pair
from kd.benchmark.host_contrast import GatheredCRD, HostNegatives
from kd.benchmark.measure import MATRIX, Memory, Stopwatch, matrix_flops
from kd.benchmark.parity import parity
from kd.benchmark.reference import accuracy
from kd.benchmark.run import Extras, benchmark
from kd.benchmark.scale import Axis
from kd.benchmark.settings import method_entry, parse
from kd.benchmark.world import World, synthetic
from kd.engine.resolve import build_method
from kd.methods.contract import STUDENT, Batch, Context, Output, Progress
from kd.methods.crd import Contrast
from kd.spec.cards import card
from kd.spec.errors import UserError
from kd.spec.job import MethodPart

STEPS = 5
SCRIPT = Path(__file__).parents[3] / "workflow_scripts" / "benchmark.py"
TINY = {
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
    monkeypatch.setitem(MATRIX, "cpu", 64)


def test_a_run_writes_everything(tmp_path):
    out = tmp_path / "results" / "benchmark.json"
    settings = parse(**TINY, methods=["kd", {"method": "crd", "negatives": 20}])
    benchmark(settings, out, Extras(scale=[Axis("batch_size", (4, 8), ("kd",)), Axis("negatives", (5, 9), ("crd",))]))
    record = json.loads(out.read_text())
    assert [found["method"] for found in record["methods"]] == ["kd", "crd"]
    for found in record["methods"]:
        assert len(found["ratio"]["values"]) == 2
        assert found["ratio"]["min"] <= found["ratio"]["median"] <= found["ratio"]["max"]
        assert found["processor_ratio"]["median"] > 0
        for loop in LOOPS:
            measured = found[loop]
            assert set(measured["seconds_by_part"]) == {*PARTS, "evaluation"}
            assert all(measured["seconds_by_part"][part] > 0 for part in (*PARTS, "evaluation"))
            assert measured["images_per_second"]["median"] > 0
            assert measured["share_of_peak"] > 0
            assert measured["flops_per_second"] > 0
            assert measured["memory_mb"] >= 0
            assert set(measured["before_first_step"]) == {"build", "first_step"}
    assert [[point["x"] for point in curve["points"]] for curve in record["scale"]] == [[4, 8], [5, 9]]
    assert {"torch", "python"} <= set(record["versions"])
    assert record["hardware"]["threads"] == 1
    report = (out.parent / "report.md").read_text()
    assert "| kd |" in report
    assert "### crd by negatives an image" in report
    assert {path.name for path in out.parent.iterdir()} == {"benchmark.json", "report.md", "speed.png", "scale.png"}


@pytest.mark.parametrize("method", ["kd", "ce", "at", "dml"])
def test_both_loops_compute_the_same_losses(tmp_path, method):
    world = World(parse(**TINY, methods=[method], augment=False), tmp_path)
    pair = make_pair(world, method)
    updates = len(pair.engine.stage.updates)
    pair.reference.run(STEPS - len(pair.reference.losses) // updates)
    pair.engine.run(STEPS - pair.engine.training.steps_done)
    per_step = pair.reference.losses[::updates]  # the student's own update comes first
    pair.close()
    assert len(per_step) == STEPS
    assert pair.engine.loss() == pytest.approx(statistics.mean(per_step), rel=1e-3)


def test_gathered_contrast_is_the_methods_loss_on_the_same_negatives():
    images, classes, batch, count = 30, 3, 4, 7
    torch.manual_seed(0)
    labels = torch.arange(images) % classes
    settings = card("crd").resolve({"negatives": count, "embedding_size": 6}, "crd").model_dump()
    method = build_method([MethodPart(card="crd", settings=settings)], 1)
    shapes = {role: {"embedding": torch.Size([5])} for role in (STUDENT, "teacher0")}
    taps = dict.fromkeys(shapes, ("embedding",))
    context = Context(classes, labels, shapes, taps, dict.fromkeys(shapes, ()))
    method.bind(context)
    extra = method.build(context)
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
    expected = method.loss("", seen, outputs, extra, Progress(0, 1))
    remembered = extra["memory"].student.clone()
    extra.load_state_dict(state)
    gathered = GatheredCRD.like(method)
    gathered.negatives = negatives
    found = gathered.loss("", seen, outputs, extra, Progress(0, 1))
    assert found["crd"].item() == pytest.approx(expected["crd"].item(), rel=1e-5)
    assert torch.allclose(extra["memory"].student, remembered)


def test_accuracies_agree_with_a_count():
    logits = torch.tensor([[3.0, 2, 1, 0, -1, -2], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]])
    assert accuracy(logits, torch.tensor([0, 5, 0])) == pytest.approx((200 / 3, 200 / 3))
    assert accuracy(logits, torch.tensor([1, 4, 1])) == pytest.approx((0, 100))


def test_parity_trains_both_loops(tmp_path):
    settings = parse(**{**TINY, "epochs": 1}, methods=["kd"])
    found = parity(settings, tmp_path, [], 2, lambda text: None)
    assert set(found["top1"]) >= {"reference", "engine fp32"}
    assert all(len(top1) == 2 and 0 <= min(top1) <= max(top1) <= 100 for top1 in found["top1"].values())
    assert found["summary"]["reference"]["difference"] == 0


def test_synthetic_images_are_a_packed_folder(tmp_path):
    folder = synthetic(tmp_path, 50, 5, 8)
    settings = parse(**{**TINY, "data": [str(folder)], "train_images": None}, methods=["kd"])
    world = World(settings, tmp_path)
    assert (world.num_classes, world.image_size) == (5, 8)
    assert world.workbench("kd", reference=True).team.memory_format == torch.contiguous_format


def test_inner_parts_do_not_count_twice():
    watch = Stopwatch(torch.device("cpu"))

    class Work:
        def outer(self) -> None:
            self.inner()

        def inner(self) -> None:
            np.linalg.svd(np.ones((60, 60)))

    work = Work()
    with watch.watching((work, "outer", "a"), (work, "inner", "b")), watch.part("host"):
        work.outer()
    assert set(watch.parts) == {"host", "a", "b"}
    assert not vars(work)  # nothing stays wrapped
    assert watch.parts["b"] > watch.parts["a"]


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
    ],
)
def test_bad_options_are_one_sentence(options, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        parse(**{**TINY, "methods": ["kd"], **options})
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="neither a packed folder nor an archive"):
        World(parse(**{**TINY, "data": [str(tmp_path / "nothing.tar")]}), tmp_path)
    with pytest.raises(UserError, match="1 files of weights for 2 teachers"):
        World(parse(**{**TINY, "teachers": ["resnet14", "resnet20"]}), tmp_path, [tmp_path / "one"])
    with pytest.raises(UserError, match="accuracy needs real images"):
        benchmark(parse(**TINY), tmp_path / "benchmark.json", Extras(parity_epochs=1))


def test_names_on_the_command_line():
    assert method_entry("dkd") == "dkd"
    assert method_entry("kd+dot") == {"name": "kd_dot", "combine": ["kd", "dot"]}


def test_the_script_says_what_is_wrong_and_leaves_nothing(tmp_path):
    command = [sys.executable, SCRIPT, "--methods", "kdd", "--threads", "1", "--out", tmp_path / "out" / "b.json"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "unknown method 'kdd'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
