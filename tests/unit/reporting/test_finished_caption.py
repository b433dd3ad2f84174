"""What a table says of teachers that were used as they were given."""

import pytest

from kd.reporting.caption import given_sentences, teacher_sentence


@pytest.mark.parametrize(
    ("teachers", "trained", "given"),
    [
        (["none"], False, False),
        (["none", "master"], False, True),
        (["other"], True, False),
        (["master+other"], True, True),
    ],
    ids=["no-teacher", "given", "trained", "both"],
)
def test_only_trained_teachers_vary_with_the_seed_and_given_ones_are_named(teachers, trained, given):
    meta = {"finished": ["master"]}
    assert bool(teacher_sentence(meta, teachers)) == trained
    assert [line.startswith("master: used as given") for line in given_sentences(meta, teachers)] == [True] * given
