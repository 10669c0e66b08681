"""Variations depend on the key only, stay within their bounds, and each is drawn for itself."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from pictures import encode, photo
from PIL import Image

from data_pipelines.augmentation import NO_AUGMENT, AugmentSpec
from data_pipelines.decode import decode_pictures
from data_pipelines.errors import DataError


def augmented(encoded: bytes, spec: AugmentSpec, count: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """A picture varied in `count` ways."""
    keys = np.stack([np.full(count, 7), np.arange(count)], axis=1)
    pixels, bad = decode_pictures([encoded] * count, *size, augment=spec, keys=keys)
    assert not bad
    return pixels.astype(float)


EVERYTHING = AugmentSpec(0.5, aspect=1.3, flip=True, brightness=0.2, contrast=0.3, saturation=0.4, hue=0.1)


def test_augmentation_depends_on_the_key_only() -> None:
    encoded = encode(photo(80, 60), "PNG")
    some, more = augmented(encoded, EVERYTHING, 5), augmented(encoded, EVERYTHING, 20)
    assert np.array_equal(some, more[:5])
    assert len({pixels.tobytes() for pixels in more}) == 20
    [one], _ = decode_pictures([encoded], 64, 48, augment=EVERYTHING, keys=np.array([[7, 3]]))
    assert np.array_equal(one, more[3])


def test_no_augmentation_is_no_change() -> None:
    encoded = encode(photo(80, 60), "JPEG")
    assert np.array_equal(augmented(encoded, NO_AUGMENT, 1)[0], decode_pictures([encoded], 64, 48)[0][0])


def test_flip_mirrors_about_half_whatever_else_is_drawn() -> None:
    """Left is dark in this picture, so the darker half tells which way round it is."""
    ramp = np.repeat(np.linspace(0, 250, 80)[None, :, None], 80, 0).repeat(3, 2)
    encoded = encode(Image.fromarray(ramp.astype(np.uint8)), "PNG")
    plain, flipped = augmented(encoded, AugmentSpec(), 1)[0], augmented(encoded, AugmentSpec(flip=True), 80)
    mirrored = np.array([np.array_equal(pixels, plain[:, ::-1]) for pixels in flipped])
    assert sum(np.array_equal(pixels, plain) for pixels in flipped) == 80 - mirrored.sum()
    assert 25 <= mirrored.sum() <= 55
    both = augmented(encoded, AugmentSpec(min_scale=0.2, flip=True), 80)[:, 10:54]
    assert np.array_equal(both[..., :24, 0].mean((1, 2)) > both[..., 24:, 0].mean((1, 2)), mirrored)
    spans = np.ptp(both[..., 0], axis=(1, 2))  # of the levels, so how wide the part was
    assert abs(np.corrcoef(spans, mirrored)[0, 1]) < 0.4


def corners(spec: AugmentSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where 200 crops begin and how large they are: in a ramp along each axis, the levels at the corners tell."""
    height, width = 200, 100
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.arange(height)[:, None]
    ramp[..., 1] = np.arange(width)
    crops = augmented(encode(Image.fromarray(ramp), "PNG"), spec, 200, (height, width))
    tops, lefts = crops[:, 0, 0, 0], crops[:, 0, 0, 1]
    return tops, lefts, (crops[:, -1, -1, 0] - tops + 1) / height, (crops[:, -1, -1, 1] - lefts + 1) / width


def test_crops_cover_the_range_of_scales_and_places() -> None:
    tops, lefts, heights, widths = corners(AugmentSpec(min_scale=0.36))
    assert np.abs(heights - widths).max() < 0.03  # the shape is kept
    areas = heights * widths
    assert 0.33 < areas.min() < 0.45
    assert areas.max() > 0.9
    assert tops.min() < 5
    assert tops.max() > 50
    assert lefts.min() < 3
    assert lefts.max() > 25


def test_crops_are_stretched_up_to_the_bound() -> None:
    _, _, heights, widths = corners(AugmentSpec(min_scale=0.36, aspect=1.5))
    ratios = widths / heights
    assert 0.62 < ratios.min() < 0.75
    assert 1.33 < ratios.max() < 1.58
    assert 0.8 < np.median(ratios) < 1.25
    assert 0.3 < (heights * widths).min() < 0.5


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colours_change_by_no_more_than_asked(name: str) -> None:
    """Against the same changes made by formulas, on a picture of two colours beside a white margin."""
    levels = np.zeros((40, 40, 3), np.uint8)
    levels[:20], levels[20:] = (180, 90, 70), (60, 100, 140)
    seen = augmented(encode(Image.fromarray(levels), "PNG"), AugmentSpec(**{name: 0.25}), 100, (40, 60))
    assert (seen[:, :, :10] == 255).all()
    assert (seen[:, :, 50:] == 255).all()
    top, bottom = seen[:, 10, 30], seen[:, 30, 30]
    if name == "brightness":
        added = top - (180, 90, 70)
        assert np.ptp(added, axis=1).max() <= 1
        changes, bound = added[:, 0] / 255, 0.25
    elif name == "contrast":
        factors = (top - bottom) / (120, -10, -70)
        assert np.abs(factors[:, 0] - factors[:, 2]).max() < 0.05
        assert np.abs((top + bottom) / 2 - (120, 95, 105)).max() <= 1
        changes, bound = factors[:, 0] - 1, 0.25
    elif name == "saturation":
        assert np.abs(top.max(1) - 180).max() <= 1
        changes, bound = np.ptp(top, axis=1) / 110 - 1, 0.25
    else:
        turned = [colorsys.rgb_to_hsv(*colour) for colour in top / 255]
        hue, saturation, value = colorsys.rgb_to_hsv(180 / 255, 90 / 255, 70 / 255)
        assert np.abs(np.array(turned)[:, 1:] - (saturation, value)).max() < 0.02
        changes, bound = (np.array(turned)[:, 0] - hue + 0.5) % 1 - 0.5, 0.25
    assert np.abs(changes).max() <= bound + 0.02
    assert changes.min() < -0.7 * bound
    assert changes.max() > 0.7 * bound
    assert abs(np.median(changes)) < 0.4 * bound


@pytest.mark.parametrize(
    ("name", "values"),
    [("min_scale", (0.0, 1.1, -0.5)), ("aspect", (0.9, float("nan"))), ("contrast", (-0.1, 1.1)), ("hue", (0.6,))],
)
def test_values_out_of_bounds(name: str, values: tuple[float, ...]) -> None:
    for value in values:
        with pytest.raises(DataError, match=f"{name}={value}"):
            AugmentSpec(**{name: value})
