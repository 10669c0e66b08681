"""From an encoded picture to pixels of a fixed size, inside tf.data; the same to the bit wherever it is done.

Pictures are JPEG or PNG, the two formats that TensorFlow decodes faithfully. (It misreads BMP palettes and
the transparency of GIF, and animated WebP makes TensorFlow 2.20 corrupt its memory.) Other formats are
turned into one of these by `data_pipelines.images` before they get here.
"""

from __future__ import annotations

from dataclasses import dataclass

from data_pipelines.errors import DataError
from data_pipelines.host_tensorflow import tf

WHITE = 255  # most catalogue pictures stand on white, so a white margin is the one that shows least
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class AugmentSpec:
    """How pictures are varied in training.

    Attributes:
      min_scale: a random part of the picture, of the same shape, is kept and enlarged; its area is between
        this share of the picture and all of it. 0 < min_scale <= 1, and 1 keeps all.
      flip: mirror every second picture, left to right, at random; this reverses prints and logos.

    Raises:
      DataError: min_scale out of bounds.
    """

    min_scale: float = 1.0
    flip: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.min_scale <= 1:
            raise DataError(f"min_scale={self.min_scale} must be above 0 and at most 1")


def decode_and_resize(
    encoded: tf.Tensor,
    height: int,
    width: int,
    *,
    margin: int = WHITE,
    augment: AugmentSpec | None = None,
    key: tf.Tensor | None = None,
) -> tf.Tensor:
    """Decodes a picture and fits it, whole and undistorted, into the middle of height x width.

    Args:
      encoded: string scalar, a JPEG or PNG file of any size, grey, RGB, CMYK or with transparency (through
        which the margin's colour shows); or "" for no picture.
      height: H, pixels.
      width: W, pixels.
      margin: grey level 0-255 of what the picture leaves free.
      augment: how to vary the picture, None for not at all.
      key: int64[2], decides the variation; needed with `augment`.

    Returns:
      uint8[H, W, 3], RGB; all 0 where there is no picture.

    Raises:
      tf.errors.InvalidArgumentError: the bytes are not a sound JPEG or PNG.
    """

    def picture() -> tf.Tensor:
        pixels = _decode(encoded, margin)
        fitted = _fitted_size(tf.shape(pixels), height, width)
        if augment is not None and augment.min_scale < 1:
            pixels = _random_crop(pixels, augment.min_scale, key)
        pixels = _pad(_resize(pixels, fitted), height, width, margin)
        if augment is not None and augment.flip:
            pixels = tf.image.stateless_random_flip_left_right(pixels, seed=key)
        return tf.ensure_shape(pixels, [height, width, 3])

    return tf.cond(tf.strings.length(encoded) > 0, picture, lambda: tf.zeros([height, width, 3], tf.uint8))


def _decode(encoded: tf.Tensor, margin: int) -> tf.Tensor:
    return tf.cond(
        tf.io.is_jpeg(encoded),
        # The default method is faster by a hair and differs between builds of libjpeg.
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: _decode_png(encoded, margin),
    )


def _decode_png(encoded: tf.Tensor, margin: int) -> tf.Tensor:
    is_png = tf.strings.substr(encoded, 0, len(_PNG)) == _PNG
    # decode_png would take a GIF, BMP or WebP too
    with tf.control_dependencies([tf.debugging.Assert(is_png, ["neither JPEG nor PNG"])]):
        pixels = tf.cast(tf.io.decode_png(encoded, channels=4), tf.int32)
    colour, opacity = pixels[..., :3], pixels[..., 3:]
    return tf.cast((colour * opacity + margin * (255 - opacity) + 127) // 255, tf.uint8)


def _random_crop(pixels: tf.Tensor, min_scale: float, key: tf.Tensor) -> tf.Tensor:
    area, top, left = tf.unstack(tf.random.stateless_uniform([3], seed=key))
    full = tf.shape(pixels)[:2]
    side = tf.sqrt(min_scale + (1 - min_scale) * area)
    size = tf.maximum(1, tf.cast(tf.round(tf.cast(full, tf.float32) * side), tf.int32))
    start = tf.cast(tf.cast(full - size + 1, tf.float32) * tf.stack([top, left]), tf.int32)
    return tf.slice(pixels, tf.concat([start, [0]], 0), tf.concat([size, [3]], 0))


def _fitted_size(shape: tf.Tensor, height: int, width: int) -> tf.Tensor:
    box = tf.constant([height, width], tf.int64)
    size = tf.cast(shape[:2], tf.int64)
    # Each side as long as the other side allows, rounded in integers, so that every machine agrees.
    fitted = (2 * size * box[::-1] + size[::-1]) // (2 * size[::-1])
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
