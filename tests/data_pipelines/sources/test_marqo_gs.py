"""Marqo-GS-10M as CSV files beside pictures, and as Parquet files with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_tables import Converted, picture

from data_pipelines.errors import DataError

SPLITS = {
    "in_domain": ("query_0_product_id_0", ["p1", "p2", "p1"], ["shirt", "shirt", "red shirt"], [1, 100, 40]),
    "novel_query": ("query_1_product_id_0", ["p2", "p3"], ["mug", "mug"], [10, 11]),
    "zero_shot": ("query_1_product_id_1", ["p4"], ["mug"], [2]),
}


def table(split: str, **columns: Any) -> pd.DataFrame:
    _, products, queries, positions = SPLITS[split]
    return pd.DataFrame(
        {
            "query": queries,
            "product_id": products,
            "position": positions,
            "title": [f"Title of {product}" for product in products],
            "pair_id": [f"{query}-{product}" for query, product in zip(queries, products, strict=True)],
            "score_linear": [101 - position for position in positions],
            "score_reciprocal": [1 / position for position in positions],
            "no_score": 1,
            "query_id": [{"shirt": "1", "red shirt": "2", "mug": "3"}[query] for query in queries],
            **columns,
        }
    )


def csv_source(folder: Path, before: str = "") -> Path:
    (folder / "images").mkdir(parents=True)
    for split, (name, products, _, _) in SPLITS.items():
        paths = [f"{before}{product}.webp" for product in products]
        table(split, image_local=paths).to_csv(folder / f"{name}.csv", index=False)
        for product in products:
            (folder / "images" / f"{product}.webp").write_bytes(picture(int(product[1:]), "WEBP"))
    return folder


def parquet_source(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for split, (_, products, _, _) in SPLITS.items():
        images = [{"bytes": picture(int(product[1:]), "WEBP"), "path": None} for product in products]
        made = pa.Table.from_pandas(table(split)).append_column("image", pa.array(images, kind))
        pq.write_table(made, folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize("source", [csv_source, parquet_source])
def test_both_forms_give_the_same_tables(tmp_path: Path, source: Any):
    made = Converted("marqo-gs-10m", source(tmp_path / "in"), tmp_path / "out")
    assert {key: (row["title"], row["image"]) for key, row in made.by_id().items()} == {
        f"p{i}": (f"Title of p{i}", picture(i, "WEBP")) for i in (1, 2, 3, 4)
    }
    assert [tuple(row.values()) for row in made.rows("interactions")] == [
        ("shirt", "p1", 100),
        ("shirt", "p2", 1),
        ("red shirt", "p1", 61),
    ]
    assert made.rows("queries") == [
        {"query_id": "novel_query-3", "query": "mug", "split": "novel_query"},
        {"query_id": "zero_shot-3", "query": "mug", "split": "zero_shot"},
    ]
    assert [tuple(row.values()) for row in made.rows("qrels")] == [
        ("novel_query-3", "p2", 2),
        ("novel_query-3", "p3", 1),
        ("zero_shot-3", "p4", 2),
    ]
    assert made.skipped("key") == []
    products, quarantine = made.checked()
    assert (len(products), quarantine.bad) == (4, [])


def test_pictures_may_have_another_machines_path(tmp_path: Path):
    folder = csv_source(tmp_path / "in", before="/MarqoData/images_wfash/")
    (folder / "images").rename(tmp_path / "images_wfash")
    made = Converted("marqo-gs-10m", folder, tmp_path / "out", images=tmp_path / "images_wfash", split=("zero_shot",))
    assert made.rows("products") == [
        {"product_id": "p4", "title": "Title of p4", "category": None, "image": picture(4, "WEBP")}
    ]


def test_bad_rows_are_listed(tmp_path: Path):
    frame = table("in_domain", image_local=["p1.webp", "p2.webp", None])
    frame["score_linear"] = ["", "high", "0"]
    frame["position"] = [3, 1, None]
    folder = tmp_path / "in"
    folder.mkdir()
    frame.to_csv(folder / "query_0_product_id_0.csv", index=False)
    made = Converted("marqo-gs-10m", folder, tmp_path / "out")
    assert [tuple(row.values()) for row in made.rows("interactions")] == [("shirt", "p1", 98)]
    assert made.skipped("table", "row", "reason") == [("pairs", "2", "bad_number"), ("pairs", "3", "bad_number")]


def test_a_folder_without_the_files_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"holds no file of in_domain, .* such as query_0_product_id_0\.csv"):
        Converted("marqo-gs-10m", tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="--split train is unknown; choose from in_domain"):
        Converted("marqo-gs-10m", tmp_path, tmp_path / "out", split=("train",))
