"""Pictures come out as Pillow sees them, whole, undistorted and in the middle."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_pipelines.decode import AugmentSpec, decode_and_resize
from data_pipelines.errors import DataError
from data_pipelines.host_tensorflow import tf


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """A smooth colourful picture with an edge in it."""
    rows, columns = np.indices((height, width)) / max(height, width)
    phase = np.random.default_rng(seed).uniform(0, 6, 3)
    waves = np.sin(7 * rows[..., None] + 5 * columns[..., None] + phase)
    pixels = 127 + 90 * waves + 30 * (columns > 0.4)[..., None]
    return Image.fromarray(pixels.astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


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


def difference(encoded: bytes, height: int, width: int) -> float:
    ours = decode_and_resize(encoded, height, width).numpy()
    assert ours.dtype == np.uint8
    return float(np.abs(ours.astype(float) - with_pillow(encoded, height, width)).mean())


def transparent(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


@pytest.mark.parametrize("size", [(80, 60), (60, 80), (300, 200), (20, 33), (64, 64)])
@pytest.mark.parametrize(
    "encoded_as",
    [
        lambda image: encode(image, "JPEG", quality=92),
        lambda image: encode(image, "JPEG", progressive=True),
        lambda image: encode(image.convert("L"), "JPEG"),
        lambda image: encode(image, "PNG"),
        lambda image: encode(image.convert("L"), "PNG"),
        lambda image: encode(image.convert("LA"), "PNG"),
        lambda image: encode(image.convert("P"), "PNG"),
        lambda image: encode(transparent(image), "PNG"),
    ],
    ids=["jpeg", "progressive", "grey jpeg", "png", "grey png", "grey alpha png", "palette png", "alpha png"],
)
def test_as_pillow_sees_it(encoded_as: Any, size: tuple[int, int]) -> None:
    assert difference(encoded_as(photo(*size)), 80, 64) < 1


def test_cmyk() -> None:
    encoded = encode(photo(80, 60).convert("CMYK"), "JPEG", quality=92)
    assert difference(encoded, 80, 64) < 3


def test_sixteen_bits_keep_the_upper_eight() -> None:
    levels = (np.indices((40, 40)).sum(0) * 800).astype(np.uint16)
    pixels = decode_and_resize(encode(Image.fromarray(levels), "PNG"), 40, 40).numpy()
    assert np.array_equal(pixels, np.repeat((levels >> 8)[..., None], 3, axis=2))


def test_a_picture_of_the_right_size_is_left_as_it_is() -> None:
    image = photo(80, 60)
    pixels = decode_and_resize(encode(image, "PNG"), 80, 64).numpy()
    assert np.array_equal(pixels[:, 2:62], np.asarray(image))
    assert (pixels[:, :2] == 255).all()
    assert (pixels[:, 62:] == 255).all()


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    box=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    margin=st.integers(0, 255),
)
def test_keeps_the_aspect_and_the_middle(size: tuple[int, int], box: tuple[int, int], margin: int) -> None:
    """A plain picture covers exactly the largest rectangle of its shape, centred; the rest is margin."""
    level = (margin + 128) % 256
    encoded = encode(Image.new("L", size[::-1], level), "PNG")
    pixels = decode_and_resize(encoded, *box, margin=margin).numpy()
    assert pixels.shape == (*box, 3)
    covered = (pixels == level).all(axis=2)
    assert ((pixels == margin).all(axis=2) | covered).all()
    heights, widths = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
    assert covered.sum() == len(heights) * len(widths)
    scale = min(box[0] / size[0], box[1] / size[1])
    for span, length, room in ((heights, size[0], box[0]), (widths, size[1], box[1])):
        assert abs(len(span) - max(1, length * scale)) <= 0.5
        assert span[0] == (room - len(span)) // 2


def test_no_picture_is_all_zero() -> None:
    assert not decode_and_resize(b"", 8, 6).numpy().any()


@pytest.mark.parametrize(
    "encoded",
    [
        encode(photo(80, 60), "JPEG")[:700],
        encode(photo(80, 60), "PNG")[:400],
        encode(photo(80, 60), "GIF"),
        encode(photo(80, 60), "BMP"),
        encode(photo(80, 60), "WEBP"),
        b"not a picture",
        b"x",
    ],
    ids=["cut jpeg", "cut png", "gif", "bmp", "webp", "text", "one byte"],
)
def test_anything_else_is_refused(encoded: bytes) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_and_resize(encoded, 80, 64)


def augmented(encoded: bytes, spec: AugmentSpec, position: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    key = tf.constant([7, position], tf.int64)
    return decode_and_resize(encoded, *size, augment=spec, key=key).numpy()


def test_augmentation_depends_on_the_key_only() -> None:
    encoded = encode(photo(80, 60), "PNG")
    spec = AugmentSpec(min_scale=0.5, flip=True)
    assert np.array_equal(augmented(encoded, spec, 3), augmented(encoded, spec, 3))
    assert len({augmented(encoded, spec, position).tobytes() for position in range(20)}) == 20


def test_no_augmentation_is_no_change() -> None:
    encoded = encode(photo(80, 60), "JPEG")
    assert np.array_equal(augmented(encoded, AugmentSpec(), 3), decode_and_resize(encoded, 64, 48))


def test_flip_mirrors_about_half() -> None:
    encoded = encode(photo(80, 60), "PNG")
    plain = decode_and_resize(encoded, 64, 48).numpy()
    seen = [augmented(encoded, AugmentSpec(flip=True), position) for position in range(60)]
    mirrored = sum(np.array_equal(pixels, plain[:, ::-1]) for pixels in seen)
    assert sum(np.array_equal(pixels, plain) for pixels in seen) == 60 - mirrored
    assert 15 <= mirrored <= 45


def test_crops_cover_the_range_of_scales_and_places() -> None:
    """In a ramp of levels along each axis, the levels at the corners tell what was cut out."""
    height, width = 200, 100
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.arange(height)[:, None]
    ramp[..., 1] = np.arange(width)
    encoded = encode(Image.fromarray(ramp), "PNG")
    spec = AugmentSpec(min_scale=0.36)
    crops = []
    for position in range(200):
        pixels = augmented(encoded, spec, position, (height, width)).astype(float)
        top, left, bottom, right = pixels[0, 0, 0], pixels[0, 0, 1], pixels[-1, -1, 0], pixels[-1, -1, 1]
        crops.append((top, left, (bottom - top + 1) / height, (right - left + 1) / width))
    tops, lefts, heights, widths = np.array(crops).T
    assert np.abs(heights - widths).max() < 0.03  # the shape is kept
    areas = heights * widths
    assert 0.33 < areas.min() < 0.45
    assert areas.max() > 0.9
    assert tops.min() < 5
    assert tops.max() > 50
    assert lefts.min() < 3
    assert lefts.max() > 25


def test_min_scale_out_of_bounds() -> None:
    for scale in (0.0, 1.1, -0.5):
        with pytest.raises(DataError, match="min_scale"):
            AugmentSpec(min_scale=scale)
