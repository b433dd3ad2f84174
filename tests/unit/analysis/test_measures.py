"""The catalogue of measures holds together."""

from dataclasses import fields

import pytest

from kd.analysis import measures
from kd.analysis.measures import CATALOGUE, CURVES, VALIDATION, Measure, Text, Total
from kd.analysis.rows import RunRow, columns


@pytest.mark.parametrize("of", ["columns", "names"])
def test_no_two_entries_share_a_place(of):
    found = columns() if of == "columns" else [measure.name for measure in measures.shown()]
    assert len(set(found)) == len(found)


def test_what_tables_show_has_a_name():
    assert all(entry.name for entry in CATALOGUE if not isinstance(entry, Text) and (entry.heading or entry.fact))
    assert all(measure.name for measure in measures.measures() if measure.note or measure.published)


def test_totals_are_of_columns_in_their_own_unit():
    known = {measure.column: measure for measure in measures.measures()}
    for total in CATALOGUE:
        if isinstance(total, Total):
            assert {(known[part].unit, known[part].better) for part in total.parts} == {(total.unit, total.better)}


def test_texts_are_fields_of_a_row_and_numbers_are_not():
    own = {one.name for one in fields(RunRow)}
    assert {entry.column for entry in CATALOGUE if isinstance(entry, Text)} <= own
    assert not {entry.column for entry in CATALOGUE if isinstance(entry, Measure)} & own


@pytest.mark.parametrize("weights", ["last", "best"])
def test_one_measure_is_what_methods_are_compared_by(weights):
    titled = [measure for measure in measures.measures() if measure.title and measure.weights == weights]
    assert [measures.compared_by(weights)] == titled
    assert titled[0].better is not None


def test_a_gain_is_more_where_a_measure_is_better():
    found = {measure.column: measure.gain(2.0) > measure.gain(1.0) for measure in measures.measures()}
    assert found["test_top1_best"]
    assert not found["train_seconds"]


def test_methods_are_compared_by_a_curve_that_there_is():
    assert VALIDATION in CURVES
