"""Under which queries each product was clicked: tells a true negative in a batch from another's positive."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from data_pipelines.ragged import gather_ragged


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
        clicked = interactions["clicks"] > 0
        span = int(query_keys.max(initial=0)) + 1
        pairs, which = np.unique(
            interactions["product_index"][clicked].astype(np.int64) * span
            + query_keys[interactions["query_index"][clicked]],
            return_inverse=True,
        )
        clicks = np.bincount(which, weights=interactions["clicks"][clicked], minlength=len(pairs))
        products, keys = np.divmod(pairs, span)
        order = np.lexsort((keys, -clicks, products))
        counts = np.bincount(products, minlength=num_products)
        starts = np.concatenate([[0], np.cumsum(counts)])
        rank = np.arange(len(pairs)) - starts[products]  # products are sorted, also before `order`
        self._keys = keys[order][rank < max_queries].astype(np.int32)
        self._starts = np.concatenate([[0], np.cumsum(np.minimum(counts, max_queries))])
        self.share_truncated = float((counts > max_queries).sum() / max(1, (counts > 0).sum()))

    def __getitem__(self, products: np.ndarray) -> np.ndarray:
        """Looks products up: int[B] product indices -> int32[B, M] query keys, padded with -1."""
        starts, ends = self._starts[products], self._starts[products + 1]
        return gather_ragged(self._keys, starts, ends, self._width, padding=-1)
