"""What will be in each training batch, decided from the tables alone: no product is read and TensorFlow not needed.

So every host, every form of storage and the cache agree on a batch, and resuming is asking for a later step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from data_pipelines.draw_shares import log_draw_shares
from data_pipelines.errors import DataError
from data_pipelines.feed_settings import BatchShape, Sampling, at_least
from data_pipelines.further_queries import NONE as NO_QUERY
from data_pipelines.further_queries import FurtherQueries
from data_pipelines.hard_negatives import NONE, HardNegatives
from data_pipelines.order import PairOrder, pair_weights, with_cold, with_swaps
from data_pipelines.product_queries import ProductQueries, ProductWords
from data_pipelines.query_arrays import QueryOutput
from data_pipelines.ragged import Ragged, pad_tokens
from data_pipelines.side_ids import NONE as NO_BUCKET
from data_pipelines.side_ids import SideColumns, SideTable


@dataclass(frozen=True)
class Plan:
    """A batch before its products are read.

    Attributes:
      rows: int64[n], the products' rows, n <= B; with hard negatives int64[B * (1 + H)], those of the pairs first.
      arrays: the parts of the batch that do not come from the products.
      title_tokens: T of this batch.
      keys: int64[rows, 2], (seed, position in the whole order): what varies the pictures and masks the titles; None
        where nothing is varied.
    """

    rows: np.ndarray
    arrays: dict[str, np.ndarray]
    title_tokens: int
    keys: np.ndarray | None = None


class PairTables(Protocol):
    """What the plans need of the data; `PreparedData`, `CachedData` and `MixedData` have it."""

    @property
    def interactions(self) -> Mapping[str, np.ndarray]: ...
    @property
    def pseudo_pairs(self) -> Mapping[str, np.ndarray]: ...
    @property
    def queries(self) -> Sequence[str]: ...
    @property
    def query_ids(self) -> Ragged: ...
    @property
    def query_keys(self) -> np.ndarray: ...
    @property
    def title_tokens(self) -> np.ndarray: ...
    @property
    def num_products(self) -> int: ...
    @property
    def pad_id(self) -> int: ...
    @property
    def product_groups(self) -> np.ndarray | None:
        """int32[N], the shard of each product where shards are streamed; None where any product is read at once."""

    def balanced(self, weights: np.ndarray) -> np.ndarray:
        """The weights of the pairs, scaled where data sets are mixed so that each gets its share."""

    def side_table(self, side: SideColumns) -> SideTable:
        """The buckets of all products; raises DataError where none has a value in one of the columns."""


class TrainPlans:
    """The plan of every step, for one host.

    Attributes:
      shape: sizes of a batch.
      share_size: B of this host's part of a batch.
      per_pair: H, how many hard negatives each pair has; 0 for none.
      pairs_per_epoch: how many draws make an epoch.
      share_truncated: of the products with queries, the share with more than `max_product_queries` query keys, so that
        `product_queries` leaves some out.
    """

    def __init__(
        self,
        data: PairTables,
        sampling: Sampling,
        shape: BatchShape,
        process_index: int,
        process_count: int,
        query_output: QueryOutput | None = None,
        hard_negatives: HardNegatives | None = None,
    ) -> None:
        """Weighs the pairs.

        Args:
          data: the tables.
          sampling: which pairs are drawn.
          shape: sizes of a batch.
          process_index: which host this is.
          process_count: how many share a batch.
          query_output: changes the queries that are shown, and says what else of them is; None for query_ids alone.
          hard_negatives: further products for each pair; None for no such arrays.

        Raises:
          DataError: no pairs to draw, settings out of bounds, no value in a column of the shape, or hard negatives of
            data that cannot be read by row.
        """
        at_least(1, max_product_queries=sampling.max_product_queries)
        at_least(0, further_queries=sampling.further_queries)
        if not 0 <= sampling.pseudo_share < 1:
            raise DataError(f"pseudo_share={sampling.pseudo_share} is out of bounds; choose from 0 to below 1")
        self._data, self._sampling = data, sampling
        self.shape = shape
        self._query_output, self._hard_negatives = query_output, hard_negatives
        self.per_pair = hard_negatives.per_pair if hard_negatives else 0
        if hard_negatives and data.product_groups is not None:
            raise DataError(
                "hard negatives can lie anywhere in the data, but TFRecord shards are read front to back; run "
                "`make-jax data cache`, or `make-jax prepare` again with --storage array_record"
            )
        self._side_table = data.side_table(shape.side)
        self._query_lengths = data.query_ids.lengths()
        self._process_index, self._process_count = process_index, process_count
        clicks, weights = self._gather_pairs()
        clicked = {"query_index": self._queries, "product_index": self._products, "clicks": clicks}
        self._product_queries = ProductQueries(
            clicked, data.query_keys, data.num_products, sampling.max_product_queries
        )
        self._product_words = self._find_words(clicked)
        self._product_log_q = log_draw_shares(self._products, weights)
        self._query_log_q = log_draw_shares(data.query_keys[self._queries], weights)
        groups = self._sort_by_group(weights)
        self._further = None
        if sampling.further_queries:
            self._further = FurtherQueries(self._queries, self._products, self._sorted_weights, data.num_products)
        self._order = PairOrder(self._sorted_weights, sampling.batch_size, sampling.seed, groups)
        self.share_size = self._order.share(process_count)
        self.pairs_per_epoch = self._order.pairs_per_epoch
        self.share_truncated = self._product_queries.share_truncated

    def _find_words(self, clicked: Mapping[str, np.ndarray]) -> ProductWords | None:
        most = self._sampling.max_product_words
        if most == 0:
            return None
        if self._query_output is None or self._query_output.word_keys is None:
            raise DataError(f"max_product_words={most} needs the words of queries; give a query_output with word_keys")
        texts, keys = self._data.queries, self._query_output.word_keys

        def words(queries: np.ndarray) -> Ragged:
            return keys.of_all([texts[query] for query in queries.tolist()])

        return ProductWords(clicked, words, self._data.num_products, most)

    def _gather_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Lists the pairs of the log and what is made up beside it; returns the clicks and the weight of each."""
        data, sampling, pairs = self._data, self._sampling, self._data.interactions
        self._queries, self._products, clicks = pairs["query_index"], pairs["product_index"], pairs["clicks"]
        weights = data.balanced(
            pair_weights(pairs, sampling.popularity_power, sampling.purchase_weight, sampling.recency_half_life)
        )
        if weights.any():
            weights = with_swaps(weights, self._products, sampling.query_swap)
            made_up = self._made_up()
        else:
            made_up = [(data.pseudo_pairs, 0.0)]
        for pseudo, share in made_up:
            count = len(pseudo["query_index"])
            weights = with_cold(weights, count, share) if weights.any() else np.append(weights, np.ones(count))
            self._queries = np.concatenate([self._queries, pseudo["query_index"]])
            self._products = np.concatenate([self._products, pseudo["product_index"]])
            clicks = np.concatenate([clicks, np.ones(count, clicks.dtype)])
        return clicks, weights

    def _made_up(self) -> list[tuple[Mapping[str, np.ndarray], float]]:
        """Pseudo pairs to add to those of the log, and of all pairs up to these, the share that they are to have."""
        pseudo, sampling = self._data.pseudo_pairs, self._sampling
        found: list[tuple[Mapping[str, np.ndarray], float]] = []
        if sampling.cold_share:
            clicked = np.zeros(self._data.num_products, bool)
            clicked[self._products] = True
            cold = ~clicked[pseudo["product_index"]]
            # What comes after it takes its part of this share, too.
            share = sampling.cold_share / (1 - sampling.pseudo_share)
            found.append(({name: values[cold] for name, values in pseudo.items()}, share))
        if sampling.pseudo_share:
            found.append((pseudo, sampling.pseudo_share))
        return found

    def _sort_by_group(self, weights: np.ndarray) -> np.ndarray | None:
        """Puts the pairs of a streamed shard side by side; returns each pair's shard, None for random access."""
        self._sorted_weights = weights
        if self._data.product_groups is None:
            return None
        groups = self._data.product_groups[self._products]
        by_group = np.argsort(groups, kind="stable")
        self._queries, self._products = self._queries[by_group], self._products[by_group]
        self._sorted_weights = weights[by_group]
        return groups[by_group]

    def __call__(self, step: int) -> Plan:
        """This host's part of batch `step`."""
        data, shape, size, hard = self._data, self.shape, self.share_size, self._hard_negatives
        first = self._process_index * size
        # Text lengths are those of the whole batch; without them a host need not draw what others read.
        seen = self._order.batch(step) if shape.length_multiple else None
        rows = (
            self._order.batch(step, self._process_index, self._process_count) if seen is None else seen[first:][:size]
        )
        lengths = rows if seen is None else seen
        queries, products = self._queries[rows], self._products[rows]
        start = step * self._sampling.batch_size
        positions = start + first + np.arange(size)
        keys = np.stack([np.full(size, self._sampling.seed), positions], axis=1)
        if seen is None:
            negatives = drawn = self._draw_negatives(rows, positions)
            further = others = self._draw_further(rows, positions)
        else:
            places = start + np.arange(len(seen))
            drawn, others = self._draw_negatives(seen, places), self._draw_further(seen, places)
            negatives, further = drawn[first:][:size], others[first:][:size]
        asked = np.concatenate([self._queries[lengths], others[others != NO_QUERY]])
        query_tokens = shape.padded(self._query_lengths[asked], shape.max_query_tokens)
        shown = np.concatenate([self._products[lengths], drawn[drawn != NONE]])
        query_ids = pad_tokens(data.query_ids.take(queries), query_tokens, data.pad_id)
        # A pair that has too few negatives shows its own product in their place, which is nobody's negative.
        shown_rows = np.concatenate([products, np.where(negatives == NONE, products[:, None], negatives).reshape(-1)])
        return Plan(
            rows=shown_rows,
            arrays={
                "query_key": data.query_keys[queries],
                "product_key": products.astype(np.int32),
                "product_queries": self._product_queries[products],
                "query_log_q": self._query_log_q[data.query_keys[queries]],
                "product_log_q": self._product_log_q[products],
                **({} if self._product_words is None else {"product_word_keys": self._product_words[products]}),
                **self._query_arrays(queries, query_ids, keys),
                **self._further_arrays(further, query_tokens),
                **self._negative_keys(negatives),
                **self._side_table.arrays(shown_rows),
            },
            title_tokens=shape.padded(data.title_tokens[shown], shape.max_title_tokens),
            keys=keys if hard is None else np.concatenate([keys, hard.keys(positions, self._sampling.seed)]),
        )

    def _draw_negatives(self, pairs: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """int32[n, H], rows of products or -1."""
        if self._hard_negatives is None:
            return np.zeros((len(pairs), 0), np.int32)
        keys = self._data.query_keys[self._queries[pairs]]
        return self._hard_negatives.draw(keys, positions, self._sampling.seed)

    def _draw_further(self, pairs: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """int64[n, K], queries or -1."""
        if self._further is None:
            return np.zeros((len(pairs), 0), np.int64)
        return self._further.draw(pairs, positions, self._sampling.seed, self._sampling.further_queries)

    def _further_arrays(self, further: np.ndarray, query_tokens: int) -> dict[str, np.ndarray]:
        if further.shape[1] == 0:
            return {}
        data, there = self._data, further.reshape(-1) != NO_QUERY
        flat = np.where(there, further.reshape(-1), 0)
        keys = data.query_keys[flat]
        found = {
            "key": np.where(there, keys, NO_QUERY).astype(np.int32),
            "log_q": self._query_log_q[keys],
            "ids": pad_tokens(data.query_ids.take(flat), query_tokens, data.pad_id),
        }
        if self._query_output is not None and self._query_output.word_keys is not None:
            texts = [data.queries[query] for query in flat.tolist()]
            found["word_keys"] = self._query_output.word_keys(texts, query_tokens)
        return {f"further_query_{name}": _fold(array, further.shape) for name, array in found.items()}

    def _negative_keys(self, negatives: np.ndarray) -> dict[str, np.ndarray]:
        if self._hard_negatives is None:
            return {}
        queries = self._product_queries[np.maximum(negatives, 0).reshape(-1)]
        return {"negative_key": negatives, "negative_queries": queries.reshape(*negatives.shape, -1)}

    def _query_arrays(self, queries: np.ndarray, ids: np.ndarray, keys: np.ndarray) -> dict[str, np.ndarray]:
        if self._query_output is None:
            return {"query_ids": ids}
        texts = self._data.queries
        return self._query_output.arrays([texts[query] for query in queries.tolist()], ids, keys)


def fill_up(arrays: dict[str, np.ndarray], size: int, pad_id: int) -> dict[str, np.ndarray]:
    """Appends rows that only pad, so that every array has `size`."""
    padding = {"title_ids": pad_id, "product_id": "", "side_ids": NO_BUCKET}
    return {name: _fill(array, size, padding.get(name, 0)) for name, array in arrays.items()}


def _fold(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return array.reshape(*shape, *array.shape[1:])


def _fill(array: np.ndarray, size: int, padding: object) -> np.ndarray:
    filled = np.full((size, *array.shape[1:]), padding, array.dtype)
    filled[: len(array)] = array
    return filled
