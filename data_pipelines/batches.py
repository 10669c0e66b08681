"""The engine under every batch iterator: tf.data decodes the pictures ahead of time, the rest waits for them.

A chunk is a batch whose pictures are still encoded. Only these pass through TensorFlow; the other arrays of
the chunk wait in a queue until its pixels arrive, so when a picture cannot be decoded, the chunk at the head
of the queue is the one to blame.
"""

from __future__ import annotations

import atexit
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from data_pipelines.decode import AugmentSpec, decode_and_resize
from data_pipelines.errors import DataError
from data_pipelines.host_tensorflow import tf


@dataclass(frozen=True)
class Chunk:
    """A batch before its pictures are decoded.

    Attributes:
      product_ids: B names to use in messages.
      images: B encoded pictures, b"" for none.
      arrays: the rest of the batch.
      augment_keys: int64[B, 2], what decides how each picture is varied; None where none is.
    """

    product_ids: Sequence[str]
    images: Sequence[bytes]
    arrays: dict[str, np.ndarray]
    augment_keys: np.ndarray | None = None


class _Feed:
    """Hands chunks to TensorFlow's thread and remembers those whose pixels are still to come."""

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self.waiting: deque[Chunk] = deque()
        self.failure: Exception | None = None
        self._chunks = chunks

    def __call__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        try:
            for chunk in self._chunks:
                self.waiting.append(chunk)
                keys = chunk.augment_keys
                size = len(chunk.images)
                yield np.array(chunk.images, object), np.zeros([size, 2], np.int64) if keys is None else keys
        except Exception as error:
            self.failure = error  # TensorFlow would pass on its text only
            raise


class Batches(Iterator[dict[str, np.ndarray]]):
    """Batches with decoded pictures, in the order of their chunks, prepared in the background.

    Each is the chunk's arrays plus `image` uint8[B, H, W, 3] and `has_image` bool[B]. Close it, use it in a
    `with` statement or let go of it to stop the background work; it can be read once.
    """

    def __init__(
        self,
        chunks: Iterable[Chunk],
        source: str,
        batch_size: int,
        image_size: tuple[int, int],
        *,
        augment: AugmentSpec | None = None,
        threads: int | None = None,
        prefetch: int = 2,
    ) -> None:
        """Starts nothing yet; the work begins with the first `next`.

        Args:
          chunks: the batches; read in another thread, up to `prefetch` + 2 ahead.
          source: where the products come from, for messages.
          batch_size: B, the size of every chunk.
          image_size: (H, W) in pixels.
          augment: how pictures are varied.
          threads: how many decode at once; None for TensorFlow's shared pool, one per core.
          prefetch: how many finished batches to keep ready.

        Raises:
          DataError: a size below 1.
        """
        if min(batch_size, *image_size) < 1:
            raise DataError(f"batch_size={batch_size} and image_size={image_size} must be at least 1")
        self._feed = _Feed(chunks)
        self._source = source
        self._image_size = image_size
        dataset = _decoded(self._feed, batch_size, image_size, augment, prefetch)
        dataset = dataset.with_options(_options(threads))
        self._images: Iterator[np.ndarray] | None = dataset.as_numpy_iterator()
        _OPEN.add(self)

    def __next__(self) -> dict[str, np.ndarray]:
        """Returns the next batch.

        Raises:
          DataError: a picture cannot be decoded, naming its product; or what reading the chunk raised.
        """
        if self._images is None:
            raise StopIteration
        try:
            image = next(self._images)
        except StopIteration:
            self.close()
            raise
        except tf.errors.OpError as error:
            failure = self._blame(error)
            self.close()
            raise failure from None
        chunk = self._feed.waiting.popleft()
        has_image = np.array([len(encoded) > 0 for encoded in chunk.images])
        return {**chunk.arrays, "image": image, "has_image": has_image}

    def close(self) -> None:
        """Stops the background work; further `next` calls find nothing."""
        self._images = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _blame(self, error: Exception) -> Exception:
        if not self._feed.waiting:  # all that was read has been handed over, so reading is what failed
            return self._feed.failure or error
        chunk = self._feed.waiting[0]
        for product_id, encoded in zip(chunk.product_ids, chunk.images, strict=True):
            try:
                decode_and_resize(tf.constant(encoded), *self._image_size)
            except tf.errors.OpError:
                return DataError(
                    f"{self._source}: the image of product {product_id!r} is not a sound JPEG or PNG file "
                    f"({len(encoded)} bytes, beginning {encoded[:8]!r}); replace or remove it"
                )
        return error


_OPEN: weakref.WeakSet[Batches] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Ends TensorFlow's threads while they can still run Python; later they would wait for it for ever."""
    for batches in list(_OPEN):
        batches.close()


def _decoded(
    feed: _Feed, batch_size: int, image_size: tuple[int, int], augment: AugmentSpec | None, prefetch: int
) -> tf.data.Dataset:
    @tf.autograph.experimental.do_not_convert
    def decode(encoded: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        return decode_and_resize(encoded, *image_size, augment=augment, key=key)

    signature = (tf.TensorSpec([batch_size], tf.string), tf.TensorSpec([batch_size, 2], tf.int64))
    chunks = tf.data.Dataset.from_generator(feed, output_signature=signature)
    # Picture by picture, so that memory does not grow by a batch per thread.
    pixels = chunks.prefetch(1).unbatch().map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return pixels.batch(batch_size, drop_remainder=True).prefetch(prefetch)


def _options(threads: int | None) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    if threads is not None:
        options.threading.private_threadpool_size = threads
        options.autotune.cpu_budget = threads
    return options
