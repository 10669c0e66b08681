"""A synthetic catalogue: drawn products, sellers' titles, queries and clicks, and the truth about them."""

from __future__ import annotations

from data_pipelines.synthetic.catalogue import Product, products
from data_pipelines.synthetic.spec import SyntheticSpec
from data_pipelines.synthetic.writer import CataloguePaths, write_catalogue

__all__ = ["CataloguePaths", "Product", "SyntheticSpec", "products", "write_catalogue"]
