"""The workflow where it is not the one that was started: a module of another, and in a container."""

import re

import pytest
import yaml
from checkout import environment
from dry_run import snakemake_without_jobs

DEPLOYED = """
configfile: "config/config.yaml"


module kd:
    snakefile:
        "{snakefile}"
    config:
        config


use rule * from kd
"""


def deployed(folder, snakefile):
    """Write a folder as snakedeploy does: a Snakefile that names the workflow, and its configuration beside it."""
    (folder / "workflow").mkdir(parents=True)
    (folder / "workflow" / "Snakefile").write_text(DEPLOYED.format(snakefile=snakefile), encoding="utf-8")
    return folder


@pytest.mark.workflow
def test_a_module_plans_what_the_workflow_itself_plans(repository, tmp_path):
    folder = deployed(tmp_path / "mine", repository / "Snakefile")
    (folder / "config").symlink_to(repository / "config")
    counts = []
    for place, arguments in ((repository, ()), (folder, ("--snakefile", str(folder / "workflow" / "Snakefile")))):
        done = snakemake_without_jobs(place, "-n", "-q", "rules", *arguments, environment=environment())
        assert done.returncode == 0, done.stdout[-3000:]
        counts.append(re.findall(r"^(\w+) +(\d+)$", done.stdout, re.MULTILINE))
    assert counts[0] == counts[1] != []


@pytest.mark.workflow
def test_a_module_without_its_scripts_is_refused_in_a_sentence(repository, tmp_path):
    """Snakemake fetches the files that rules name from a hosted repository, and no folder beside them."""
    folder = deployed(tmp_path / "mine", tmp_path / "parts" / "Snakefile")
    (folder / "config").symlink_to(repository / "config")
    (tmp_path / "parts").mkdir()
    for name in ("Snakefile", "rules"):
        (tmp_path / "parts" / name).symlink_to(repository / name)
    arguments = ("--snakefile", str(folder / "workflow" / "Snakefile"))
    done = snakemake_without_jobs(folder, "-n", *arguments, environment=environment())
    assert done.returncode != 0
    assert "come with it in a clone only: clone the repository" in done.stdout


def test_the_catalog_is_told_what_there_is(repository):
    content = yaml.safe_load((repository / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8"))
    assert content["usage"]["software-stack-deployment"]["conda"] is True
    assert content["usage"]["report"] is True
    assert (repository / "envs" / "environment.yaml").is_file()


def test_the_container_is_pinned_and_runs_the_quick_start_as_a_user(repository):
    text = (repository / "envs" / "Containerfile").read_text(encoding="utf-8")
    steps = [line.split(maxsplit=1) for line in text.replace("\\\n", " ").splitlines() if re.match(r"[A-Z]+ ", line)]
    bases = [rest for word, rest in steps if word == "FROM"]
    assert all(re.fullmatch(r"python:3\.11\S*@sha256:[0-9a-f]{64}", base) for base in bases)
    words = [word for word, _ in steps]
    assert [rest for word, rest in steps if word == "USER"] == ["kd"]
    assert words.index("USER") < words.index("COPY") < words.index("CMD"), "nothing of it is root's"
    assert steps[-1] == ["CMD", '["python3", "envs/task.py", "quickstart"]']
    ignored = (repository / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".venv", "data", ".git"} <= set(ignored)
