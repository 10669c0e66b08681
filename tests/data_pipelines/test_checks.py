"""Every row of every table is used, merged, skipped or set aside, and each reason is given where it is due."""

from __future__ import annotations

import io
import struct
import unicodedata
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalogue_files import picture, product, write_jsonl, write_products
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_pipelines import images
from data_pipelines.checks import Product, ProductChecker
from data_pipelines.errors import DataError
from data_pipelines.images import MAX_BYTES, check_image
from data_pipelines.keywords import clean_text, query_keyword_key, words
from data_pipelines.log_checks import ClickChecker, QrelChecker, checked_queries
from data_pipelines.quarantine import Quarantine


def check_products(path: Path) -> tuple[list[Product], Quarantine]:
    quarantine = Quarantine()
    return [p for chunk in ProductChecker(quarantine).products(path) for p in chunk], quarantine


def huge_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises many pixels."""

    def block(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = block(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + block(b"IDAT", zlib.compress(b"")) + block(b"IEND", b"")


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


def test_a_truncated_picture_is_found_by_decoding_it(tmp_path: Path) -> None:
    whole = picture(size=(64, 64))
    assert check_image(whole).encoded == whole
    assert check_image(whole[: len(whole) // 2]).reason == "undecodable_image"
    png = picture(size=(64, 64), kind="PNG")
    assert check_image(png[: len(png) // 2]).reason == "undecodable_image"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pictures_are_measured_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("decoded")

    for name in ("PngImagePlugin.PngImageFile", "JpegImagePlugin.JpegImageFile"):
        monkeypatch.setattr(f"PIL.{name}.load", never)
    for size in ((7_000, 7_000), (100_000, 1_000), (2**31 - 1, 2**31 - 1)):
        assert check_image(huge_png(*size)).reason == "image_too_large"
    assert check_image(picture(size=(2, 90))).reason == "image_too_small"
    assert check_image(bytes(MAX_BYTES + 1)).reason == "image_too_large"


def test_the_pixel_limit_is_inclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    assert check_image(picture(size=(10, 10))).reason == ""
    assert check_image(picture(size=(10, 11))).reason == "image_too_large"


@pytest.mark.parametrize(("kind", "becomes"), [("WEBP", "JPEG"), ("GIF", "PNG"), ("BMP", "PNG"), ("TIFF", "PNG")])
def test_other_formats_become_jpeg_or_png(kind: str, becomes: str) -> None:
    original = picture(size=(32, 32), kind=kind)
    with Image.open(io.BytesIO(check_image(original).encoded)) as image, Image.open(io.BytesIO(original)) as source:
        assert (image.format, image.mode, image.size) == (becomes, "RGB", (32, 32))
        difference = np.abs(np.asarray(image, float) - np.asarray(source.convert("RGB"), float)).mean()
    assert difference == 0 if becomes == "PNG" else difference < 25  # noise is what JPEG keeps worst


def test_transparency_survives() -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4] = (200, 10, 20, 255)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True)
    with Image.open(io.BytesIO(check_image(buffer.getvalue()).encoded)) as image:
        assert image.format == "PNG"
        alpha = np.asarray(image)[..., 3]
    assert alpha[:, :4].min() == 255
    assert alpha[:, 4:].max() == 0


def test_pictures_are_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    with Image.open(io.BytesIO(check_image(picture(size=(40, 20), exif=exif)).encoded)) as image:
        assert image.size == (20, 40)


@settings(deadline=None)
@given(data=st.binary(max_size=200), cut=st.integers(0, 400), at=st.integers(0, 400))
def test_no_bytes_make_the_picture_check_fail(data: bytes, cut: int, at: int) -> None:
    sound = picture(kind="PNG")
    for candidate in (data, sound[:cut] + data, sound[:at] + data[:4] + sound[at + 4 :]):
        result = check_image(candidate)
        assert bool(result.encoded) != bool(result.reason)


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


def write_lists(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes products with lists of pictures or regions."""
    fields = [("product_id", pa.string()), ("title", pa.string()), ("image", pa.list_(pa.binary()))]
    schema = pa.schema([*fields, ("regions", pa.list_(pa.list_(pa.float64())))])
    pq.write_table(pa.Table.from_pylist([{"title": "shirt", **row} for row in rows], schema), path)
    return path


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


