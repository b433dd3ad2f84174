"""The protocol: which classes a task brings, what is replayed of the ones before, the same on every machine."""

import numpy as np
import pytest
import torch

from kd.continual.tasks import Part, kept_images, make_tasks, replayed, seen_part
from kd.data.store import ImageStore
from kd.tools.errors import UserError


def test_tasks_cut_the_classes_evenly_and_cover_each_once():
    tasks = make_tasks(10, 3, "seeded", 4)
    assert tasks.sizes == (4, 3, 3)
    assert tasks.ends == (4, 7, 10)
    assert sorted(label for task in (1, 2, 3) for label in tasks.classes(task)) == list(range(10))


def test_the_class_order_follows_from_the_seed_alone():
    assert make_tasks(10, 2, "seeded", 0).order == (8, 9, 4, 3, 6, 2, 5, 7, 1, 0)
    assert make_tasks(10, 5, "seeded", 0).order == make_tasks(10, 2, "seeded", 0).order
    assert make_tasks(10, 2, "seeded", 1).order != make_tasks(10, 2, "seeded", 0).order
    assert make_tasks(4, 2, "natural", 7).order == (0, 1, 2, 3)
    assert make_tasks(4, 2, [3, 1, 0, 2], 7).order == (3, 1, 0, 2)


def test_labels_become_places_in_the_order():
    tasks = make_tasks(4, 2, [3, 1, 0, 2], 0)
    assert tasks.outputs(torch.tensor([3, 1, 0, 2, 3])).tolist() == [0, 1, 2, 3, 0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [((10, 6, "seeded", 0), "enough for 5 tasks of 2, found 6"), ((10, 2, [0, 1], 0), "lists 2 labels.*10 classes")],
)
def test_impossible_tasks_are_refused(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        make_tasks(*arguments)


# --- replay ---------------------------------------------------------------------------------------

OUTPUTS = torch.arange(6).repeat(30)  # six classes of thirty images


@pytest.mark.parametrize(("old", "capacity"), [(2, 20), (4, 21), (5, 7), (3, 2), (2, 0), (6, 500)])
def test_the_buffer_is_balanced_and_never_too_large(old, capacity):
    kept = kept_images(OUTPUTS, old, capacity, seed=0)
    counts = torch.bincount(OUTPUTS[kept], minlength=6)
    assert len(kept) == min(capacity, 30 * old)
    assert len(kept.unique()) == len(kept)
    assert counts[:old].max() - counts[:old].min() <= 1
    assert counts[old:].sum() == 0, "nothing of classes that are not old yet"


@pytest.mark.parametrize("capacity", [3, 10, 11, 37])
def test_what_is_kept_later_was_kept_before(capacity):
    """An image that was dropped is gone."""
    before = kept_images(OUTPUTS, 2, capacity, seed=3)
    for old in range(3, 7):
        now = kept_images(OUTPUTS, old, capacity, seed=3)
        of_known_classes = now[OUTPUTS[now] < old - 1]
        assert set(of_known_classes.tolist()) <= set(before.tolist())
        before = now


def test_the_buffer_follows_from_the_seed():
    assert torch.equal(kept_images(OUTPUTS, 3, 10, seed=1), kept_images(OUTPUTS, 3, 10, seed=1))
    assert not torch.equal(kept_images(OUTPUTS, 3, 10, seed=1), kept_images(OUTPUTS, 3, 10, seed=2))


@pytest.mark.parametrize(
    ("ratio", "expected"), [(None, [5, 6, 7]), (0.5, [5, 6]), (1.0, [5, 6, 7, 5]), (2.0, [5, 6, 7, 5, 6, 7, 5, 6])]
)
def test_a_ratio_repeats_or_cuts_what_is_kept(ratio, expected):
    assert replayed(torch.tensor([5, 6, 7]), 4, ratio).tolist() == expected


def test_nothing_kept_is_nothing_replayed():
    assert len(replayed(torch.tensor([], dtype=torch.int64), 4, 2.0)) == 0


def test_a_cut_buffer_is_as_balanced():
    kept = replayed(kept_images(OUTPUTS, 4, 40, seed=0), 10, 1.0)
    counts = torch.bincount(OUTPUTS[kept])
    assert counts.max() - counts.min() <= 1


# --- parts of a store -----------------------------------------------------------------------------


@pytest.mark.parametrize("resident", [True, False])
def test_a_part_serves_its_images_under_new_labels(resident):
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 2, 2), np.uint8)
    store = ImageStore(images, np.array([0, 1, 0, 1, 0, 1]), np.array([1, 3, 4, 5]), "cpu", resident, workers=0)
    part = Part(store, torch.tensor([3, 0, 3]), torch.tensor([10, 11, 12, 13]))
    assert (len(part), part.resident, part.labels.tolist()) == (3, resident, [13, 10, 13])
    batches = list(part.batches(torch.tensor([1, 2, 0]), 2))
    assert [batch[0][:, 0, 0, 0].tolist() for batch in batches] == [[1, 5], [5]]
    assert [batch[1].tolist() for batch in batches] == [[10, 13], [13]]
    assert [batch[2].tolist() for batch in batches] == [[1, 2], [0]]


def test_seen_images_are_those_of_classes_learnt_so_far():
    store = ImageStore(np.zeros((4, 3, 2, 2), np.uint8), np.array([0, 1, 2, 3]), np.arange(4), "cpu", True)
    part = seen_part(store, make_tasks(4, 2, [3, 1, 0, 2], 0), seen=2)
    assert part.positions.tolist() == [1, 3]
    assert part.labels.tolist() == [1, 0]
