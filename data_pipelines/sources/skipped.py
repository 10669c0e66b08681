"""The list of what a source holds and its tables do not."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from data_pipelines.schema import BadRow


class Skipped:
    """Rows and pictures left out, written to a CSV file as they are met; without any there is no file.

    The columns are table (or "pictures"), file, row (1 = first), key, reason and detail.

    Attributes:
      counts: how many, by table and reason code.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.counts: Counter[tuple[str, str]] = Counter()
        self._place = ("", 0)
        self._file: TextIO | None = None
        self._writer: Any = None

    def __enter__(self) -> Skipped:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file:
            self._file.close()

    def at(self, file: Path, row: int) -> None:
        """Says where the rows come from that follow."""
        self._place = (str(file), row)

    def add(self, table: str, key: str, reason: str, detail: str) -> None:
        """Leaves out a row of `table`, or one of its "pictures"."""
        self.take(BadRow(table, *self._place, key, reason, detail))

    def take(self, bad: BadRow) -> None:
        """Leaves out a row that a reader of tables could not read."""
        if self._file is None:
            # Text that is not UTF-8 is among the reasons to be here.
            self._file = self._path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
            self._writer = csv.writer(self._file)
            self._writer.writerow(BadRow._fields)
        self.counts[bad.table, bad.reason] += 1
        self._writer.writerow(bad._replace(key=bad.key[:200], detail=bad.detail[:500]))
