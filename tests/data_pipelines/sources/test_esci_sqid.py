"""Amazon ESCI and SQID, in the columns and types of their files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from source_tables import Converted, picture

from data_pipelines.errors import DataError

URL = "https://m.media-amazon.com/images/I/"
PRODUCTS = [
    ("B01", "Red shirt", "us"),
    ("B02", "Blue shirt", "us"),
    ("B03", None, "us"),
    ("B01", "Camisa roja", "es"),
    ("B04", "Charger", "us"),
]
EXAMPLES = [
    (0, "red shirt", 10, "B01", "us", "E", 1, "train"),
    (1, "red shirt", 10, "B02", "us", "S", 1, "train"),
    (2, "camisa", 11, "B01", "es", "E", 1, "train"),
    (3, "blue shirt", 12, "B02", "us", "E", 1, "test"),
    (4, "blue shirt", 12, "B01", "us", "S", 1, "test"),
    (5, "blue shirt", 12, "B04", "us", "C", 1, "test"),
    (6, "shirt", 13, "B04", "us", "I", 0, "test"),
    (7, "shirt", 13, "B02", "us", "?", 0, "test"),
    (8, "", 14, "B02", "us", "E", 0, "train"),
]


def source(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    products = pd.DataFrame(PRODUCTS, columns=["product_id", "product_title", "product_locale"])
    texts = ["product_description", "product_bullet_point", "product_brand", "product_color"]
    products.assign(**dict.fromkeys(texts, "text")).to_parquet(folder / "shopping_queries_dataset_products.parquet")
    names = ["example_id", "query", "query_id", "product_id", "product_locale", "esci_label", "small_version", "split"]
    examples = pd.DataFrame(EXAMPLES, columns=names).assign(large_version=1)
    examples.to_parquet(folder / "shopping_queries_dataset_examples.parquet")
    urls = {"B01": f"{URL}61.jpg", "B02": f"{URL}71+a._AC_SX355_.jpg", "B04": f"{URL}Default_Background_Art_LTR.jpg"}
    pd.DataFrame(urls.items(), columns=["product_id", "image_url"]).to_csv(
        folder / "product_image_urls.csv", index=False
    )
    pd.DataFrame({"product_id": ["B03", "B99"], "image_url": [f"{URL}gone.jpg", None]}).to_parquet(
        folder / "supp_product_image_urls.parquet"
    )
    (folder / "images" / "B01.png").write_bytes(picture(1, "PNG"))
    (folder / "images" / "71+a._AC_SX355_.jpg").write_bytes(picture(2))
    return folder


def test_one_locale_by_default(tmp_path: Path):
    made = Converted("esci-sqid", source(tmp_path / "in"), tmp_path / "out")
    assert {key: (row["title"], row["image"]) for key, row in made.by_id().items()} == {
        "B01": ("Red shirt", picture(1, "PNG")),
        "B02": ("Blue shirt", picture(2)),
        "B04": ("Charger", None),
    }
    assert made.rows("interactions") == [{"query": "red shirt", "product_id": "B01", "clicks": 1}]
    assert made.rows("queries") == [
        {"query_id": "12", "query": "blue shirt", "locale": "us", "version": "small"},
        {"query_id": "13", "query": "shirt", "locale": "us", "version": "large only"},
    ]
    assert [(row["query_id"], row["product_id"], row["relevance"]) for row in made.rows("qrels")] == [
        ("12", "B02", 2),
        ("12", "B01", 1),
        ("12", "B04", 0),
        ("13", "B04", 0),
    ]
    assert made.skipped("table", "row", "key", "reason") == [
        ("pictures", "3", "B03", "image_not_found"),
        ("products", "3", "B03", "no_title_no_image"),
        ("examples", "8", "13", "unknown_label"),
        ("interactions", "9", "", "missing_value"),
    ]
    assert made.summary.prepare_command.split()[4::2] == ["--interactions", "--queries", "--qrels", "--out"]
    products, quarantine = made.checked()
    assert len(products) == 3
    assert quarantine.bad == []


def test_several_locales_keep_their_products_apart(tmp_path: Path):
    made = Converted("esci-sqid", source(tmp_path / "in"), tmp_path / "out", locale=("es", "us"))
    assert list(made.by_id()) == ["us:B01", "us:B02", "es:B01", "us:B04"]
    assert [(row["query"], row["product_id"]) for row in made.rows("interactions")] == [
        ("red shirt", "us:B01"),
        ("camisa", "es:B01"),
    ]
    assert made.rows("qrels")[0]["product_id"] == "us:B02"


def test_splits_and_pictures_may_be_absent(tmp_path: Path):
    folder = source(tmp_path / "in")
    for name in ("product_image_urls.csv", "supp_product_image_urls.parquet"):
        (folder / name).unlink()
    made = Converted("esci-sqid", folder, tmp_path / "out", split=("train",))
    assert made.rows("queries") == made.rows("qrels") == []
    assert [row["image"] for row in made.rows("products")] == [picture(1, "PNG"), None, None]
    assert "--queries" not in made.summary.prepare_command
    with pytest.raises(DataError, match="--locale fr is unknown; choose from us, es, jp"):
        Converted("esci-sqid", folder, tmp_path / "out", locale=("fr",))


def test_a_damaged_file_is_named(tmp_path: Path):
    folder = source(tmp_path / "in")
    path = folder / "shopping_queries_dataset_examples.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"examples\.parquet cannot be read"):
        Converted("esci-sqid", folder, tmp_path / "out")
    path.unlink()
    with pytest.raises(DataError, match=r"must hold one shopping_queries_dataset_examples\.parquet"):
        Converted("esci-sqid", folder, tmp_path / "out")
