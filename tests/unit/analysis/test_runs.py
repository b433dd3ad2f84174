"""runs.csv read back: every text and number as it was written, anything else refused."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.analysis import measures
from kd.analysis.rows import RunRow, columns
from kd.analysis.runs import read_runs
from kd.tools.csv_files import write_csv
from kd.tools.errors import UserError

ROW = RunRow(
    **{"experiment": "e", "dataset": "d", "pair": "a--s", "teachers": "a", "student": "s", "method": "kd"},
    **{"base_method": "kd", "seed": 3, "kind": "student", "status": "ok", "reason": "", "path": "results/e/kd"},
    numbers={"test_top1_best": 69.5, "epochs": 4},
)
UNKNOWN = dict.fromkeys(measure.column for measure in measures.measures())


def written(path, *rows):
    write_csv(path, [row.cells() for row in rows], columns())
    return path


@pytest.mark.parametrize("name", ["NA", "null", "nan", "None", "1e5", "true", "007", "1_000", "-", " a", 'a,"b"'])
def test_names_that_look_like_something_else_stay_names(name, tmp_path):
    row = replace(ROW, method=name, dataset=name, teachers=name, device=name)
    (found,) = read_runs(written(tmp_path / "runs.csv", row))
    assert found == replace(row, numbers=UNKNOWN | {"test_top1_best": 69.5, "epochs": 4.0})


def test_the_unknown_is_neither_zero_nor_a_text(tmp_path):
    first, second = read_runs(written(tmp_path / "runs.csv", ROW, replace(ROW, seed=4, status="failed", numbers={})))
    assert (first.seed, second.seed, first.reason, first.device) == (3, 4, "", "")
    assert (first.number("test_top1_best"), second.number("test_top1_best")) == (69.5, None)
    assert set(second.numbers) == set(UNKNOWN)


def test_numbers_come_back_exactly(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "runs.csv"

    @settings(max_examples=50, deadline=None)
    @given(st.floats(allow_nan=False, allow_infinity=False))
    def check(value):
        (found,) = read_runs(written(path, replace(ROW, numbers={"test_nll_best": value})))
        assert found.number("test_nll_best") == value

    check()


BROKEN = f"{','.join(columns())}\n{',' * (len(columns()) - 1)}\n"  # a row without a seed


@pytest.mark.parametrize("content", [None, "", "a,b\n1,2\n", BROKEN])
def test_a_table_that_is_none_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "runs.csv").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"runs\.csv"):
        read_runs(tmp_path / "runs.csv")


@pytest.mark.parametrize(
    ("found", "instead"),
    [
        *[("69.5", "nan"), ("69.5", "inf"), ("69.5", "6x"), (",ok,", ",fine,"), ("seed", "sead"), (",3,", ",zero,")],
        *[("results/e/kd", "results/e/kd,more"), (",,results/e/kd", ""), (",69.5", ',"69.5')],
    ],
    ids=["NaN", "infinite", "letters", "status", "column", "seed", "too many", "too few", "quote"],
)
def test_a_table_with_a_wrong_cell_is_refused(found, instead, tmp_path):
    path = written(tmp_path / "runs.csv", ROW)
    text = path.read_text(encoding="utf-8")
    assert found in text
    path.write_text(text.replace(found, instead, 1), encoding="utf-8")
    with pytest.raises(UserError, match=r"runs\.csv"):
        read_runs(path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\x00" * 50], ids=["letter", "zeros"])
def test_a_table_that_is_no_text_is_refused(content, tmp_path):
    path = written(tmp_path / "runs.csv", ROW)
    path.write_bytes(path.read_bytes() + content)
    with pytest.raises(UserError, match=r"runs\.csv"):
        read_runs(path)


def test_a_row_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"runs\.csv is not a table of runs: 2 rows are kd with seed 3"):
        read_runs(written(tmp_path / "runs.csv", ROW, ROW))


def test_a_teacher_may_serve_two_seeds(tmp_path):
    row = replace(ROW, method="teacher", kind="teacher")
    assert len(read_runs(written(tmp_path / "runs.csv", row, row))) == 2
