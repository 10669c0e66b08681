"""Amazon Berkeley Objects: listings in many languages with several pictures each.

    FOLDER/listings/metadata/listings_0.json.gz ...     a JSON object a line: item_id, item_name, product_type,
                                                        main_image_id, other_image_id
    FOLDER/images/metadata/images.csv.gz                image_id, height, width, path
    FOLDER/images/small/PATH                            the pictures (images/original if --images says so)

Texts are lists of {"language_tag", "value"}: the title is the first in a language that --language prefers, else the
first of all. product_type is the category. The main picture comes first, at most 16 are kept. An item that is listed
in several countries is taken once, from its first listing. There are no queries.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.schema import Column, TableSchema
from data_pipelines.sources.files import PictureFolder, find_all, table_rows, text_lines
from data_pipelines.sources.key_table import KeyTable
from data_pipelines.sources.rows import MAX_IMAGES, Options, Product, Row
from data_pipelines.sources.skipped import Skipped

LANGUAGES = ("en_US", "en")

_IMAGES = TableSchema("pictures", (Column("image_id", "id", required=True), Column("path", "text", required=True)))


def read(folder: Path, options: Options, skipped: Skipped) -> Iterator[Row]:
    """Products."""
    listings = find_all(folder, "listings/metadata/listings_*.json.gz", "listings_*.json.gz")
    if not listings:
        raise DataError(f"{folder} holds no listings/metadata/listings_*.json.gz; unpack abo-listings.tar there")
    pictures = PictureFolder(options.images, folder / "images" / "small", skipped)
    with KeyTable() as paths, KeyTable() as items:
        if pictures.exists:
            for row in table_rows(_images_table(folder), _IMAGES, skipped):
                paths.add(row["image_id"] or "", row["path"] or "")
        for file in listings:
            for line in filter(None, text_lines(file, skipped)):
                try:
                    listing = json.loads(line)
                    item_id = str(listing["item_id"])
                    title = _title(listing.get("item_name"), options.language or LANGUAGES)
                    category = _value(listing.get("product_type"))
                    images = _image_ids(listing)
                except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                    skipped.add("products", "", "bad_row", f"{type(error).__name__}: {error}: {line}")
                    continue
                if not items.add(item_id):
                    skipped.add("products", item_id, "repeated_item", "an earlier listing has this item_id")
                    continue
                found = (_picture(pictures, item_id, image, paths) for image in images[:MAX_IMAGES])
                for image in images[MAX_IMAGES:]:
                    skipped.add("pictures", item_id, "too_many_images", f"{image} is behind {MAX_IMAGES}")
                yield Product(item_id, title, category, [picture for picture in found if picture])


def _images_table(folder: Path) -> Path:
    tables = find_all(folder, "images/metadata/images.csv.gz", "images.csv.gz", "images/metadata/images.csv")
    if not tables:
        raise DataError(f"{folder} holds no images/metadata/images.csv.gz; unpack abo-images-small.tar there")
    return tables[0]


def _title(names: list[dict[str, str]] | None, languages: Sequence[str]) -> str:
    for language in languages:
        for name in names or []:
            tag = name.get("language_tag", "")
            if tag == language or tag.startswith(f"{language}_"):
                return str(name["value"])
    return _value(names)


def _value(texts: list[dict[str, str]] | None) -> str:
    return str(texts[0]["value"]) if texts else ""


def _image_ids(listing: dict[str, Any]) -> list[str]:
    main = listing.get("main_image_id")
    return list(dict.fromkeys(map(str, [*([main] if main else []), *(listing.get("other_image_id") or [])])))


def _picture(pictures: PictureFolder, item_id: str, image_id: str, paths: KeyTable) -> bytes:
    path = paths.get(image_id)
    return pictures.read(item_id, [path or f"{image_id}.jpg"])
