"""The answer in sentences."""

import numpy as np
import pytest

from kd.reporting.across import across_section
from kd.reporting.answer import Contender, answer_of, frontier
from kd.reporting.comparison import build_sections, load_sources
from kd.reporting.layout import in_terminal
from kd.reporting.tables import write_tables
from kd.schema.config import Reporting


def sources_of(world, **meta):
    return load_sources(world.runs_csv, world.statistics, world.report, world.cards, world.meta | meta)


def answered(world, **meta):
    sources = sources_of(world, **meta)
    return answer_of(sources, build_sections(sources))


def test_who_leads_by_how_much_at_what_cost_and_what_is_not_told_apart(small):
    lead, compute, lost = answered(small).sentences
    assert lead == (
        "kd_t8 leads with 73.87 ± 0.68 % (3 seeds), +0.03 points over kd [−0.25, +0.32], +2.87 points over ce "
        "[+1.18, +4.56], for 160 TFLOPs of training (3.2 times ce's); of the 3 others, compared all at once, crd and "
        "kd are not told apart from it."
    )
    assert compute == (
        "For the compute, ce (71.00 % for 50 TFLOPs) and kd_t8 (73.87 % for 160 TFLOPs) were best: no other method "
        "reached over 0.5 points more for as few FLOPs, teachers and pre-stages included."
    )
    assert lost == (
        "Without result: crd (1 of 3 runs) and ft (3 of 3 runs); 1 failed for this reason: loss became NaN in epoch 3, "
        "step 17 &_%."
    )


def test_a_lucky_seed_is_not_best_for_the_compute(world):
    world.teachers(range(3)).method("ce", [70.0, 71.0, 72.0]).method("kd", [73.0, 74.5, 74.0], 60.0)
    world.method("lucky", [None, 80.0, None], 10.0)
    _, compute, lost = answered(world.analyse()).sentences
    assert "lucky" not in compute
    assert lost == "Without result: lucky (2 of 3 runs)."


def test_details_say_what_is_better_equal_and_open_beside_each_reference(small):
    (part,) = answered(small).parts
    seeds = "seeds tell 1 point from none four times in five."
    assert part.details == [
        "Beside kd, by each 95% interval: equal within 0.5 points: kd_t8; worse by more than 0.5 points: ce; open: "
        f"crd; differences vary by 0.49 points from seed to seed, so that 5 {seeds}",
        "Beside ce, by each 95% interval: better by more than 0.5 points: kd_t8 and kd; open: crd; differences vary by "
        f"0.72 points from seed to seed, so that 7 {seeds}",
    ]


def test_one_seed_says_what_can_be_said(world):
    world.teachers([0]).method("ce", [70.0]).method("kd", [72.0])
    lead, compute = answered(world.analyse()).sentences
    assert lead == (
        "With one seed nothing can be told from chance: the highest is kd, 72.00 % (1 seed), +2.00 points over ce, for "
        "150 TFLOPs of training (3 times ce's); what of that another seed would repeat is not known."
    )
    assert compute.startswith("For the compute, ce (70.00 % for 50 TFLOPs) and kd (72.00 % for 150 TFLOPs) were best")
    assert answered(world).parts[0].details == []


def test_two_seeds_of_much_noise_tell_nothing_apart(world):
    world.method("ce", [70.0, 71.0]).method("kd", [71.0, 70.5]).method("x", [70.5, 71.5])
    lead = answered(world.analyse()).sentences[0]
    assert lead.startswith("x leads with 71.00 ± 0.71 % (2 seeds)")
    assert lead.endswith("none of the 2 others is told apart from it.")


@pytest.mark.parametrize(
    ("methods", "first"),
    [
        ({}, "No run has a result, so that there is nothing to compare."),
        ({"kd": [None, None]}, "No run has a result, so that there is nothing to compare."),
        (
            {"kd": [71.0, 72.0]},
            "Only kd has a result, 71.50 ± 0.71 % (2 seeds), for 150 TFLOPs of training; there is nothing to "
            "compare it with.",
        ),
    ],
    ids=["none", "all missing", "one"],
)
def test_little_is_said_of_little(world, methods, first):
    world.teachers(range(2))
    for name, values in methods.items():
        world.method(name, values)
    assert answered(world.analyse()).sentences[0] == first


