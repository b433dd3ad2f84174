"""What a job imports while it runs is what its digest covers: nothing that runs can change unnoticed."""

import subprocess
import sys

import pytest
from told import told

from kd.schema.cards import card
from kd.study.digests import SCRIPTS, closure, is_silent
from kd.study.options import options_of

CODE = """
import sys
from pathlib import Path
from kd.engine.jobs.{module} import {function}
from kd.study.job_settings import parse_settings
data, folder, settings, *teachers = sys.argv[1:]
data, teachers = Path(data), [Path(teacher) for teacher in teachers]
{call}
print(*(name for name in sys.modules if name.startswith("kd.")))
"""
FILES = "from kd.engine.jobs.files import Files; files = Files(data, Path(folder), teachers=teachers)"
TRAIN = ("student", "train_student", f"{FILES}\ntrain_student(parse_settings(settings), files, lambda row: None)")
ASK = ("teacher_outputs", "teacher_outputs", f"{FILES}\nteacher_outputs(parse_settings(settings), files)")
READ = (
    "evaluate",
    "evaluate_network",
    "evaluate_network(parse_settings(settings), data, teachers[0])",
)


def imported(here, kind, settings, *teachers) -> set[str]:
    module, function, call = kind
    code = CODE.format(module=module, function=function, call=call)
    arguments = [str(here.packed), str(here.folder / "imports"), settings, *map(str, teachers)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=SCRIPTS,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    names = set(done.stdout.splitlines()[-1].split())
    # kd.formats comes with kd.study, which looks at files of data sets; these jobs read packed arrays
    names = {name for name in names if not is_silent(name) and not name.startswith("kd.formats")}
    return {name for name in names if not SCRIPTS.joinpath(*name.split(".")).is_dir()}


@pytest.mark.parametrize(
    ("method", "recipe"),
    [
        ("kd", {}),
        ("crd", {"schedule": "plateau", "patience": 1, "lr_drops": 1}),
        ("dml", {"ema_decay": 0.9, "mixup_alpha": 0.2}),
        ("mlkd", {}),
        ("kd", {"kernels": "winograd", "augmentation": {"randaugment": {"ops": 1, "magnitude": 5}}}),
    ],
)
def test_a_training_runs_what_its_digest_covers(world, method, recipe):
    here = world(method, recipe={**recipe, "precision": "fp32", "epochs": 2})
    settings = told(here.plan, "train_student", here.run)
    own = {"train_student", card(method).module, "kd.models.resnet_cifar", "kd.models.wrn", *options_of(settings)}
    names = imported(here, TRAIN, settings, *here.files("run").teachers)
    covered = {name for name in closure(frozenset(own)) if name != "train_student"}
    assert names <= covered
    assert options_of(settings) <= names, "what is named is what runs"


@pytest.mark.parametrize(("kind", "script"), [(ASK, "teacher_outputs"), (READ, "evaluate")])
def test_a_pass_runs_what_its_digest_covers(world, kind, script):
    here = world("kd")
    settings = (
        told(here.plan, "teacher_outputs", "digits", "wrn_16_1", 0)
        if script == "teacher_outputs"
        else told(here.plan, "evaluate_teacher", "digits", "wrn_16_1", 0)
    )
    names = imported(here, kind, settings, here.teacher("wrn_16_1"))
    assert names <= set(closure(frozenset({script, "kd.models.wrn"})))
