"""What half-stages of a chain say of their sources: by hand, and what a damaged folder costs."""

import json

import numpy as np
import pytest
from half_stages import CHAIN, chain_of, leave, row
from scipy import special, stats

from kd.analysis.synergy import COLUMNS, gather_synergy, read_synergy, write_synergy
from kd.tools.errors import UserError

LABELS = np.array([0, 1])
FIRST = np.log([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]])
SECOND = np.log([[0.2, 0.7, 0.1], [0.1, 0.8, 0.1]])
FUSED = np.log([[0.5, 0.2, 0.3], [0.6, 0.3, 0.1]])
LEARNER = np.log([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
NOTHING = np.zeros((0, 3))


def splits(**logits):
    return {"train": ([], dict.fromkeys(logits, NOTHING)), "val": (LABELS, logits)}


@pytest.fixture
def by_hand(tmp_path):
    """One stage; the teachers' half turns the second teacher round. There are no training images."""
    own = {"student": LEARNER, "teacher0": FIRST, "teacher1": -SECOND, "synergy": FUSED}
    leave(
        tmp_path,
        {
            (1, "teacher_update"): splits(**own, given0=FIRST, given1=SECOND),
            (1, "student_update"): splits(**{**own, "synergy": LEARNER}),
        },
    )
    return {(one.stage, one.half, one.what, one.source): one for one in gather_synergy([row(tmp_path)], ["asib"], 2.0)}


def test_every_source_of_every_half_is_told_of_once(by_hand):
    assert list(by_hand) == [
        (0, "given", "teacher", "big"),
        (0, "given", "teacher", "wide"),
        (0, "given", "pair", "big and wide"),
        (0, "given", "bar", "average"),
        (0, "given", "certainty", "certainty"),
        (1, "teacher_update", "teacher", "big"),
        (1, "teacher_update", "teacher", "wide"),
        (1, "teacher_update", "pair", "big and wide"),
        (1, "teacher_update", "average", "average"),
        (1, "teacher_update", "certainty", "certainty"),
        (1, "teacher_update", "synergy", "synergy"),
        (1, "student_update", "synergy", "synergy"),
        (1, "student_update", "student", "student"),
    ]
    assert {one.split for one in by_hand.values()} == {"val"}, "a split without images is left out"


def test_the_average_is_the_geometric_mean_of_the_teachers_as_given(by_hand):
    mean = np.sqrt(np.exp(FIRST) * np.exp(SECOND))
    mean /= mean.sum(axis=1, keepdims=True)
    found = by_hand[0, "given", "bar", "average"].numbers
    right = mean[[0, 1], LABELS]
    softened = np.sqrt(mean) / np.sqrt(mean).sum(axis=1, keepdims=True)
    assert found["top1"] == 50.0, "the first image is mistaken"
    assert found["nll"] == pytest.approx(-np.log(right).mean())
    assert found["ece"] == pytest.approx((abs(0 - mean[0].max()) + abs(1 - mean[1].max())) / 2)
    assert found["entropy"] == pytest.approx(stats.entropy(mean, axis=1).mean())
    assert found["target_entropy"] == pytest.approx(stats.entropy(softened, axis=1).mean())
    assert found["off_label"] == pytest.approx(100 - 100 * softened[[0, 1], LABELS].mean())
    assert found["agreement"] is None
    assert found["correlation"] is None


def test_likeness_is_to_the_average_as_given_and_of_a_pair_to_each_other(by_hand):
    bar = (FIRST + SECOND) / 2
    synergy = by_hand[1, "teacher_update", "synergy", "synergy"].numbers
    assert synergy["top1"] == 50.0
    assert synergy["agreement"] == 0.0, "0 for 1 and 0 for 1"
    others = [(FUSED[0, 1:], bar[0, 1:]), (FUSED[1, [0, 2]], bar[1, [0, 2]])]
    assert synergy["correlation"] == pytest.approx(np.mean([stats.pearsonr(*pair).statistic for pair in others]))
    turned = by_hand[1, "teacher_update", "average", "average"].numbers
    moved = [((FIRST - SECOND)[0, 1:], bar[0, 1:]), ((FIRST - SECOND)[1, [0, 2]], bar[1, [0, 2]])]
    assert turned["correlation"] == pytest.approx(np.mean([stats.pearsonr(*pair).statistic for pair in moved]))
    pair = by_hand[0, "given", "pair", "big and wide"].numbers
    assert (pair["agreement"], pair["top1"], pair["nll"]) == (50.0, None, None)


def test_the_certainty_weighted_average_leans_to_the_surer_teacher(by_hand):
    entropies = [stats.entropy(np.exp(one), axis=1) for one in (FIRST, SECOND)]
    shares = np.stack([entropies[1], entropies[0]]) / sum(entropies)
    weighted = shares[0][:, None] * FIRST + shares[1][:, None] * SECOND
    found = by_hand[0, "given", "certainty", "certainty"].numbers
    assert found["nll"] == pytest.approx(-special.log_softmax(weighted, axis=1)[[0, 1], LABELS].mean())


def test_one_teacher_is_the_bar_itself(tmp_path):
    leave(tmp_path, chain_of(0, teachers=1))
    found = gather_synergy([row(tmp_path, teachers="big")], ["asib"], 4.0)
    assert {one.what for one in found} == {"bar", "teacher", "synergy", "student"}
    (bar,) = [one for one in found if (one.what, one.split) == ("bar", "val")]
    assert (bar.stage, bar.source) == (0, "big")


def test_the_file_is_read_back_as_it_was_written(tmp_path):
    leave(tmp_path, chain_of(0))
    found = gather_synergy([row(tmp_path)], ["asib"], 4.0)
    write_synergy(found, tmp_path / "synergy.csv")
    assert read_synergy(tmp_path / "synergy.csv") == found
    assert len(found) == 2 * (5 + 2 * (6 + 2))
    header = (tmp_path / "synergy.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.split(",") == COLUMNS


def test_other_methods_and_runs_without_result_are_none_of_it(tmp_path):
    leave(tmp_path, chain_of(0))
    rows = [row(tmp_path, method="kd"), row(tmp_path, status="failed"), row(tmp_path, kind="link")]
    assert gather_synergy(rows, ["asib"], 4.0) == []


def without(name):
    def damage(folder):
        halves = chain_of(0)
        halves[CHAIN[0]]["val"][1].pop(name)
        halves[CHAIN[0]]["train"][1].pop(name)
        leave(folder, halves)

    return damage


def fewer_images(folder):
    halves = chain_of(0)
    halves[CHAIN[2]] = chain_of(0, images=59)[CHAIN[2]]
    leave(folder, halves)


def no_numbers(folder):
    halves = chain_of(0)
    halves[CHAIN[3]]["val"][1]["synergy"][4, 2] = np.nan
    leave(folder, halves)


def cut(folder):
    path = folder / "stage1" / "teacher_update" / "predictions.npz"
    path.write_bytes(path.read_bytes()[:-200])


def text(folder):
    (folder / "stage1" / "teacher_update" / "predictions.npz").write_text("no archive", encoding="utf-8")


def gone(folder):
    (folder / "stage2" / "teacher_update" / "predictions.npz").unlink()


def unlisted(folder):
    (folder / "run.json").write_text(json.dumps({"status": "ok"}), encoding="utf-8")


def other_arrays(folder):
    np.savez(folder / "stage1" / "teacher_update" / "predictions.npz", labels=LABELS)


DAMAGE = {
    "no synergy": (without("synergy"), "it lacks synergy"),
    "no teacher": (without("teacher1"), "it lacks teacher1"),
    "not as given": (without("given0"), "it lacks given0"),
    "fewer images": (fewer_images, "not to the images of the half-stages before"),
    "no numbers": (no_numbers, "logits that are no numbers"),
    "cut": (cut, "predictions.npz"),
    "text": (text, "predictions.npz"),
    "gone": (gone, "does not exist"),
    "no list": (unlisted, "it lists no half-stages"),
    "other arrays": (other_arrays, "no predictions of a half-stage"),
}


@pytest.mark.parametrize(("damage", "sentence"), DAMAGE.values(), ids=DAMAGE)
def test_a_run_that_cannot_be_read_is_left_out_and_the_log_says_why(tmp_path, caplog, damage, sentence):
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        leave(tmp_path / str(seed), chain_of(seed))
    damage(tmp_path / "0")
    found = gather_synergy([row(tmp_path / str(seed), seed=seed) for seed in (0, 1)], ["asib"], 4.0)
    assert {one.seed for one in found} == {1}
    (record,) = caplog.records
    assert sentence in record.getMessage()
    assert record.getMessage().endswith("the diagnosis leaves out seed 0 of asib")
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize("content", ["", "dataset,pair\na,b\n", None], ids=["empty", "other columns", "no file"])
def test_a_table_that_the_workflow_did_not_write_is_refused(tmp_path, content):
    path = tmp_path / "synergy.csv"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"synergy\.csv"):
        read_synergy(path)
