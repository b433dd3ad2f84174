"""A finished student to take away: its weights for plain timm or this library, a torch.export program, ONNX.

Every file is read back and run on images of the validation split before anything is kept: an export whose logits are
not the network's own is an error.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import kd.models.torch_files  # noqa: F401  a run's network may come from any file
from kd.data.augment import Augmenter
from kd.engine.data import load_data
from kd.engine.flops import FlopCounter
from kd.engine.latency import latency
from kd.engine.predict import finished
from kd.models.base import Normalisation, TappedModel
from kd.models.build import build_model
from kd.models.reuse import deployment, redeploy
from kd.models.weights import normalisation_notes
from kd.record.provenance import hardware
from kd.schema.architectures import is_timm
from kd.study.job_settings import JobSettings
from kd.study.made import MANIFEST, manifest_digest, read_record
from kd.tools.errors import UserError
from kd.tools.files import atomic_folder, atomic_path, atomic_write, read_json, remove_staged, write_json

log = logging.getLogger(__name__)

FORMATS = ("weights", "torch", "onnx")
WEIGHTS, PROGRAM, ONNX, FACTS = "weights.safetensors", "student.pt2", "student.onnx", "student.json"
IMAGES = 8
TOLERANCE = 1e-4
"""How far logits may be from the network's own, as a share of the largest of them: kernels differ in their sums."""


@dataclass(frozen=True)
class Student:
    """A finished network in eval mode on the CPU, and all that one must know to use it."""

    model: TappedModel
    job: JobSettings
    images: Tensor
    """(B,3,H,W) normalised images of the validation split."""
    facts: Mapping[str, Any]
    """What student.json says of it."""


class Logits(nn.Module):
    """A network without its taps: images (B,3,H,W) to logits (B,C)."""

    def __init__(self, model: TappedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.model(images)[0]
        return logits


def export(run: Path, weights: str, out: Path, formats: tuple[str, ...]) -> dict[str, Any]:
    """Write a run's student into the folder `out`, whole or not at all, and return what student.json says.

    `weights` is "best" or "last", `formats` some of FORMATS. Errors: UserError for a folder that is no finished run,
    for libraries that are not installed, and for a network whose export does not give its logits.
    """
    _check_out(out)
    _check_libraries(formats)
    student = read_student(run, weights)
    remove_staged(out)
    with torch.no_grad(), atomic_folder(out) as folder:
        expected = student.model(student.images)[0]
        files, loading = {}, _write_weights(student, folder, expected) if "weights" in formats else {}
        if "weights" in formats:
            files[WEIGHTS] = "parameters and buffers"
        if "torch" in formats:
            files[PROGRAM] = _write_program(student, folder, expected)
        if "onnx" in formats:
            files[ONNX] = _write_onnx(student, folder, expected)
        facts = {**student.facts, **loading, "files": files, "latency": timed(student)}
        write_json(folder / FACTS, facts)
        atomic_write(folder / "README.md", manual(facts, student))
    return facts


# --- the run -------------------------------------------------------------------------------------


def read_student(run: Path, weights: str) -> Student:
    """Return the student of a run folder, of a teacher's too. Errors: UserError for a folder that holds none."""
    record_file = run / "run.json"
    checkpoint = run / "checkpoints" / f"{weights}.safetensors"
    if not record_file.is_file():
        raise UserError(
            f"{run} is no finished run: give its folder, as in results/quickstart/digits/resnet14--resnet8/kd/seed0"
        )
    record = read_json(record_file)
    if record.get("status") != "ok":
        raise UserError(f"{run} failed and has no network to export: {record.get('reason', 'no reason is kept')}")
    job = _job_in(record, run)
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint} does not exist: run the workflow again, or take the other weights")
    data = load_data(data_of(run), _reading(job), torch.device("cpu"))
    model = finished(job, data, checkpoint).eval()
    own = model.normalised or data.normalisation
    model.see_as(own, own)  # whoever takes it away gives it images as it was trained on
    raw = next(iter(data.validation.batches(torch.arange(min(IMAGES, len(data.validation))), IMAGES)))[0]
    images = Augmenter(job.recipe.augmentation, own.mean, own.std).plain(raw)
    names = data.taken
    if names is None:
        names = read_json(data_of(run) / MANIFEST, sealed=True)["classes"]
    with FlopCounter() as counter, torch.no_grad():
        model(images[:1])
    facts = {
        "run": str(run),
        "weights": weights,
        "arch": model.arch,
        "image_size": data.image_size,
        "mean": list(own.mean),
        "std": [round(value, 6) for value in own.spread().tolist()],
        "classes": list(names),
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops": int(counter.total),
        **_accuracy(run, weights),
        "versions": {name: version(name) for name in ("torch", "timm")},
    }
    return Student(model, job, images, facts)


