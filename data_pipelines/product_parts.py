"""First stage of `prepare`: parts of the product tables are checked side by side, then put together in file order."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_pipelines.checks import Product, check_part
from data_pipelines.identities import Identities
from data_pipelines.parallel import Runner
from data_pipelines.quarantine import Quarantine, read_rows, write_rows
from data_pipelines.schema import BadRow
from data_pipelines.spool import Head, ProductSpool, read_heads, write_part
from data_pipelines.tables import Part


@dataclass
class CheckedProducts:
    """The clean products of a catalogue.

    Attributes:
      index: row in the catalogue of each product id.
      spool: their contents.
      region_width: F, 0 where products have pictures.
      without_title: products that have none.
      without_image: products that have neither pictures nor regions.
      images: pictures of all products together.
      max_images: the most pictures that a product has, at least 1.
      num_bytes: of all titles, pictures and regions together.
    """

    index: dict[str, int] = field(default_factory=dict)
    spool: ProductSpool = field(default_factory=lambda: ProductSpool([], *np.zeros((2, 0), np.int32)))
    region_width: int = 0
    without_title: int = 0
    without_image: int = 0
    images: int = 0
    max_images: int = 1
    num_bytes: int = 0

    def count(self, head: Head) -> None:
        """Adds a product to the totals."""
        self.without_title += not head.has_title
        self.without_image += not (head.num_images or head.region_width)
        self.images += head.num_images
        self.max_images = max(self.max_images, head.num_images)
        self.num_bytes += head.num_bytes


def check_products(
    parts: list[Part], folder: Path, runner: Runner, quarantine: Quarantine, done: Callable[[], object]
) -> CheckedProducts:
    """Checks product tables: bad and repeated rows go to `quarantine`, clean products to files in `folder`.

    Of each product only id and digest are held in memory.

    Args:
      parts: of the tables, in order.
      folder: a new one to fill.
      runner: who checks the parts.
      quarantine: takes what is set aside.
      done: called for each part once it is checked.

    Raises:
      DataError: a file cannot be read, or its columns are not those of products.
    """
    folder.mkdir()
    threads = runner.threads(len(parts))
    tasks = [_Task(part, folder, number, threads) for number, part in enumerate(parts)]
    runner.run(_check, tasks, folder / "notes", done)
    return _put_together(tasks, quarantine)


@dataclass(frozen=True)
class _Task:
    """A part, and where its products and the rows set aside go."""

    part: Part
    folder: Path
    number: int
    threads: int

    @property
    def products(self) -> Path:
        return self.folder / f"{self.number:05}.arrow"

    @property
    def bad(self) -> Path:
        return self.folder / f"{self.number:05}.bad.parquet"


def _check(task: _Task) -> None:
    """Runs in a worker."""
    bad: list[BadRow] = []

    def clean() -> Iterator[tuple[int, Product]]:
        for rows in check_part(task.part, task.threads):
            for row, product, problems in rows:
                bad.extend(problems)
                if product is not None:
                    yield row, product

    write_part(task.products, clean())
    write_rows(bad, task.bad)


def _put_together(tasks: list[_Task], quarantine: Quarantine) -> CheckedProducts:
    identities = Identities(quarantine)
    checked = CheckedProducts()
    parts, positions = array("i"), array("i")
    for task in tasks:
        first_bad = len(quarantine.bad)
        quarantine.take(read_rows(task.bad))
        for position, head in enumerate(read_heads(task.products)):
            quarantine.count_clean(head.num_images)
            if identities.admit(head.product_id, head.digest, head.region_width, str(task.part.file), head.row):
                parts.append(task.number)
                positions.append(position)
                checked.count(head)
        quarantine.bad[first_bad:] = sorted(quarantine.bad[first_bad:], key=lambda row: row.row)
    checked.index, checked.region_width = identities.index, identities.region_width
    rows = (np.array(column, np.int32) for column in (parts, positions))
    checked.spool = ProductSpool([task.products for task in tasks], *rows)
    return checked
