import csv
import io
import math

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.tools.csv_files import csv_text, write_csv

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12) | st.sampled_from(
    ["NA", "null", "nan", "1e5", "true", "007", "", " ", "a,b", 'say "so"', "two\nlines", "a\rb", "\r", '"']
)


def test_columns_are_in_the_order_of_their_first_appearance_and_gaps_are_empty():
    assert csv_text([{"b": 1, "a": None}, {"a": True, "c": 0.1}]) == "b,a,c\n1,,\n,True,0.1\n"


def test_given_columns_hold_and_no_row_may_have_another():
    assert csv_text([{"b": 1}], ["a", "b"]) == "a,b\n,1\n"
    assert csv_text([], ["a", "b"]) == "a,b\n"
    with pytest.raises(ValueError, match="c"):
        csv_text([{"c": 1}], ["a", "b"])


@settings(deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_every_text_comes_back_as_it_was(pairs):
    text = csv_text([{"one": one, "two": two} for one, two in pairs])
    rows = [(row["one"], row["two"]) for row in csv.DictReader(io.StringIO(text, newline=""), strict=True)]
    assert rows == pairs


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_every_number_comes_back_exactly(values):
    rows = list(csv.DictReader(io.StringIO(csv_text([{"x": value} for value in values]))))
    assert [float(row["x"]) for row in rows] == values
    assert [math.copysign(1, float(row["x"])) for row in rows] == [math.copysign(1, value) for value in values]


def test_a_row_of_one_empty_cell_is_no_blank_line():
    assert len(pandas.read_csv(io.StringIO(csv_text([{"x": None}, {"x": 1}])))) == 2


def test_a_file_is_written_whole(tmp_path):
    write_csv(tmp_path / "deep" / "table.csv", [{"a": "ä", "b": 1}])
    assert (tmp_path / "deep" / "table.csv").read_bytes() == "a,b\nä,1\n".encode()
