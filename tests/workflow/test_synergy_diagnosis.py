"""The diagnosis of a synergy through Snakemake: its numbers are those that the chains themselves noted."""

import csv
import json
from pathlib import Path

import pytest
from checkout import planned, run_once

# one worker: the other one would wait for the run that they share
pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("synergy")]

CONFIG = "tests/workflow/synergy.yaml"
HOME = Path("results/fused")
PAIR = "resnet14+wrn_16_1--resnet8"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A copy of the repository in which both chains have been run and diagnosed."""
    return run_once(tmp_path_factory, "synergy", "--configfile", CONFIG)


def rows_of(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_accuracies_are_those_of_the_half_stages(finished):
    found = {
        (row["method"], row["stage"], row["half"], row["source"]): float(row["top1"])
        for row in rows_of(finished / HOME / "synergy.csv")
        if row["split"] == "val" and row["top1"]
    }
    for method, stages in (("adapting", 2), ("lasting", 1)):
        noted = rows_of(finished / HOME / "digits" / PAIR / method / "seed0" / "half_stages.csv")
        assert len(noted) == 2 * stages
        for row in noted:
            place = (method, row["stage"], row["half"])
            names = {"synergy": "val_top1/synergy"}
            if row["half"] == "teacher_update":
                names |= {"resnet14": "val_top1/teacher0", "wrn_16_1": "val_top1/teacher1"}
                names |= {"average": "val_top1/average"}
            else:
                names |= {"student": "val_top1"}
            assert {name: found[*place, name] for name in names} == {
                name: pytest.approx(float(row[column])) for name, column in names.items()
            }


def test_teachers_as_given_are_those_that_were_trained(finished):
    given = [row for row in rows_of(finished / HOME / "synergy.csv") if row["stage"] == "0" and row["split"] == "val"]
    for name in ("resnet14", "wrn_16_1"):
        evaluation = finished / HOME / "digits" / "teachers" / name / "seed0" / "evaluation.json"
        reached = json.loads(evaluation.read_text(encoding="utf-8"))["best"]["val_top1"]
        found = [float(row["top1"]) for row in given if row["source"] == name]
        assert found == [pytest.approx(reached)] * 2, "for either chain"


def test_a_chain_whose_teachers_stay_has_them_as_given(finished):
    rows = [row for row in rows_of(finished / HOME / "synergy.csv") if row["method"] == "lasting"]
    measured = ("top1", "nll", "off_label")
    for split in ("val", "train"):
        for name in ("resnet14", "wrn_16_1", "average", "certainty"):
            own = [row for row in rows if (row["split"], row["source"]) == (split, name)]
            assert [row["stage"] for row in own] == ["0", "1"]
            assert [own[1][key] for key in measured] == [own[0][key] for key in measured]


def test_tables_figures_and_page_show_it_and_nothing_is_left_to_do(finished):
    tables = (finished / HOME / "tables" / "analysis.md").read_text(encoding="utf-8")
    assert "adapting, stage 2: the synergy minus the average of its teachers is" in tables
    assert "| average | avg_kd |" in tables
    for name in ("synergy", "synergy_targets"):
        assert (finished / HOME / "figures" / "digits" / PAIR / f"{name}.png").is_file()
    page = (finished / HOME / "report.html").read_text(encoding="utf-8")
    assert "Synergy of the teachers: Student resnet8, taught by resnet14 and wrn_16_1, on digits" in page
    assert planned(finished, "--configfile", CONFIG) == []
