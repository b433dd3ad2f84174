"""Augmentation against its definitions and against torchvision's implementation on single images."""

import math

import pytest
import torch
from operators import recorded
from torch.nn import functional as F

from kd.data import augment
from kd.data.augment import Augmenter
from kd.data.mixing import draw_box, draw_mixing, mix
from kd.data.randaugment import LEVELS, OPERATIONS, apply_operations, draw_operations, everywhere, rand_augment
from kd.schema.config import Augmentation, RandAugment

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(count=16, height=32, width=32):
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator(9))


def pictures(count=6, height=32, width=32):
    """Smooth images of middling contrast, for which every operation has something to do."""
    coarse = torch.randint(20, 200, (count, 3, 5, 5), generator=generator(4)).float()
    return F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(5, 220).to(torch.uint8)


def augmenter(**settings):
    return Augmenter(Augmentation(**settings), MEAN, STD)


def test_plain_normalises():
    images = noise()
    expected = (images / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(augmenter().plain(images), expected)


def test_a_constant_channel_stays_finite():
    assert Augmenter(Augmentation(), (0.0, 0.5, 0.5), (0.0, 0.2, 0.2)).plain(noise()).isfinite().all()


SETTINGS = [
    {},
    {"crop": "none", "flip": False},
    {"crop": "resized"},
    {"randaugment": RandAugment(ops=2, magnitude=9), "cutout": 8},
    {"crop": "padded", "padding": 2, "cutout": 5},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_draws_made_ahead_are_those_made_on_the_way(settings):
    images, on_the_way, ahead, own = noise(24), generator(3), generator(3), augmenter(**settings)
    drawn = [own.draw(8, *images.shape[-2:], ahead) for _ in range(3)]
    for part, draws in zip(images.split(8), drawn, strict=True):
        assert torch.equal(own.train(part, on_the_way), own.apply(part, draws))
    assert torch.equal(on_the_way.get_state(), ahead.get_state())


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_saved_generator_state_reproduces_the_stream(settings):
    drawn, images = generator(3), noise()
    augmenter(**settings).train(images, drawn)
    state = drawn.get_state()
    first = augmenter(**settings).train(images, drawn)
    drawn.set_state(state)
    assert torch.equal(first, augmenter(**settings).train(images, drawn))


@pytest.mark.parametrize("settings", SETTINGS)
def test_only_the_given_generator_is_drawn_from_and_images_stay(settings):
    torch.manual_seed(5)
    before, images = torch.get_rng_state(), noise()
    result = augmenter(**settings).train(images, generator())
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(images, noise())
    assert result.shape == images.shape
    assert result.dtype == torch.float32


def test_padded_crop_is_a_crop_of_the_padded_image_with_draws_of_its_own():
    images = noise(64)
    cropped = augment.padded_crop(images, 4, augment.draw_offsets(64, 4, generator()))
    padded, seen = F.pad(images, [4] * 4), set()
    for image, whole in zip(cropped, padded, strict=True):
        places = [(y, x) for y in range(9) for x in range(9) if torch.equal(image, whole[:, y : y + 32, x : x + 32])]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) > 30


def test_padding_is_black_before_normalisation():
    white = torch.full((64, 3, 8, 8), 255, dtype=torch.uint8)
    result = augmenter(padding=4, flip=False).train(white, generator())
    black = -torch.tensor(MEAN) / torch.tensor(STD)
    torch.testing.assert_close(result.amin(dim=(0, 2, 3)), black)


def test_flip_mirrors_about_half():
    images = noise(400)
    flipped = augment.flip(images, torch.rand(400, generator=generator()) < 0.5)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    assert torch.equal(flipped[~mirrored], images[~mirrored])
    assert 150 < int(mirrored.sum()) < 250


@pytest.mark.parametrize("side", [1, 5, 8, 100])
def test_cutout_blanks_a_clipped_square(side):
    images = torch.ones(300, 3, 16, 16)
    blank = augment.cutout(images, side, augment.draw_holes(300, 16, 16, side, generator()))[:, 0] == 0
    sizes = blank.flatten(1).sum(1)
    assert int(sizes.max()) == min(side, 16) ** 2
    assert int(sizes.min()) >= min((side + 1) // 2 if side % 2 else side // 2, 16) ** 2
    for image in blank[:40]:
        rows, columns = image.any(1), image.any(0)
        assert torch.equal(image, rows[:, None] & columns[None, :])


def test_squares_of_drawn_sides_have_them_in_place_of_the_recipes():
    images, own = torch.full((400, 3, 16, 24), 200, dtype=torch.uint8), Augmentation(crop="none", flip=False, cutout=3)
    largest = Augmenter(own, MEAN, STD, 0.5)
    draws = largest.draw(400, 16, 24, generator())
    assert torch.bincount(draws.sides).tolist() == pytest.approx([400 / 9] * 9, abs=25)  # 0 to half of 16, each alike
    blank = largest.apply(images, draws)[:, 0] == 0
    assert (blank.flatten(1).sum(1) <= draws.sides.square()).all()
    inside = (draws.holes >= 0).all(1) & (draws.holes + draws.sides[:, None] <= torch.tensor([16, 24])).all(1)
    assert torch.equal(blank.flatten(1).sum(1)[inside], draws.sides[inside].square())
    assert Augmenter(own, MEAN, STD).draw(4, 16, 24, generator()).sides is None


def test_resized_crop_boxes_follow_their_definition():
    boxes = augment.draw_boxes(4000, 48, 64, generator()).float()
    top, left, height, width = boxes.unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 48).all()
    assert (left + width <= 64).all()
    share, ratio = height * width / (48 * 64), width / height
    assert 0.07 < share.min() < 0.1
    assert 0.4 < share.mean() < 0.56
    assert 0.7 < ratio.min() < ratio.max() < 1.42


def test_boxes_that_never_fit_fall_back_to_the_centre():
    boxes = augment.draw_boxes(200, 4, 400, generator())
    assert (boxes == torch.tensor([0, 197, 4, 5])).all(dim=1).any()


def test_resized_crop_equals_torchvision():
    from torchvision.transforms import functional as tv

    images = pictures(8, 40, 40)
    boxes = torch.tensor([[0, 0, 40, 40], [3, 5, 20, 30], [10, 0, 7, 9], [0, 33, 40, 7]] * 2)
    ours = augment.crop_and_resize(images, boxes)
    for image, box, result in zip(images, boxes.tolist(), ours, strict=True):
        expected = tv.resized_crop(image, *box, size=[40, 40], antialias=True)
        assert (result.int() - expected.int()).abs().max() <= 1


@pytest.fixture(scope="module")
def reference():
    """torchvision's RandAugment reduced to one chosen operation with a chosen sign."""
    from torchvision.transforms import RandAugment as Reference
    from torchvision.transforms.autoaugment import InterpolationMode, _apply_op

    def apply(image, name, negative, magnitude):
        space = Reference()._augmentation_space(LEVELS, tuple(image.shape[-2:]))
        levels, signed = space[name]
        level = float(levels[magnitude]) if levels.ndim else 0.0
        level = -level if signed and negative else level
        return _apply_op(image, name, level, interpolation=InterpolationMode.NEAREST, fill=None)

    return apply


@pytest.mark.parametrize("magnitude", [0, 5, 9, 14, 30])
@pytest.mark.parametrize("name", OPERATIONS)
def test_randaugment_operation_equals_torchvision(reference, name, magnitude):
    images = torch.cat([pictures(), noise(2), torch.full((1, 3, 32, 32), 77, dtype=torch.uint8)])
    choice = torch.full((len(images),), OPERATIONS.index(name))
    negative = torch.arange(len(images)) % 2
    ours = apply_operations(images, choice, negative, magnitude)
    for image, sign, result in zip(images, negative.tolist(), ours, strict=True):
        expected = reference(image, name, sign, magnitude)
        # a coordinate on the border of two pixels may round either way
        assert (result != expected).float().mean() <= (0.01 if name == "Rotate" or name.startswith("Shear") else 0)


def test_randaugment_on_images_that_are_not_square(reference):
    images = pictures(10, 24, 40)
    for name in ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"):
        choice = torch.full((10,), OPERATIONS.index(name))
        ours = apply_operations(images, choice, torch.zeros(10, dtype=torch.long), 20)
        expected = torch.stack([reference(image, name, 0, 20) for image in images])
        assert (ours != expected).float().mean() < 0.01


def test_operations_of_a_mixed_batch_stay_with_their_images(reference):
    images = pictures(60)
    choice = torch.randint(len(OPERATIONS), (60,), generator=generator(1))
    negative = torch.randint(2, (60,), generator=generator(2))
    ours = apply_operations(images, choice, negative, 9)
    for row in range(60):
        expected = reference(images[row], OPERATIONS[choice[row]], int(negative[row]), 9)
        assert (ours[row] != expected).float().mean() <= 0.01


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40), (2, 2)])
@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_operations_run_everywhere_give_the_pictures_of_operations_run_where_they_were_drawn(magnitude, height, width):
    images = torch.cat([pictures(60, height, width), torch.full((4, 3, height, width), 77, dtype=torch.uint8)])
    choice, negative = draw_operations(64, 1, generator(1)).squeeze(1).unbind(1)
    assert choice.unique().tolist() == list(range(len(OPERATIONS)))
    everywhere_made = everywhere(images, choice, negative, magnitude)
    assert torch.equal(everywhere_made, apply_operations(images, choice, negative, magnitude))
    # once the tables of this size are made, the host is told nothing
    assert recorded(lambda: everywhere(images, choice, negative, magnitude)).unfit == []


