"""Which kinds of jobs an edit of the sources makes stale: all that it can change, and no other."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kd.study import digests
from kd.study.experiment import check_experiment
from kd.study.job_plan import JobPlan
from kd.study.jobs import Jobs
from kd.study.jobs.asib import half_predictions
from kd.study.plan import Plan

EXPERIMENT = {
    "experiment": "stale",
    "datasets": {"digits": {"source": "digits"}},
    "pairs": [{"teachers": ["resnet20", "wrn_16_1"], "student": "vgg8"}],
    "methods": [
        *("ce", "kd", "crd", "dml", "ft", "simkd", "asib"),
        {"method": "kd", "name": "asked", "recipe": {"teacher_view": "fixed"}},
        {"method": "kd", "name": "waiting", "recipe": {"schedule": "plateau", "patience": 3}},
        {"method": "kd", "name": "averaged", "recipe": {"ema_decay": 0.9}},
        {"method": "kd", "name": "mixed", "recipe": {"mixup_alpha": 0.2}},
        {"method": "kd", "name": "operated", "recipe": {"augmentation": {"randaugment": {"ops": 2}}}},
        {"method": "kd", "name": "native", "recipe": {"kernels": "winograd"}},
    ],
    "continual": {
        "student": "resnet8",
        "num_tasks": 2,
        "strategies": [{"name": "distilled", "targets": "asib", "replay_capacity": 100}],
    },
    "seeds": [0],
    "search": {"trials": 2, "methods": ["crd"]},
    "recipe": {"epochs": 400, "precision": "auto"},
}
OF_KD = ("kd", "asked", "waiting", "averaged", "mixed", "operated", "native")
METHODS = ("ce", *OF_KD, "crd", "dml", "ft", "simkd")
STUDENTS = {f"train_student {method}" for method in (*METHODS, "crd_searched")}
TEACHERS = {"train_teacher resnet20", "train_teacher wrn_16_1"}
HALVES = {"asib_teacher_update", "asib_student_update"}
TRAININGS = {*STUDENTS, *TEACHERS, *HALVES, "pretrain_method", "continual_run", "train_trial"}
OF_A_CHAIN = {"evaluate_synergy", "synergy_outputs", "asib_predictions"}
EVALUATIONS = {"evaluate vgg8", "evaluate_teacher resnet20", "evaluate_teacher wrn_16_1"}
MEASURED = {f"tune {network}" for network in ("resnet20", "wrn_16_1", "vgg8")}
OUTPUTS = {"teacher_outputs resnet20"}
SINGLE = {"evaluate_single vgg8"}
CHECK = {"check_pairs"}
READING = TRAININGS | OF_A_CHAIN | EVALUATIONS | MEASURED | OUTPUTS | SINGLE | CHECK | {"continual_matrix"}
"""All that reads packed images and runs networks."""
EVERY = READING
OF_METHODS = TRAININGS | OF_A_CHAIN | MEASURED | CHECK
TABLED = {"asib_result", "details", "statistics", "tables"}
READ_AND_WRITTEN = OUTPUTS | {"train_student asked", "synergy_outputs", "continual_run"} | CHECK
DEPLOYED = {"networks"}
OF_NETWORKS = HALVES | OF_A_CHAIN | CHECK | DEPLOYED
OF_VGG = OF_NETWORKS | STUDENTS | {"train_trial"} | {f"{rule} vgg8" for rule in ("evaluate", "evaluate_single", "tune")}
OF_WRN = OF_NETWORKS | {f"{rule} wrn_16_1" for rule in ("train_teacher", "evaluate_teacher", "tune")}

ADD = "\n\nEDITED = 1\n"
EDITS = {
    # what computes nothing
    "log line": ("kd/engine/jobs/teacher_outputs.py", '"sent %d', '"asked about %d', set()),
    "another log line": (
        "kd/engine/data.py",
        "        log.info(",
        '        log.warning("now")\n        log.info(',
        set(),
    ),
    "text of an error": ("kd/data/splits.py", re.compile(r'(UserError\(\s*f?")'), r"\1sadly, ", set()),
    "text of an error that a helper makes": ("kd/models/base.py", 'unknown(f"tap of', 'unknown(f"feature of', set()),
    "docstring": ("kd/engine/jobs/student.py", '"""Train a student', '"""Train one student', set()),
    "comment": ("kd/methods/crd.py", "\n\n\nclass ", "\n\n\n# a remark\nclass ", set()),
    "hardware in the record": ("kd/record/provenance.py", '"device": device.type,', '"kind": device.type,', set()),
    "digits in metrics.csv": ("kd/record/epochs.py", "{value:.6g}", "{value:.7g}", set()),
    "field of run.json": ("kd/record/run_json.py", '"status": "ok",', '"status": "ok", "more": 1,', set()),
    "progress bar": ("kd/console/progress.py", None, ADD, set()),
    "atomic files": ("kd/tools/files.py", None, ADD, set()),
    "what settings may be": ("kd/schema/config.py", "le=1_000_000)", "le=2_000_000)", set()),
    "help of a script": ("evaluate.py", 'help="', 'help="now ', set()),
    "method that nobody uses": ("kd/methods/hint.py", None, ADD, set()),
    "network that nobody uses": ("kd/models/mobilenetv2.py", None, ADD, set()),
    "timing of the engine": ("kd/speed/measure.py", None, ADD, set()),
    # what methods ask for
    "kind of groups": ("kd/data/wants.py", '"balanced"] = "random"', '"balanced"] = "balanced"', OF_METHODS),
    "united wants": ("kd/data/wants.py", "peers=max(", "peers=min(", OF_METHODS),
    "contract": ("kd/methods/contract.py", None, ADD, OF_METHODS),
    # one method, one network, one data set
    "a loss": (
        "kd/methods/crd.py",
        None,
        ADD,
        {"train_student crd", "train_student crd_searched", "train_trial"} | CHECK,
    ),
    "a loss that others use": (
        "kd/methods/kd.py",
        None,
        ADD,
        {"continual_run"} | {f"train_student {method}" for method in OF_KD} | CHECK,
    ),
    "what a method prepares": ("kd/methods/ft.py", None, ADD, {"train_student ft", "pretrain_method"} | CHECK),
    "baseline": ("kd/methods/ce.py", None, ADD, TEACHERS | {"train_student ce"} | CHECK),
    "ASIB": ("kd/asib/losses.py", None, ADD, HALVES | OF_A_CHAIN | CHECK),
    "a students' network": ("kd/models/vgg.py", None, ADD, OF_VGG),
    "a teacher's network": ("kd/models/wrn.py", None, ADD, OF_WRN),
    "digits": ("kd/data/sources/digits.py", None, ADD, {"prepare_data"}),
    "colours": ("kd/data/colours.py", None, ADD, {"prepare_data"}),
    # one kind of job
    "training of a student": ("kd/engine/jobs/student.py", None, ADD, STUDENTS | TEACHERS),
    "students side by side": ("kd/engine/cotraining.py", None, ADD, STUDENTS),
    "half-stage": ("kd/engine/jobs/half_stage.py", None, ADD, HALVES),
    "pre-stage": ("kd/engine/jobs/prestage.py", None, ADD, {"pretrain_method"}),
    "teacher's outputs": ("kd/engine/jobs/teacher_outputs.py", None, ADD, OUTPUTS),
    "measurement": ("kd/engine/jobs/tune.py", "CLEARLY = 0.95", "CLEARLY = 0.9", MEASURED),
    "features that an evaluation keeps": ("kd/engine/jobs/evaluate.py", "= 512", "= 500", EVALUATIONS),
    "rounding in evaluate_single": ("kd/engine/jobs/evaluate_single.py", "100 * int(", "100.0 * int(", SINGLE),
    "calibration": ("kd/analysis/metrics.py", None, ADD, EVALUATIONS | {"details"}),
    "class by class": ("kd/analysis/by_class.py", None, ADD, {"details"}),
    "images to look at": ("kd/data/examples.py", None, ADD, {"details"}),
    "evaluation of a chain": ("kd/engine/jobs/evaluate_team.py", None, ADD, {"evaluate_synergy"}),
    "predictions of a half-stage": ("kd/engine/jobs/predict_team.py", None, ADD, {"asib_predictions"}),
    "pass through a chain": ("kd/continual/targets.py", None, ADD, {"synergy_outputs"}),
    "tasks": ("kd/continual/tasks.py", None, ADD, {"continual_run", "continual_matrix"} | CHECK),
    "accuracy matrices": ("kd/continual/evaluation.py", None, ADD, {"continual_matrix"}),
    "time of a pass": ("kd/engine/latency.py", None, ADD, DEPLOYED),
    "check": ("kd/engine/rehearsal.py", None, ADD, CHECK),
    "tables": ("kd/reporting/tables.py", None, ADD, {"tables"}),
    # a search: an edit of what only tables show chooses nothing anew
    "trial": ("kd/engine/jobs/trial.py", None, ADD, {"train_trial"}),
    "choice": ("kd/analysis/choice.py", None, ADD, {"choose"}),
    "chosen settings": ("kd/engine/jobs/chosen.py", None, ADD, {"train_student crd_searched"}),
    "table of trials": ("kd/analysis/trials.py", None, ADD, {"trials", "tables"}),
    "measures of the tables": ("kd/analysis/measures.py", None, ADD, {"collect", *TABLED, *DEPLOYED}),
    # what runs only where settings ask for it
    "plateau": ("kd/engine/plateau.py", None, ADD, {"train_student waiting"} | CHECK),
    "averaged weights": ("kd/engine/ema.py", None, ADD, {"train_student averaged"} | CHECK),
    "mixed images": ("kd/data/mixing.py", None, ADD, {"train_student mixed"} | CHECK),
    "RandAugment": ("kd/data/randaugment.py", None, ADD, {"train_student operated"} | CHECK),
    "fixed view": ("kd/engine/fixed_view.py", None, ADD, READ_AND_WRITTEN),
    "Winograd's convolutions": ("kd/models/winograd.c", None, "// edited", MEASURED | {"train_student native"} | CHECK),
    "foreign weights": ("kd/models/torch_files.py", None, ADD, SINGLE),
    # what many jobs run
    "loop": ("kd/engine/training.py", None, ADD, TRAININGS | CHECK),
    "optimisers": ("kd/engine/optim.py", None, ADD, TRAININGS | CHECK),
    "checkpoints": ("kd/engine/checkpoint.py", None, ADD, TRAININGS | OF_A_CHAIN | CHECK),
    "teams": ("kd/engine/team.py", None, ADD, TRAININGS | OF_A_CHAIN | MEASURED | CHECK),
    "logits and features": ("kd/engine/predict.py", None, ADD, EVALUATIONS | SINGLE | {"continual_matrix"}),
    "augmentation": ("kd/data/augment.py", None, ADD, READING),
    "splits": ("kd/data/splits.py", None, ADD, READING | {"prepare_data"}),
    "taps": ("kd/models/base.py", None, ADD, READING | DEPLOYED),
    "weights": ("kd/models/weights.py", None, ADD, READING | DEPLOYED),
}


def codes(plan: Plan) -> dict[str, set[str]]:
    """The digests of code of every kind of job: a rule, or what a rule does with one method or network."""
    jobs = Jobs(plan)
    found: dict[str, set[str]] = {}
    for job in jobs_of(jobs):
        found.setdefault(kind_of(job), set()).add(job.code)
    return found


def jobs_of(jobs: Jobs) -> Iterator[JobPlan]:
    """Every job of the experiment, with the single evaluations that are asked for by name."""
    chains = [run for run in jobs.plan.runs if jobs.plan.variants[run.method].chain]
    waiting = [jobs.of(rule) for rule in ("check_pairs", "tables", "details")]
    waiting += [jobs.of("evaluate_single", run) for run in jobs.plan.runs]
    waiting += [jobs.of("evaluate_synergy", run) for run in chains]
    waiting += [job for run in chains for job in half_predictions(jobs, run)]
    waiting += [jobs.of("continual_matrix", run) for run in jobs.plan.continual.runs]
    seen = set()
    while waiting:
        job = waiting.pop()
        if job not in seen:
            seen.add(job)
            waiting += job.after
            yield job


def kind_of(job: JobPlan) -> str:
    parts = job.folder.split("/")
    if job.rule == "train_student":
        return f"{job.rule} {parts[-2]}"
    if job.rule in ("evaluate", "evaluate_single"):
        return f"{job.rule} {parts[-3].split('--')[1]}"
    if job.rule in ("train_teacher", "evaluate_teacher", "teacher_outputs"):
        return f"{job.rule} {parts[-2]}"
    return f"{job.rule} {parts[-1]}" if job.rule == "tune" else job.rule


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(check_experiment(EXPERIMENT))


@pytest.fixture(scope="module")
def sources(tmp_path_factory, plan) -> Iterator[tuple[Path, dict[str, set[str]]]]:
    """A copy of the sources, and the codes of all jobs by it."""
    folder = tmp_path_factory.mktemp("sources") / "workflow_scripts"
    shutil.copytree(digests.SCRIPTS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digests, "SCRIPTS", folder)
        digests.forget()
        yield folder, codes(plan)
    digests.forget()


def test_every_kind_of_job_is_there(sources):
    _, found = sources
    results = {"collect", "details", "networks", "statistics", "tables", "choose", "trials"}
    assert set(found) == EVERY | {"prepare_data", "asib_result"} | results
    assert len(EDITS) >= 25


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_makes_stale_what_it_can_change(sources, plan, edit):
    folder, before = sources
    name, old, new, expected = EDITS[edit]
    path = folder / name
    text = path.read_text(encoding="utf-8")
    if old is None:
        edited = text + new
    else:
        edited = old.sub(new, text) if isinstance(old, re.Pattern) else text.replace(old, new, 1)
    assert edited != text, "the edit finds nothing"
    try:
        path.write_text(edited, encoding="utf-8")
        digests.forget()
        after = codes(plan)
    finally:
        path.write_text(text, encoding="utf-8")
        digests.forget()
    assert {kind for kind in before if before[kind] != after[kind]} == expected
