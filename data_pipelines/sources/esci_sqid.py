"""Amazon's Shopping Queries (ESCI), with the pictures that SQID names.

    FOLDER/shopping_queries_dataset_examples.parquet    query_id, query, product_id, product_locale, esci_label, split,
                                                        small_version
    FOLDER/shopping_queries_dataset_products.parquet    product_id, product_title, product_locale
    FOLDER/*product_image_urls.csv or .parquet          SQID: product_id, image_url
    FOLDER/images/                                      the pictures, downloaded by the user: PRODUCT_ID.jpg, or under
                                                        the last part of their URL

All may be one folder further down. Each title of the locales asked for becomes a product. Exact matches of the split
"train" become clicks; the queries of "test" and their judgements are there to evaluate. A label becomes the relevance
that our metrics mean: E(xact) 2, all that was asked for; S(ubstitute) 1, it fails in some respect but would do, so the
right kind; C(omplement), bought beside what was asked for and so of another kind, and I(rrelevant) 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_pipelines.schema import Column, TableSchema
from data_pipelines.sources.files import EXTENSIONS, PictureFolder, chosen, find_all, find_one, table_rows
from data_pipelines.sources.key_table import KeyTable
from data_pipelines.sources.rows import Click, Judgement, Options, Product, Query, Row
from data_pipelines.sources.skipped import Skipped

RELEVANCE = {"E": 2, "S": 1, "C": 0, "I": 0}
LOCALES = ("us", "es", "jp")

_PRODUCTS = TableSchema(
    "products",
    (
        Column("product_id", "id", required=True),
        Column("product_title", "text", required=True),
        Column("product_locale", "text", required=True),
    ),
    chunk_rows=4096,
)
_EXAMPLES = TableSchema(
    "examples",
    (
        Column("query_id", "id", required=True),
        Column("query", "text", required=True),
        Column("product_id", "id", required=True),
        Column("product_locale", "text", required=True),
        Column("esci_label", "text", required=True),
        Column("split", "text", required=True),
        Column("small_version", "number"),
    ),
    chunk_rows=4096,
)
_URLS = TableSchema("pictures", (Column("product_id", "id", required=True), Column("image_url", "text", required=True)))
_NO_PICTURE = "Default_Background_Art"  # what SQID found for products that have none


def read(folder: Path, options: Options, skipped: Skipped) -> Iterator[Row]:
    """Products, clicks, queries and judgements."""
    locales = chosen(options.locale or LOCALES[:1], LOCALES, "--locale")
    splits = chosen(options.split, ("train", "test"), "--split")
    products = find_one(folder, "shopping_queries_dataset_products.parquet")
    examples = find_one(folder, "shopping_queries_dataset_examples.parquet")
    pictures = PictureFolder(options.images, products.parent / "images", skipped)
    with KeyTable() as urls:
        for path in (
            find_all(folder, "*product_image_urls.csv", "*product_image_urls.parquet") if pictures.exists else []
        ):
            for row in table_rows(path, _URLS, skipped):
                if row["image_url"] and _NO_PICTURE not in row["image_url"]:
                    urls.add(row["product_id"] or "", row["image_url"])
        for row in table_rows(products, _PRODUCTS, skipped):
            if row["product_locale"] in locales:
                url = urls.get(row["product_id"] or "")
                names = [f"{row['product_id']}{extension}" for extension in EXTENSIONS]
                names += [url.rpartition("/")[2]] if url else []
                picture = pictures.read(row["product_id"] or "", names, expected=url is not None)
                yield Product(_id(row, locales), row["product_title"] or "", images=[picture] if picture else [])
    yield from _examples(examples, locales, splits, skipped)


def _examples(path: Path, locales: list[str], splits: list[str], skipped: Skipped) -> Iterator[Row]:
    with KeyTable() as queries:
        for row in table_rows(path, _EXAMPLES, skipped):
            if row["product_locale"] not in locales or row["split"] not in splits:
                continue
            query_id, query = row["query_id"] or "", row["query"] or ""
            relevance = RELEVANCE.get((row["esci_label"] or "")[:1].upper())
            if relevance is None:
                skipped.add(
                    "examples", query_id, "unknown_label", f"esci_label is {row['esci_label']!r}, not E, S, C, I"
                )
            elif row["split"] == "test":
                if queries.add(query_id):
                    version = "small" if row["small_version"] else "large only"
                    yield Query(query_id, query, (row["product_locale"], version))
                yield Judgement(query_id, _id(row, locales), relevance)
            elif relevance == RELEVANCE["E"]:
                yield Click(query, _id(row, locales))


def _id(row: dict[str, str | None], locales: list[str]) -> str:
    product_id = row["product_id"] or ""
    return f"{row['product_locale']}:{product_id}" if len(locales) > 1 and product_id else product_id
