"""Turn encoded images into rows of a packed array.

Decoding processes import this module, so it needs nothing but numpy and Pillow.
"""

import io
import os
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from kd.data.colours import as_rgb
from kd.data.source import Block
from kd.tools.errors import UserError, printable

ONE_COLOUR = "of one colour"
LONGEST = 100  # times the shorter side; a line of pixels, resized to pictures, would need gigabytes

_opened: dict[Path, int] = {}


@dataclass(frozen=True)
class Target:
    """Where the images of one split go."""

    path: Path
    offset: int
    """Bytes before the first image."""
    shape: tuple[int, int, int]


@dataclass
class Written:
    """What is known of a block's images once they are written."""

    histogram: np.ndarray = field(default_factory=lambda: np.zeros((3, 256), np.int64))
    """How often each value occurs in each channel."""
    broken: dict[int, str] = field(default_factory=dict)
    """Why images cannot be used, by their position."""
    remarks: Counter[str] = field(default_factory=Counter)
    """How many images are of a kind that is worth a word."""
    sums: set[int] = field(default_factory=set)
    """Checksums of one image and, if there is one, of another that differs."""


def decode(image: bytes | str | np.ndarray, name: str, remarks: Counter[str] | None = None) -> Image.Image:
    """Return an image as RGB; UserError names the file when it cannot be read."""
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            return as_rgb(opened, printable(name), Counter() if remarks is None else remarks)
    except UserError:
        raise
    # A damaged file makes Pillow's many decoders fail in almost any way.
    except Exception as error:
        raise UserError(f"{printable(name)} is not a readable image: {_reason(image, error)}") from error


def _reason(image: bytes | str, error: Exception) -> str:
    if isinstance(image, str) and os.path.islink(image) and not os.path.exists(image):
        return "a link that leads nowhere"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if not (image if isinstance(image, bytes) else os.path.getsize(image)):
        return "it is empty"
    if isinstance(error, UnidentifiedImageError):
        return "cannot identify its format"
    return printable(str(error)) or type(error).__name__


def fit(image: Image.Image, image_size: int | None, name: str) -> np.ndarray:
    """Return pixels (3, S, S): shorter side resized to `image_size` (bilinear, antialiased), then the centre cropped.

    With `image_size` None the image keeps its size, which must be square.
    """
    if image_size is None and image.width != image.height:
        raise UserError(
            f"{name} is {image.width}x{image.height} pixels, not square: set image_size to resize and crop all images"
        )
    if max(image.size) > LONGEST * min(image.size):
        raise UserError(f"{name} is {image.width}x{image.height} pixels, a line and no picture")
    if image_size is not None and image.size != (image_size, image_size):
        image = _resize_and_crop(image, image_size)
    return np.asarray(image).transpose(2, 0, 1)


def _resize_and_crop(image: Image.Image, side: int) -> Image.Image:
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - side) // 2, (height - side) // 2
    return resized.crop((left, top, left + side, top + side))


def write_block(block: Block, target: Target, image_size: int | None) -> Written:
    """Decode a block and write its images to their rows; those that cannot be used are told in what is returned.

    Rows are written by position, not through a memory map: mapped pages would count as this process's memory.
    """
    written = Written()
    for position, image, name in zip(block.positions, block.images, block.names, strict=True):
        try:
            pixels = fit(decode(image, name, written.remarks), image_size, printable(name))
            _check_shape(pixels.shape, target.shape, printable(name))
        except UserError as error:
            written.broken[int(position)] = str(error)
            continue
        data = pixels.tobytes()
        _write_row(target, int(position), data)
        counts = np.array([np.bincount(channel.ravel(), minlength=256) for channel in pixels])
        written.histogram += counts
        written.remarks[ONE_COLOUR] += bool((counts.max(axis=1) == pixels[0].size).all())
        if len(written.sums) < 2:
            written.sums.add(zlib.crc32(data))
    return written


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
