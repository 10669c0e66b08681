"""Ids and categories of products as buckets of a hash, for each of which a model can learn a vector.

The hashing trick (Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning"): there is no list of
values to keep, and a product that is new has its bucket already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from data_pipelines.errors import DataError

COLUMNS = ("product_id", "category")  # what is known of a product, prepared or not, beside its title and pictures
LEVELS = 8  # of a category; deeper ones are left out
NONE = -1  # in place of a bucket


@dataclass(frozen=True)
class SideColumns:
    """Which columns of the product table a batch tells of, as buckets.

    A category such as "Apparel > Topwear > Tshirts" is a path, and each of its levels a value of its own: "Apparel",
    "Apparel > Topwear" and the whole. Any other column is one value.

    Attributes:
      columns: C of `COLUMNS`; none for no such array.
      buckets: how many each column has.

    Raises:
      DataError: an unknown column, or no bucket.
    """

    columns: tuple[str, ...] = ()
    buckets: int = 65536

    def __post_init__(self) -> None:
        for column in self.columns:
            if column not in COLUMNS:
                raise DataError(
                    f"model.side.columns has {column!r}, but what is kept of products is "
                    f"{' and '.join(map(repr, COLUMNS))}; choose among these"
                )
        if self.buckets < 1:
            raise DataError(f"buckets={self.buckets} must be at least 1")

    def buckets_of(self, column: str, texts: Sequence[str]) -> np.ndarray:
        """The buckets of n texts of a column, then -1; "" is no value: int32[n, `LEVELS` or 1]."""
        found = np.full((len(texts), LEVELS if column == "category" else 1), NONE, np.int32)
        for row, text in enumerate(texts):
            for level, value in enumerate(_values(column, text)):
                found[row, level] = _hash(value) % self.buckets
        return found

    def arrays(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """side_ids int32[n, C, L] of n products, whose columns are texts; without columns nothing."""
        return _arrays([self.buckets_of(column, [row[column] or "" for row in rows]) for column in self.columns])


class SideTable(NamedTuple):
    """The buckets of N products; equal texts are kept once.

    Attributes:
      texts: C arrays int[N], the text that each product has in a column.
      buckets: C arrays int32[number of texts, values], see `SideColumns.buckets_of`.
    """

    texts: tuple[np.ndarray, ...]
    buckets: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, side: SideColumns, products: pa.Table, source: str) -> SideTable:
        """The buckets of a product table, called `source`; raises DataError where a column is empty throughout."""
        texts, buckets = [], []
        for column in side.columns:
            encoded = products[column].fill_null("").combine_chunks().dictionary_encode()
            found = side.buckets_of(column, encoded.dictionary.to_pylist())
            if (found == NONE).all():
                raise DataError(
                    f"{source}: no product has a {column}, which model.side.columns asks for; run `make-jax prepare` "
                    f"again on products with that column, or leave it out"
                )
            texts.append(encoded.indices.to_numpy())
            buckets.append(found)
        return cls(tuple(texts), tuple(buckets))

    @classmethod
    def joined(cls, tables: Sequence[SideTable]) -> SideTable:
        """The tables of equal columns end to end."""
        texts, buckets = [], []
        for column in range(len(tables[0].texts)):
            parts = [table.buckets[column] for table in tables]
            firsts = accumulate((len(part) for part in parts[:-1]), initial=0)
            texts.append(
                np.concatenate([table.texts[column] + first for table, first in zip(tables, firsts, strict=True)])
            )
            buckets.append(np.concatenate(parts))
        return cls(tuple(texts), tuple(buckets))

    def arrays(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """side_ids int32[n, C, L] of the products in rows int[n]; without columns nothing."""
        return _arrays([buckets[texts[rows]] for texts, buckets in zip(self.texts, self.buckets, strict=True)])


def _arrays(columns: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """C columns int32[n, values], each filled up to the L values of the widest."""
    if not columns:
        return {}
    widest = max(column.shape[1] for column in columns)
    filled = [np.pad(c, [(0, 0), (0, widest - c.shape[1])], constant_values=NONE) for c in columns]
    return {"side_ids": np.stack(filled, axis=1)}


def _values(column: str, text: str) -> list[str]:
    if column != "category":
        return [text] if text else []
    names = [name.strip() for name in text.split(">")]
    return list(accumulate([name for name in names if name][:LEVELS], "{} > {}".format))


def _hash(value: str) -> int:
    """64 bits that are the same in every process, on every machine and for good: trained tables rely on it."""
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "little")
