"""A student to take away: whoever reads the files as their README says gets the network's own logits."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from packed_noise import pack_noise

from kd.engine.jobs import export as module
from kd.engine.jobs.export import FORMATS, Student, export, read_student
from kd.models.base import Normalisation
from kd.models.build import build_model
from kd.models.weights import finished_normalisation, save_weights
from kd.schema.config import ModelSettings, Recipe
from kd.study.digests import SCRIPTS
from kd.study.job_settings import JobSettings
from kd.study.made import manifest_digest
from kd.tools.errors import UserError
from kd.tools.files import write_json

CLASSES = 4


def finished_run(root, size, **network):
    """Write a run's folder as a training leaves it, with a network of random weights that has seen some images."""
    data = pack_noise(root / "results" / "e" / "noise" / "data", size=size, classes=CLASSES)
    settings = ModelSettings(**network)
    torch.manual_seed(0)
    model = build_model(settings, CLASSES, size).train()
    with torch.no_grad():
        model(torch.randn(16, 3, size, size))  # running statistics that are not those of a fresh network
    dataset = {"source": "noise", "class_subset": None, "subset": "stratified", "subset_size": None, "validation": 0.25}
    job = JobSettings(
        dataset={**dataset, "resident_limit_mb": 64}, student=settings, recipe=Recipe(epochs=1), seed=0, split_seed=0
    )
    run = root / "results" / "e" / "noise" / "none--student" / "ce" / "seed0"
    for name in ("best", "last"):
        save_weights(model, run / "checkpoints" / f"{name}.safetensors")
    write_json(run / "run.json", {"status": "ok", "settings": job.model_dump(mode="json")})
    write_json(run / "made" / "train_student.json", {"identity": "x", "data": manifest_digest(data)})
    return run


def snippets(folder):
    """Return the Python of an export's README by the file that it reads, behind the lines about images."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    found = dict(re.findall(r"## `?([^`\n]+)`?\n.*?```python\n(.*?)```", text, re.S))
    images = found.pop("Images")
    return {name: f"{images}\n{code}" for name, code in found.items()}


NETWORKS = {
    "small": {"arch": "resnet8", "size": 8},
    "timm ResNet with a small stem": {"arch": "timm:resnet10t", "size": 32},
    "timm ResNet as it is": {"arch": "timm:resnet18", "size": 32, "small_input": False},
    "timm EfficientNet with a small stem": {"arch": "timm:efficientnet_lite0", "size": 32},
    "timm EfficientNet padded as TensorFlow does": {"arch": "timm:tf_mobilenetv3_small_minimal_100", "size": 32},
    "timm ConvNeXt with a small stem": {"arch": "timm:convnext_atto", "size": 32},
    "timm ViT": {"arch": "timm:vit_tiny_patch16_224", "size": 32},
}


READER = """
import os, sys
import numpy
for folder in sys.argv[1:]:
    os.chdir(folder)
    names = {}
    exec(open("read.py", encoding="utf-8").read(), names)
    numpy.savez("read.npz", images=names["images"].numpy(), logits=names["logits"].detach().numpy())
print("kd" in sys.modules)
"""


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Return by network its run and the folder of its export, in which a process of its own did as the README says."""
    found = {}
    for number, (name, network) in enumerate(NETWORKS.items()):
        root = tmp_path_factory.mktemp(f"network{number}")
        run, out = finished_run(root, **network), root / "out"
        facts = export(run, "best", out, ("weights",))
        assert facts["classes"] == [f"c{k}" for k in range(CLASSES)]
        (out / "read.py").write_text(snippets(out)["weights.safetensors"], encoding="utf-8")
        found[name] = run, out
    # timm's own networks are loaded where nothing of this library can be imported
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    for own, environment in ((True, {**plain, "PYTHONPATH": str(SCRIPTS)}), (False, plain)):
        folders = [str(out) for name, (_, out) in found.items() if NETWORKS[name]["arch"].startswith("timm:") != own]
        process = [sys.executable, "-c", READER, *folders]
        done = subprocess.run(process, env=environment, capture_output=True, text=True, encoding="utf-8", check=False)
        assert (done.returncode, done.stdout.strip()) == (0, str(own)), done.stderr
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_plain_timm_or_the_library_loads_the_weights_and_gives_the_same_logits(name, read):
    run, out = read[name]
    kept = np.load(out / "read.npz")
    with torch.no_grad():
        expected = read_student(run, "best").model(torch.from_numpy(kept["images"]))[0].numpy()
    assert kept["logits"] == pytest.approx(expected, abs=1e-4 * max(1.0, abs(expected).max()))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    root = tmp_path_factory.mktemp("exported")
    run = finished_run(root, **NETWORKS["small"])
    export(run, "last", run / "export", FORMATS)
    return run


@pytest.mark.parametrize("file", ["student.pt2", "student.onnx"])
def test_a_program_and_onnx_give_the_networks_logits_for_any_number_of_images(file, exported):
    code = snippets(exported / "export")[file].replace("rand(2,", "rand(5,")
    names = {}
    here = os.getcwd()
    os.chdir(exported / "export")
    try:
        exec(code, names)
    finally:
        os.chdir(here)
    with torch.no_grad():
        expected = read_student(exported, "last").model(names["images"])[0]
    found = torch.as_tensor(names["logits"]).detach()
    assert found.shape == (5, CLASSES)
    assert torch.allclose(found, expected, atol=1e-4)


