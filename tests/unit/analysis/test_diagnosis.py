"""What the seeds say of a synergy together: intervals, differences paired by seed, how often it held."""

import numpy as np
import pytest
from half_stages import chain_of, leave, row
from scipy import stats

from kd.analysis.diagnosis import outcomes, source_records
from kd.analysis.synergy import gather_synergy
from kd.schema.config import Reporting
from kd.study.designs import Design

DESIGN = Design(kind="synergy", dataset="toy", folder="big+wide--small", points=[], chains=["late", "asib"])


@pytest.fixture
def told(tmp_path):
    """Three finished seeds of one chain, two of another whose third failed."""
    rows = []
    for method, seeds, quality in (("asib", 3, 0.5), ("late", 2, 0.0)):
        for seed in range(seeds):
            folder = tmp_path / method / str(seed)
            folder.mkdir(parents=True)
            leave(folder, chain_of(seed, quality=quality))
            rows.append(row(folder, method=method, seed=seed))
    rows.append(row(tmp_path / "late" / "2", method="late", seed=2, status="failed"))
    found = gather_synergy(rows, DESIGN.chains, 4.0)
    return rows, found, source_records(found, rows, DESIGN, Reporting())


def values(found, **place):
    return [one.numbers for one in found if all(getattr(one, key) == value for key, value in place.items())]


def test_records_stand_in_the_order_of_the_chains_images_and_half_stages(told):
    _, _, records = told
    assert list(dict.fromkeys((one.method, one.split) for one in records)) == [
        *[("late", "val"), ("late", "train"), ("asib", "val"), ("asib", "train")]
    ]
    places = [(one.stage, one.half) for one in records if (one.method, one.split) == ("asib", "val")]
    assert list(dict.fromkeys(places)) == [
        (0, "given"),
        *[(1, "teacher_update"), (1, "student_update"), (2, "teacher_update"), (2, "student_update")],
    ]


def test_means_and_differences_have_the_t_intervals_of_scipy(told):
    _, found, records = told
    place = {"method": "asib", "split": "val", "stage": 2, "half": "teacher_update", "what": "synergy"}
    (synergy,) = [one for one in records if all(getattr(one, key) == value for key, value in place.items())]
    for measure in ("top1", "nll", "off_label"):
        own = np.array([one[measure] for one in values(found, **place)])
        bar = np.array([one[measure] for one in values(found, method="asib", split="val", what="bar")])
        mean, paired = synergy.means[measure], synergy.differences[measure]
        assert (mean.mean, mean.values) == (pytest.approx(own.mean()), own.tolist())
        low, high = stats.t.interval(0.95, 2, (own - bar).mean(), stats.sem(own - bar))
        assert (paired.mean, paired.low, paired.high) == pytest.approx(((own - bar).mean(), low, high))
        assert paired.seeds == [0, 1, 2]
    assert "correlation" in synergy.means
    assert "correlation" not in synergy.differences, "the average is like nothing but itself"


def test_seeds_that_failed_are_planned_and_not_told_of(told):
    _, _, records = told
    late = [one for one in records if one.method == "late"]
    assert {(one.n_planned, tuple(one.seeds)) for one in late} == {(3, (0, 1))}


def test_an_outcome_is_the_last_stages_target_and_counts_where_it_held(told):
    _, found, records = told
    (asib,) = [one for one in outcomes(records) if (one.last.method, one.last.split) == ("asib", "train")]
    assert (asib.last.stage, asib.last.half, asib.last.what) == (2, "teacher_update", "synergy")
    bar = {one.seed: one.numbers["top1"] for one in found if (one.method, one.split, one.what) == BAR}
    place = {"method": "asib", "split": "train", "half": "teacher_update", "what": "synergy"}
    targets = [one for one in found if all(getattr(one, key) == value for key, value in place.items())]
    held = [one.numbers["top1"] >= bar[one.seed] for one in targets]
    assert (asib.held, asib.of) == (sum(held), 6)
    assert sum(held) > 0
    means = [one["off_label"] for one in values(found, method="asib", split="train", what="bar")]
    assert asib.bar.value("off_label") == pytest.approx(np.mean(means))


BAR = ("asib", "train", "bar")


def test_one_seed_has_numbers_and_no_intervals(tmp_path):
    leave(tmp_path, chain_of(0))
    rows = [row(tmp_path)]
    records = source_records(gather_synergy(rows, ["asib"], 4.0), rows, DESIGN, Reporting())
    assert {one.differences["top1"].low for one in records if one.differences.get("top1")} == {None}
    assert {one.of for one in outcomes(records)} == {2}


def test_nothing_finished_says_nothing():
    assert source_records([], [], DESIGN, Reporting()) == []
    assert outcomes([]) == []
