"""From encoded pictures to pixels of a fixed size, by TensorFlow's kernels; the same to the bit wherever it is done.

Pictures are JPEG or PNG, the two formats that TensorFlow decodes faithfully. (It misreads BMP palettes and the
transparency of GIF, and animated WebP makes TensorFlow 2.20 corrupt its memory.) Other formats are turned into one of
these by `data_pipelines.images` before they get here.

Python reads the headers, which costs it a few microseconds, and TensorFlow runs a graph without any branch over
pictures that want the same done to them: for small pictures, deciding in the graph would cost as much as decoding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, partial
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.augmentation import NO_AUGMENT, AugmentSpec
from data_pipelines.host_tensorflow import tf
from data_pipelines.images import MAX_PIXELS
from data_pipelines.picture_headers import read_header

WHITE = 255  # most catalogue pictures stand on white, so a white margin is the one that shows least
_TRACING = Lock()  # so that threads that start together do not all build the same function
_RATIOS = (1, 2, 4, 8)  # by which libjpeg can shrink a picture while it decodes, at a fraction of the cost
_AS_IT_IS, _PNG = 0, 1 + len(_RATIOS)  # ways to decode; those between are a JPEG, shrunk by each of the ratios

# By how much a JPEG may shrink without antialiasing: its finest details are weak, and those of line art are not.
_JPEG_SLACK = 1.2

# Each kind of variation draws from a key of its own, so that none depends on another; cropping has the plain key.
_ASPECT, _FLIP, _BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(6)


class Fit(NamedTuple):
    """How a picture is fitted: which way it is decoded, and its height and width afterwards, in pixels."""

    way: int
    height: int
    width: int


def fit_picture(encoded: bytes, height: int, width: int, augment: AugmentSpec = NO_AUGMENT) -> Fit | str:
    """Decides by its header how a picture is fitted, whole and undistorted, into H x W; or says why it cannot be."""
    header = read_header(encoded)
    if header is None or min(header.height, header.width) < 1:
        return unsound(encoded)
    if header.height * header.width > MAX_PIXELS:
        # A few kilobytes can say that they are gigapixels, and decoders take their word for it.
        return f"the picture's header says {header.width}x{header.height} pixels, at most {MAX_PIXELS} are decoded"
    fitted_height = _fitted_side(header.height, header.width, height, width)
    fitted_width = _fitted_side(header.width, header.height, width, height)
    if header.kind == "png":
        return Fit(_PNG, fitted_height, fitted_width)
    if (fitted_height, fitted_width) == (header.height, header.width) and not augment.crops:
        return Fit(_AS_IT_IS, fitted_height, fitted_width)
    # How much larger the picture is than wanted, or the smallest part that augmentation may cut out of it.
    part = math.sqrt(augment.min_scale / augment.aspect)
    spare = int(part * min(header.height // fitted_height, header.width // fitted_width))
    ratio = min(max(spare, 1).bit_length(), len(_RATIOS)) - 1
    return Fit(1 + ratio, fitted_height, fitted_width)


def _fitted_side(side: int, other_side: int, box: int, other_box: int) -> int:
    """As long as the other side allows, rounded in integers, so that every machine agrees."""
    return max(1, min(box, (2 * side * other_box + other_side) // (2 * other_side)))


def unsound(encoded: bytes) -> str:
    """What is said of a picture that cannot be decoded."""
    return f"the picture is not a sound JPEG or PNG file ({len(encoded)} bytes, beginning {encoded[:8]!r})"


def decode_pictures(
    encoded: Sequence[bytes],
    height: int,
    width: int,
    *,
    augment: AugmentSpec = NO_AUGMENT,
    keys: np.ndarray | None = None,
) -> tuple[np.ndarray, dict[int, str]]:
    """Decodes pictures and fits each, whole and undistorted, into the middle of white; any thread may call it.

    Args:
      encoded: n JPEG or PNG files of up to 40 million pixels, grey, RGB, CMYK or with transparency (through which
        the white shows).
      height: H, pixels.
      width: W, pixels.
      augment: how to vary them.
      keys: int64[n, 2], decides the variation of each; None where nothing is varied.

    Returns:
      uint8[n, H, W, 3], RGB, and of each picture that cannot be decoded, all 0 there, the position and the reason.
    """
    with _TRACING:
        decode = group_decoder(height, width, augment)
    pixels = np.zeros([len(encoded), height, width, 3], np.uint8)
    bad: dict[int, str] = {}
    ways: dict[int, list[int]] = {}
    numbers = np.zeros([len(encoded), 4], np.int64)
    if keys is not None:
        numbers[:, 2:] = keys
    for position, picture in enumerate(encoded):
        fit = fit_picture(picture, height, width, augment)
        if isinstance(fit, str):
            bad[position] = fit
        else:
            numbers[position, :2] = fit.height, fit.width
            ways.setdefault(fit.way, []).append(position)

    def decode_group(way: int, positions: list[int]) -> None:
        try:
            pixels[positions] = decode(
                tf.constant([encoded[position] for position in positions]), tf.constant(numbers[positions]), way
            )
        except tf.errors.InvalidArgumentError:
            if len(positions) == 1:
                bad[positions[0]] = unsound(encoded[positions[0]])
                return
            for position in positions:  # one bad picture fails them all, and is rare enough to do the others again
                decode_group(way, [position])

    for way, positions in ways.items():
        decode_group(way, positions)
    return pixels, bad


@lru_cache(maxsize=8)
def group_decoder(height: int, width: int, augment: AugmentSpec) -> Any:
    """The compiled function that decodes n pictures in the same way, one after the other.

    It takes the encoded pictures string[n], the numbers int64[n, 4] of each (height and width fitted, and the key
    of its variation) and the way, int64; gives uint8[n, H, W, 3]; and raises tf.errors.InvalidArgumentError if one
    of them cannot be decoded.
    """

    def decode_group(encoded: tf.Tensor, numbers: tf.Tensor, way: tf.Tensor) -> tf.Tensor:
        fitted = tf.cast(numbers[:, :2], tf.int32)
        free = [height, width] - fitted
        margins = tf.pad(tf.stack([free // 2, free - free // 2], axis=2), [[0, 0], [0, 1], [0, 0]])

        def one_way(number: int) -> tf.Tensor:
            def decode(index: tf.Tensor) -> tf.Tensor:
                key = numbers[index, 2:]
                pixels = _varied(_decode(encoded[index], number), fitted[index], number, augment, key)
                pixels = tf.ensure_shape(tf.pad(pixels, margins[index], constant_values=WHITE), [height, width, 3])
                if augment.flip:
                    pixels = tf.image.stateless_random_flip_left_right(pixels, tf.random.fold_in(key, _FLIP))
                return pixels

            indices, signature = tf.range(tf.size(encoded)), tf.TensorSpec([height, width, 3], tf.uint8)
            return tf.map_fn(decode, indices, fn_output_signature=signature, parallel_iterations=1)

        return tf.switch_case(tf.cast(way, tf.int32), [partial(one_way, number) for number in range(_PNG + 1)])

    return tf.function(decode_group, autograph=False).get_concrete_function(
        tf.TensorSpec([None], tf.string), tf.TensorSpec([None, 4], tf.int64), tf.TensorSpec([], tf.int64)
    )


def _decode(encoded: tf.Tensor, way: int) -> tf.Tensor:
    if way == _PNG:
        return _decode_png(encoded)
    # The default method is faster by a hair and differs between builds of libjpeg.
    ratio = 1 if way == _AS_IT_IS else _RATIOS[way - 1]
    return tf.io.decode_jpeg(encoded, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")


def _varied(pixels: tf.Tensor, size: tf.Tensor, way: int, augment: AugmentSpec, key: tf.Tensor) -> tf.Tensor:
    """The picture, or what augmentation makes of it, at the size wanted."""
    if augment.crops:
        pixels = _random_crop(pixels, augment, key)
    if way != _AS_IT_IS:
        pixels = _resize(pixels, size, 1.0 if way == _PNG else _JPEG_SLACK)
    return _recolour(pixels, augment, key) if augment.colours else pixels


def _decode_png(encoded: tf.Tensor) -> tf.Tensor:
    pixels = tf.io.decode_png(encoded, channels=4)
    colour, opacity = pixels[..., :3], pixels[..., 3:]
    # Where a file has no opacity, TensorFlow fills in the highest level of its bit depth: 1 of 255 in line art.
    depth = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 24, 1), tf.uint8)[0], tf.int32)
    filler = tf.cast(tf.bitwise.left_shift(1, depth) - 1, tf.uint8)
    return tf.cond(tf.reduce_all(opacity == filler), lambda: colour, lambda: _blend(colour, tf.cast(opacity, tf.int32)))


def _blend(colour: tf.Tensor, opacity: tf.Tensor) -> tf.Tensor:
    levels = tf.cast(colour, tf.int32) * opacity + WHITE * (255 - opacity)
    return tf.cast((levels + 127) // 255, tf.uint8)


def _random_crop(pixels: tf.Tensor, augment: AugmentSpec, key: tf.Tensor) -> tf.Tensor:
    area, top, left = tf.unstack(tf.random.stateless_uniform([3], seed=key))
    full = tf.shape(pixels)[:2]
    side = tf.sqrt(augment.min_scale + (1 - augment.min_scale) * area)
    if augment.aspect > 1:
        bound = math.log(augment.aspect) / 2
        stretch = tf.random.stateless_uniform([], tf.random.fold_in(key, _ASPECT), -bound, bound)
        side = tf.minimum(1.0, side * tf.exp(tf.stack([stretch, -stretch])))
    size = tf.maximum(1, tf.cast(tf.round(tf.cast(full, tf.float32) * side), tf.int32))
    start = tf.cast(tf.cast(full - size + 1, tf.float32) * tf.stack([top, left]), tf.int32)
    return tf.slice(pixels, tf.concat([start, [0]], 0), tf.concat([size, [3]], 0))


def _recolour(pixels: tf.Tensor, augment: AugmentSpec, key: tf.Tensor) -> tf.Tensor:
    image = tf.image.convert_image_dtype(pixels, tf.float32)
    if augment.brightness:
        image = tf.image.stateless_random_brightness(image, augment.brightness, tf.random.fold_in(key, _BRIGHTNESS))
    if augment.contrast:
        bounds = 1 - augment.contrast, 1 + augment.contrast
        image = tf.image.stateless_random_contrast(image, *bounds, tf.random.fold_in(key, _CONTRAST))
    image = tf.clip_by_value(image, 0.0, 1.0)
    if augment.saturation:
        bounds = 1 - augment.saturation, 1 + augment.saturation
        image = tf.image.stateless_random_saturation(image, *bounds, tf.random.fold_in(key, _SATURATION))
    if augment.hue:
        image = tf.image.stateless_random_hue(image, augment.hue, tf.random.fold_in(key, _HUE))
    return tf.image.convert_image_dtype(image, tf.uint8, saturate=True)


def _resize(pixels: tf.Tensor, target: tf.Tensor, slack: float) -> tf.Tensor:
    """Resizes with antialiasing, which costs more than decoding, unless the picture shrinks by `slack` at most."""
    size = tf.shape(pixels)[:2]

    def resized() -> tf.Tensor:
        values = tf.cond(
            tf.reduce_any(tf.cast(size, tf.float32) > slack * tf.cast(target, tf.float32)),
            lambda: tf.image.resize(pixels, target, method="bilinear", antialias=True),
            lambda: tf.image.resize(pixels, target, method="bilinear"),
        )
        return tf.cast(values + 0.5, tf.uint8)

    return tf.cond(tf.reduce_all(target == size), lambda: pixels, resized)