def test_what_is_said_of_it(exported):
    facts = json.loads((exported / "export" / "student.json").read_text(encoding="utf-8"))
    assert (facts["image_size"], facts["mean"], facts["std"]) == (8, [0.5] * 3, [0.25] * 3)
    assert facts["classes"] == ["c0", "c1", "c2", "c3"]
    model = read_student(exported, "last").model
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    # torch's own count of the same pass
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 8, 8))
    assert facts["flops"] == counter.get_total_flops()
    assert set(facts["latency"]["milliseconds"]) == {"1", "64"}
    assert all(value > 0 for value in facts["latency"]["milliseconds"].values())


def test_images_are_normalised_as_the_network_was_trained(tmp_path):
    run = finished_run(tmp_path, **NETWORKS["small"])
    before = read_student(run, "best")
    mean, std = (0.25, 0.5, 0.75), (0.5, 0.25, 0.125)
    notes = {"normalised": json.dumps({"mean": mean, "std": std})}
    save_weights(before.model, run / "checkpoints" / "best.safetensors", notes)
    student = read_student(run, "best")
    assert (student.facts["mean"], student.facts["std"]) == (list(mean), list(std))
    shift, scale = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    values = before.images * 0.25 + 0.5  # from 0 to 1, as they were before the data set's normalisation
    assert torch.allclose(student.images, (values - shift) / scale, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(student.model(student.images)[0], before.model(student.images)[0])


@pytest.mark.parametrize("name", ["small", "timm ResNet with a small stem"])
def test_an_exported_network_that_teaches_sees_images_as_it_was_trained(name, read):
    """A timm network from elsewhere would have the statistics of its timm model."""
    _, out = read[name]
    given = Normalisation((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    finished = {"pretrained": str(out / "weights.safetensors"), "train": False, "small_input": True}
    settings = ModelSettings(arch=NETWORKS[name]["arch"], **finished)
    assert finished_normalisation(settings, given) == Normalisation((0.5,) * 3, (0.25,) * 3)


def test_everybody_may_read_what_everybody_may_read_elsewhere(exported, tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("", encoding="utf-8")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (exported / "export").iterdir()}
    assert set(modes.values()) == {plain.stat().st_mode & 0o777}, modes


def test_an_export_takes_the_place_of_an_earlier_one(tmp_path):
    run = finished_run(tmp_path, **NETWORKS["small"])
    out = tmp_path / "out"
    export(run, "best", out, ("weights", "torch"))
    export(run, "best", out, ("weights",))
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "student.json", "weights.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "results"], "nothing half-written is left"


def test_logits_that_differ_are_refused_and_nothing_is_left(tmp_path, monkeypatch):
    run = finished_run(tmp_path, **NETWORKS["small"])
    other = build_model(ModelSettings(arch="resnet8"), CLASSES, 8)
    with torch.no_grad():
        other.classifier.bias.add_(1.0)
    monkeypatch.setattr(module, "_save", lambda net, path: save_state(other, path))
    with pytest.raises(UserError, match=r"weights.safetensors gives other logits than the network"):
        export(run, "best", tmp_path / "out", ("weights",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]


def save_state(net, path):
    from safetensors.torch import save_file

    save_file(net.state_dict(), path)


def test_a_network_with_more_than_timms_in_it_keeps_its_own_names(tmp_path):
    run = finished_run(tmp_path, **NETWORKS["timm ResNet with a small stem"])
    student = read_student(run, "best")
    from kd.models.adapters import adapter_metadata, add_adapter

    with torch.no_grad():
        _, taps = student.model(student.images, student.model.tap_names)
    adapted = add_adapter(student.model, {name: tap.shape[1:] for name, tap in taps.items()}).eval()
    save_weights(adapted, run / "checkpoints" / "best.safetensors", adapter_metadata(adapted))
    facts = export(run, "best", tmp_path / "out", ("weights",))
    assert "timm" not in facts
    assert facts["deployed_with"] == adapter_metadata(adapted)
    assert "redeploy(" in snippets(tmp_path / "out")["weights.safetensors"]
    assert isinstance(student, Student)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda run: (run / "run.json").unlink(), "is no finished run: give its folder"),
        (lambda run: (run / "checkpoints" / "best.safetensors").unlink(), "best.safetensors does not exist"),
        (
            lambda run: write_json(run / "run.json", {"status": "failed", "reason": "it diverged"}),
            "failed .*it diverged",
        ),
        (
            lambda run: write_json(run / "run.json", {"status": "ok", "settings": {"tasks": 3}}),
            "no training of a student",
        ),
        (lambda run: (run.parents[2] / "data" / "manifest.json").unlink(), "are not in .* any more"),
    ],
    ids=["no run", "no weights", "failed", "another kind", "no images"],
)
def test_what_cannot_be_exported_is_told_in_a_sentence(tmp_path, harm, sentence):
    run = finished_run(tmp_path, **NETWORKS["small"])
    harm(run)
    with pytest.raises(UserError, match=sentence):
        export(run, "best", tmp_path / "out", ("weights",))
    assert not (tmp_path / "out").exists()


def test_what_a_killed_export_left_goes_away_with_the_next(tmp_path):
    run, mine = finished_run(tmp_path, **NETWORKS["small"]), tmp_path / ".other.0123abcd.part"
    left = tmp_path / ".out.0123abcd.part"
    for folder in (left, mine):
        folder.mkdir()
        (folder / "student.onnx").write_bytes(b"half")
    export(run, "best", tmp_path / "out", ("weights",))
    assert (left.exists(), mine.exists()) == (False, True)


def test_a_folder_of_somebody_elses_is_not_written_over(tmp_path):
    run = finished_run(tmp_path, **NETWORKS["small"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="is no earlier export"):
        export(run, "best", tmp_path / "mine", ("weights",))


def test_a_missing_library_is_told_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(UserError, match="ONNX needs onnxruntime: install it, or give --formats weights torch"):
        export(tmp_path / "absent", "best", tmp_path / "out", FORMATS)
