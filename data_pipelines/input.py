"""Batches for the model: the contract between the data and everything that trains or embeds.

A batch is a dict of numpy arrays; B batch, Q query tokens, T title tokens, H x W pixels, M queries of a
product.

| name            | array             | meaning                                                             |
|-----------------|-------------------|---------------------------------------------------------------------|
| query_ids       | int32[B, Q]       | tokenised query, [CLS] first, [SEP] last, then 0                    |
| title_ids       | int32[B, T]       | tokenised title, likewise; all 0 = no title                         |
| image           | uint8[B, H, W, 3] | RGB, fitted into the middle of white; all 0 = no image              |
| has_image       | bool[B]           | whether there is an image                                           |
| query_key       | int32[B]          | equal for queries with the same set of keywords                     |
| product_key     | int32[B]          | the product's row in the prepared data                              |
| product_queries | int32[B, M]       | query_keys that led to clicks on it, most clicked first, then -1    |
| product_id      | object[B] of str  | the product's id, "" in rows that only pad                          |
| valid           | bool[B]           | False in rows that only pad                                         |

`train_batches` gives the first seven; `catalogue_batches` and `row_batches` give title_ids, image, has_image,
product_id and valid; `query_batches` gives query_ids and valid. A text longer than Q or T loses tokens
before its [SEP]. Every iterator of pictures is a `Batches`: close it, or use it in a `with` statement.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.batches import Batches, Chunk
from data_pipelines.dataset import PreparedData
from data_pipelines.decode import AugmentSpec
from data_pipelines.errors import DataError
from data_pipelines.order import PairOrder, pair_weights
from data_pipelines.product_queries import ProductQueries
from data_pipelines.stored import pad_tokens, read_products
from data_pipelines.tokenizer import TextTokenizer

NO_AUGMENT = AugmentSpec()


class TrainBatches(Batches):
    """Training batches.

    Attributes:
      pairs_per_epoch: how many draws make an epoch, the number of (query, product) pairs in the data.
      share_truncated: of the clicked products, the share with more than `max_product_queries` query keys, so
        that `product_queries` leaves some out.
    """

    pairs_per_epoch: int
    share_truncated: float


def train_batches(
    data: PreparedData,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    num_steps: int | None = None,
    image_size: tuple[int, int],
    max_query_tokens: int,
    max_title_tokens: int,
    max_product_queries: int,
    popularity_power: float,
    purchase_weight: float,
    augment: AugmentSpec = NO_AUGMENT,
    process_index: int = 0,
    process_count: int = 1,
    threads: int | None = None,
    prefetch: int = 2,
) -> TrainBatches:
    """This host's part of the training batches from `start_step` on; batch and pixels depend on (seed, step)
    only.

    Args:
      data: with interactions.
      batch_size: of the global batch; B of what is returned is `batch_size / process_count`.
      seed: of the order and of the augmentation, at least 0.
      start_step: the first step, which is all that is needed to resume.
      num_steps: how many batches; None for no end.
      image_size: (H, W).
      max_query_tokens: Q, at least 3.
      max_title_tokens: T, at least 3.
      max_product_queries: M.
      popularity_power: see `pair_weights`.
      purchase_weight: see `pair_weights`.
      augment: how pictures are varied.
      process_index: which host this is.
      process_count: how many hosts share the batch; their parts end to end are the same for any number of
        hosts.
      threads: decoding threads, see `Batches`.
      prefetch: batches kept ready.

    Raises:
      DataError: no pairs to draw, sizes that cannot be, or while iterating, a product that cannot be read.
    """
    _at_least(3, max_query_tokens=max_query_tokens, max_title_tokens=max_title_tokens)
    _at_least(1, max_product_queries=max_product_queries)
    pairs = data.interactions
    order = PairOrder(pair_weights(pairs, popularity_power, purchase_weight), batch_size, seed)
    share = order.share(process_count)
    clicked = ProductQueries(pairs, data.query_keys, data.num_products, max_product_queries)

    def chunk(step: int) -> Chunk:
        rows = order.batch(step, process_index, process_count)
        queries, products = pairs["query_index"][rows], pairs["product_index"][rows]
        stored = read_products(data, products, max_title_tokens)
        first = step * batch_size + process_index * share
        return Chunk(
            product_ids=stored.product_ids,
            images=stored.images,
            arrays={
                "query_ids": _pad_queries([data.query_ids[query] for query in queries], max_query_tokens),
                "title_ids": stored.title_ids,
                "query_key": data.query_keys[queries],
                "product_key": products,
                "product_queries": clicked[products],
            },
            augment_keys=np.stack([np.full(share, seed), np.arange(first, first + share)], axis=1),
        )

    steps = itertools.count(start_step) if num_steps is None else range(start_step, start_step + num_steps)
    batches = TrainBatches(
        map(chunk, steps),
        str(data.path),
        share,
        image_size,
        augment=augment,
        threads=threads,
        prefetch=prefetch,
    )
    batches.pairs_per_epoch = order.pairs_per_epoch
    batches.share_truncated = clicked.share_truncated
    return batches


def catalogue_batches(
    data: PreparedData,
    *,
    batch_size: int,
    image_size: tuple[int, int],
    max_title_tokens: int,
    start: int = 0,
    stop: int | None = None,
    threads: int | None = None,
) -> Batches:
    """The products in rows [start, stop) of the prepared data, in order; the last batch is padded and says
    so.

    Raises:
      DataError: rows outside the data, sizes that cannot be, or while iterating, a product that cannot be
        read.
    """
    _at_least(1, batch_size=batch_size)
    _at_least(3, max_title_tokens=max_title_tokens)
    end = data.num_products if stop is None else stop
    if not 0 <= start <= end <= data.num_products:
        raise DataError(f"{data.path}: rows {start} to {end} asked for, but it has {data.num_products} products")

    def chunk(first: int) -> Chunk:
        rows = np.arange(first, min(first + batch_size, end))
        stored = read_products(data, rows, max_title_tokens)
        return _padded_chunk(stored.product_ids, stored.images, stored.title_ids, batch_size)

    chunks = map(chunk, range(start, end, batch_size))
    return Batches(chunks, str(data.path), batch_size, image_size, threads=threads)


def row_batches(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: TextTokenizer,
    *,
    batch_size: int,
    image_size: tuple[int, int],
    max_title_tokens: int,
    source: str = "products",
    threads: int | None = None,
) -> Batches:
    """The same as `catalogue_batches`, to the bit, for products that were not prepared.

    Args:
      rows: `product_id` str, `title` str ("" or None for none), `image` bytes, JPEG or PNG (b"" or None for
        none).
      tokenizer: the one the data was prepared with.
      batch_size: B.
      image_size: (H, W).
      max_title_tokens: T, at least 3.
      source: where the rows come from, for messages.
      threads: decoding threads, see `Batches`.

    Raises:
      DataError: sizes that cannot be, or while iterating, an image that cannot be decoded.
    """
    _at_least(1, batch_size=batch_size)
    _at_least(3, max_title_tokens=max_title_tokens)

    def chunk(part: Sequence[Mapping[str, Any]]) -> Chunk:
        return _padded_chunk(
            [row["product_id"] for row in part],
            [row["image"] or b"" for row in part],
            tokenizer.encode_padded([row["title"] or "" for row in part], max_title_tokens),
            batch_size,
        )

    return Batches(map(chunk, _parts(rows, batch_size)), source, batch_size, image_size, threads=threads)


def query_batches(
    texts: Iterable[str], tokenizer: TextTokenizer, *, batch_size: int, max_query_tokens: int
) -> Iterator[dict[str, np.ndarray]]:
    """Tokenised queries in order; the last batch is padded and says so.

    Raises:
      DataError: sizes that cannot be.
    """
    _at_least(1, batch_size=batch_size)
    _at_least(3, max_query_tokens=max_query_tokens)
    return (
        {
            "query_ids": _fill(tokenizer.encode_padded(part, max_query_tokens), batch_size),
            "valid": np.arange(batch_size) < len(part),
        }
        for part in _parts(texts, batch_size)
    )


def _padded_chunk(ids: list[str], images: list[bytes], title_ids: np.ndarray, batch_size: int) -> Chunk:
    missing = batch_size - len(ids)
    ids, images = ids + [""] * missing, images + [b""] * missing
    return Chunk(
        product_ids=ids,
        images=images,
        arrays={
            "title_ids": _fill(title_ids, batch_size),
            "product_id": np.array(ids, object),
            "valid": np.arange(batch_size) < batch_size - missing,
        },
    )


def _fill(array: np.ndarray, size: int) -> np.ndarray:
    return np.pad(array, [(0, size - len(array)), (0, 0)])


def _pad_queries(queries: Sequence[np.ndarray], width: int) -> np.ndarray:
    splits = np.concatenate([[0], np.cumsum([len(query) for query in queries])])
    return pad_tokens(np.concatenate(queries), splits, width)


def _parts(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    return iter(lambda: list(itertools.islice(rest, size)), [])


def _at_least(minimum: int, **values: int) -> None:
    for name, value in values.items():
        if value < minimum:
            raise DataError(f"{name}={value} must be at least {minimum}")
