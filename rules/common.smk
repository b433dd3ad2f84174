# Configuration, plan and the helpers that every rule uses.
import os
import re
import secrets
import shlex
import sys
from functools import cache
from pathlib import Path

SCRIPTS = str(Path(workflow.basedir) / "workflow_scripts")
if SCRIPTS not in sys.path:
    sys.path.append(SCRIPTS)  # last: script names must not hide anything

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.settings.types import RerunTrigger

from kd.reporting.layout import (
    TEMPLATE,
    continual_figures,
    continual_tables,
    design_figures,
    design_tables,
    figure_files,
)
from kd.study.continual import ContinualPlan, ContinualRun
from kd.study.digests import canonical, code_digest, text_digest
from kd.tools.errors import UserError
from kd.study.experiment import check_experiment, workflow_configuration
from kd.tools.files import atomic_write, remove_leftovers
from kd.study.jobplan import TRAININGS, JobPlan, Jobs
from kd.study.lengths import lengths_beyond
from kd.study.believed import SEEN, bring_to_the_present, is_due, is_settled, stays
from kd.study.made import drop_finished, reason_of
from kd.study.plan import Run
from kd.study.planned import Targets
from kd.study.resources import memory_mb, memory_together_mb, runtime_minutes


def as_letters(text: str) -> str:
    """Return a text in which Snakemake, which fills in what stands in braces, finds letters only."""
    return text.replace("{", "{{").replace("}", "}}")


ENVIRONMENT = as_letters(str(Path(workflow.basedir) / "envs" / "environment.yaml"))

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

# What a rule does is part of what its results are made from.
JOBS = Jobs(PLAN, lambda rule: str(workflow.get_rule(rule).shellcmd))

# This Python and these scripts, wherever Snakemake was started from, and what changes no result: kept out of the
# commands, whose text is part of what results are made from.
PREFIX = (
    f"set -euo pipefail; PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; SCRIPTS={shlex.quote(SCRIPTS)}; "
    f"export KD_CACHE={shlex.quote(EXPERIMENT.cache)} KD_JOBS_PER_GPU={EXPERIMENT.jobs_per_gpu}; "
)
shell.prefix(as_letters(PREFIX))

FOLDER = PLAN.folder
CHECKED = f"{FOLDER}/checked.json"
CHECK_LOG = f"{FOLDER}/logs/check_pairs.log"

# What statistics and figures of the comparison depend on: not the experiment's own analysis beside them.
REPORT = canonical(EXPERIMENT.report.model_dump(mode="json", exclude={"analysis"}))
# What tables and pages show of the experiment: not how its jobs are run.
SHOWN = EXPERIMENT.model_dump(mode="json", exclude={"gpus", "jobs_per_gpu", "threads", "cache", "co_train"})
GPUS = EXPERIMENT.gpus
THREADS = EXPERIMENT.threads

# Started by a user, and not by Snakemake itself for one of its jobs.
STARTED = workflow.exec_mode.name == "DEFAULT"

# Allowed, and hardly meant.
if STARTED:
    for sentence in lengths_beyond(EXPERIMENT):
        logger.warning(f"Longer than the training: {sentence}.")
    for sentence in PLAN.idle:
        logger.warning(f"{sentence}.")

# Run on this machine, and not handed to a cluster.
LOCAL = STARTED and workflow.resource_settings.nodes is None

# All cores here (--cores caps it); a usual share of a node on a cluster.
DECODING_THREADS = (os.cpu_count() or 1) if LOCAL else 8

# Unlimited by default under plain --cores: jobs_per_gpu jobs a device unless --resources gpu=N says otherwise.
if GPUS and LOCAL:
    from kd.console.device import visible_devices

    workflow.global_resources.setdefault("gpu", max(GPUS, len(visible_devices()) * EXPERIMENT.jobs_per_gpu))

# --- what is made again -------------------------------------------------------------------------
# Results say themselves what they were made from (kd.study.made), so that they are judged alike where Snakemake's notes
# are lost, where results were copied, and where another rule makes the same. A job whose result was made from something
# else than is asked has this file as an input that is newer; for any other one it is ancient, no reason to run.
OTHERWISE = ".snakemake/kd/settings_code_or_data_changed"

if STARTED:
    # other text each time, or Snakemake would find the input unchanged
    atomic_write(OTHERWISE, secrets.token_hex(8))
    # the files of results are read through once, and again only if they are others
    SEEN.keep_in(f".snakemake/kd/seen_{EXPERIMENT.experiment}.json")


@cache
def leave_comparing_to_us() -> None:
    """Spare Snakemake its own comparisons of commands, parameters and sets of inputs, unless a user asks for them.

    Settings are there from the first question of an input function on, before anything is compared.
    """
    settings = workflow.dag_settings
    if set(settings.rerun_triggers) == set(RerunTrigger.all()):
        settings.rerun_triggers = frozenset({RerunTrigger.MTIME})
    # an output that was cut off has no record: it is made again, and there is nothing to ask the user
    settings.force_incomplete = True


