"""What jobs are called where a person reads of them: by variant, by who teaches whom, and by seed."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from kd.schema.cards import card
from kd.study.chain import HALVES
from kd.study.continual import TEACHER, ContinualRun
from kd.study.job_plan import JobPlan
from kd.study.plan import Plan
from kd.study.runs import Run
from kd.study.schedule_epochs import counts

CHAIN_HALVES = {f"asib_{half}": half.replace("_", " ") for half in HALVES}
REPORTS = {
    "check_pairs": "the check of every network and method",
    "collect": "the table of all runs",
    "trials": "the table of all trials",
    "details": "the details of all runs",
    "networks": "what finished networks take",
    "statistics": "the statistics",
    "tables": "the tables",
    "figures": "the figures",
    "diagnosis": "the diagnosis of every half-stage",
    "analysis": "the experiment's own analysis",
    "page": "the page",
    "continual_report": "the report of class-incremental runs",
    "benchmark": "the benchmark",
}
"""Of jobs that there is one of."""


def title_of(plan: Plan, rule: str, which: tuple[Any, ...]) -> str:
    """Return what the job of a rule is called; `which` is what `Jobs.of` finds it by."""
    if rule in REPORTS:
        return REPORTS[rule]
    return TITLES[rule](plan, rule, *which) if rule in TITLES else rule


def _of_images(plan: Plan, rule: str, dataset: str) -> str:
    return f"the images of {dataset}"


def _of_network(plan: Plan, rule: str, dataset: str, network: str) -> str:
    return f"how {network} runs fastest{_on(plan, dataset)}"


def _of_teacher(plan: Plan, rule: str, dataset: str, teacher: str, seed: int) -> str:
    return f"{WHAT.get(rule, '')}teacher {teacher}{_on(plan, dataset)}, seed {seed}"


def _of_pre_stage(plan: Plan, rule: str, dataset: str, teacher: str, method: str, seed: int) -> str:
    return f"pre-stage of {method}: {teacher}{_on(plan, dataset)}, seed {seed}"


def _of_run(plan: Plan, rule: str, run: Run, stage: int | None = None, half: str = "") -> str:
    part = f", stage {stage} {CHAIN_HALVES.get(rule) or half.replace('_', ' ')}" if stage is not None else ""
    return f"{WHAT.get(rule, '')}{run.method}: {_who(plan, run)}, seed {run.seed}{part}"


def _of_continual_run(plan: Plan, rule: str, run: ContinualRun) -> str:
    targets = plan.continual.strategies[run.strategy].targets
    names = [*plan.continual.teachers] if targets == TEACHER else [targets] if targets else []
    who = f"{' + '.join(names)} -> {run.student}" if names else run.student
    return f"{WHAT.get(rule, '')}continual {run.strategy}: {who}{_on(plan, run.dataset)}, seed {run.seed}"


def _of_sink(plan: Plan, rule: str, sink: str) -> str:
    return f"the runs for {sink}"


WHAT = {
    "teacher_outputs": "outputs of ",
    "synergy_outputs": "outputs of ",
    "evaluate": "test of ",
    "evaluate_teacher": "test of ",
    "evaluate_single": "single test of ",
    "evaluate_synergy": "all tests of ",
    "continual_matrix": "test of ",
    "choose": "choice of ",
    "asib_result": "result of ",
    "asib_predictions": "predictions of ",
}
"""Which part of a run's way a rule is, where that is not its training."""

TITLES: dict[str, Callable[..., str]] = {
    "prepare_data": _of_images,
    "tune": _of_network,
    **dict.fromkeys(("train_teacher", "teacher_outputs", "evaluate_teacher"), _of_teacher),
    "pretrain_method": _of_pre_stage,
    **dict.fromkeys(("train_student", "train_trial", "choose"), _of_run),
    **dict.fromkeys((*CHAIN_HALVES, "asib_result", "asib_predictions"), _of_run),
    **dict.fromkeys(("evaluate", "evaluate_single", "evaluate_synergy", "synergy_outputs"), _of_run),
    **dict.fromkeys(("continual_run", "continual_matrix"), _of_continual_run),
    "sink": _of_sink,
}


def side_by_side(plan: Plan, runs: list[Run]) -> str:
    """Return what a job is called that trains several runs of a data set and pair."""
    methods, seeds = dict.fromkeys(run.method for run in runs), dict.fromkeys(run.seed for run in runs)
    counted = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    return f"{', '.join(methods)} side by side: {_who(plan, runs[0])}, {counted}"


def _who(plan: Plan, run: Run) -> str:
    """Return 'resnet20 -> resnet8'; the link of a chain of runs is taught by the student of the one before."""
    teachers = [
        f"{teacher.network} of {teacher.run.method}" if teacher.run else teacher.network
        for teacher in plan.taught(run).teachers
    ]
    return f"{' + '.join(teachers) or 'no teacher'} -> {run.student}{_on(plan, run.dataset)}"


def _on(plan: Plan, dataset: str) -> str:
    return f" on {dataset}" if len(plan.experiment.datasets) > 1 else ""


# --- how long they train ---------------------------------------------------------------------------


def epochs_of(job: JobPlan) -> int | None:
    """Return how many epochs a job trains, all of its stages and tasks counted; None for one that trains nothing.

    One that is given a number of operations is counted with the recipe's, and one under a plateau with the most.
    """
    if job.parts:
        return sum(epochs_of(part) or 0 for part in job.parts)
    if job.rule not in TRAINED:
        return None
    return epochs_told(json.loads(job.settings))


TRAINED = frozenset(
    {"train_teacher", "train_student", "train_trial", "pretrain_method", *CHAIN_HALVES, "continual_run"}
)


def in_epochs(count: int) -> str:
    """Return '1 epoch' or '12 epochs'; of what is measured in no epoch at all, that."""
    return f"{count:,} epoch{'s' if count != 1 else ''}" if count else "no epochs"


def epochs_told(settings: Mapping[str, Any]) -> int:
    """Return the epochs of a training by what its job is told."""
    student, epochs = settings["student"], int(settings["recipe"]["epochs"])
    if student is not None and not student["train"]:
        return 0
    if "num_tasks" in settings:
        balance = settings["strategy"]["balance_epochs"]
        return int(settings["num_tasks"] * epochs + (settings["num_tasks"] - 1) * balance)
    pre_stage = student is None
    stages = sum(_epochs_of_stages(part, pre_stage) for part in settings["method"])
    return stages + (0 if pre_stage or settings["half"] else epochs)


def _epochs_of_stages(part: Mapping[str, Any], pre_stage: bool) -> int:
    """Return the epochs of stages beside the recipe's own; a card that has a pre-stage counts those of that."""
    described, told = card(part["card"]), part["settings"]
    if described.pretrain != pre_stage:
        return 0
    lengths = {key: setting.epochs for key, setting in described.settings.items() if key in told and setting.epochs}
    return sum(int(told[key] or 0) for key, length in lengths.items() if length.of == "stage" and counts(told, length))
