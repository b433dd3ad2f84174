"""Methods as written beside those with searched settings: the table, its sentence, and what the page shows."""

import csv

import pytest
from recorded import failed, finished, step

from kd.analysis.trials import collect_trials
from kd.reporting.answer import answer_of
from kd.reporting.comparison import build_sections, load_sources
from kd.reporting.layout import table_files
from kd.reporting.search import search_sections, told
from kd.reporting.tables import write_tables
from kd.tools.files import write_json

SEARCH = {"trials": 3, "seed": 1000}


def trial(world, method, number, reached, chosen=1, flops=1e12, **drawn):
    """What is planned of a trial, and its record: what it reached, or why it failed."""
    folder = world.root / f"{method}_searched.trial{number}"
    ok = isinstance(reached, float)
    costs = {"flops": {"train": flops}, "seconds": {"train": 9.0}, "epochs": 4, "best_epoch": 4}
    selected = {"best": reached, "last": reached} if ok else {}
    outcome = {"status": "ok" if ok else "failed", "reason": "" if ok else reached}
    write_json(folder / "run.json", {**outcome, "selected": selected, **costs})
    finished(folder, "train_trial")
    search = world.root / f"{method}_searched"
    write_json(search / "choice.json", {"trial": chosen})
    finished(search, "choose")
    return {
        **{"dataset": "toy", "pair": "big--small", "teachers": "big", "student": "small", "method": method},
        **{"trial": number, "seed": 1000, "drawn": drawn, "path": str(folder)},
        **{"choice": str(search / "choice.json"), "made": {"steps": [step(folder, "train_trial")], "before": []}},
        "chosen_by": step(search, "choose"),
    }


@pytest.fixture
def searched(world):
    """Three methods: one that gains by its second trial, one that stays as it is, one with nothing to choose from."""
    world.teachers(range(3)).method("ce", [70.0, 71.0, 72.0]).method("kd", [73.0, 74.5, 74.0])
    world.method("ce_searched", [70.0, 71.0, 72.0], base="ce", kind="searched")
    # all trials' operations stand in one made-up folder
    world.method("kd_searched", [74.0, 75.0, 75.5], base="kd", kind="searched", pretrain=made_for(world, 1.5e14))
    world.method("at", [72.0, 72.5, 73.0]).method("at_searched", [None, None, None], base="at", kind="searched")
    rows = [
        trial(world, "ce", 1, 69.0, **{"recipe.lr": 0.05}),
        trial(world, "ce", 2, 68.0, **{"recipe.lr": 0.01}),
        trial(world, "ce", 3, 67.0, **{"recipe.lr": 0.1}),
        trial(world, "kd", 1, 71.0, chosen=2, **{"recipe.lr": 0.05, "kd.temperature": 4.0}),
        trial(world, "kd", 2, 74.25, chosen=2, **{"recipe.lr": 0.031, "kd.temperature": 2.5}),
        trial(world, "kd", 3, "training diverged", chosen=2, **{"recipe.lr": 3.0, "kd.temperature": 1.5}),
        *(trial(world, "at", number, "training diverged", **{"recipe.lr": 3.0}) for number in (1, 2, 3)),
    ]
    for found in (world.root / "at_searched").glob("made/*"):
        found.unlink()
    failed(world.root / "at_searched", "choose", "no trial of at finished")
    collect_trials(rows, world.root / "trials.csv")
    return world.analyse()


def made_for(world, flops):
    folder = world.root / "made_for_kd"
    write_json(folder / "run.json", {"flops": {"train": flops}, "seconds": {"train": 1.0}})
    return str(folder)


def sources_of(world):
    meta = {**world.meta, "search": SEARCH, "searched": ["ce_searched", "kd_searched", "at_searched"]}
    return load_sources(world.runs_csv, world.statistics, world.report, world.cards, meta, world.root / "trials.csv")


def section_of(world):
    sources = sources_of(world)
    (section,) = search_sections(sources, build_sections(sources))
    return section


def test_each_method_stands_as_written_beside_what_was_found(searched):
    rows = {row.cells["method"]: row.cells for row in section_of(searched).rows}
    assert list(rows) == ["ce", "kd", "at"]
    # differences 1.0, 0.5 and 1.5: mean 1, sd 0.5, t(2) 4.303
    assert rows["kd"] == {
        "method": "kd",
        "accuracy": "73.83 ± 0.76",
        "searched": "74.83 ± 0.76",
        "delta": "+1.00 [−0.24, +2.24]",
        "validation": "71.00 → 74.25",
        "settings": "2: lr 0.031, temperature 2.5",
        "finished": "2 of 3",
        "flops": "150 T (3.0 trainings)",
    }
    assert [rows["ce"][key] for key in ("settings", "delta", "finished")] == [
        "1: as written",
        "+0.00 [+0.00, +0.00]",
        "3",
    ]
    nothing = [rows["at"][key] for key in ("searched", "delta", "settings")]
    assert nothing == ["—"] * 3
    assert rows["at"]["finished"] == "0 of 3"


def test_what_failed_stands_below_with_its_reason(searched):
    section = section_of(searched)
    assert section.notes == [
        ("", "kd, trial 3 failed: training diverged"),
        ("", "at, trials 1, 2 and 3 failed: training diverged"),
    ]
    assert "3 trials for each method, all with seed 1000" in section.caption
    assert "no trial read any of those images" in section.caption


def test_the_answer_says_what_the_search_gave_and_took(searched):
    sources = sources_of(searched)
    sections = build_sections(sources)
    answer = answer_of(sources, sections, search_sections(sources, sections))
    assert (
        "A search of 3 trials for each method on validation, for the FLOPs of 0.0 to 3.0 trainings, changed kd by "
        "+1.00 points [−0.24, +2.24] and kept ce as written."
    ) in answer.sentences
    assert any(sentence.endswith("teachers, pre-stages and searches included.") for sentence in answer.sentences)


def test_without_a_choice_there_is_nothing_to_say(searched):
    section = section_of(searched)
    alone = [row for row in section.rows if row.cells["method"] == "at"]
    assert told(type(section)(**{**vars(section), "rows": alone}), 5) == "No search has a result yet."


def test_tables_and_page_show_it(searched):
    sources = sources_of(searched)
    arguments = (searched.report, searched.cards, sources.meta, searched.root / "trials.csv")
    write_tables(searched.runs_csv, searched.statistics, searched.root / "tables", *arguments)
    assert {path.name for path in (searched.root / "tables").iterdir()} == set(table_files(searches=True))
    with (searched.root / "tables" / "search.csv").open(encoding="utf-8") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert rows["kd"]["settings"] == "recipe.lr=0.031, kd.temperature=2.5"
    assert [float(rows["kd"][key]) for key in ("difference_mean", "search_in_trainings")] == [1.0, 3.0]
    assert (rows["at"]["trial"], rows["at"]["trials_finished"]) == ("", "0")
    comparison = (searched.root / "tables" / "comparison.md").read_text(encoding="utf-8")
    assert "ce_searched, kd_searched and at_searched: with the settings that a search of 3 trials chose" in comparison
    page = searched.page(trials=searched.root / "trials.csv", meta=sources.meta)
    assert "<h3>As written, and searched</h3>" in page
    assert "lr 0.031, temperature 2.5" in page
