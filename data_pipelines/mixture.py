"""Several prepared data sets, drawn from by weight, as if they were one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from data_pipelines.dataset import PreparedData
from data_pipelines.errors import DataError
from data_pipelines.keywords import query_keyword_key
from data_pipelines.manifest import sha256
from data_pipelines.prepared import Dev
from data_pipelines.ragged import Ragged
from data_pipelines.shards import Shards, Unreadable
from data_pipelines.side_ids import SideColumns, SideTable


class MixedData:
    """Prepared data sets end to end: rows, queries and shards of the second follow those of the first.

    The dev queries are the first one's, judged over its catalogue. Equal queries share a key whichever set they are
    in, so that a product wanted in one is no negative in another.

    Attributes:
      parts: the data sets.
      shares: of all draws, the share of each.
    """

    def __init__(self, parts: Sequence[PreparedData], weights: Sequence[float] | None = None) -> None:
        """Mixes data sets.

        Args:
          parts: at least one; prepared with the same tokenizer and the same kind of picture.
          weights: how often to draw from each, relative to the others; None: as many draws as each has pairs.

        Raises:
          DataError: weights that cannot be, or data sets that do not fit together.
        """
        pairs = [len(part.interactions["query_index"]) for part in parts]
        given = np.asarray(pairs if weights is None else weights, np.float64)
        if len(given) != len(parts) or not np.isfinite(given).all() or given.min() <= 0:
            raise DataError(
                f"{len(parts)} data sets cannot be mixed with weights {given.tolist()}; each needs one above 0 "
                "(without weights: at least one click)"
            )
        _check_alike(parts)
        self.parts = list(parts)
        self.shares = given / given.sum()
        self._first_row = np.concatenate([[0], np.cumsum([part.num_products for part in parts])])
        self._first_query = np.concatenate([[0], np.cumsum([len(part.query_keys) for part in parts])])
        self.shards = MixedShards(self.parts, self._first_row)

    @property
    def path(self) -> str:
        """The data sets' directories, for messages."""
        return " and ".join(part.path for part in self.parts)

    @property
    def fingerprint(self) -> str:
        """A SHA-256 over the parts' fingerprints and shares."""
        text = " ".join(f"{part.fingerprint}={share:.9f}" for part, share in zip(self.parts, self.shares, strict=True))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def num_products(self) -> int:
        """N of all parts together."""
        return int(self._first_row[-1])

    @property
    def damage(self) -> list[Unreadable]:
        """The products found unreadable when the parts were opened, by rows of the mixture."""
        firsts = self._first_row.tolist()
        return [
            gone._replace(row=first + gone.row)
            for first, part in zip(firsts, self.parts, strict=False)
            for gone in part.damage
        ]

    @property
    def pad_id(self) -> int:
        """The padding of the tokenizer that all parts share."""
        return self.parts[0].pad_id

    @cached_property
    def product_ids(self) -> np.ndarray:
        """object[N] of str: the product ids; an id may come once in each part."""
        return np.concatenate([part.product_ids for part in self.parts])

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer that all parts share."""
        return self.parts[0].tokenizer_path

    @property
    def region_width(self) -> int:
        """F, which all parts share; 0 for pictures."""
        return self.parts[0].region_width

    @property
    def dev(self) -> Dev | None:
        """The first part's judged queries."""
        return self.parts[0].dev

    @cached_property
    def interactions(self) -> dict[str, np.ndarray]:
        """All clicks, as `PreparedData.interactions`."""
        return self._pairs("interactions")

    @cached_property
    def pseudo_pairs(self) -> dict[str, np.ndarray]:
        """All pseudo queries, as `PreparedData.pseudo_pairs`."""
        return self._pairs("pseudo_pairs")

    @cached_property
    def queries(self) -> list[str]:
        """The training queries of all parts, as `PreparedData.queries`; one that several parts have comes again."""
        return [query for part in self.parts for query in part.queries]

    @cached_property
    def query_keys(self) -> np.ndarray:
        """int32[number of queries], equal for queries with the same set of keywords in any part."""
        keys: dict[str, int] = {}
        return np.array([keys.setdefault(query_keyword_key(text), len(keys)) for text in self.queries], np.int32)

    @cached_property
    def query_ids(self) -> Ragged:
        """All tokenised queries."""
        lengths = np.concatenate([part.query_ids.lengths() for part in self.parts])
        values = np.concatenate([part.query_ids.values for part in self.parts])
        return Ragged(values, np.concatenate([[0], np.cumsum(lengths)]))

    @cached_property
    def title_tokens(self) -> np.ndarray:
        """int32[N]: how many tokens each title has."""
        return np.concatenate([part.title_tokens for part in self.parts])

    @cached_property
    def product_groups(self) -> np.ndarray | None:
        """int32[N], the shard of each product where shards are streamed, else None."""
        groups, first = [], 0
        for part in self.parts:
            if part.product_groups is None:
                return None
            groups.append(part.product_groups + first)
            first += len(part.shards.lengths)
        return np.concatenate(groups)

    def balanced(self, weights: np.ndarray) -> np.ndarray:
        """Scales the weights of the clicks, float64[pairs], so that each part is drawn from by its share.

        Raises:
          DataError: a part has no clicks to draw.
        """
        ends = np.cumsum([len(part.interactions["query_index"]) for part in self.parts])
        balanced = []
        for part, share, own in zip(self.parts, self.shares, np.split(weights, ends[:-1]), strict=True):
            if not own.sum() > 0:
                raise DataError(f"{part.path} has no clicks to draw; leave it out of the mixture")
            balanced.append(own * (share / own.sum()))
        return np.concatenate(balanced)

    def side_table(self, side: SideColumns) -> SideTable:
        """The buckets of all products; raises DataError where a part has no value at all in one of the columns."""
        return SideTable.joined([part.side_table(side) for part in self.parts])

    def _pairs(self, name: str) -> dict[str, np.ndarray]:
        first = {"query_index": self._first_query, "product_index": self._first_row}
        tables = [getattr(part, name) for part in self.parts]
        return {
            column: np.concatenate(
                [table[column] + (first[column][i] if column in first else 0) for i, table in enumerate(tables)]
            ).astype(np.int32)
            for column in tables[0]
        }


