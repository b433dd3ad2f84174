"""The catalogue of measures: every number of a run that tables, page and figures show. A new one is one entry here.

An entry says where a finished run left the number and where people see it:

    Measure(
        column="throughput", file="run.json", key="images_per_second", unit="count", better="up",
        name="throughput", heading="Images per second", fact="Images per second while training",
    ),

is read from run.json, checked to be a number, has a column in runs.csv, its mean over a method's seeds in
comparison.csv and .json, a column in the page's table and a line among the method's facts there; with `main=True` it
is also a column of comparison.md.
"""

from dataclasses import dataclass
from typing import Literal

Unit = Literal["%", "nats", "fraction", "s", "ms", "MB", "FLOPs", "count"]
"""What a number is in, which says how it is written (kd.reporting.text.amount) and, for %, that 100 is the most."""
Weights = Literal["last", "best"]
"""Those after the last epoch, or those of the epoch that the validation images chose."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A number that a comparison has of each method: its mean over the finished seeds."""

    unit: Unit
    better: Literal["up", "down"] | None
    """Whether more or less of it is better; None where it is neither."""
    digits: int = 2
    """After the decimal point, for units that are written with one."""
    name: str = ""
    """Its key in comparison.csv and .json; empty for a number that stands in runs.csv only."""
    csv: bool = True
    """Whether comparison.csv has it."""
    heading: str = ""
    """Its column in the comparison's tables, if any; measures of one heading share the cell."""
    main: bool = False
    """Whether its column is among those that matter; the others stand in comparison.csv and .json, and on the page by
    choice."""
    fact: str = ""
    """Its line among a method's facts on the page, if any; measures of one line share it."""

    def gain(self, value: float) -> float:
        """Return the value so that more is better."""
        return -value if self.better == "down" else value


@dataclass(frozen=True, kw_only=True)
class Measure(Shown):
    """A number that each finished run has."""

    column: str
    """Of runs.csv."""
    file: Literal["run.json", "evaluation.json"]
    key: str
    """Where in the file, with a dot between a part and its name."""
    of: Literal["run", "teachers", "prestages"] = "run"
    """Whose file: the run's own, or the sum over those of what was made for it."""
    weights: Weights | None = None
    """The report.weights with which its title or note counts."""
    title: str = ""
    """What it is called where it is what methods are compared by: of each choice of weights one measure has a title."""
    note: str = ""
    """A sentence below the table, with {value} in it, for methods that have the number."""
    published: Weights | None = None
    """The epoch label of published numbers that it may stand beside."""


@dataclass(frozen=True, kw_only=True)
class Total(Shown):
    """The sum of what measures found, unknown if one of them is."""

    parts: tuple[str, ...]
    """Their columns of runs.csv."""


@dataclass(frozen=True, kw_only=True)
class Deployed(Shown):
    """A number that a method's network has where it is deployed, of networks.json (kd.analysis.networks)."""

    key: str
    """Where it stands there of each network, with a dot between a part and its name."""
    counted: bool = False
    """Whether it is the same on any machine."""


@dataclass(frozen=True)
class Text:
    """A column of runs.csv that says how its numbers were made; a field of `kd.analysis.rows.RunRow`."""

    column: str


@dataclass(frozen=True)
class Curve:
    """A number per epoch, a column of metrics.csv, as figures draw it."""

    column: str
    label: str


ENSEMBLE = "the mean of all its generations' probabilities reaches {value} % test top-1."
SECONDS = "Training time: student, teachers, pre-stage"
FLOPS = "Training FLOPs: student, teachers, pre-stage"
EXTRA = "Extra parameters (train / inference)"
LATENCY = "Latency (1 / 64 images)"
LATENCY_FACT = f"{LATENCY}, one thread"

