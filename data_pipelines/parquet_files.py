"""Reads Parquet files in chunks, bringing each column to the type its schema wants."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from data_pipelines.cells import BadCellError, convert
from data_pipelines.errors import DataError
from data_pipelines.schema import ARROW_TYPES, ROW, BadRow, CheckColumns, Chunk, Column, TableSchema

_Problems = dict[int, tuple[str, str]]  # position in the chunk -> reason, detail


def read_parquet(path: Path, table: TableSchema, check_columns: CheckColumns) -> Iterator[Chunk]:
    """Reads a Parquet file, row group by row group, at most `table.chunk_rows` rows at once."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        found = file.schema_arrow.names
        check_columns(path, table, found)
        known = {column.name for column in table.columns}
        names = found if table.keeps_extra else [name for name in found if name in known]
        start = 1
        for batch in file.iter_batches(table.chunk_rows, columns=names):
            yield _chunk(path, table, batch, start)
            start += batch.num_rows


def _chunk(path: Path, table: TableSchema, batch: pa.RecordBatch, start: int) -> Chunk:
    problems: _Problems = {}
    columns: dict[str, pa.Array] = {}
    for column in table.columns:
        if column.name in batch.schema.names:
            columns[column.name] = _column(path, column, batch[column.name], problems)
        else:
            columns[column.name] = pa.nulls(batch.num_rows, ARROW_TYPES[column.kind])
    columns[ROW] = pa.array(np.arange(start, start + batch.num_rows))
    for name in batch.schema.names:
        if name not in columns:
            is_text = pt.is_string(batch[name].type) or pt.is_large_string(batch[name].type)
            columns[name] = _utf8(name, batch[name], problems) if is_text else batch[name]
    rows = pa.table(columns)
    if not problems:
        return Chunk(path, rows, [])
    keys = columns[table.key]
    bad = [BadRow(table.name, str(path), start + i, str(keys[i].as_py() or ""), *problems[i]) for i in sorted(problems)]
    keep = np.ones(batch.num_rows, bool)
    keep[list(problems)] = False
    return Chunk(path, rows.filter(pa.array(keep)), bad)


def _column(path: Path, column: Column, values: pa.Array, problems: _Problems) -> pa.Array:
    if pt.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind, found = column.kind, values.type
    if pt.is_null(found):
        return pa.nulls(len(values), ARROW_TYPES[kind])
    is_text = _is_text(found)
    if kind == "bytes":
        if pt.is_struct(found) and found.get_field_index("bytes") >= 0:
            return pc.struct_field(values, "bytes").cast(pa.binary())
        if pt.is_binary(found) or pt.is_large_binary(found) or pt.is_fixed_size_binary(found):
            return values.cast(pa.binary())
    elif kind in ("id", "text"):
        if is_text:
            return _utf8(column.name, values, problems)
        if pt.is_floating(found) and kind == "id":
            return _whole_numbers(column.name, values, problems)
        if pt.is_integer(found) or pt.is_floating(found):
            return values.cast(pa.string())
    else:
        if pt.is_integer(found) or pt.is_floating(found) or pt.is_decimal(found):
            return values.cast(pa.float64(), safe=False)
        if kind == "day" and (pt.is_date(found) or pt.is_timestamp(found)):
            return values.cast(pa.date32(), safe=False).cast(pa.int32()).cast(pa.float64())
        if is_text:
            return _parsed(column, _utf8(column.name, values, problems), problems)
    hint = "; a path belongs in a column named image_path" if kind == "bytes" else ""
    raise DataError(f"{path}: column {column.name!r} is {found}, expected {_EXPECTED[kind]}{hint}")


_EXPECTED = {
    "id": "text or whole numbers",
    "text": "text",
    "number": "numbers",
    "day": "whole numbers or dates",
    "bytes": "binary (the encoded image file)",
}


def _is_text(found: pa.DataType) -> bool:
    return pt.is_string(found) or pt.is_large_string(found) or pt.is_binary(found) or pt.is_large_binary(found)


def _utf8(name: str, values: pa.Array, problems: _Problems) -> pa.Array:
    """Casts to string; Parquet does not promise that its strings are UTF-8, so they are checked here."""
    raw = values.cast(pa.binary())
    try:
        return raw.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_decoded(name, i, value, problems) for i, value in enumerate(raw.to_pylist())], pa.string())


def _decoded(name: str, position: int, value: bytes | None, problems: _Problems) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError as error:
        problems[position] = ("not_utf8", f"{name} is not UTF-8 from byte {error.start}: {value!r:.80}")
        return None


def _whole_numbers(name: str, values: pa.Array, problems: _Problems) -> pa.Array:
    """Ids that became floating point because some were missing, as pandas does."""
    ids: list[str | None] = []
    for position, value in enumerate(values.to_pylist()):
        if value is None or value != value:
            ids.append(None)
        elif value.is_integer():
            ids.append(str(int(value)))
        else:
            problems[position] = ("bad_row", f"{name} is {value}, not a whole number")
            ids.append(None)
    return pa.array(ids, pa.string())


def _parsed(column: Column, values: pa.Array, problems: _Problems) -> pa.Array:
    numbers: list[Any] = []
    for position, value in enumerate(values.to_pylist()):
        try:
            numbers.append(convert(column.name, column.kind, value))
        except BadCellError as error:
            problems[position] = (error.reason, str(error))
            numbers.append(None)
    return pa.array(numbers, pa.float64())
