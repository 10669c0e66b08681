"""From encoded pictures to pixels of a fixed size, by TensorFlow's kernels; the same to the bit wherever it is done.

Pictures are JPEG or PNG, the two formats that TensorFlow decodes faithfully. (It misreads BMP palettes and the
transparency of GIF, and animated WebP makes TensorFlow 2.20 corrupt its memory.) Other formats are turned into one of
these by `data_pipelines.images` before they get here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np

from data_pipelines.augmentation import NO_AUGMENT, AugmentSpec
from data_pipelines.host_tensorflow import tf
from data_pipelines.images import MAX_PIXELS

WHITE = 255  # most catalogue pictures stand on white, so a white margin is the one that shows least
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_TRACING = Lock()  # so that threads that start together do not all build the same function

# Each kind of variation draws from a key of its own, so that none depends on another; cropping has the plain key.
_ASPECT, _FLIP, _BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(6)


def decode_pictures(
    encoded: Sequence[bytes],
    height: int,
    width: int,
    *,
    augment: AugmentSpec = NO_AUGMENT,
    keys: np.ndarray | None = None,
) -> tuple[np.ndarray, dict[int, str]]:
    """Decodes pictures one after the other as `decode_and_resize` does; can be called from several threads at once.

    Args:
      encoded: n pictures.
      height: H.
      width: W.
      augment: how to vary them.
      keys: int64[n, 2], decides the variation of each; None where nothing is varied.

    Returns:
      uint8[n, H, W, 3], not to be written to, and of each picture that cannot be decoded, all 0 there, the position
      and the reason.
    """
    if keys is None:
        keys = np.zeros([len(encoded), 2], np.int64)
    with _TRACING:
        decode = group_decoder(height, width, augment)
    try:
        pixels = decode(tf.constant(encoded, tf.string), tf.constant(keys))
        return np.asarray(memoryview(pixels)), {}  # pixels.numpy() would be another copy
    except tf.errors.InvalidArgumentError:
        if len(encoded) == 1:
            return np.zeros([1, height, width, 3], np.uint8), {0: _fault(encoded[0])}
    # One bad picture fails the call, and is rare enough to do the others again.
    pixels, bad = np.zeros([len(encoded), height, width, 3], np.uint8), {}
    for i, picture in enumerate(encoded):
        [pixels[i]], fault = decode_pictures([picture], height, width, augment=augment, keys=keys[i : i + 1])
        if fault:
            bad[i] = fault[0]
    return pixels, bad


@lru_cache(maxsize=8)
def group_decoder(height: int, width: int, augment: AugmentSpec) -> Any:
    """The compiled function that decodes n pictures in turn: string[n], int64[n, 2] -> uint8[n, H, W, 3].

    It raises tf.errors.InvalidArgumentError if one of them cannot be decoded.
    """

    def decode(item: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        return decode_and_resize(item[0], height, width, augment=augment, key=item[1])

    def decode_group(encoded: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        pixels = tf.TensorSpec([height, width, 3], tf.uint8)
        return tf.map_fn(decode, (encoded, keys), fn_output_signature=pixels, parallel_iterations=1)

    compiled = tf.function(decode_group, autograph=False)
    return compiled.get_concrete_function(tf.TensorSpec([None], tf.string), tf.TensorSpec([None, 2], tf.int64))


def _fault(encoded: bytes) -> str:
    try:
        size = _jpeg_size(encoded) if encoded.startswith(_JPEG) else _png_size(encoded)
        height, width = size.numpy().tolist()
        if encoded.startswith((_JPEG, _PNG)) and height * width > MAX_PIXELS:
            return f"the picture's header says {width}x{height} pixels, at most {MAX_PIXELS} are decoded"
    except tf.errors.InvalidArgumentError:
        pass  # cut within the header
    return f"the picture is not a sound JPEG or PNG file ({len(encoded)} bytes, beginning {encoded[:8]!r})"


def decode_and_resize(
    encoded: tf.Tensor,
    height: int,
    width: int,
    *,
    margin: int = WHITE,
    augment: AugmentSpec = NO_AUGMENT,
    key: tf.Tensor | None = None,
) -> tf.Tensor:
    """Decodes a picture and fits it, whole and undistorted, into the middle of height x width.

    Args:
      encoded: string scalar, a JPEG or PNG file of any size up to 40 million pixels, grey, RGB, CMYK or with
        transparency (through which the margin's colour shows).
      height: H, pixels.
      width: W, pixels.
      margin: grey level 0-255 of what the picture leaves free.
      augment: how to vary the picture.
      key: int64[2], decides the variation; needed where there is any.

    Returns:
      uint8[H, W, 3], RGB.

    Raises:
      tf.errors.InvalidArgumentError: the bytes are not a sound JPEG or PNG, or its header says that it is larger, in
        which case nothing is decoded.
    """
    pixels = _decode(encoded, margin)
    fitted = _fitted_size(tf.shape(pixels), height, width)
    if augment.crops:
        pixels = _random_crop(pixels, augment, key)
    pixels = _resize(pixels, fitted)
    if augment.colours:
        pixels = _recolour(pixels, augment, key)
    pixels = _pad(pixels, height, width, margin)
    if augment.flip:
        pixels = tf.image.stateless_random_flip_left_right(pixels, seed=tf.random.fold_in(key, _FLIP))
    return tf.ensure_shape(pixels, [height, width, 3])


def _decode(encoded: tf.Tensor, margin: int) -> tf.Tensor:
    return tf.cond(tf.io.is_jpeg(encoded), lambda: _decode_jpeg(encoded), lambda: _decode_png(encoded, margin))


def _decode_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([_not_too_large(_jpeg_size(encoded))]):
        # The default method is faster by a hair and differs between builds of libjpeg.
        return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")


def _decode_png(encoded: tf.Tensor, margin: int) -> tf.Tensor:
    is_png = tf.strings.substr(encoded, 0, len(_PNG)) == _PNG
    # decode_png would take a GIF, BMP or WebP too
    with tf.control_dependencies([tf.debugging.Assert(is_png, ["neither JPEG nor PNG"])]):
        size = _png_size(encoded)
    with tf.control_dependencies([_not_too_large(size)]):
        pixels = tf.io.decode_png(encoded, channels=4)
    colour, opacity = pixels[..., :3], pixels[..., 3:]
    # Where a file has no opacity, TensorFlow fills in the highest level of its bit depth: 1 of 255 in line art.
    depth = tf.cast(_png_header(encoded, 24, tf.uint8)[0], tf.int32)
    filler = tf.cast(tf.bitwise.left_shift(1, depth) - 1, tf.uint8)
    return tf.cond(
        tf.reduce_all(opacity == filler), lambda: colour, lambda: _blend(colour, tf.cast(opacity, tf.int32), margin)
    )


def _blend(colour: tf.Tensor, opacity: tf.Tensor, margin: int) -> tf.Tensor:
    levels = tf.cast(colour, tf.int32) * opacity + margin * (255 - opacity)
    return tf.cast((levels + 127) // 255, tf.uint8)


def _jpeg_size(encoded: tf.Tensor) -> tf.Tensor:
    return tf.io.extract_jpeg_shape(encoded)[:2]


def _png_size(encoded: tf.Tensor) -> tf.Tensor:
    return tf.reverse(_png_header(encoded, 16, tf.int32)[:2], [0])


def _png_header(encoded: tf.Tensor, start: int, dtype: tf.DType) -> tf.Tensor:
    """The numbers from byte `start` on: width at 16 and height in four bytes each, bit depth at 24 in one."""
    # Filled up with zeros, because TensorFlow's complaint about too short a text is one that Python cannot read.
    header = tf.strings.join([tf.strings.substr(encoded, 0, 28), bytes(28)])
    return tf.io.decode_raw(tf.strings.substr(header, start, 28), dtype, little_endian=False)


def _not_too_large(size: tf.Tensor) -> tf.Operation:
    """A few kilobytes can say that they are gigapixels, and decoders take their word for it."""
    return tf.debugging.Assert(tf.reduce_prod(tf.cast(size, tf.int64)) <= MAX_PIXELS, ["too many pixels", size])


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


def _fitted_size(shape: tf.Tensor, height: int, width: int) -> tf.Tensor:
    box = tf.constant([height, width], tf.int64)
    other_box = tf.constant([width, height], tf.int64)
    size = tf.cast(shape[:2], tf.int64)
    other_size = tf.reverse(size, [0])
    # Each side as long as the other side allows, rounded in integers, so that every machine agrees.
    fitted = (2 * size * other_box + other_size) // (2 * other_size)
    return tf.cast(tf.clip_by_value(fitted, 1, box), tf.int32)


def _resize(pixels: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    size = tf.shape(pixels)[:2]

    def resized() -> tf.Tensor:
        values = tf.cond(
            tf.reduce_any(target < size),
            lambda: tf.image.resize(pixels, target, method="bilinear", antialias=True),
            # Enlarging needs no antialiasing; without it the same picture, but for rounding, costs a third.
            lambda: tf.image.resize(pixels, target, method="bilinear"),
        )
        return tf.cast(tf.clip_by_value(tf.round(values), 0, 255), tf.uint8)

    return tf.cond(tf.reduce_all(target == size), lambda: pixels, resized)


def _pad(pixels: tf.Tensor, height: int, width: int, margin: int) -> tf.Tensor:
    free = [height, width] - tf.shape(pixels)[:2]
    margins = tf.stack([free // 2, free - free // 2], axis=1)
    return tf.pad(pixels, tf.concat([margins, [[0, 0]]], 0), constant_values=margin)
