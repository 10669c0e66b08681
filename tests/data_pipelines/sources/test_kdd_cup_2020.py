"""The files of the Multimodalities Recall track: base64 of arrays in tab-separated lines."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from source_tables import Converted

from data_pipelines.errors import DataError

HEADER = "product_id\timage_h\timage_w\tnum_boxes\tboxes\tfeatures\tclass_labels\tquery\tquery_id"
LABELS = "category_id\tcategory_name\n0\tothers\n5\thuman face\n28\tbag, luggage\n"
BOXES = np.array([[10, 20, 60, 120], [0, 0, 100, 200], [50, 100, 100, 200]], np.float32)  # top, left, bottom, right


def features(product: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(product).random((count, 2048), np.float32)


def encoded(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def line(product: int, query: str, query_id: int, **changes: str) -> str:
    cells = {
        "product_id": str(product),
        "image_h": "100",
        "image_w": "200",
        "num_boxes": "3",
        "boxes": encoded(BOXES),
        "features": encoded(features(product)),
        "class_labels": encoded(np.array([28, 5, 28], np.int64)),
        "query": query,
        "query_id": str(query_id),
    }
    return "\t".join((cells | changes).values())


def source(folder: Path, train: list[str], valid: list[str] = (), answers: dict[str, list[int]] | None = None) -> Path:
    for name in ("train", "valid"):
        (folder / name).mkdir(parents=True)
    (folder / "train" / "train.tsv").write_text("\n".join([HEADER, *train]) + "\n")
    (folder / "valid" / "valid.tsv").write_text("\n".join(valid))  # as cut by hand: no header, no last line end
    (folder / "valid" / "valid_answer.json").write_text(json.dumps(answers or {}))
    (folder / "multimodal_labels.txt").write_text(LABELS)
    return folder


def test_products_have_regions_and_appear_once(tmp_path: Path):
    train = [line(1, "leopard bag", 100), line(2, "bag", 101), line(1, "bag", 101)]
    valid = [line(2, "shoes", 7), line(3, "shoes", 7), line(3, "a 'quoted\" query", 8)]
    made = Converted("kdd-cup-2020", source(tmp_path / "in", train, valid, {"7": [3], "8": [3]}), tmp_path / "out")
    products = made.by_id()
    assert list(products) == ["1", "2", "3"]
    for key, row in products.items():
        regions = np.array(row["regions"], np.float32)
        np.testing.assert_array_equal(regions[:, :2048], features(int(key)))
        expected = [[0.1, 0.1, 0.6, 0.6, 0.25], [0, 0, 1, 1, 1], [0.5, 0.5, 1, 1, 0.25]]
        np.testing.assert_allclose(regions[:, 2048:], expected, atol=1e-6)
        assert row["title"] == "bag, luggage, human face"
    assert [(row["query"], row["product_id"]) for row in made.rows("interactions")] == [
        ("leopard bag", "1"),
        ("bag", "2"),
        ("bag", "1"),
    ]
    assert made.rows("queries") == [
        {"query_id": "7", "query": "shoes"},
        {"query_id": "8", "query": "a 'quoted\" query"},
    ]
    assert [tuple(row.values()) for row in made.rows("qrels")] == [("7", "2", 0), ("7", "3", 2), ("8", "3", 2)]
    assert made.skipped("key") == []
    products, quarantine = made.checked()
    assert (len(products), quarantine.bad) == (3, [])


def test_regions_are_asymmetric_in_height_and_width(tmp_path: Path):
    box = np.array([[10, 40, 50, 60]], np.float32)
    one = {
        "num_boxes": "1",
        "boxes": encoded(box),
        "features": encoded(features(1, 1)),
        "class_labels": encoded(np.array([99], np.int64)),
    }
    made = Converted("kdd-cup-2020", source(tmp_path / "in", [line(1, "bag", 1, **one)]), tmp_path / "out")
    [row] = made.rows("products")
    np.testing.assert_allclose(row["regions"][0][2048:], [0.2, 0.1, 0.3, 0.5, 0.04], atol=1e-6)
    assert row["title"] is None


def test_broken_lines_are_listed_and_the_others_kept(tmp_path: Path):
    train = [
        line(1, "bag", 1),
        line(2, "bag", 1, features="AAAA"),
        line(3, "bag", 1, boxes="no base64!"),
        line(4, "bag", 1, num_boxes="0"),
        line(5, "bag", 1, image_h="tall"),
        line(6, "bag", 1, features=encoded(np.full((3, 2048), np.nan, np.float32))),
        line(7, "bag", 1)[:-400],
        line(8, "bag", 1),
    ]
    train[6] = train[6].rpartition("\t")[0]
    answers = {"7": [8, 99]}
    made = Converted("kdd-cup-2020", source(tmp_path / "in", train, [line(8, "mug", 7)], answers), tmp_path / "out")
    assert list(made.by_id()) == ["1", "8"]
    assert [row["product_id"] for row in made.rows("interactions")] == ["1", "8"]
    assert made.skipped("table", "row", "key", "reason") == [
        *(("products", str(i + 1), str(i), "bad_row") for i in range(2, 8)),
        ("qrels", "1", "7", "unknown_product"),
    ]


def test_splits_and_titles_are_a_choice(tmp_path: Path):
    folder = source(tmp_path / "in", [line(1, "bag", 1)], [line(2, "mug", 7)], {"7": [2]})
    (folder / "multimodal_labels.txt").unlink()
    (folder / "valid" / "valid_answer.json").unlink()
    made = Converted("kdd-cup-2020", folder, tmp_path / "out", split=("train",), titles=False)
    assert [(row["product_id"], row["title"]) for row in made.rows("products")] == [("1", None)]
    with pytest.raises(DataError, match=r"must hold one multimodal_labels\.txt"):
        Converted("kdd-cup-2020", folder, tmp_path / "out")
    with pytest.raises(DataError, match=r"must hold one valid_answer\.json"):
        Converted("kdd-cup-2020", folder, tmp_path / "out", titles=False)


def test_the_answers_must_be_lists(tmp_path: Path):
    folder = source(tmp_path / "in", [line(1, "bag", 1)])
    (folder / "valid" / "valid_answer.json").write_text('{"7": 3}')
    with pytest.raises(DataError, match=r"valid_answer\.json is not a JSON object of lists"):
        Converted("kdd-cup-2020", folder, tmp_path / "out")
