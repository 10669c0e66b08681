"""Reading the user's tables: every format gives the same rows, and every kind of damage a clear answer."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalogue_files import picture, product, write_jsonl, write_products
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import parquet_files
from data_pipelines.errors import DataError
from data_pipelines.schema import INTERACTIONS, PRODUCTS, QUERIES, ROW, BadRow, TableSchema
from data_pipelines.tables import match_files, read_part, read_table, table_parts

CLICKS = [
    {"query": "red, large", "product_id": "1", "clicks": 3, "purchases": 0, "day": 2},
    {"query": 'a "quoted"\nline', "product_id": "2", "clicks": 1, "purchases": 1, "day": 3},
    {"query": "红色 कमीज़ قميص", "product_id": "3", "clicks": 2, "purchases": 0, "day": 4},
]


def read(path: Path | str, table: TableSchema) -> tuple[list[dict[str, Any]], list[BadRow]]:
    rows: list[dict[str, Any]] = []
    bad: list[BadRow] = []
    for chunk in read_table(path, table):
        rows += chunk.rows.to_pylist()
        bad += chunk.bad
    return rows, bad


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
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


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.csv.gz", "t.jsonl", "t.jsonl.gz", "T.CSV"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = (
        write(tmp_path / name, CLICKS) if name != "T.CSV" else write(tmp_path / "t.csv", CLICKS).rename(tmp_path / name)
    )
    rows, bad = read(path, INTERACTIONS)
    assert rows == [row | {ROW: i} for i, row in enumerate(CLICKS, start=1)]
    assert bad == []


@pytest.mark.parametrize("ids", [[7, 12345678901234567], ["7", "12345678901234567"]])
@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.jsonl"])
def test_numeric_ids_become_text(tmp_path: Path, name: str, ids: list[Any]) -> None:
    rows, _ = read(write(tmp_path / name, [{"query": "q", "product_id": i} for i in ids]), INTERACTIONS)
    assert [row["product_id"] for row in rows] == ["7", "12345678901234567"]


def test_floating_ids_of_a_column_with_gaps_are_whole_numbers_or_bad(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"query": ["a", "b", "c"], "product_id": pa.array([7.0, None, 7.5])}), path)
    rows, bad = read(path, INTERACTIONS)
    assert [row["product_id"] for row in rows] == ["7", None]
    assert [(row.row, row.reason) for row in bad] == [(3, "bad_row")]


def test_absent_columns_are_null_and_unknown_ones_are_left_out(tmp_path: Path) -> None:
    rows, _ = read(write(tmp_path / "t.csv", [{"product_id": "1", "title": "x", "price": "3"}]), PRODUCTS)
    absent = dict.fromkeys(("category", "image", "image_path", "regions"))
    assert rows == [{"product_id": "1", "title": "x", ROW: 1, **absent}]


@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl"])
def test_queries_keep_extra_columns_with_their_types(tmp_path: Path, name: str) -> None:
    rows, _ = read(write(tmp_path / name, [{"query_id": "q", "query": "x", "novel": True, "w": 1.5}]), QUERIES)
    assert rows == [{"query_id": "q", "query": "x", ROW: 1, "novel": True, "w": 1.5}]


def test_extra_columns_of_mixed_types_become_text(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "t.jsonl", [{"query_id": i, "query": "x", "e": e} for i, e in enumerate([1, "b", [2]])]
    )
    assert [row["e"] for row in read(path, QUERIES)[0]] == ["1", "b", "[2]"]


def test_nan_in_json_is_no_title(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [{"product_id": 1.0, "title": float("nan")}])
    (row,), bad = read(path, PRODUCTS)
    assert (row["product_id"], row["title"], bad) == ("1", None, [])


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_dates_become_days(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [{"query": "q", "product_id": "1", "day": "1970-01-11"}])
    assert read(path, INTERACTIONS)[0][0]["day"] == 10
    pq.write_table(
        pa.table({"query": ["q"], "product_id": ["1"], "day": [date(1970, 1, 11)]}), tmp_path / "dates.parquet"
    )
    assert read(tmp_path / "dates.parquet", INTERACTIONS)[0][0]["day"] == 10


def test_images_come_as_bytes_as_struct_and_as_base64(tmp_path: Path) -> None:
    image = picture()
    write_products(tmp_path / "a.parquet", [product(1, image=image)])
    pq.write_table(pa.table({"product_id": ["1"], "image": [{"bytes": image, "path": "x"}]}), tmp_path / "b.parquet")
    write_jsonl(tmp_path / "c.jsonl", [{"product_id": "1", "image": base64.b64encode(image).decode()}])
    for name in ("a.parquet", "b.parquet", "c.jsonl"):
        assert read(tmp_path / name, PRODUCTS)[0][0]["image"] == [image]


LIST_TYPES = [pa.list_, pa.large_list, lambda item: pa.list_(item, 2)]


@pytest.mark.parametrize("make", LIST_TYPES)
@pytest.mark.parametrize("item", [pa.binary(), pa.large_binary(), pa.struct([("bytes", pa.binary())])])
def test_parquet_holds_several_images(tmp_path: Path, make: Any, item: pa.DataType) -> None:
    first, second = picture(1), picture(2)
    cells = [[first, second], None, [second, None]]
    if pa.types.is_struct(item):
        cells = [cell and [{"bytes": image} if image else None for image in cell] for cell in cells]
    table = pa.table({"product_id": ["1", "2", "3"], "image": pa.array(cells, make(item))})
    pq.write_table(table, tmp_path / "t.parquet")
    rows, bad = read(tmp_path / "t.parquet", PRODUCTS)
    assert [row["image"] for row in rows] == [[first, second], [], [second, None]]
    assert bad == []


def test_several_images_and_paths_in_every_format(tmp_path: Path) -> None:
    paths, image = ["a.jpg", "b/c d.jpg"], picture()
    write_jsonl(
        tmp_path / "a.jsonl",
        [
            {"product_id": "1", "image_path": paths, "image": [base64.b64encode(image).decode(), "no base64"]},
            {"product_id": "2", "image_path": "a|b.jpg"},
        ],
    )
    (tmp_path / "b.csv").write_text(f"product_id,image_path\n1,{'|'.join(paths)}\n2,\n", encoding="utf-8")
    pq.write_table(pa.table({"product_id": ["1"], "image_path": [paths]}), tmp_path / "c.parquet")
    pq.write_table(
        pa.table({"product_id": ["1"], "image_path": pa.array(["x"]).dictionary_encode()}), tmp_path / "d.parquet"
    )
    found = [[row["image_path"] for row in read(path, PRODUCTS)[0]] for path in sorted(tmp_path.iterdir())]
    assert found == [[paths, ["a|b.jpg"]], [paths, None], [paths], [["x"]]]
    main, further = read(tmp_path / "a.jsonl", PRODUCTS)[0][0]["image"]
    assert main == image
    assert b"no base64" in further  # it is no picture, which the check of pictures will say


def test_paths_that_are_not_utf8_cost_their_row_only(tmp_path: Path) -> None:
    text = pa.array([b"a", b"b", b"caf\xe9", b"d"]).view(pa.string())
    paths = pa.ListArray.from_arrays(pa.array([0, 2, 3, 4], pa.int32()), text)
    pq.write_table(pa.table({"product_id": ["1", "2", "3"], "image_path": paths}), tmp_path / "t.parquet")
    rows, bad = read(tmp_path / "t.parquet", PRODUCTS)
    assert [row["image_path"] for row in rows] == [["a", "b"], ["d"]]
    assert [(row.row, row.key, row.reason) for row in bad] == [(2, "2", "not_utf8")]


@pytest.mark.parametrize("make", LIST_TYPES)
@pytest.mark.parametrize("number", [pa.float16(), pa.float32(), pa.float64(), pa.int64()])
def test_regions_in_parquet(tmp_path: Path, make: Any, number: pa.DataType) -> None:
    cells = [[[1, 2], [3, 4]], None]
    array = pa.array(cells, pa.list_(pa.list_(pa.int64()))).cast(make(make(number)))
    pq.write_table(pa.table({"product_id": ["1", "2"], "regions": array}), tmp_path / "t.parquet")
    assert [row["regions"] for row in read(tmp_path / "t.parquet", PRODUCTS)[0]] == cells


def test_regions_in_jsonl(tmp_path: Path) -> None:
    cells = [[[1, 2.5]], None, [], "x", [1], [["1"]], [[True]], {"a": 1}, [[10**400]], [[1e39]]]
    path = write_jsonl(tmp_path / "t.jsonl", [{"product_id": str(i), "regions": cell} for i, cell in enumerate(cells)])
    rows, bad = read(path, PRODUCTS)
    assert [row["regions"] for row in rows] == [[[1, 2.5]], None, [], [[float("inf")]]]
    assert [(row.key, row.reason) for row in bad] == [(str(i), "bad_regions") for i in range(3, 9)]


def test_globs_lists_and_names_with_brackets(tmp_path: Path) -> None:
    names = ["b.csv", "a.csv", "a[1].csv"]
    for name in names:
        write(tmp_path / name, CLICKS)
    assert [f.name for f in match_files(str(tmp_path / "?.csv"), INTERACTIONS)] == ["a.csv", "b.csv"]
    assert [f.name for f in match_files(tmp_path / "a[1].csv", INTERACTIONS)] == ["a[1].csv"]
    both = match_files([tmp_path / "b.csv", str(tmp_path / "*.csv")], INTERACTIONS)
    assert [f.name for f in both] == ["b.csv", "a.csv", "a[1].csv"]


def test_parquet_row_numbers_go_on_over_chunks(tmp_path: Path) -> None:
    rows = [{"product_id": str(i), "title": "x"} for i in range(PRODUCTS.chunk_rows + 3)]
    found, _ = read(write(tmp_path / "t.parquet", rows), PRODUCTS)
    assert [row[ROW] for row in found] == list(range(1, len(rows) + 1))


def test_parts_end_to_end_are_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_files, "_PART_ROWS", 25)
    rows = [{"product_id": str(i), "title": f"title {i}"} for i in range(100)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=10)
    write(tmp_path / "b.csv", rows[:7])
    pq.ParquetWriter(tmp_path / "c.parquet", pa.Table.from_pylist(rows).schema).close()  # no row groups at all
    files = match_files(tmp_path / "*", PRODUCTS)
    parts = table_parts(files, PRODUCTS)
    assert [part.row_groups for part in parts] == [range(3), range(3, 6), range(6, 9), range(9, 10), None, range(0)]
    chunks = [list(read_part(part, PRODUCTS)) for part in parts]
    assert [sum(chunk.rows.num_rows for chunk in part) for part in chunks] == [30, 30, 30, 10, 7, 0]
    found = pa.concat_tables(chunk.rows for part in chunks for chunk in part)
    assert found == pa.concat_tables(chunk.rows for chunk in read_table(files, PRODUCTS))
    assert found[ROW].to_pylist() == [*range(1, 101), *range(1, 8)]


def test_a_large_part_is_one_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_files, "_PART_BYTES", 10_000)
    large = [{"product_id": str(i), "image": bytes(np.random.default_rng(i).bytes(2_000))} for i in range(30)]
    pq.write_table(pa.Table.from_pylist(large), tmp_path / "t.parquet", row_group_size=6)
    parts = table_parts([tmp_path / "t.parquet"], PRODUCTS)
    assert [part.row_groups for part in parts] == [range(i, i + 1) for i in range(5)]
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match=r"bad\.parquet cannot be read as parquet"):
        table_parts([tmp_path / "bad.parquet"], PRODUCTS)


def test_a_large_row_group_is_not_held_in_memory(tmp_path: Path) -> None:
    size, count = 20_000, 2_000
    noise = np.random.default_rng(0)
    rows = {"product_id": [str(i) for i in range(count)], "image": [noise.bytes(size) for _ in range(count)]}
    pq.write_table(pa.table(rows), tmp_path / "t.parquet", row_group_size=count, write_batch_size=64)  # pages of 1 MB
    del rows
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in read_table(tmp_path / "t.parquet", PRODUCTS)]
    assert len(held) > 20
    assert max(held) < size * count / 4


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