def test_operations_and_signs_match_torchvision():
    from torchvision.transforms import RandAugment as Reference

    assert set(Reference()._augmentation_space(LEVELS, (32, 32))) == set(OPERATIONS)


def test_randaugment_draws_for_every_image():
    one = pictures(1).expand(200, -1, -1, -1)
    different = {bytes(image.numpy().tobytes()) for image in rand_augment(one, draw_operations(200, 1, generator()), 9)}
    assert len(different) > 15


def test_nothing_is_mixed_without_alphas():
    drawn = generator()
    state = drawn.get_state()
    assert draw_mixing(4, 8, 8, 0, 0, drawn) is None
    assert torch.equal(drawn.get_state(), state)


def test_mixup_is_the_convex_combination():
    images, labels = torch.rand(16, 3, 8, 8), torch.arange(16)
    mixed = mix(images, labels, draw_mixing(16, 8, 8, 0.4, 0, generator(2)))
    expected = mixed.lam * images + (1 - mixed.lam) * images[mixed.other_labels]
    torch.testing.assert_close(mixed.images, expected)
    assert torch.equal(mixed.labels, labels)


@pytest.mark.parametrize("alphas", [(0.4, 0), (0, 1.0)])
def test_mixing_is_drawn_ahead_and_read_as_tensors_alone(alphas):
    images, labels = torch.rand(16, 3, 8, 8), torch.arange(16)
    first, second = (draw_mixing(16, 8, 8, *alphas, generator(seed)) for seed in (1, 2))
    assert first.share.dtype == torch.float64
    assert first.share != second.share
    records = [recorded(lambda drawn=drawn: mix(images, labels, drawn)) for drawn in (first, second)]
    assert records[0].calls == records[1].calls
    assert records[0].unfit == []


