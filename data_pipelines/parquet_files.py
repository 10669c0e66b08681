"""Reads Parquet files in chunks, bringing each column to the type its schema wants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

_READ_BYTES = 1 << 20  # read at once of a column; without a limit Arrow holds a row group's pictures in one piece
_PART_BYTES = 64 * 1024 * 1024
_PART_ROWS = 16_384  # products with pictures named by path are small in the table, yet much work


def read_parquet(
    path: Path, table: TableSchema, check_columns: CheckColumns, row_groups: Sequence[int] | None = None
) -> Iterator[Chunk]:
    """Reads a Parquet file, or some of its row groups, at most `table.chunk_rows` rows at once.

    Memory is that of a chunk and some pages, however large a row group is.
    """
    with pq.ParquetFile(path, page_checksum_verification=True, buffer_size=_READ_BYTES, pre_buffer=False) as file:
        found = file.schema_arrow.names
        check_columns(path, table, found)
        known = {column.name for column in table.columns}
        names = found if table.keeps_extra else [name for name in found if name in known]
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        groups = list(range(len(sizes))) if row_groups is None else list(row_groups)
        start = 1 + sum(sizes[: groups[0]]) if groups else 1
        for batch in file.iter_batches(table.chunk_rows, row_groups=groups, columns=names):
            yield _chunk(path, table, batch, start)
            start += batch.num_rows


def row_group_parts(path: Path) -> list[range]:
    """Splits a file's row groups into runs of some 64 MB or 16,384 rows; a row group is never split."""
    with pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    parts: list[range] = []
    first = num_bytes = rows = 0
    for i, group in enumerate(groups):
        num_bytes += group.total_byte_size
        rows += group.num_rows
        if num_bytes >= _PART_BYTES or rows >= _PART_ROWS or i == len(groups) - 1:
            parts.append(range(first, i + 1))
            first, num_bytes, rows = i + 1, 0, 0
    return parts or [range(0)]  # a file without rows is read too, so that its columns are checked


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
    if kind in ("pictures", "paths"):
        converted = _list_column(column, values, problems)
    elif kind == "regions":
        converted = _region_column(values)
    else:
        converted = _plain_column(column, values, problems)
    if converted is not None:
        return converted
    hint = "; a path belongs in a column named image_path" if kind == "pictures" else ""
    raise DataError(f"{path}: column {column.name!r} is {found}, expected {_EXPECTED[kind]}{hint}")


_EXPECTED = {
    "id": "text or whole numbers",
    "text": "text",
    "number": "numbers",
    "day": "whole numbers or dates",
    "pictures": "binary (the encoded image file) or lists of it",
    "paths": "text or lists of it",
    "regions": "lists of lists of numbers",
}


def _plain_column(column: Column, values: pa.Array, problems: _Problems) -> pa.Array | None:
    """Ids, texts, numbers and days; None where the type does not fit."""
    kind, found = column.kind, values.type
    if kind in ("id", "text"):
        if _is_text(found):
            return _utf8(column.name, values, problems)
        if pt.is_floating(found) and kind == "id":
            return _whole_numbers(column.name, values, problems)
        if pt.is_integer(found) or pt.is_floating(found):
            return values.cast(pa.string())
        return None
    if pt.is_integer(found) or pt.is_floating(found) or pt.is_decimal(found):
        return values.cast(pa.float64(), safe=False)
    if kind == "day" and (pt.is_date(found) or pt.is_timestamp(found)):
        return values.cast(pa.date32(), safe=False).cast(pa.int32()).cast(pa.float64())
    return _parsed(column, _utf8(column.name, values, problems), problems) if _is_text(found) else None


def _list_column(column: Column, values: pa.Array, problems: _Problems) -> pa.Array | None:
    """Pictures or paths, one or a list of them in each row; None where the type does not fit."""
    if _is_list(values.type):
        lengths = pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False)
        items = values.flatten()
    else:
        lengths = values.is_valid().to_numpy(zero_copy_only=False)
        items = values.drop_null()
    if pt.is_dictionary(items.type):
        items = items.dictionary_decode()
    found: _Problems = {}
    if pt.is_null(items.type):
        items = pa.nulls(len(items), ARROW_TYPES[column.kind].value_type)
    elif column.kind == "pictures":
        items = _pictures(items)
    else:
        items = _plain_column(Column(column.name, "text"), items, found)
    ends = np.cumsum(lengths, dtype=np.int32)
    problems.update({int(np.searchsorted(ends, item, side="right")): problem for item, problem in found.items()})
    return None if items is None else pa.ListArray.from_arrays(pa.array(np.append(np.int32(0), ends)), items)


def _pictures(items: pa.Array) -> pa.Array | None:
    found = items.type
    if pt.is_struct(found) and found.get_field_index("bytes") >= 0:
        return pc.struct_field(items, "bytes").cast(pa.large_binary())
    is_binary = pt.is_binary(found) or pt.is_large_binary(found) or pt.is_fixed_size_binary(found)
    return items.cast(pa.large_binary()) if is_binary else None


def _region_column(values: pa.Array) -> pa.Array | None:
    found = values.type
    if not _is_list(found) or not (_is_list(found.value_type) or pt.is_null(found.value_type)):
        return None
    numbers = pa.null() if pt.is_null(found.value_type) else found.value_type.value_type
    if not (pt.is_integer(numbers) or pt.is_floating(numbers) or pt.is_null(numbers)):
        return None
    return values.cast(ARROW_TYPES["regions"], safe=False)


def _is_list(found: pa.DataType) -> bool:
    return pt.is_list(found) or pt.is_large_list(found) or pt.is_fixed_size_list(found)


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