TOTAL_FLOPS = Total(
    parts=("train_flops", "teacher_flops", "pretrain_flops"),
    unit="FLOPs",
    better="down",
    name="total_flops",
    heading="Training FLOPs",
    main=True,
)
"""What accuracy is held against: unlike seconds, it is the same on any machine and whatever else runs there."""

CATALOGUE: tuple[Measure | Total | Deployed | Text, ...] = (
    Measure(column="epochs", file="run.json", key="epochs", unit="count", better=None),
    Measure(column="best_epoch", file="run.json", key="best_epoch", unit="count", better=None),
    Measure(column="val_top1_last", file="evaluation.json", key="last.val_top1", unit="%", better="up"),
    Measure(column="val_top1_best", file="evaluation.json", key="best.val_top1", unit="%", better="up"),
    Measure(
        column="test_top1_last",
        file="evaluation.json",
        key="last.test_top1",
        weights="last",
        unit="%",
        better="up",
        title="Test top-1 (%)",
        name="mean_last_epoch",
        heading="Last epoch",
        published="last",
    ),
    Measure(
        column="test_top1_best",
        file="evaluation.json",
        key="best.test_top1",
        weights="best",
        unit="%",
        better="up",
        title="Test top-1 (%)",
        name="mean_selected_epoch",
        heading="Validation-selected",
    ),
    Measure(
        column="test_top1_tracked_max",
        file="evaluation.json",
        key="test_top1_tracked_max",
        unit="%",
        better="up",
        name="mean_tracked_max",
        published="best",
    ),
    Measure(column="test_top5_last", file="evaluation.json", key="last.test_top5", unit="%", better="up"),
    Measure(
        column="test_top5_best",
        file="evaluation.json",
        key="best.test_top5",
        unit="%",
        better="up",
        name="test_top5",
        fact="Test top-5 (%)",
    ),
    Measure(
        column="test_nll_best",
        file="evaluation.json",
        key="best.test_nll",
        unit="nats",
        better="down",
        digits=3,
        name="test_nll",
        fact="Test negative log-likelihood (nats)",
    ),
    Measure(
        column="test_ece_best",
        file="evaluation.json",
        key="best.test_ece",
        unit="fraction",
        better="down",
        digits=3,
        name="test_ece",
        fact="Expected calibration error",
    ),
    Text("teacher_test_top1"),
    Measure(
        column="agreement_best",
        file="evaluation.json",
        key="best.agreement",
        unit="%",
        better=None,
        name="agreement",
        fact="Agreement with the first teacher (%)",
    ),
    Measure(
        column="ensemble_top1_last",
        file="evaluation.json",
        key="ensemble.last",
        weights="last",
        unit="%",
        better="up",
        name="ensemble_last",
        csv=False,
        note=ENSEMBLE,
    ),
    Measure(
        column="ensemble_top1_best",
        file="evaluation.json",
        key="ensemble.best",
        weights="best",
        unit="%",
        better="up",
        name="ensemble_best",
        csv=False,
        note=ENSEMBLE,
    ),
    Measure(
        column="train_seconds",
        file="run.json",
        key="seconds.train",
        unit="s",
        better="down",
        name="train_seconds",
        heading="Train time",
        fact=SECONDS,
    ),
    Measure(
        column="teacher_seconds",
        file="run.json",
        key="seconds.train",
        of="teachers",
        unit="s",
        better="down",
        name="teacher_seconds",
        fact=SECONDS,
    ),
    Measure(
        column="pretrain_seconds",
        file="run.json",
        key="seconds.train",
        of="prestages",
        unit="s",
        better="down",
        name="pretrain_seconds",
        fact=SECONDS,
    ),
    Total(
        parts=("train_seconds", "teacher_seconds", "pretrain_seconds"),
        unit="s",
        better="down",
        name="total_seconds",
        heading="Total time",
    ),
    Text("device"),
    Measure(
        column="peak_memory_mb",
        file="run.json",
        key="peak_memory_mb",
        unit="MB",
        better="down",
        name="peak_memory_mb",
        heading="Peak memory",
        fact="Peak memory",
    ),
    Text("precision"),
    Text("kernels"),
    Text("eval_precision"),
    Measure(
        column="train_flops",
        file="run.json",
        key="flops.train",
        unit="FLOPs",
        better="down",
        name="train_flops",
        fact=FLOPS,
    ),
    Measure(
        column="teacher_flops",
        file="run.json",
        key="flops.train",
        of="teachers",
        unit="FLOPs",
        better="down",
        name="teacher_flops",
        fact=FLOPS,
    ),
    Measure(
        column="pretrain_flops",
        file="run.json",
        key="flops.train",
        of="prestages",
        unit="FLOPs",
        better="down",
        name="pretrain_flops",
        fact=FLOPS,
    ),
    TOTAL_FLOPS,
    Measure(
        column="student_params",
        file="run.json",
        key="params.student",
        unit="count",
        better="down",
        name="student_params",
        fact="Parameters of the student",
    ),
    Measure(
        column="extra_params_train",
        file="run.json",
        key="params.extra_train",
        unit="count",
        better="down",
        name="extra_params_train",
        heading=EXTRA,
        fact="Extra parameters while training",
    ),
    Measure(
        column="extra_params_inference",
        file="run.json",
        key="params.extra_inference",
        unit="count",
        better="down",
        name="extra_params_inference",
        heading=EXTRA,
        fact="Extra parameters at inference",
    ),
    Deployed(
        key="parameters",
        unit="count",
        better="down",
        counted=True,
        name="deployed_params",
        heading="Parameters",
        fact="Parameters as deployed",
    ),
    Deployed(
        key="flops",
        unit="FLOPs",
        better="down",
        counted=True,
        name="inference_flops",
        heading="FLOPs per image",
        fact="FLOPs of one image at inference",
    ),
    Deployed(
        key="milliseconds.1",
        unit="ms",
        better="down",
        name="latency_1_ms",
        heading=LATENCY,
        fact=LATENCY_FACT,
    ),
    Deployed(
        key="milliseconds.64",
        unit="ms",
        better="down",
        name="latency_64_ms",
        heading=LATENCY,
        fact=LATENCY_FACT,
    ),
)
"""In the order of runs.csv and of every table."""

