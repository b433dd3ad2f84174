"""synergy.csv: what each half-stage of a chain makes of its images, beside the average of its teachers as given.

The bar is that average: what `avg_kd` learns from without any training of a fusion. Teachers of a chain may adapt from
stage to stage while nobody trains their heads, so the average of the moment is a source of its own and not the bar.
"""

import csv
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kd.analysis import metrics, soft_targets
from kd.analysis.records import as_object
from kd.analysis.rows import RunRow
from kd.analysis.statistics import tidy
from kd.tools.csv_files import write_csv
from kd.tools.errors import UserError, damaged
from kd.tools.files import check_zip, read_json

log = logging.getLogger(__name__)

PREDICTIONS = "predictions.npz"
SPLITS = ("train", "val")
GIVEN = "given"
"""The half of stage 0: the teachers before the chain has touched them."""
TEACHER_UPDATE = "teacher_update"

ASKED: tuple[Literal["synergy"], Literal["student"]] = ("synergy", "student")
What = Literal["bar", "teacher", "pair", "average", "certainty", "synergy", "student"]
"""bar: the average of the teachers as given, or the only teacher, which all else is held against; pair: two teachers
beside each other, of which only agreement and correlation are told."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Whose logits are measured: those that a student could learn from, and the student's own."""

    what: What
    name: str
    """The network's, the two networks' of a pair, else as `what`."""
    logits: tuple[np.ndarray, ...]
    """(n, C) float64; two of a pair."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One measure of a source: a column of synergy.csv."""

    name: str
    heading: str
    digits: int
    unit: str


MEASURES = (
    Measured(name="top1", heading="Top-1", digits=2, unit="%"),
    Measured(name="nll", heading="NLL", digits=2, unit="nats"),
    Measured(name="ece", heading="ECE", digits=3, unit="fraction"),
    Measured(name="entropy", heading="Entropy", digits=2, unit="nats"),
    Measured(name="target_entropy", heading="Softened", digits=2, unit="nats"),
    Measured(name="off_label", heading="Off label", digits=1, unit="%"),
    Measured(name="agreement", heading="Agree", digits=1, unit="%"),
    Measured(name="correlation", heading="Corr.", digits=2, unit=""),
)
NAMES = [measure.name for measure in MEASURES]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which source of which half-stage, on which images, of which chain."""

    dataset: str
    pair: str
    method: str
    split: str
    """train or val."""
    stage: int
    """From 1; 0 is before the chain."""
    half: str
    what: What
    source: str


@dataclass(frozen=True, kw_only=True)
class Found(Place):
    """What one seed's half-stage says of a source."""

    seed: int
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    """By measure; None where one does not apply."""

    @property
    def place(self) -> Place:
        """Return it without its seed."""
        return Place(**{one.name: getattr(self, one.name) for one in fields(Place)})


PLACE = [one.name for one in fields(Place)]
COLUMNS = [*PLACE[:3], "seed", *PLACE[3:], *NAMES]


# --- from saved predictions -----------------------------------------------------------------------


def gather_synergy(runs: Iterable[RunRow], methods: Sequence[str], temperature: float) -> list[Found]:
    """Return what the finished runs of some chains say, half-stage by half-stage, from their folders.

    A run whose predictions are not there or damaged is left out, and the log says why.
    """
    found: list[Found] = []
    for run in runs:
        if run.status == "ok" and run.kind == "student" and run.method in methods:
            try:
                found += list(_of_run(run, temperature))
            except UserError as error:
                log.warning("%s; the diagnosis leaves out seed %d of %s", error, run.seed, run.method)
    return found


def _of_run(run: RunRow, temperature: float) -> Iterator[Found]:
    folder, names = Path(run.path), run.teachers.split("+")
    bars: dict[str, Source] = {}
    for stage, half in _half_stages(folder):
        path = folder / f"stage{stage}" / half / PREDICTIONS
        for split, (labels, logits) in read_predictions(path).items():
            found = partial(_found, run, split, labels, temperature)
            if split not in bars:
                given = _with_bar(_taught_by(path, logits, GIVEN, names))
                bars[split] = next(source for source in given if source.what == "bar")
                yield from found(0, GIVEN, bars[split], given)
            if bars[split].logits[0].shape != logits["synergy"].shape:
                raise damaged(path, f"its answers are not to the images of the half-stages before it ({split})")
            synergy, student = (Source(what=what, name=what, logits=(logits[what],)) for what in ASKED)
            # each half leaves the other's networks as they are; the synergy has a part in both
            teaching = _taught_by(path, logits, "teacher", names) if half == TEACHER_UPDATE else []
            own = [*teaching, synergy] if half == TEACHER_UPDATE else [synergy, student]
            yield from found(stage, half, bars[split], own)


def _half_stages(folder: Path) -> list[tuple[int, str]]:
    path = folder / "run.json"
    try:
        return [(int(one["stage"]), str(one["half"])) for one in as_object(path, read_json(path))["half_stages"]]
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, "it lists no half-stages") from error


