"""Every product row is used, merged or set aside, and each reason is given where it is due."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from catalogue_files import huge_png, picture, product, write_products
from hypothesis import given, settings
from hypothesis import strategies as st
from product_rows import check_products, write_lists

from data_pipelines.errors import DataError
from data_pipelines.images import MAX_BYTES
from data_pipelines.keywords import clean_text

BAD_PRODUCTS: dict[str, dict[str, Any]] = {
    "missing_id": {"product_id": " "},
    "no_title_no_image": {"title": " \t", "image": None},
    "title_too_long": {"title": "x" * 10_001},
    "undecodable_image": {"image": b"not a picture"},
    "image_too_small": {"image": picture(size=(3, 50))},
    "image_too_large": {"image": huge_png(100_000, 100_000)},
    "duplicate_product_id": {"product_id": "p1", "title": "another title"},
}


@pytest.mark.parametrize("reason", BAD_PRODUCTS)
def test_bad_products_are_set_aside(tmp_path: Path, reason: str) -> None:
    path = write_products(tmp_path / "p.parquet", [product(1), product(2, **BAD_PRODUCTS[reason]), product(3)])
    clean, quarantine = check_products(path)
    assert [p.product_id for p in clean] == ["p1", "p3"]
    (row,) = quarantine.bad
    assert (row.table, row.file, row.row, row.reason) == ("products", str(path), 2, reason)
    assert row.key == BAD_PRODUCTS[reason].get("product_id", "p2")
    assert row.detail
    assert quarantine.share("products") == pytest.approx(1 / 3)


def test_pictures_named_by_path(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / "a.jpg").write_bytes(picture())
    (tmp_path / "secret.jpg").write_bytes(picture())
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "big.jpg").write_bytes(bytes(MAX_BYTES + 1))
    names = ["pictures/a.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"), "link.jpg", "none.jpg", "big.jpg", "a\0b"]
    lines = ["product_id,title,image_path", *(f"{i},title,{name}" for i, name in enumerate(names)), "7,title,"]
    (folder / "p.csv").write_text("\n".join(lines), encoding="utf-8")
    clean, quarantine = check_products(folder / "p.csv")
    assert [(p.product_id, p.images) for p in clean] == [("0", (picture(),)), ("7", ())]
    assert [row.reason for row in quarantine.bad] == [
        *["image_path_outside"] * 3,
        "image_not_found",
        "image_too_large",
        "image_not_found",
    ]


def test_identical_duplicates_are_merged_even_over_files(tmp_path: Path) -> None:
    write_products(tmp_path / "a.parquet", [product(1), product(2), product(1)])
    spaced = product(2, title=f"  {product(2)['title']}\t")
    write_products(tmp_path / "b.parquet", [spaced, product(2, image=picture(99)), product(3)])
    clean, quarantine = check_products(tmp_path / "?.parquet")
    assert [p.product_id for p in clean] == ["p1", "p2", "p3"]
    assert clean[1].images == (product(2)["image"],)
    assert quarantine.merged["products"] == 2
    assert [(Path(row.file).name, row.row, row.reason) for row in quarantine.bad] == [
        ("b.parquet", 2, "duplicate_product_id")
    ]


def test_a_bad_row_does_not_take_the_id_from_a_sound_one(tmp_path: Path) -> None:
    path = write_products(tmp_path / "p.parquet", [product(1, image=b"broken"), product(1)])
    clean, quarantine = check_products(path)
    assert [(p.product_id, p.images) for p in clean] == [("p1", (product(1)["image"],))]
    assert quarantine.reasons("products") == {"undecodable_image": 1}


def test_further_pictures_that_are_bad_do_not_cost_the_product(tmp_path: Path) -> None:
    a, b, c = picture(1), picture(2), picture(3)
    images = [[a, b"broken", b, huge_png(9_000, 9_000), c], [b"broken", a], [None, b, b""], [a], []]
    rows = [{"product_id": f"p{i}", "image": cell} for i, cell in enumerate(images)]
    path = write_lists(tmp_path / "p.parquet", rows)
    clean, quarantine = check_products(path)
    assert {p.product_id: p.images for p in clean} == {"p0": (a, b, c), "p2": (b,), "p3": (a,), "p4": ()}
    assert [(row.table, row.row, row.key, row.reason) for row in quarantine.bad] == [
        ("further images", 1, "p0", "undecodable_image"),
        ("further images", 1, "p0", "image_too_large"),
        ("products", 2, "p1", "undecodable_image"),
    ]
    assert quarantine.bad[0].detail.startswith("picture 2: ")
    assert quarantine.bad[1].detail.startswith("picture 4: ")
    assert quarantine.read == {"products": 5, "further images": 4}
    assert quarantine.share("further images") == 0.5
    with pytest.raises(DataError, match=r"further images: 50\.0% of 4 rows are bad"):
        quarantine.accept("further images", 0.1, tmp_path / "report.parquet")


def test_sixteen_pictures_of_a_product_are_kept(tmp_path: Path) -> None:
    images = [picture(i) for i in range(18)]
    clean, quarantine = check_products(write_lists(tmp_path / "p.parquet", [{"product_id": "p", "image": images}]))
    assert clean[0].images == tuple(images[:16])
    assert [row.reason for row in quarantine.bad] == ["too_many_images"] * 2


def test_several_pictures_named_by_path(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"{i}.jpg").write_bytes(picture(i))
    (tmp_path / "p.csv").write_text("product_id,image_path\n1,0.jpg||1.jpg|none.jpg\n", encoding="utf-8")
    clean, quarantine = check_products(tmp_path / "p.csv")
    assert clean[0].images == (picture(0), picture(1))
    assert [(row.table, row.reason) for row in quarantine.bad] == [("further images", "image_not_found")]


def test_another_order_of_pictures_is_other_content(tmp_path: Path) -> None:
    a, b = picture(1), picture(2)
    rows = [{"product_id": "1", "image": images} for images in ([a, b], [a, b], [b, a], [a])]
    clean, quarantine = check_products(write_lists(tmp_path / "p.parquet", rows))
    assert len(clean) == 1
    assert quarantine.merged["products"] == 1
    assert [(row.row, row.reason) for row in quarantine.bad] == [
        (3, "duplicate_product_id"),
        (4, "duplicate_product_id"),
    ]


CELLS = st.none() | st.sampled_from(["", " ", "p1", "p2", "x"]) | st.text(max_size=6)
IMAGES = st.sampled_from([None, b"", b"x", picture(), picture()[:80], huge_png(9_000, 9_000)])


@settings(deadline=None)
@given(rows=st.lists(st.fixed_dictionaries({"product_id": CELLS, "title": CELLS, "image": IMAGES}), max_size=12))
def test_every_product_row_is_accounted_for(rows: list[dict[str, Any]], tmp_path_factory: Any) -> None:
    path = write_products(tmp_path_factory.mktemp("fuzz") / "p.parquet", [product(0), *rows])
    clean, quarantine = check_products(path)
    assert len(clean) + len(quarantine.bad) + quarantine.merged["products"] == len(rows) + 1
    assert len({p.product_id for p in clean}) == len(clean)
    for p in clean:
        assert p.product_id
        assert p.title or p.images
        assert p.title == clean_text(p.title)
