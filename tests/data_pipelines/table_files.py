"""Tables in files of every format, for the tests of reading them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.schema import BadRow, TableSchema
from data_pipelines.tables import read_table

CLICKS = [
    {"query": "red, large", "product_id": "1", "clicks": 3, "purchases": 0, "day": 2},
    {"query": 'a "quoted"\nline', "product_id": "2", "clicks": 1, "purchases": 1, "day": 3},
    {"query": "红色 कमीज़ قميص", "product_id": "3", "clicks": 2, "purchases": 0, "day": 4},
]


def read(path: Path | str, table: TableSchema) -> tuple[list[dict[str, Any]], list[BadRow]]:
    """All sound rows of a table's files, and the bad ones."""
    rows: list[dict[str, Any]] = []
    bad: list[BadRow] = []
    for chunk in read_table(path, table):
        rows += chunk.rows.to_pylist()
        bad += chunk.bad
    return rows, bad


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes rows in the format that the name says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    buffer = io.StringIO()
    if ".csv" in path.name:
        writer = csv.DictWriter(buffer, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    else:
        buffer.writelines(json.dumps(row) + "\n" for row in rows)
    content = buffer.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path
