"""How likely each product and each query is to be drawn, which corrects what is learnt for popularity."""

from __future__ import annotations

import numpy as np


def log_draw_shares(keys: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Log of the probability that a draw has each key.

    Args:
      keys: int[pairs], at least 0: a product's row, say.
      weights: float64[pairs], what the probability of each pair is in proportion to; not all 0.

    Returns:
      float32[largest key + 1], -inf where a key is never drawn.
    """
    totals = np.bincount(keys, weights=weights)
    with np.errstate(divide="ignore"):
        return (np.log(totals) - np.log(weights.sum())).astype(np.float32)
