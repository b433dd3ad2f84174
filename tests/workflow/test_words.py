"""What a person reads of a run: before the first job, beside each, at the end, and where there is nothing to do."""

import json
import re
from pathlib import Path

import pytest
import yaml
from checkout import planned, snakemake
from dry_run import snakemake_without_jobs
from test_staleness import CONFIG, LIBRARY, edit, reconfigure

from kd.tools.files import read_json

# one worker: they share the run that they copy
pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("staleness")]

ANSWER = "The page: results/tiny/report.html"
FAILING = {
    "experiment": "failing",
    "datasets": {"digits": {"source": "digits", "image_size": 8, "subset_size": 200, "validation": 0.25}},
    "pairs": [{"teachers": ["resnet14"], "student": "resnet8"}],
    "methods": ["ce", {"method": "ce", "name": "too_fast", "recipe": {"lr": 1.0e6}}],
    "seeds": [0],
    "recipe": {"epochs": 1, "batch_size": 32, "augmentation": {"crop": "none", "flip": False}},
}


def dry(folder: Path, *arguments: str) -> str:
    done = snakemake_without_jobs(folder, "-n", "--configfile", CONFIG, *arguments)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Traceback" not in done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def told(tiny_run) -> str:
    """What the run of the tiny experiment said."""
    return (tiny_run / "run.log").read_text(encoding="utf-8")


def test_a_line_before_the_first_job_says_what_is_ahead(told):
    before, _, after = told.partition("rule prepare_data:")
    line = next(line for line in before.splitlines() if line.startswith("Ahead: "))
    assert re.fullmatch(
        r"Ahead: \d+ jobs on 2 cores; to train: 4 teachers, 2 pre-stages, 8 students, 8 half-stages of ASIB, "
        r"\d+ epochs in all; operations and time are told once the check knows them\.",
        re.sub(r"(to train: )(.*)(, \d+ epochs)", _sorted_kinds, line),
    )
    first_training = after.partition("rule train_")[0]
    assert re.search(
        r"Ahead: \S+ [GT]FLOPs of training, about \d+ (s|min) \(an estimate from a short probe", first_training
    )


def _sorted_kinds(match: re.Match) -> str:
    order = ["teachers", "pre-stages", "students", "half-stages of ASIB"]
    kinds = sorted(match[2].split(", "), key=lambda kind: order.index(kind.partition(" ")[2]))
    return f"{match[1]}{', '.join(kinds)}{match[3]}"


def test_every_line_of_a_job_says_which_it_is_of_and_progress_how_long_it_takes(told):
    assert re.search(
        r"rule asib_student_update: asib: resnet14 \+ wrn_16_1 -> resnet8 on second, seed 0, stage 2 student update\n"
        r"    log: \S+\n    jobid: \d+\n    reason: there is no result yet\n",
        told,
    )
    assert re.search(r"\d\d INFO kd: resnet14 -> resnet8 on first, seed 0: epoch 1/1: train_loss", told)
    assert re.search(r"steps \(\d+%\) done, about \d+ (s|min) left\n", told)
    assert "--settings {" not in told
    assert max(map(len, told.splitlines())) < 2500


def test_epochs_stand_in_the_runs_own_log(tiny_run):
    log = tiny_run / "results/tiny/first/resnet14--resnet8/kd/seed0/train.log"
    text = log.read_text(encoding="utf-8")
    assert re.search(r"^\d\d:\d\d:\d\d INFO kd: resnet14 -> resnet8 on first, seed 0, 1 epoch$", text, re.MULTILINE)
    assert re.search(r"^\d\d:\d\d:\d\d INFO epoch 1/1: train_loss", text, re.MULTILINE)


