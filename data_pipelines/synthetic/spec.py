"""What synthetic catalogue to make."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from data_pipelines.errors import DataError

_WHOLE = {"products": 1, "dev_queries": 0, "seed": 0}
_SHARES = {
    "chinese_share": 1.0,
    "cold_share": 0.9,
    "careless_share": 0.9,
    "missing_image_share": 1.0,
    "missing_title_share": 1.0,
    "wrong_title_share": 1.0,
    "novel_share": 0.5,
}
_LEAST_SIDE, _MOST_SIDE = 16, 1024


@dataclass(frozen=True)
class SyntheticSpec:
    """A synthetic catalogue; the same spec always gives the same files.

    Attributes:
      products: how many products.
      queries: how many shoppers' queries the click log is drawn from (equal wordings coincide, so it shows
        fewer); None: as many as products.
      dev_queries: how many distinct queries to judge a model on.
      seed: any whole number from 0.
      chinese_share: share of products with a Chinese title; shoppers ask in the language of the listing.
      image_size: width and height of pictures, pixels.
      cold_share: share of products that nobody has clicked.
      careless_share: share of clicks that went to a product regardless of the query.
      missing_image_share, missing_title_share: shares of products without one; none lacks both.
      wrong_title_share: share of products whose title states a wrong value.
      novel_share: share of combinations of attributes never asked for in training.
      clicks_per_product: mean number of clicks, over all products; somewhat fewer are made, as shoppers who
        want what only cold products offer click on nothing.
      popularity_exponent, query_exponent: Zipf exponents of clicks over the products that fit a query, and
        over queries.

    Raises:
      DataError: a value is out of bounds.
    """

    products: int = 2000
    queries: int | None = None
    dev_queries: int = 200
    seed: int = 0
    chinese_share: float = 0.0
    image_size: tuple[int, int] = (64, 80)
    cold_share: float = 0.1
    careless_share: float = 0.03
    missing_image_share: float = 0.02
    missing_title_share: float = 0.01
    wrong_title_share: float = 0.03
    novel_share: float = 0.1
    clicks_per_product: float = 8.0
    popularity_exponent: float = 0.7
    query_exponent: float = 0.6

    def __post_init__(self) -> None:
        for name, least in _WHOLE.items():
            self._check_whole(name, getattr(self, name), least)
        if self.queries is not None:
            self._check_whole("queries", self.queries, 0)
        for name, most in _SHARES.items():
            self._check_between(name, getattr(self, name), 0.0, most)
        self._check_between("popularity_exponent", self.popularity_exponent, 0.0, 0.95)
        self._check_between("query_exponent", self.query_exponent, 0.0, 0.95)
        self._check_between("clicks_per_product", self.clicks_per_product, 0.0, 1000.0)
        missing = self.missing_image_share + self.missing_title_share
        if missing > 1:
            raise DataError(
                f"synthetic catalogue: missing_image_share={self.missing_image_share} and "
                f"missing_title_share={self.missing_title_share} add up to {missing:g}, over 1; "
                "no product may lack both, lower one"
            )
        if len(self.image_size) != 2:
            raise DataError(
                f"synthetic catalogue: image_size={self.image_size} has {len(self.image_size)} numbers, "
                "not 2; give (width, height)"
            )
        for side in self.image_size:
            self._check_whole("image_size", side, _LEAST_SIDE)
            self._check_between("image_size", side, _LEAST_SIDE, _MOST_SIDE)

    @property
    def train_queries(self) -> int:
        """How many training queries are asked."""
        return self.products if self.queries is None else self.queries

    def as_json(self) -> dict[str, object]:
        """Every field as JSON holds it."""
        return dataclasses.asdict(self) | {"image_size": list(self.image_size)}

    @staticmethod
    def _check_whole(name: str, value: object, least: int) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise DataError(f"synthetic catalogue: {name}={value!r} is not a whole number from {least}")
        if value < least:
            raise DataError(f"synthetic catalogue: {name}={value} is below {least}; give {least} or more")

    @staticmethod
    def _check_between(name: str, value: float, least: float, most: float) -> None:
        if not least <= value <= most:
            raise DataError(f"synthetic catalogue: {name}={value} is outside [{least:g}, {most:g}]; keep within")
