"""Writes rows as Parquet tables, row group by row group, so that memory does not grow with the source."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.sources import Pictures, Source
from data_pipelines.sources.rows import Click, Product, Query, Row
from data_pipelines.sources.skipped import Skipped

GROUP_ROWS = 256  # products; a row group is the least that a process of `prepare` takes
GROUP_BYTES = 32 * 1024 * 1024  # of products with many pictures fewer make a group
PART_BYTES = 256 * 1024 * 1024
PART_GROUPS = 256
LOG_GROUP_ROWS = 65_536

_REGIONS = pa.list_(pa.list_(pa.float32()))
_PICTURES: dict[Pictures, pa.Field] = {
    "image": pa.field("image", pa.binary()),
    "images": pa.field("image", pa.list_(pa.binary())),
    "regions": pa.field("regions", _REGIONS),
}
_TEXT = [pa.field(name, pa.string()) for name in ("product_id", "title", "category")]
_CLICKS = pa.schema([("query", pa.string()), ("product_id", pa.string()), ("clicks", pa.int32())])
_JUDGEMENTS = pa.schema([("query_id", pa.string()), ("product_id", pa.string()), ("relevance", pa.int32())])


class TablesWriter:
    """Takes rows of all kinds in any order; the tables without rows are not made.

    Attributes:
      tables: name -> table: products, interactions, queries, qrels.
    """

    def __init__(self, root: Path, source: Source, skipped: Skipped) -> None:
        self._pictures, self._skipped = source.pictures, skipped
        products = pa.schema([*_TEXT, _PICTURES[source.pictures]])
        queries = pa.schema([(name, pa.string()) for name in ("query_id", "query", *source.segments)])
        self.tables = {
            "products": Table(root / "products-{:05d}.parquet", products, GROUP_ROWS),
            "interactions": Table(root / "interactions.parquet", _CLICKS, LOG_GROUP_ROWS),
            "queries": Table(root / "queries.parquet", queries, LOG_GROUP_ROWS),
            "qrels": Table(root / "qrels.parquet", _JUDGEMENTS, LOG_GROUP_ROWS),
        }

    def __enter__(self) -> TablesWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with ExitStack() as stack:
            for table in self.tables.values():
                stack.callback(table.close, write=error is None)

    def write(self, row: Row) -> None:
        """Writes a row, or lists why that cannot be done."""
        if isinstance(row, Product):
            self._add("products", row, *self._product_cells(row))
        elif isinstance(row, Click):
            self._add("interactions", row, row)
        elif isinstance(row, Query):
            self._add("queries", row, (row.query_id, row.query, *row.segments))
        else:
            self._add("qrels", row, row)

    def _product_cells(self, row: Product) -> tuple[Sequence[Any], int]:
        pictures: Any = row.regions if self._pictures == "regions" else list(row.images) or None
        if self._pictures == "image" and pictures:
            pictures = pictures[0]
        size = sum(map(len, row.images)) + (0 if row.regions is None else row.regions.nbytes) + len(row.title)
        return (row.product_id, row.title or None, row.category or None, pictures), size

    def _add(self, table: str, row: Row, cells: Sequence[Any], size: int = 0) -> None:
        problem = _problem(row, cells)
        if problem:
            self._skipped.add(table, row[0], *problem)
        else:
            self.tables[table].add(cells, size)


class Table:
    """One table: a file, or numbered parts if its path has a number's place.

    Attributes:
      rows: how many there are.
    """

    def __init__(self, path: Path, schema: pa.Schema, group_rows: int) -> None:
        self._path, self._schema, self._group_rows = path, schema, group_rows
        self._held: list[Sequence[Any]] = []
        self._held_bytes = 0
        self._writer: pq.ParquetWriter | None = None
        self._parts = self._part_groups = self._part_bytes = 0
        self.rows = 0

    def add(self, cells: Sequence[Any], size: int) -> None:
        """Takes a row that holds about `size` bytes in its large columns."""
        self._held.append(cells)
        self._held_bytes += size
        self.rows += 1
        if len(self._held) >= self._group_rows or self._held_bytes >= GROUP_BYTES:
            self._write_group()

    def close(self, write: bool) -> None:
        """Ends the last file; `write` says whether to write the rows still held."""
        if write and self._held:
            self._write_group()
        if self._writer:
            self._writer.close()
            self._writer = None

    def _write_group(self) -> None:
        if self._writer is None:
            path = self._path.with_name(self._path.name.format(self._parts))
            # Ids and pictures do not repeat, so dictionaries of them would only cost memory.
            self._writer = pq.ParquetWriter(path, self._schema, compression="zstd", use_dictionary=False)
            self._parts += 1
        columns = zip(*self._held, strict=True)
        arrays = [_array(values, field.type) for values, field in zip(columns, self._schema, strict=True)]
        self._writer.write_table(pa.table(arrays, schema=self._schema))
        self._part_groups += 1
        self._part_bytes += self._held_bytes
        self._held, self._held_bytes = [], 0
        in_parts = "{" in self._path.name
        if in_parts and (self._part_bytes >= PART_BYTES or self._part_groups >= PART_GROUPS):
            self._writer.close()
            self._writer, self._part_groups, self._part_bytes = None, 0, 0


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if kind != _REGIONS:
        return pa.array(values, kind)
    flat = np.concatenate([regions.ravel() for regions in values])
    width = values[0].shape[1]
    ends = np.cumsum([0, *(len(regions) for regions in values)], dtype=np.int32)
    rows = pa.ListArray.from_arrays(np.arange(ends[-1] + 1, dtype=np.int32) * width, flat)
    return pa.ListArray.from_arrays(ends, rows)


def _problem(row: Row, cells: Sequence[Any]) -> tuple[str, str] | None:
    try:
        "".join(cell for cell in cells if isinstance(cell, str)).encode()
    except UnicodeEncodeError as error:
        return "not_utf8", f"the text is not UTF-8: {error}"
    if isinstance(row, Product):
        if not row.product_id.strip():
            return "missing_id", "product_id is empty"
        if not row.title.strip() and not row.images and row.regions is None:
            return "no_title_no_image", "a product needs a title, a picture or regions"
    elif not row[0].strip() or not row[1].strip():
        return "missing_value", f"{row._fields[0]} is {row[0]!r}, {row._fields[1]} is {row[1]!r}; neither may be empty"
    return None
