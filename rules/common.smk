# Configuration, plan and the helpers that every rule uses.
import os
import re
import shlex
import sys
from pathlib import Path

SCRIPTS = str(Path(workflow.basedir) / "workflow_scripts")
if SCRIPTS not in sys.path:
    sys.path.append(SCRIPTS)  # last: script names must not hide anything

from snakemake.exceptions import WorkflowError

from kd.reporting.layout import (
    TEMPLATE,
    continual_figures,
    continual_tables,
    design_figures,
    design_tables,
    figure_files,
)
from kd.spec.continual import ContinualPlan, ContinualRun
from kd.spec.digests import canonical, code_digest, text_digest
from kd.spec.errors import UserError
from kd.spec.experiment import check_experiment, workflow_configuration
from kd.spec.plan import Run
from kd.spec.resources import memory_mb, memory_together_mb, runtime_minutes

ENVIRONMENT = "../envs/environment.yaml"

# --config allow_missing=true makes tables of what there is, after failures; it is no part of an experiment
ALLOW_MISSING = str(config.pop("allow_missing", "false")).lower() == "true"

# --config benchmark="--parts speed scale" are options of workflow_scripts/benchmark.py, likewise no part of it
BENCHMARK_OPTIONS = str(config.pop("benchmark", ""))

# --config ckpt_path=FILE lets evaluate_single read these weights instead of the run's own
CHECKPOINT = config.pop("ckpt_path", None)

try:
    QUICK_START = Path(workflow.basedir) / "config" / "config.yaml"
    GIVEN = workflow.config_settings  # what Snakemake has read into config already: --configfile and --config
    EXPERIMENT = check_experiment(workflow_configuration(config, QUICK_START, GIVEN.configfiles, GIVEN.config))
    PLAN = ContinualPlan(EXPERIMENT)
except UserError as error:
    raise WorkflowError(f"Configuration error. {error}") from None

# This Python and these scripts, wherever Snakemake was started from, and what changes no result: kept out of the
# commands, whose text is compared.
shell.prefix(
    f"set -euo pipefail; PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; SCRIPTS={shlex.quote(SCRIPTS)}; "
    f"export KD_CACHE={shlex.quote(EXPERIMENT.cache)} KD_JOBS_PER_GPU={EXPERIMENT.jobs_per_gpu}; "
)

FOLDER = PLAN.folder

# What statistics and figures of the comparison depend on: not the experiment's own analysis beside them.
REPORT = canonical(EXPERIMENT.report.model_dump(mode="json", exclude={"analysis"}))
GPUS = EXPERIMENT.gpus
THREADS = EXPERIMENT.threads

# Run on this machine, and not handed to a cluster.
LOCAL = workflow.exec_mode.name == "DEFAULT" and workflow.resource_settings.nodes is None

# All cores here (--cores caps it); a usual share of a node on a cluster.
DECODING_THREADS = (os.cpu_count() or 1) if LOCAL else 8

# Unlimited by default under plain --cores: jobs_per_gpu jobs a device unless --resources gpu=N says otherwise.
if GPUS and LOCAL:
    from kd.console.device import visible_devices

    workflow.global_resources.setdefault("gpu", max(GPUS, len(visible_devices()) * EXPERIMENT.jobs_per_gpu))


def any_of(names):
    """Return a regular expression of names; one that matches nothing if there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    dataset=any_of(EXPERIMENT.datasets),
    teacher=any_of(
        dict.fromkeys([*(name for pair in EXPERIMENT.pairs for name in pair.teachers), *PLAN.continual_teachers])
    ),
    team=r"[^/]+--[^/]+",
    seed=r"\d+",
    stage=r"[1-9]\d*",


def run_of(wildcards, method: str | None = None) -> Run:
    """Return the run that a rule's wildcards name, or that of another method of the same team and seed."""
    teachers, _, student = wildcards.team.rpartition("--")
    names = () if teachers == "none" else tuple(teachers.split("+"))
    return Run(wildcards.dataset, names, student, method or wildcards.method, int(wildcards.seed))


def companions(wildcards) -> list[Run]:
    """Return the runs of a team and seed that are trained side by side."""
    return [run_of(wildcards, method) for method in EXPERIMENT.co_train]


def prepared_files(run: Run) -> list[str]:
    """Return what a run reads of its teachers beside their weights."""
    outputs = [f"{folder}/outputs.safetensors" for folder in PLAN.outputs_folders(run)]
    return outputs + [f"{folder}/extra.safetensors" for folder in PLAN.pretrain_folders(run)]


def manifest(wildcards) -> str:
    """Return the last file that packing a data set writes."""
    return f"{PLAN.data_folder(wildcards.dataset)}/manifest.json"


def teacher_folder(dataset: str, teacher: str, seed: int) -> str:
    """Return where the teacher that a student of this seed learns from is kept."""
    return PLAN.teacher_folder(dataset, teacher, seed)


def teacher_weights(wildcards, method: str | None = None) -> list[str]:
    """Return the weights of a run's teachers, in order."""
    return [f"{folder}/checkpoints/best.safetensors" for folder in PLAN.teaching_folders(run_of(wildcards, method))]


