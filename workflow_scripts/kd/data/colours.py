"""Bring pictures of every kind to 8 bits a channel of red, green and blue, or refuse them by name.

Like torchvision's ImageFolder: the first frame of several, pixels as they are stored, whatever EXIF says of how the
camera was held (Pillow itself turns TIFFs), and colour profiles left aside. Unlike it: 16 bits are scaled by their
range, and transparent pixels are laid on white, where Pillow's own conversion shows the colour hidden under them.
"""

import contextlib
from collections import Counter

import numpy as np
from PIL import Image

from kd.tools.errors import UserError

DEEP = "with 16 bits a channel, scaled to 8"
TRANSPARENT = "with transparent pixels, laid on white"
FRAMES = "with several frames, of which the first is taken"
TURNED = "with an EXIF orientation, which is not applied"

_PLAIN_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"}
_DEEP_FORMATS = {"PNG", "TIFF", "PPM", "JPEG2000"}  # whose integers of 16 bits are known to count from 0 to a maximum
_OTHER_PROGRAMS = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}
_NOTHING_SHOWN_MEANS_ALL = {"BMP", "TGA"}  # writers of these leave the fourth byte 0
_GREY_STEPS = {"L;2": 85, "L;4": 17}  # what Pillow multiplies greys of 2 and 4 bits by
_SAMPLE_FORMAT, _PHOTOMETRIC, _ORIENTATION = 339, 262, 274
_UNSIGNED = {1, 4}  # values of a TIFF's sample format: unsigned, and unknown, which is read as such


def as_rgb(opened: Image.Image, name: str, remarks: Counter[str]) -> Image.Image:
    """Return an opened picture as RGB and count in `remarks` what was done about it.

    Errors: UserError for pixels that have no defined range (floats, integers of 32 bits, signed ones), for colour
    spaces that have no fixed way to RGB, and for formats that Pillow leaves to other programs; Pillow's own errors.
    """
    if opened.format in _OTHER_PROGRAMS:
        raise UserError(f"{name} is {opened.format}, no picture that can be read here: save it as PNG")
    deep, highest = _highest(opened)
    if opened.format == "PNG" and "transparency" in opened.info:
        _check_colour_key(opened, name, deep)
    if opened.mode in {"I", "F"} or opened.mode.startswith("I;") or _is_signed(opened):
        if highest is None:
            raise UserError(
                f"{name} has pixels of a range that nothing defines ({_kind(opened)}): scale it to 8 bits a channel"
            )
        picture = Image.fromarray(_scaled(opened, highest)).convert("RGB")
    elif opened.mode in _PLAIN_MODES:
        picture = _opaque(opened, remarks)
    else:
        raise UserError(f"{name} has colours of mode {opened.mode}, which are not read: save it as RGB")
    remarks[DEEP] += deep
    _note(opened, remarks)
    return picture


def _highest(opened: Image.Image) -> tuple[bool, int | None]:
    """Tell whether a picture has more than 8 bits a channel, and what then stands for full brightness, if known."""
    raw = str([tile[3] for tile in opened.tile])
    if _is_signed(opened):
        return True, None
    if opened.mode == "I" and opened.format in {"PNG", "PPM"}:  # which Pillow has brought to 16 bits
        return True, 65535
    if opened.mode.startswith("I;16") and opened.format in _DEEP_FORMATS:
        return True, 4095 if "I;12" in raw else 65535
    plain_map = opened.format == "PPM" and any(isinstance(tile[3], tuple) and tile[3][1] > 255 for tile in opened.tile)
    return ";16" in raw or plain_map, None


def _check_colour_key(opened: Image.Image, name: str, deep: bool) -> None:
    """Bring the one transparent grey of a PNG to the scale of its pixels, as Pillow does for them and not for it.

    Errors: UserError for 16 bits a channel: only part of each pixel is left to tell which colours are that one.
    """
    if deep:
        raise UserError(
            f"{name} has 16 bits a channel and a transparent colour, which is not read: save it with 8 bits"
        )
    raw = opened.tile[0][3]
    if raw in _GREY_STEPS:
        opened.info["transparency"] *= _GREY_STEPS[raw]


def _is_signed(opened: Image.Image) -> bool:
    if opened.format != "TIFF":
        return False
    formats = opened.tag_v2.get(_SAMPLE_FORMAT, 1)  # type: ignore[attr-defined]
    return not set(formats if isinstance(formats, tuple) else (formats,)) <= _UNSIGNED


def _kind(opened: Image.Image) -> str:
    kind = {"F": "floats", "I": "integers of 32 bits, or signed"}.get(opened.mode, "signed integers")
    return f"{kind}, in {opened.format}"


def _scaled(opened: Image.Image, highest: int) -> np.ndarray:
    """Return brightness (H, W) uint8 of integers from 0 to `highest`, rounded to the nearest."""
    values = np.asarray(opened).astype(np.int64)
    if opened.format == "TIFF" and opened.tag_v2.get(_PHOTOMETRIC) == 0:  # type: ignore[attr-defined]
        values = highest - values  # 0 is white, which Pillow heeds for 8 bits only
    return ((values * 255 + highest // 2) // highest).clip(0, 255).astype(np.uint8)


def _opaque(opened: Image.Image, remarks: Counter[str]) -> Image.Image:
    if not opened.has_transparency_data:
        return opened.convert("RGB")
    layer = (opened.convert("LA") if opened.mode == "La" else opened).convert("RGBA")
    lowest, highest = layer.getchannel("A").getextrema()
    if lowest == 255 or (highest == 0 and opened.format in _NOTHING_SHOWN_MEANS_ALL):
        return opened.convert("RGB")
    remarks[TRANSPARENT] += 1
    ground = Image.new("RGBA", layer.size, "white")
    ground.alpha_composite(layer)
    return ground.convert("RGB")


def _note(opened: Image.Image, remarks: Counter[str]) -> None:
    # whatever is wrong with later frames or with EXIF, the picture itself has been read by now
    with contextlib.suppress(Exception):
        remarks[TURNED] += "exif" in opened.info and opened.getexif().get(_ORIENTATION, 1) in range(2, 9)
    with contextlib.suppress(Exception):
        remarks[FRAMES] += bool(getattr(opened, "is_animated", False))
