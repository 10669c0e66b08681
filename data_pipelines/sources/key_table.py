"""Keys already met and what belongs to them, without holding them in memory."""

from __future__ import annotations

import sqlite3
from types import TracebackType

_CACHE_KIB = 64 * 1024


class KeyTable:
    """Keys, each with a text, in a temporary file.

    Catalogues have millions of ids; here they cost disk space (about 50 bytes each) and 64 MB of memory at most. The
    file is SQLite's own, in the folder that TMPDIR names, and vanishes when the table is closed or the process ends.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._database.execute("CREATE TABLE entry (key BLOB PRIMARY KEY, text BLOB) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def __enter__(self) -> KeyTable:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._database.close()

    def add(self, key: str, text: str = "") -> bool:
        """Stores a new key and its text and returns True; a known key keeps its text and gives False."""
        cursor = self._database.execute("INSERT OR IGNORE INTO entry VALUES (?, ?)", (_encode(key), _encode(text)))
        return cursor.rowcount == 1

    def get(self, key: str) -> str | None:
        """The text of a key, None if it is unknown."""
        found = self._database.execute("SELECT text FROM entry WHERE key = ?", (_encode(key),)).fetchone()
        return None if found is None else found[0].decode("utf-8", "surrogatepass")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # what is not UTF-8 is told apart later
