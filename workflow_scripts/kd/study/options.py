"""Code that a job runs only where its settings ask for it.

The engine takes such a module by `option`, which digests do not follow; `options_of` says by the settings which ones a
job takes, and those are part of its digest. So an edit of one makes stale the jobs that take it, and no other.
"""

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kd.schema.cards import card

AVERAGE = "kd.engine.ema"
BUDGET = "kd.engine.jobs.budget"
CHOSEN = "kd.engine.jobs.chosen"
"""Asked for by a file that a job reads, and not by its settings."""
FIXED_VIEW = "kd.engine.fixed_view"
MIXING = "kd.data.mixing"
PLATEAU = "kd.engine.plateau"
RANDAUGMENT = "kd.data.randaugment"
TORCH_FILES = "kd.models.torch_files"
WINOGRAD = "kd.models.winograd"
OPTIONS = frozenset({AVERAGE, BUDGET, CHOSEN, FIXED_VIEW, MIXING, PLATEAU, RANDAUGMENT, TORCH_FILES, WINOGRAD})


def option(module: str) -> Any:
    """Return one of the modules named here."""
    return importlib.import_module(module)


def options_of(settings: str) -> set[str]:
    """Return the modules that a job takes: `settings` is the canonical text of what it is told."""
    told = json.loads(settings) if settings.startswith(("{", "[")) else None
    return {module for job in _jobs_in(told) for module in _options(job)}


def _jobs_in(told: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the settings of every job in what a job is told: its own, or those of the jobs that it checks."""
    if isinstance(told, dict):
        if "recipe" in told and "split_seed" in told:
            yield told
        else:
            told = list(told.values())
    if isinstance(told, list):
        for part in told:
            yield from _jobs_in(part)


def _options(job: Mapping[str, Any]) -> set[str]:
    recipe, networks = job["recipe"], [job["student"], *job["teachers"]]
    asked = {
        AVERAGE: recipe["ema_decay"] is not None,
        BUDGET: job["budget"] is not None,
        FIXED_VIEW: recipe["teacher_view"] == "fixed" or _reads_outputs(job["method"]),
        MIXING: recipe["mixup_alpha"] > 0 or recipe["cutmix_alpha"] > 0,
        PLATEAU: recipe["schedule"] == "plateau",
        RANDAUGMENT: recipe["augmentation"]["randaugment"] is not None,
        # where a measurement chose it, what it is has part in that measurement's digest
        WINOGRAD: recipe["kernels"] == "winograd",
        TORCH_FILES: any(isinstance(network["pretrained"], str) for network in networks if network),
    }
    return {module for module, wanted in asked.items() if wanted}


def _reads_outputs(method: Sequence[Mapping[str, Any]]) -> bool:
    return any(card(part["card"]).fixed_teacher for part in method)
