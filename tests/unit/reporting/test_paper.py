"""comparison.tex: a table that a paper can hold as it is."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kd.reporting import latex
from kd.reporting.comparison import build_sections, load_sources
from kd.reporting.latex import COLUMN, PAGE, Cell, lines_of, pages, total_width, width
from kd.reporting.paper import paper_table
from kd.tools.files import write_json


def sections_of(world):
    return build_sections(load_sources(world.runs_csv, world.statistics, world.report, world.cards, world.meta))


def written(world):
    return paper_table(sections_of(world), world.report, world.meta)


def rows(tex):
    return [line.removesuffix(r" \\").split(" & ") for line in tex.splitlines() if line.endswith(r" \\")]


def test_methods_are_rows_and_pairs_columns_below_teacher_and_student(small):
    small.pair, small.student = "big--tiny", "tiny"
    small.teachers(range(3)).method("ce", [60.0, 61.0, 62.0]).method("kd", [63.0, 64.5, 64.0]).analyse()
    tex = written(small)
    assert rows(tex) == [
        ["Teacher", r"\multicolumn{2}{c}{big}", r"\multicolumn{2}{c}{big}"],
        ["Student", r"\multicolumn{2}{c}{small}", r"\multicolumn{2}{c}{tiny}"],
        ["", "Top-1", r"$\Delta$ kd", "Top-1", r"$\Delta$ kd"],
        ["Teacher", r"80.10 $\pm$ 0.10", "", r"80.10 $\pm$ 0.10", ""],
        ["Student (ce)", r"71.00 $\pm$ 1.00", "$-$2.83", r"61.00 $\pm$ 1.00", "$-$2.83"],
        ["crd", r"\textbf{74.50 $\pm$ 0.71}\textsuperscript{n=2}", "+1.00", "", ""],
        ["kd", r"\textbf{73.83 $\pm$ 0.76}", "", r"\textbf{63.83 $\pm$ 0.76}", ""],
        ["kd\\_t8", r"\textbf{73.87 $\pm$ 0.68}", "+0.03", "", ""],
        ["ft", "---", "---", "", ""],
    ]
    assert "resizebox" not in tex
    assert tex.isascii()
    plain = tex.replace(r"\{", "").replace(r"\}", "")
    assert plain.count("{") == plain.count("}")
    assert "Raised: the seeds that have finished where some have not." in tex
    assert r"mean $\pm$ standard deviation" in tex.lower()


@pytest.mark.parametrize(("tiny", "told"), [(5_000, True), (20_000, False)])
def test_students_of_different_sizes_have_lines_of_what_they_take(small, tiny, told):
    sizes = {run["path"]: 0 for run in small.runs}
    small.pair, small.student = "big--tiny", "tiny"
    small.teachers(range(3)).method("ce", [60.0, 61.0, 62.0]).method("kd", [63.0, 64.5, 64.0]).analyse()
    runs = {run["path"]: sizes.get(run["path"], 1) for run in small.runs}
    networks = [
        {"parameters": size, "flops": 40 * size, "milliseconds": {"1": 1.0, "64": 9.0}} for size in (20_000, tiny)
    ]
    file = small.root / "networks.json"
    write_json(file, {"cpu": "", "threads": 1, "busy": False, "networks": networks, "runs": runs})
    sources = load_sources(small.runs_csv, small.statistics, small.report, small.cards, small.meta, None, file)
    lines = rows(paper_table(build_sections(sources), small.report, small.meta))
    expected = [
        ["Parameters", r"\multicolumn{2}{c}{20 k}", r"\multicolumn{2}{c}{5 k}"],
        ["FLOPs per image", r"\multicolumn{2}{c}{800 k}", r"\multicolumn{2}{c}{200 k}"],
    ]
    assert lines[2:4] == expected if told else "Parameters" not in [line[0] for line in lines]


def test_without_reference_or_student_alone_there_are_fewer_columns_and_rows(world):
    assert rows(written(world.method("at", [70.0]).method("sp", [71.0]).analyse())) == [
        *[["Student", "small"], ["", "Top-1"], ["sp", "71.00"], ["at", "70.00"]],
    ]


def test_data_sets_have_a_line_where_there_are_several(world):
    world.method("kd", [71.0, 72.0])
    world.dataset = "other"
    tex = written(world.method("kd", [61.0, 62.5]).analyse())
    assert rows(tex)[0] == ["Data set", "toy", "other"]


@pytest.fixture
def wide(world):
    """Seven pairs, with names as long as they may be, and more methods than a page holds."""
    for number in range(7):
        world.student = f"a_student_of_a_long_name_{number}" if number else "s" * 100
        world.pair = f"big--{world.student}"
        world.teachers(range(2)).method("ce", [70.0, 71.0]).method("kd", [72.0, 73.0])
        world.method("m_" * 49 + "end", [10.0, 100.0])
    world.student, world.pair = "small", "big--small"
    for number in range(60):
        world.method(f"method_{number:02d}", [70.0 + number / 10, 71.0])
    return world.analyse()


def tables_of(tex):
    return re.findall(r"\\begin\{table.*?\\end\{table\*?\}", tex, re.DOTALL)


def test_what_is_wider_or_longer_than_a_page_is_parted(wide, monkeypatch):
    seen = []
    whole = latex.table
    monkeypatch.setattr(
        "kd.reporting.paper.table", lambda head, parts, *more: seen.append((head, parts)) or whole(head, parts, *more)
    )
    tex = written(wide)
    assert len(tables_of(tex)) == len(seen) > 3
    for head, parts in seen:
        assert total_width([*head, *(row for part in parts for row in part)]) <= PAGE
        assert sum(max(len(cell.lines) for cell in row) for part in parts for row in part) < 50
    for number in range(60):
        assert f"method\\_{number:02d}" in tex


def test_a_narrow_table_is_as_wide_as_a_column(small):
    tex = written(small)
    assert r"\begin{table}[tbp]" in tex
    sections = sections_of(small)
    assert len(sections) == 1
    assert COLUMN < PAGE


@pytest.mark.parametrize(
    "words", ["73.87 ± 0.68", "−2.83", "Top-1", "kd_logit_std", "resnet32x4", "MobileNetV2", "W" * 9]
)
@pytest.mark.parametrize("bold", [False, True])
def test_no_text_is_wider_than_it_is_taken_for(words, bold):
    """By the font itself, which comes with matplotlib; TeX draws 8 points from a font that is wider for its size."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    font = FT2Font(str(fonts / ("cmb10.ttf" if bold else "cmr10.ttf")))
    font.set_size(1000, 72)
    drawn = 0.0
    for character in words.replace("±", "+").replace("−", "+").replace("_", "-"):
        drawn += font.load_char(ord(character)).linearHoriAdvance / 65536
    assert width(words, bold) >= 0.99 * drawn / 1000 * 8
    assert width(words, bold) <= 1.35 * drawn / 1000 * 8


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("short", ["short"]),
        ("a_name_that_goes_on_and_on_and_on", ["a_name_that_goes_on_", "and_on_and_on"]),
        ("x" * 50, None),
    ],
)
def test_names_are_broken_where_they_can_be(name, lines):
    found = lines_of(name, 85.0)
    assert lines is None or found == lines
    assert "".join(found) == name
    assert all(width(line) <= 85.0 for line in found)


def test_pages_hold_as_many_lines_as_they_can():
    low, high = [Cell()], [Cell(("a", "b", "c"))]
    assert [len(part) for part in pages([low] * 5, 2)] == [2, 2, 1]
    assert [len(part) for part in pages([high, low, high], 4)] == [2, 1]
    assert pages([]) == [[]]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX on this machine")
def test_latex_sets_it_without_a_line_too_wide(wide, tmp_path):
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + written(wide) + r"\end{document}"
    (tmp_path / "paper.tex").write_text(document, encoding="utf-8")
    made = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert made.returncode == 0, made.stdout[-2000:]
    assert "Overfull \\hbox" not in made.stdout
    assert "Float too large" not in made.stdout
