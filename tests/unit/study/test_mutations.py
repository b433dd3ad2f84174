"""Right experiments with something in them changed at random: taken, or refused in one plain sentence."""

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mistakes import RIGHT, assert_plain, mutated

from kd.schema.cards import CARD_FOLDER
from kd.schema.reading import read_configuration
from kd.study.experiment import check_experiment
from kd.study.jobs import Jobs
from kd.study.plan import Plan
from kd.tools.errors import UserError

CONFIG = CARD_FOLDER.parent
FILES = {
    "all_kinds": RIGHT,
    **{
        name: read_configuration(CONFIG / path)
        for name, path in {
            "quick_start": "config.yaml",
            "chains": "experiments/chains.yaml",
            "continual": "experiments/continual_small.yaml",
            "overlap": "experiments/asib_overlap.yaml",
        }.items()
    },
}


def plan(content):
    """What Snakemake asks of an experiment when it starts."""
    found = Plan(check_experiment(content))
    jobs = Jobs(found)
    asked = [jobs.of("evaluate", run) for run in found.runs[:40]]
    asked += [jobs.evaluated(teacher) for teacher in found.teachers[:10]]
    asked += [jobs.of("continual_matrix", run) for run in found.continual.runs[:10]]
    return [*asked, *found.designs]


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_right(name):
    assert plan(FILES[name])


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(random=st.randoms(use_true_random=False), changes=st.integers(1, 3))
def test_a_changed_file_is_taken_or_refused_in_one_sentence(name, random, changes):
    content = FILES[name]
    for _ in range(changes):
        content = mutated(content, random)
    try:
        plan(content)
    except UserError as error:
        assert_plain(str(error))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_damaged_file_is_read_or_refused_in_one_sentence(tmp_path_factory, data):
    text = yaml.safe_dump(RIGHT, default_flow_style=data.draw(st.sampled_from([None, True, False])))
    place = data.draw(st.integers(0, len(text)))
    dropped = data.draw(st.integers(0, 20))
    added = data.draw(
        st.text(st.characters(codec="utf-8"), max_size=5) | st.sampled_from(["*a", "&a ", "!!x ", "\t", "{"])
    )
    path = tmp_path_factory.mktemp("file") / "x.yaml"
    path.write_text(text[:place] + added + text[place + dropped :], encoding="utf-8")
    try:
        plan(read_configuration(path))
    except UserError as error:
        assert_plain(str(error).replace(str(path), "x.yaml"))
