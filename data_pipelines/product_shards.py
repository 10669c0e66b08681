"""Second stage of `prepare`: the shards of the catalogue are tokenised and written side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.checks import Product
from data_pipelines.parallel import Runner
from data_pipelines.product_parts import CheckedProducts
from data_pipelines.pseudo_queries import pseudo_queries
from data_pipelines.records import MAX_TITLE_TOKENS, serialize_product
from data_pipelines.shards import Storage, shard_path, write_dataset_info, write_shard
from data_pipelines.spool import ProductSpool
from data_pipelines.title_tokens import KeywordSet, tokenize_titles
from data_pipelines.tokenizer import TextTokenizer, load_tokenizer


@dataclass(frozen=True)
class ShardPlan:
    """What all shards of a catalogue have in common.

    Attributes:
      root: the prepared directory; its tokenizer is there already.
      work: the folder of the products that were checked, see `product_parts`.
      storage: the form of the shards.
      shard_bytes: their target size.
      pseudo_queries: how many at most for each product.
    """

    root: Path
    work: Path
    storage: Storage
    shard_bytes: int
    pseudo_queries: int

    def lengths(self, products: CheckedProducts) -> list[int]:
        """How many of the products, of which there must be one, go to each shard."""
        total = len(products.spool)
        length = math.ceil(total / (math.ceil(products.num_bytes / self.shard_bytes) or 1))
        return [min(length, total - start) for start in range(0, total, length)]


class WrittenShards(NamedTuple):
    """What was learnt while writing N products in S shards.

    Attributes:
      lengths: S numbers of records.
      title_tokens: int32[N].
      num_images: int32[N].
      pseudo_queries: list<string>[N].
    """

    lengths: list[int]
    title_tokens: pa.ChunkedArray
    num_images: pa.ChunkedArray
    pseudo_queries: pa.ChunkedArray


def write_shards(
    plan: ShardPlan,
    products: CheckedProducts,
    keywords: KeywordSet,
    runner: Runner,
    done: Callable[[], object],
) -> WrittenShards:
    """Writes a catalogue as the TFDS dataset at `plan.root`; equal products give equal files.

    Args:
      plan: how and where.
      products: at least one.
      keywords: the words that shoppers use, and how likely.
      runner: who writes the shards.
      done: called for each shard once it is written.
    """
    lengths = plan.lengths(products)
    products.spool.save(plan.work / _SPOOL)
    known = sorted(keywords.words)
    weights = pa.array([keywords.weights.get(word) for word in known], pa.float64())
    pq.write_table(pa.table({"word": pa.array(known, pa.string()), "weight": weights}), plan.work / _KEYWORDS)
    ends = accumulate(lengths)
    tasks = [
        _Task(plan, number, end - length, end) for number, (end, length) in enumerate(zip(ends, lengths, strict=True))
    ]
    runner.fitting(products.num_bytes).run(_write, tasks, plan.work / "shard_notes", done)
    _tools.cache_clear()
    tables = [pq.read_table(task.learnt) for task in tasks]
    num_bytes = sum(int(table.schema.metadata[_NUM_BYTES]) for table in tables)
    write_dataset_info(plan.root, lengths, num_bytes, plan.storage)
    learnt = pa.concat_tables([table.replace_schema_metadata() for table in tables])
    return WrittenShards(lengths, learnt["title_tokens"], learnt["num_images"], learnt["pseudo_queries"])


_SPOOL = "catalogue.arrow"
_KEYWORDS = "keywords.parquet"
_NUM_BYTES = b"num_bytes"


@dataclass(frozen=True)
class _Task:
    """One shard: rows [start, stop) of the catalogue."""

    plan: ShardPlan
    number: int
    start: int
    stop: int

    @property
    def learnt(self) -> Path:
        return self.plan.work / f"{self.number:05}.shard.parquet"


class _Tools(NamedTuple):
    """What a worker needs for every shard."""

    tokenizer: TextTokenizer
    keywords: KeywordSet


@lru_cache(maxsize=1)
def _tools(plan: ShardPlan) -> _Tools:
    table = pq.read_table(plan.work / _KEYWORDS)
    rows = zip(table["word"].to_pylist(), table["weight"].to_pylist(), strict=True)
    weights = {word: weight for word, weight in rows if weight is not None}
    return _Tools(load_tokenizer(plan.root / "tokenizer"), KeywordSet(frozenset(table["word"].to_pylist()), weights))


def _write(task: _Task) -> None:
    """Runs in a worker."""
    shard = _Shard(task)
    path = shard_path(task.plan.root, task.number, task.plan.storage)
    _, num_bytes = write_shard(path, shard.messages(), task.plan.storage)
    pq.write_table(shard.learnt().replace_schema_metadata({_NUM_BYTES: str(num_bytes)}), task.learnt)


class _Shard:
    """The products of one shard, a few in memory at a time, and what is learnt from them."""

    def __init__(self, task: _Task) -> None:
        plan = task.plan
        self._tools = _tools(plan)
        self._spool = ProductSpool.open(plan.work / _SPOOL, task.start, task.stop)
        self._count = plan.pseudo_queries
        self._title_tokens: list[int] = []
        self._num_images: list[int] = []
        self._pseudo_queries: list[list[str]] = []

    def messages(self) -> Iterator[bytes]:
        """The serialised records, in order."""
        for products in self._spool.products():
            titles = tokenize_titles(
                self._tools.tokenizer, [product.title for product in products], self._tools.keywords, MAX_TITLE_TOKENS
            )
            for product, ids, words, keywords in zip(products, *titles, strict=True):
                self._learn(product, len(ids))
                record = {"title_ids": ids, "title_words": words, "title_keywords": keywords, **product._asdict()}
                del record["region_width"]  # it is in the manifest
                yield serialize_product(record)

    def learnt(self) -> pa.Table:
        """One row per product written so far."""
        return pa.table(
            {
                "title_tokens": pa.array(self._title_tokens, pa.int32()),
                "num_images": pa.array(self._num_images, pa.int32()),
                "pseudo_queries": pa.array(self._pseudo_queries, pa.list_(pa.string())),
            }
        )

    def _learn(self, product: Product, title_tokens: int) -> None:
        self._title_tokens.append(title_tokens)
        self._num_images.append(len(product.images))
        self._pseudo_queries.append(
            pseudo_queries(product.title, product.product_id, self._count, self._tools.keywords) if self._count else []
        )
