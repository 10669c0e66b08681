"""The engine under every batch iterator: reads, decodes and lays out batches ahead of time.

One thread reads chunks, which are batches whose pictures are still encoded. A tf.data pipeline takes their pictures a
few at a time, decodes them in parallel and keeps their order, so whatever comes out, decoded or refused, belongs to the
pictures at the head of the queue. The reading has a thread of its own so that it can be waited for with patience that
ends.
"""

from __future__ import annotations

import os
import queue
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Semaphore
from types import TracebackType
from typing import Self

import numpy as np

from data_pipelines.augmentation import NO_AUGMENT, AugmentSpec
from data_pipelines.bad_records import BadRecords
from data_pipelines.decode import decode_pictures, group_decoder
from data_pipelines.errors import DataError
from data_pipelines.host_tensorflow import tf
from data_pipelines.picture_groups import GROUP, PictureGroups, group_pictures
from data_pipelines.read_ahead import ReadAhead

_READY_BYTES = 256 * 1024 * 1024  # of decoded pictures that wait for their batch


@dataclass(frozen=True)
class Chunk:
    """A batch before its pictures are decoded.

    Attributes:
      product_ids: B names to use in messages.
      rows: int[B], tells products apart when the bad ones are counted.
      images: B lists of encoded pictures, the main one first; None where the batch has no pictures at all.
      arrays: the rest of the batch.
      augment_keys: int64[B, 2], what decides how each product's pictures are varied; None where none is.
      bad: why the product at a position could not be read.
    """

    product_ids: Sequence[str]
    rows: np.ndarray
    images: Sequence[Sequence[bytes]] | None
    arrays: dict[str, np.ndarray]
    augment_keys: np.ndarray | None = None
    bad: Mapping[int, str] = field(default_factory=dict)


