"""Marqo-GS-10M: queries with the first hundred products that a shop search returned, in order.

Either the authors' archive, with a folder of pictures named by --images,

    FOLDER/query_0_product_id_0.csv     in_domain       queries 0 and products 0 are those to train on
    FOLDER/query_1_product_id_0.csv     novel_query
    FOLDER/query_0_product_id_1.csv     novel_document
    FOLDER/query_1_product_id_1.csv     zero_shot

with the columns query, query_id, product_id, position, title, score_linear, image_local; or the copy on Hugging Face,

    FOLDER/data/in_domain-00000-of-00100.parquet, ...   with a column image {bytes, path} in place of image_local

Rows of in_domain become clicks, weighted by score_linear (100 for the first position, 1 for the hundredth). The other
splits become queries and judgements: the first ten positions are taken for relevance 2, the rest for 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.schema import Column, TableSchema
from data_pipelines.sources.files import PictureFolder, chosen, find_all, table_rows
from data_pipelines.sources.key_table import KeyTable
from data_pipelines.sources.rows import Click, Judgement, Options, Product, Query, Row
from data_pipelines.sources.skipped import Skipped

SPLITS = {
    "in_domain": "query_0_product_id_0",
    "novel_query": "query_1_product_id_0",
    "novel_document": "query_0_product_id_1",
    "zero_shot": "query_1_product_id_1",
}
POSITIONS = 100
FIRST_PAGE = 10

_COLUMNS = (
    Column("query", "text", required=True),
    Column("product_id", "id", required=True),
    Column("title", "text", required=True),
    Column("query_id", "id"),
    Column("position", "number"),
    Column("score_linear", "number"),
)
_CSV = TableSchema("pairs", (*_COLUMNS, Column("image_local", "text")), chunk_rows=4096)
_PARQUET = TableSchema("pairs", (*_COLUMNS, Column("image", "pictures")), chunk_rows=64)


def read(folder: Path, options: Options, skipped: Skipped) -> Iterator[Row]:
    """Products, clicks, queries and judgements."""
    splits = chosen(options.split, tuple(SPLITS), "--split")
    files = [(split, path) for split in splits for path in _files(folder, split)]
    if not files:
        raise DataError(
            f"{folder} holds no file of {', '.join(splits)} such as {SPLITS[splits[0]]}.csv or {splits[0]}-*.parquet; "
            "name the folder that does"
        )
    pictures = PictureFolder(options.images, folder / "images", skipped)
    with KeyTable() as products, KeyTable() as queries:
        for split, path in files:
            for row in table_rows(path, _CSV if path.suffix == ".csv" else _PARQUET, skipped):
                if products.add(row["product_id"] or ""):
                    yield Product(row["product_id"] or "", row["title"] or "", images=_images(row, pictures))
                yield from _pair(split, row, queries, skipped)


def _files(folder: Path, split: str) -> list[Path]:
    name = split.replace("_", "[-_]")  # the copies differ
    parquet = (f"{name}*.parquet", f"data/{name}*.parquet", f"{name}/*.parquet")
    return find_all(folder, f"{SPLITS[split]}.csv", f"{name}.csv", *parquet)


def _images(row: dict[str, Any], pictures: PictureFolder) -> list[bytes]:
    if "image" in row:
        return [picture for picture in row["image"] or [] if picture]
    name = row["image_local"]
    # The authors' tools put the path of their own machine before the name.
    picture = pictures.read(row["product_id"] or "", [name, Path(name).name]) if name else b""
    return [picture] if picture else []


def _pair(split: str, row: dict[str, Any], queries: KeyTable, skipped: Skipped) -> Iterator[Row]:
    query, product_id, position = row["query"] or "", row["product_id"] or "", row["position"]
    score = row["score_linear"]
    if score is None and position is not None:
        score = POSITIONS + 1 - position
    if score is None or not 1 <= score <= POSITIONS:
        detail = f"score_linear is {row['score_linear']}, position {position}; one of them must be 1 to {POSITIONS}"
        skipped.add("pairs", query, "bad_number", detail)
    elif split == "in_domain":
        yield Click(query, product_id, int(score))
    else:
        # The same query is judged on other products in another split.
        query_id = f"{split}-{row['query_id'] or query}"
        if queries.add(query_id):
            yield Query(query_id, query, (split,))
        yield Judgement(query_id, product_id, 2 if score > POSITIONS - FIRST_PAGE else 1)
