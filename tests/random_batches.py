"""Batches for the tests of training, without any data behind them."""

from __future__ import annotations

import numpy as np


class Batches:
    """Random batches of 16 for `experiments/tiny.py` with a vocabulary of 64; they depend on their step only."""

    set_aside, reading = 0, "nowhere"

    def __init__(self, start: int) -> None:
        self.step = start

    def __next__(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(self.step)
        self.step += 1
        return {
            "query_ids": rng.integers(4, 64, (16, 8)).astype(np.int32),
            "title_ids": rng.integers(4, 64, (16, 24)).astype(np.int32),
            "image": rng.integers(0, 255, (16, 1, 32, 32, 3)).astype(np.uint8),
            "has_image": np.ones((16, 1), bool),
            "query_key": np.arange(16, dtype=np.int32),
            "product_key": np.arange(16, dtype=np.int32),
            "product_queries": np.full((16, 2), -1, np.int32),
        }

    def close(self) -> None:
        pass
