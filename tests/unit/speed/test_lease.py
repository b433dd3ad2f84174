"""A training in leases: it ends in time, loses no finished epoch, and ends as one that was never interrupted."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from kd.models.weights import read_state
from kd.schema.cards import CARD_FOLDER
from kd.schema.reading import read_configuration
from kd.speed import lease
from kd.speed.lease import Lease, LeaseEnds, Watch, at_latest, pair_of, rows_of
from kd.tools.errors import UserError

SMALL = {
    "experiment": "small",
    "datasets": {"digits": {"source": "digits", "validation": 0.2, "subset_size": 60}},
    "pairs": [{"teachers": ["resnet56"], "student": "resnet20"}],
    "methods": ["kd", {"method": "ft", "paraphraser_epochs": 1}, {"method": "ab", "init_epochs": 1}],
    "co_train": ["kd", "ft", "ab"],
    "seeds": [0],
    "recipe": {"epochs": 2, "batch_size": 32, "precision": "fp32", "kernels": "torch"},
}
LATER = 1e9
"""Seconds that no test takes."""


class Clock:
    """Time that goes on by a step at each look."""

    def __init__(self, step: float) -> None:
        self.now, self.step = -step, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def begun(watch, epoch, students):
    """Return whether the epoch after the one that students tell of is begun."""
    try:
        for _ in range(students):
            watch({"epoch": epoch})
    except LeaseEnds:
        return False
    return True


def test_an_epoch_is_begun_only_where_it_will_end_in_time():
    watch = Watch(ends=35.0, lengths=[9, 9], clock=Clock(10.0))
    assert [begun(watch, epoch, 2) for epoch in (1, 2, 3)] == [True, True, False]


def test_the_end_comes_once_every_student_has_told_of_the_epoch():
    watch = Watch(ends=5.0, lengths=[9, 9], clock=Clock(10.0))
    assert begun(watch, 1, 1)
    assert not begun(watch, 1, 1)


def test_a_student_that_failed_or_is_done_is_not_waited_for():
    watch = Watch(ends=25.0, lengths=[9, 9, 2], clock=Clock(10.0))
    assert begun(watch, 1, 3)
    assert begun(watch, 2, 2), "one has failed, which nobody knows yet"
    watch = Watch(ends=15.0, lengths=[9, 9, 2], clock=Clock(10.0)).begun_with([2, 2, 2])
    assert not begun(watch, 3, 2)


def test_nothing_ends_after_the_last_epoch():
    assert begun(Watch(ends=0.0, lengths=[2], clock=Clock(10.0)).begun_with([1]), 2, 1)


def test_the_lease_ends_in_the_middle_of_an_epoch_if_need_be():
    began = time.monotonic()
    with pytest.raises(LeaseEnds), at_latest(began + 0.05):
        time.sleep(20)
    assert time.monotonic() - began < 10


def trained(folder, monkeypatch, leases):
    """Train in a folder in so many leases, each but the last of one epoch of the students, and return the last."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    for left in reversed(range(leases)):
        with monkeypatch.context() as patch:
            if left:

                class Short(Watch):
                    def __call__(self, row):
                        self._ends = 0.0 if len(self._lengths) > 1 else LATER * 2
                        super().__call__(row)

                patch.setattr(lease, "Watch", Short)
            found = Lease(pair_of(SMALL, "resnet14", "resnet8"), time.monotonic() + 600)
            assert found.run() == (left == 0)
    return found


def test_leases_end_with_the_weights_of_one_training(tmp_path, monkeypatch):
    weights, tables = [], []
    for leases in (1, 2):
        last = trained(tmp_path / f"{leases}", monkeypatch, leases)
        jobs = [job for bundle in last.bundles() for job in bundle]
        assert [len(rows_of(job)) for job in jobs] == [2, 2, 3]
        weights.append([read_state(f"{job.folder}/checkpoints/last.safetensors")[0] for job in jobs])
        tables.append(last.table())
    assert all((one[name] == other[name]).all() for one, other in zip(*weights, strict=True) for name in one), (
        "an interrupted training ends bit-identical"
    )
    assert tables[0] == tables[1]


def test_the_table_has_published_numbers_and_what_an_unfinished_lease_reached(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = read_configuration(CARD_FOLDER.parent / "experiments" / "cifar100_table.yaml")
    header, *lines = Lease(pair_of(content, "resnet56", "resnet20", ["fsp"]), LATER).table().splitlines()
    assert "published" in header
    assert len(lines) == len(content["methods"]) - 1
    (kd,) = (line.split() for line in lines if line.startswith("kd "))
    assert kd[1:4] == ["0", "–", "–"]
    assert "70.66" in kd, "Tian et al. 2020, table 1"


def test_a_method_to_leave_out_must_be_one_of_the_experiment():
    with pytest.raises(UserError, match="--without fpp: no such method, allowed are kd, ft, ab"):
        pair_of(SMALL, "resnet14", "resnet8", ["fpp"])


def test_a_lease_imports_nothing_that_a_bare_machine_lacks():
    heavy = ["snakemake", "pandas", "matplotlib", "timm", "torchvision", "scipy", "sklearn", "PIL", "jinja2"]
    code = f"import sys, kd.speed.lease; print([name for name in {heavy} if name in sys.modules])"
    library = Path(lease.__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=library, capture_output=True, encoding="utf-8", check=True)
    assert found.stdout.strip() == "[]"
