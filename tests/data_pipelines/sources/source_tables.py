"""Converts a source and reads the tables back, for the tests beside this file."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from data_pipelines.checks import ProductChecker
from data_pipelines.quarantine import Quarantine
from data_pipelines.sources.convert import ConvertSummary, convert
from data_pipelines.sources.rows import Options

Rows = list[dict[str, Any]]


def picture(seed: int, kind: str = "JPEG") -> bytes:
    """An encoded picture of noise, 12 x 9."""
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


class Converted:
    """What `convert` wrote."""

    def __init__(self, name: str, folder: Path, out: Path, **options: Any) -> None:
        self.out = out
        self.summary: ConvertSummary = convert(name, folder, out, Options(**options), progress=False)

    def rows(self, table: str) -> Rows:
        """All rows of a table; [] if it was not made."""
        return [row for path in sorted(self.out.glob(f"{table}*.parquet")) for row in pq.read_table(path).to_pylist()]

    def by_id(self) -> dict[str, dict[str, Any]]:
        """The products."""
        products = {row["product_id"]: row for row in self.rows("products")}
        assert len(products) == len(self.rows("products"))
        return products

    def skipped(self, *columns: str) -> list[tuple[str, ...]]:
        """Cells of skipped.csv."""
        path = self.out / "skipped.csv"
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return [tuple(row[column] for column in columns) for row in csv.DictReader(file)]

    def checked(self) -> tuple[Sequence[Any], Quarantine]:
        """The products that `prepare` would take, and what it would set aside."""
        quarantine = Quarantine()
        chunks = ProductChecker(quarantine).products(str(self.out / "products-*.parquet"))
        return [product for chunk in chunks for product in chunk], quarantine
