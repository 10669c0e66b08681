"""Amazon Berkeley Objects: gzipped listings, a table of pictures, and the pictures."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from source_tables import Converted, picture

from data_pipelines.errors import DataError

NAMES = [
    {"language_tag": "de_DE", "value": "Roter Stuhl"},
    {"language_tag": "en_IN", "value": "Red Chair (IN)"},
    {"language_tag": "en_US", "value": "Red Chair"},
]


def listing(item_id: str, names: list[dict[str, str]] | None = None, **fields: Any) -> dict[str, Any]:
    found = {"item_id": item_id, "product_type": [{"value": "CHAIR"}], "domain_name": "amazon.com", **fields}
    return found | ({"item_name": names} if names else {})


def source(folder: Path, listings: list[Any], pictures: int = 3) -> Path:
    (folder / "listings" / "metadata").mkdir(parents=True)
    for part, name in ((listings[::2], "0"), (listings[1::2], "f")):
        text = "\n".join(item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in part)
        with gzip.open(folder / "listings" / "metadata" / f"listings_{name}.json.gz", "wt", encoding="utf-8") as file:
            file.write(text + "\n")
    (folder / "images" / "metadata").mkdir(parents=True)
    rows = ["image_id,height,width,path"]
    for i in range(pictures):
        (folder / "images" / "small" / f"{i:02}").mkdir(parents=True)
        (folder / "images" / "small" / f"{i:02}" / f"{i:02}ab.jpg").write_bytes(picture(i))
        rows.append(f"img{i},9,12,{i:02}/{i:02}ab.jpg")
    with gzip.open(folder / "images" / "metadata" / "images.csv.gz", "wt") as file:
        file.write("\n".join([*rows, "gone,9,12,xx/xx.jpg"]) + "\n")
    return folder


def test_listings_become_products_with_their_main_picture_first(tmp_path: Path):
    listings = [
        listing("B1", NAMES, main_image_id="img2", other_image_id=["img0", "img2", "img1"]),
        listing("B2", NAMES[:2]),
        listing("B3", NAMES[:1], main_image_id="img1"),
        listing("B4", main_image_id="img0"),
    ]
    made = Converted("abo", source(tmp_path / "in", listings), tmp_path / "out")
    assert made.by_id() == {
        row[0]: dict(zip(("product_id", "title", "category", "image"), row, strict=True))
        for row in (
            ("B1", "Red Chair", "CHAIR", [picture(2), picture(0), picture(1)]),
            ("B3", "Roter Stuhl", "CHAIR", [picture(1)]),
            ("B2", "Red Chair (IN)", "CHAIR", None),
            ("B4", None, "CHAIR", [picture(0)]),
        )
    }
    assert made.skipped("key") == []
    products, quarantine = made.checked()
    assert (len(products), quarantine.bad) == (4, [])
    assert made.summary.counts["interactions"] == 0


def test_languages_are_a_choice(tmp_path: Path):
    folder = source(tmp_path / "in", [listing("B1", NAMES), listing("B2", NAMES[1:])])
    made = Converted("abo", folder, tmp_path / "out", language=("de", "en_IN")).by_id()
    assert (made["B1"]["title"], made["B2"]["title"]) == ("Roter Stuhl", "Red Chair (IN)")


def test_broken_and_repeated_listings_and_missing_pictures_are_listed(tmp_path: Path):
    listings = [
        listing("B1", NAMES, main_image_id="gone", other_image_id=["unknown", "img0"]),
        "{broken",
        listing("B1", NAMES, domain_name="amazon.de"),
        listing("B2", ["no dictionary"]),
        {"item_name": NAMES},
        listing("B3"),
    ]
    made = Converted("abo", source(tmp_path / "in", listings), tmp_path / "out")
    assert made.by_id()["B1"]["image"] == [picture(0)]
    assert sorted(made.skipped("table", "key", "reason")) == [
        ("pictures", "B1", "image_not_found"),
        ("pictures", "B1", "image_not_found"),
        ("products", "", "bad_row"),
        ("products", "", "bad_row"),
        ("products", "", "bad_row"),
        ("products", "B1", "repeated_item"),
        ("products", "B3", "no_title_no_image"),
    ]


def test_sixteen_pictures_are_kept(tmp_path: Path):
    images = [f"img{i}" for i in range(19)]
    folder = source(tmp_path / "in", [listing("B1", NAMES, main_image_id="img0", other_image_id=images)], pictures=19)
    made = Converted("abo", folder, tmp_path / "out")
    assert made.by_id()["B1"]["image"] == [picture(i) for i in range(16)]
    assert made.summary.skipped == {("pictures", "too_many_images"): 3}


def test_missing_and_damaged_files_are_named(tmp_path: Path):
    folder = source(tmp_path / "in", [listing(f"B{i}", NAMES) for i in range(50)])
    path = folder / "listings" / "metadata" / "listings_f.json.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"listings_f\.json\.gz cannot be read"):
        Converted("abo", folder, tmp_path / "out")
    (folder / "images" / "metadata" / "images.csv.gz").unlink()
    with pytest.raises(DataError, match=r"holds no images/metadata/images\.csv\.gz; unpack"):
        Converted("abo", folder, tmp_path / "out")
    with pytest.raises(DataError, match=r"unpack abo-listings\.tar"):
        Converted("abo", folder / "images", tmp_path / "out")
