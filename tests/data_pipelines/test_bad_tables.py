"""Damaged tables: a bad row is set aside, and a bad file refused in one clear line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalogue_files import product, write_products
from hypothesis import given, settings
from hypothesis import strategies as st
from table_files import CLICKS, read, write

from data_pipelines.errors import DataError
from data_pipelines.schema import INTERACTIONS, PRODUCTS, ROW, TableSchema
from data_pipelines.tables import read_table


def non_utf8_parquet(path: Path) -> None:
    text = pa.array([b"fine", b"caf\xe9", None]).view(pa.string())
    pq.write_table(pa.table({"product_id": ["1", "2", "3"], "title": text}), path)


def test_rows_that_are_not_utf8_are_set_aside(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfproduct_id,title\n1,fine\n2,caf\xe9\n3,\n")
    (tmp_path / "t.jsonl").write_bytes(
        b'{"product_id": 1, "title": "fine"}\n{"product_id": 2, "title": "caf\xe9"}\n{"product_id": 3}\n'
    )
    non_utf8_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.jsonl", "t.parquet"):
        rows, bad = read(tmp_path / name, PRODUCTS)
        assert [(row["product_id"], row["title"]) for row in rows] == [("1", "fine"), ("3", None)]
        (row,) = bad
        assert (row.table, Path(row.file).name, row.row, row.key, row.reason) == ("products", name, 2, "2", "not_utf8")


def test_malformed_lines_are_set_aside(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("product_id,title\n1,a,b\n\n2\n3,fine\n", encoding="utf-8")
    rows, bad = read(tmp_path / "t.csv", PRODUCTS)
    assert [row["product_id"] for row in rows] == ["3"]
    assert [(row.row, row.reason) for row in bad] == [(1, "bad_row"), (3, "bad_row")]

    lines = ['{"product_id": "1", "title"', "[1]", "", '{"product_id": "2", "title": "\\ud800"}']
    lines += ['{"product_id": ["x"], "title": "a"}', '{"product_id": "4", "image": "no base64"}', "[" * 100_000]
    (tmp_path / "t.jsonl").write_text("\n".join([*lines, '{"product_id": "9", "title": "fine"}']), encoding="utf-8")
    rows, bad = read(tmp_path / "t.jsonl", PRODUCTS)
    assert [(row["product_id"], row[ROW]) for row in rows] == [("9", 8)]
    reasons = [
        (1, "bad_row"),
        (2, "bad_row"),
        (4, "not_utf8"),
        (5, "bad_row"),
        (6, "undecodable_image"),
        (7, "bad_row"),
    ]
    assert [(row.row, row.reason) for row in bad] == reasons


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_text_where_a_number_should_be_is_set_aside(tmp_path: Path, name: str) -> None:
    values = ["1", "many", "2024-13-01"]
    path = write(tmp_path / name, [{"query": "q", "product_id": "1", "clicks": v, "day": v} for v in values])
    rows, bad = read(path, INTERACTIONS)
    assert [row["clicks"] for row in rows] == [1]
    assert [(row.row, row.reason) for row in bad] == [(2, "bad_number"), (3, "bad_number")]


def fails(path: Path | str, table: TableSchema, *parts: str) -> None:
    with pytest.raises(DataError) as caught:
        list(read_table(path, table))
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_no_such_file(tmp_path: Path) -> None:
    fails(tmp_path / "*.parquet", PRODUCTS, "no file matches products", "*.parquet")


def test_a_directory_and_an_unknown_extension(tmp_path: Path) -> None:
    fails(tmp_path, PRODUCTS, "is a directory", "*.parquet")
    (tmp_path / "t.xlsx").touch()
    fails(tmp_path / "t.xlsx", PRODUCTS, "unknown extension '.xlsx'", ".parquet, .csv")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_missing_column_names_the_file_the_columns_and_the_closest(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [{"productid": "1", "title": "x"}])
    fails(path, PRODUCTS, name, "no column 'product_id'", "'productid', 'title'", "is 'productid' meant?")


def test_neither_title_nor_image_column(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [{"product_id": "1", "name": "x"}])
    fails(path, PRODUCTS, "none of the columns 'title', 'image', 'image_path', 'regions'", "'name'")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet", "t.csv.gz"])
def test_an_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    fails(tmp_path / name, PRODUCTS, name)


def test_columns_given_twice_and_images_in_csv(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("product_id,title,title\n1,a,b\n", encoding="utf-8")
    fails(tmp_path / "t.csv", PRODUCTS, "column 'title' twice")
    (tmp_path / "i.csv").write_text("product_id,image\n1,a\n", encoding="utf-8")
    fails(tmp_path / "i.csv", PRODUCTS, "image_path")
    (tmp_path / "r.csv").write_text("product_id,regions\n1,a\n", encoding="utf-8")
    fails(tmp_path / "r.csv", PRODUCTS, "CSV cannot hold region features")


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("title", [["a"]], "expected text"),
        ("image", ["x.jpg"], "image_path"),
        ("image", [["x.jpg"]], "image_path"),
        ("image_path", [[True]], "expected text or lists of it"),
        ("regions", [[1.0]], "expected lists of lists of numbers"),
        ("regions", [[["1"]]], "expected lists of lists of numbers"),
        ("product_id", [True], "expected text or"),
    ],
)
def test_columns_of_the_wrong_type(tmp_path: Path, column: str, values: list[Any], expected: str) -> None:
    path = write(tmp_path / "t.parquet", [{"product_id": "1", "title": "x", column: values[0]}])
    fails(path, PRODUCTS, f"column '{column}' is", expected)


def test_a_file_that_is_not_parquet(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"product_id,title\n1,x\n" * 9)
    fails(tmp_path / "t.parquet", PRODUCTS, "t.parquet cannot be read as parquet", "copy it again")


@pytest.mark.parametrize("name", ["t.parquet", "t.csv.gz", "t.jsonl.gz"])
def test_a_truncated_file(tmp_path: Path, name: str) -> None:
    rows = [{"product_id": str(i), "title": f"title {i * 7919}"} for i in range(3000)]
    path = write(tmp_path / name, rows)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    fails(path, PRODUCTS, f"{name} cannot be read", "copy it again")


def test_damage_in_the_middle_of_a_parquet_file(tmp_path: Path) -> None:
    write_products(tmp_path / "t.parquet", [product(i) for i in range(600)])
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    middle = len(content) // 2
    content[middle - 5000 : middle + 5000] = bytes(10000)
    (tmp_path / "t.parquet").write_bytes(content)
    fails(tmp_path / "t.parquet", PRODUCTS, "t.parquet cannot be read as parquet")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2),
)
COLUMNS = st.sampled_from(["query", "product_id", "clicks", "purchases", "day", "other"])


@settings(deadline=None)
@given(rows=st.lists(st.dictionaries(COLUMNS, JSON_VALUES), max_size=8))
def test_any_json_row_is_either_read_or_set_aside(rows: list[dict[str, Any]], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "t.jsonl"
    write_lines = [json.dumps(row) for row in [CLICKS[0], *rows]]
    path.write_text("\n".join(write_lines), encoding="utf-8")
    good, bad = read(path, INTERACTIONS)
    assert sorted([row[ROW] for row in good] + [row.row for row in bad]) == list(range(1, len(rows) + 2))


@settings(deadline=None)
@given(body=st.binary(max_size=80) | st.text(alphabet='a,"\n\r\0é1', max_size=40).map(str.encode))
def test_any_csv_bytes_are_read_set_aside_or_refused_clearly(body: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "t.csv"
    path.write_bytes(b"product_id,title\n" + body)
    rows, bad = read(path, PRODUCTS)
    numbers = [row[ROW] for row in rows] + [row.row for row in bad]
    assert len(set(numbers)) == len(numbers)
    for row in rows:
        assert not re.search("[\ud800-\udfff]", (row["title"] or "") + (row["product_id"] or ""))