def _job_in(record: Mapping[str, Any], run: Path) -> JobSettings:
    """Return what a record says of the training: of a chain of half-stages, what it says of the last."""
    settings = record["settings"]
    try:
        job = JobSettings.model_validate(settings[-1] if isinstance(settings, list) else settings)
    except ValidationError:
        job = None
    if job is None or job.student is None:
        raise UserError(f"{run} is no training of a student, as a class-incremental run or a pre-stage is not")
    return job


def data_of(run: Path) -> Path:
    """Return where the images are packed that a run was trained on: of its own data set, or of one that packs the same.

    Errors: UserError where they are gone, since classes and normalisation stand beside them.
    """
    known = {record["data"] for path in run.glob("made/*.json") if (record := read_record(path)) and "data" in record}
    experiment = run.resolve().parents[3] if len(run.resolve().parents) > 3 else run
    found = sorted(path.parent for path in experiment.glob(f"*/data/{MANIFEST}"))
    own = [folder for folder in found if manifest_digest(folder) in known]
    if not own:
        raise UserError(
            f"{run}: the packed images of its data set are not in {experiment} any more, and with them the names of "
            "its classes and its normalisation: run the workflow again"
        )
    return own[0]


def _reading(job: JobSettings) -> JobSettings:
    """Return the job as one that looks at a few images."""
    recipe = job.recipe.model_copy(update={"workers": 0})
    return job.model_copy(update={"dataset": {**job.dataset, "resident_limit_mb": 0}, "recipe": recipe})


def _accuracy(run: Path, weights: str) -> dict[str, float]:
    path = run / "evaluation.json"
    found = read_json(path)[weights] if path.is_file() else {}
    return {key: found[key] for key in ("val_top1", "test_top1") if key in found}


# --- the files -----------------------------------------------------------------------------------


def _write_weights(student: Student, folder: Path, expected: Tensor) -> dict[str, Any]:
    """Write the state dict under the names that its reader knows, and return how it is read."""
    model, path = student.model, folder / WEIGHTS
    if is_timm(model.arch) and (plain := _as_timm(student)) is not None:
        _save(plain.net, path)
        plain.net.load_state_dict(load_file(path))
        _check(plain.net.eval()(student.images), expected, path)
        _note(student, path)
        return {"timm": {"model": plain.name, "options": plain.options, "changes": plain.changes}}
    _save(model, path)
    again = _built(student)
    again.load_state_dict(load_file(path))
    _check(again.eval()(student.images)[0], expected, path)
    _note(student, path)
    return {"deployed_with": deployment(model)}


def _save(net: nn.Module, path: Path) -> None:
    with atomic_path(path) as temporary:
        save_file({name: value.detach().clone().contiguous() for name, value in net.state_dict().items()}, temporary)


def _note(student: Student, path: Path) -> None:
    """Let weights say how their images are normalised, for experiments in which they teach (kd.models.weights)."""
    state, seen = load_file(path), Normalisation(tuple(student.facts["mean"]), tuple(student.facts["std"]))
    with atomic_path(path) as temporary:
        save_file(state, temporary, normalisation_notes(student.model, seen))


def _built(student: Student) -> TappedModel:
    """Return the network built anew, as the manual says."""
    assert student.job.student is not None, "an exported run has a student"
    settings = student.job.student.model_copy(update={"pretrained": False})
    size = student.facts["image_size"]
    model = build_model(settings, len(student.facts["classes"]), size)
    return redeploy(model, deployment(student.model), size)


def _as_timm(student: Student) -> Any:
    """Return timm's own network with the student's weights (kd.models.timm_adapter.Plain), None where it has more."""
    from kd.models.timm_adapter import TimmModel, as_timm

    found = student.model
    return as_timm(found, student.facts["image_size"]) if type(found) is TimmModel else None


def _write_program(student: Student, folder: Path, expected: Tensor) -> str:
    """Write a torch.export program for any number of images."""
    batch = {"images": {0: torch.export.Dim("batch")}}
    path = folder / PROGRAM
    program = torch.export.export(Logits(student.model).eval(), (student.images,), dynamic_shapes=batch)
    torch.export.save(program, path)
    read = torch.export.load(path).module()
    _check(read(student.images), expected, path)
    _check(read(student.images[:1]), expected[:1], path)
    return "torch.export, any number of images"


