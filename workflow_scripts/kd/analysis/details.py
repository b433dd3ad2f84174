"""details.json: what a page shows of every method beside the comparison, gathered from the run folders once.

With it and curves.csv beside runs.csv, figures and page are made again where the runs themselves are not.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd.analysis.by_class import (
    Answers,
    Mistake,
    Reliability,
    accuracy_by_class,
    confusion,
    fitted_temperature,
    mistakes,
    reliability,
)
from kd.analysis.measures import Weights
from kd.analysis.predictions import saved_logits
from kd.analysis.records import as_object
from kd.analysis.rows import RunRow
from kd.analysis.runs import grouped
from kd.tools.errors import UserError
from kd.tools.files import read_json, write_json

log = logging.getLogger(__name__)

MOST_MISTAKES = 12
WHOLE_CONFUSION = 24
"""Classes; of more only the most frequent mistakes are kept."""


@dataclass(frozen=True, kw_only=True)
class ClassByClass:
    """What a method's answers to the test images say, over its finished seeds."""

    seeds: int
    classes: list[str]
    """In the order of the labels."""
    images: list[int]
    """Test images of each."""
    accuracy: list[float | None]
    """Percent, mean over seeds."""
    mistakes: list[Mistake]
    confusion: list[list[int]] | None
    """Summed over seeds, true classes in rows; None of many classes."""
    temperature: float | None
    """Fitted on each seed's validation images, mean over seeds; None without any."""
    before: Reliability
    after: Reliability | None
    """With each seed's temperature."""


@dataclass(frozen=True, kw_only=True)
class Detail:
    """What is told of one method of a data set and pair."""

    dataset: str
    pair: str
    method: str
    seed: int
    """Of the first finished run."""
    settings: Any
    """Of that run."""
    ran: dict[str, str]
    """In which number format, layout and kernels each network of it ran, by role."""
    by_class: ClassByClass | None
    """None where the runs' answers are not there."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image of a class."""

    name: str
    png: str
    """Base64."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What is told of a data set's images."""

    size: int
    """Side in pixels."""
    classes: list[str]
    train: list[int]
    """Images of each class, before validation images are taken from them."""
    test: list[int]
    examples: list[Example]


@dataclass(frozen=True, kw_only=True)
class Details:
    """The content of details.json."""

    datasets: dict[str, Shown]
    """By name; one whose images are not there is absent."""
    methods: list[Detail]
    versions: list[str]
    """Of Python and packages, where runs differ more than one."""
    commits: list[str]
    classes: list[str]
    """Those of a class_subset."""

    def of(self, dataset: str, pair: str) -> dict[str, Detail]:
        """Return the details of one comparison group by method."""
        return {one.method: one for one in self.methods if (one.dataset, one.pair) == (dataset, pair)}


def gather(runs: Iterable[RunRow], datasets: Mapping[str, Shown], weights: Weights) -> Details:
    """Return the details of finished runs, from their folders; what is not there or damaged is left out."""
    finished = [run for run in runs if run.status == "ok"]
    records = {path: _record(Path(path) / "run.json") for path in dict.fromkeys(run.path for run in finished)}
    students = [run for run in finished if run.kind == "student"]
    methods = grouped(students, lambda run: (run.dataset, run.pair, run.method))
    return Details(
        datasets=dict(datasets),
        methods=[_detail(members, records, datasets, weights) for members in methods.values()],
        versions=_distinct(_versions(record.get("versions")) for record in records.values()),
        commits=_distinct(_commit(record.get("git")) for record in records.values()),
        classes=_distinct(", ".join(record.get("classes") or []) for record in records.values()),
    )


def _record(path: Path) -> Mapping[str, Any]:
    """Return a run.json; one damaged since its run was collected says nothing."""
    try:
        found: Mapping[str, Any] = as_object(path, read_json(path))
    except UserError as error:
        log.warning("%s; its settings are not shown", error)
        return {}
    return found


def _detail(
    members: Sequence[RunRow],
    records: Mapping[str, Mapping[str, Any]],
    datasets: Mapping[str, Shown],
    weights: Weights,
) -> Detail:
    first = min(members, key=lambda run: run.seed)
    record = records[first.path]
    known = record.get("classes") or (datasets[first.dataset].classes if first.dataset in datasets else [])
    return Detail(
        dataset=first.dataset,
        pair=first.pair,
        method=first.method,
        seed=first.seed,
        settings=record.get("settings"),
        ran=_ran(record),
        by_class=class_by_class([Path(run.path) / "predictions.npz" for run in members], weights, known),
    )


