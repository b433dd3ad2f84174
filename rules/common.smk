# The configuration, checked before any rule exists; its runs and jobs; where they write.
import logging
import os
import re
import secrets
import shlex
import sys
from functools import cache
from pathlib import Path

# Not Snakemake's basedir, which is another workflow's where this one is a module of it.
ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent
SCRIPTS = str(ROOT / "workflow_scripts")
if SCRIPTS not in sys.path:
    sys.path.append(SCRIPTS)  # last: script names must not hide anything

from snakemake.exceptions import WorkflowError

if not Path(SCRIPTS).is_dir():
    raise WorkflowError(
        "The scripts of this workflow come with it in a clone only: clone the repository, and name its Snakefile by path."
    )

from snakemake.logging import DefaultFormatter, logger
from snakemake.settings.types import RerunTrigger

from kd.reporting import layout
from kd.study.believed import SEEN, TRAININGS, bring_to_the_present, is_due, look_for_files, stays
from kd.study.digests import canonical
from kd.study.experiment import check_experiment, workflow_configuration
from kd.study.jobs import RULES, Asked, JobPlan, Jobs, reports
from kd.study.lengths import lengths_beyond, unscaled_lengths
from kd.study.made import drop_finished, is_as_asked, read_record, reason_of
from kd.study.plan import Plan
from kd.study.planned import Targets
from kd.study.texts import drop_old_texts, text_file
from kd.study.together import together
from kd.tools.errors import UserError
from kd.tools.files import atomic_write, remove_leftovers, write_json

# What --config says beside an experiment is no part of it.
ASKED = Asked(
    allow_missing=str(config.pop("allow_missing", "false")).lower() == "true",
    benchmark=str(config.pop("benchmark", "")),
    ckpt_path=config.pop("ckpt_path", None),
)

try:
    QUICK_START = ROOT / "config" / "config.yaml"
    GIVEN = workflow.config_settings  # what Snakemake has read into config already: --configfile and --config
    EXPERIMENT = check_experiment(workflow_configuration(config, QUICK_START, GIVEN.configfiles, GIVEN.config))
    PLAN = Plan(EXPERIMENT)
except UserError as error:
    raise WorkflowError(f"Configuration error. {error}") from None

# What a rule does is part of what its results are made from.
JOBS = Jobs(PLAN, lambda rule: str(workflow.get_rule(rule).shellcmd), ASKED)

# Started by a user, and not by Snakemake itself for one of its jobs.
STARTED = workflow.exec_mode.name == "DEFAULT"

# Run on this machine, and not handed to a cluster.
LOCAL = STARTED and workflow.resource_settings.nodes is None

# Allowed, and hardly meant.
if STARTED:
    for sentence in [
        *(f"Longer than the training: {one}" for one in lengths_beyond(EXPERIMENT)),
        *(f"More than a tenth of the training: {one}" for one in unscaled_lengths(EXPERIMENT)),
        *PLAN.continual.idle,
    ]:
        logger.warning(f"{sentence}.")


def as_letters(text: str) -> str:
    """Return a text in which Snakemake, which fills in what stands in braces, finds letters only."""
    return text.replace("{", "{{").replace("}", "}}")


ENVIRONMENT = as_letters(str(ROOT / "envs" / "environment.yaml"))

# This Python and these scripts, wherever Snakemake was started from, and what changes no result: kept out of the
# commands, whose text is part of what results are made from.
PREFIX = (
    f"set -euo pipefail; PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; SCRIPTS={shlex.quote(SCRIPTS)}; "
    f"export KD_CACHE={shlex.quote(EXPERIMENT.cache)} KD_JOBS_PER_GPU={EXPERIMENT.jobs_per_gpu}; "
)
shell.prefix(as_letters(PREFIX))

GPUS = EXPERIMENT.gpus
THREADS = EXPERIMENT.threads

# All cores here (--cores caps it); a usual share of a node on a cluster.
DECODING_THREADS = (os.cpu_count() or 1) if LOCAL else 8

# Unlimited by default under plain --cores: jobs_per_gpu jobs a device unless --resources gpu=N says otherwise.
if GPUS and LOCAL:
    from kd.console.device import visible_devices

    workflow.global_resources.setdefault("gpu", max(GPUS, len(visible_devices()) * EXPERIMENT.jobs_per_gpu))

FOLDER = PLAN.folder
LOGS = f"{FOLDER}/logs"
DATA_FOLDER = f"{FOLDER}/{{dataset}}/data"
TEACHER_FOLDER = f"{FOLDER}/{{dataset}}/teachers/{{teacher}}/seed{{seed}}"
RUN_FOLDER = f"{FOLDER}/{{dataset}}/{{team}}/{{method}}/seed{{seed}}"
RUN_LOG = "{dataset}_{team}_{method}_seed{seed}"
PRESTAGE_FOLDER = f"{FOLDER}/{{dataset}}/pretrain/{{teacher}}/{{method}}/seed{{seed}}"
CONTINUAL_FOLDER = f"{FOLDER}/{{dataset}}/continual/{{student}}/{{strategy}}/seed{{seed}}"


def any_of(names) -> str:
    """Return a regular expression of names; one that matches nothing if there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


CHAINS = any_of(name for name, variant in PLAN.variants.items() if variant.chain)


wildcard_constraints:
    dataset=any_of(EXPERIMENT.datasets),
    teacher=any_of(dict.fromkeys([*(teacher.network for teacher in PLAN.teachers), *PLAN.continual.teachers])),
    network=any_of(PLAN.built_as),
    student=any_of(PLAN.continual.students),
    strategy=any_of(PLAN.continual.strategies),
    method=any_of(PLAN.variants),
    team=r"[^/]+--[^/]+",
    seed=r"\d+",
    stage=r"[1-9]\d*",