def _write_onnx(student: Student, folder: Path, expected: Tensor) -> str:
    """Write ONNX for any number of images, and run it."""
    import onnxruntime

    path = folder / ONNX
    torch.onnx.export(
        Logits(student.model).eval(),
        (student.images,),
        str(path),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for images, own in ((student.images, expected), (student.images[:1], expected[:1])):
        (found,) = session.run(["logits"], {"images": images.numpy()})
        _check(torch.from_numpy(found), own, path)
    return "ONNX, any number of images"


def _check(found: Tensor, expected: Tensor, path: Path) -> None:
    """Raise a UserError unless logits are the network's own."""
    difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1.0))
    if not difference <= TOLERANCE:
        raise UserError(f"{path.name} gives other logits than the network (by {difference:.2g} of the largest)")


def timed(student: Student) -> dict[str, Any]:
    """Return how long the student takes, and where it was measured."""
    about = hardware(torch.device("cpu"), "fp32")
    found = asdict(latency(student.model, student.images[:1]))
    return {**found, "cpu": about["cpu"], "threads": about["threads"]}


# --- what can be refused at once -----------------------------------------------------------------


def _check_out(out: Path) -> None:
    if out.exists() and not (out / FACTS).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out: {out} exists and is no earlier export: name another folder")


def _check_libraries(formats: tuple[str, ...]) -> None:
    """Refuse formats whose libraries are missing before anything is read."""
    from importlib.util import find_spec

    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if "onnx" in formats and missing:
        rest = " ".join(name for name in FORMATS if name != "onnx")
        raise UserError(f"ONNX needs {', '.join(missing)}: install it, or give --formats {rest}")


# --- how the files are read ----------------------------------------------------------------------


def manual(facts: Mapping[str, Any], student: Student) -> str:
    """Return the README of an export: what it is, and Python lines that read each file."""
    size, mean, std = facts["image_size"], facts["mean"], facts["std"]
    top1 = f", {facts['test_top1']:.2f} % top-1 on the test images" if "test_top1" in facts else ""
    parts = [
        f"# {facts['arch']}, {len(facts['classes'])} classes",
        f"From `{facts['run']}` ({facts['weights']} epoch{top1}). Everything about it stands in `{FACTS}`.",
        "## Images\n\n"
        f"float32 (N, 3, {size}, {size}), red, green and blue from 0 to 1, then `(x - mean) / std` by channel. "
        f"Logits are in the order of `classes` in `{FACTS}`.\n\n"
        + _python(
            "import torch",
            f"mean = torch.tensor({mean}).view(3, 1, 1)",
            f"std = torch.tensor({std}).view(3, 1, 1)",
            f"images = (torch.rand(2, 3, {size}, {size}) - mean) / std",
        ),
    ]
    if WEIGHTS in facts["files"]:
        parts.append(f"## `{WEIGHTS}`\n\n" + _python(*_reading_weights(facts, student)))
    if PROGRAM in facts["files"]:
        lines = (f'net = torch.export.load("{PROGRAM}").module()', "logits = net(images)")
        parts.append(f"## `{PROGRAM}`\n\n" + _python("import torch", *lines))
    if ONNX in facts["files"]:
        lines = (
            f'session = onnxruntime.InferenceSession("{ONNX}", providers=["CPUExecutionProvider"])',
            'logits = session.run(["logits"], {"images": images.numpy()})[0]',
        )
        parts.append(f"## `{ONNX}`\n\n" + _python("import onnxruntime", *lines))
    return "\n\n".join(parts) + "\n"


def _python(*lines: str) -> str:
    return "```python\n" + "\n".join(lines) + "\n```"


def _reading_weights(facts: Mapping[str, Any], student: Student) -> list[str]:
    """Return the lines that load the state dict, by timm alone or by this library."""
    reading = ["from safetensors.torch import load_file", ""]
    last = [f'net.load_state_dict(load_file("{WEIGHTS}"))', "net.eval()"]
    if "timm" in facts:
        plain = facts["timm"]
        options = ", ".join(f"{key}={value}" for key, value in plain["options"].items())
        made = [f'net = timm.create_model("{plain["model"]}", {options})', *plain["changes"]]
        imports = ["import timm", *(["from torch import nn"] if plain["changes"] else [])]
        return [*imports, *reading, *made, *last, "logits = net(images)"]
    assert student.job.student is not None, "an exported run has a student"
    own = student.job.student
    told = f'arch="{own.arch}"' + ("" if own.small_input else ", small_input=False")
    size, count = facts["image_size"], len(facts["classes"])
    made = [f"net = build_model(ModelSettings({told}), num_classes={count}, image_size={size})"]
    imports = ["from kd.models.build import build_model", "from kd.schema.config import ModelSettings"]
    if facts["deployed_with"]:
        imports.insert(1, "from kd.models.reuse import redeploy")
        made.append(f"net = redeploy(net, {facts['deployed_with']}, image_size={size})")
    where = ["# with this repository's folder workflow_scripts on PYTHONPATH"]
    return [*where, *imports, *reading, *made, *last, "logits, _ = net(images)"]
