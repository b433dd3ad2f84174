"""A number that runs leave is everywhere in the results once the catalogue has one entry for it."""

import csv
import json
from dataclasses import replace

import pytest

from kd.analysis import measures
from kd.analysis.measures import Measure
from kd.reporting.tables import write_tables

FRAGILITY = Measure(
    **{"column": "fragility_best", "file": "evaluation.json", "key": "best.fragility", "unit": "%", "better": "down"},
    **{"digits": 1, "name": "fragility", "heading": "Fragility (%)", "fact": "Answers lost under noise (%)"},
    note="{value} % of its answers are lost under noise.",
)


@pytest.fixture
def files(world, monkeypatch):
    monkeypatch.setattr(measures, "CATALOGUE", (*measures.CATALOGUE, FRAGILITY))
    world.method("ce", [70.0, 71.0]).method("kd", [72.0, 73.5])
    for run in world.runs:
        path = world.root / run["path"] / "evaluation.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        content["best"]["fragility"] = 10.25 + run["seed"] if run["method"] == "kd" else None
        path.write_text(json.dumps(content), encoding="utf-8")
    world.analyse()
    write_tables(world.runs_csv, world.statistics, world.root, world.report, world.cards, world.meta)
    world.page()
    return {path.name: path.read_text(encoding="utf-8") for path in world.root.iterdir() if path.is_file()}


def test_a_new_number_is_everywhere_once_the_catalogue_has_it(files):
    runs = list(csv.DictReader(files["runs.csv"].splitlines()))
    assert [row["fragility_best"] for row in runs] == ["", "", "10.25", "11.25"]
    rows = {row["method"]: row for row in csv.DictReader(files["comparison.csv"].splitlines())}
    assert (rows["kd"]["fragility"], rows["ce"]["fragility"]) == ("10.75", "")
    lines = {row["method"]: row for row in json.loads(files["comparison.json"])["sections"][0]["rows"]}
    assert (lines["kd"]["fragility"], lines["ce"]["fragility"]) == (10.75, None)
    assert "Fragility" not in next(line for line in files["comparison.md"].splitlines() if line.startswith("| "))
    assert "- kd: 10.8 % of its answers are lost under noise." in files["comparison.md"]
    assert '<th scope="col" class="more">Fragility (%)</th>' in files["report.html"]
    assert "<tr><td>Answers lost under noise (%)</td><td>10.8</td></tr>" in files["report.html"]


def test_a_new_number_is_doubted_like_the_others(world, files):
    path = world.root / world.runs[-1]["path"] / "evaluation.json"
    path.write_text(path.read_text(encoding="utf-8").replace("11.25", "1125"), encoding="utf-8")
    world.analyse()
    row = list(csv.DictReader(world.runs_csv.open(encoding="utf-8")))[-1]
    assert (row["status"], row["fragility_best"]) == ("failed", "")
    assert "best.fragility is 1125, which it cannot be" in row["reason"]


def test_one_that_matters_is_a_column_of_the_short_table_too(files, world, monkeypatch):
    """`files` before it for its numbers."""
    monkeypatch.setattr(measures, "CATALOGUE", (*measures.CATALOGUE[:-1], replace(FRAGILITY, main=True)))
    write_tables(world.runs_csv, world.statistics, world.root, world.report, world.cards, world.meta)
    lines = (world.root / "comparison.md").read_text(encoding="utf-8").splitlines()
    heading, *body = [line.split(" | ") for line in lines if line.startswith("| ")]
    place = next(number for number, name in enumerate(heading) if name.startswith("Fragility (%)"))
    assert [line[place].removesuffix(" |") for line in body[1:]] == ["—", "10.8"]
