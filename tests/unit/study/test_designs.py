"""Teachers of a share of the classes, and the analysis of an experiment: plan, staleness, refusals."""

import pytest
from told import taught_from, told, told_of_teacher

from kd.study.experiment import check_experiment
from kd.study.plan import Plan
from kd.study.runs import Teacher
from kd.tools.errors import UserError

ASIB = {"method": "asib", "num_stages": 1}


def share(overlap, side):
    return {"arch": "resnet14", "classes": {"overlap": overlap, "side": side}}


def content(analysis=None, **changes):
    base = {
        "experiment": "unit",
        "datasets": {"digits": {"source": "digits"}},
        "models": {
            **{"a_0": share(0.0, "first"), "b_0": share(0, "second")},
            **{"a_50": share(0.5, "first"), "b_50": share(0.5, "second")},
        },
        "pairs": [
            {"teachers": ["resnet20", "wrn_16_1"], "student": "resnet8"},
            {"teachers": ["a_50", "b_50"], "student": "resnet8"},
            {"teachers": ["a_0", "b_0"], "student": "resnet8"},
        ],
        "methods": ["ce", "avg_kd", {**ASIB, "ib_beta": 0.0}, {**ASIB, "name": "asib_2", "ib_beta": 0.01}],
        "seeds": [0, 1],
        "recipe": {"epochs": 4},
    }
    report = {"report": {"references": ["ce"], "analysis": analysis}} if analysis else {}
    return {**base, **report, **changes}


def plan_of(analysis=None, **changes):
    return Plan(check_experiment(content(analysis, **changes)))


SYNERGY = {"kind": "synergy", "variants": ["asib"]}
OVERLAP = {"kind": "overlap", "variants": ["avg_kd", "asib", "ce"]}


def test_another_class_set_makes_that_teacher_stale_and_changes_no_other_job():
    models = content()["models"]
    before, after = plan_of(), plan_of(models={**models, "a_0": share(0.1, "first")})

    def settings(plan):
        jobs = {("teacher", teacher): told_of_teacher(plan, teacher) for teacher in plan.teachers}
        jobs |= {("tested", teacher): told_of_teacher(plan, teacher, "evaluate_teacher") for teacher in plan.teachers}
        for run in plan.runs:
            chain = plan.variants[run.method].chain
            jobs[run] = told(plan, "asib_teacher_update", run, 1) if chain else told(plan, "train_student", run)
            jobs["tested", run] = told(plan, "evaluate_teacher", run.dataset, run.student, run.seed)
        return jobs

    old, new = settings(before), settings(after)
    left, right, later = (Teacher(name, "digits", seed) for name, seed in (("a_0", 0), ("b_0", 0), ("a_0", 1)))
    assert {key for key in old if old[key] != new[key]} == {("teacher", left), ("teacher", later)}
    assert old["teacher", left] != old["teacher", right], "the sides differ"
    stale = [run.team for run in after.runs if any("/a_0/" in folder for folder in taught_from(after, run))]
    assert set(stale) == {"a_0+b_0--resnet8"}, "what follows reads its weights"


def test_an_overlap_is_a_line_a_method_over_the_pairs():
    (design,) = plan_of(OVERLAP).designs
    assert (design.kind, design.dataset, design.folder) == ("overlap", "digits", "overlap--resnet8")
    assert [(point.x, point.line, point.against) for point in design.points] == [
        *[(0.0, "avg_kd", None), (0.0, "asib", 0), (0.0, "ce", 0)],
        *[(50.0, "avg_kd", None), (50.0, "asib", 3), (50.0, "ce", 3)],
        *[(100.0, "avg_kd", None), (100.0, "asib", 6), (100.0, "ce", 6)],
    ]
    assert [point.pair for point in design.points[::3]] == ["a_0+b_0--resnet8", "a_50+b_50--resnet8", PLAIN]


PLAIN = "resnet20+wrn_16_1--resnet8"


@pytest.mark.parametrize(
    ("analysis", "places", "against"),
    [
        ({"kind": "factors", "variants": ["asib", "asib_2", "ce"]}, [0, 1, 2], [None, 0, 0]),
        ({"kind": "ladder", "variants": ["ce", "asib", "asib_2"]}, [0, 1, 2], [None, 0, 1]),
        ({"kind": "sweep", "setting": "ib_beta", "variants": ["asib_2", "asib"]}, [0.01, 0.0], [None, 0]),
    ],
)
def test_variants_stand_in_order_or_at_the_value_of_a_setting(analysis, places, against):
    found = plan_of(analysis).designs
    assert [design.folder for design in found] == [PLAIN, "a_50+b_50--resnet8", "a_0+b_0--resnet8"]
    assert [point.x for point in found[0].points] == places
    assert [point.against for point in found[0].points] == against
    assert {point.line for point in found[0].points} <= {"asib", "ce"}, "variants of one method are one line"


def test_a_synergy_is_told_of_beside_what_students_reached_from_the_pairs_sources():
    methods = [*content()["methods"], {"method": "kd", "name": "kd_wrn", "teacher": "wrn_16_1"}]
    pairs = [*content()["pairs"][:1], {"teachers": ["wrn_16_1", "resnet14"], "student": "resnet8"}]
    reached = {"average": "avg_kd", "wrn_16_1": "kd_wrn", "synergy": "asib_2"}
    analysis = {"kind": "synergy", "variants": ["asib", "asib_2"], "temperature": 2.0, "reached": reached}
    found = plan_of(analysis, methods=methods, pairs=pairs, models={}).designs
    assert [design.folder for design in found] == [PLAIN, "wrn_16_1+resnet14--resnet8"]
    for design in found:
        assert (design.kind, design.axis, design.chains) == ("synergy", "", ["asib", "asib_2"])
        assert [(point.line, point.method, point.against) for point in design.points] == [
            *[("average", "avg_kd", None), ("wrn_16_1", "kd_wrn", 0), ("synergy", "asib_2", 0)]
        ]


