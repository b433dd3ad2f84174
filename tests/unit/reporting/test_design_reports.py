"""The experiment's own analysis: its numbers against sums by hand, its files, its place on the page."""

import csv
import io
import json

import numpy as np
import pytest
from scipy import stats

from kd.analysis.designs import design_records, reference_means
from kd.analysis.runs import read_runs
from kd.reporting.design_files import write_designs
from kd.reporting.designs import design_figure
from kd.reporting.layout import design_figures, design_tables
from kd.reporting.style import RC, styled
from kd.schema.config import Reporting
from kd.study.designs import Design, Point

PAIR = "big--small"
SCORES = {
    "whole": [70.0, 71.0, 72.5],
    "no_ib": [69.0, 70.5, 70.0],
    "no_kd": [69.5, None, 71.0],
    "ce": [66.0, 66.5, 67.0],
}


def design_of(kind, methods, places=None, pairs=(PAIR,), folder=PAIR, axis=""):
    points = []
    for pair_number, pair in enumerate(pairs):
        for row, method in enumerate(methods):
            first = pair_number * len(methods)
            against = None if row == 0 else row - 1 if kind == "ladder" else first
            x = places[pair_number if len(pairs) > 1 else row] if places else float(row)
            line = method if kind == "overlap" else kind
            points.append(Point(pair=pair, method=method, line=line, x=x, against=against))
    return Design(kind=kind, dataset="toy", folder=folder, axis=axis, points=points)


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setitem(RC, "savefig.dpi", 50)


@pytest.fixture
def scored(world):
    world.report = Reporting(references=["whole", "ce"])
    world.teachers(range(3))
    for name, values in SCORES.items():
        world.method(name, values, base="ce" if name == "ce" else "asib")
    return world.analyse()


def test_differences_are_paired_by_seed_and_corrected_over_the_design(scored):
    design = design_of("factors", ["whole", "no_ib", "no_kd"])
    whole, no_ib, no_kd = design_records(read_runs(scored.runs_csv), design, scored.report)
    assert whole.difference is None
    assert whole.mean == pytest.approx(np.mean(SCORES["whole"]))
    assert whole.half_width == pytest.approx(stats.t.ppf(0.975, 2) * stats.sem(SCORES["whole"]))
    paired = np.subtract(SCORES["no_ib"], SCORES["whole"])
    assert no_ib.difference.mean == pytest.approx(paired.mean())
    assert no_ib.difference.low == pytest.approx(paired.mean() - stats.t.ppf(0.975, 2) * stats.sem(paired))
    assert (no_ib.difference.p, no_ib.difference.p_holm) == (0.25, 0.5), "two patterns of eight, two tests"
    assert (no_kd.n_used, no_kd.n_planned, no_kd.difference.seeds) == (2, 3, [0, 2])
    assert no_kd.difference.mean == pytest.approx((-0.5 - 1.5) / 2), "over the seeds that both have"


def test_a_ladder_takes_every_rung_from_the_one_before(scored):
    design = design_of("ladder", ["ce", "no_ib", "whole"])
    records = design_records(read_runs(scored.runs_csv), design, scored.report)
    found = [record.difference and (record.difference.reference, record.difference.mean) for record in records]
    steps = np.diff([np.mean(SCORES[name]) for name in ("ce", "no_ib", "whole")])
    assert found == [None, ("ce", pytest.approx(steps[0])), ("no_ib", pytest.approx(steps[1]))]


def test_references_beside_a_sweep_are_those_that_it_does_not_hold(scored):
    design = design_of("sweep", ["whole", "no_ib"], [0.0, 0.1], axis="ib_beta")
    runs = read_runs(scored.runs_csv)
    assert reference_means(runs, design, scored.report) == {"ce": pytest.approx(66.5)}
    with styled():
        figure = design_figure(runs, design, scored.report, {})
    (axes,) = figure.axes
    assert [line.get_text() for line in figure.legends[0].get_texts()] == ["sweep", "ce"]
    assert axes.get_xlabel() == "ib_beta"
    drawn = next(line for line in axes.lines if line.get_label() == "sweep")
    assert drawn.get_xdata().tolist() == [0.0, 0.1]
    assert drawn.get_ydata().tolist() == pytest.approx([np.mean(SCORES["whole"]), np.mean(SCORES["no_ib"])])


@pytest.mark.parametrize(
    ("places", "scale"), [([0.0, 1e-4, 1e-2], "symlog"), ([0.0, 0.25, 1.0], "linear"), ([-1.0, 1.0, 1e3], "linear")]
)
def test_places_of_many_magnitudes_stand_on_a_logarithmic_axis(scored, places, scale):
    design = design_of("sweep", ["whole", "no_ib", "ce"], places, axis="beta")
    with styled():
        (axes,) = design_figure(read_runs(scored.runs_csv), design, scored.report, {}).axes
    assert axes.get_xscale() == scale
    assert [label.get_text() for label in axes.get_xticklabels()] == [f"{place:g}" for place in places]


