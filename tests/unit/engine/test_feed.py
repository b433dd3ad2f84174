"""The batches of a training: drawn at the start of an epoch, from streams that no method can move."""

import pytest
import torch

from kd.data.augment import Draws
from kd.data.mixing import Mixing
from kd.engine import tray
from kd.engine.draws import BatchDraws, on_device
from kd.engine.feed import Feed
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
    ("method", "recipe"), [("ce", EVERYTHING), ("mlkd", MOVED), ("crld", MOVED), ("cs_kd", MOVED), ("cutmix", STILL)]
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


@pytest.mark.parametrize("alphas", [{"mixup_alpha": 0.4}, {"cutmix_alpha": 0.5}])
def test_mixed_batches_say_which_images_they_are_mixed_of(world, alphas):
    feed = feed_of(world("ce", recipe={**MOVED, **alphas}))
    for batch in feed.epoch():
        assert torch.equal(feed.data.train.labels[batch.other_positions], batch.other_labels)
        assert torch.equal(batch.other_positions.sort().values, batch.positions.sort().values)
    feed.enter(feed.recipe.model_copy(update={"mixup_alpha": 0.0, "cutmix_alpha": 0.0}))
    assert next(feed.epoch()).other_positions is None


def test_an_epoch_can_be_cut_short(world):
    feed = feed_of(world("ce"))
    whole = feed.steps
    feed.most = 1
    assert whole > 1
    assert len(list(feed.epoch())) == feed.steps == 1


@pytest.mark.parametrize("images", [200, 201, 210], ids=str)  # with 160, 161 and 168 left of them, a batch has 32
@pytest.mark.parametrize(
    "method",
    ["ce", {"method": "rkd", "per_class": 5}, "cs_kd", "mixup"],
    ids=lambda method: method if isinstance(method, str) else method["method"],
)
def test_the_size_of_the_last_batch_is_known_ahead(world, method, images):
    feed = feed_of(world(method, dataset={"subset_size": images}))
    *_, last = feed.epoch()
    assert feed.last == len(last.labels) // feed.group


VIEWS = ["strong"]


def drawn(count, mixed=True):
    crops, signs = Draws(torch.arange(2 * count).view(count, 2), holes=torch.zeros(count, 2)), torch.arange(count) > 1
    mixing = Mixing(torch.tensor(0.5, dtype=torch.float64), torch.arange(count), torch.arange(4)) if mixed else None
    return BatchDraws(crops, mixing, {"strong": Draws(mirrored=signs, holes=torch.ones(count, 2))}, torch.ones(2))


def test_draws_of_an_epoch_are_moved_whole():
    elsewhere = torch.device("meta")
    by_image, by_batch = on_device([drawn(4), drawn(4), drawn(3)], elsewhere)
    images = {"/offsets": (2,), "/holes": (2,), "strong/mirrored": (), "strong/holes": (2,), "partners": ()}
    assert {name: values.shape for name, values in by_image.items()} == {k: (11, *v) for k, v in images.items()}
    assert {name: values.shape for name, values in by_batch.items()} == {"own": (3, 2), "share": (3,), "box": (3, 4)}
    assert all(values.device == elsewhere for values in (*by_image.values(), *by_batch.values()))


@pytest.mark.parametrize("mixed", [True, False])
def test_draws_survive_being_taken_apart(mixed):
    before = drawn(3, mixed)
    after = BatchDraws.of({**before.by_image(), **before.by_batch()}, VIEWS)
    assert torch.equal(after.augmentation.offsets, before.augmentation.offsets)
    assert after.augmentation.boxes is None
    assert torch.equal(after.views["strong"].holes, before.views["strong"].holes)
    assert torch.equal(after.own, before.own)
    assert (after.mixing is None) == (not mixed)
    if mixed:
        assert torch.equal(after.mixing.partners, before.mixing.partners)
        assert (after.mixing.share, after.mixing.box.tolist()) == (0.5, [0, 1, 2, 3])


@pytest.mark.parametrize("parts", [(tray.AT_ONCE, tray.ROOM), (3 * 32 * 192, 7 * 32 * 192), (1, 1)], ids=str)
@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize(
    ("method", "recipe"),
    [("ce", EVERYTHING), ("mlkd", MOVED), ("crld", MOVED), ("cs_kd", MOVED), ("cutmix", STILL), ("ckd", MOVED)],
)
def test_batches_on_a_tray_are_those_that_are_made_one_by_one(world, monkeypatch, method, recipe, resident, parts):
    """To the last bit, in every batch of two epochs, the smaller last one too; and they lie where they lay."""
    monkeypatch.setattr(tray, "AT_ONCE", parts[0])
    monkeypatch.setattr(tray, "ROOM", parts[1])
    dataset = {} if resident else {"resident_limit_mb": 0}
    here = world(method, recipe={**recipe, "workers": 0}, dataset=dataset)
    plain, laid = feed_of(here), feed_of(here)
    laid.enter(laid.recipe, replayable=True)
    places = []
    for _ in range(2):
        for one, other in zip(plain.epoch(), laid.epoch(), strict=True):
            for name in (
                "images",
                "labels",
                "positions",
                "other_labels",
                "other_positions",
                "shares",
                "teacher_logits",
            ):
                assert same(getattr(one, name), getattr(other, name)), name
            assert torch.as_tensor(one.mixing).equal(torch.as_tensor(other.mixing))
            assert one.views.keys() == other.views.keys()
            assert all(same(view, other.views[name]) for name, view in one.views.items())
            assert (one.group, one.label_smoothing) == (other.group, other.label_smoothing)
        places.append(laid.tray.place)
    assert places[0] == places[1] > 0
    for stream, state in plain.state_dict().items():
        assert torch.equal(state, laid.state_dict()[stream])


def same(one, other):
    return one is other is None or (one.dtype == other.dtype and torch.equal(one, other))
