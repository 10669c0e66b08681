"""Reading the user's tables: every format gives the same rows, and no more of them is held than needed."""

from __future__ import annotations

import base64
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalogue_files import picture, product, write_jsonl, write_products
from table_files import CLICKS, read, write

from data_pipelines import parquet_files
from data_pipelines.errors import DataError
from data_pipelines.schema import INTERACTIONS, PRODUCTS, QUERIES, ROW
from data_pipelines.tables import match_files, read_part, read_table, table_parts


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
