"""`make-jax bm25`: product tables become a BM25 directory, the baseline and the other half of hybrid search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_pipelines.product_texts import USUAL_FIELDS, product_texts
from data_pipelines.quarantine import Quarantine
from make_jax.commands.rows import MAX_BAD_SHARE, accept_rows
from make_jax.retrieval.bm25 import build_bm25


def bm25_products(
    products: Sequence[str], out: Path, fields: Sequence[str] | None = None, max_bad_share: float = MAX_BAD_SHARE
) -> int:
    """Write BM25 of a catalogue's texts to `out`; returns how many products it has.

    Args:
      products: product tables.
      out: the directory.
      fields: the columns to search in; title and category if None.
      max_bad_share: of the rows.

    Raises:
      UserError, DataError: unreadable tables, missing columns, no words, or too many bad rows.
    """
    quarantine = Quarantine()
    rows = list(product_texts(list(products), fields, quarantine))
    accept_rows(quarantine, "products", len(rows), out, max_bad_share)
    return build_bm25(rows, out, fields or USUAL_FIELDS)
