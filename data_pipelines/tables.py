"""Reads the user's tables - Parquet, CSV, JSONL - in chunks, with every row knowing where it comes from."""

from __future__ import annotations

import difflib
import glob
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from data_pipelines.errors import DataError
from data_pipelines.parquet_files import read_parquet, row_group_parts
from data_pipelines.schema import CheckColumns, Chunk, TableSchema
from data_pipelines.text_files import read_csv, read_jsonl

_READERS: dict[str, Callable[[Path, TableSchema, CheckColumns], Iterator[Chunk]]] = {
    ".parquet": read_parquet,
    ".csv": read_csv,
    ".csv.gz": read_csv,
    ".jsonl": read_jsonl,
    ".jsonl.gz": read_jsonl,
}

Pattern = str | os.PathLike[str]


def match_files(patterns: Pattern | Sequence[Pattern], table: TableSchema) -> list[Path]:
    """The files that paths or glob patterns name, each once, sorted within a pattern.

    Raises:
      DataError: a pattern matches nothing, a directory, or a file of an unknown kind.
    """
    if isinstance(patterns, (str, os.PathLike)):
        patterns = [patterns]
    files: dict[Path, None] = {}
    for pattern in [os.fspath(pattern) for pattern in patterns]:
        # A file may have brackets in its name; such a name is taken literally.
        matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise DataError(f"no file matches {table.name} {pattern!r} (looked from {Path.cwd()}); check the path")
        for match in map(Path, matches):
            if match.is_dir():
                raise DataError(f"{table.name} {str(match)!r} is a directory; name its files, as in {match}/*.parquet")
            _extension(match)
            files[match] = None
    return list(files)


class Part(NamedTuple):
    """What one worker reads: some row groups of a Parquet file, or the whole of any other file (None)."""

    file: Path
    row_groups: range | None = None


def table_parts(files: Sequence[Path], table: TableSchema) -> list[Part]:
    """Splits files into parts that can be read side by side; end to end they are the files, in order.

    Parquet files are split between row groups. CSV and JSONL files are read whole, so a table of many rows gains from
    being several files.

    Raises:
      DataError: a Parquet file is damaged.
    """
    parts: list[Part] = []
    for path in files:
        if _extension(path) == ".parquet":
            with _readable(path):
                parts += [Part(path, groups) for groups in row_group_parts(path)]
        else:
            parts.append(Part(path))
    return parts


def read_part(part: Part, table: TableSchema) -> Iterator[Chunk]:
    """Reads one part, in chunks of at most `table.chunk_rows` rows.

    Columns get the schema's types, whatever the file's: ids are text even where they are numbers in the file,
    and missing columns are null. Rows that cannot be read come in `Chunk.bad` with a reason.

    Raises:
      DataError: an unreadable or truncated file, a missing column or one of the wrong type.
    """
    with _readable(part.file):
        if part.row_groups is not None:
            yield from read_parquet(part.file, table, _check_columns, part.row_groups)
        else:
            yield from _READERS[_extension(part.file)](part.file, table, _check_columns)


def read_table(patterns: Pattern | Sequence[Pattern], table: TableSchema) -> Iterator[Chunk]:
    """Reads files one after the other, as `read_part`.

    Raises:
      DataError: no such file, or as `read_part`.
    """
    for path in match_files(patterns, table):
        yield from read_part(Part(path), table)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what the readers of the formats raise into an error for people."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())
        kind = _extension(path).removeprefix(".")
        raise DataError(
            f"{path} cannot be read as {kind}: {reason}; it may be damaged or incomplete, copy it again"
        ) from error


def _extension(path: Path) -> str:
    name = path.name.lower()
    for extension in _READERS:
        if name.endswith(extension):
            return extension
    raise DataError(f"{path} has an unknown extension {path.suffix!r}; known are {', '.join(_READERS)}")


def _check_columns(path: Path, table: TableSchema, found: list[str]) -> None:
    if not found:
        raise DataError(f"{path} is empty: it has no columns; {table.name} needs {_needed(table)}")
    twice = {name for name in found if found.count(name) > 1}
    if twice:
        raise DataError(f"{path} has column {min(twice)!r} twice; rename or remove one")
    for column in table.columns:
        if column.required and column.name not in found:
            close = difflib.get_close_matches(column.name, found, n=1, cutoff=0.5)
            hint = f"; is {close[0]!r} meant? rename it" if close else f"; {table.name} needs {_needed(table)}"
            raise DataError(f"{path} has no column {column.name!r}, only {', '.join(map(repr, found))}{hint}")
    if table.one_of and not set(table.one_of) & set(found):
        raise DataError(
            f"{path} has none of the columns {', '.join(map(repr, table.one_of))}, "
            f"only {', '.join(map(repr, found))}; {table.name} needs at least one"
        )


def _needed(table: TableSchema) -> str:
    return ", ".join(column.name for column in table.columns if column.required)
