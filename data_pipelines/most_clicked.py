"""What products were clicked for, of each the most clicked first."""

from __future__ import annotations

import numpy as np

from data_pipelines.ragged import Ragged


def most_clicked(
    products: np.ndarray, keys: np.ndarray, clicks: np.ndarray, num_products: int, most: int
) -> tuple[Ragged, np.ndarray]:
    """The different keys of each product by the sum of their clicks, equal sums by key.

    Args:
      products, keys, clicks: int[n], n entries; keys from 0 to below 2^31.
      num_products: N.
      most: how many keys of a product are kept.

    Returns:
      N sequences of int32 keys, and int64[N], how many each product had.
    """
    span = np.int64(1) << 31
    pairs, which = np.unique(products.astype(np.int64) * span + keys, return_inverse=True)
    sums = np.bincount(which, weights=clicks, minlength=len(pairs))
    products, keys = np.divmod(pairs, span)
    order = np.lexsort((keys, -sums, products))
    counts = np.bincount(products, minlength=num_products)
    starts = np.concatenate([[0], np.cumsum(counts)])
    rank = np.arange(len(pairs)) - starts[products]  # products are sorted, also before `order`
    kept = np.concatenate([[0], np.cumsum(np.minimum(counts, most))])
    return Ragged(keys[order][rank < most].astype(np.int32), kept), counts
