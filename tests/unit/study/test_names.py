"""Names that are taken: the lists hold every place that a rule writes to beside what a user names."""

import re
from pathlib import Path

import pytest
from mistakes import RIGHT, assert_plain, changed

from kd.study import names
from kd.study.experiment import check_experiment
from kd.study.jobs import Jobs
from kd.study.jobs.reports import rows
from kd.study.plan import Plan
from kd.tools.errors import UserError, nearest

REPOSITORY = Path(__file__).parents[3]
STUDY = REPOSITORY / "workflow_scripts" / "kd" / "study"
SOURCES = [*(REPOSITORY / "rules").glob("*.smk"), STUDY / "runs.py", STUDY / "continual.py", *STUDY.glob("jobs/*.py")]
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)


def test_every_place_beside_an_experiment_is_reserved():
    found = set(re.findall(r'"results/(\w+)', TEXT)) | {"reference"}
    assert found == names.BESIDE_EXPERIMENTS


def test_every_place_beside_the_data_sets_is_reserved():
    found = set(re.findall(r"\{(?:FOLDER|plan\.folder|jobs\.plan\.folder)\}/([\w.]+)", TEXT))
    assert {"runs.csv", "tables", "logs"} <= found
    assert found <= names.BESIDE_DATASETS


def test_every_place_beside_the_teams_is_reserved():
    found = set(re.findall(r"\{[^{}/()]*dataset\]?\}\}?/([a-z_]+)", TEXT))
    assert {"teachers", "tuned", "pretrain", "data", "continual"} <= found
    assert found == names.BESIDE_TEAMS


def test_every_kind_of_row_is_reserved():
    assert {row["kind"] for row in rows(Jobs(Plan(check_experiment(RIGHT))))} <= names.ROWS


LONG = {"a": "a" * 100, "b": "b" * 100}


def test_names_that_are_too_long_together_are_told():
    content = changed(("pairs", 1), {"teachers": list(LONG.values()), "student": "vgg8"})
    content["models"].update({name: {"arch": "resnet8"} for name in LONG.values()})
    with pytest.raises(UserError, match="too long together for the name of a file") as raised:
        check_experiment(content)
    assert_plain(str(raised.value))


def test_names_that_join_to_one_file_are_told():
    content = changed(("datasets",), {"d": {"source": "digits"}, "d_x": {"source": "digits", "split_seed": 1}})
    content["models"].update({name: {"arch": "resnet20"} for name in ("z", "x_z")})
    content["pairs"] += [{"teachers": [name, "vgg13"], "student": "vgg8"} for name in ("z", "x_z")]
    with pytest.raises(UserError, match=r"names join to 'd_x_z.*--vgg8_.*' in two ways") as raised:
        check_experiment(content)
    assert_plain(str(raised.value))


NETS = ["resnet8", "resnet14", "resnet20", "resnet32", "resnet110", "resnet8x4", "resnet32x4", "wrn_16_2", "wrn_40_2"]
MEANT = [
    *(("resnet21", NETS, "resnet20"), ("resnet19", NETS, "resnet20"), ("resnet9", NETS, "resnet8")),
    *(("resnet100", NETS, "resnet110"), ("resnet8x5", NETS, "resnet8x4"), ("wrn_16_3", NETS, "wrn_16_2")),
    *(("resent20", NETS, "resnet20"), ("RESNET20", NETS, "resnet20"), ("wrn_4_2", NETS, "wrn_16_2")),
    *(("epoch", ["epochs", "ema_every"], "epochs"), ("temp", ["temperature", "form"], "temperature")),
    *(("kdd", ["kd", "dkd", "ce"], "kd"), ("cifar1000", ["cifar10", "cifar100"], "cifar100")),
    *(("something", ["kd", "ce"], None), ("", ["kd"], None), ("x" * 5000, ["xx"], None), ("kd", [], None)),
]


@pytest.mark.parametrize(
    ("name", "choices", "meant"), MEANT, ids=[f"{i}-{name[:9]}" for i, (name, _, _) in enumerate(MEANT)]
)
def test_the_nearest_right_name_is_the_one_that_was_meant(name, choices, meant):
    assert nearest(name, choices) == meant
