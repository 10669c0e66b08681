"""What evaluation wants to know of products besides their vectors: titles, pictures, categories, clicks, by id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from data_pipelines.checks import ProductChecker
from data_pipelines.log_checks import ClickChecker
from data_pipelines.prepared import open_data
from data_pipelines.quarantine import Quarantine


class Shown(NamedTuple):
    """Title ("" if none) and main picture, encoded (b"" if none), of a product."""

    title: str
    image: bytes


@dataclass(frozen=True)
class Catalogue:
    """What is known of products.

    Attributes:
      categories: of every product, "" if none.
      shown: of those that were asked for.
      has_image: of every product.
      has_title: of every product.
      titles: of every product, where they were to be had at little cost.
      clicked: the products that were clicked or bought; None if no click log is known.
    """

    categories: dict[str, str] = field(default_factory=dict)
    shown: dict[str, Shown] = field(default_factory=dict)
    has_image: dict[str, bool] = field(default_factory=dict)
    has_title: dict[str, bool] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    clicked: set[str] | None = None


def from_tables(products: Sequence[str], wanted: Iterable[str]) -> Catalogue:
    """Read product tables; raises DataError where they cannot be read."""
    keep, catalogue = set(wanted), Catalogue()
    for chunk in ProductChecker(Quarantine()).products(list(products)):
        for product in chunk:
            catalogue.categories[product.product_id] = product.category
            catalogue.has_image[product.product_id] = bool(product.images or product.regions)
            catalogue.has_title[product.product_id] = bool(product.title)
            catalogue.titles[product.product_id] = product.title
            if product.product_id in keep:
                catalogue.shown[product.product_id] = _shown(product.title, product.images)
    return catalogue


def from_prepared(paths: Sequence[str], wanted: Iterable[str]) -> Catalogue:
    """Look products up in the data of a run; ids it does not have are left out, and titles are those shown only."""
    keep, catalogue, clicked = set(wanted), Catalogue(), set[str]()
    for path in paths:
        data = open_data(path, checksums=False)
        rows = [row for row, product_id in enumerate(data.product_ids) if product_id in keep]
        shown = {r["product_id"]: _shown(r["title"], r["images"]) for r in data.records(rows)} if rows else {}
        catalogue.categories.update(zip(data.product_ids, data.categories, strict=True))
        if not data.region_width:
            catalogue.has_image.update(zip(data.product_ids, (data.num_images > 0).tolist(), strict=True))
        catalogue.has_title.update(zip(data.product_ids, (data.title_tokens > 0).tolist(), strict=True))
        catalogue.shown.update(shown)
        clicked.update(data.product_ids[np.unique(data.interactions["product_index"])])
    return Catalogue(catalogue.categories, catalogue.shown, catalogue.has_image, catalogue.has_title, {}, clicked)


def clicked_in(interactions: str, product_ids: np.ndarray) -> set[str]:
    """The products, of object[N] of str, that somebody clicked or bought; raises DataError for an unreadable log."""
    checker = ClickChecker(Quarantine(), {product_id: row for row, product_id in enumerate(product_ids)})
    rows = [np.unique(chunk.product_index) for chunk in checker.clicks(interactions)]
    return set(product_ids[np.unique(np.concatenate(rows))]) if rows else set()


def _shown(title: str, images: Sequence[bytes]) -> Shown:
    return Shown(title, images[0] if images else b"")
