"""Reads CSV and JSONL files, plain or gzipped, in chunks; a row that cannot be read is set aside."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_pipelines.cells import BadCellError, convert
from data_pipelines.errors import DataError
from data_pipelines.schema import ROW, BadRow, CheckColumns, Chunk, Kind, TableSchema

_MAX_CELL_CHARS = 64 * 1024 * 1024  # the csv module's own limit of 128 KiB is met by real descriptions
_PATH_SEPARATOR = "|"
_NOT_IN_CSV: dict[Kind, str] = {
    "pictures": "image bytes; put the files' paths in a column named image_path, several separated by |",
    "regions": "region features; use Parquet or JSONL",
}

# A parsed row: its number (1 = first), its cells by column, and what was wrong if it could not be parsed.
_ParsedRow = tuple[int, dict[str, Any], BadCellError | None]


def read_csv(path: Path, table: TableSchema, check_columns: CheckColumns) -> Iterator[Chunk]:
    """Reads a CSV file with a header line, comma-separated, UTF-8 with or without a byte order mark."""
    csv.field_size_limit(_MAX_CELL_CHARS)
    with _open_text(path) as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        check_columns(path, table, header)
        kinds = {column.name: column.kind for column in table.columns}
        kept = [(i, name, kinds.get(name, "text")) for i, name in enumerate(header) if name in _wanted(table, header)]
        for _, _, kind in kept:
            if kind in _NOT_IN_CSV:
                raise DataError(f"{path}: CSV cannot hold {_NOT_IN_CSV[kind]}")
        yield from _chunks(path, table, _csv_rows(reader, len(header), kept))


def read_jsonl(path: Path, table: TableSchema, check_columns: CheckColumns) -> Iterator[Chunk]:
    """Reads a file with one JSON object per line; pictures are base64. Empty lines count as rows."""
    with _open_text(path) as file:
        first = list(islice(_json_rows(file), table.chunk_rows))
        # Objects may leave fields out, so the columns are those of any row; bad lines alone have none.
        found = list(dict.fromkeys(name for _, cells, _ in first for name in cells))
        if found or not first:
            check_columns(path, table, found)
        yield from _chunks(path, table, iter(first))
        yield from _chunks(path, table, _json_rows(file, after=first[-1][0] if first else 0))


def _open_text(path: Path) -> io.TextIOWrapper:
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    # Bytes that are not UTF-8 become lone surrogates, which single out the row they are in.
    return io.TextIOWrapper(opened(path, "rb"), encoding="utf-8-sig", errors="surrogateescape", newline="")


def _wanted(table: TableSchema, found: list[str]) -> set[str]:
    return set(found) if table.keeps_extra else {column.name for column in table.columns}


def _csv_rows(reader: Any, width: int, kept: list[tuple[int, str, Kind]]) -> Iterator[_ParsedRow]:
    number = 0
    while True:
        number += 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, {}, BadCellError("bad_row", f"not CSV: {error}")
            continue
        if len(row) == width:
            yield number, {name: _csv_cell(row[i], kind) for i, name, kind in kept}, None
        elif row:  # the csv module gives an empty line as no cells
            yield (
                number,
                {},
                BadCellError("bad_row", f"{len(row)} cells, the header has {width}: {row!r:.80}"),
            )


def _csv_cell(text: str, kind: Kind) -> Any:
    return text.split(_PATH_SEPARATOR) if kind == "paths" and text else text


def _json_rows(file: io.TextIOWrapper, after: int = 0) -> Iterator[_ParsedRow]:
    for number, line in enumerate(file, start=after + 1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, {}, BadCellError("bad_row", f"not JSON: {error}: {_readable(line)}")
            continue
        if isinstance(cells, dict):
            yield number, cells, None
        else:
            yield number, {}, BadCellError("bad_row", f"not a JSON object: {_readable(line)}")


def _readable(text: str) -> str:
    return text[:80].strip().encode("utf-8", "backslashreplace").decode()


def _chunks(path: Path, table: TableSchema, rows: Iterator[_ParsedRow]) -> Iterator[Chunk]:
    while batch := list(islice(rows, table.chunk_rows)):
        good: list[dict[str, Any]] = []
        bad: list[BadRow] = []
        extra: dict[str, None] = {}
        for number, cells, problem in batch:
            try:
                if problem is not None:
                    raise problem
                good.append(_converted(table, number, cells))
                extra.update(dict.fromkeys(good[-1]))
            except BadCellError as error:
                bad.append(BadRow(table.name, str(path), number, _key(table, cells), error.reason, str(error)))
        yield Chunk(path, _arrow(table, good, list(extra)), bad)


def _converted(table: TableSchema, number: int, cells: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {
        column.name: convert(column.name, column.kind, cells.get(column.name)) for column in table.columns
    }
    row[ROW] = number
    if table.keeps_extra:
        row.update({name: _extra(name, value) for name, value in cells.items() if name not in row})
    return row


def _extra(name: str, value: Any) -> Any:
    """An extra cell as it is, nested ones as JSON text."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return convert(name, "text", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _key(table: TableSchema, cells: dict[str, Any]) -> str:
    value = cells.get(table.key)
    return "" if value is None else _readable(str(value))


def _arrow(table: TableSchema, rows: list[dict[str, Any]], names: list[str]) -> pa.Table:
    schema = table.arrow_schema
    columns = {field.name: pa.array([row[field.name] for row in rows], field.type) for field in schema}
    for name in names:
        if name not in columns:
            columns[name] = _extra_column([row.get(name) for row in rows])
    return pa.table(columns)


def _extra_column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # mixed types
        return pa.array([None if value is None else str(value) for value in values], pa.string())
