"""What Snakemake makes of configuration files and --config before the workflow sees it, and what the workflow says."""

import pytest
from checkout import copy_repository, environment
from dry_run import snakemake_without_jobs

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return copy_repository(tmp_path_factory.mktemp("configuration") / "repository")


def dry_run(checkout, *arguments):
    return snakemake_without_jobs(checkout, "-n", "-q", *arguments, environment=environment())


REFUSED = {
    "no_name": ("recipe: {epochs: 2}\n", "key experiment is missing"),
    "duplicate": ("experiment: mine\nseeds: [0]\nseeds: [1]\n", "key 'seeds' stands twice"),
    "octal": ("experiment: mine\nseeds: [010]\n", "010 is read as a number to base 8"),
    "template": ("__use_yte__: true\nexperiment: mine\n", "key __use_yte__ makes Snakemake run code"),
}


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_cannot_be_meant_starts_nothing(checkout, text, said):
    (checkout / "mine.yaml").write_text(text, encoding="utf-8")
    done = dry_run(checkout, "--configfile", "mine.yaml")
    assert done.returncode != 0
    assert said in done.stdout
    assert "Traceback" not in done.stdout


ASKS = {
    "plain": "__use_yte__: true",
    "off": "__use_yte__: false",
    "escaped": '"__use_yt\\u0065__": true',
    "broken": '? "__use_\\\n  yte__"\n: true',
    "anchor": "experiment: &a __use_yte__\n*a : true",
    "merged": "<<: {__use_yte__: true}",
}
CODE = '? __import__("pathlib").Path("marker").write_text("ran") and "description"\n: text\n'


@pytest.mark.parametrize("asks", ASKS.values(), ids=ASKS)
def test_a_file_that_asks_to_be_run_is_not_run(checkout, asks):
    """Snakemake reads the file before any Snakefile does: what is refused there must be refused before."""
    (checkout / "mine.yaml").write_text(f"{asks}\n{CODE}", encoding="utf-8")
    done = dry_run(checkout, "--configfile", "mine.yaml")
    assert done.returncode != 0
    assert "mine.yaml: key __use_yte__ makes Snakemake run code of the file" in done.stdout
    assert not (checkout / "marker").exists()


def test_the_command_line_changes_the_quick_start(checkout):
    done = dry_run(checkout, "--config", "seeds=[7]", "gpus=0")
    assert done.returncode == 0, done.stdout[-2000:]
    done = dry_run(checkout, "--config", "seeds=[x]")
    assert "seeds[0]: must be a whole number" in done.stdout
