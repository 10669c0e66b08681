"""Rows that were not used: set aside with a reason, or skipped and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.errors import DataError
from data_pipelines.schema import PRODUCTS, ROW, BadRow, Chunk, TableSchema

FURTHER_IMAGES = "further images"  # counted like the rows of a table: all but the main pictures of the products

_SCHEMA = pa.schema(
    [
        ("table", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("key", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


class Quarantine:
    """Collects the rows set aside.

    Attributes:
      bad: the rows, in the order they were met.
      read: how many rows of each table were read, good and bad.
      merged: how many rows of each table repeated an earlier row, and were skipped.
      without_click: how many rows of the click log say that nobody clicked or bought, and were skipped.
    """

    def __init__(self) -> None:
        self.bad: list[BadRow] = []
        self.read: Counter[str] = Counter()
        self.merged: Counter[str] = Counter()
        self.without_click = 0

    def enter(self, table: TableSchema, chunk: Chunk) -> None:
        """Counts a chunk's rows and takes those that could not be read."""
        self.read[table.name] += chunk.rows.num_rows + len(chunk.bad)
        self.bad += chunk.bad

    def take(self, rows: Iterable[BadRow]) -> None:
        """Counts rows, or further images, as read and sets them aside."""
        for row in rows:
            self.read[row.table] += 1
            self.bad.append(row)

    def count_clean(self, images: int) -> None:
        """Counts a clean product with so many images as read."""
        self.read[PRODUCTS.name] += 1
        if images > 1:
            self.read[FURTHER_IMAGES] += images - 1

    def add(self, table: TableSchema, chunk: Chunk, position: int, reason: str, detail: str) -> None:
        """Sets aside the row at `position` of a chunk."""
        row: Any = chunk.rows[ROW][position].as_py()
        key = chunk.rows[table.key][position].as_py() or ""
        self.bad.append(BadRow(table.name, str(chunk.file), row, key[:200], reason, detail))

    def reasons(self, table: str) -> dict[str, int]:
        """How many of a table's rows were set aside for each reason, most frequent first."""
        counts = Counter(row.reason for row in self.bad if row.table == table)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def share(self, table: str) -> float:
        """The share of a table's rows that were set aside, 0 for a table without rows."""
        bad = sum(self.reasons(table).values())
        return bad / self.read[table] if bad else 0.0

    def accept(self, table: str, max_share: float, report: Path) -> None:
        """Refuses a table of which too much was set aside, leaving the list of rows at `report`.

        Raises:
          DataError: more than `max_share` of the rows.
        """
        if self.share(table) <= max_share:
            return
        self.write(report)
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.reasons(table).items())
        raise DataError(
            f"{table}: {self.share(table):.1%} of {self.read[table]} rows are bad, at most {max_share:.1%} may be "
            f"({reasons}); each is listed in {report}; mend them or raise the share allowed with --max-bad-share"
        )

    def write(self, path: Path) -> None:
        """Writes the report as Parquet: table, file, row (1 = first), key, reason, detail."""
        write_rows(self.bad, path)


def write_rows(rows: Iterable[BadRow], path: Path) -> None:
    """Writes rows that were set aside as Parquet."""
    pq.write_table(pa.Table.from_pylist([row._asdict() for row in rows], _SCHEMA), path)


def read_rows(path: Path) -> list[BadRow]:
    """Reads what `write_rows` wrote."""
    return [BadRow(**row) for row in pq.read_table(path).to_pylist()]