def test_a_baseline_that_leads_is_told_as_one(world):
    world.method("ce", [75.0, 76.0, 75.5]).method("kd", [71.0, 72.1, 71.4])
    lead = answered(world.analyse()).sentences[0]
    assert lead.startswith("ce, trained without a teacher's help, leads with")
    assert lead.endswith("every other method is told apart from it.")


def test_a_baseline_that_is_ahead_with_one_seed(world):
    lead = answered(world.method("ce", [75.0]).method("kd", [71.0]).analyse()).sentences[0]
    assert "the highest is ce, trained without a teacher's help, 75.00 % (1 seed), " in lead


def test_many_methods_are_counted(many):
    lead = answered(many).sentences[0]
    assert " more are not told apart from it." in lead
    assert len(lead) < 600


def test_unknown_cost_is_said(small):
    for path in small.root.rglob("run.json"):
        path.write_text(path.read_text(encoding="utf-8").replace('"flops"', '"none"'), encoding="utf-8")
    sentences = answered(small.analyse()).sentences
    assert "TFLOPs" not in sentences[0]
    assert sentences[1] == "What it cost in FLOPs no finished run tells."


@pytest.mark.parametrize(
    ("rope", "names"), [(0.0, ["cheap", "mid", "high", "top"]), (0.5, ["cheap", "high"]), (10.0, ["cheap"])]
)
def test_dearer_methods_must_add_more_than_makes_no_difference(rope, names):
    methods = [("top", 74.2, 9.0), ("high", 74.0, 5.0), ("mid", 70.3, 2.0), ("cheap", 70.0, 1.0), ("bad", 69.0, 3.0)]
    found = frontier([Contender(*one) for one in methods], rope)
    assert [one.name for one in found] == names


@pytest.fixture
def several(world):
    """Four pairs; `part` is on one of them, `x` leads on all, `y` nearly everywhere."""
    generator = np.random.default_rng(0)
    for number in range(4):
        world.pair, world.student = f"big--small{number}", f"small{number}"
        level = 60.0 + 5 * number
        world.teachers(range(3))
        for name, gain, seconds in (("ce", 0.0, 10.0), ("kd", 2.0, 20.0), ("y", 3.4, 30.0), ("x", 3.5, 90.0)):
            world.method(name, (level + gain + 0.2 * generator.standard_normal(3)).tolist(), seconds)
        if number == 2:
            world.method("part", [99.0, 99.1, 99.2])
    return world.analyse()


def test_several_pairs_have_one_answer_and_each_its_own(several):
    found = answered(several)
    lead, compute = found.sentences
    assert lead.startswith("Over 4 combinations of data set, teachers and student x leads with a mean of 7")
    assert "points over kd [+1." in lead
    assert "ahead in 100% of the pairs of runs of a seed" in lead
    others = "of the 3 others, compared all at once,"
    assert lead.endswith(
        f"times ce's); on these {others} y is not told apart from it; by mean ranks, which speak of other combinations "
        f"too and must lie 2.3 apart, {others} y and kd are not told apart from it."
    )
    assert compute.startswith("For the compute, ce (")
    assert " and y (" in compute
    assert [part.pair for part in found.parts] == [f"big--small{number}" for number in range(4)]
    assert all(part.sentences[0].split(" leads with")[0] in {"x", "y", "part"} for part in found.parts)


def test_the_table_of_all_pairs_names_what_it_leaves_out(several):
    sources = sources_of(several)
    section = across_section(sources, build_sections(sources))
    assert [row.cells["method"] for row in section.rows] == ["x", "y", "kd", "ce"]
    assert [row.bold for row in section.rows] == [True, True, False, False]
    assert "for want of results on all combinations: part." in section.caption
    assert "p_kd" not in section.columns, "four combinations give no p below 0.125"
    assert section.rows[0].cells["flops"] == "190 T"


def test_answer_md_is_what_a_terminal_shows(several):
    folder = several.root / "tables"
    write_tables(several.runs_csv, several.statistics, folder, several.report, several.cards, several.meta)
    answer = (folder / "answer.md").read_text(encoding="utf-8")
    assert "| Method | Mean (%) | IQM (%) | Mean rank |" in answer
    assert answer.count("\n## ") == 5
    lines = in_terminal(answer, "results/unit_test/report.html")
    assert lines == [*answered(several).sentences, "The page: results/unit_test/report.html"]