def test_cutmix_has_priority_and_lam_is_the_area_kept():
    images = torch.arange(16.0).view(16, 1, 1, 1).expand(16, 3, 9, 14).contiguous()
    for seed in range(20):
        mixed = mix(images, torch.arange(16), draw_mixing(16, 9, 14, 0.4, 1.0, generator(seed)))
        own = mixed.images == images
        kept = own.flatten(1).float().mean(1)
        moved = mixed.other_labels != mixed.labels
        torch.testing.assert_close(kept[moved], mixed.lam.float().expand_as(kept[moved]))
        assert ((mixed.images == images[mixed.other_labels]) | own).all()


def test_cutmix_box_side_is_the_root_of_its_share():
    heights = []
    for seed in range(300):
        top, bottom, left, right = draw_box(100, 200, 0.75, generator(seed))
        assert 0 <= top <= bottom <= 100
        assert 0 <= left <= right <= 200
        heights.append((bottom - top, right - left))
    assert max(heights) == (50, 100)
    assert min(height for height, _ in heights) < 50


def test_lam_is_beta_distributed():
    drawn = generator()
    shares = torch.tensor([draw_mixing(2, 1, 1, 2.0, 0, drawn).share for _ in range(2000)])
    assert abs(float(shares.mean()) - 0.5) < 0.02
    assert math.isclose(float(shares.var()), 1 / 20, abs_tol=0.005)  # Beta(2, 2)
