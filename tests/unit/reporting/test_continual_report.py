"""The table, the heat map and the lines of continual learning."""

import base64
import csv
import itertools
import json

import numpy as np
import pytest
from PIL import Image
from recorded import finished, step

from kd.analysis.continual import read_runs, summaries
from kd.reporting.continual import as_markdown, heat_scale, matrices, over_tasks, write_continual
from kd.reporting.layout import continual_figures, continual_tables, courses_in_terminal
from kd.reporting.style import SMALL, styled
from kd.schema.config import Reporting


def course(first, tasks):
    """Row t, column j: what is left of `first` percent after t - j further tasks."""
    return [[first / (1 + row - column) if column <= row else None for column in range(tasks)] for row in range(tasks)]


def runs(folder, tasks=3, strategies=("finetune", "replay")):
    made = []
    for place, strategy in enumerate(strategies):
        for seed in (0, 1):
            path = folder / strategy / f"seed{seed}"
            path.mkdir(parents=True)
            split = {"class": course(50 + 20 * place + seed, tasks), "task": course(60 + 20 * place, tasks)}
            images = {"test": [20] * tasks, "val": [5] * tasks}
            content = {"class_order": [], "sizes": [2] * tasks, "images": images, "test": split, "val": split}
            (path / "matrix.json").write_text(json.dumps(content), encoding="utf-8")
            finished(path, "continual_run", "continual_matrix")
            made.append(row(strategy, seed, path))
    return made


def row(strategy, seed, path):
    steps = [step(path, "continual_run"), step(path, "continual_matrix")]
    names = {"dataset": "toy", "student": "net", "strategy": strategy, "seed": seed}
    return {**names, "path": str(path), "made": {"steps": steps, "before": []}}


@pytest.fixture
def written(tmp_path):
    planned = runs(tmp_path / "runs")
    planned.append(row(planned[-1]["strategy"], 2, tmp_path / "absent"))
    write_continual(planned, tmp_path / "out", Reporting())
    return tmp_path / "out"


def test_every_file_that_the_rule_promises_is_there(written):
    found = {str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()}
    tables = {f"tables/{name}" for name in continual_tables()}
    assert found == tables | {f"figures/{name}" for name in continual_figures(["toy"])}


def test_the_answer_stands_above_the_table_and_in_the_terminal(tmp_path, written):
    """Both seeds give the same difference, which says nothing of how it varies."""
    markdown = (written / "tables" / "continual.md").read_text(encoding="utf-8")
    (sentence,) = courses_in_terminal(markdown)
    assert sentence == (
        "replay leads with 43.08 ± 0.43 % over all classes after the last task (2 seeds), +12.22 points over finetune "
        "[+12.22, +12.22], having forgotten 41.12 ± 0.41 points of the tasks before; finetune is not told apart from "
        "it."
    )
    write_continual([row("finetune", 0, tmp_path / "absent")], tmp_path / "none", Reporting())
    nothing = (tmp_path / "none" / "tables" / "continual.md").read_text(encoding="utf-8")
    assert courses_in_terminal(nothing) == ["No run has finished, so that there is nothing to compare."]


def test_strategies_far_apart_are_told_apart(tmp_path):
    planned = runs(tmp_path, strategies=("finetune", "replay", "ewc"))
    for number, run in enumerate(planned):
        path = tmp_path / run["strategy"] / f"seed{run['seed']}" / "matrix.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        content["test"]["class"][-1][0] += 0.01 * number * number
        path.write_text(json.dumps(content), encoding="utf-8")
    tied = {one.strategy: one.tied_with_best for one in summaries(read_runs(planned), 0.95)}
    assert tied == {"finetune": False, "replay": False, "ewc": True}