def teacher_predictions(wildcards) -> list[str]:
    """Return what the first teacher answers on the test split, if there is a teacher."""
    return [f"{folder}/predictions.npz" for folder in PLAN.teaching_folders(run_of(wildcards))[:1]]


def ensemble_predictions(wildcards) -> list[str]:
    """Return what the earlier links of a chain answer, where the ensemble of a chain is reported."""
    return [f"{folder}/predictions.npz" for folder in PLAN.ensemble_folders(run_of(wildcards))]


def student_inputs(wildcards) -> dict[str, str | list[str]]:
    """Return what a student is trained from, in one call: Snakemake spends a while on each function of each job."""
    run = run_of(wildcards)
    return {
        "data": manifest(wildcards),
        "teachers": teacher_weights(wildcards),
        "outputs": [f"{folder}/outputs.safetensors" for folder in PLAN.outputs_folders(run)],
        "pretrained": [f"{folder}/extra.safetensors" for folder in PLAN.pretrain_folders(run)],
        "initial": PLAN.initial_weights(run.student),
        "tuned": PLAN.tuned_for_student(run),
    }


def work(job: str):
    """Return the resource functions of a training job: minutes and MB that grow with the work and with each attempt."""

    def settings(wildcards) -> str:
        return getattr(PLAN, job)(*_arguments(job, wildcards))

    return {
        "runtime": lambda wildcards, attempt: runtime_minutes(settings(wildcards), attempt),
        "mem_mb": lambda wildcards, attempt: memory_mb(settings(wildcards), attempt),
    }


def _arguments(job: str, wildcards) -> tuple:
    if job in {"teacher_job", "outputs_job"}:
        return wildcards.dataset, wildcards.teacher, int(wildcards.seed)
    if job == "continual_job":
        return (continual_run(wildcards),)
    if job == "pretrain_job":
        return wildcards.dataset, wildcards.teacher, wildcards.method, int(wildcards.seed)
    return (run_of(wildcards),)


RUN_FOLDER = f"{FOLDER}/{{dataset}}/{{team}}/{{method}}/seed{{seed}}"
CONTINUAL_FOLDER = f"{FOLDER}/{{dataset}}/continual/{{student}}/{{strategy}}/seed{{seed}}"
CHAINS = any_of(name for name, variant in PLAN.variants.items() if variant.chain)


def before_teacher_update(wildcards) -> list[str]:
    """Return the student half before, or nothing at the first stage, which starts from the trained teachers."""
    stage = int(wildcards.stage)
    folder = RUN_FOLDER.format(**wildcards)
    return [f"{folder}/stage{stage - 1}/student_update/state.pt"] if stage > 1 else []


def halves(wildcards, file: str) -> list[str]:
    """Return a file of every half-stage of a chain, in order."""
    folder = RUN_FOLDER.format(**wildcards)
    stages = range(1, PLAN.stages(wildcards.method) + 1)
    return [f"{folder}/stage{k}/{half}_update/{file}" for k in stages for half in ("teacher", "student")]


def last_half(wildcards) -> str:
    """Return the state that a chain ends with."""
    return halves(wildcards, "state.pt")[-1]


def finished(wildcards) -> list[str]:
    """Return the evaluations of all runs, or with allow_missing of those that there are."""
    files = [f"{FOLDER}/{run.path}/evaluation.json" for run in PLAN.runs]
    files += [f"{teacher_folder(*teacher)}/evaluation.json" for teacher in PLAN.teachers]
    return [file for file in files if Path(file).is_file()] if ALLOW_MISSING else files


def continual_run(wildcards) -> ContinualRun:
    """Return the class-incremental run that a rule's wildcards name."""
    return ContinualRun(wildcards.dataset, wildcards.student, wildcards.strategy, int(wildcards.seed))


def continual_teachers(wildcards) -> list[str]:
    """Return the weights of the teacher that a class-incremental run reads."""
    names = PLAN.taught_by(continual_run(wildcards))
    folders = [teacher_folder(wildcards.dataset, name, int(wildcards.seed)) for name in names]
    return [f"{folder}/checkpoints/best.safetensors" for folder in folders]


def continual_targets(wildcards) -> list[str]:
    """Return the kept logits of the chain that a class-incremental run is distilled from, if it is."""
    run = PLAN.target_run(continual_run(wildcards))
    return [f"{FOLDER}/{run.path}/synergy_outputs/outputs.safetensors"] if run else []


def after_tasks() -> list[str]:
    """Return the files of a class-incremental run's weights after each task, in order."""
    tasks = PLAN.continual.num_tasks if PLAN.continual else 0
    return [f"{CONTINUAL_FOLDER}/checkpoints/task{task}.safetensors" for task in range(1, tasks + 1)]


def continual_matrices(wildcards) -> list[str]:
    """Return the accuracy matrices of all class-incremental runs, or with allow_missing of those that there are."""
    files = [f"{FOLDER}/{run.path}/matrix.json" for run in PLAN.continual_runs]
    return [file for file in files if Path(file).is_file()] if ALLOW_MISSING else files
