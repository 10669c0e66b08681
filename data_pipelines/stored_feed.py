"""Batches of products that are stored encoded: read by row, or given as rows, then decoded by the engine."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.augmentation import NO_AUGMENT, AugmentSpec
from data_pipelines.bad_records import BadRecords
from data_pipelines.batches import Batches, Chunk
from data_pipelines.dataset import PreparedData
from data_pipelines.feed_settings import BatchShape, FeedOptions
from data_pipelines.mixture import MixedData
from data_pipelines.plans import Plan, fill_up
from data_pipelines.stored import read_products
from data_pipelines.title_arrays import TitleOutput, region_arrays
from data_pipelines.tokenizer import TextTokenizer

_AHEAD = 16  # plans announced to the shards before they are read, so that slow storage is asked in time


def stored_batches(
    data: PreparedData | MixedData,
    plans: Iterable[Plan],
    batch_size: int,
    shape: BatchShape,
    augment: AugmentSpec,
    titles: TitleOutput,
    options: FeedOptions,
) -> Batches:
    """The batches that the plans describe; B is `batch_size`, and shorter plans are padded.

    Raises:
      DataError: sizes that cannot be, or while iterating, too many damaged records or a reader that hangs.
    """
    shape.check_kind(data.path, data.region_width)

    def chunk(plan: Plan) -> Chunk:
        products = read_products(data, plan.rows, plan.title_tokens, data.pad_id)
        missing = batch_size - len(plan.rows)
        arrays = plan.arrays | titles.arrays(
            products.title_ids, products.title_words, products.title_keywords, plan.keys
        )
        if "valid" in arrays:
            arrays["valid"] = arrays["valid"] & ~np.isin(np.arange(len(plan.rows)), list(products.bad))
        return _chunk(
            products.product_ids + [""] * missing,
            np.pad(plan.rows, (0, missing)),
            products.images + [[]] * missing,
            products.regions + [b""] * missing,
            fill_up(arrays, batch_size, data.pad_id),
            shape,
            data.region_width,
            plan.keys,
            products.bad,
        )

    bad_records = BadRecords(data.path, data.num_products, options.max_bad_share, data.shards.locate)
    for gone in data.damage:
        bad_records.add(gone.row, str(data.product_ids[gone.row]), gone.reason)
    return Batches(
        map(chunk, _announced(plans, data.shards.prefetch)),
        bad_records,
        shape.image_size,
        num_images=max(1, shape.num_images),
        augment=augment,
        threads=options.threads,
        prefetch=options.prefetch,
        stall_seconds=options.stall_seconds,
        reading=lambda: data.shards.reading,
    )


def row_batches(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: TextTokenizer,
    shape: BatchShape,
    *,
    batch_size: int,
    region_width: int = 0,
    source: str = "products",
    options: FeedOptions | None = None,
) -> Batches:
    """The same as `input.catalogue_batches`, to the bit, for products that were not prepared.

    Args:
      rows: `product_id` str, `title` str ("" or None for none), `images`, encoded pictures, JPEG or PNG, the main one
        first, `regions`, float16 [R, F] as bytes (b"" for none), and the columns of the shape ("" or None for none).
      tokenizer: the one the data was prepared with.
      shape: sizes of a batch.
      batch_size: B.
      region_width: F, 0 for pictures.
      source: where the rows come from, for messages.
      options: see `FeedOptions`.

    Raises:
      DataError: sizes that cannot be, or while iterating, an image that cannot be decoded.
    """
    options = options or FeedOptions()
    count = itertools.count()

    def chunk(part: Sequence[Mapping[str, Any]]) -> Chunk:
        missing = batch_size - len(part)
        ids = [row["product_id"] for row in part] + [""] * missing
        titles = [row["title"] or "" for row in part] + [""] * missing
        arrays = {
            "title_ids": tokenizer.encode_padded(titles, shape.max_title_tokens),
            "product_id": np.array(ids, object),
            "valid": np.arange(batch_size) < len(part),
        } | fill_up(shape.side.arrays(part), batch_size, tokenizer.pad_id)
        numbers = np.array([next(count) for _ in ids])
        images = [row["images"] for row in part] + [()] * missing
        regions = [row["regions"] for row in part] + [b""] * missing
        return _chunk(ids, numbers, images, regions, arrays, shape, region_width, None, {})

    return Batches(
        map(chunk, _parts(rows, batch_size)),
        BadRecords(source, 0, 0.0),  # these rows were checked, so the first bad one stops
        shape.image_size,
        num_images=max(1, shape.num_images),
        augment=NO_AUGMENT,
        threads=options.threads,
        prefetch=options.prefetch,
        stall_seconds=options.stall_seconds,
    )


def _chunk(
    product_ids: list[str],
    rows: np.ndarray,
    images: Sequence[Sequence[bytes]],
    regions: Sequence[bytes],
    arrays: dict[str, np.ndarray],
    shape: BatchShape,
    region_width: int,
    keys: np.ndarray | None,
    bad: Mapping[int, str],
) -> Chunk:
    if shape.num_regions:
        arrays = arrays | region_arrays(regions, shape.num_regions, region_width)
        return Chunk(product_ids, rows, None, arrays, None, bad)
    return Chunk(product_ids, rows, images, arrays, keys, bad)


def _announced(plans: Iterable[Plan], prefetch: Callable[[np.ndarray], None]) -> Iterator[Plan]:
    waiting: deque[Plan] = deque()
    for plan in plans:
        prefetch(plan.rows)
        waiting.append(plan)
        if len(waiting) > _AHEAD:
            yield waiting.popleft()
    yield from waiting


def _parts(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    return iter(lambda: list(itertools.islice(rest, size)), [])
