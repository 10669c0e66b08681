"""What the tables and files of prepared data say, without reading a product."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.dataset import PreparedData
from data_pipelines.quarantine import read_rows
from data_pipelines.schema import BadRow
from data_pipelines.tokenizer import load_tokenizer

_EXAMPLES = 3


class ShardFile(NamedTuple):
    """A shard: its file name, and how many records and bytes it has."""

    name: str
    records: int
    num_bytes: int


class SetAside(NamedTuple):
    """The rows of one table that `prepare` set aside for one reason: how many, and the first three."""

    table: str
    reason: str
    rows: int
    examples: list[BadRow]


@dataclass(frozen=True)
class Contents:
    """What is in prepared data.

    Attributes:
      path: the directory as it was named.
      fingerprint: SHA-256 of the content.
      storage: the form of the shards.
      options: what `prepare` was told and found, by name.
      vocabulary: V, tokens that the tokenizer knows.
      num_bytes: of the whole directory.
      shards: in the order of the products.
      set_aside: the groups of rows that were set aside, largest first.
      query_tokens: int64[queries], lengths of the distinct queries that shoppers typed.
      title_tokens: int32[titles], lengths of the titles there are.
      num_images: int32[N], pictures of each product.
      pair_clicks: int32[pairs], clicks of each pair of query and product.
      product_clicks: int64[N], clicks of each product.
      num_pseudo_pairs: pairs of products and queries made from their titles.
      num_dev_queries: judged queries set aside for evaluation.
      has_clicks: there are clicks or purchases to learn from.
      share_cold: of the products, those that are in no pair.
      has_regions: products come with region features in place of pictures.
    """

    path: str
    fingerprint: str
    storage: str
    options: dict[str, Any]
    vocabulary: int
    num_bytes: int
    shards: list[ShardFile]
    set_aside: list[SetAside]
    query_tokens: np.ndarray
    title_tokens: np.ndarray
    num_images: np.ndarray
    pair_clicks: np.ndarray
    product_clicks: np.ndarray
    num_pseudo_pairs: int
    num_dev_queries: int
    has_clicks: bool
    share_cold: float
    has_regions: bool

    @property
    def num_products(self) -> int:
        """N."""
        return len(self.num_images)

    @property
    def share_without_title(self) -> float:
        """Of the products, those that have no title."""
        return 1 - len(self.title_tokens) / max(1, self.num_products)

    @property
    def share_without_image(self) -> float:
        """Of the products, those that have no picture."""
        return float(np.mean(self.num_images == 0)) if self.num_products else 0.0


def read_contents(data: PreparedData) -> Contents:
    """Reads all tables of prepared data; its shards stay closed."""
    pairs = data.interactions
    products = pairs["product_index"]
    product_clicks = np.bincount(products, weights=pairs["clicks"], minlength=data.num_products)
    return Contents(
        path=str(data.path),
        fingerprint=data.fingerprint,
        storage=data.storage,
        options=data.manifest["options"],
        vocabulary=load_tokenizer(data.tokenizer_path).vocab_size,
        num_bytes=sum(entry["size"] for entry in data.manifest["files"].values()),
        shards=_shards(data),
        set_aside=_set_aside(data.folder / "quarantine.parquet"),
        query_tokens=data.query_ids.lengths()[np.unique(pairs["query_index"])],
        title_tokens=data.title_tokens[data.title_tokens > 0],
        num_images=data.num_images,
        pair_clicks=pairs["clicks"],
        product_clicks=product_clicks.astype(np.int64),
        num_pseudo_pairs=len(data.pseudo_pairs["query_index"]),
        num_dev_queries=len(data.dev.queries) if data.dev else 0,
        has_clicks=bool(pairs["clicks"].any() or pairs["purchases"].any()),
        share_cold=1 - len(np.unique(products)) / max(1, data.num_products),
        has_regions=data.region_width > 0,
    )


def _shards(data: PreparedData) -> list[ShardFile]:
    files = data.manifest["files"]
    shards = zip(data.shards.names, data.shards.lengths.tolist(), strict=True)
    return [ShardFile(name, records, files[name]["size"]) for name, records in shards]


def _set_aside(report: Path) -> list[SetAside]:
    groups: defaultdict[tuple[str, str], list[BadRow]] = defaultdict(list)
    for row in read_rows(report):
        groups[row.table, row.reason].append(row)
    found = [SetAside(*key, len(rows), rows[:_EXAMPLES]) for key, rows in groups.items()]
    return sorted(found, key=lambda group: (-group.rows, group.table, group.reason))