def test_the_table_shows_mean_spread_and_what_is_missing(written):
    text = (written / "tables" / "continual.md").read_text(encoding="utf-8")
    # finetune: 50 after the last task of three with 50, 25, 16.7 left, and 51 with 51, 25.5, 17
    final = (50 + 25 + 50 / 3) / 3, (51 + 25.5 + 17) / 3
    assert f"{np.mean(final):.2f} ± {np.std(final, ddof=1):.2f}" in text
    assert "Final minus finetune" in text
    assert "2 of 3" in text
    assert "- replay, seed 2: not finished" in text
    assert "which nothing selects" in text


def test_the_csv_has_one_line_a_run(written):
    rows = list(csv.DictReader((written / "tables" / "continual.csv").open(encoding="utf-8")))
    assert [row["status"] for row in rows] == ["ok"] * 4 + ["failed"]
    assert float(rows[0]["seen_after_1"]) == 50
    assert float(rows[0]["forgetting"]) == pytest.approx(((50 - 50 / 3) + (50 - 25)) / 2, rel=1e-5)
    assert rows[4]["final"] == ""


def test_the_json_holds_whole_matrices(written):
    content = json.loads((written / "tables" / "continual.json").read_text(encoding="utf-8"))
    assert content["runs"][0]["matrix"]["test"]["class"][1] == [25, 50, None]


def test_the_page_has_a_chapter_of_it(written, small):
    html = small.page(continual=written / "tables/continual.json")
    assert "<h2>Classes learned in tasks by net, on toy</h2>" in html
    assert '<th scope="col">Final minus finetune</th>' in html
    assert "<li>replay, seed 2: not finished</li>" in html
    for name in continual_figures(["toy"]):
        if name.endswith(".png"):
            assert base64.b64encode((small.root / "figures" / name).read_bytes()).decode() in html


def test_figures_are_pictures_and_the_same_bytes_every_time(written, tmp_path):
    name = "figures/toy/continual/accuracy_matrices.png"
    pixels = np.asarray(Image.open(written / name).convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    write_continual(runs(tmp_path / "again"), tmp_path / "second", Reporting())
    assert (tmp_path / "second" / name).read_bytes() == (written / name).read_bytes()


STRATEGIES = ("finetune", "replay", "ewc_10", "prev_kd")


@pytest.mark.parametrize(("tasks", "strategies"), [(2, 2), (9, 2), (6, 3), (7, 4), (11, 1), (25, 2)])
def test_heat_maps_write_numbers_where_they_fit(tmp_path, tasks, strategies):
    with styled():
        figure = matrices(read_runs(runs(tmp_path, tasks, STRATEGIES[:strategies])))
        figure.draw_without_rendering()
    written = figure.axes[0].texts
    assert len(written) == (tasks * (tasks + 1) // 2 if tasks * min(strategies, 3) <= 18 else 0)
    boxes = [text.get_window_extent() for text in written]
    assert not any(one.overlaps(two) for one, two in itertools.combinations(boxes, 2))
    assert all(text.get_fontsize() >= SMALL for text in written)
    assert len(figure.axes[0].get_xticks()) <= 5


def test_the_scale_of_heat_maps_fits_their_numbers(tmp_path):
    with styled():
        figure = matrices(read_runs(runs(tmp_path)))
    (first,) = figure.axes[0].images
    # from 16.9 (a third of 50.5) to 70.5
    assert first.get_clim() == (15.0, 75.0)
    assert all(image.get_clim() == first.get_clim() for axes in figure.axes[:2] for image in axes.images)


@pytest.mark.parametrize(
    ("low", "high", "scale"),
    [(0.0, 51.0, (0, 55)), (98.7, 100.0, (95, 100)), (40.0, 40.0, (40, 45)), (100.0, 100.0, (100, 100))],
)
def test_a_scale_ends_at_multiples_of_five_within_0_and_100(low, high, scale):
    assert heat_scale([np.array([[low, np.nan], [low, high]])]) == scale


def test_nothing_finished_gives_a_sentence_and_no_crash(tmp_path):
    with styled():
        for figure in (matrices([]), over_tasks([])):
            assert "No continual run" in figure.texts[0].get_text()
    assert "which nothing selects" in as_markdown([], 0.95)