def test_regions_become_a_matrix_of_float16(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(100, 7)).astype(np.float32)
    rows = [{"product_id": "1", "title": None, "regions": values.tolist()}, {"product_id": "2", "regions": []}]
    clean, quarantine = check_products(write_lists(tmp_path / "p.parquet", rows))
    assert quarantine.bad == []
    assert [(p.product_id, p.region_width) for p in clean] == [("1", 7), ("2", 0)]
    found = np.frombuffer(clean[0].regions, np.float16).reshape(-1, 7)
    np.testing.assert_array_equal(found, values.astype(np.float16))
    assert clean[1].regions == b""


BAD_REGIONS: dict[str, dict[str, Any]] = {
    "ragged": {"regions": [[1.0, 2.0], [1.0]]},
    "a missing region": {"regions": [[1.0, 2.0], None]},
    "a missing value": {"regions": [[1.0, None]]},
    "not finite": {"regions": [[1.0, float("inf")]]},
    "not a number": {"regions": [[float("nan"), 1.0]]},
    "beyond float16": {"regions": [[1.0, 70_000.0]]},
    "too many": {"regions": [[1.0, 2.0]] * 101},
    "empty": {"regions": [[], []]},
    "too wide": {"regions": [[0.5] * 8_193]},
    "beside a picture": {"regions": [[1.0, 2.0]], "image": [picture()]},
    "another width": {"regions": [[1.0, 2.0, 3.0]]},
}


@pytest.mark.parametrize("case", BAD_REGIONS)
def test_bad_regions_are_set_aside(tmp_path: Path, case: str) -> None:
    sound = {"product_id": "1", "regions": [[1.0, 2.0]]}
    path = write_lists(tmp_path / "p.parquet", [sound, {"product_id": "2", **BAD_REGIONS[case]}])
    clean, quarantine = check_products(path)
    assert [p.product_id for p in clean] == ["1"]
    assert [(row.row, row.key, row.reason) for row in quarantine.bad] == [(2, "2", "bad_regions")]
    assert quarantine.bad[0].detail


def test_the_first_product_with_regions_decides_their_width(tmp_path: Path) -> None:
    write_lists(tmp_path / "a.parquet", [{"product_id": "0"}, {"product_id": "1", "regions": [[1.0] * 3]}])
    rows = [{"product_id": "2", "regions": [[1.0] * 2]}, {"product_id": "2", "regions": [[1.0] * 3]}]
    write_lists(tmp_path / "b.parquet", rows)
    clean, quarantine = check_products(tmp_path / "?.parquet")
    assert [(p.product_id, p.region_width) for p in clean] == [("0", 0), ("1", 3), ("2", 3)]
    assert [row.detail for row in quarantine.bad] == ["each region has 2 values, those of earlier products have 3"]


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


def test_clean_text() -> None:
    assert clean_text("\ufeff Cafe\u0301\x00 \x07noir\t\n x ") == "Café noir x"
    assert clean_text("کتاب\u200cها 👩\u200d👩") == "کتاب\u200cها 👩\u200d👩"  # joiners carry meaning


@given(st.text())
def test_clean_text_is_stable(text: str) -> None:
    once = clean_text(text)
    assert clean_text(once) == once
    assert "\n" not in once
    assert once == once.strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("T-Shirt, RED!", ["t", "shirt", "red"]),
        ("ﬁne ＡＢＣ Straße", ["fine", "abc", "strasse"]),
        ("红色连衣裙 夏季", ["红色连衣裙", "夏季"]),
        ("लाल कमीज़", ["लाल", "कमीज़"]),
        ("قميص أحمر", ["قميص", "أحمر"]),
        ("iphone_15 4.7", ["iphone", "15", "4", "7"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == [unicodedata.normalize("NFKC", word) for word in expected]


def test_equal_queries_have_equal_keys() -> None:
    assert query_keyword_key("t-shirt red") == query_keyword_key("Red  T-shirt") == query_keyword_key("red red t shirt")
    assert query_keyword_key("red shirt") != query_keyword_key("red shirts")
    assert query_keyword_key("👗") != query_keyword_key("👟")


@given(st.lists(st.text("abÀß红क", min_size=1, max_size=4), min_size=1, max_size=5), st.randoms())
def test_keys_ignore_order_repetition_and_case(parts: list[str], random: Any) -> None:
    shuffled = [*parts, parts[0]]
    random.shuffle(shuffled)
    assert query_keyword_key(" ".join(parts)) == query_keyword_key("  ".join(shuffled))
