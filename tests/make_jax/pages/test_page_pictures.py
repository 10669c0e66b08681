"""Product pictures on pages: small, upright, on white, and never a reason to fail; or to the bit."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from make_jax.pages.pictures import THUMBNAIL, lossless, thumbnail


def png(size: tuple[int, int] = (60, 80)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    return buffer.getvalue()


def decode(uri: str | None) -> Image.Image:
    assert uri is not None
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_thumbnails_are_small_and_keep_their_shape() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1500, 1000, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    uri = thumbnail(buffer.getvalue())
    image = decode(uri)
    assert image.width <= THUMBNAIL[0]
    assert image.height <= THUMBNAIL[1]
    assert image.width / image.height == pytest.approx(1000 / 1500, abs=0.01)
    assert len(uri or "") < 60_000
    assert decode(thumbnail(png((6, 8)))).size == (6, 8)  # never enlarged


def test_thumbnails_stand_upright_on_white() -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    Image.new("RGB", (80, 40), "blue").save(buffer, "JPEG", exif=exif)
    assert decode(thumbnail(buffer.getvalue())).size == (40, 80)
    buffer = io.BytesIO()
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(buffer, "PNG")
    assert decode(thumbnail(buffer.getvalue())).getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("broken", [None, b"", b"GIF89a", png()[:60], b"\xff\xd8\xff" * 9])
def test_a_picture_that_does_not_decode_is_none(broken: bytes | None) -> None:
    assert thumbnail(broken) is None


@given(height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 99))
def test_pixels_are_shown_to_the_bit(height: int, width: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(decode(lossless(pixels))), pixels)
