"""Reads products of prepared data by row."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from data_pipelines.records import ParsedProducts, parse_products

if TYPE_CHECKING:
    from data_pipelines.shards import Unreadable


class ReadsRows(Protocol):
    """The shards of prepared data."""

    def read(self, rows: np.ndarray) -> Sequence[bytes | Unreadable]: ...


class Stored(Protocol):
    """What reading needs of prepared data, a mixture of several included."""

    @property
    def shards(self) -> ReadsRows: ...

    @property
    def product_ids(self) -> np.ndarray: ...


def read_products(data: Stored, rows: np.ndarray, max_title_tokens: int, pad_id: int) -> ParsedProducts:
    """Reads the products in `rows`, int[B], in that order; rows may repeat.

    Args:
      data: prepared data.
      rows: the products' rows.
      max_title_tokens: T.
      pad_id: what fills titles shorter than T.

    Returns:
      The products. One whose record cannot be read is empty but for its id, and its position is in `bad`.
    """
    parsed = parse_products(data.shards.read(rows), max_title_tokens, pad_id)
    if not parsed.bad:
        return parsed
    ids = [str(data.product_ids[rows[i]]) if i in parsed.bad else found for i, found in enumerate(parsed.product_ids)]
    return dataclasses.replace(parsed, product_ids=ids)
