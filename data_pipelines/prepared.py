"""What prepared data, mixed data and caches have in common: the tables; needs no TensorFlow."""

from __future__ import annotations

import abc
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.manifest import CACHE_KIND, KIND, content_fingerprint, read_manifest
from data_pipelines.plans import PairTables
from data_pipelines.ragged import Ragged
from data_pipelines.side_ids import SideColumns, SideTable
from data_pipelines.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Dev:
    """The judged queries set aside for evaluation.

    Attributes:
      query_ids: the queries' ids, in file order.
      queries: their texts.
      table: every column of the queries table, extra ones (facets, novel, ...) included.
      qrels: equally long int32 arrays `query_index` (into `query_ids`), `product_index`, `relevance`.
      num_products: so many products, the first ones of the data, are the catalogue that they were judged over.
    """

    query_ids: list[str]
    queries: list[str]
    table: pa.Table
    qrels: dict[str, np.ndarray]
    num_products: int


class ProductData(PairTables, Protocol):
    """What training and evaluation need of data, whichever way its products are kept."""

    @property
    def path(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def tokenizer_path(self) -> Path: ...
    @property
    def region_width(self) -> int: ...
    @property
    def product_ids(self) -> np.ndarray: ...
    @property
    def dev(self) -> Dev | None: ...


class DataTables(abc.ABC):
    """All of a verified data directory but the products themselves; tables are read when first asked for, then kept.

    Attributes:
      path: the directory as it was named, local or remote.
      manifest: the parsed manifest.json.
      fingerprint: a SHA-256 over the content, wherever it came from.
      folder: the local folder of everything but the shards: the directory itself, or a copy of what is remote.
    """

    def __init__(self, path: str, manifest: dict[str, Any], folder: Path) -> None:
        """Reads nothing yet.

        Args:
          path: where the data is.
          manifest: what `folder` was compared with.
          folder: where everything but shards is.
        """
        self.path = path
        self.manifest = manifest
        self.fingerprint = content_fingerprint(manifest)
        self.folder = folder
        self._side_tables: dict[SideColumns, SideTable] = {}

    @property
    def num_products(self) -> int:
        """N, the number of products."""
        return self.manifest["counts"]["products"]

    @property
    def max_images(self) -> int:
        """The most pictures that a product has, at least 1."""
        return self.manifest["options"]["max_images"]

    @property
    def region_width(self) -> int:
        """F, the width of the region features; 0 where products have pictures."""
        return self.manifest["options"]["region_width"]

    @property
    def tokenizer_path(self) -> Path:
        """The directory that `data_pipelines.tokenizer.load_tokenizer` opens."""
        return self.folder / "tokenizer"

    @cached_property
    def pad_id(self) -> int:
        """The token that pads texts."""
        return load_tokenizer(self.tokenizer_path).pad_id

    @cached_property
    def product_ids(self) -> np.ndarray:
        """object[N] of str: the product ids in the row order of the split."""
        return _strings(self._products["product_id"])

    @cached_property
    def categories(self) -> np.ndarray:
        """object[N] of str: the categories in the row order of the split, "" where there is none."""
        return _strings(self._products["category"])

    @cached_property
    def title_tokens(self) -> np.ndarray:
        """int32[N]: how many tokens each title has, 0 where there is none."""
        return self._products["title_tokens"].to_numpy()

    @cached_property
    def num_images(self) -> np.ndarray:
        """int32[N]: how many pictures each product has."""
        return self._products["num_images"].to_numpy()

    @property
    def product_groups(self) -> np.ndarray | None:
        """int32[N], the shard of each product where shards are streamed; None where any product is read at once."""
        return None

    @cached_property
    def interactions(self) -> dict[str, np.ndarray]:
        """Equally long int32 arrays, one entry per (query, product) pair seen.

        Keys: `query_index` (into `queries`), `product_index`, `clicks`, `purchases`, `last_day` (or -1).
        """
        return _columns(self._table("interactions.parquet"))

    @cached_property
    def pseudo_pairs(self) -> dict[str, np.ndarray]:
        """Pairs of products, clicked or not, and queries made from their titles, sorted by product.

        Keys: `query_index` (into `queries`), `product_index`; equally long int32 arrays.
        """
        return _columns(self._table("pseudo_pairs.parquet"))

    @cached_property
    def queries(self) -> list[str]:
        """The distinct training queries, those of the log first; the position is the query_index."""
        return self._queries["query"].to_pylist()

    @cached_property
    def query_keys(self) -> np.ndarray:
        """int32[number of queries]: equal for queries with the same set of keywords."""
        return self._queries["query_key"].to_numpy()

    @cached_property
    def query_ids(self) -> Ragged:
        """The tokenised training queries, int32, with the tokens that begin and end a text."""
        lists = self._queries["query_ids"].combine_chunks()
        lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
        splits = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        return Ragged(lists.flatten().to_numpy(), splits)

    @cached_property
    def dev(self) -> Dev | None:
        """The dev queries and judgements, None where none were given to prepare."""
        if not (self.folder / "dev").is_dir():
            return None
        table, qrels = self._table("dev/queries.parquet"), self._table("dev/qrels.parquet")
        query_index = pc.index_in(qrels["query_id"], value_set=table["query_id"].combine_chunks())
        product_index = pc.index_in(qrels["product_id"], value_set=self._products["product_id"])
        return Dev(
            query_ids=table["query_id"].to_pylist(),
            queries=table["query"].to_pylist(),
            table=table,
            qrels={
                "query_index": query_index.to_numpy(),
                "product_index": product_index.to_numpy(),
                "relevance": qrels["relevance"].to_numpy(),
            },
            num_products=self.num_products,
        )

    @abc.abstractmethod
    def records(self, indices: Iterable[int]) -> list[dict[str, Any]]:
        """Products by row, to show them: product_id, title, category: str; images: list[bytes]; title_ids int32."""

    def balanced(self, weights: np.ndarray) -> np.ndarray:
        """The weights of the pairs, float64[pairs], as they are; only a mixture of data sets changes them."""
        return weights

    def side_table(self, side: SideColumns) -> SideTable:
        """The buckets of all products; raises DataError where none has a value in one of the columns."""
        if side not in self._side_tables:
            self._side_tables[side] = SideTable.of(side, self._products, self.path)
        return self._side_tables[side]

    @cached_property
    def _products(self) -> pa.Table:
        return self._table("products.parquet")

    @cached_property
    def _queries(self) -> pa.Table:
        return self._table("train_queries.parquet")

    def _table(self, name: str) -> pa.Table:
        return pq.read_table(self.folder / name)


def open_data(path: str | os.PathLike[str], checksums: bool = True) -> DataTables:
    """Opens prepared data or a cache of it, whichever is there; see `open_prepared` and `open_cache`.

    Raises:
      DataError: neither of the two, another format version, or a missing or changed file.
    """
    name = os.fspath(path)
    if "://" not in name and read_manifest(Path(name), (KIND, CACHE_KIND))["kind"] == CACHE_KIND:
        from data_pipelines.cache import open_cache

        return open_cache(Path(name), checksums)
    from data_pipelines.dataset import open_prepared  # brings TensorFlow, which caches do without

    return open_prepared(path, checksums)


def _columns(table: pa.Table) -> dict[str, np.ndarray]:
    return {name: table[name].to_numpy() for name in table.column_names}


def _strings(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False).astype(object)
