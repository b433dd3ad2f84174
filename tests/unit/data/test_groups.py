"""Groups of images: different, uniformly drawn, exhaustive where few, balanced where asked, the same for a seed."""

import itertools
import math

import pytest
import torch

from kd.data.groups import TwoSided, distinct, distinct_columns, epoch, pool, skip_taken
from kd.data.wants import Groups
from kd.tools.errors import UserError

SIZES = (12, 7, 4)
LABELS = torch.repeat_interleave(torch.arange(3), torch.tensor(SIZES))[
    torch.randperm(sum(SIZES), generator=torch.Generator().manual_seed(3))
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sets(groups, positives):
    """Return each group as the pair of its sides."""
    return [(frozenset(row[:positives]), frozenset(row[positives:])) for row in groups.tolist()]


def assert_uniform(counts, draws):
    """Every outcome's frequency lies within five standard errors of an equal share."""
    share = 1 / len(counts)
    bound = 5 * math.sqrt(share * (1 - share) / draws)
    assert (counts.double() / draws - share).abs().max().item() < bound


KINDS = [
    pytest.param(Groups(2, limit=1000), id="ordered pairs"),
    pytest.param(Groups(3, limit=1000), id="ordered triples"),
    pytest.param(TwoSided(3, limit=1000, positives=2), id="two against one"),
    pytest.param(TwoSided(5, limit=1000, positives=3), id="three against two"),
]


@pytest.mark.parametrize("wanted", KINDS)
def test_a_small_set_is_enumerated_completely(wanted):
    found = pool(6, wanted, generator())
    assert len(found) == distinct(6, wanted)
    assert found.dtype == torch.int64
    if isinstance(wanted, TwoSided):
        p = wanted.positives
        expected = {
            (frozenset(a), frozenset(b))
            for a in itertools.combinations(range(6), p)
            for b in itertools.combinations(set(range(6)) - set(a), wanted.size - p)
        }
        assert set(sets(found, p)) == expected
    else:
        assert {tuple(row) for row in found.tolist()} == set(itertools.permutations(range(6), wanted.size))


@pytest.mark.parametrize("images", [11, 40])  # 495 of 5 x 300 groups: enumerated; 29,640: drawn
def test_never_more_than_the_limit_and_none_twice(images):
    wanted = TwoSided(3, limit=300, positives=2)
    found = pool(images, wanted, generator())
    assert found.shape == (300, 3)
    assert len(set(sets(found, 2))) == 300
    assert all(len(set(row)) == 3 for row in found.tolist())
    assert found.min() >= 0
    assert found.max() < images


@pytest.mark.parametrize(("images", "limit"), [(5, 29), (5, 6)], ids=["enumerated", "drawn"])
def test_every_group_is_equally_likely_to_be_kept(images, limit):
    wanted, draws = TwoSided(3, limit=limit, positives=2), 2000
    index = {group: i for i, group in enumerate(sets(pool(images, TwoSided(3, limit=99, positives=2), generator()), 2))}
    assert len(index) == 30
    counts, stream = torch.zeros(30), generator(1)
    for _ in range(draws):
        kept = sets(pool(images, wanted, stream), 2)
        assert len(kept) == len(set(kept)) == limit
        counts[[index[group] for group in kept]] += 1
    share = limit / 30
    assert (counts / draws - share).abs().max().item() < 5 * math.sqrt(share * (1 - share) / draws)


def test_a_hundred_thousand_groups_are_drawn_without_repetition():
    wanted = TwoSided(3, limit=100_000, positives=2)
    found = pool(1600, wanted, generator())
    first, second, third = found.unbind(1)
    assert found.shape == (100_000, 3)
    assert ((first < second) & (first != third) & (second != third)).all()
    assert len((first * 1600**2 + second * 1600 + third).unique()) == 100_000
    assert_uniform(torch.bincount(third, minlength=1600), 100_000)


@pytest.mark.parametrize("kind", ["random", "same_class", "balanced"])
def test_the_generator_decides_everything(kind):
    wanted = Groups(2, kind, limit=50 if kind == "random" else None)

    def made(seed):
        stream = generator(seed)
        groups = pool(len(LABELS), wanted, stream) if kind == "random" else None
        return [epoch(wanted, LABELS, groups, 4, 5, stream) for _ in range(2)]

    assert all(torch.equal(a, b) for a, b in zip(made(0), made(0), strict=True))
    assert not torch.equal(made(0)[0], made(1)[0])
    assert not torch.equal(*made(0)), "each epoch has an order of its own"


def test_an_epoch_orders_the_pool_anew_and_goes_round_it_evenly():
    wanted = Groups(2, limit=30)
    groups = pool(12, wanted, generator())
    index = {tuple(row): i for i, row in enumerate(groups.tolist())}
    found = epoch(wanted, LABELS, groups, 8, 9, generator(1))  # 72 items of a pool of 30
    assert found.shape == (72, 2)
    numbers = torch.tensor([index[tuple(row)] for row in found.tolist()])
    assert sorted(numbers[:30].tolist()) == sorted(numbers[30:60].tolist()) == list(range(30))
    assert len(numbers[60:].unique()) == 12


def test_without_a_limit_every_epoch_draws_new_groups():
    wanted, stream = Groups(3), generator()
    assert pool(9, wanted, stream) is None
    first, second = (epoch(wanted, LABELS, None, 50, 60, stream) for _ in range(2))
    assert first.shape == (3000, 3)
    assert not torch.equal(first, second)
    assert all(len(set(row)) == 3 for row in first.tolist())
    assert_uniform(torch.bincount(first[:, 2], minlength=len(LABELS)), 3000)


def test_too_few_images_for_a_group_are_a_user_error():
    with pytest.raises(UserError, match="groups of 3 different images need as many training images, found 2"):
        pool(2, Groups(3, limit=5), generator())


def test_columns_are_uniform_over_ordered_choices():
    drawn = distinct_columns(torch.full((12_000,), 4), 3, generator())
    index = {row: i for i, row in enumerate(itertools.permutations(range(4), 3))}
    assert_uniform(torch.bincount(torch.tensor([index[tuple(row)] for row in drawn.tolist()]), minlength=24), 12_000)


def test_rows_with_too_few_numbers_repeat_them():
    drawn = distinct_columns(torch.tensor([2, 5] * 500), 3, generator())
    assert all(len(set(row)) == 3 for row in drawn[1::2].tolist())
    assert drawn[::2].max() == 1
    assert_uniform(torch.bincount(drawn[::2].flatten(), minlength=2), 1500)


def test_ranks_become_what_the_columns_before_leave():
    assert skip_taken(torch.tensor([[0, 0, 0, 0], [3, 0, 1, 0], [2, 2, 0, 0]])).tolist() == [
        [0, 1, 2, 3],
        [3, 0, 2, 1],
        [2, 3, 0, 1],
    ]


# --- by class ---------------------------------------------------------------------------------------


def test_every_image_is_once_the_first_of_a_group_of_its_class():
    found = epoch(Groups(4, "same_class"), LABELS, None, 5, 5, generator())
    assert sorted(found[:, 0].tolist()) == list(range(len(LABELS)))
    assert (LABELS[found] == LABELS[found[:, :1]]).all()
    assert all(len(set(row)) == 4 for row in found.tolist())
    assert len(epoch(Groups(4, "same_class"), LABELS, None, 5, 4, generator())) == 20


def test_partners_are_uniform_over_the_class():
    stream, counts = generator(), torch.zeros(len(LABELS), len(LABELS))
    for _ in range(600):
        a, b = epoch(Groups(2, "same_class"), LABELS, None, 23, 1, stream).unbind(1)
        counts[a, b] += 1
    for label, size in enumerate(SIZES):
        members = torch.where(label == LABELS)[0]
        pairs = counts[members][:, members]
        assert pairs.diagonal().sum() == 0
        assert_uniform(pairs[~torch.eye(size, dtype=torch.bool)], 600 * size)


def test_a_small_class_repeats_images_in_a_group():
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    found = epoch(Groups(3, "same_class"), labels, None, 6, 1, generator())
    assert (labels[found] == labels[found[:, :1]]).all()
    assert [len(set(row)) == 3 for row in found.tolist() if labels[row[0]] == 0] == [True] * 3


def test_batches_hold_so_many_images_of_each_of_their_classes():
    labels = torch.arange(10).repeat(8)
    found = epoch(Groups(3, "balanced"), labels, None, 14, 200, generator())
    assert found.shape == (14 * 200, 1)
    for batch in found.view(200, 14):
        assert len(batch.unique()) == 14
        assert sorted(torch.bincount(labels[batch], minlength=10).tolist()) == [0] * 5 + [2, 3, 3, 3, 3]
    assert_uniform(torch.bincount(labels[found.view(200, 14)[:, 0]], minlength=10), 200)
    assert_uniform(torch.bincount(found.flatten(), minlength=80), 14 * 200)


def test_few_classes_come_again_with_further_images():
    labels = torch.arange(3).repeat(20)
    for batch in epoch(Groups(4, "balanced"), labels, None, 30, 20, generator()).view(20, 30):
        assert len(batch.unique()) == 30
        assert sorted(torch.bincount(labels[batch]).tolist()) == [8, 10, 12]


def test_a_class_too_small_for_a_batch_repeats_images_and_an_absent_class_is_none():
    labels = torch.tensor([0] * 6 + [2] * 2)  # nothing of class 1
    for batch in epoch(Groups(3, "balanced"), labels, None, 6, 20, generator()).view(20, 6):
        assert torch.bincount(labels[batch], minlength=3).tolist() == [3, 0, 3]
