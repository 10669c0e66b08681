"""Makes the cache: every product decoded and laid out once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from tqdm import tqdm

from data_pipelines.atomic import atomic_directory
from data_pipelines.augmentation import NO_AUGMENT
from data_pipelines.dataset import PreparedData
from data_pipelines.errors import DataError
from data_pipelines.feed_settings import BatchShape, FeedOptions
from data_pipelines.manifest import CACHE_KIND, foreign_content, write_manifest
from data_pipelines.plans import Plan
from data_pipelines.records import MAX_TITLE_TOKENS
from data_pipelines.stored_feed import stored_batches
from data_pipelines.title_arrays import TitleOutput

_BATCH_SIZE = 256
_TABLES = ("products", "interactions", "pseudo_pairs", "train_queries")


class CacheSummary(NamedTuple):
    """Where the cache is, how many products and bytes it has, and how many products were damaged."""

    out: Path
    products: int
    size_bytes: int
    set_aside: int


def write_cache(
    data: PreparedData,
    out: Path,
    shape: BatchShape,
    options: FeedOptions | None = None,
    progress: bool = True,
) -> CacheSummary:
    """Decodes the products of prepared data into a cache directory, which appears whole or not at all.

    Args:
      data: prepared data.
      out: the directory to write; an earlier cache there is replaced.
      shape: the pictures or regions to keep of each product; titles are kept whole.
      options: see `FeedOptions`.
      progress: show a progress bar where standard error is a terminal.

    Raises:
      DataError: too many damaged products, not enough room, or `out` holds something else.
    """
    shape.check_kind(data.path, data.region_width)
    copied = [data.folder / f"{name}.parquet" for name in _TABLES]
    for folder in ("tokenizer", "dev"):
        copied += [path for path in sorted((data.folder / folder).rglob("*")) if path.is_file()]
    needed = _array_bytes(data, shape) + sum(path.stat().st_size for path in copied)
    with atomic_directory(out, partial(foreign_content, kind=CACHE_KIND)) as root:
        free = shutil.disk_usage(root).free
        if needed > free:
            raise DataError(
                f"{out}: the cache of {data.num_products:,} products needs {needed / 1e6:,.1f} MB and "
                f"{free / 1e6:,.1f} MB are free; make room, choose another --out or smaller pictures"
            )
        for path in copied:
            _copy(path, root / path.relative_to(data.folder))
        set_aside = _write_arrays(data, root, shape, options or FeedOptions(), progress)
        image_size = [0, 0] if shape.num_regions else list(shape.image_size)
        write_manifest(
            root,
            {**data.manifest["counts"], "set_aside": set_aside},
            data.manifest["sources"],
            {**data.manifest["options"], "image_size": image_size, "made_from": data.fingerprint},
            kind=CACHE_KIND,
        )
        size_bytes = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    return CacheSummary(out, data.num_products, size_bytes, set_aside)


def _copy(source: Path, target: Path) -> None:
    """Unlike by shutil.copyfile, an error of the disk names no file: that of the source would mislead."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as content, target.open("wb") as copy:
        shutil.copyfileobj(content, copy)


def _array_bytes(data: PreparedData, shape: BatchShape) -> int:
    height, width = shape.image_size
    picture = shape.num_images * (height * width * 3 + 1) + shape.num_regions * (data.region_width * 4 + 1)
    return data.num_products * (picture + 9) + int(data.title_tokens.sum()) * 9


def _write_arrays(data: PreparedData, root: Path, shape: BatchShape, options: FeedOptions, progress: bool) -> int:
    total = data.num_products
    tokens = int(data.title_tokens.sum())
    many = shape.num_regions or shape.num_images
    cell = (data.region_width,) if shape.num_regions else (*shape.image_size, 3)
    with ExitStack() as stack:
        arrays = {
            name: stack.enter_context(_ArrayFile(root / f"{name}.npy", size, dtype))
            for name, size, dtype in (
                ("image", (total, many, *cell), np.float32 if shape.num_regions else np.uint8),
                ("has_image", (total, many), np.bool_),
                ("readable", (total,), np.bool_),
                ("title_splits", (total + 1,), np.int64),
                ("title_ids", (tokens,), np.int32),
                ("title_words", (tokens,), np.int32),
                ("title_keywords", (tokens,), np.bool_),
            )
        }
        bar = stack.enter_context(tqdm(total=total, desc="cache", unit=" products", disable=None if progress else True))
        batches = stored_batches(data, _plans(data), _BATCH_SIZE, shape, NO_AUGMENT, TitleOutput(spans=True), options)
        stack.callback(batches.close)
        arrays["title_splits"].append(np.concatenate([[0], np.cumsum(data.title_tokens)]))
        first = 0
        for batch in batches:
            count = min(_BATCH_SIZE, total - first)
            kept = np.arange(MAX_TITLE_TOKENS) < data.title_tokens[first : first + count, None]
            for name in ("title_ids", "title_words", "title_keywords"):
                arrays[name].append(batch[name][:count][kept])
            for name in ("image", "has_image"):
                arrays[name].append(batch[name][:count])
            arrays["readable"].append(batch["valid"][:count])
            first += count
            bar.update(count)
    return batches.set_aside


def _plans(data: PreparedData) -> Iterator[Plan]:
    for first in range(0, data.num_products, _BATCH_SIZE):
        rows = np.arange(first, min(first + _BATCH_SIZE, data.num_products))
        yield Plan(rows, {"valid": np.ones(len(rows), bool)}, MAX_TITLE_TOKENS)


class _ArrayFile:
    """An .npy file of known shape, written from front to back; a full disk is an error, not a crash of the mapping."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type) -> None:
        self._path, self._shape, self._dtype = path, shape, np.dtype(dtype)

    def __enter__(self) -> _ArrayFile:
        self._file: IO[bytes] = self._path.open("wb")
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        return self

    def append(self, rows: np.ndarray) -> None:
        """Writes the next part."""
        self._file.write(np.ascontiguousarray(rows, self._dtype).tobytes())

    def __exit__(self, *error: object) -> None:
        self._file.close()
