"""Which images make up an item of a batch where an item is a group of images.

Everything is drawn from the CPU generator that is passed in, in whole tensors: no loop runs over groups.
"""

import math
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np
import torch
from torch import Generator, Tensor

from kd.data.wants import Groups
from kd.tools.errors import UserError

ROOM = 5
"""Groups are drawn where there are at least so many times more than asked for, and enumerated where there are fewer."""


@dataclass(frozen=True)
class TwoSided(Groups):
    """Groups of two sides, P and N: the first `positives` images are P; order within a side does not count."""

    positives: int = 1


def pool(images: int, wanted: Groups, generator: Generator) -> Tensor | None:
    """Return at most `limit` different groups (m,g) int64 of positions 0 to images - 1, None without a limit.

    They are drawn without repetition, uniformly, where there are many times more (Wilf et al. 2025); fewer are
    enumerated, and a random choice of them is kept. Groups differ as ordered rows, or, for two sides, as pairs of sets.
    """
    _check(images, wanted)
    if wanted.limit is None:
        return None
    if distinct(images, wanted) >= ROOM * wanted.limit:
        return _drawn(images, wanted, generator)
    every = _every(images, wanted)
    return every[torch.randperm(len(every), generator=generator)[: wanted.limit]]


def epoch(
    wanted: Groups, labels: Tensor, groups: Tensor | None, batch_size: int, steps: int, generator: Generator
) -> Tensor:
    """Return the positions of an epoch's items (items,g) int64, of which each batch takes the next `batch_size`.

    `labels` (n,) are those of the images, on the CPU; `groups` is what `pool` returned. Items of kind "balanced" are
    single images, (items,1).
    """
    if wanted.kind == "balanced":
        return _balanced(labels, wanted.size, batch_size, steps, generator)[:, None]
    if wanted.kind == "same_class":
        return _same_class(labels, wanted.size, generator)[: steps * batch_size]
    if groups is None:
        _check(len(labels), wanted)
        return distinct_columns(torch.full((steps * batch_size,), len(labels)), wanted.size, generator)
    items = steps * batch_size
    rounds = [torch.randperm(len(groups), generator=generator) for _ in range(-(-items // len(groups)))]
    return groups[torch.cat(rounds)[:items]]


def distinct(images: int, wanted: Groups) -> int:
    """Return how many different groups there are."""
    if isinstance(wanted, TwoSided):
        others = wanted.size - wanted.positives
        return math.comb(images, wanted.positives) * math.comb(images - wanted.positives, others)
    return math.perm(images, wanted.size)


def distinct_columns(below: Tensor, columns: int, generator: Generator) -> Tensor:
    """Return (m,columns) int64, each row uniform over the ordered choices of different numbers from 0 to below - 1.

    `below` is (m,). Rows with fewer numbers than columns are drawn with replacement.
    """
    uniform = torch.rand(len(below), columns, dtype=torch.float64, generator=generator)
    left = below[:, None] - torch.arange(columns)
    enough = left[:, -1:] > 0
    ranks = (uniform * torch.where(enough, left, below[:, None])).long()
    return torch.where(enough, skip_taken(ranks), ranks)


def skip_taken(ranks: Tensor) -> Tensor:
    """Turn ranks (m,g), each among the numbers that the columns before it leave, into those numbers."""
    values = ranks.clone()
    for column in range(1, ranks.shape[1]):
        taken, _ = values[:, :column].sort(dim=1)
        for smaller in taken.unbind(1):
            values[:, column] += values[:, column] >= smaller
    return values


# --- the pool of random groups ----------------------------------------------------------------------


def _check(images: int, wanted: Groups) -> None:
    if images < wanted.size:
        raise UserError(f"groups of {wanted.size} different images need as many training images, found {images}")


def _drawn(images: int, wanted: Groups, generator: Generator) -> Tensor:
    """Return the first `limit` different groups of a stream of independent draws, in their order."""
    assert wanted.limit is not None
    kept = torch.zeros(0, wanted.size, dtype=torch.int64)
    while len(kept) < wanted.limit:
        # a fifth of all groups is taken at most, so that about one draw in ten meets one that is there
        more = torch.full((wanted.limit - len(kept) + wanted.limit // 8 + 8,), images)
        drawn = _canonical(distinct_columns(more, wanted.size, generator), wanted)
        kept = _first_occurrences(torch.cat([kept, drawn]))
    return kept[: wanted.limit]


def _canonical(groups: Tensor, wanted: Groups) -> Tensor:
    """Sort what has no order, so that equal groups are equal rows."""
    if not isinstance(wanted, TwoSided):
        return groups
    sides = groups.split([wanted.positives, wanted.size - wanted.positives], dim=1)
    return torch.cat([side.sort(dim=1).values for side in sides], dim=1)


def _first_occurrences(rows: Tensor) -> Tensor:
    """Drop every row that stands further up already."""
    unique, inverse = rows.unique(dim=0, return_inverse=True)
    first = torch.full((len(unique),), len(rows)).scatter_reduce(0, inverse, torch.arange(len(rows)), "amin")
    return rows[first.sort().values]


def _every(images: int, wanted: Groups) -> Tensor:
    """Return all different groups."""
    if isinstance(wanted, TwoSided):
        positives = _subsets(images, wanted.positives)
        # N is chosen among what P leaves: its numbers step over those of P, which are sorted
        negatives = _subsets(images - wanted.positives, wanted.size - wanted.positives)
        p = positives.repeat_interleave(len(negatives), dim=0)
        n = negatives.repeat(len(positives), 1)
        for taken in p.unbind(1):
            n = n + (n >= taken[:, None])
        return torch.cat([p, n], dim=1)
    number, ranks = torch.arange(distinct(images, wanted)), []
    for left in range(images, images - wanted.size, -1):
        ranks.append(number % left)
        number = number // left
    return skip_taken(torch.stack(ranks, dim=1))


def _subsets(images: int, size: int) -> Tensor:
    """Return the subsets of 0 to images - 1 with `size` members, (m,size), each sorted."""
    flat = np.fromiter(chain.from_iterable(combinations(range(images), size)), dtype=np.int64)
    return torch.from_numpy(flat).view(-1, size)


# --- groups by class --------------------------------------------------------------------------------


def _same_class(labels: Tensor, size: int, generator: Generator) -> Tensor:
    """Return one group for every image, in random order: the image, then others of its class."""
    order, first, count = _by_class(labels)
    anchors = torch.randperm(len(labels), generator=generator)
    start, members = first[labels[anchors]], count[labels[anchors]]
    own = order.argsort()[anchors] - start
    others = distinct_columns(members - 1, size - 1, generator)
    # others are numbered without the anchor; a class too small for that is drawn from with replacement, anchor included
    enough = (members >= size)[:, None]
    again = (torch.rand(others.shape, dtype=torch.float64, generator=generator) * members[:, None]).long()
    others = torch.where(enough, others + (others >= own[:, None]), again)
    return order[start[:, None] + torch.cat([own[:, None], others], dim=1)]


def _balanced(labels: Tensor, size: int, batch_size: int, steps: int, generator: Generator) -> Tensor:
    """Return (steps*batch_size,): in each batch random classes follow one another with `size` different images each.

    The last class of a batch has what is left of it. Where the classes do not fill a batch they come again, with
    further images.
    """
    order, first, count = _by_class(labels)
    classes = count.nonzero().squeeze(1)
    slots = -(-batch_size // size)
    used = min(slots, len(classes))
    rounds = -(-slots // used)
    chosen = torch.rand(steps, len(classes), dtype=torch.float64, generator=generator).argsort(dim=1)[:, :used]
    chosen = classes[chosen].flatten()
    members = distinct_columns(count[chosen], rounds * size, generator)
    positions = order[first[chosen][:, None] + members]
    turns = positions.view(steps, used, rounds, size).transpose(1, 2).flatten(1)
    return turns[:, :batch_size].flatten()


def _by_class(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return positions sorted by class, where each class begins among them, and how many it has."""
    count = torch.bincount(labels)
    return labels.argsort(stable=True), count.cumsum(0) - count, count