# --- what was asked for -------------------------------------------------------------------------
def asked_for() -> list[str]:
    """Return the targets and files that the user named; there are settings only once all rules are known."""
    settings = workflow.dag_settings
    return sorted({*settings.targets, *settings.forcerun, *settings.until}) if STARTED and settings else []


@cache
def targets() -> Targets:
    """Return what can be asked for."""
    free = [rule.name for rule in workflow.rules if not rule.has_wildcards()]
    return Targets(PLAN, free, [str(file) for rule in workflow.rules for file in rule.output])


@cache
def refuse_what_is_not_planned() -> None:
    """Refuse files of runs that the experiment does not have, for which rules would do."""
    for target in asked_for():
        if not workflow.is_rule(target) and (sentence := targets().not_planned(target)):
            raise WorkflowError(sentence)


def in_plain_words(record) -> bool:
    """Let Snakemake say why it cannot have a target, in place of what came of looking for its rule."""
    error = getattr(record, "exception", None)
    if error in {"InputFunctionException", "MissingRuleException"}:
        files = [target for target in asked_for() if not workflow.is_rule(target)]
        said = list(filter(None, map(targets().not_planned, files)))
        if error == "MissingRuleException":
            missing = record.msg.partition(" produce ")[2].partition(" (if ")[0]
            said += [targets().no_such(file) for file in files if missing in {file, os.path.relpath(file)}]
        record.msg = said[0] if said else record.msg
    return True


logger.addFilter(in_plain_words)


def judged(job: JobPlan, fresh: bool = True):
    """Return the input that makes a job run if its result is not what is asked (or not `fresh` for another reason)."""
    leave_comparing_to_us()
    refuse_what_is_not_planned()
    if not STARTED or (fresh and stays(job)):
        return ancient(OTHERWISE)
    bring_to_the_present(job)
    return OTHERWISE


def reads(job_of):
    """Return the input function of a rule whose job `job_of` finds by the wildcards."""

    def inputs(wildcards) -> dict:
        job = job_of(wildcards)
        return {**job.inputs, "asked": judged(job), "checked": checked(job)}

    return unpack(inputs)


def checked(*jobs: JobPlan) -> list[str]:
    """Return what trainings wait for: that all networks and methods of the experiment fit.

    Only where one of them is to run: a finished one must not run again because the check does, and an ancient input
    is no way to say so, for Snakemake then overlooks the job's own reasons to run.
    """
    return [CHECKED] if STARTED and any(job.rule in TRAININGS and is_due(job) for job in jobs) else []


def told(job_of):
    """Return what the command of a rule is told."""
    return {
        "settings": lambda wildcards: job_of(wildcards).settings,
        "code": lambda wildcards: job_of(wildcards).code,
        "out": lambda wildcards: job_of(wildcards).folder,
        "made": lambda wildcards: noted(job_of(wildcards)),
    }


def noted(job: JobPlan) -> list[str]:
    """Return what a script is given to record what its result was made from."""
    return [job.record, job.identity]


TEXTS: dict[str, str] = {}
"""Files of texts that this workflow uses, by text."""


def text_file(text: str) -> str:
    """Return a file of a text that can be longer than an argument of a command may be; its name is its digest."""
    if text not in TEXTS:
        TEXTS[text] = f".snakemake/kd/texts/{text_digest(text)}.json"
        if not Path(TEXTS[text]).is_file():
            atomic_write(TEXTS[text], text)
    return TEXTS[text]


def drop_old_texts() -> None:
    """Delete the texts of earlier starts: Snakemake's lock lets nobody else work here."""
    for path in Path(".snakemake/kd/texts").glob("*"):
        if str(path) not in TEXTS.values():
            path.unlink(missing_ok=True)


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


def work(job_of):
    """Return the resource functions of a training job: minutes and MB that grow with the work and with each attempt."""

    def minutes(wildcards, attempt) -> int:
        job = job_of(wildcards)
        return runtime_minutes(job.settings, job.images, attempt)

    return {
        "runtime": minutes,
        "mem_mb": lambda wildcards, attempt: memory_mb(job_of(wildcards).settings, attempt),
    }


DATA_FOLDER = f"{FOLDER}/{{dataset}}/data"
TEACHER_FOLDER = f"{FOLDER}/{{dataset}}/teachers/{{teacher}}/seed{{seed}}"
RUN_FOLDER = f"{FOLDER}/{{dataset}}/{{team}}/{{method}}/seed{{seed}}"
CONTINUAL_FOLDER = f"{FOLDER}/{{dataset}}/continual/{{student}}/{{strategy}}/seed{{seed}}"
CHAINS = any_of(name for name, variant in PLAN.variants.items() if variant.chain)
TASKS = range(1, PLAN.continual.num_tasks + 1) if PLAN.continual else ()
RUNS = f"{FOLDER}/runs.csv"
STATISTICS = f"{FOLDER}/statistics.json"
