"""Pictures are measured, decoded and stored as JPEG or PNG, or refused with the reason."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from catalogue_files import huge_png, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_pipelines import images
from data_pipelines.images import MAX_BYTES, check_image


def test_a_truncated_picture_is_found_by_decoding_it(tmp_path: Path) -> None:
    whole = picture(size=(64, 64))
    assert check_image(whole).encoded == whole
    assert check_image(whole[: len(whole) // 2]).reason == "undecodable_image"
    png = picture(size=(64, 64), kind="PNG")
    assert check_image(png[: len(png) // 2]).reason == "undecodable_image"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pictures_are_measured_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("decoded")

    for name in ("PngImagePlugin.PngImageFile", "JpegImagePlugin.JpegImageFile"):
        monkeypatch.setattr(f"PIL.{name}.load", never)
    for size in ((7_000, 7_000), (100_000, 1_000), (2**31 - 1, 2**31 - 1)):
        assert check_image(huge_png(*size)).reason == "image_too_large"
    assert check_image(picture(size=(2, 90))).reason == "image_too_small"
    assert check_image(bytes(MAX_BYTES + 1)).reason == "image_too_large"


def test_the_pixel_limit_is_inclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    assert check_image(picture(size=(10, 10))).reason == ""
    assert check_image(picture(size=(10, 11))).reason == "image_too_large"


@pytest.mark.parametrize(("kind", "becomes"), [("WEBP", "JPEG"), ("GIF", "PNG"), ("BMP", "PNG"), ("TIFF", "PNG")])
def test_other_formats_become_jpeg_or_png(kind: str, becomes: str) -> None:
    original = picture(size=(32, 32), kind=kind)
    with Image.open(io.BytesIO(check_image(original).encoded)) as image, Image.open(io.BytesIO(original)) as source:
        assert (image.format, image.mode, image.size) == (becomes, "RGB", (32, 32))
        difference = np.abs(np.asarray(image, float) - np.asarray(source.convert("RGB"), float)).mean()
    assert difference == 0 if becomes == "PNG" else difference < 25  # noise is what JPEG keeps worst


def test_transparency_survives() -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4] = (200, 10, 20, 255)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True)
    with Image.open(io.BytesIO(check_image(buffer.getvalue()).encoded)) as image:
        assert image.format == "PNG"
        alpha = np.asarray(image)[..., 3]
    assert alpha[:, :4].min() == 255
    assert alpha[:, 4:].max() == 0


def test_pictures_are_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    with Image.open(io.BytesIO(check_image(picture(size=(40, 20), exif=exif)).encoded)) as image:
        assert image.size == (20, 40)


@settings(deadline=None)
@given(data=st.binary(max_size=200), cut=st.integers(0, 400), at=st.integers(0, 400))
def test_no_bytes_make_the_picture_check_fail(data: bytes, cut: int, at: int) -> None:
    sound = picture(kind="PNG")
    for candidate in (data, sound[:cut] + data, sound[:at] + data[:4] + sound[at + 4 :]):
        result = check_image(candidate)
        assert bool(result.encoded) != bool(result.reason)
