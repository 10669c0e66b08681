"""What the user's tables hold: their columns, and the row that had to be set aside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa

Kind = Literal["id", "text", "number", "day", "pictures", "paths", "regions"]

ARROW_TYPES: dict[Kind, pa.DataType] = {
    "id": pa.string(),
    "text": pa.string(),
    "number": pa.float64(),
    "day": pa.float64(),
    # Of pictures and paths a file may hold one in place of a list; the first is the main picture.
    "pictures": pa.list_(pa.large_binary()),
    "paths": pa.list_(pa.string()),
    "regions": pa.list_(pa.list_(pa.float32())),
}
ROW = "__row__"  # int64 column of every chunk: the row's number in its file, 1 = the first below any header


class BadRow(NamedTuple):
    """A row set aside: its table, file and row (1 = first), its key if known, a reason code, the details."""

    table: str
    file: str
    row: int
    key: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Column:
    """One column: its name, what it means, and whether a table without it is refused."""

    name: str
    kind: Kind
    required: bool = False


@dataclass(frozen=True)
class TableSchema:
    """A table the user may give.

    Attributes:
      name: "products", "interactions", "queries" or "qrels"; it appears in messages and in the quarantine.
      columns: what is read.
      one_of: at least one of these columns must be there.
      keeps_extra: further columns are read too, as they are.
      chunk_rows: rows read at once; small where rows are large.
    """

    name: str
    columns: tuple[Column, ...]
    one_of: tuple[str, ...] = ()
    keeps_extra: bool = False
    chunk_rows: int = 65536

    @property
    def key(self) -> str:
        """The column that identifies a row in the quarantine."""
        return self.columns[0].name

    @property
    def arrow_schema(self) -> pa.Schema:
        """The columns of a chunk, extra ones aside, with the row number last."""
        fields = [pa.field(column.name, ARROW_TYPES[column.kind]) for column in self.columns]
        return pa.schema([*fields, pa.field(ROW, pa.int64())])


@dataclass(frozen=True)
class Chunk:
    """Some rows of one file.

    Attributes:
      file: the file they come from.
      rows: the readable rows: all columns of the schema (null where absent), the row number, extra columns.
      bad: the rows that could not be read.
    """

    file: Path
    rows: pa.Table
    bad: list[BadRow]


PRODUCTS = TableSchema(
    "products",
    (
        Column("product_id", "id", required=True),
        Column("title", "text"),
        Column("category", "text"),
        Column("image", "pictures"),
        Column("image_path", "paths"),
        Column("regions", "regions"),
    ),
    one_of=("title", "image", "image_path", "regions"),
    chunk_rows=64,
)
INTERACTIONS = TableSchema(
    "interactions",
    (
        Column("query", "text", required=True),
        Column("product_id", "id", required=True),
        Column("clicks", "number"),
        Column("purchases", "number"),
        Column("day", "day"),
    ),
)
QUERIES = TableSchema(
    "queries",
    (Column("query_id", "id", required=True), Column("query", "text", required=True)),
    keeps_extra=True,
)
QRELS = TableSchema(
    "qrels",
    (
        Column("query_id", "id", required=True),
        Column("product_id", "id", required=True),
        Column("relevance", "number", required=True),
    ),
)

CheckColumns = Callable[[Path, TableSchema, list[str]], None]