def test_the_answer_is_the_last_that_is_said_also_where_nothing_is_to_be_done(tiny_copy, told):
    sentences = (tiny_copy / "results/tiny/tables/answer.md").read_text(encoding="utf-8").split("\n\n")[1]
    assert sentences in told
    assert ANSWER in told
    again = snakemake(tiny_copy, "--configfile", CONFIG).stdout
    assert "Nothing to be done" in again
    assert again.index("Nothing to be done") < again.index(sentences) < again.index(ANSWER)
    assert ANSWER in snakemake(tiny_copy, "--configfile", CONFIG, "--quiet").stdout
    assert snakemake(tiny_copy, "--configfile", CONFIG, "--quiet", "all").stdout == ""
    assert ANSWER not in dry(tiny_copy)
    one_file = snakemake(tiny_copy, "results/tiny/runs.csv", "--configfile", CONFIG).stdout
    assert "Nothing to be done" in one_file
    assert ANSWER not in one_file


def test_a_rerun_says_which_setting_changed(tiny_copy):
    def change(content) -> None:
        content["methods"][1] = {"method": "kd", "temperature": 2.0}
        content["recipe"]["lr"] = 0.04

    reconfigure(tiny_copy, change)
    text = dry(tiny_copy)
    assert "Made again, and why:" in text
    assert re.search(
        r"  kd: resnet14 -> resnet8 on \w+, seed 0; kd: .*: temperature 4.0 -> 2.0; recipe.lr 0.05 -> 0.04", text
    )
    assert "recipe.lr 0.05 -> 0.04\n" in text
    assert re.search(r"  and \d+ jobs that follow from these\n", text)
    assert "    reason: temperature 4.0 -> 2.0; recipe.lr 0.05 -> 0.04\n" in text
    assert max(len(line) for line in text.splitlines() if "reason:" in line) < 250
    # all of it is for who wants to read it
    assert "Made again" not in dry(tiny_copy, "--quiet", "progress")


def test_a_rerun_says_which_file_of_the_code_changed(tiny_copy):
    edit(tiny_copy, f"{LIBRARY}/methods/crd.py", "class ", "EDITED = 1\n\n\nclass ")
    text = dry(tiny_copy)
    assert re.search(r"  crd: .*: code of kd/methods/crd\.py\n", text)
    (tiny_copy / ".snakemake/kd/sources_tiny.json").unlink()
    assert re.search(r"  crd: .*: its code\n", dry(tiny_copy))


def test_a_forced_job_has_snakemakes_own_reason(tiny_copy):
    text = dry(tiny_copy, "--forcerun", "tables")
    assert "    reason: Forced execution" in text
    assert "Made again" not in text


def test_a_dry_run_writes_no_settings(tiny_copy):
    texts = tiny_copy / ".snakemake/kd/texts"
    before = sorted(texts.iterdir())
    reconfigure(tiny_copy, lambda content: content["recipe"].update(lr=0.03))
    assert planned(tiny_copy, "--configfile", CONFIG)
    assert sorted(texts.iterdir()) == before


def test_what_failed_is_listed_with_reason_and_log_and_again_where_tables_are_made_without_it(repository):
    (repository / "failing.yaml").write_text(yaml.safe_dump(FAILING), encoding="utf-8")
    done = snakemake(repository, "--configfile", "failing.yaml", "--keep-going", "trained")
    assert done.returncode != 0
    name, log = (
        "too_fast: no teacher -> resnet8, seed 0",
        "results/failing/logs/train_student/digits_none--resnet8_too_fast",
    )
    listed = re.search(rf"1 failed:\n  {name}: (training diverged: .*) \(log: ({log}_seed0\.log)\)\n", done.stdout)
    assert listed, done.stdout[-3000:]
    assert listed[1] in (repository / listed[2]).read_text(encoding="utf-8")
    assert f"Error in rule train_student: {name}\n" in done.stdout
    assert "with --config allow_missing=true tables are made of what there is" in done.stdout
    failure = read_json(
        repository / "results/failing/digits/none--resnet8/too_fast/seed0/made/train_student.failure.json"
    )
    assert failure["log"] == listed[2]
    found = json.dumps(read_json(repository / "results/failing/checked.json")["costs"])
    assert "resnet8" in found
    text = snakemake_without_jobs(repository, "-n", "trained", "--configfile", "failing.yaml").stdout
    assert f"  {name}: it failed before: {listed[1][:50]}" in text
