"""Under which queries each product was clicked: tells a true negative in a batch from another's positive."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from data_pipelines.most_clicked import most_clicked
from data_pipelines.ragged import Ragged, gather_ragged


class ProductQueries:
    """The query keys of every product, most clicked first, in one array with an offset per product.

    Attributes:
      share_truncated: of the products that were ever clicked, the share with more than `max_queries` keys.
    """

    def __init__(
        self,
        interactions: Mapping[str, np.ndarray],
        query_keys: np.ndarray,
        num_products: int,
        max_queries: int,
    ) -> None:
        """Gathers the keys.

        Args:
          interactions: equally long int arrays `query_index`, `product_index`, `clicks`.
          query_keys: int32[queries], equal for equal queries; their clicks are added up.
          num_products: N.
          max_queries: M, how many keys of a product are kept.
        """
        self._width = max_queries
        queries, products, clicks = _clicked(interactions)
        self._keys, counts = most_clicked(products, query_keys[queries], clicks, num_products, max_queries)
        self.share_truncated = float((counts > max_queries).sum() / max(1, (counts > 0).sum()))

    def __getitem__(self, products: np.ndarray) -> np.ndarray:
        """Looks products up: int[B] product indices -> int32[B, M] query keys, padded with -1."""
        return _rows(self._keys, products, self._width, -1)


class ProductWords:
    """The different words of the queries that each product was clicked under, most clicked first.

    Shoppers name what a title hides, such as a colour that the picture shows.
    """

    def __init__(
        self,
        interactions: Mapping[str, np.ndarray],
        query_words: Callable[[np.ndarray], Ragged],
        num_products: int,
        max_words: int,
    ) -> None:
        """Gathers the words.

        Args:
          interactions: equally long int arrays `query_index`, `product_index`, `clicks`.
          query_words: from the different queries that were clicked, ascending, to int32 keys of their words, see
            `word_keys`; those not above 0 are none.
          num_products: N.
          max_words: W, how many words of a product are kept.
        """
        self._width = max_words
        queries, products, clicks = _clicked(interactions)
        different, number = np.unique(queries, return_inverse=True)
        words = query_words(different).take(number)
        there, pair = words.values > 0, np.repeat(np.arange(len(queries)), words.lengths())
        pair = pair[there]
        self._keys, _ = most_clicked(products[pair], words.values[there], clicks[pair], num_products, max_words)

    def __getitem__(self, products: np.ndarray) -> np.ndarray:
        """Looks products up: int[B] product indices -> int32[B, W] keys of words, padded with 0."""
        return _rows(self._keys, products, self._width, 0)


def _clicked(interactions: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    clicked = interactions["clicks"] > 0
    return interactions["query_index"][clicked], interactions["product_index"][clicked], interactions["clicks"][clicked]


def _rows(keys: Ragged, products: np.ndarray, width: int, padding: int) -> np.ndarray:
    return gather_ragged(keys.values, keys.splits[products], keys.splits[products + 1], width, padding)
