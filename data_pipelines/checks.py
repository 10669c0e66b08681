"""Products, row by row: clean, or set aside with a reason. Nothing is dropped without being counted."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from data_pipelines.images import MAX_BYTES, CheckedImage, check_image
from data_pipelines.keywords import clean_text
from data_pipelines.quarantine import Quarantine
from data_pipelines.schema import PRODUCTS, Chunk
from data_pipelines.tables import Pattern, read_table

MAX_TEXT_CHARS = 10_000
_MAX_THREADS = 16  # each may hold one decoded picture, 160 MB at the most

Patterns = Pattern | Sequence[Pattern]


class Product(NamedTuple):
    """A clean product; "" or b"" where it has no title, category or image. The image is JPEG or PNG."""

    product_id: str
    title: str
    category: str
    image: bytes


@dataclass
class ProductChecker:
    """Tells clean products from bad rows, which go to `quarantine`, and remembers the ids it has seen."""

    quarantine: Quarantine
    _seen: dict[str, bytes] = field(default_factory=dict)

    def products(self, patterns: Patterns) -> Iterator[list[Product]]:
        """Reads product tables and yields their clean products, chunk by chunk, in file order.

        Raises:
          DataError: a file cannot be read, or its columns are not those of products.
        """
        with ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_THREADS)) as pool:
            for chunk in read_table(patterns, PRODUCTS):
                self.quarantine.enter(PRODUCTS, chunk)
                yield self._clean(chunk, pool)

    def _clean(self, chunk: Chunk, pool: Executor) -> list[Product]:
        columns = {name: chunk.rows[name].to_pylist() for name in chunk.rows.column_names}
        folder = chunk.file.parent.resolve()
        load = _ImageLoader(folder)
        images = pool.map(load, columns["image"], columns["image_path"])
        clean = []
        rows = zip(columns["product_id"], columns["title"], columns["category"], images, strict=True)
        for position, (product_id, title, category, image) in enumerate(rows):
            product = Product(
                (product_id or "").strip(), clean_text(title or ""), clean_text(category or ""), image.encoded
            )
            problem = _problem(product, image)
            if problem is None and self._is_new(product):
                clean.append(product)
            elif problem is not None or self._seen[product.product_id] != _digest(product):
                reason, detail = problem or (
                    "duplicate_product_id",
                    "an earlier row has this id and other content",
                )
                self.quarantine.add(PRODUCTS, chunk, position, reason, detail)
            else:
                self.quarantine.merged[PRODUCTS.name] += 1
        return clean

    def _is_new(self, product: Product) -> bool:
        if product.product_id in self._seen:
            return False
        self._seen[product.product_id] = _digest(product)
        return True


class _ImageLoader:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, encoded: bytes | None, name: str | None) -> CheckedImage:
        if encoded:
            return check_image(encoded)
        if not name:
            return CheckedImage(b"")
        try:
            path = (self._folder / name).resolve()
            if not path.is_relative_to(self._folder):
                return CheckedImage(b"", "image_path_outside", f"{name!r} leads out of the table's folder")
            size = path.stat().st_size
            if size > MAX_BYTES:
                return CheckedImage(
                    b"", "image_too_large", f"{name!r} has {size} bytes, at most {MAX_BYTES} are allowed"
                )
            return check_image(path.read_bytes())
        except (OSError, ValueError, RuntimeError) as error:  # missing, NUL in the name, a loop of links
            return CheckedImage(b"", "image_not_found", f"{name!r}: {getattr(error, 'strerror', None) or error}")


def _problem(product: Product, image: CheckedImage) -> tuple[str, str] | None:
    if not product.product_id:
        return "missing_id", "product_id is empty"
    if image.reason:
        return image.reason, image.detail
    if not product.title and not product.image:
        return "no_title_no_image", "a product needs a title or an image"
    if len(product.title) > MAX_TEXT_CHARS:
        return "title_too_long", f"{len(product.title)} characters, at most {MAX_TEXT_CHARS} are allowed"
    return None


def _digest(product: Product) -> bytes:
    hasher = hashlib.blake2b(digest_size=16)
    for part in (product.title.encode(), product.category.encode(), product.image):
        hasher.update(len(part).to_bytes(8, "big") + part)
    return hasher.digest()
