"""KDD Cup 2020, Multimodalities Recall: queries and detected regions of product pictures, without the pictures.

    FOLDER/train.tsv, FOLDER/valid.tsv      tab-separated, with or without a header: product_id, image_h, image_w,
                                            num_boxes, boxes, features, class_labels, query, query_id
    FOLDER/valid_answer.json                query_id -> list of product ids
    FOLDER/multimodal_labels.txt            category_id, category_name, tab-separated

All may be one folder further down (train/train.tsv, ...). Base64 holds boxes float32[R, 4] as top, left, bottom, right
in pixels, features float32[R, 2048] and class_labels int64[R]. A product gets regions float32[R, 2053]: a region's
features, then x1, y1, x2, y2 as shares of width and height, and its area as a share of the picture. There are no
titles; by default the names of the labels stand in for one. Lines of train become clicks, those of valid queries and
judgements: relevance 2 for the answers, 0 for the other candidates.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.regions import MAX_REGIONS
from data_pipelines.sources.files import chosen, find_all, find_one, text_lines
from data_pipelines.sources.key_table import KeyTable
from data_pipelines.sources.rows import Click, Judgement, Options, Product, Query, Row
from data_pipelines.sources.skipped import Skipped

FEATURES = 2048
SPLITS = ("train", "valid")


class _Line(NamedTuple):
    product_id: str
    image_h: str
    image_w: str
    num_boxes: str
    boxes: str
    features: str
    class_labels: str
    query: str
    query_id: str


def read(folder: Path, options: Options, skipped: Skipped) -> Iterator[Row]:
    """Products with regions, clicks, queries and judgements."""
    splits = chosen(options.split, SPLITS, "--split")
    splits = [split for split in splits if options.split or find_all(folder, f"{split}.tsv")]
    if not splits:
        raise DataError(f"{folder} holds neither train.tsv nor valid.tsv, itself or one folder further down")
    labels = _labels(folder, skipped) if options.titles else {}
    answers = _answers(find_one(folder, "valid_answer.json")) if "valid" in splits else {}
    found: set[tuple[str, str]] = set()
    with KeyTable() as products, KeyTable() as queries:
        for split in splits:
            for line, product in _lines(find_one(folder, f"{split}.tsv"), products, labels, skipped):
                if product:
                    yield product
                if split == "train":
                    yield Click(line.query, line.product_id)
                    continue
                if queries.add(line.query_id):
                    yield Query(line.query_id, line.query)
                relevant = line.product_id in answers.get(line.query_id, ())
                yield Judgement(line.query_id, line.product_id, 2 if relevant else 0)
                if relevant:
                    found.add((line.query_id, line.product_id))
    for query_id, ids in answers.items():
        for product_id in sorted(ids):
            if (query_id, product_id) not in found:
                detail = f"no usable line of valid.tsv holds the answer {product_id}"
                skipped.add("qrels", query_id, "unknown_product", detail)


def _lines(
    path: Path, products: KeyTable, labels: dict[int, str], skipped: Skipped
) -> Iterator[tuple[_Line, Product | None]]:
    """The usable lines, each with its product where that is met for the first time: it has a line for each query."""
    for text in text_lines(path, skipped):
        cells = text.split("\t")
        if not text or cells[0] == "product_id":  # the header
            continue
        try:
            if len(cells) != len(_Line._fields):
                raise ValueError(f"{len(cells)} cells, expected {len(_Line._fields)}")
            line = _Line(*cells)
            product = _product(line, labels) if products.get(line.product_id) is None else None
        except ValueError as error:
            skipped.add("products", cells[0], "bad_row", str(error))
            continue
        products.add(line.product_id)
        yield line, product


def _product(line: _Line, labels: dict[int, str]) -> Product:
    height, width, count = int(line.image_h), int(line.image_w), int(line.num_boxes)
    if height < 1 or width < 1 or not 1 <= count <= MAX_REGIONS:
        raise ValueError(f"{count} regions (1 to {MAX_REGIONS} may be) of a picture of {width}x{height} pixels")
    boxes = _decoded(line.boxes, "<f4", (count, 4), "boxes")
    features = _decoded(line.features, "<f4", (count, FEATURES), "features")
    classes = _decoded(line.class_labels, "<i8", (count,), "class_labels")
    shares = boxes[:, [1, 0, 3, 2]] / np.array([width, height, width, height], np.float32)
    area = (shares[:, 2] - shares[:, 0]) * (shares[:, 3] - shares[:, 1])
    regions = np.concatenate([features, shares, area[:, None]], axis=1, dtype=np.float32)
    if not np.isfinite(regions).all():
        raise ValueError("boxes or features are not finite numbers")
    names = dict.fromkeys(labels[label] for label in classes.tolist() if label in labels)
    return Product(line.product_id, ", ".join(names), regions=regions)


def _decoded(text: str, kind: str, shape: tuple[int, ...], name: str) -> np.ndarray:
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), kind).reshape(shape)
    except ValueError as error:
        raise ValueError(f"{name} is not base64 of {kind}{list(shape)}: {error}") from error


def _labels(folder: Path, skipped: Skipped) -> dict[int, str]:
    rows = (line.split("\t") for line in text_lines(find_one(folder, "multimodal_labels.txt"), skipped))
    return {int(row[0]): row[1].strip() for row in rows if len(row) == 2 and row[0].isdecimal()}


def _answers(path: Path) -> dict[str, set[str]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {query_id: {str(product_id) for product_id in ids} for query_id, ids in found.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path} is not a JSON object of lists of product ids: {error}; copy it again") from error
