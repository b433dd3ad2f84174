"""Each network sees images normalised as those that it was trained on, whoever gives them and wherever it runs."""

import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from told import told

from kd.engine.data import load_data
from kd.engine.jobs.evaluate import evaluate_network
from kd.engine.jobs.files import Files
from kd.engine.jobs.half_stage import train_half_stage
from kd.engine.jobs.student import train_student
from kd.engine.jobs.teacher_outputs import teacher_outputs
from kd.engine.jobs.workbench import prepare
from kd.methods.contract import teacher
from kd.models.build import build_model
from kd.models.weights import save_weights
from kd.schema.config import ModelSettings
from kd.study.experiment import check_experiment
from kd.study.job_settings import parse_settings
from kd.tools.errors import UserError

CPU = torch.device("cpu")
OTHER = {"mean": [0.5, 0.25, 0.4], "std": [0.25, 0.5, 0.2]}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
NAME = "wrn_16_1"


def given(world, path, recipe=None, dataset=None, method="kd", **settings):
    """Return an experiment whose first teacher is a finished one, and the folder that its job left."""
    entry = {"arch": NAME, "pretrained": str(path), "train": False, **settings}
    here = world(method, models={NAME: entry}, recipe=recipe, dataset=dataset)
    files = Files(here.packed, here.folder / "given", code="test")
    train_student(parse_settings(told(here.plan, "train_teacher", "digits", NAME, 0)), files, lambda row: None)
    return here, files.folder


def weights_of(folder):
    return folder / "checkpoints" / "best.safetensors"


@pytest.fixture
def some_weights(tmp_path):
    torch.manual_seed(3)
    model = build_model(ModelSettings(arch=NAME), 10, 8).eval()
    path = tmp_path / "some.safetensors"
    save_file(model.state_dict(), path)
    return model, path


def normalised(images, statistics):
    """Return bytes (N,3,H,W) as a network wants them, as the field's transforms do it."""
    mean, std = (torch.tensor(statistics[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (images.float() / 255 - mean) / std


def images_of(here, job, split):
    data = load_data(here.packed, job, CPU)
    store = {"test": data.test, "train": data.train}[split]
    (found, _, _), *_ = store.batches(torch.arange(len(store)), len(store))
    return found


@torch.no_grad()
def test_a_finished_teacher_is_evaluated_on_images_as_it_was_trained(world, some_weights):
    model, path = some_weights
    here, folder = given(world, path, normalisation=OTHER)
    job = parse_settings(told(here.plan, "evaluate_teacher", "digits", NAME, 0))
    found = evaluate_network(job, here.packed, weights_of(folder))["test"].logits
    expected, _ = model(normalised(images_of(here, job, "test"), OTHER))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    plain, _ = model(load_data(here.packed, job, CPU).augmenter.plain(images_of(here, job, "test")))
    assert np.abs(found - plain.numpy()).max() > 0.01


STILL = {"augmentation": {"crop": "none", "flip": False}}


@torch.no_grad()
@pytest.mark.parametrize("recipe", [{}, STILL, {"precision": "bf16"}], ids=["live", "asked once", "bfloat16"])
def test_a_student_learns_from_what_its_teacher_makes_of_images_as_it_was_trained(world, some_weights, recipe):
    from kd.engine.jobs.trainings import training_of

    model, path = some_weights
    here, folder = given(world, path, recipe=recipe, normalisation=OTHER)
    files = Files(here.packed, here.folder / "run", teachers=[weights_of(folder)], code="test")
    bench = prepare(here.job(), files)
    training = training_of(bench, files, lambda row: None)
    training.start([*_stages(bench)])
    training.begin_epoch()
    batch = next(training.feed.epoch())
    logits = training.frozen.outputs(batch).outputs[teacher(0)].logits
    augmenter = bench.data.augmenter
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (augmenter.mean, augmenter.std))
    raw = (batch.images * std + mean) * 255
    expected, _ = model(normalised(raw, OTHER))
    tolerance = 0.05 * float(expected.abs().max()) if "precision" in recipe else 1e-3
    assert torch.allclose(logits, expected, atol=tolerance)


def _stages(bench):
    from kd.methods.contract import stages_of

    return stages_of(bench.method)


@torch.no_grad()
def test_outputs_on_the_fixed_view_are_of_images_as_it_was_trained(world, some_weights):
    model, path = some_weights
    here, folder = given(world, path, recipe={"teacher_view": "fixed", **STILL}, normalisation=OTHER)
    job = parse_settings(told(here.plan, "teacher_outputs", "digits", NAME, 0))
    files = Files(here.packed, here.folder / "outputs", teachers=[weights_of(folder)], code="test")
    teacher_outputs(job, files)
    found = load_file(files.folder / "outputs.safetensors")["logits"]
    expected, _ = model(normalised(images_of(here, job, "train"), OTHER))
    assert torch.allclose(found, expected, atol=1e-4)
    record = json.loads((files.folder / "run.json").read_text(encoding="utf-8"))
    assert record["normalised"] == {"teacher": OTHER}


def test_the_record_of_a_run_says_by_role_how_images_are_normalised(world, some_weights):
    here, folder = given(world, some_weights[1], normalisation=OTHER)
    files = Files(here.packed, here.folder / "run", teachers=[weights_of(folder)], code="test")
    train_student(here.job(), files, lambda row: None)
    found = json.loads((files.folder / "run.json").read_text(encoding="utf-8"))["normalised"]
    manifest = json.loads((here.packed / "manifest.json").read_text(encoding="utf-8"))
    own = {key: pytest.approx(manifest[key]) for key in ("mean", "std")}
    assert found == {"student": own, "teacher0": OTHER}
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["normalised"] == {"student": OTHER}


def test_a_finished_timm_network_has_that_of_its_model(world, tmp_path):
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=10)
    foreign = tmp_path / "foreign.safetensors"
    save_file(net.state_dict(), foreign)
    settings = {"arch": "timm:resnet10t", "small_input": True}
    assert _normalised(given(world, foreign, **settings)) == IMAGENET


def _normalised(made):
    _, folder = made
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))["normalised"]["student"]


