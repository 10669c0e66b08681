"""A cache of decoded products in memory-mapped arrays: the same batches without decoding and without TensorFlow.

For catalogues whose pixels fit on a disk, and for machines that have JAX but no TensorFlow.
"""

from __future__ import annotations

import io
import queue
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from data_pipelines.augmentation import NO_AUGMENT, AugmentSpec
from data_pipelines.errors import DataError
from data_pipelines.feed_settings import BatchShape, FeedOptions
from data_pipelines.manifest import CACHE_KIND, read_manifest, verify_files
from data_pipelines.plans import Plan, fill_up
from data_pipelines.prepared import DataTables
from data_pipelines.ragged import Ragged, pad_tokens
from data_pipelines.read_ahead import ReadAhead
from data_pipelines.title_arrays import TitleOutput
from data_pipelines.tokenizer import load_tokenizer


class CachedData(DataTables):
    """A verified cache; arrays are mapped into memory, so opening costs nothing and processes share them.

    Attributes:
      fingerprint: that of the prepared data it was made from: a run may go on with either.
    """

    def __init__(self, path: str, manifest: dict[str, Any], folder: Path) -> None:
        """Reads nothing yet; see `DataTables`."""
        super().__init__(path, manifest, folder)
        self.fingerprint = manifest["options"]["made_from"]

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the pictures; (0, 0) with region features."""
        height, width = self.manifest["options"]["image_size"]
        return height, width

    @cached_property
    def image(self) -> np.ndarray:
        """uint8[N, I, H, W, 3], or float32[N, R, F] with region features."""
        return self._array("image")

    @cached_property
    def has_image(self) -> np.ndarray:
        """bool[N, I] or bool[N, R]."""
        return self._array("has_image")

    @cached_property
    def readable(self) -> np.ndarray:
        """bool[N]: False for products whose record was damaged when the cache was made."""
        return self._array("readable")

    @cached_property
    def titles(self) -> Ragged:
        """The tokens of the titles, int32."""
        return self._ragged("title_ids")

    @cached_property
    def title_words(self) -> Ragged:
        """The word that each token of the titles belongs to, int32."""
        return self._ragged("title_words")

    @cached_property
    def title_keywords(self) -> Ragged:
        """Whether each token of the titles belongs to a keyword, bool."""
        return self._ragged("title_keywords")

    def records(self, indices: Iterable[int]) -> list[dict[str, Any]]:
        """Products by row, to show them, as `PreparedData.records`: titles and pictures as the model sees them."""
        tokenizer = load_tokenizer(self.tokenizer_path)
        rows = np.array(list(indices), np.int64)
        titles = self.titles.take(rows)
        return [
            {
                "product_id": self.product_ids[row],
                "title": tokenizer.decode(ids),
                "category": self.categories[row],
                "images": []
                if self.region_width
                else [_png(pixels) for pixels in self.image[row][self.has_image[row]]],
                "title_ids": ids,
            }
            for row, ids in zip(rows.tolist(), np.split(titles.values, titles.splits[1:-1]), strict=True)
        ]

    def check(self, shape: BatchShape, augment: AugmentSpec) -> None:
        """Refuses batches that this cache cannot give.

        Raises:
          DataError: other pictures than were cached, or pictures that are varied.
        """
        shape.check_kind(self.path, self.region_width)
        again = "run `make-jax data cache` again for this experiment, or train on the prepared data itself"
        if augment != NO_AUGMENT:
            raise DataError(
                f"{self.path}: its pictures are decoded and cannot be varied, but {augment} asks for that; turn "
                "augmentation off (data.crop=1 and so on) or train on the prepared data itself"
            )
        if shape.num_images and (shape.image_size != self.image_size or shape.num_images > self.image.shape[1]):
            raise DataError(
                f"{self.path} has {self.image.shape[1]} pictures a product of {self.image_size} pixels, but "
                f"{shape.num_images} of {shape.image_size} are asked for; {again}"
            )
        if shape.num_regions > self.image.shape[1]:
            raise DataError(
                f"{self.path} has {self.image.shape[1]} regions a product, but {shape.num_regions} are asked for; "
                f"{again}"
            )

    def _array(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)

    def _ragged(self, name: str) -> Ragged:
        return Ragged(self._array(name), self._array("title_splits"))


def open_cache(path: Path, checksums: bool = True) -> CachedData:
    """Opens a cache after comparing its files with its manifest.

    Raises:
      DataError: not a cache, another format version, or a missing or changed file.
    """
    manifest = read_manifest(path, (CACHE_KIND,))
    verify_files(path, manifest, checksums)
    return CachedData(str(path), manifest, path)


class CachedBatches(Iterator[dict[str, np.ndarray]]):
    """Batches gathered from a cache, read ahead in a thread; close them, or use them in a `with` statement."""

    set_aside = 0  # damaged products were counted when the cache was made

    def __init__(self, batches: Iterable[dict[str, np.ndarray]], source: str, options: FeedOptions) -> None:
        """Starts nothing yet; the work begins with the first `next`."""
        self._ahead = ReadAhead(batches, options.prefetch)
        self._source, self._stall_seconds = source, options.stall_seconds

    @property
    def reading(self) -> str:
        """What is being read."""
        return f"products of {self._source}"

    def __next__(self) -> dict[str, np.ndarray]:
        """Returns the next batch.

        Raises:
          DataError: reading takes too long.
        """
        try:
            return self._ahead.take(self._stall_seconds)
        except queue.Empty:
            self.close()
            raise DataError(
                f"{self._source}: waited {self._stall_seconds:g} seconds for the next products; see whether that disk "
                "still answers, or raise data.stall_seconds"
            ) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stops the background work; further `next` calls find nothing."""
        self._ahead.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


def cached_batches(
    data: CachedData,
    plans: Iterable[Plan],
    batch_size: int,
    shape: BatchShape,
    augment: AugmentSpec,
    titles: TitleOutput,
    options: FeedOptions,
) -> CachedBatches:
    """The batches that the plans describe, equal to those of the prepared data to the bit.

    Raises:
      DataError: batches that the cache cannot give.
    """
    data.check(shape, augment)
    many = shape.num_regions or shape.num_images

    def batch(plan: Plan) -> dict[str, np.ndarray]:
        rows, width = plan.rows, plan.title_tokens
        arrays = plan.arrays | titles.arrays(
            pad_tokens(data.titles.take(rows), width, data.pad_id),
            pad_tokens(data.title_words.take(rows), width, -1),
            pad_tokens(data.title_keywords.take(rows), width, 0).astype(bool),
            plan.keys,
        )
        if "valid" in arrays:
            arrays["valid"] = arrays["valid"] & data.readable[rows]
        arrays |= {"image": data.image[rows, :many], "has_image": data.has_image[rows, :many]}
        return fill_up(arrays, batch_size, data.pad_id)

    return CachedBatches(map(batch, plans), data.path, options)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
