"""The diagnosis of a synergy as tables, figures and a part of the page."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from half_stages import CHAIN, chain_of, leave
from matplotlib.text import Text
from scipy import stats

from kd.analysis.runs import read_runs
from kd.analysis.synergy import gather_synergy, read_synergy, write_synergy
from kd.reporting.design_files import write_designs
from kd.reporting.latex import PAGE, Cell, lines_of, total_width
from kd.reporting.layout import design_figures, design_tables
from kd.reporting.paper import NAME
from kd.reporting.style import RC, styled
from kd.reporting.synergy import synergy_sections
from kd.reporting.synergy_figures import synergy_figures
from kd.reporting.tables import HEADING
from kd.schema.config import Analysis, Reporting
from kd.study.designs import Design, Point

PAIR = "big+wide--small"


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setitem(RC, "savefig.dpi", 50)


REACHED = {"average": "avg_kd", "synergy": "asib"}


def diagnosed(world, chains=("asib",), teachers=2, seeds=3, reached=(), missing=()):
    """A design of chains, of which the seeds in `missing` have no result."""
    world.pair = PAIR if teachers == 2 else "big--small"
    world.teacher = "big+wide" if teachers == 2 else "big"
    world.families |= {"asib": "multi-teacher", "avg_kd": "multi-teacher"}
    world.report = Reporting(
        references=["avg_kd"], analysis=Analysis(kind="synergy", variants=list(chains), reached=dict(reached))
    )
    world.teachers(range(seeds))
    world.method("avg_kd", [60.0 + seed for seed in range(seeds)])
    for number, name in enumerate(chains):
        accuracies = [None if seed in missing else 58.5 + 1.5 * seed for seed in range(seeds)]
        world.method(name, accuracies, base="asib", broken=missing)
        for run in world.runs:
            if run["method"] == name and run["seed"] not in missing:
                halves = chain_of(10 * number + run["seed"], quality=0.2 * number, teachers=teachers)
                leave(Path(run["path"]), halves)
    world.analyse()
    world.synergy = world.root / "synergy.csv"
    write_synergy(gather_synergy(read_runs(world.runs_csv), chains, 4.0), world.synergy)
    points = [
        Point(pair=world.pair, method=name, line=source, x=float(row), against=0 if row else None)
        for row, (source, name) in enumerate(dict(reached).items())
    ]
    return Design(kind="synergy", dataset="toy", folder=world.pair, points=points, chains=list(chains))


def write(world, design, out="out"):
    folder = world.root / out
    write_designs(world.runs_csv, [design], folder, world.report, world.meta, world.families, world.synergy)
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def sections_of(world, design):
    found, runs = read_synergy(world.synergy), read_runs(world.runs_csv)
    return synergy_sections(found, runs, design, world.report, world.meta)


def drawn(world, design):
    found, runs = read_synergy(world.synergy), read_runs(world.runs_csv)
    with styled():
        return synergy_figures(found, runs, design, world.report, world.families)


def texts(figure):
    return " ".join(one.get_text() for one in figure.findobj(Text))


def test_files_are_those_that_the_workflow_expects_and_repeat_themselves(world):
    design = diagnosed(world, reached=REACHED)
    first = {name: path.read_bytes() for name, path in write(world, design).items()}
    expected = [
        *(f"tables/{name}" for name in design_tables()),
        *(f"figures/{one}" for one in design_figures([design])),
    ]
    assert sorted(first) == sorted(expected)
    assert len(design_figures([design])) == 4, "two figures in two formats"
    assert {name: path.read_bytes() for name, path in write(world, design).items()} == first


def test_tables_tell_of_outcomes_of_students_and_of_each_half_stage(world):
    design = diagnosed(world, chains=("asib", "residual"), reached=REACHED)
    headings = [section.pair.removeprefix(f"{PAIR}, ") for section in sections_of(world, design)]
    assert headings == ["synergy and average", "what students reached"] + [
        f"{name} on {images} images: {what}"
        for name in ("asib", "residual")
        for images in ("validation", "training")
        for what in ("answers", "targets")
    ]
    outcome, reached, answers, targets, *_ = sections_of(world, design)
    assert [(row.cells["method"], row.cells["images"]) for row in outcome.rows] == [
        *[("asib", "val"), ("asib", "train"), ("residual", "val"), ("residual", "train")]
    ]
    assert outcome.caption.startswith("asib, stage 2: the synergy minus the average of its teachers is ")
    assert "% of its" not in outcome.caption
    assert [(row.cells["line"], row.cells["method"], row.cells["accuracy"]) for row in reached.rows] == [
        *[("average", "avg_kd", "61.00 ± 1.00"), ("synergy", "asib", "60.00 ± 1.50")]
    ]
    assert reached.rows[1].cells["delta"].startswith("−1.00 [")
    sources = [(row.cells["method"], row.cells["stage"]) for row in answers.rows]
    assert ("average", "given") in sources
    assert ("synergy", "1, teachers") in sources
    assert ("student", "2, student") in sources
    assert ("big and wide", "given") in [(row.cells["method"], row.cells["stage"]) for row in targets.rows]
    assert not [name for name, _ in sources if " and " in name], "two teachers together answer nothing"


def test_cells_are_the_numbers_of_the_file(world):
    design = diagnosed(world)
    found = [one for one in read_synergy(world.synergy) if one.split == "val"]
    own = [one for one in found if (one.stage, one.half, one.what) == (2, "teacher_update", "synergy")]
    bar = {one.seed: one.numbers["top1"] for one in found if one.what == "bar"}
    gains = np.array([one.numbers["top1"] - bar[one.seed] for one in own])
    low, high = stats.t.interval(0.95, 2, gains.mean(), stats.sem(gains))
    expected = f"{gains.mean():+.1f} [{low:+.1f}, {high:+.1f}]".replace("-", "−")
    outcome, answers, targets, *_ = sections_of(world, design)
    assert outcome.rows[0].cells["delta_top1"] == expected
    (row,) = [one for one in answers.rows if (one.cells["method"], one.cells["stage"]) == ("synergy", "2, teachers")]
    assert row.cells["delta_top1"] == expected
    assert row.cells["top1"] == f"{np.mean([one.numbers['top1'] for one in own]):.2f}"
    (row,) = [one for one in targets.rows if (one.cells["method"], one.cells["stage"]) == ("synergy", "2, teachers")]
    assert row.cells["correlation"] == f"{np.mean([one.numbers['correlation'] for one in own]):.2f}".replace("-", "−")


def test_teachers_that_are_as_given_stand_once(world):
    design = diagnosed(world)
    for run in world.runs:
        if run["method"] == "asib":
            halves = chain_of(run["seed"])
            for splits in halves.values():
                for split, (_, logits) in splits.items():
                    first = halves[1, "teacher_update"][split][1]
                    logits |= {f"teacher{k}": first[f"given{k}"] for k in range(2)}
            leave(Path(run["path"]), halves)
    write_synergy(gather_synergy(read_runs(world.runs_csv), ["asib"], 4.0), world.synergy)
    _, answers, targets, *_ = sections_of(world, design)
    for section in (answers, targets):
        stages = {row.cells["stage"] for row in section.rows if row.cells["method"] not in ("synergy", "student")}
        assert stages == {"given"}
    rows = list(csv.DictReader(io.StringIO(write(world, design)["tables/analysis.csv"].read_text(encoding="utf-8"))))
    assert [row["stage"] for row in rows if (row["split"], row["source"]) == ("val", "big")] == ["0", "1", "2"]


def test_the_csv_has_plain_numbers_of_every_source_and_of_what_students_reached(world):
    design = diagnosed(world, reached=REACHED)
    rows = list(csv.DictReader(io.StringIO(write(world, design)["tables/analysis.csv"].read_text(encoding="utf-8"))))
    found = read_synergy(world.synergy)
    assert len(rows) == len(found) / 3 + 2
    own = [row for row in rows if (row["split"], row["stage"], row["what"]) == ("train", "1", "synergy")]
    assert [row["half"] for row in own] == ["teacher_update", "student_update"]
    numbers = [
        one.numbers["nll"]
        for one in found
        if (one.split, one.stage, one.half) == ("train", 1, own[0]["half"]) and one.what == "synergy"
    ]
    assert float(own[0]["nll"]) == pytest.approx(np.mean(numbers))
    assert float(own[0]["nll_sd"]) == pytest.approx(np.std(numbers, ddof=1))
    last = rows[-1]
    assert [last[key] for key in ("split", "what", "source", "method", "top1")] == [
        *["test", "reached", "synergy", "asib", "60.0"]
    ]
    assert float(last["difference_top1"]) == pytest.approx(-1.0)


def test_the_json_holds_the_seeds(world):
    design = diagnosed(world)
    content = json.loads(write(world, design)["tables/analysis.json"].read_text(encoding="utf-8"))["sections"]
    synergy = content[1]["rows"][-2]
    assert (synergy["what"], synergy["stage"], synergy["means"]["top1"]["seeds"]) == ("synergy", 2, [0, 1, 2])
    assert content[0]["rows"][0]["of"] == 6


def test_no_table_is_wider_than_a_page(world):
    design = diagnosed(world, chains=("a_long_name.of_a_variant", "asib"), reached=REACHED)
    for section in sections_of(world, design):
        head = [Cell(tuple(lines_of(heading, HEADING))) for heading in section.columns.values()]
        rows = [
            [Cell(tuple(lines_of(cell, NAME) if key == "method" else [cell])) for key, cell in shown.items()]
            for row in section.rows
            for shown in [{key: row.cells[key] for key in section.columns}]
        ]
        assert total_width([head, *rows]) <= PAGE, section.pair


def test_seeds_without_result_are_named_with_their_reason(world):
    design = diagnosed(world, chains=("asib", "residual"), missing={1})
    outcome = sections_of(world, design)[0]
    assert [sentence for _, sentence in outcome.notes] == [
        f"{name}, seed 1 failed: loss became NaN in epoch 3, step 17 <&_%>" for name in ("asib", "residual")
    ]
    assert {row.numbers.of for row in outcome.rows} == {4}


def test_a_seed_whose_predictions_are_gone_is_named(world):
    design = diagnosed(world)
    kept = [one for one in read_synergy(world.synergy) if one.seed != 2]
    write_synergy(kept, world.synergy)
    assert [sentence for _, sentence in sections_of(world, design)[0].notes] == [
        "asib, seed 2: no predictions of its half-stages."
    ]


def test_nothing_finished_is_said_in_tables_and_figures(world):
    design = diagnosed(world, missing={0, 1, 2})
    outcome, *others = sections_of(world, design)
    assert (outcome.rows, others) == ([], [])
    assert len(outcome.notes) == 3
    assert all("No run has finished." in texts(figure) for figure in drawn(world, design))
    write(world, design)


def test_one_seed_has_no_intervals(world):
    design = diagnosed(world, seeds=1)
    outcome, answers, *_ = sections_of(world, design)
    assert "[" not in outcome.rows[0].cells["delta_top1"]
    assert "n = 1 seed: nothing is known of how the numbers vary" in outcome.caption
    assert "interval" not in answers.caption
    assert all("interval" not in texts(figure) for figure in drawn(world, design))


def test_one_teacher_is_its_own_average(world):
    design = diagnosed(world, teachers=1)
    outcome, answers, *_ = sections_of(world, design)
    assert "With one teacher the average is that teacher." in outcome.caption
    given = [row for row in answers.rows if row.cells["stage"] == "given"]
    assert [(row.cells["method"], row.cells["delta_top1"]) for row in given] == [("big", "—")]
    assert "With one teacher" not in sections_of(world, diagnosed(world))[0].caption


def test_few_chains_are_lines_over_half_stages(world):
    design = diagnosed(world, chains=("asib", "residual"))
    answers, targets = drawn(world, design)
    assert [axes.get_title(loc="left") for axes in answers.axes] == ["validation images", "training images", "", ""]
    assert [label.get_text() for label in answers.axes[2].get_xticklabels()] == ["1T", "1S", "2T", "2S"]
    found = read_synergy(world.synergy)
    for figure, measure, panel in ((answers, "top1", 0), (targets, "off_label", 1)):
        split = ("val", "train")[panel]
        (line,) = [one for one in figure.axes[panel].lines if one.get_label() == "residual"]
        for place, (stage, half) in enumerate(CHAIN):
            own = {
                one.seed: one.numbers[measure]
                for one in found
                if (one.method, one.split, one.stage, one.half, one.what) == ("residual", split, stage, half, "synergy")
            }
            bar = {
                one.seed: one.numbers[measure]
                for one in found
                if (one.method, one.split, one.what) == ("residual", split, "bar")
            }
            gains = [own[seed] - (bar[seed] if figure is answers else 0) for seed in own]
            assert line.get_ydata()[place] == pytest.approx(np.mean(gains))
    assert [one.get_text() for one in answers.legends[0].get_texts()] == ["asib", "residual", "average"]


def test_many_chains_are_rows_of_their_last_stages(world):
    names = [f"variant_{number}" for number in range(6)]
    design = diagnosed(world, chains=names)
    answers, targets = drawn(world, design)
    assert [label.get_text() for label in answers.axes[0].get_yticklabels()] == names
    assert "The synergy that the last stage's student learned from." in texts(answers)
    found = [one for one in read_synergy(world.synergy) if (one.method, one.split) == ("variant_3", "train")]
    last = [one for one in found if (one.stage, one.half, one.what) == (2, "teacher_update", "synergy")]
    means = [line.get_xdata()[0] for line in targets.axes[1].lines if len(line.get_xdata()) == 1]
    assert any(x == pytest.approx(np.mean([one.numbers["off_label"] for one in last])) for x in means)


def test_the_page_shows_outcomes_and_figures_and_folds_the_rest(world):
    design = diagnosed(world, reached=REACHED)
    shown, plain = world.page([design], synergy=world.synergy), world.page()
    assert shown.count("<h2>Synergy of the teachers: Student small, taught by big and wide, on toy</h2>") == 1
    assert shown.count("<img") == plain.count("<img") + 2
    for heading in ("validation images: answers", "training images: targets"):
        assert shown.count(f"<summary><strong>asib on {heading}</strong></summary>") == 1
    section = shown[shown.index('<section id="analysis1">') :]
    assert section.index("Held") < section.index("Learned from") < section.index("<img") < section.index("<details>")
