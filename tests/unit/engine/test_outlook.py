"""What the check foretells of costs is what trainings then count."""

import json
from pathlib import Path

import pytest
import torch
from packed_noise import pack_noise

from kd.continual.rehearsal import ContinualRehearsal
from kd.engine.jobs.files import Files
from kd.engine.jobs.student import train_student
from kd.engine.outlook import Probe
from kd.study.checks import cost_key, parse_checks
from kd.study.experiment import check_experiment
from kd.study.forecast import START_SECONDS, Forecast
from kd.study.job_settings import parse_settings
from kd.study.jobs import Jobs
from kd.study.plan import Plan
from kd.tools.files import read_json, write_json

CONTENT = {
    "experiment": "unit",
    "datasets": {"noise": {"source": "imagefolder", "root": ".", "validation": 0.25}},
    "pairs": [{"teachers": ["resnet14", "wrn_16_1"], "student": "resnet8"}],
    "methods": [
        *("ce", "kd", "dml", "at", {"method": "hint", "two_stage": True, "hint_epochs": 1}),
        {"method": "kd", "name": "twice", "recipe": {"epochs": 4}},
        {"method": "asib", "num_stages": 2},
        {"method": "ce", "name": "ce_of_kd", "compute_of": "kd"},
        {"method": "kd", "name": "kd_of_asib", "compute_of": "asib"},
        {"method": "ft", "paraphraser_epochs": 1, "matched": True},
    ],
    "continual": {"student": "vgg8", "num_tasks": 2, "strategies": [{"name": "plain"}]},  # no other training has it
    "seeds": [0],
    "recipe": {"epochs": 2, "batch_size": 8, "precision": "fp32"},
}


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """The jobs of an experiment whose check was made."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("outlook")
        patch.chdir(folder)
        torch.set_num_threads(1)
        plan = Plan(check_experiment(CONTENT))
        pack_noise(folder / "results" / "unit" / "noise" / "data")
        jobs = Jobs(plan)
        rehearsal = ContinualRehearsal(parse_checks(json.loads(jobs.of("check_pairs").settings)), Probe(timed=True))
        assert rehearsal.run() == []
        write_json(f"{plan.folder}/checked.json", {"costs": rehearsal.costs()})
        yield jobs


def of(jobs: Jobs, method: str):
    return jobs.of("train_student", next(run for run in jobs.plan.runs if run.method == method))


def test_every_training_has_a_cost_in_operations_and_seconds(known):
    forecast = Forecast(known)
    trainings = [of(known, run.method) for run in known.plan.runs if run.method != "asib"]
    trainings += [
        known.of("train_teacher", "noise", "resnet14", 0),
        known.of("continual_run", known.plan.continual.runs[0]),
    ]
    asib = next(run for run in known.plan.runs if run.method == "asib")
    trainings += [known.of(f"asib_{half}_update", asib, 2) for half in ("teacher", "student")]
    for job in trainings:
        assert forecast.flops(job) > 0, job.title
        assert forecast.seconds(job) > 0, job.title


def test_costs_grow_with_epochs_and_with_what_runs(known):
    flops = {method: Forecast(known).flops(of(known, method)) for method in ("ce", "kd", "twice", "dml", "hint")}
    assert flops["twice"] == pytest.approx(2 * flops["kd"])
    assert flops["ce"] < flops["kd"] < flops["dml"]
    assert flops["hint"] > 1.4 * flops["kd"], "a stage of one epoch before the recipe's two"


def test_one_of_anothers_compute_costs_what_that_one_and_all_made_for_it_do(known):
    """Its teachers' training, which it waits for too and which may cost more, is not counted."""
    forecast = Forecast(known)
    flops = {method: forecast.flops(of(known, method)) for method in ("ce", "kd", "ft")}
    assert forecast.flops(known.of("train_teacher", "noise", "resnet14", 0)) > flops["kd"]
    assert forecast.flops(of(known, "ce_of_kd")) == pytest.approx(flops["kd"])
    run = next(run for run in known.plan.runs if run.method == "asib")
    halves = [known.of(f"asib_{half}_update", run, stage) for stage in (1, 2) for half in ("teacher", "student")]
    assert forecast.flops(of(known, "kd_of_asib")) == pytest.approx(sum(map(forecast.flops, halves)))
    (before,) = [job for job in of(known, "ft").after if job.rule == "pretrain_method"]
    assert forecast.flops(of(known, "ft_matched")) == pytest.approx(flops["ft"] + forecast.flops(before))
    # in seconds as fast as it goes itself, not as fast as what it is matched with
    beside = [forecast.seconds(of(known, method)) - START_SECONDS for method in ("ce_of_kd", "ce")]
    assert beside[0] / beside[1] == pytest.approx(flops["kd"] / flops["ce"], rel=1e-6)


def test_no_seed_changes_a_cost():
    told = {"recipe": {"epochs": 1}, "seed": 3, "split_seed": 4}
    assert cost_key(told) == cost_key({**told, "seed": 5, "split_seed": 6})
    assert cost_key(told) != cost_key({**told, "recipe": {"epochs": 2}})


@pytest.mark.parametrize("method", ["ce", "dml"])
def test_operations_foretold_are_those_that_the_training_counts(known, tmp_path, method):
    job = of(known, method)
    files = Files(Path(known.plan.folder, "noise", "data"), tmp_path / "run")
    train_student(parse_settings(job.settings), files, lambda row: None)
    assert Forecast(known).flops(job) == pytest.approx(
        read_json(tmp_path / "run" / "run.json")["flops"]["train"], rel=0.02
    )


def test_what_is_not_to_be_timed_is_counted_only(known):
    checks = [
        check for check in parse_checks(json.loads(known.of("check_pairs").settings)) if "methods.kd" in check.name
    ]
    for check in checks:
        check.taught_by.clear()
        check.settings["teachers"] = []
        check.settings["method"] = [{"card": "ce", "settings": {"ce_weight": 1.0}}]
    rehearsal = ContinualRehearsal(checks, Probe(timed=False))
    assert rehearsal.run() == []
    (network,) = rehearsal.costs()["networks"]
    assert network["seconds"] == {}
    assert network["flops"]["trained"] > 2 * network["flops"]["frozen"] > 0