@pytest.fixture
def overlapping(world):
    """Two pairs whose teachers share none and all of the classes; the second one's asib has not run."""
    world.report = Reporting(references=["avg_kd"])
    for pair, shift in (("a_0+b_0--small", 0.0), ("a+b--small", 5.0)):
        world.pair = pair
        world.method("avg_kd", [60.0 + shift, 61.0 + shift])
        world.method("asib", [64.0, 66.0] if shift == 0 else [None, None])
    world.analyse()
    methods, pairs = ["avg_kd", "asib"], ["a_0+b_0--small", "a+b--small"]
    axis = "Classes that both teachers learn (%)"
    return world, design_of("overlap", methods, [0.0, 100.0], pairs, folder="overlap--small", axis=axis)


def test_an_overlap_has_a_line_a_method_and_its_files_hold_the_numbers(overlapping):
    world, design = overlapping
    write_designs(world.runs_csv, [design], world.root, world.report, world.meta, {})
    rows = list(csv.DictReader(io.StringIO((world.root / "tables" / "analysis.csv").read_text(encoding="utf-8"))))
    assert [(row["x"], row["method"], row["mean"], row["difference_mean"]) for row in rows] == [
        *[("0.0", "avg_kd", "60.5", ""), ("0.0", "asib", "65.0", "4.5")],
        *[("100.0", "avg_kd", "65.5", ""), ("100.0", "asib", "", "")],
    ]
    markdown = (world.root / "tables" / "analysis.md").read_text(encoding="utf-8")
    assert "| Classes that both teachers learn (%) | Method | Test top-1 (%) | n | Δ avg_kd |" in markdown
    assert "| 0 | asib | 65.00 ± 1.41 | 2 | +4.50 \\[−1.85, +10.85\\] |" in markdown
    assert "| 100 | asib | — | 0 of 2 | — |" in markdown
    assert "No p values: with n = 2 none can be below 0.5." in markdown
    assert "differences are to avg_kd with the same teachers" in markdown
    found = json.loads((world.root / "tables" / "analysis.json").read_text(encoding="utf-8"))["sections"]
    assert found[0]["rows"][1]["values"] == [64.0, 66.0]
    with styled():
        figure = design_figure(read_runs(world.runs_csv), design, world.report, {})
    lines = {line.get_label(): line.get_xdata().tolist() for line in figure.axes[0].lines if line.get_label()[0] != "_"}
    assert lines == {"avg_kd": [0.0, 100.0], "asib": [0.0]}


def test_files_are_those_that_the_workflow_expects_and_repeat_themselves(scored):
    designs = [
        design_of("factors", ["whole", "no_ib", "no_kd"]),
        design_of("ladder", ["ce", "no_ib", "whole"]),
        design_of("sweep", ["whole", "no_ib"], [0.0, 0.1], axis="ib_beta"),
        design_of("ladder", ["ce", "absent"], folder="elsewhere--small", pairs=["elsewhere--small"]),
    ]

    def written():
        write_designs(scored.runs_csv, designs, scored.root / "out", scored.report, scored.meta, {})
        files = [path for path in (scored.root / "out").rglob("*") if path.is_file()]
        return {path.relative_to(scored.root / "out").as_posix(): path.read_bytes() for path in files}

    first = written()
    expected = [f"tables/{name}" for name in design_tables()] + [f"figures/{name}" for name in design_figures(designs)]
    assert sorted(first) == sorted(expected)
    assert written() == first


def test_the_page_shows_table_and_figure(overlapping):
    world, design = overlapping
    shown = world.page([design])
    assert shown.count("<h2>Overlap of the teachers&#39; classes: Student small, on toy</h2>") == 1
    assert '<td data-value="4.5">+4.50 <span class="interval">[−1.85, +10.85]</span></td>' in shown
    plain = world.page()
    assert shown.count("<img") == plain.count("<img") + 1


def test_the_lines_key_stands_above_the_families(overlapping):
    world, design = overlapping
    with styled():
        figure = design_figure(
            read_runs(world.runs_csv), design, world.report, {"avg_kd": "logits", "asib": "multi-teacher"}
        )
        figure.draw_without_rendering()
    (legend,) = figure.legends
    families = [text for text in figure.texts if text.get_text() in {"logits", "multi-teacher"}]
    assert len(families) == 2
    bottom = legend.get_window_extent().y0
    assert all(text.get_window_extent().y1 <= bottom for text in families)
    assert legend.get_window_extent().y1 <= min(axes.get_tightbbox().y0 for axes in figure.axes)
