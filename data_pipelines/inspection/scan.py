"""Reads the products one after the other: which repeat another one, and which cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
from tqdm import tqdm

from data_pipelines.dataset import PreparedData
from data_pipelines.records import MAX_TITLE_TOKENS, ParsedProducts
from data_pipelines.stored import read_products

MAX_PRODUCTS = 200_000  # read at most: minutes, where pictures are large
_AT_ONCE = 256
_GROUPS = 5
_IN_GROUP = 6
_UNREADABLE = 3


@dataclass(frozen=True)
class Repeated:
    """Products with one title and one main picture: how many, the first ones' ids, and what they look like.

    Attributes:
      count: at least 2.
      product_ids: of the first ones.
      title: "" where it is gone.
      image: the main picture, encoded; b"" with region features.
    """

    count: int
    product_ids: list[str]
    title: str
    image: bytes


@dataclass(frozen=True)
class Scan:
    """What reading the products shows.

    Attributes:
      scanned: how many were read, the first of the data.
      num_regions: int32[scanned], region features of each product; all 0 where there are pictures.
      num_unreadable: how many of them are damaged.
      unreadable: the first of these: product, place and reason.
      repeated: how many products have the title and the main picture (or the regions) of an earlier one.
      groups: the largest groups of such products.
    """

    scanned: int
    num_regions: np.ndarray
    num_unreadable: int
    unreadable: list[str]
    repeated: int
    groups: list[Repeated]


def scan_products(data: PreparedData, max_products: int = MAX_PRODUCTS, progress: bool = True) -> Scan:
    """Reads up to `max_products` products; memory is that of one hash each.

    Titles are equal when their tokens are, which is all that a model sees of them; pictures when their bytes are.
    Products without a title or without a picture are left out of the comparison.
    """
    total = min(data.num_products, max_products)
    notes = _Notes(data)
    with tqdm(total=total, desc="read products", unit=" products", disable=None if progress else True) as bar:
        for first in range(0, total, _AT_ONCE):
            rows = np.arange(first, min(first + _AT_ONCE, total))
            notes.take(rows, read_products(data, rows, MAX_TITLE_TOKENS, data.pad_id))
            bar.update(len(rows))
    groups = sorted((rows for rows in notes.rows_by_look.values() if len(rows) > 1), key=len, reverse=True)
    return Scan(
        scanned=total,
        num_regions=np.array(notes.num_regions, np.int32),
        num_unreadable=notes.num_unreadable,
        unreadable=notes.unreadable,
        repeated=sum(len(rows) - 1 for rows in groups),
        groups=[_repeated(data, rows) for rows in groups[:_GROUPS]],
    )


@dataclass
class _Notes:
    data: PreparedData
    num_regions: list[int] = field(default_factory=list)
    num_unreadable: int = 0
    unreadable: list[str] = field(default_factory=list)
    rows_by_look: dict[bytes, list[int]] = field(default_factory=dict)

    def take(self, rows: np.ndarray, products: ParsedProducts) -> None:
        width = self.data.region_width
        self.num_regions += [len(regions) // (2 * width) if width else 0 for regions in products.regions]
        for row, look in zip(rows.tolist(), _looks(products, self.data.pad_id), strict=True):
            if look:
                self.rows_by_look.setdefault(look, []).append(row)
        self.num_unreadable += len(products.bad)
        for position, reason in products.bad.items():
            if len(self.unreadable) < _UNREADABLE:
                shard, record = self.data.shards.locate(int(rows[position]))
                self.unreadable.append(f"{products.product_ids[position]}, record {record} of {shard}: {reason}")


def _looks(products: ParsedProducts, pad_id: int) -> Iterator[bytes]:
    """A hash of the title and the main picture of each product, b"" for one that lacks either."""
    for title, images, regions in zip(products.title_ids, products.images, products.regions, strict=True):
        picture = images[0] if images else regions
        if picture and (title != pad_id).any():
            yield blake2b(title.tobytes() + picture, digest_size=16).digest()
        else:
            yield b""


def _repeated(data: PreparedData, rows: list[int]) -> Repeated:
    [record] = data.records(rows[:1])
    ids = [str(data.product_ids[row]) for row in rows[:_IN_GROUP]]
    return Repeated(len(rows), ids, record["title"], record["images"][0] if record["images"] else b"")
