"""Pictures of every kind become 8 bits of red, green and blue, or are refused by name."""

import io
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from kd.data.colours import DEEP, FRAMES, TRANSPARENT, TURNED
from kd.data.decoding import decode
from kd.formats.trees import PICTURE_SUFFIXES
from kd.tools.errors import UserError

GREY16 = np.array([[0, 256, 32768], [65535, 257, 65278]], np.uint16)
GREY8 = [[0, 1, 128], [255, 1, 254]]  # divided by 257 and rounded


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(colour: int, depth: int, values: np.ndarray, chunks: bytes = b"", width: int | None = None) -> bytes:
    """A PNG of values (H, W, channels) of a depth that Pillow does not write; of bytes, with a width, below 8 bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = len(values), width or values.shape[1]
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + chunks + end


def tiff(values: np.ndarray, sample_format: int, bits: int, photometric: int = 1) -> bytes:
    """An uncompressed grey TIFF of values (H, W) in the types that Pillow does not write."""
    height, width = values.shape
    data = values.tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: height}
    tags |= {279: len(data), 339: sample_format}
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def pixels(data: bytes) -> tuple[list, Counter]:
    remarks = Counter()
    image = decode(data, "picture", remarks)
    assert image.mode == "RGB"
    return np.asarray(image).tolist(), +remarks


def grey(values: list) -> list:
    return [[[value] * 3 for value in row] for row in values]


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.fromarray(GREY16), "PNG"),
        saved(Image.fromarray(GREY16), "TIFF"),
        saved(Image.fromarray(GREY16), "TIFF", compression="tiff_lzw"),
        saved(Image.fromarray(GREY16), "PPM"),
        saved(Image.fromarray(GREY16), "JPEG2000", irreversible=False),
        tiff(GREY16.astype("<u2"), 1, 16),
        tiff((65535 - GREY16).astype("<u2"), 1, 16, photometric=0),
        b"P2 3 2 65535\n0 256 32768 65535 257 65278\n",
    ],
    ids=["png", "tiff", "lzw", "pgm", "jp2", "handmade", "white-is-zero", "plain"],
)
def test_sixteen_bits_are_scaled_by_their_range(data):
    """Pillow's own conversion clips: whatever is brighter than 255 of 65535 becomes white."""
    assert pixels(data) == (grey(GREY8), {DEEP: 1})


def test_twelve_bits_are_scaled_by_their_range():
    assert pixels(b"P5 2 1 1023\n" + struct.pack(">2H", 1023, 512)) == (grey([[255, 128]]), {DEEP: 1})
    packed = np.array([[0xFF, 0xF8, 0x00]], np.uint8)  # two values of 12 bits: 4095 and 2048
    assert pixels(tiff(packed, 1, 12).replace(struct.pack("<HHII", 256, 4, 1, 3), struct.pack("<HHII", 256, 4, 1, 2)))[
        0
    ] == grey([[255, 128]])


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)], ids=["rgb", "la", "rgba"])
def test_sixteen_bits_of_colour_keep_their_high_byte(colour, channels):
    values = np.full((1, 2, channels), 65535, np.uint16)
    values[0, 0, : channels - (channels in (2, 4))] = 0x8000
    assert pixels(png(colour, 16, values)) == ([[[128] * 3, [255] * 3]], {DEEP: 1})
    assert pixels(b"P6 1 1 65535\n" + struct.pack(">3H", 65535, 32896, 0)) == ([[[255, 128, 0]]], {DEEP: 1})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            saved(Image.new("F", (2, 2), 0.5), "TIFF"),
            "picture has pixels of a range that nothing defines .floats, in TIF",
        ),
        (saved(Image.new("I", (2, 2), 70000), "TIFF"), "nothing defines .integers of 32 bits, or signed"),
        (tiff(GREY16.astype("<i2"), 2, 16), "nothing defines"),
        (tiff(GREY16.astype("<u4"), 1, 32), "nothing defines"),
        (tiff(np.zeros((2, 2), np.int8), 2, 8), "nothing defines .signed"),
        (saved(Image.new("LAB", (2, 2)), "TIFF"), "colours of mode LAB, which are not read"),
        (b"Pf\n1 1\n-1.0\n" + struct.pack("<f", 0.5), "nothing defines .floats, in PPM"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "picture is EPS"),
        (b"", "picture is not a readable image: it is empty"),
        (b"no picture", "picture is not a readable image: cannot identify its format"),
    ],
    ids=["float", "int32", "int16", "uint32", "int8", "lab", "pfm", "eps", "empty", "text"],
)
def test_pixels_without_a_range_are_refused_by_name(data, message):
    with pytest.raises(UserError, match=message):
        decode(data, "picture")


def test_transparent_pixels_lie_on_white():
    """What is hidden under them is no part of the picture: drawings on nothing would be black on black."""
    drawing = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    drawing.putpixel((1, 0), (10, 20, 30, 255))
    drawing.putpixel((2, 0), (0, 0, 0, 128))
    expected = [[[255] * 3, [10, 20, 30], [127] * 3]]
    assert pixels(saved(drawing, "PNG")) == (expected, {TRANSPARENT: 1})
    assert pixels(saved(drawing, "WEBP", lossless=True, exact=True)) == (expected, {TRANSPARENT: 1})
    faint = Image.new("LA", (1, 1), (7, 0))
    assert pixels(saved(faint, "PNG")) == (grey([[255]]), {TRANSPARENT: 1})


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palettes_transparent_colour_lies_on_white(kind):
    image = Image.new("P", (2, 1))
    image.putpalette([250, 1, 2, 10, 20, 30])
    image.putpixel((1, 0), 1)
    assert pixels(saved(image, kind, transparency=0)) == ([[[255] * 3, [10, 20, 30]]], {TRANSPARENT: 1})
    assert pixels(saved(image, kind)) == ([[[250, 1, 2], [10, 20, 30]]], {})


