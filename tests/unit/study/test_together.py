"""Which students share a job: every co-trained run is in one, no larger than asked, and seeds only where they may."""

import pytest

from kd.study.experiment import check_experiment
from kd.study.plan import Plan
from kd.study.together import Together, evenly, together
from kd.tools.errors import UserError

METHODS = ["kd", "hint", "at", "crd", "sp"]
BASE = {
    "experiment": "unit",
    "datasets": {"digits": {"source": "digits"}},
    "pairs": [{"teachers": ["resnet20"], "student": "resnet8"}],
    "methods": ["ce", *METHODS],
    "seeds": [0, 3, 5],
    "recipe": {"epochs": 1},
}


def experiment(**changes):
    return check_experiment({**BASE, **changes})


SHARED = {
    "none": ({}, []),
    "a job a seed": ({"co_train": METHODS}, [Together(tuple(METHODS))]),
    "as many as there are": ({"co_train": METHODS, "students_per_job": 5}, [Together(tuple(METHODS))]),
    "fewer": (
        {"co_train": METHODS, "students_per_job": 4},
        [Together(("kd", "hint")), Together(("at", "crd", "sp"))],
    ),
    "fewer, one teacher for all seeds": (
        {"co_train": METHODS, "students_per_job": 3, "teacher_seed": 0},
        [Together(("kd", "hint")), Together(("at", "crd", "sp"))],
    ),
    "not all of a second seed": (
        {"co_train": METHODS, "students_per_job": 9, "teacher_seed": 0},
        [Together(tuple(METHODS))],
    ),
    "two seeds": (
        {"co_train": METHODS, "students_per_job": 10, "teacher_seed": 0},
        [Together(tuple(METHODS), (0,)), Together(tuple(METHODS), (3, 5))],
    ),
    "all seeds": (
        {"co_train": METHODS, "students_per_job": 15, "teacher_seed": 0},
        [Together(tuple(METHODS), (0, 3, 5))],
    ),
    "seeds of one method": (
        {"co_train": ["kd"], "students_per_job": 8, "teacher_seed": 0},
        [Together(("kd",), (0, 3, 5))],
    ),
    "each seed its own teacher": ({"co_train": METHODS, "students_per_job": 15}, [Together(tuple(METHODS))]),
    "one seed": (
        {"co_train": METHODS, "students_per_job": 15, "teacher_seed": 0, "seeds": [4]},
        [Together(tuple(METHODS))],
    ),
}


@pytest.mark.parametrize(("changes", "expected"), SHARED.values(), ids=SHARED)
def test_methods_of_a_seed_come_first_and_whole_seeds_after_them(changes, expected):
    assert together(experiment(**changes)) == expected


@pytest.mark.parametrize("teacher_seed", ["same", 0])
@pytest.mark.parametrize("most", [None, 2, 3, 4, 5, 6, 9, 10, 14, 15, 1000])
@pytest.mark.parametrize("methods", [METHODS[:2], METHODS])
def test_every_run_is_in_one_job_and_no_job_is_larger_than_asked(methods, most, teacher_seed):
    asked = experiment(co_train=methods, students_per_job=most, teacher_seed=teacher_seed)
    runs = [run for run in Plan(asked).runs if run.method in methods]
    jobs = set()
    for run in runs:
        (shared,) = [one for one in together(asked) if one.holds(run)]
        together_with = shared.runs(run)
        assert run in together_with
        assert len(together_with) <= (most or len(methods))
        jobs.add(tuple(together_with))
    assert sorted(run.path for job in jobs for run in job) == sorted(run.path for run in runs)
    assert teacher_seed == 0 or all(len({run.seed for run in job}) == 1 for job in jobs)


@pytest.mark.parametrize("length", range(1, 12))
@pytest.mark.parametrize("most", range(1, 13))
def test_parts_differ_in_length_by_one_at_most(length, most):
    parts = list(evenly(range(length), most))
    sizes = [len(part) for part in parts]
    assert [item for part in parts for item in part] == list(range(length))
    assert len(parts) == -(-length // most)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("changes", [{}, {"students_per_job": 8}, {"teacher_seed": 0}])
def test_one_method_alone_shares_nothing_without_both_keys(changes):
    with pytest.raises(UserError, match=r"co_train names two methods or more.*students_per_job"):
        experiment(co_train=["kd"], **changes)
