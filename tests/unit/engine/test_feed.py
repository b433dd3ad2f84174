"""The batches of a training: drawn at the start of an epoch, from streams that no method can move."""

import pytest
import torch

from kd.data.augment import Draws
from kd.data.mixing import Mixing
from kd.engine.feed import BatchDraws, Feed, on_device
from kd.engine.jobs.workbench import prepare

MOVED = {"augmentation": {"padding": 1, "flip": True, "cutout": 2, "randaugment": {"ops": 2, "magnitude": 5}}}
STILL = {"augmentation": {"crop": "none", "flip": False}, "teacher_view": "fixed"}
EVERYTHING = {**MOVED, "mixup_alpha": 0.2, "cutmix_alpha": 0.5}


def feed_of(here):
    bench = prepare(here.job(), here.files("run"))
    feed = Feed(bench.data, bench.method, bench.wants, seed=0)
    feed.enter(here.job().recipe)
    return feed


@pytest.mark.parametrize(
    ("method", "recipe"), [("ce", EVERYTHING), ("mlkd", MOVED), ("cs_kd", MOVED), ("cutmix", STILL)]
)
def test_nothing_is_drawn_after_an_epoch_has_begun(world, method, recipe):
    feed = feed_of(world(method, recipe=recipe))
    before, batches = feed.state_dict(), feed.epoch()
    next(batches)
    begun = feed.state_dict()
    assert any(not torch.equal(before[stream], begun[stream]) for stream in before)
    assert len(list(batches)) == feed.steps - 1
    ended = feed.state_dict()
    assert all(torch.equal(begun[stream], ended[stream]) for stream in begun)


def test_a_state_brings_back_the_epoch_that_followed(world):
    feed = feed_of(world("ce", recipe=EVERYTHING))
    state = feed.state_dict()
    first = [batch.images for batch in feed.epoch()]
    other = [batch.images for batch in feed.epoch()]
    feed.load_state_dict(state)
    again = [batch.images for batch in feed.epoch()]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_an_epoch_can_be_cut_short(world):
    feed = feed_of(world("ce"))
    whole = feed.steps
    feed.most = 1
    assert whole > 1
    assert len(list(feed.epoch())) == feed.steps == 1


def test_draws_are_moved_whole_and_given_back_batch_by_batch():
    def drawn(count):
        crops, signs = Draws(torch.zeros(count, 2), operations=torch.zeros(count, 1, 2)), torch.zeros(count)
        mixing = Mixing(torch.tensor(0.5, dtype=torch.float64), signs, torch.zeros(4, dtype=torch.int64))
        return BatchDraws(crops, mixing, {"view": Draws(mirrored=signs)}, torch.zeros(2))

    elsewhere = torch.device("meta")
    found = on_device([drawn(4), drawn(4), drawn(3)], elsewhere)
    assert [one.augmentation.offsets.shape for one in found] == [(4, 2), (4, 2), (3, 2)]
    for one in found:
        mixing, (crops, signs) = one.mixing, (one.augmentation, one.views["view"])
        moved = (crops.offsets, crops.operations, mixing.share, mixing.partners, mixing.box, signs.mirrored, one.own)
        assert all(draws.device == elsewhere for draws in moved)
        assert (mixing.share.shape, mixing.share.dtype, mixing.box.shape) == ((), torch.float64, (4,))
