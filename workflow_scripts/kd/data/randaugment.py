"""RandAugment (Cubuk et al. 2020) on whole batches, each image with operations and signs of its own.

The fourteen operations and their strengths are those of torchvision.transforms.RandAugment for uint8 tensors, nearest
neighbour and black borders included; torchvision applies one draw to a whole batch, this module one to each image.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

OPERATIONS = (
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
    "Identity",
)
GEOMETRIC = 5  # the first operations move pixels, and are done together
LEVELS = 31


@dataclass(frozen=True)
class View:
    """A further view of every image: the recipe's augmentation with RandAugment of `ops` operations after it.

    It stands here so that a method which asks for it has this code in its digest.
    """

    name: str
    ops: int
    magnitude: int
    cutout: float = 0.0
    """The largest side of a square that is blanked in place of the recipe's, as a share of the image's side."""


def draw_operations(count: int, ops: int, generator: Generator) -> Tensor:
    """Draw (operation, whether it is reversed) for each of so many images, `ops` times: int64 (count, ops, 2)."""
    drawn = [torch.randint(below, (count,), generator=generator) for _ in range(ops) for below in (len(OPERATIONS), 2)]
    return torch.stack(drawn, dim=1).view(count, ops, 2)


def rand_augment(images: Tensor, operations: Tensor, magnitude: int) -> Tensor:
    """Apply operations (B,n,2), on the device of the images, to uint8 images (B,3,H,W); magnitudes go from 0 to 30."""
    for choice, negative in (drawn.unbind(1) for drawn in operations.unbind(1)):
        images = apply_operations(images, choice, negative, magnitude)
    return images


def apply_operations(images: Tensor, choice: Tensor, negative: Tensor, magnitude: int) -> Tensor:
    """Apply to each image the operation `choice` (B,), reversed where `negative` (B,) is 1.

    The CPU runs each operation on the images that drew it. A GPU, which would have to tell the host how many those are,
    runs every operation on all images; the results are the same.
    """
    run = by_operation if images.device.type == "cpu" else everywhere
    return run(images, choice, negative, magnitude)


def by_operation(images: Tensor, choice: Tensor, negative: Tensor, magnitude: int) -> Tensor:
    """Sort images by operation, run each operation once on those that drew it, and put them back in order."""
    order = choice.argsort(stable=True)
    sizes = choice.bincount(minlength=len(OPERATIONS)).tolist()
    sizes = [sum(sizes[:GEOMETRIC]), *sizes[GEOMETRIC:]]
    done = []
    parts = images.index_select(0, order).split(sizes)
    drawn = zip(choice[order].split(sizes), negative[order].split(sizes), strict=True)
    for operation, part, (chosen, sign) in zip(_BATCHED, parts, drawn, strict=True):
        if len(part):
            done.append(operation(part, chosen, sign, magnitude))
    return torch.cat(done).index_select(0, order.argsort())


def everywhere(images: Tensor, choice: Tensor, negative: Tensor, magnitude: int) -> Tensor:
    """Run every operation on all images and take of each image the one that it drew, reading nothing of the draws."""
    drew = choice.view(-1, 1, 1, 1)
    moved = _move(images, choice.clamp(max=GEOMETRIC - 1), negative, magnitude)
    done = torch.where(drew < GEOMETRIC, moved, images)
    for number, operation in enumerate(_BATCHED[1:-1], start=GEOMETRIC):  # the last leaves images as they are
        done = torch.where(drew == number, operation(images, choice, negative, magnitude), done)
    return done


@functools.cache
def _level(low: float, high: float, magnitude: int) -> float:
    return float(torch.linspace(low, high, LEVELS)[magnitude])


@functools.lru_cache(maxsize=8)
def _matrices(magnitude: int, height: int, width: int, device: torch.device) -> Tensor:
    """Return (operation, sign, 3, 2): from a pixel of the result, about the centre, to its origin in -1..1.

    A point (x,y,1) in pixels is multiplied from the left.
    """
    shear, degrees = _level(0.0, 0.3, magnitude), _level(0.0, 30.0, magnitude)
    across, down = (int(_level(0.0, 150 / 331 * length, magnitude)) for length in (width, height))
    matrices = []
    for sign in (1.0, -1.0):
        s, angle = sign * shear, math.radians(sign * degrees)
        cos, sin = math.cos(angle), math.sin(angle)
        matrices.append(
            [
                [[1.0, s, s * height / 2], [0.0, 1.0, 0.0]],  # shears leave the top row or left column in place
                [[1.0, 0.0, 0.0], [s, 1.0, s * width / 2]],
                [[1.0, 0.0, -sign * across], [0.0, 1.0, 0.0]],
                [[1.0, 0.0, 0.0], [0.0, 1.0, -sign * down]],
                [[cos, -sin, 0.0], [sin, cos, 0.0]],  # counter-clockwise for a positive angle, y pointing down
            ]
        )
    table = torch.tensor(matrices).transpose(0, 1).transpose(2, 3) / torch.tensor([0.5 * width, 0.5 * height])
    return table.to(device)


def _move(images: Tensor, choice: Tensor, negative: Tensor, magnitude: int) -> Tensor:
    height, width = images.shape[-2:]
    matrix = _matrices(magnitude, height, width, images.device)[choice, negative]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device) - (height - 1) / 2
    points = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width), x.new_ones(height, width)], dim=-1)
    grid = (points.view(1, -1, 3) @ matrix).view(-1, height, width, 2)
    moved = F.grid_sample(images.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return moved.to(torch.uint8)


def _blend(images: Tensor, other: Tensor | float, negative: Tensor, magnitude: int) -> Tensor:
    """Return factor * images + (1 - factor) * other, where factor is 1 plus or minus the strength."""
    strength, reverse = _level(0.0, 0.9, magnitude), negative.view(-1, 1, 1, 1) > 0
    up, down = 1 + strength, 1 - strength
    factor, rest = torch.where(reverse, down, up), torch.where(reverse, 1 - down, 1 - up)
    return (factor * images + rest * other).clamp_(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).to(torch.uint8).unsqueeze(1)


def _brightness(images: Tensor, _choice: Tensor, negative: Tensor, magnitude: int) -> Tensor:
    return _blend(images, 0.0, negative, magnitude)


def _color(images: Tensor, _choice: Tensor, negative: Tensor, magnitude: int) -> Tensor:
    return _blend(images, _grey(images), negative, magnitude)


def _contrast(images: Tensor, _choice: Tensor, negative: Tensor, magnitude: int) -> Tensor:
    return _blend(images, _grey(images).float().mean(dim=(1, 2, 3), keepdim=True), negative, magnitude)


def _sharpness(images: Tensor, _choice: Tensor, negative: Tensor, magnitude: int) -> Tensor:
    if min(images.shape[-2:]) <= 2:
        return images
    # The 3x3 kernel of ones with a 5 in its middle, over 13; sums of shifts beat a depthwise convolution on the CPU.
    blurred = images.float()
    rows = blurred[..., :-2, :] + blurred[..., 1:-1, :] + blurred[..., 2:, :]
    square = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    blurred[..., 1:-1, 1:-1] = ((square + 4 * blurred[..., 1:-1, 1:-1]) / 13).round_()
    return _blend(images, blurred, negative, magnitude)


def _posterize(images: Tensor, _choice: Tensor, _negative: Tensor, magnitude: int) -> Tensor:
    dropped = round(magnitude / ((LEVELS - 1) / 4))
    return images & (256 - (1 << dropped))


def _solarize(images: Tensor, _choice: Tensor, _negative: Tensor, magnitude: int) -> Tensor:
    # In uint8 throughout: a whole threshold, and 255 - x as x ^ 255, where -1 is 255.
    bright = images >= math.ceil(_level(255.0, 0.0, magnitude))
    return images ^ bright.to(torch.uint8).neg_()


def _autocontrast(images: Tensor, _choice: Tensor, _negative: Tensor, _magnitude: int) -> Tensor:
    low = images.amin(dim=(2, 3), keepdim=True).float()
    high = images.amax(dim=(2, 3), keepdim=True).float()
    flat = low == high
    scale = torch.where(flat, 1.0, 255 / (high - low).clamp_min(1))
    return ((images - low.masked_fill(flat, 0.0)) * scale).clamp_(0, 255).to(torch.uint8)


def _equalize(images: Tensor, _choice: Tensor, _negative: Tensor, _magnitude: int) -> Tensor:
    """Spread the values of each channel evenly; a channel with too few values stays as it is."""
    values = images.flatten(2).flatten(0, 1).long()
    channels, pixels = values.shape
    places = values + 256 * torch.arange(channels, device=images.device)[:, None]
    counts = torch.zeros(channels * 256, dtype=torch.long, device=images.device)
    counts = counts.scatter_add_(0, places.flatten(), torch.ones_like(places).flatten()).view(channels, 256)
    brightest = counts.gather(1, values.amax(dim=1, keepdim=True))
    step = (pixels - brightest) // 255
    table = (counts.cumsum(1) + step // 2) // step.clamp_min(1)
    table = F.pad(table, [1, 0])[:, :-1].clamp(0, 255)
    spread = torch.where(step == 0, values, table.gather(1, values))
    return spread.to(torch.uint8).view_as(images)


def _identity(images: Tensor, _choice: Tensor, _negative: Tensor, _magnitude: int) -> Tensor:
    return images


_BATCHED: tuple[Callable[[Tensor, Tensor, Tensor, int], Tensor], ...] = (
    _move,
    _brightness,
    _color,
    _contrast,
    _sharpness,
    _posterize,
    _solarize,
    _autocontrast,
    _equalize,
    _identity,
)
