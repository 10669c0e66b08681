"""Further queries of the products in a batch: a product costs most of a step, and one query says little of it."""

from __future__ import annotations

import numpy as np

from data_pipelines.hashing import hash_keys, uniform

NONE = -1  # in place of a query where a product has no other
_DRAWS = 1 << 60  # keeps these draws apart from those of hard negatives and of what hides words


class FurtherQueries:
    """The queries of every product, and which of them a step shows beside the one that was drawn with it."""

    def __init__(self, pairs: np.ndarray, products: np.ndarray, weights: np.ndarray, num_products: int) -> None:
        """Groups the pairs by product.

        Args:
          pairs: int64[n], what is to be drawn; any numbers, such as queries.
          products: int[n], the product of each.
          weights: float64[n], how often each is to be drawn, at least 0.
          num_products: N.
        """
        self._by_product = np.argsort(products, kind="stable")
        self._place = np.empty_like(self._by_product)
        self._place[self._by_product] = np.arange(len(products))
        self._pairs = pairs[self._by_product]
        self._ends = np.concatenate([[0.0], np.cumsum(weights[self._by_product])])
        self._starts = np.searchsorted(products[self._by_product], np.arange(num_products + 1))
        self._products = products

    def draw(self, rows: np.ndarray, positions: np.ndarray, seed: int, number: int) -> np.ndarray:
        """Others of the same product, each as often as its weight says and perhaps twice: int64[n, number].

        Args:
          rows: int64[n], rows of the pairs that were drawn, which are not drawn again.
          positions: int64[n], of the draws in the whole order.
          seed: of the order.
          number: K, how many.

        Returns:
          Entries of `pairs`; `NONE` where the product has no other.
        """
        products, places = self._products[rows], self._place[rows]
        first, last = self._starts[products], self._starts[products + 1]
        below, above = self._ends[first], self._ends[last]
        own, after = self._ends[places], self._ends[places + 1]
        chance = uniform(hash_keys(seed, positions[:, None], _DRAWS, np.arange(number)))
        others = (above - below) - (after - own)
        points = below[:, None] + chance * others[:, None]
        points = np.where(points < own[:, None], points, points + (after - own)[:, None])
        found = np.searchsorted(self._ends, points, side="right") - 1
        # Sums of floats may put a point on a border, which is the next one's.
        found = np.clip(found, first[:, None], last[:, None] - 1)
        return np.where((found == places[:, None]) | (others <= 0)[:, None], NONE, self._pairs[found])