def read_predictions(path: Path) -> dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Return by split the labels (n,) and, by name, the logits (n, C) float64 of a half-stage's predictions.npz.

    A split without images is left out. Errors: UserError for a file that is absent or does not hold them whole.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist")
    check_zip(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = [str(name) for name in arrays["names"]]
            held = {split: (arrays[f"{split}/labels"], arrays[f"{split}/logits"]) for split in SPLITS}
    except Exception as error:  # numpy and zipfile raise almost anything for a file that is none of theirs
        raise damaged(path, "it holds no predictions of a half-stage: delete it and run again") from error
    for labels, logits in held.values():
        if logits.ndim != 3 or logits.dtype.kind != "f" or logits.shape[:2] != (len(names), len(labels)):
            raise damaged(path, f"logits of shape {logits.shape} are none of {len(names)} sources")
        if not np.isfinite(logits).all():
            raise damaged(path, "it holds logits that are no numbers")
    missing = set(ASKED) - set(names)
    if missing:
        raise damaged(path, f"it lacks {', '.join(sorted(missing))}")
    return {
        split: (labels.astype(np.int64), dict(zip(names, logits.astype(np.float64), strict=True)))
        for split, (labels, logits) in held.items()
        if len(labels)
    }


def _taught_by(path: Path, logits: Mapping[str, np.ndarray], role: str, names: Sequence[str]) -> list[Source]:
    """Return each teacher, each pair of them and their averages.

    The average of one teacher is that teacher, and no source of its own.
    """
    roles = [f"{role}{k}" for k in range(len(names))]
    absent = [name for name in roles if name not in logits]
    if absent:
        raise damaged(path, f"it lacks {', '.join(absent)}")
    team = np.stack([logits[name] for name in roles])
    found = [Source(what="teacher", name=name, logits=(one,)) for name, one in zip(names, team, strict=True)]
    found += [
        Source(what="pair", name=f"{one.name} and {two.name}", logits=(*one.logits, *two.logits))
        for one, two in itertools.combinations(found, 2)
    ]
    if len(team) > 1:
        weighted = soft_targets.weighted_average(team, soft_targets.certainty_weights(team))
        found += [
            Source(what="average", name="average", logits=(team.mean(axis=0),)),
            Source(what="certainty", name="certainty", logits=(weighted,)),
        ]
    return found


def _with_bar(given: Sequence[Source]) -> list[Source]:
    """Return the sources with their average, or the only teacher, as the bar."""
    bar: What = "average" if len(given) > 1 else "teacher"
    return [replace(source, what="bar") if source.what == bar else source for source in given]


def _found(
    run: RunRow,
    split: str,
    labels: np.ndarray,
    temperature: float,
    stage: int,
    half: str,
    bar: Source,
    sources: Sequence[Source],
) -> Iterator[Found]:
    for source in sources:
        numbers: dict[str, float | None] = {}
        if source.what != "pair":
            numbers |= measured(source.logits[0], labels, temperature)
        if source.what != "bar":
            one, other = source.logits if source.what == "pair" else (source.logits[0], bar.logits[0])
            numbers |= likeness(one, other, labels)
        yield Found(
            dataset=run.dataset,
            pair=run.pair,
            method=run.method,
            seed=run.seed,
            split=split,
            stage=stage,
            half=half,
            what=source.what,
            source=source.name,
            numbers={name: None if (value := numbers.get(name)) is None else tidy(value) for name in NAMES},
        )


def measured(logits: np.ndarray, labels: np.ndarray, temperature: float) -> dict[str, float | None]:
    """Return what logits (n, C) are by themselves; their targets are those at the temperature given, all else at 1."""
    return {
        "top1": metrics.top_k_accuracy(logits, labels),
        "nll": metrics.negative_log_likelihood(logits, labels),
        "ece": metrics.expected_calibration_error(logits, labels),
        "entropy": soft_targets.mean_entropy(logits),
        "target_entropy": soft_targets.mean_entropy(logits, temperature),
        "off_label": soft_targets.off_label_mass(logits, labels, temperature),
    }


def likeness(logits: np.ndarray, other: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """Return how far two models say the same, from logits (n, C) of each."""
    return {
        "agreement": metrics.top1_agreement(logits, other),
        "correlation": soft_targets.non_target_correlation(logits, other, labels),
    }


# --- synergy.csv ----------------------------------------------------------------------------------


def write_synergy(found: Iterable[Found], path: str | Path) -> None:
    """Write synergy.csv, a line per run, split, half-stage and source."""
    rows = ({**{key: getattr(one, key) for key in [*PLACE, "seed"]}, **one.numbers} for one in found)
    write_csv(path, rows, COLUMNS)


def read_synergy(path: str | Path) -> list[Found]:
    """Read synergy.csv. Errors: UserError for a file that `write_synergy` did not write."""
    whole: Mapping[str, Callable[[str], Any]] = {"seed": int, "stage": int}
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            if table.fieldnames != COLUMNS:
                raise ValueError("it has other columns")
            return [
                Found(
                    **{key: whole.get(key, str)(row[key]) for key in [*PLACE, "seed"]},
                    numbers={name: float(row[name]) if row[name] else None for name in NAMES},
                )
                for row in table
            ]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise damaged(path, f"it is no table of half-stages ({error})") from error
