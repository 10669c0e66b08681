"""The layout of "Fashion Product Images", with the rows that trip simple readers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from source_tables import Converted, picture

from data_pipelines.errors import DataError

HEADER = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName"
ROWS = {
    "15970": "Men,Apparel,Topwear,Shirts,Navy Blue,Fall,2011,Casual,Turtle Check Men Navy Blue Shirt",
    "39403": "Men,Apparel,Topwear,Shirts,Blue,Summer,2011,Casual,Mark Taylor Men Striped Blue, Grey & White Shirt",
    "1163": 'Men,Apparel,Topwear,Tshirts,Blue,Summer,2011,Sports,"Nike ""Sahara"" Team India, Jersey"',
    "1164": 'Men,Apparel,Topwear,Tshirts,Blue,,2011,,"Unfinished quote',
    "2000": "Men,Apparel,Topwear,Tshirts,Blue,,,,",
    "2001": "Women,Accessories,Watches,Watches,Silver,Winter,2016,NA,NA",
}


def source(folder: Path, header: str = HEADER, further: str = "") -> Path:
    folder.mkdir(parents=True)
    lines = [header, *(f"{key},{row}" for key, row in ROWS.items())]
    (folder / "styles.csv").write_text("\n".join(lines) + "\n" + further)
    (folder / "images").mkdir()
    for key in ROWS:
        (folder / "images" / f"{key}.jpg").write_bytes(picture(int(key)))
    return folder


def test_products_have_their_names_kinds_and_pictures(tmp_path: Path):
    made = Converted("kaggle-fashion", source(tmp_path / "in" / "myntradataset").parent, tmp_path / "out")
    assert {key: (row["title"], row["category"]) for key, row in made.by_id().items()} == {
        "15970": ("Turtle Check Men Navy Blue Shirt", "Shirts"),
        "39403": ("Mark Taylor Men Striped Blue, Grey & White Shirt", "Shirts"),
        "1163": ('Nike "Sahara" Team India, Jersey', "Tshirts"),
        "1164": ('"Unfinished quote', "Tshirts"),
        "2000": (None, "Tshirts"),
        "2001": (None, "Watches"),
    }
    assert all(row["image"] == picture(int(key)) for key, row in made.by_id().items())
    assert made.skipped("key") == []
    products, quarantine = made.checked()
    assert [product.product_id for product in products] == list(ROWS)
    assert quarantine.bad == []


def test_the_large_set_fills_names_in_from_json(tmp_path: Path):
    folder = source(tmp_path / "in")
    (folder / "styles").mkdir()
    (folder / "styles" / "2000.json").write_text(json.dumps({"data": {"productDisplayName": "Nike Blue Tee"}}))
    (folder / "styles" / "2001.json").write_text("{broken")
    made = Converted("kaggle-fashion", folder, tmp_path / "out").by_id()
    assert (made["2000"]["title"], made["2001"]["title"]) == ("Nike Blue Tee", None)


def test_broken_rows_and_missing_pictures_are_listed(tmp_path: Path):
    folder = source(tmp_path / "in", further="3000,Men,Apparel\n\n2001,Women,Accessories,Watches,Watches,,,,,Cut off")
    (folder / "images" / "1163.jpg").unlink()
    (folder / "images" / "2000.jpg").unlink()
    made = Converted("kaggle-fashion", folder, tmp_path / "out")
    assert made.skipped("table", "row", "key", "reason") == [
        ("pictures", "4", "1163", "image_not_found"),
        ("pictures", "6", "2000", "image_not_found"),
        ("products", "6", "2000", "no_title_no_image"),
        ("products", "8", "3000", "bad_row"),
    ]
    assert made.rows("products")[2]["image"] is None
    assert made.summary.counts["products"] == 6  # the repeated id is left for prepare to judge


def test_a_spreadsheet_may_have_added_columns_without_a_name(tmp_path: Path):
    folder = source(tmp_path / "in", header=HEADER + ",,", further="7,Men,Apparel,Topwear,Tshirts,Blue,,,,Plain,,\n")
    made = Converted("kaggle-fashion", folder, tmp_path / "out").by_id()
    assert made["7"]["title"] == "Plain"
    assert made["39403"]["title"] == "Mark Taylor Men Striped Blue, Grey & White Shirt"


def test_another_table_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"styles\.csv has the columns id, name; it needs id, articleType"):
        Converted("kaggle-fashion", source(tmp_path / "in", header="id,name"), tmp_path / "out")


def test_pictures_may_lie_elsewhere(tmp_path: Path):
    folder = source(tmp_path / "in")
    (folder / "images").rename(tmp_path / "pictures")
    made = Converted("kaggle-fashion", folder, tmp_path / "out", images=tmp_path / "pictures")
    assert made.by_id()["1163"]["image"] == picture(1163)
    without = Converted("kaggle-fashion", folder, tmp_path / "out")
    assert list(without.by_id()) == ["15970", "39403", "1163", "1164"]  # the others have no title either