class MixedShards:
    """The shards of several data sets, read by rows of the mixture."""

    def __init__(self, parts: Sequence[PreparedData], first_row: np.ndarray) -> None:
        self._parts: list[Shards] = [part.shards for part in parts]
        self._paths = [part.path for part in parts]
        self._first_row = first_row

    @property
    def reading(self) -> str | None:
        """What is being read right now, None for nothing."""
        return next((part.reading for part in self._parts if part.reading), None)

    @property
    def lengths(self) -> np.ndarray:
        """int64[S]: how many records each shard has."""
        return np.concatenate([part.lengths for part in self._parts])

    def prefetch(self, rows: np.ndarray) -> None:
        """Says which rows will be read soon."""
        for owner, _, own in self._split(rows):
            self._parts[owner].prefetch(own)

    def locate(self, row: int) -> tuple[str, int]:
        """The shard, by its data set and file name, and the record in it that hold a row."""
        [(owner, _, own)] = self._split(np.array([row]))
        shard, record = self._parts[owner].locate(int(own[0]))
        return f"{self._paths[owner]}/{shard}", record

    def read(self, rows: np.ndarray) -> list[bytes | Unreadable]:
        """Reads records in the order of `rows`, each from the data set it belongs to."""
        records: list[bytes | Unreadable] = [b""] * len(rows)
        for owner, positions, own in self._split(rows):
            for position, record in zip(positions.tolist(), self._parts[owner].read(own), strict=True):
                records[position] = record
        return records

    def _split(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """For each data set concerned: its number, the positions of its rows, and the rows as it counts them."""
        owners = np.searchsorted(self._first_row, rows, side="right") - 1
        for owner in np.unique(owners):
            positions = np.flatnonzero(owners == owner)
            yield int(owner), positions, rows[positions] - self._first_row[owner]


def _check_alike(parts: Sequence[PreparedData]) -> None:
    first = parts[0]
    for part in parts[1:]:
        if sha256(part.tokenizer_path / "tokenizer.json") != sha256(first.tokenizer_path / "tokenizer.json"):
            raise DataError(
                f"{part.path} and {first.path} were prepared with different tokenizers; run `make-jax prepare` for "
                f"the second with --tokenizer {first.tokenizer_path}"
            )
        if part.region_width != first.region_width:
            raise DataError(
                f"{part.path} has region features of width {part.region_width} and {first.path} of width "
                f"{first.region_width} (0: pictures); only alike ones can be mixed"
            )
        if part.storage != first.storage:
            raise DataError(
                f"{part.path} is stored as {part.storage} and {first.path} as {first.storage}; run `make-jax prepare` "
                "for one of them with the other's --storage"
            )
