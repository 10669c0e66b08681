"""Product rows for the tests of their checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.checks import Product, ProductChecker
from data_pipelines.quarantine import Quarantine


def check_products(path: Path) -> tuple[list[Product], Quarantine]:
    """The sound products of the tables, and what became of the other rows."""
    quarantine = Quarantine()
    return [p for chunk in ProductChecker(quarantine).products(path) for p in chunk], quarantine


def write_lists(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes products with lists of pictures or regions."""
    fields = [("product_id", pa.string()), ("title", pa.string()), ("image", pa.list_(pa.binary()))]
    schema = pa.schema([*fields, ("regions", pa.list_(pa.list_(pa.float64())))])
    pq.write_table(pa.Table.from_pylist([{"title": "shirt", **row} for row in rows], schema), path)
    return path