def test_a_file_of_this_project_says_by_what_its_images_were_normalised(world, tmp_path):
    model = build_model(ModelSettings(arch=NAME), 10, 8)
    noted, older = tmp_path / "noted.safetensors", tmp_path / "older.safetensors"
    save_weights(model, noted, {"normalised": json.dumps(OTHER)})
    save_weights(model, older)
    here, folder = given(world, noted)
    assert _normalised((here, folder)) == OTHER
    # as a teacher of somebody else's experiment it is one that was given
    again, other = given(world, weights_of(folder))
    assert _normalised((again, other)) == OTHER
    manifest = json.loads((here.packed / "manifest.json").read_text(encoding="utf-8"))
    assert _normalised(given(world, older)) == {key: pytest.approx(manifest[key]) for key in ("mean", "std")}
    assert _normalised(given(world, noted, normalisation="dataset"))["mean"] == pytest.approx(manifest["mean"])
    assert _normalised(given(world, noted, normalisation=IMAGENET)) == IMAGENET


def test_networks_of_the_same_statistics_are_given_the_images_themselves(world):
    trained = world("kd").teacher(NAME)
    here, folder = given(world, trained)
    files = Files(here.packed, here.folder / "run", teachers=[weights_of(folder)], code="test")
    models = prepare(here.job(), files).team.models
    assert all(model.normalised is None and model._seen_scale is None for model in models.values())


CHAIN = {"recipe": {"epochs": 4}, "dataset": {"subset_size": 600}}
ASIB = {
    "method": "asib",
    "form": "published",
    "num_stages": 1,
    "teacher_adapt_epochs": 2,
    "mbm_out_dim": 16,
    "teacher_lr": 3e-3,
}


def test_a_chain_hands_on_how_its_teachers_images_are_normalised(world, packed):
    manifest = json.loads((packed / "manifest.json").read_text(encoding="utf-8"))
    near = {"mean": [mean + 0.01 for mean in manifest["mean"]], "std": manifest["std"]}
    path = world("kd", **CHAIN).teacher(NAME)
    here, folder = given(world, path, method=ASIB, normalisation=near, **CHAIN)
    weights = [weights_of(folder), here.teacher("resnet14")]
    first = Files(here.packed, here.folder / "first", teachers=weights, code="test")
    train_half_stage(here.half(1, "teacher_update"), first, lambda row: None)
    second = Files(here.packed, here.folder / "second", previous=first.folder / "state.pt", code="test")
    models = prepare(here.half(1, "student_update"), second).team.models
    assert models[teacher(0)].normalised is not None
    assert list(models[teacher(0)].normalised.mean) == near["mean"]
    assert models[teacher(1)].normalised is None


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"arch": NAME, "normalisation": "dataset"}, r"normalisation belongs to a network that is used as it is"),
        (
            {"arch": NAME, "pretrained": "a.pt", "train": False, "normalisation": "timm"},
            "normalisation timm is that of a timm model, found arch 'wrn_16_1'",
        ),
        (
            {"arch": NAME, "pretrained": "a.pt", "train": False, "normalisation": {"mean": [0.5], "std": [0.5]}},
            "normalisation",
        ),
        (
            {"arch": NAME, "pretrained": "a.pt", "train": False, "normalisation": {**OTHER, "std": [0.0, 1.0, 1.0]}},
            r"normalisation.std\[0\]: must be a number above 0",
        ),
    ],
    ids=["trained here", "no timm model", "one channel", "no deviation"],
)
def test_what_cannot_be_a_normalisation_is_one_sentence(entry, sentence):
    content = {
        "experiment": "unit",
        "datasets": {"digits": {"source": "digits"}},
        "models": {NAME: entry},
        "pairs": [{"teachers": [NAME], "student": "resnet8"}],
        "methods": ["kd"],
        "seeds": [0],
        "recipe": {"epochs": 1},
    }
    with pytest.raises(UserError, match=sentence):
        check_experiment(content)


def test_notes_that_are_no_statistics_are_refused(world, tmp_path):
    path = tmp_path / "broken.safetensors"
    save_weights(build_model(ModelSettings(arch=NAME), 10, 8), path, {"normalised": "[0.5]"})
    with pytest.raises(UserError, match="does not say how images are normalised"):
        given(world, path)