CURVES = (Curve("train_loss", "Training loss"), Curve("val_top1", "Validation top-1 (%)"))
"""In the order of a method's panels on the page."""
VALIDATION = CURVES[1]
"""The one that methods are compared by."""


def columns() -> list[str]:
    """Return the columns of runs.csv that say what a run reached and how, in order."""
    return [entry.column for entry in CATALOGUE if isinstance(entry, Measure | Text)]


def measures() -> list[Measure]:
    """Return the numbers that runs have."""
    return [entry for entry in CATALOGUE if isinstance(entry, Measure)]


def deployed() -> list[Deployed]:
    """Return the numbers that deployed networks have."""
    return [entry for entry in CATALOGUE if isinstance(entry, Deployed)]


def shown() -> list[Measure | Total | Deployed]:
    """Return the numbers that comparisons have."""
    return [entry for entry in CATALOGUE if not isinstance(entry, Text) and entry.name]


def compared_by(weights: Weights) -> Measure:
    """Return what a report about these weights compares methods by."""
    return next(measure for measure in measures() if measure.title and measure.weights == weights)


def kept_in(file: str) -> list[Measure]:
    """Return what is read from one of a run's files."""
    return [measure for measure in measures() if measure.file == file]


def together(label: Literal["heading", "fact"]) -> dict[str, list[Measure | Total | Deployed]]:
    """Return what stands under each heading of the tables, or in each line of facts on the page."""
    found: dict[str, list[Measure | Total | Deployed]] = {}
    for measure in shown():
        if text := getattr(measure, label):
            found.setdefault(text, []).append(measure)
    return found