def _ran(record: Mapping[str, Any]) -> dict[str, str]:
    """Return in words how each network ran, as far as the record says."""
    hardware = record.get("hardware") or {}
    kernels = hardware.get("kernels") if isinstance(hardware, dict) else None
    found = {}
    for role, modes in kernels.items() if isinstance(kernels, dict) else ():
        words = {use: _mode(mode) for use, mode in modes.items()} if isinstance(modes, dict) else {}
        texts = list(dict.fromkeys(words.values()))
        found[role] = texts[0] if len(texts) == 1 else "; ".join(f"{use}: {text}" for use, text in words.items())
    return found


def _mode(mode: Mapping[str, Any]) -> str:
    layout = "channels last" if mode.get("channels_last") else "channels first"
    return f"{mode.get('precision')}, {layout}, {mode.get('kernels')} kernels"


def _versions(values: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in (values or {}).items())


def _commit(state: Any) -> str:
    known = {name: value for name, value in (state or {}).items() if value is not None}
    return f"{known['commit']}{' with uncommitted changes' if known.get('dirty') else ''}" if "commit" in known else ""


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))


def class_by_class(paths: Sequence[Path], weights: Weights, names: Sequence[str]) -> ClassByClass | None:
    """Return what the predictions.npz of a method's seeds say, None where none can be read.

    `names` are the classes' names; where they are of another number than the answers, labels stand for them.
    """
    found = [answers for path in paths if (answers := _answers(path, weights)) is not None]
    found = [one for one in found if one.logits_test.shape[1] == found[0].logits_test.shape[1]]
    if not found:
        return None
    counts = [confusion(one.logits_test, one.labels_test) for one in found]
    total = np.sum(counts, axis=0)
    heats = [fitted_temperature(one.logits_val, one.labels_val) for one in found]
    known = [heat for heat in heats if heat is not None]
    classes = len(total)
    return ClassByClass(
        seeds=len(found),
        classes=list(names) if len(names) == classes else [str(label) for label in range(classes)],
        images=counts[0].sum(axis=1).tolist(),
        accuracy=_means([accuracy_by_class(one) for one in counts]),
        mistakes=mistakes(total, MOST_MISTAKES),
        confusion=total.tolist() if classes <= WHOLE_CONFUSION else None,
        temperature=round(float(np.mean(known)), 4) if known else None,
        before=reliability([(one.logits_test, one.labels_test) for one in found]),
        after=reliability([(one.logits_test / heat, one.labels_test) for one, heat in zip(found, known, strict=True)])
        if len(known) == len(found)
        else None,
    )


def _means(seeds: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Return the mean over seeds of each class, None of one without images."""
    columns = [[value for value in column if value is not None] for column in zip(*seeds, strict=True)]
    return [round(sum(column) / len(column), 4) if column else None for column in columns]


def _answers(path: Path, weights: Weights) -> Answers | None:
    """Return the saved answers of one run; of a file that cannot be read nothing, and the log says so.

    They may have been deleted to save room.
    """
    if not path.exists():
        return None
    try:
        test, val = (saved_logits(path, f"logits_{split}_{weights}") for split in ("test", "val"))
        with np.load(path, allow_pickle=False) as arrays:
            labels = {split: np.asarray(arrays[f"labels_{split}"], np.int64) for split in ("test", "val")}
    except UserError as error:  # which names the file
        log.warning("%s; its classes are not shown", error)
        return None
    except (KeyError, ValueError) as error:
        log.warning("%s holds no labels (%s); its classes are not shown", path, error)
        return None
    if not len(test) or len(test) != len(labels["test"]) or len(val) != len(labels["val"]):
        log.warning("%s holds no label for each answer; its classes are not shown", path)
        return None
    return Answers(logits_val=val, labels_val=labels["val"], logits_test=test, labels_test=labels["test"])


def write_details(details: Details, path: str | Path) -> None:
    """Write details.json."""
    write_json(path, asdict(details))


def read_details(path: str | Path) -> Details:
    """Read details.json. Errors: UserError for one that `write_details` did not write."""
    content = read_json(path, sealed=True)
    try:
        methods = [Detail(**{**one, "by_class": _by_class(one["by_class"])}) for one in content["methods"]]
        datasets = {name: _shown(one) for name, one in content["datasets"].items()}
        return Details(**{**content, "methods": methods, "datasets": datasets})
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not of this version ({error}): delete it and run again") from error


def _by_class(content: Mapping[str, Any] | None) -> ClassByClass | None:
    if content is None:
        return None
    return ClassByClass(
        **{
            **content,
            "mistakes": [Mistake(**one) for one in content["mistakes"]],
            "before": Reliability(**content["before"]),
            "after": None if content["after"] is None else Reliability(**content["after"]),
        }
    )


def _shown(content: Mapping[str, Any]) -> Shown:
    return Shown(**{**content, "examples": [Example(**one) for one in content["examples"]]})