def test_a_source_that_a_pair_has_not_is_left_out_there():
    methods = [*content()["methods"], "kd"]
    analysis = {"kind": "synergy", "variants": ["asib"], "reached": {"resnet20": "kd"}}
    first, second, _ = plan_of(analysis, methods=methods).designs
    assert [point.line for point in first.points] == ["resnet20"]
    assert second.points == []
    wrong = {**analysis, "reached": {"wrn_16_1": "kd"}}
    with pytest.raises(UserError, match=r"reached.wrn_16_1: kd of pair .* learns from resnet20"):
        plan_of(wrong, methods=methods)


def test_an_analysis_changes_no_job():
    plain, analysed = plan_of(), plan_of(OVERLAP)
    assert plain.designs == []
    assert [told(plain, "train_student", run) for run in plain.runs] == [
        told(analysed, "train_student", run) for run in analysed.runs
    ]


@pytest.mark.parametrize(
    ("analysis", "sentence"),
    [
        ({"kind": "overlap", "variants": ["avg_kd", "asb"]}, "unknown method in report.analysis.variants 'asb'"),
        ({"kind": "ladder", "variants": ["ce"]}, "variants must be a list of 2 or more for kind ladder"),
        ({"kind": "synergy", "variants": []}, r"report.analysis.variants: .*a list of 1 or more"),
        ({"kind": "ladder", "variants": ["ce", "ce"]}, "variants must differ"),
        ({"kind": "ladder", "variants": ["ce", "asib"], "setting": "ib_beta"}, "setting belongs to kind sweep"),
        ({"kind": "sweep", "variants": ["asib", "asib_2"]}, "setting belongs to kind sweep, which needs it"),
        ({"kind": "sweep", "variants": ["asib", "ce"], "setting": "ib_beta"}, "unknown setting of ce .*'ib_beta'"),
        ({"kind": "sweep", "variants": ["asib", "asib_2"], "setting": "use_ib"}, "use_ib of asib must be a number"),
        ({"kind": "slope", "variants": ["asib", "ce"]}, r"report.analysis.kind: .*found 'slope'"),
        ({"kind": "synergy", "variants": ["asib", "asb"]}, "unknown method in report.analysis.variants 'asb'"),
        ({"kind": "synergy", "variants": ["asib", "asib"]}, "variants must differ"),
        ({"kind": "synergy", "variants": ["avg_kd"]}, "half-stages of asib .*, found avg_kd, which has none"),
        ({**SYNERGY, "setting": "ib_beta"}, "setting belongs to kind sweep"),
        ({**SYNERGY, "temperature": 0}, r"report.analysis.temperature: .*found 0"),
        ({**SYNERGY, "reached": ["avg_kd"]}, "report.analysis.reached"),
        ({**SYNERGY, "reached": {"averge": "avg_kd"}}, "unknown source .*'averge': did you mean 'average'"),
        ({**SYNERGY, "reached": {"average": "avgkd"}}, "unknown method in report.analysis.reached.average 'avgkd'"),
        ({**SYNERGY, "reached": {"average": "avg_kd", "certainty": "avg_kd"}}, "reached must differ"),
        (
            {**SYNERGY, "reached": {"synergy": "avg_kd"}},
            "reached.synergy: avg_kd of pair .* learns from average or certainty",
        ),
        ({**SYNERGY, "reached": {"average": "ce"}}, "reached.average: ce of pair .* learns from no teacher"),
        ({"kind": "ladder", "variants": ["ce", "asib"], "reached": {"average": "avg_kd"}}, "reached belongs to kind"),
        ({"kind": "ladder", "variants": ["ce", "asib"], "temperature": 2.0}, "temperature belongs to kind synergy"),
    ],
)
def test_what_cannot_be_shown_is_refused(analysis, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        check_experiment(content(analysis))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([["a_0", "b_0"]], "pairs of different overlaps for student resnet8, found 1 with 0"),
        ([["resnet20", "wrn_16_1"], ["resnet20", "resnet14"]], "found 2 with 1"),
        ([["a_0", "b_50"], ["a_50", "b_0"]], r"one overlap, .*found a_0\+b_50--resnet8"),
        ([["a_0", "resnet20"], ["a_50", "b_50"]], r"found a_0\+resnet20--resnet8"),
        ([["a_0", "b_0", "resnet20"], ["a_50", "b_50"]], r"found a_0\+b_0\+resnet20--resnet8"),
    ],
)
def test_an_overlap_needs_two_teachers_of_opposite_sides(pairs, sentence):
    listed = [{"teachers": teachers, "student": "resnet8"} for teachers in pairs]
    with pytest.raises(UserError, match=sentence):
        check_experiment(content(OVERLAP, pairs=listed))


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        (
            {"resnet8": {**share(0.5, "first"), "arch": "resnet8"}},
            "only a teacher learns a share of the classes, resnet8 is a student",
        ),
        ({"a_0": share(1.5, "first")}, r"models.a_0.classes.overlap: .*a number from 0 to 1, found 1.5"),
        ({"a_0": share(0.5, "left")}, r"models.a_0.classes.side: .*'first' or 'second', found 'left'"),
    ],
)
def test_wrong_shares_of_the_classes_are_told(models, sentence):
    with pytest.raises(UserError, match=sentence):
        check_experiment(content(models={**content()["models"], **models}))
