"""What a report shows of products: titles, pictures and categories, looked up by id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from data_pipelines.checks import ProductChecker
from data_pipelines.prepared import open_data
from data_pipelines.quarantine import Quarantine


class Shown(NamedTuple):
    """Title ("" if none) and main picture, encoded (b"" if none), of a product."""

    title: str
    image: bytes


class Catalogue(NamedTuple):
    """The category of every product ("" if none), and what to show of those that were asked for."""

    categories: dict[str, str]
    shown: dict[str, Shown]


def from_tables(products: Sequence[str], wanted: Iterable[str]) -> Catalogue:
    """Read product tables; raises DataError where they cannot be read."""
    keep, catalogue = set(wanted), Catalogue({}, {})
    for chunk in ProductChecker(Quarantine()).products(list(products)):
        for product in chunk:
            catalogue.categories[product.product_id] = product.category
            if product.product_id in keep:
                catalogue.shown[product.product_id] = _shown(product.title, product.images)
    return catalogue


def from_prepared(paths: Sequence[str], wanted: Iterable[str]) -> Catalogue:
    """Look products up in the data of a run, to show them only; ids it does not have are left out."""
    keep, catalogue = set(wanted), Catalogue({}, {})
    for path in paths:
        data = open_data(path, checksums=False)
        rows = [row for row, product_id in enumerate(data.product_ids) if product_id in keep]
        shown = {r["product_id"]: _shown(r["title"], r["images"]) for r in data.records(rows)} if rows else {}
        catalogue.categories.update(zip(data.product_ids, data.categories, strict=True))
        catalogue.shown.update(shown)
    return catalogue


def _shown(title: str, images: Sequence[bytes]) -> Shown:
    return Shown(title, images[0] if images else b"")
