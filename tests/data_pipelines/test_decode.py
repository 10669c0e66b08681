"""Pictures come out as Pillow sees them, whole, undistorted and in the middle."""

from __future__ import annotations

import io
import resource
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encode, photo
from PIL import Image

from data_pipelines.decode import decode_pictures
from data_pipelines.images import MAX_PIXELS


def with_pillow(encoded: bytes, height: int, width: int) -> np.ndarray:
    """The reference: the same job done by Pillow."""
    image: Image.Image = Image.open(io.BytesIO(encoded))
    if "A" in image.getbands() or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("RGB")
    scale = min(height / image.height, width / image.width)
    size = (
        min(width, max(1, int(image.width * scale + 0.5))),
        min(height, max(1, int(image.height * scale + 0.5))),
    )
    canvas = Image.new("RGB", (width, height), "white")
    canvas.paste(image.resize(size, Image.Resampling.BILINEAR), ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(canvas)


def decoded(encoded: bytes, height: int, width: int) -> np.ndarray:
    [pixels], bad = decode_pictures([encoded], height, width)
    assert not bad
    return pixels


def difference(encoded: bytes, height: int, width: int) -> float:
    ours = decoded(encoded, height, width)
    assert ours.dtype == np.uint8
    return float(np.abs(ours.astype(float) - with_pillow(encoded, height, width)).mean())


def transparent(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


@pytest.mark.parametrize("size", [(80, 60), (60, 80), (300, 200), (20, 33), (64, 64), (170, 130), (700, 1000)])
@pytest.mark.parametrize(
    "encoded_as",
    [
        lambda image: encode(image, "JPEG", quality=92),
        lambda image: encode(image, "JPEG", progressive=True),
        lambda image: encode(image.convert("L"), "JPEG"),
        lambda image: encode(image, "PNG"),
        lambda image: encode(image.convert("L"), "PNG"),
        lambda image: encode(image.convert("LA"), "PNG"),
        lambda image: encode(image.convert("1"), "PNG"),
        lambda image: encode(image.convert("P"), "PNG"),
        lambda image: encode(image.quantize(16), "PNG", bits=4),
        lambda image: encode(image.quantize(4), "PNG", bits=2),
        lambda image: encode(image.quantize(16), "PNG", transparency=bytes(range(0, 256, 16))),
        lambda image: encode(image.quantize(16), "PNG", transparency=3),
        lambda image: encode(transparent(image), "PNG"),
    ],
    ids=[
        "jpeg",
        "progressive",
        "grey jpeg",
        "png",
        "grey png",
        "grey alpha png",
        "one bit png",
        "palette png",
        "16 colours png",
        "4 colours png",
        "palette png with opacities",
        "palette png with a clear colour",
        "alpha png",
    ],
)
def test_as_pillow_sees_it(encoded_as: Any, size: tuple[int, int]) -> None:
    assert difference(encoded_as(photo(*size)), 80, 64) < 1


def test_cmyk_as_adobe_writes_it() -> None:
    """Inverted, as Pillow writes it, too."""
    encoded = encode(photo(80, 60).convert("CMYK"), "JPEG", quality=92)
    assert b"Adobe" in encoded
    assert difference(encoded, 80, 64) < 3


def test_cmyk_that_is_not_inverted() -> None:
    encoded = encode(Image.new("CMYK", (16, 16), (200, 100, 50, 25)), "JPEG", quality=95)
    start = encoded.index(b"\xff\xee")  # the segment that says Adobe
    plain = encoded[:start] + encoded[start + 2 + struct.unpack_from(">H", encoded, start + 2)[0] :]
    # Without it, what the file holds (the inverted levels) is taken as it is.
    inks = 255 - np.array([200, 100, 50, 25])
    expected = (255 - inks[:3]) * (255 - inks[3]) / 255
    assert np.abs(decoded(plain, 16, 16)[8, 8] - expected).max() < 4


def test_sixteen_bits_keep_the_upper_eight() -> None:
    levels = (np.indices((40, 40)).sum(0) * 800).astype(np.uint16)
    pixels = decoded(encode(Image.fromarray(levels), "PNG"), 40, 40)
    assert np.array_equal(pixels, np.repeat((levels >> 8)[..., None], 3, axis=2))


def test_a_picture_of_the_right_size_is_left_as_it_is() -> None:
    image = photo(80, 60)
    pixels = decoded(encode(image, "PNG"), 80, 64)
    assert np.array_equal(pixels[:, 2:62], np.asarray(image))
    assert (pixels[:, :2] == 255).all()
    assert (pixels[:, 62:] == 255).all()


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    box=st.sampled_from([(80, 64), (1, 1), (3, 90), (90, 7), (37, 64)]),  # each is compiled once
    level=st.integers(0, 250),
    form=st.sampled_from(["PNG", "JPEG"]),
)
def test_keeps_the_aspect_and_the_middle(size: tuple[int, int], box: tuple[int, int], level: int, form: str) -> None:
    """A plain picture covers exactly the largest rectangle of its shape, centred; the rest is white."""
    pixels = decoded(encode(Image.new("L", size[::-1], level), form), *box)
    assert pixels.shape == (*box, 3)
    covered = (pixels == level).all(axis=2)
    assert ((pixels == 255).all(axis=2) | covered).all()
    heights, widths = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
    assert covered.sum() == len(heights) * len(widths)
    scale = min(box[0] / size[0], box[1] / size[1])
    for span, length, room in ((heights, size[0], box[0]), (widths, size[1], box[1])):
        assert abs(len(span) - max(1, length * scale)) <= 0.5
        assert span[0] == (room - len(span)) // 2


@pytest.mark.parametrize(
    "encoded",
    [
        encode(photo(80, 60), "JPEG")[:700],
        encode(photo(80, 60), "PNG")[:400],
        encode(photo(80, 60), "GIF"),
        encode(photo(80, 60), "BMP"),
        encode(photo(80, 60), "WEBP"),
        b"not a picture",
        b"a text that is longer than any header is",
        b"x",
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
    ],
    ids=["cut jpeg", "cut png", "gif", "bmp", "webp", "text", "long text", "one byte", "nothing", "png", "jpeg"],
)
def test_anything_else_is_refused(encoded: bytes) -> None:
    pixels, bad = decode_pictures([encoded], 80, 64)
    assert not pixels.any()
    assert bad == {0: f"the picture is not a sound JPEG or PNG file ({len(encoded)} bytes, beginning {encoded[:8]!r})"}


def huge_png(side: int) -> bytes:
    """A grey picture of side x side in a few bytes a row, made without ever holding its pixels."""

    def part(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(1)
    row = bytes(1 + side // 8)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", rows) + part(b"IEND", b"")


def huge_jpeg(height: int, width: int) -> bytes:
    """A small picture whose header says that it is large."""
    encoded = bytearray(encode(photo(16, 16), "JPEG"))
    frame = encoded.index(b"\xff\xc0")
    encoded[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(encoded)


@pytest.mark.parametrize("encoded", [huge_png(30_000), huge_jpeg(30_000, 30_000)], ids=["png", "jpeg"])
def test_gigapixels_are_refused_unread(encoded: bytes) -> None:
    assert len(encoded) < 1_000_000
    decode_pictures([encode(photo(9, 9), "PNG")], 8, 8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pixels, bad = decode_pictures([encoded], 8, 8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; a byte a pixel would be 900,000
    assert not pixels.any()
    assert bad == {0: f"the picture's header says 30000x30000 pixels, at most {MAX_PIXELS} are decoded"}


def test_sizes_up_to_the_limit_are_decoded() -> None:
    assert decode_pictures([huge_jpeg(10_000, 4000)], 8, 8)[1] == {}
    _, bad = decode_pictures([huge_jpeg(10_000, 4001)], 8, 8)
    assert bad == {0: f"the picture's header says 4001x10000 pixels, at most {MAX_PIXELS} are decoded"}


SOUND = [encode(photo(30, 20), "JPEG"), encode(photo(30, 20), "JPEG", progressive=True), encode(photo(30, 20), "PNG")]


NEIGHBOURS = np.stack([decoded(SOUND[2], 16, 12), decoded(SOUND[0], 16, 12)])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    encoded = bytearray(draw(st.sampled_from(SOUND)))
    for bit in draw(st.lists(st.integers(0, 8 * len(encoded) - 1), max_size=6)):
        encoded[bit // 8] ^= 1 << bit % 8
    return bytes(encoded[: draw(st.integers(0, len(encoded)))])


@settings(max_examples=200, deadline=None)
@given(
    encoded=st.one_of(damaged(), st.binary(max_size=100), st.binary(max_size=60).map(lambda end: SOUND[0][:200] + end))
)
def test_no_bytes_bring_it_down(encoded: bytes) -> None:
    pixels, bad = decode_pictures([SOUND[2], encoded, SOUND[0]], 16, 12)
    assert pixels.shape == (3, 16, 12, 3)
    assert set(bad) <= {1}
    assert not bad or not pixels[1].any()
    assert np.array_equal(pixels[[0, 2]], NEIGHBOURS)
