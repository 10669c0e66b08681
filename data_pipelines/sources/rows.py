"""The rows that every source is turned into, and the wishes that a user may have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

MAX_IMAGES = 16


class Product(NamedTuple):
    """A product; "" or nothing where it has no title, category or pictures.

    `images` are encoded pictures, the first is the main one; `regions` is float32[R, F] in place of them.
    """

    product_id: str
    title: str = ""
    category: str = ""
    images: Sequence[bytes] = ()
    regions: np.ndarray | None = None


class Click(NamedTuple):
    """A query after which a product was chosen, with a whole number of clicks as its weight."""

    query: str
    product_id: str
    clicks: int = 1


class Query(NamedTuple):
    """A query to judge by, with the values of the source's segments."""

    query_id: str
    query: str
    segments: tuple[str, ...] = ()


class Judgement(NamedTuple):
    """How well a product answers a query: 2 it is all that was asked for, 1 the right kind, 0 not."""

    query_id: str
    product_id: str
    relevance: int


Row = Product | Click | Query | Judgement


@dataclass(frozen=True)
class Options:
    """What a user may say about a source; each source takes some of these.

    Attributes:
      images: the folder of pictures, where it is not the usual one.
      locale: the market places to read.
      language: languages of titles, the preferred one first; "en" also stands for en_US, en_GB and so on.
      split: the parts of the data to read.
      field: "NAME=KEY", where the source calls NAME (product_id, title, category, query) KEY.
      titles: False leaves titles out that are not a seller's but made from other data.
    """

    images: Path | None = None
    locale: tuple[str, ...] = ()
    language: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    field: tuple[str, ...] = ()
    titles: bool = True
