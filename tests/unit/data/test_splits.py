"""Subsets, the validation carve, class subsets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd.data.splits import _subset, class_map, classes_of, classes_taken, divide, make_split
from kd.schema.config import ClassShare, DatasetSettings, SplitRatios
from kd.tools.errors import UserError

LABELS = np.repeat(np.arange(10), 50)


def split(seed=0, labels=LABELS, own=False, **settings):
    return make_split(labels, DatasetSettings(source="digits", **settings), seed, own)


def test_validation_is_stratified_and_disjoint():
    found = split(validation=0.2)
    assert np.bincount(LABELS[found.validation]).tolist() == [10] * 10
    assert np.intersect1d(found.train, found.validation).size == 0
    assert np.array_equal(np.union1d(found.train, found.validation), np.arange(500))
    assert (np.diff(found.train) > 0).all()


def test_same_seed_same_split_other_seed_another():
    first, same, other = split(3), split(3), split(4)
    assert np.array_equal(first.validation, same.validation)
    assert not np.array_equal(first.validation, other.validation)


def test_split_is_the_same_on_every_platform():
    """Recorded once: a change here would silently change what every earlier run was trained on."""
    assert split(validation=0.02).validation.tolist() == [0, 91, 120, 150, 249, 279, 339, 370, 429, 450]


@pytest.mark.parametrize(("kind", "spread"), [("stratified", [13] * 10), ("uniform", None)])
def test_subset_size_counts_training_images_before_the_carve(kind, spread):
    found = split(subset_size=130, subset=kind, validation=0.1)
    rows = np.union1d(found.train, found.validation)
    assert len(rows) == 130
    assert len(found.validation) == 13
    counts = np.bincount(LABELS[rows]).tolist()
    assert counts == spread if spread else counts != [13] * 10


@given(st.lists(st.integers(4, 60), min_size=2, max_size=12), st.data())
def test_stratified_subsets_keep_every_class_and_their_size(counts, data):
    labels = np.repeat(np.arange(len(counts)), counts)
    size = data.draw(st.integers(len(counts), len(labels)))
    rows = _subset(labels, DatasetSettings(source="digits", subset_size=size), np.random.default_rng(0))
    assert len(np.unique(rows)) == size
    drawn = np.bincount(labels[rows], minlength=len(counts))
    assert (drawn >= 1).all()
    assert (drawn <= counts).all()
    exact = np.array(counts) * size / len(labels)
    assert (drawn - exact < 1 + 1e-9).all()


def test_classes_left_out_are_never_taken():
    mapping = class_map([f"c{k}" for k in range(10)], ["c7", "c2"])
    found = split(labels=mapping[LABELS])
    rows = np.union1d(found.train, found.validation)
    assert set(LABELS[rows]) == {2, 7}
    assert len(rows) == 100


def test_a_source_with_its_own_validation_keeps_all_training_images():
    found = split(own=True, validation=0.3)
    assert len(found.train) == 500
    assert len(found.validation) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subset_size": 501}, "subset_size is 501, but there are only 500 training images"),
        ({"subset_size": 9}, "subset_size is 9, below the 10 classes"),
        ({"validation": 0.0}, "validation is 0 but the data set has no val split of its own"),
        ({"subset_size": 11}, "has 1 training image, too few for a train and a validation split"),
        ({"labels": np.array([0, 0, 1])}, "class 1 has 1 training image, too few"),
    ],
)
def test_splits_that_cannot_be_made(settings, message):
    with pytest.raises(UserError, match=message):
        split(**settings)


TWELVE = sorted(str(k) for k in range(12))  # 0, 1, 10, 11, 2, ..., as folders are sorted
PADDED = [f"{k:02}" for k in range(1, 13)]


@pytest.mark.parametrize(
    ("classes", "subset", "taken"),
    [
        (["ant", "bee", "cat"], None, ["ant", "bee", "cat"]),
        (["ant", "bee", "cat"], ["cat", "ant"], ["cat", "ant"]),
        (["ant", "bee", "cat"], [2, 1], ["cat", "bee"]),
        (["ant", "bee", "cat"], ["cat", 0], ["cat", "ant"]),
        (TWELVE, [2, 3], ["2", "3"]),
        (TWELVE, ["3", "2"], ["3", "2"]),
        (TWELVE, [11, "2"], ["11", "2"]),
        (PADDED, [2, 3], ["02", "03"]),
        (PADDED, ["02", 12], ["02", "12"]),
        (["2", "02", "cat"], [2, "02"], ["2", "02"]),
        (["-1", "1", "cat"], [-1, 1], ["-1", "1"]),
        (["0", "1", "cat"], [1, "cat"], ["1", "cat"]),
        (["bee", "cafe\u0301"], ["caf\u00e9", "bee"], ["cafe\u0301", "bee"]),
        (["bee", "caf\u00e9"], ["cafe\u0301", "bee"], ["caf\u00e9", "bee"]),
    ],
)
def test_class_map_takes_the_classes_named_so(classes, subset, taken):
    """A number is a name first: among folders 0 to 11, the third in order is 10."""
    mapping = class_map(classes, subset)
    assert classes_taken(classes, mapping) == taken
    assert sorted(mapping[mapping >= 0]) == list(range(len(taken)))


@pytest.mark.parametrize(
    ("classes", "subset", "message"),
    [
        (["ant", "bee", "cat"], ["ant", "catt"], "unknown class in class_subset 'catt': did you mean 'cat'"),
        (["ant", "bee", "cat"], [0, 3], "names class 3, allowed are 0 to 2"),
        (["ant", "bee", "cat"], [0, -1], "names class -1, allowed are 0 to 2"),
        (["ant", "bee", "cat"], ["ant", "ant"], "names class 'ant' twice"),
        (["ant", "bee", "cat"], ["ant", 0], "names class 'ant' twice"),
        (["ant", "bee", "cat"], ["0", "1"], "unknown class in class_subset '0'"),
        (TWELVE, [2, 12], "unknown class in class_subset '12': did you mean '11'"),
        (PADDED, [0, 1], "unknown class in class_subset '0'"),
        (PADDED, ["2", "3"], "unknown class in class_subset '2': did you mean"),
        (["02", "002", "cat"], [2, "cat"], "unknown class in class_subset '2'"),
        (["0", "1", "cat"], [0, 2], "unknown class in class_subset '2'"),
        (TWELVE, [2, "2"], "names class '2' twice"),
    ],
)
def test_class_subsets_that_cannot_be_used(classes, subset, message):
    with pytest.raises(UserError, match=message):
        class_map(classes, subset)


@pytest.mark.parametrize("subset", [[True, False], [1.0, 2.0], [None, "a"], "ab"])
def test_class_subsets_are_names_or_whole_numbers(subset):
    with pytest.raises(ValueError, match="class_subset"):
        DatasetSettings(source="digits", class_subset=subset)


def test_the_smallest_class_is_told_by_its_name():
    with pytest.raises(UserError, match="class 'bee' has 1 training image, too few"):
        make_split(np.array([0, 0, 1]), DatasetSettings(source="digits"), 0, classes=["ant", "bee"])


@given(st.lists(st.integers(3, 40), min_size=2, max_size=8), st.integers(0, 5))
def test_divide_covers_all_and_leaves_no_class_out(counts, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    parts = divide(labels, SplitRatios(train=0.7, val=0.1, test=0.2), seed, "data")
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(len(labels)))
    for rows in parts.values():
        assert set(labels[rows]) == set(range(len(counts)))


@pytest.mark.parametrize(
    ("classes", "overlap", "sizes"),
    [(10, 0.0, (5, 5, 0)), (11, 0.0, (6, 5, 0)), (10, 0.25, (6, 6, 2)), (9, 1.0, (9, 9, 9)), (100, 0.3, (65, 65, 30))],
)
def test_two_teachers_share_some_classes_and_halve_the_rest(classes, overlap, sizes):
    first, second = (classes_of(ClassShare(overlap=overlap, side=side), classes, 4) for side in ("first", "second"))
    assert (len(first), len(second), len(np.intersect1d(first, second))) == sizes
    assert np.union1d(first, second).tolist() == list(range(classes))


def test_shared_classes_are_drawn_by_the_seed_and_stay_shared_when_more_are():
    def shared(overlap, seed=0):
        shares = [ClassShare(overlap=overlap, side=side) for side in ("first", "second")]
        return set(np.intersect1d(*(classes_of(share, 100, seed) for share in shares)).tolist())

    assert shared(0.2) < shared(0.4) < shared(1.0)
    assert shared(0.4) != shared(0.4, seed=1)
    assert shared(0.4) != set(range(40))


def test_a_teacher_of_one_class_is_refused():
    with pytest.raises(UserError, match="side second, leave a teacher 1 of 3 classes"):
        classes_of(ClassShare(overlap=0.0, side="second"), 3, 0)
