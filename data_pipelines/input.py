"""Batches for the model: the contract between the data and everything that trains or embeds.

A batch is a dict of numpy arrays; B batch, Q query tokens, T title tokens, I pictures of a product, H x W pixels,
R regions, F region width, M queries of a product and W words of these, K further queries and H hard negatives of a
pair, C columns of the product table with up to L values each.

| name             | array                | meaning                                                            |
|------------------|----------------------|--------------------------------------------------------------------|
| query_ids        | int32[B, Q]          | tokenised query, perhaps varied, then padding                      |
| title_ids        | int32[B, T]          | tokenised title, then padding; padding only = no title             |
| image            | uint8[B, I, H, W, 3] | RGB, fitted into the middle of white; all 0 = no picture           |
| has_image        | bool[B, I]           | which pictures there are, the main one first                       |
| query_key        | int32[B]             | equal for queries with the same set of keywords, before variation  |
| product_key      | int32[B]             | the product's row in the prepared data                             |
| product_queries  | int32[B, M]          | query_keys that led to it, most clicked first, then -1             |
| query_log_q      | float32[B]           | log of the probability that a draw shows an equal query            |
| product_log_q    | float32[B]           | log of the probability that a draw shows the product               |
| product_id       | object[B] of str     | the product's id, "" in rows that only pad                         |
| valid            | bool[B]              | False in rows that only pad, and where a record cannot be read     |
| title_words      | int32[B, T]          | which word a token belongs to, -1 for special tokens and padding   |
| title_keywords   | bool[B, T]           | whether the token belongs to a word that shoppers use              |
| masked_title_ids | int32[B, T]          | the title with some words hidden                                   |
| title_targets    | int32[B, T]          | the hidden tokens, -1 elsewhere                                    |
| masked_query_ids | int32[B, Q]          | the query with some words hidden                                   |
| query_targets    | int32[B, Q]          | the hidden tokens, -1 elsewhere                                    |
| title_word_keys  | int32[B, T]          | the key of each token's word; 0: no word, -1: an unknown one       |
| query_word_keys  | int32[B, Q]          | likewise; 0 also for symbols                                       |
| product_word_keys| int32[B, W]          | words of the queries that led to it, most clicked first, then 0    |
| side_ids         | int32[B, C, L]       | buckets of the product's values in each column, then -1 = none     |
| further_query_ids| int32[B, K, Q]       | K other queries of the product, tokenised as they were typed       |
| further_query_key| int32[B, K]          | their query_keys; -1 = none, to be left out                        |
| negative_key     | int32[B, H]          | rows of products mined for the query; -1 = none, to be left out    |
| negative_queries | int32[B, H, M]       | their product_queries                                              |

and negative_title_ids, negative_image, negative_has_image, negative_side_ids: those arrays with H after B, as
further_query_log_q and further_query_word_keys have K there. Data with
region features has image float32[B, R, F] and has_image bool[B, R] instead. `train_batches` gives query_ids to
product_log_q, and the rest where asked for (of `TitleOutput`, and of the plans' `QueryOutput` and `HardNegatives`; a
query has the same negatives, drawn by seed and step, on any number of hosts); `catalogue_batches` and
`row_batches` give title_ids, image, has_image, product_id and valid; `query_batches` gives query_ids and valid. All
products come with side_ids if the shape has columns. A text longer than Q or T loses tokens before its last one. A
damaged record comes as a product without title and picture, which takes no part in training. Every iterator of products
is to be closed, or used in a `with` statement.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import numpy as np

from data_pipelines.augmentation import NO_AUGMENT, AugmentSpec
from data_pipelines.cache import CachedData, cached_batches
from data_pipelines.errors import DataError
from data_pipelines.feed_settings import BatchShape, FeedOptions, at_least
from data_pipelines.hard_negatives import BatchesWithNegatives
from data_pipelines.plans import Plan, TrainPlans
from data_pipelines.prepared import ProductData
from data_pipelines.title_arrays import TitleOutput
from data_pipelines.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from data_pipelines.dataset import PreparedData
    from data_pipelines.mixture import MixedData


class ProductBatches(Protocol):
    """Batches with products, made ahead of time in the background until they are closed.

    Attributes:
      set_aside: how many damaged products were met so far.
      reading: what is being read, "" if that is not known.
    """

    @property
    def set_aside(self) -> int: ...
    @property
    def reading(self) -> str: ...
    def __next__(self) -> dict[str, np.ndarray]: ...
    def __iter__(self) -> Iterator[dict[str, np.ndarray]]: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *error: Any) -> None: ...


def train_batches(
    data: ProductData,
    plans: TrainPlans,
    *,
    start_step: int = 0,
    num_steps: int | None = None,
    augment: AugmentSpec = NO_AUGMENT,
    titles: TitleOutput | None = None,
    options: FeedOptions | None = None,
) -> ProductBatches:
    """This host's part of the training batches from `start_step` on; what is in them depends on (seed, step) only.

    Args:
      data: prepared, mixed or cached data.
      plans: made for `data`.
      start_step: the first step, which is all that is needed to resume.
      num_steps: how many batches; None for no end.
      augment: how pictures are varied; not at all where they are cached.
      titles: further arrays of the titles.
      options: see `FeedOptions`.

    Raises:
      DataError: settings that cannot be, or while iterating, too many damaged products or a reader that hangs.
    """
    steps = itertools.count(start_step) if num_steps is None else range(start_step, start_step + num_steps)
    products = plans.share_size * (1 + plans.per_pair)
    batches = _open(data, map(plans, steps), products, plans.shape, augment, titles, options)
    return BatchesWithNegatives(batches, plans.share_size, plans.per_pair) if plans.per_pair else batches


def catalogue_batches(
    data: ProductData,
    shape: BatchShape,
    *,
    batch_size: int,
    start: int = 0,
    stop: int | None = None,
    options: FeedOptions | None = None,
) -> ProductBatches:
    """The products in rows [start, stop) of the data, in order; the last batch is padded and says so.

    Raises:
      DataError: rows outside the data, no value in a column of the shape, or as `train_batches`.
    """
    at_least(1, batch_size=batch_size)
    end = data.num_products if stop is None else stop
    if not 0 <= start <= end <= data.num_products:
        raise DataError(f"{data.path}: rows {start} to {end} asked for, but it has {data.num_products} products")

    side = data.side_table(shape.side)

    def plan(first: int) -> Plan:
        rows = np.arange(first, min(first + batch_size, end))
        arrays = {"product_id": data.product_ids[rows], "valid": np.ones(len(rows), bool)}
        arrays |= side.arrays(rows)
        return Plan(rows, arrays, shape.padded(data.title_tokens[rows], shape.max_title_tokens))

    return _open(data, map(plan, range(start, end, batch_size)), batch_size, shape, NO_AUGMENT, None, options)


def query_batches(
    texts: Iterable[str], tokenizer: TextTokenizer, *, batch_size: int, max_query_tokens: int
) -> Iterator[dict[str, np.ndarray]]:
    """Tokenised queries in order; the last batch is padded and says so.

    Raises:
      DataError: sizes that cannot be.
    """
    at_least(1, batch_size=batch_size)
    at_least(3, max_query_tokens=max_query_tokens)
    rest = iter(texts)
    parts = iter(lambda: list(itertools.islice(rest, batch_size)), [])
    return (
        {
            "query_ids": tokenizer.encode_padded(part + [""] * (batch_size - len(part)), max_query_tokens),
            "valid": np.arange(batch_size) < len(part),
        }
        for part in parts
    )


def _open(
    data: ProductData,
    plans: Iterable[Plan],
    batch_size: int,
    shape: BatchShape,
    augment: AugmentSpec,
    titles: TitleOutput | None,
    options: FeedOptions | None,
) -> ProductBatches:
    titles, options = titles or TitleOutput(), options or FeedOptions()
    if isinstance(data, CachedData):
        return cached_batches(data, plans, batch_size, shape, augment, titles, options)
    from data_pipelines.stored_feed import stored_batches  # brings TensorFlow, which caches do without

    return stored_batches(cast("PreparedData | MixedData", data), plans, batch_size, shape, augment, titles, options)