class Batches(Iterator[dict[str, np.ndarray]]):
    """Batches with decoded pictures, in the order of their chunks, prepared in the background.

    Each is the chunk's arrays plus, unless the chunk's images are None, `image` uint8[B, I, H, W, 3], all 0 where there
    is no picture, and `has_image` bool[B, I]. Close it, use it in a `with` statement or let go of it to stop the
    background work; it can be read once.

    Attributes:
      bad_records: the products that were set aside.
    """

    def __init__(
        self,
        chunks: Iterable[Chunk],
        bad_records: BadRecords,
        image_size: tuple[int, int],
        *,
        num_images: int = 1,
        augment: AugmentSpec = NO_AUGMENT,
        threads: int | None = None,
        prefetch: int = 2,
        stall_seconds: float = 300.0,
        reading: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Starts nothing yet; the work begins with the first `next`.

        Args:
          chunks: the batches; read in another thread, up to `prefetch` + 2 ahead.
          bad_records: counts the products that cannot be used, when their batch is handed over.
          image_size: (H, W) in pixels.
          num_images: I; further pictures of a product are left out.
          augment: how pictures are varied.
          threads: how many decode at once; None for TensorFlow's shared pool, one per core.
          prefetch: how many batches to keep ready.
          stall_seconds: how long to wait for a chunk.
          reading: says what is being read, for the message when that takes longer.

        Raises:
          DataError: a size below 1.
        """
        if min(num_images, prefetch, *image_size) < 1:
            raise DataError(f"{num_images=}, {prefetch=} and {image_size=} must be at least 1")
        self.bad_records = bad_records
        self._image_size, self._num_images, self._augment = image_size, num_images, augment
        grouped = (
            (chunk, group_pictures(chunk.images or (), num_images, image_size, augment, chunk.augment_keys))
            for chunk in chunks
        )
        self._reading = reading
        self._feed = _Feed(ReadAhead(grouped, 1), prefetch, stall_seconds, reading, bad_records.source)
        self._pixels: Iterator[np.ndarray] | None = _decoded(self._feed, image_size, augment, threads)
        self._stop = weakref.finalize(self, self._feed.stop)

    @property
    def set_aside(self) -> int:
        """How many products have been set aside so far."""
        return self.bad_records.count

    @property
    def reading(self) -> str:
        """What is being read, "" if that is not known."""
        return self._reading() or ""

    def __next__(self) -> dict[str, np.ndarray]:
        """Returns the next batch.

        Raises:
          DataError: too many products cannot be used, naming the last one; or reading takes too long, naming what is
            read; or whatever reading the chunk raised.
        """
        try:
            return self._next_batch()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stops the background work; further `next` calls find nothing."""
        self._stop()
        self._pixels = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next_batch(self) -> dict[str, np.ndarray]:
        pixels = self._next_pixels()
        chunk, groups = self._feed.pop()
        arrays, bad = dict(chunk.arrays), dict(chunk.bad)
        if chunk.images is not None:
            image = np.zeros([len(chunk.images), self._num_images, *self._image_size, 3], np.uint8)
            has_image = np.zeros(image.shape[:2], bool)
            faults = dict(groups.faults)
            for group in range(len(groups.places)):
                pixels = self._next_pixels() if group else pixels
                faults |= self._place(groups, group, pixels, image, has_image)
            arrays |= {"image": image, "has_image": has_image}
            bad |= {number // self._num_images: reason for number, reason in faults.items()}
        for position, reason in sorted(bad.items()):
            self.bad_records.add(int(chunk.rows[position]), chunk.product_ids[position], reason)
        return arrays

    def _next_pixels(self) -> np.ndarray | None:
        """The next group, uint8[n, H, W, 3]; None for one with a picture that cannot be decoded."""
        if self._pixels is None:
            raise StopIteration
        try:
            return next(self._pixels)
        except tf.errors.OpError:
            if not self._feed.waiting and self._feed.failure is not None:
                raise self._feed.failure from None  # TensorFlow passes on its text only
            return None

    def _place(
        self, groups: PictureGroups, group: int, pixels: np.ndarray | None, image: np.ndarray, has_image: np.ndarray
    ) -> dict[int, str]:
        """Puts a group where it belongs; returns what is wrong with which picture."""
        places = groups.places[group]
        image, has_image = image.reshape(-1, *image.shape[2:]), has_image.reshape(-1)
        has_image[places] = True
        if pixels is not None:
            image[places] = pixels
            return {}
        image[places], faults = decode_pictures(
            groups.files(group), *self._image_size, augment=self._augment, keys=groups.keys(group)
        )
        has_image[places[list(faults)]] = False
        return {int(places[position]): reason for position, reason in faults.items()}


class _Feed:
    """Hands groups of pictures to tf.data's thread and remembers the chunks whose pixels are still to come."""

    def __init__(
        self,
        ahead: ReadAhead[tuple[Chunk, PictureGroups]],
        prefetch: int,
        stall_seconds: float,
        reading: Callable[[], str | None],
        source: str,
    ) -> None:
        self.waiting: deque[tuple[Chunk, PictureGroups]] = deque()
        self.failure: Exception | None = None
        self._ahead = ahead
        self._turns = Semaphore(prefetch + 1)  # chunks that may be in tf.data's hands
        self._stall_seconds, self._reading, self._source = stall_seconds, reading, source

    def pop(self) -> tuple[Chunk, PictureGroups]:
        """The oldest chunk, whose pixels begin to arrive; makes room for another."""
        self._turns.release()
        return self.waiting.popleft()

    def stop(self) -> None:
        """Ends the reading, and tf.data's thread if it waits for it."""
        self._ahead.stop()
        self._turns.release()

    def __call__(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        try:
            while self._turns.acquire():
                try:
                    chunk, groups = self._ahead.take(self._stall_seconds)
                except StopIteration:
                    return
                except queue.Empty:
                    raise DataError(
                        f"{self._source}: waited {self._stall_seconds:g} seconds for "
                        f"{self._reading() or 'the next products'}; see whether that disk or bucket still answers, or "
                        "raise data.stall_seconds"
                    ) from None
                self.waiting.append((chunk, groups))
                yield groups.encoded, groups.numbers, groups.heads
        except Exception as error:
            self.failure = error
            raise


def _decoded(
    feed: _Feed, image_size: tuple[int, int], augment: AugmentSpec, threads: int | None
) -> Iterator[np.ndarray]:
    decode = group_decoder(*image_size, augment)

    def decode_group(encoded: tf.Tensor, numbers: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
        return decode(encoded[: head[1]], numbers[: head[1]], head[0])

    # A chunk at a time comes from Python, because each time costs as much as decoding a dozen small pictures.
    signature = (
        tf.TensorSpec([None, GROUP], tf.string),
        tf.TensorSpec([None, GROUP, 4], tf.int64),
        tf.TensorSpec([None, 2], tf.int64),
    )
    pixels = (
        tf.data.Dataset.from_generator(feed, output_signature=signature)
        .unbatch()
        .map(decode_group, num_parallel_calls=threads or _cores(), deterministic=True)
        .prefetch(max(2, min(64, _READY_BYTES // (GROUP * image_size[0] * image_size[1] * 3))))
    )
    options = tf.data.Options()
    options.deterministic = True
    # It would take threads away while a step or an evaluation takes long, and give them back too late.
    options.autotune.enabled = False
    if threads is not None:
        options.threading.private_threadpool_size = threads
    return map(_view, iter(pixels.with_options(options)))  # which, unlike a generator, goes on after an error


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _view(tensor: tf.Tensor) -> np.ndarray:
    return np.asarray(memoryview(tensor))  # .numpy() would copy
