"""A user's own file: what it defines, what is said of one that cannot be used, and that two of one name stay apart."""

import pytest

from kd.tools.errors import UserError
from kd.tools.own_code import defined_in, module_at


def test_what_a_file_defines_is_known_without_running_it(tmp_path):
    file = tmp_path / "mine.py"
    text = "raise SystemExit\ndef net(classes): ...\nclass Loss: ...\nif True:\n    def hidden(): ...\n"
    file.write_text(text, encoding="utf-8")
    assert defined_in(file) == ["net", "Loss"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"def net(:\n", "line 1 is no Python that can be read"),
        (b"x = 1\ny = \xff\n", "is no Python that can be read"),
        (b"a\x00b", "is no Python that can be read"),
        (None, "cannot read .*: No such file or directory"),
    ],
    ids=["syntax", "encoding", "null", "missing"],
)
def test_a_file_that_is_no_python_is_told(tmp_path, text, message):
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(UserError, match=message):
        defined_in(file)
    with pytest.raises(UserError, match=message):
        module_at(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("from . import beside", "ImportError: attempted relative import"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
    ids=["import", "relative", "error"],
)
def test_a_file_that_does_not_run_is_told(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"mine.py cannot be imported: {message}"):
        module_at(tmp_path / "mine.py")


def test_a_file_runs_once_and_files_of_one_name_are_two_modules(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"where = '{folder}'\n", encoding="utf-8")
    first, second = (module_at(tmp_path / folder / "mine.py") for folder in ("a", "b"))
    assert (first.where, second.where) == ("a", "b")
    assert module_at(tmp_path / "b" / ".." / "a" / "mine.py") is first


def test_a_dataclass_finds_its_module(tmp_path):
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int = 3\n"
    )
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    assert module_at(tmp_path / "mine.py").A().x == 3