@pytest.mark.parametrize(("depth", "step"), [(1, 255), (2, 85), (4, 17), (8, 1)])
@pytest.mark.parametrize("key", [0, 1])
def test_a_transparent_grey_of_a_png_lies_on_white(depth, step, key):
    """Its value counts in the file's own bits."""
    data = png(0, depth, packed_greys([0, 1], depth), transparent_colour(key), width=2)
    expected = [255 if value == key else value * step for value in (0, 1)]
    assert pixels(data) == (grey([expected]), {TRANSPARENT: 1})


@pytest.mark.parametrize(("colour", "key"), [(0, [7]), (2, [7, 8, 9])])
def test_a_transparent_colour_of_16_bits_is_refused(colour, key):
    values = np.arange(6 * len(key)).reshape(2, 3, len(key))
    with pytest.raises(UserError, match="picture has 16 bits a channel and a transparent colour, which is not read"):
        decode(png(colour, 16, values, transparent_colour(*key)), "picture")


def packed_greys(values: list[int], depth: int) -> np.ndarray:
    """One row of greys, as bytes (1, B, 1)."""
    bits = "".join(f"{value:0{depth}b}" for value in values)
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    return np.array([int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)]).reshape(1, -1, 1)


def transparent_colour(*values: int) -> bytes:
    """The chunk of a PNG that makes one colour transparent."""
    body = b"tRNS" + struct.pack(f">{len(values)}H", *values)
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_opaque_alpha_changes_nothing(mode):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)).convert(mode)
    assert pixels(saved(image, "PNG")) == (np.asarray(image.convert("RGB")).tolist(), {})


def test_alpha_that_is_nought_everywhere_means_nothing_in_a_tga():
    image = Image.new("RGBA", (1, 1), (1, 2, 3, 0))
    assert pixels(saved(image, "TGA")) == ([[[1, 2, 3]]], {})
    assert pixels(saved(image, "PNG")) == ([[[255] * 3]], {TRANSPARENT: 1})


@pytest.mark.parametrize(
    ("mode", "kind", "expected"),
    [
        ("L", "JPEG", [200] * 3),
        ("CMYK", "TIFF", [200] * 3),
        ("CMYK", "JPEG", [200] * 3),
        ("YCbCr", "TIFF", [200] * 3),
        ("RGB", "QOI", [200] * 3),
        ("RGB", "AVIF", [200] * 3),
        ("P", "PCX", [204] * 3),
    ],
)
def test_other_modes_of_8_bits(mode, kind, expected):
    found, remarks = pixels(saved(Image.new("RGB", (4, 4), (200, 200, 200)).convert(mode), kind))
    np.testing.assert_allclose(found, np.broadcast_to(expected, (4, 4, 3)), atol=2)
    assert not remarks


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_fewer_than_8_bits_use_the_whole_range(depth):
    assert pixels(png(0, depth, np.array([[[0xFF]], [[0x00]]], np.uint8)))[0] == grey([[255], [0]])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_the_first_frame_of_several_is_taken(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    found, remarks = pixels(saved(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert remarks == {FRAMES: 1}
    np.testing.assert_allclose(found[0][0], [250, 0, 0], atol=6)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_counted_but_not_applied(kind):
    """As in torchvision's ImageFolder, so that numbers compare."""
    for orientation, remarks in ((6, {TURNED: 1}), (1, {}), (77, {})):
        exif = Image.Exif()
        exif[274] = orientation
        data = saved(Image.new("RGB", (4, 2)), kind, exif=exif)
        assert pixels(data) == (np.zeros((2, 4, 3)).tolist(), remarks)


def test_the_suffixes_are_those_of_what_pillow_opens_itself():
    """A newer Pillow may open more: then decide about its suffixes."""
    elsewhere = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}  # left to other programs, or only named
    opened = {s for s, kind in Image.registered_extensions().items() if kind in Image.OPEN and kind not in elsewhere}
    assert opened - PICTURE_SUFFIXES == set()
    assert PICTURE_SUFFIXES - opened <= {".mpo", ".avif", ".avifs"}


KINDS = [
    "PNG",
    "JPEG",
    "GIF",
    "BMP",
    "TIFF",
    "WEBP",
    "PPM",
    "TGA",
    "PCX",
    "QOI",
    "JPEG2000",
    "ICO",
    "DDS",
    "SGI",
    "AVIF",
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_give_pixels_or_one_sentence(kind):
    """Pillow's decoders raise nearly anything; 40 flips and cuts of each kind, the same every time."""
    rng = np.random.default_rng(len(kind))
    whole = np.frombuffer(saved(Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)), kind), np.uint8)
    for _ in range(40):
        damaged = whole.copy()
        damaged[rng.integers(0, min(len(whole), 200), 3)] = rng.integers(0, 256, 3)
        data = damaged[: rng.integers(1, len(whole) + 1)].tobytes() if rng.random() < 0.5 else damaged.tobytes()
        try:
            assert decode(data, "picture").mode == "RGB"
        except UserError as error:
            assert str(error).startswith("picture ")  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
