"""Converting in general: row groups, parts, the folder, the options, the command line."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from source_tables import Converted, picture

from data_pipelines.errors import DataError
from data_pipelines.sources import SOURCES, Source, writer
from data_pipelines.sources.convert import convert
from data_pipelines.sources.files import MAX_LINE_CHARS, PictureFolder, find_one, text_lines
from data_pipelines.sources.key_table import KeyTable
from data_pipelines.sources.rows import Click, Judgement, Options, Product, Query, Row
from data_pipelines.sources.skipped import Skipped
from data_pipelines.sources.writer import TablesWriter
from make_jax.cli import main

PLAIN = Source("test", "test", "image", segments=("season",))
SEVERAL = Source("test", "test", "images")
REGIONS = Source("test", "test", "regions")


def write(root: Path, source: Source, rows: Iterator[Row] | list[Row]) -> TablesWriter:
    with Skipped(root / "skipped.csv") as skipped, TablesWriter(root, source, skipped) as tables:
        for row in rows:
            tables.write(row)
    return tables


def fashion(folder: Path, count: int = 3) -> Path:
    """A small source of the simplest kind."""
    (folder / "images").mkdir(parents=True)
    lines = ["id,articleType,productDisplayName", *(f"{i},Shirts,Shirt no {i}" for i in range(count))]
    (folder / "styles.csv").write_text("\n".join(lines) + "\n")
    for i in range(count):
        (folder / "images" / f"{i}.jpg").write_bytes(picture(i))
    return folder


def test_rows_of_all_kinds_come_back(tmp_path: Path):
    rows: list[Row] = [
        Product("a", "Red shirt", "Shirts", [b"jpeg"]),
        Click("red shirt", "a", 3),
        Product("b", images=[b"png"]),
        Query("q1", "shirt", ("summer",)),
        Judgement("q1", "a", 2),
        Product("c", "Blue shirt"),
    ]
    write(tmp_path, PLAIN, rows)
    assert pq.read_table(tmp_path / "products-00000.parquet").to_pylist() == [
        {"product_id": "a", "title": "Red shirt", "category": "Shirts", "image": b"jpeg"},
        {"product_id": "b", "title": None, "category": None, "image": b"png"},
        {"product_id": "c", "title": "Blue shirt", "category": None, "image": None},
    ]
    assert pq.read_table(tmp_path / "interactions.parquet").to_pylist() == [
        {"query": "red shirt", "product_id": "a", "clicks": 3}
    ]
    assert pq.read_table(tmp_path / "queries.parquet").to_pylist() == [
        {"query_id": "q1", "query": "shirt", "season": "summer"}
    ]
    assert pq.read_table(tmp_path / "qrels.parquet").to_pylist() == [
        {"query_id": "q1", "product_id": "a", "relevance": 2}
    ]
    assert not (tmp_path / "skipped.csv").exists()


def test_tables_without_rows_are_not_made(tmp_path: Path):
    write(tmp_path, SEVERAL, [Product("a", "Red shirt", images=[b"1", b"2"])])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["products-00000.parquet"]
    assert pq.read_table(tmp_path / "products-00000.parquet")["image"].to_pylist() == [[b"1", b"2"]]


@pytest.mark.parametrize(
    ("row", "table", "reason"),
    [
        (Product(" ", "Red shirt"), "products", "missing_id"),
        (Product("a", " "), "products", "no_title_no_image"),
        (Product("a", "\udcff shirt"), "products", "not_utf8"),
        (Click("", "a"), "interactions", "missing_value"),
        (Click("\ud800", "a"), "interactions", "not_utf8"),
        (Query("q", "  "), "queries", "missing_value"),
        (Judgement("q", "", 1), "qrels", "missing_value"),
    ],
)
def test_rows_that_no_table_can_hold_are_listed(tmp_path: Path, row: Row, table: str, reason: str):
    with Skipped(tmp_path / "skipped.csv") as skipped, TablesWriter(tmp_path, SEVERAL, skipped) as tables:
        skipped.at(tmp_path / "there.csv", 7)
        tables.write(row)
        assert skipped.counts == {(table, reason): 1}
        assert all(written.rows == 0 for written in tables.tables.values())
    line = (tmp_path / "skipped.csv").read_text().splitlines()[1]
    assert line.startswith(f"{table},{tmp_path / 'there.csv'},7,")
    assert [path.name for path in tmp_path.iterdir()] == ["skipped.csv"]


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=12), width=st.integers(1, 4))
def test_regions_keep_their_shape(tmp_path_factory: pytest.TempPathFactory, counts: list[int], width: int):
    root = tmp_path_factory.mktemp("regions")
    rng = np.random.default_rng(0)
    regions = [rng.normal(size=(count, width)).astype(np.float32) for count in counts]
    write(root, REGIONS, [Product(f"p{i}", regions=values) for i, values in enumerate(regions)])
    assert pq.read_table(root / "products-00000.parquet")["regions"].to_pylist() == [r.tolist() for r in regions]


def test_memory_is_bounded_whatever_the_number_of_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    held: list[tuple[int, int]] = []
    groups: list[int] = []

    class Spy(writer.Table):
        def add(self, cells: Any, size: int) -> None:
            super().add(cells, size)
            held.append((len(self._held), self._held_bytes))

        def _write_group(self) -> None:
            groups.append(len(self._held))
            super()._write_group()

    monkeypatch.setattr(writer, "Table", Spy)
    write(tmp_path, PLAIN, (Product(f"p{i}", "x" * 1000) for i in range(1000)))
    assert groups == [256, 256, 256, 232]
    assert max(rows for rows, _ in held) < 256
    held.clear()
    groups.clear()
    monkeypatch.setattr(writer, "GROUP_BYTES", 10_000)
    write(tmp_path, PLAIN, (Product(f"p{i}", images=[b"x" * 3000]) for i in range(100)))
    assert set(groups) == {4}
    assert max(size for _, size in held) < 10_000


def test_products_are_split_into_parts_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writer, "GROUP_BYTES", 10_000)
    monkeypatch.setattr(writer, "PART_BYTES", 30_000)
    write(tmp_path, PLAIN, (Product(f"p{i:03}", images=[b"x" * 1000]) for i in range(100)))
    parts = [pq.read_metadata(path) for path in sorted(tmp_path.glob("products-*.parquet"))]
    assert [part.num_rows for part in parts] == [30, 30, 30, 10]
    assert [part.num_row_groups for part in parts] == [3, 3, 3, 1]
    ids = pq.ParquetDataset(sorted(map(str, tmp_path.glob("products-*.parquet")))).read(["product_id"])
    assert ids["product_id"].to_pylist() == [f"p{i:03}" for i in range(100)]


def test_tables_can_be_made_again_but_nothing_else_is_replaced(tmp_path: Path):
    source, out = fashion(tmp_path / "source"), tmp_path / "tables"
    first = Converted("kaggle-fashion", source, out)
    (source / "images" / "1.jpg").unlink()
    assert Converted("kaggle-fashion", source, out).summary.skipped == {("pictures", "image_not_found"): 1}
    assert first.summary.counts == {"products": 3, "interactions": 0, "queries": 0, "qrels": 0}
    (out / "mine.txt").write_text("keep me")
    with pytest.raises(DataError, match=r"tables holds mine\.txt, which its manifest\.json does not list"):
        Converted("kaggle-fashion", source, out)
    (out / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match=r"has no manifest\.json of kind 'make_jax-tables'"):
        Converted("kaggle-fashion", source, out)
    assert (out / "mine.txt").read_text() == "keep me"


def test_a_failure_leaves_nothing_behind(tmp_path: Path):
    source = fashion(tmp_path / "source")
    (source / "styles.csv").write_text("id,articleType,productDisplayName\n1,Shirts\n")
    with pytest.raises(DataError, match=r"no product that can be used as kaggle-fashion \(1 products: bad_row\)"):
        Converted("kaggle-fashion", source, tmp_path / "tables")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_options_that_a_source_does_not_take_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="kaggle-fashion takes no option about locale, only --images"):
        convert("kaggle-fashion", tmp_path, tmp_path / "out", Options(locale=("us",)))
    with pytest.raises(DataError, match="absent is not a folder"):
        convert("kaggle-fashion", tmp_path / "absent", tmp_path / "out", Options())


def test_every_source_has_a_reader_and_says_what_it_reads():
    for source in SOURCES.values():
        with pytest.raises(DataError, match="/nowhere"):
            list(source.rows(Path("/nowhere"), Options(), Skipped(Path("unused"))))
        assert set(source.options) <= set(Options.__dataclass_fields__)


def test_the_command_line_ends_with_the_command_to_go_on(tmp_path: Path):
    source, out = fashion(tmp_path / "my source"), tmp_path / "my tables"
    result = CliRunner().invoke(main, ["convert", "kaggle-fashion", str(source), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "3 products from kaggle-fashion" in result.output
    command = shlex.split(result.output.splitlines()[-1])
    assert command == ["make-jax", "prepare", "--products", str(out / "products-*.parquet"), "--out", "data"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["counts"]["products"] == 3
    assert set(manifest["files"]) == {"products-00000.parquet"}
    result = CliRunner().invoke(main, ["convert", "abo", str(source), "--out", str(out), "--no-titles"])
    assert result.exit_code == 2
    assert "abo takes no option about titles" in result.output


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4))))
def test_a_key_table_is_a_dictionary_that_keeps_the_first(pairs: list[tuple[str, str]]):
    expected: dict[str, str] = {}
    with KeyTable() as table:
        for key, text in pairs:
            assert table.add(key, text) == (key not in expected)
            expected.setdefault(key, text)
        assert {key: table.get(key) for key in expected} == expected
        assert table.get("longer than any") is None


def test_a_key_table_takes_text_that_is_not_utf8():
    with KeyTable() as table:
        assert table.add("\udcff", "\ud800")
        assert table.get("\udcff") == "\ud800"


def test_one_file_must_be_found(tmp_path: Path):
    with pytest.raises(DataError, match="there is none"):
        find_one(tmp_path, "a.csv")
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.csv").touch()
    with pytest.raises(DataError, match="there are 2"):
        find_one(tmp_path, "a.csv")
    (tmp_path / "a.csv").touch()
    assert find_one(tmp_path, "a.csv") == tmp_path / "a.csv"


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path):
    with (tmp_path / "long.txt").open("wb") as file:
        os.truncate(file.fileno(), MAX_LINE_CHARS + 1)
    with pytest.raises(DataError, match=r"long\.txt: line 1 has more than"):
        list(text_lines(tmp_path / "long.txt", Skipped(tmp_path / "skipped.csv")))


def test_pictures_are_read_from_within_their_folder_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (folder / "a.jpg").write_bytes(b"a")
    (folder / "large.jpg").write_bytes(b"x" * 11)
    monkeypatch.setattr("data_pipelines.sources.files.MAX_BYTES", 10)
    with Skipped(tmp_path / "skipped.csv") as skipped:
        pictures = PictureFolder(folder, tmp_path / "usual", skipped)
        assert pictures.read("p", ["b.jpg", "a.jpg"]) == b"a"
        assert pictures.read("p", [str(tmp_path / "secret.jpg"), "../secret.jpg", "nul\0.jpg"]) == b""
        assert pictures.read("p", ["large.jpg", "a.jpg"]) == b""
        assert pictures.read("p", ["absent.jpg"], expected=False) == b""
        assert skipped.counts == {("pictures", "image_not_found"): 1, ("pictures", "image_too_large"): 1}
    with pytest.raises(DataError, match="nowhere is not a folder"):
        PictureFolder(tmp_path / "nowhere", folder, skipped)
