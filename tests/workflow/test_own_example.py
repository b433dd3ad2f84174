"""A method and a network from outside the repository: the committed example runs, and knows when its files change."""

import shutil
from pathlib import Path

import pytest
from checkout import copy_repository, planned, snakemake

from kd.tools.files import read_json

pytestmark = [pytest.mark.workflow]

FILES = ["--configfile", "config/experiments/own_code.yaml", "shorter.yaml"]
SHORTER = """
methods: [ce, {card: config/own/js_kd.yaml}]
seeds: [0]
recipe: {epochs: 1}
"""
OWN = "config/own"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = copy_repository(tmp_path_factory.mktemp("own") / "kd")
    (folder / "shorter.yaml").write_text(SHORTER, encoding="utf-8")
    done = snakemake(folder, *FILES)
    assert done.returncode == 0, done.stdout[-5000:]
    return folder


@pytest.fixture
def edited(finished):
    """Return a function that edits a file and tells which trainings are stale; the file is put back at the end."""
    kept = []

    def edit(name: str, old: str, new: str) -> set[str]:
        path = finished / OWN / name
        kept.append((path, path.read_text(encoding="utf-8")))
        assert old in kept[-1][1]
        path.write_text(kept[-1][1].replace(old, new), encoding="utf-8")
        jobs = [job for job in planned(finished, *FILES) if job.rule.startswith("train")]
        return {job.wildcards.get("method", job.rule) for job in jobs}

    yield edit
    for path, text in kept:
        path.write_text(text, encoding="utf-8")


def test_the_example_runs_and_stands_in_the_tables(finished):
    assert planned(finished, *FILES) == []
    table = (finished / "results/own_code/tables/comparison.md").read_text(encoding="utf-8")
    assert "js_kd" in table
    run = read_json(next(finished.glob("results/own_code/digits/*/js_kd/seed0/run.json")))
    assert run["settings"]["method"][0]["card"] == "config/own/js_kd.yaml"
    assert run["settings"]["student"]["arch"] == "config/own/small_net.py:small_net"
    page = (finished / "results/own_code/report.html").read_text(encoding="utf-8")
    assert "Symmetric distillation" in page


@pytest.mark.parametrize(
    ("file", "old", "new", "stale"),
    [
        ("js_kd.py", "(kl[0] + kl[1]).mean() / 2", "(kl[0] + kl[1]).mean() / 3", {"js_kd"}),
        ("js_kd.py", "in nats", "in natural units", set()),
        ("js_kd.yaml", "default: 4.0", "default: 2.0", {"js_kd"}),
        ("js_kd.yaml", "Temperature T of both", "The temperature T of both", set()),
        ("small_net.py", "(3, 16, 32, 64)", "(3, 16, 32, 48)", {"ce", "js_kd"}),
    ],
    ids=["loss", "docstring", "default", "doc", "network"],
)
def test_an_edit_makes_stale_what_it_can_change(edited, file, old, new, stale):
    assert edited(file, old, new) == stale


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("js_kd.py", "def js_divergence(", "def js_divergence((", "js_kd.py, line "),
        ("js_kd.yaml", "temperature: {", "temperatur: {typo: 1, ", "typo"),
        ("small_net.py", "def small_net", "def smallnet", "unknown function or class of config/own/small_net.py"),
    ],
    ids=["syntax", "card", "name"],
)
def test_a_file_that_cannot_be_used_is_told_in_a_sentence(finished, file, old, new, sentence):
    path = finished / OWN / file
    shutil.copy(path, Path(f"{path}.kept"))
    try:
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        done = snakemake(finished, "-n", *FILES)
    finally:
        shutil.move(f"{path}.kept", path)
    assert done.returncode != 0
    assert sentence in done.stdout
    assert "Traceback" not in done.stdout
