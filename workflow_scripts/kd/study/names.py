"""Names that experiments cannot use: what the workflow writes beside them has those names already."""

import re
from collections.abc import Iterable
from itertools import product

from kd.schema.config import LONGEST_NAME, NAME_PATTERN, Experiment
from kd.schema.plain import NAME_IN_WORDS
from kd.tools.errors import UserError, shown

BESIDE_EXPERIMENTS = frozenset({"reference", "benchmark"})
"""Folders below results/."""
BESIDE_DATASETS = frozenset(
    {
        *("checked.json", "runs.csv", "trials.csv", "curves.csv", "details.json", "networks.json", "statistics.json"),
        "synergy.csv",
        *("tables", "figures", "sinks", "logs", "made", "report.html", "report.zip"),
    }
)
"""Files and folders below results/<experiment>/."""
BESIDE_TEAMS = frozenset({"data", "teachers", "tuned", "pretrain", "teacher_outputs", "continual"})
"""Folders below results/<experiment>/<dataset>/, and words of the tables' columns."""
ROWS = frozenset({"teacher", "student", "link", "control", "searched", "none"})
"""Kinds of rows in runs.csv, and what stands there for no teacher."""
LONGEST_FILE_NAME = 255
"""Bytes."""
LONGEST_ENDING = len("_seed4294967295_stage100.log")
DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))})
"""What no file can be named where Windows keeps the files, whatever follows after a '.'."""
OVERLAPS = "overlap"
"""The folder overlap--<student> holds the figure of all pairs of a student together."""


def check_names(experiment: Experiment) -> None:
    """Refuse names of experiment, data sets and networks that are taken, or that some file systems take for one."""
    _free("experiment", experiment.experiment, BESIDE_EXPERIMENTS)
    for name in experiment.datasets:
        _free(f"datasets.{name}", name, BESIDE_DATASETS | BESIDE_TEAMS)
    _apart("datasets", experiment.datasets)
    for i, pair in enumerate(experiment.pairs):
        for name in pair.teachers:
            _free(f"pairs[{i}].teachers", name, {"none", OVERLAPS})
        _free(f"pairs[{i}].student", pair.student, ())
    _apart("pairs", [name for pair in experiment.pairs for name in (*pair.teachers, pair.student)])


def check_variant_names(where: str, names: Iterable[str]) -> None:
    """Refuse names of methods that are taken, or that some file systems take for one."""
    listed = list(names)
    for name in listed:
        _free(where, name, BESIDE_TEAMS | ROWS | BESIDE_DATASETS)
    _apart(where, listed)


def check_strategy_names(experiment: Experiment, student: str, strategies: Iterable[str]) -> None:
    """Refuse names of class-incremental runs that some file systems take for one, and such logs."""
    listed = list(strategies)
    for name in (student, *listed):
        _free("continual", name, ())
    _apart("continual.strategies", listed)
    _check_joined("continual", product(experiment.datasets, [student], listed), "data set | student | strategy")


def check_file_names(experiment: Experiment, folders: Iterable[str]) -> None:
    """Refuse names that together make one file's name twice or one too long."""
    teams = {f"{names}--{pair.student}" for pair in experiment.pairs for names in ("none", *pair.teachers)}
    teams |= {pair.name for pair in experiment.pairs}
    joined = product(experiment.datasets, sorted(teams), dict.fromkeys(folders))
    _check_joined("pairs", joined, "data set | pair | method")


def _check_joined(where: str, joined: Iterable[tuple[str, str, str]], kinds: str) -> None:
    """Refuse a log's name, which joins three with '_', that is too long or that others join to as well."""
    first: dict[str, tuple[str, str, str]] = {}
    for names in joined:
        name = "_".join(names)
        if len(name) + LONGEST_ENDING > LONGEST_FILE_NAME:
            raise UserError(
                f"{where}: names ({kinds}) are too long together for the name of a file ({len(name) + LONGEST_ENDING} "
                f"of {LONGEST_FILE_NAME} characters): shorten {shown(name)}"
            )
        other = first.setdefault(name, names)
        if other != names:
            raise UserError(
                f"{where}: names join to '{name}' in two ways, {' | '.join(other)} and {' | '.join(names)} ({kinds}), "
                "and their logs would be one file: take other names"
            )


def check_name(where: str, name: object) -> str:
    """Return a name that can be a folder's."""
    if not isinstance(name, str) or len(name) > LONGEST_NAME or not re.fullmatch(NAME_PATTERN[:-1], name):
        raise UserError(f"{where}: must be {NAME_IN_WORDS}, found {shown(name)}")
    return name


def _free(where: str, name: str, taken: Iterable[str]) -> None:
    if name.lower() in taken:
        raise UserError(f"{where}: the workflow uses the name '{name}' for what it writes beside: take another one")
    if name.lower().partition(".")[0] in DEVICES:
        raise UserError(f"{where}: some file systems cannot hold a file of the name '{name}': take another one")


def _apart(where: str, names: Iterable[str]) -> None:
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(name.lower(), name)
        if other != name:
            raise UserError(f"{where}: '{other}' and '{name}' differ in capitals only, which some file systems ignore")