def test_pairs_without_common_methods_stand_by_themselves(world):
    world.method("ce", [70.0, 71.0])
    world.pair = "big--other"
    found = answered(world.method("kd", [60.0, 61.0]).analyse())
    assert found.sentences[0].startswith("Fewer than two methods have results on two of the 2 combinations")
    assert [part.sentences[0].split(",")[0] for part in found.parts] == ["Only ce", "Only kd has a result"]


def test_one_seed_of_several_pairs_is_told_first(world):
    for number in range(3):
        world.pair, world.student = f"big--small{number}", f"small{number}"
        world.teachers([0]).method("ce", [70.0 + number]).method("kd", [72.0 + number])
    lead = answered(world.analyse()).sentences[0]
    assert lead.startswith(
        "With one seed of each, what of this another seed would repeat is not known. Over 3 combinations of data set"
    )


def test_ranks_that_cannot_lie_far_enough_apart_say_so(world):
    for number in range(2):
        world.pair, world.student = f"big--small{number}", f"small{number}"
        world.teachers(range(2)).method("ce", [70.0, 70.1]).method("kd", [72.0, 72.1]).method("x", [73.0, 73.2])
    lead = answered(world.analyse()).sentences[0]
    assert "which speak of other combinations too and would have to lie 2.3 apart and can lie 2 apart at most" in lead
    sources = sources_of(world)
    assert "(Nemenyi, 95%; no ranks can lie so far apart" in across_section(sources, build_sections(sources)).caption


def test_a_pair_whose_runs_all_failed_is_named_with_a_reason(world):
    for number in range(3):
        world.pair, world.student = f"big--small{number}", f"small{number}"
        broken = {0, 1} if number == 1 else ()
        scores = (lambda *values: [None, None]) if broken else (lambda *values: list(values))
        world.teachers(range(2)).method("ce", scores(70.0, 71.0), broken=broken)
        world.method("kd", scores(72.0, 72.5), broken=broken)
    found = answered(world.analyse())
    empty, lost = found.sentences[2:]
    assert empty == ("Of the 3 combinations, toy: big--small1 has no result at all, and nothing here speaks of that.")
    assert lost.startswith(
        "Without result: ce (2 of 6 runs) and kd (2 of 6 runs); 4 failed for this reason: loss became"
    )
    assert found.parts[1].sentences[0] == "No run has a result, so that there is nothing to compare."
    assert found.parts[1].sentences[1].startswith("Without result: ce (2 of 2 runs) and kd (2 of 2 runs); 4 failed")


def captions(world) -> list[str]:
    return [section.caption for section in build_sections(sources_of(world.analyse()))]


def test_captions_of_little_say_nothing_of_intervals_or_bold(world):
    world.teachers([0]).method("ce", [70.0]).method("kd", [72.0])
    (caption,) = captions(world)
    assert "intervals include" not in caption
    assert "Nothing is bold" in caption
    world.runs.clear()
    (alone,) = captions(world.method("kd", [72.0, 73.0]))
    assert "old" not in alone.split("Methods are sorted")[1].split("Times,")[0], "neither bold nor nothing bold"


def test_a_reference_without_a_result_is_told(world):
    world.teachers(range(2)).method("ce", [70.0, 71.0]).method("kd", [None, None], broken={0, 1}).method(
        "x", [73.0, 73.5]
    )
    (caption,) = captions(world)
    assert "No run of kd has a result, so that no difference to it is known." in caption


def test_a_report_of_its_own_is_followed(small):
    small.report = Reporting(rope=0.0, detect=0.5, confidence=0.9, references=["ce"])
    answer = answered(small.analyse())
    assert "over kd" not in answer.sentences[0]
    assert "no other method reached more for as few FLOPs" in answer.sentences[1]
    assert "Beside ce, by each 90% interval: better: crd, kd_t8 and kd;" in answer.parts[0].details[0]
    assert "tell 0.5 points from none" in answer.parts[0].details[0]
