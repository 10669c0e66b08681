"""Products, row by row: clean, or set aside with a reason. Nothing is dropped without being counted."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data_pipelines.identities import Identities
from data_pipelines.images import MAX_BYTES, CheckedImage, check_image
from data_pipelines.keywords import clean_text
from data_pipelines.quarantine import FURTHER_IMAGES, Quarantine
from data_pipelines.regions import REASON as BAD_REGIONS
from data_pipelines.regions import CheckedRegions, check_regions
from data_pipelines.schema import PRODUCTS, ROW, BadRow, Chunk
from data_pipelines.tables import Part, Pattern, match_files, read_part

MAX_TEXT_CHARS = 10_000
MAX_IMAGES = 16
_MAX_THREADS = 16  # each may hold one decoded picture, 160 MB at the most

Patterns = Pattern | Sequence[Pattern]


class Product(NamedTuple):
    """A clean product.

    Attributes:
      product_id: not empty.
      title: "" for none.
      category: "" for none.
      images: encoded pictures, JPEG or PNG, the main one first; at most 16.
      regions: pre-computed features in place of pictures: a float16 matrix [R, F] in C order; b"" for none.
      region_width: F, 0 for none.
    """

    product_id: str
    title: str
    category: str
    images: tuple[bytes, ...]
    regions: bytes
    region_width: int

    def digest(self) -> bytes:
        """16 bytes that tell other content under the same id."""
        hasher = hashlib.blake2b(digest_size=16)
        for part in (self.title.encode(), self.category.encode(), self.regions, *self.images):
            hasher.update(len(part).to_bytes(8, "big") + part)
        return hasher.digest()


class CheckedRow(NamedTuple):
    """A row of a product table.

    Attributes:
      row: its number in the file, 1 = first.
      product: what it holds, None if it was set aside.
      bad: why the row, or some of its further pictures, were set aside.
    """

    row: int
    product: Product | None
    bad: list[BadRow]


def check_part(part: Part, threads: int) -> Iterator[list[CheckedRow]]:
    """Reads and checks part of a product table, chunk by chunk, each on its own: repeated ids are not looked for.

    Args:
      part: what to read.
      threads: how many pictures are decoded at once.

    Raises:
      DataError: the file cannot be read, or its columns are not those of products.
    """
    with ThreadPoolExecutor(min(threads, _MAX_THREADS)) as pool:
        for chunk in read_part(part, PRODUCTS):
            unreadable = [CheckedRow(row.row, None, [row]) for row in chunk.bad]
            yield sorted([*unreadable, *_check_chunk(chunk, pool)], key=lambda checked: checked.row)


@dataclass
class ProductChecker:
    """Reads product tables in this process; bad and repeated rows go to `quarantine`."""

    quarantine: Quarantine

    def products(self, patterns: Patterns) -> Iterator[list[Product]]:
        """Yields the clean products, chunk by chunk, in file order.

        Raises:
          DataError: a file cannot be read, or its columns are not those of products.
        """
        identities = Identities(self.quarantine)
        for file in match_files(patterns, PRODUCTS):
            for rows in check_part(Part(file), os.cpu_count() or 1):
                clean = []
                for row, product, bad in rows:
                    self.quarantine.take(bad)
                    if product is None:
                        continue
                    self.quarantine.count_clean(len(product.images))
                    if identities.admit(product.product_id, product.digest(), product.region_width, str(file), row):
                        clean.append(product)
                yield clean


def _check_chunk(chunk: Chunk, pool: Executor) -> Iterator[CheckedRow]:
    rows = chunk.rows
    load = _PictureLoader(chunk.file.parent.resolve())
    pictures = pool.map(load, rows["image"].to_pylist(), rows["image_path"].to_pylist())
    texts = (rows[name].to_pylist() for name in ("product_id", "title", "category"))
    columns = (rows[ROW].to_pylist(), *texts, pictures, map(check_regions, rows["regions"]))
    return (_check_row(str(chunk.file), *values) for values in zip(*columns, strict=True))


class _PictureLoader:
    """Loads and checks the pictures of a row: all up to a bad main one, 16 at the most."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, encoded: list[bytes | None] | None, names: list[str | None] | None) -> list[CheckedImage]:
        sources: list[bytes | str] = [picture for picture in encoded or [] if picture]
        sources = sources or [name for name in names or [] if name]
        checked: list[CheckedImage] = []
        for number, source in enumerate(sources, start=1):
            if number > MAX_IMAGES:
                checked.append(CheckedImage(b"", "too_many_images", f"at most {MAX_IMAGES} of a product are used"))
            else:
                checked.append(check_image(source) if isinstance(source, bytes) else self._read(source))
            if checked[0].reason:
                break
        return checked

    def _read(self, name: str) -> CheckedImage:
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


def _check_row(
    file: str,
    row: int,
    product_id: str | None,
    title: str | None,
    category: str | None,
    pictures: list[CheckedImage],
    regions: CheckedRegions,
) -> CheckedRow:
    key = (product_id or "")[:200]
    images = tuple(picture.encoded for picture in pictures if not picture.reason)
    product = Product(
        (product_id or "").strip(),
        clean_text(title or ""),
        clean_text(category or ""),
        images,
        regions.encoded,
        regions.width,
    )
    if problem := _problem(product, pictures, regions):
        return CheckedRow(row, None, [BadRow(PRODUCTS.name, file, row, key, *problem)])
    bad = [
        BadRow(FURTHER_IMAGES, file, row, key, picture.reason, f"picture {number}: {picture.detail}")
        for number, picture in enumerate(pictures, start=1)
        if picture.reason
    ]
    return CheckedRow(row, product, bad)


def _problem(product: Product, pictures: list[CheckedImage], regions: CheckedRegions) -> tuple[str, str] | None:
    if not product.product_id:
        return "missing_id", "product_id is empty"
    if pictures and pictures[0].reason:
        return pictures[0].reason, pictures[0].detail
    if regions.detail:
        return BAD_REGIONS, regions.detail
    if regions.width and pictures:
        return BAD_REGIONS, "there are pictures beside the regions; a product has either"
    if not product.title and not product.images and not product.regions:
        return "no_title_no_image", "a product needs a title or an image"
    if len(product.title) > MAX_TEXT_CHARS:
        return "title_too_long", f"{len(product.title)} characters, at most {MAX_TEXT_CHARS} are allowed"
    return None
