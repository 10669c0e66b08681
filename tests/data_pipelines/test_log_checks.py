"""Every row of the click log, the queries and the judgements is used, merged, skipped or set aside with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalogue_files import write_jsonl

from data_pipelines.errors import DataError
from data_pipelines.log_checks import ClickChecker, QrelChecker, checked_queries
from data_pipelines.quarantine import Quarantine


def check_clicks(path: Path) -> tuple[list[tuple[Any, ...]], dict[str, int], Quarantine]:
    quarantine = Quarantine()
    checker = ClickChecker(quarantine, {"p0": 0, "p1": 1})
    rows = [tuple(map(int, row)) for chunk in checker.clicks(path) for row in zip(*chunk, strict=True)]
    return rows, checker.queries, quarantine


def test_clicks_are_numbered_and_absent_counts_filled_in(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"query": "red  shirt ", "product_id": "p1"},
        {"query": "mug", "product_id": 0},
        {"query": "red shirt", "product_id": " p0 ", "clicks": 0, "purchases": 2, "day": 5},
        {"query": "mug", "product_id": "p0", "clicks": 0},
    ]
    clicks, queries, quarantine = check_clicks(write_jsonl(tmp_path / "c.jsonl", rows))
    assert clicks == [(0, 1, 1, 0, -1), (0, 0, 0, 2, 5)]
    assert queries == {"red shirt": 0}
    assert quarantine.without_click == 1
    assert [(row.row, row.reason, row.key) for row in quarantine.bad] == [(2, "unknown_product", "mug")]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"query": None}, "empty_query"),
        ({"query": " \n"}, "empty_query"),
        ({"query": "x" * 10_001}, "query_too_long"),
        ({"product_id": None}, "missing_id"),
        ({"product_id": "p9"}, "unknown_product"),
        ({"clicks": -1.0}, "bad_number"),
        ({"clicks": float("nan")}, "bad_number"),
        ({"purchases": float("inf")}, "bad_number"),
        ({"purchases": 0.5}, "bad_number"),
        ({"clicks": 2.0**31}, "bad_number"),
        ({"day": -3.0}, "bad_number"),
    ],
)
def test_bad_clicks_are_set_aside(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    row = {"query": "mug", "product_id": "p0", "clicks": 1.0, "purchases": 0.0, "day": 1.0}
    pq.write_table(pa.Table.from_pylist([row, row | changes]), tmp_path / "c.parquet")
    clicks, _, quarantine = check_clicks(tmp_path / "c.parquet")
    assert clicks == [(0, 0, 1, 0, 1)]
    assert [(bad.table, bad.row, bad.reason) for bad in quarantine.bad] == [("interactions", 2, reason)]


def test_queries(tmp_path: Path) -> None:
    rows: list[tuple[Any, ...]] = [
        ("q1", "Red\u0000 shirt", 1),
        ("q1", "other", 2),
        (None, "x", 3),
        ("q2", "", 4),
        ("q3", "x" * 10_001, 5),
    ]
    write_jsonl(tmp_path / "a.jsonl", [dict(zip(("query_id", "query", "extra"), row, strict=True)) for row in rows])
    write_jsonl(tmp_path / "b.jsonl", [{"query_id": 4, "query": "mug", "note": "new"}])
    quarantine = Quarantine()
    table = checked_queries(str(tmp_path / "*.jsonl"), quarantine)
    assert table.to_pylist() == [
        {"query_id": "q1", "query": "Red shirt", "extra": 1, "note": None},
        {"query_id": "4", "query": "mug", "extra": None, "note": "new"},
    ]
    assert [bad.reason for bad in quarantine.bad] == [
        "missing_id",
        "empty_query",
        "query_too_long",
        "duplicate_query_id",
    ]


def test_extra_columns_that_change_type_between_files_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"query_id": "1", "query": "a", "extra": True}])
    write_jsonl(tmp_path / "b.jsonl", [{"query_id": "2", "query": "b", "extra": "text"}])
    with pytest.raises(DataError, match="extra columns differ in type"):
        checked_queries(str(tmp_path / "*.jsonl"), Quarantine())


def test_qrels(tmp_path: Path) -> None:
    rows = [
        ("q1", "p0", 2),
        ("q1", "p0", 2),
        ("q1", "p0", 1),
        ("q9", "p0", 1),
        ("q1", "p9", 1),
        ("q1", "p1", -1),
        ("q1", "p1", None),
        ("", "p1", 1),
        ("q1", "p1", 0),
    ]
    names = ("query_id", "product_id", "relevance")
    write_jsonl(tmp_path / "r.jsonl", [dict(zip(names, row, strict=True)) for row in rows])
    quarantine = Quarantine()
    table = QrelChecker(quarantine, {"p0": 0, "p1": 1}, {"q1"}).qrels(tmp_path / "r.jsonl")
    assert [tuple(row.values()) for row in table.to_pylist()] == [("q1", "p0", 2), ("q1", "p1", 0)]
    assert table.schema.field("relevance").type == pa.int32()
    assert quarantine.merged["qrels"] == 1
    assert sorted((bad.row, bad.reason) for bad in quarantine.bad) == [
        (3, "duplicate_qrel"),
        (4, "unknown_query"),
        (5, "unknown_product"),
        (6, "bad_number"),
        (7, "bad_number"),
        (8, "missing_id"),
    ]
