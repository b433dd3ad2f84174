"""Turn encoded images into rows of a packed array.

Decoding processes import this module, so it needs nothing but numpy and Pillow.
"""

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kd.data.source import Block
from kd.spec.errors import UserError

# What Pillow raises for files that are not images, cut short, damaged, or absurdly large.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)

_opened: dict[Path, int] = {}


@dataclass(frozen=True)
class Target:
    """Where the images of one split go."""

    path: Path
    offset: int
    """Bytes before the first image."""
    shape: tuple[int, int, int]


def decode(image: bytes | str | np.ndarray, name: str) -> Image.Image:
    """Return an image as RGB; UserError names the file when it cannot be read."""
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            return opened.convert("RGB")
    except _BROKEN as error:
        reason = str(error).partition(" <")[0]  # drop the address of the byte buffer
        raise UserError(f"{name} is not a readable image: {reason}") from error


def fit(image: Image.Image, image_size: int | None, name: str) -> np.ndarray:
    """Return pixels (3, S, S): shorter side resized to `image_size` (bilinear, antialiased), then the centre cropped.

    With `image_size` None the image keeps its size, which must be square.
    """
    if image_size is None and image.width != image.height:
        raise UserError(
            f"{name} is {image.width}x{image.height} pixels, not square: set image_size to resize and crop all images"
        )
    if image_size is not None and image.size != (image_size, image_size):
        image = _resize_and_crop(image, image_size)
    return np.asarray(image).transpose(2, 0, 1)


def _resize_and_crop(image: Image.Image, side: int) -> Image.Image:
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - side) // 2, (height - side) // 2
    return resized.crop((left, top, left + side, top + side))


def write_block(block: Block, target: Target, image_size: int | None) -> np.ndarray:
    """Decode a block, write its images to their rows, and return how often each value occurs, (3, 256) int64.

    Rows are written by position, not through a memory map: mapped pages would count as this process's memory.
    """
    histogram = np.zeros((3, 256), np.int64)
    for position, image, name in zip(block.positions, block.images, block.names, strict=True):
        pixels = fit(decode(image, name), image_size, name)
        _check_shape(pixels.shape, target.shape, name)
        _write_row(target, int(position), pixels.tobytes())
        for channel in range(3):
            histogram[channel] += np.bincount(pixels[channel].ravel(), minlength=256)
    return histogram


def _check_shape(found: tuple[int, ...], first: tuple[int, ...], name: str) -> None:
    if found != first:
        raise UserError(
            f"{name} is {found[2]}x{found[1]} pixels and the first image is {first[2]}x{first[1]}:"
            " set image_size to bring all images to one size"
        )


def _write_row(target: Target, position: int, data: bytes) -> None:
    start = target.offset + position * len(data)
    while data:
        written = os.pwrite(_descriptor(target.path), data, start)
        data, start = data[written:], start + written


def _descriptor(path: Path) -> int:
    if path not in _opened:
        _opened[path] = os.open(path, os.O_WRONLY)
    return _opened[path]


def close_targets() -> None:
    """Close the files that `write_block` keeps open between blocks in this process."""
    while _opened:
        os.close(_opened.popitem()[1])
