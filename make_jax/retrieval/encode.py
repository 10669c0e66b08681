"""From batches to vectors: a model's two encoders, compiled once and driven over any number of batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from make_jax.model import RetrievalModel

Batch = dict[str, np.ndarray]


class EncodedProducts(NamedTuple):
    """product_ids object[n] of str, vectors float32[n, E], weights float32[n, 2] (title, picture), image_weights
    float32[n, I], each picture's share in the pictures' part."""

    product_ids: np.ndarray
    vectors: np.ndarray
    weights: np.ndarray
    image_weights: np.ndarray


class Encoder:
    """A model whose encoders are compiled; parameters are passed in, so that training can share it."""

    def __init__(self, model: RetrievalModel) -> None:
        self._product = jax.jit(model.encode_product)
        self._query = jax.jit(model.encode_query)

    def products(self, params: Any, batches: Iterable[Batch]) -> Iterator[EncodedProducts]:
        """Vectors of product batches, one result a batch, rows that only pad left out.

        The next batch is prepared while the device works on the last one.
        """
        ahead: tuple[Batch, Any] | None = None
        for batch in batches:
            inputs = (batch.get(name) for name in ("image", "has_image", "side_ids"))
            encoded = self._product(params, batch["title_ids"], *inputs)
            if ahead is not None:
                yield _products(*ahead)
            ahead = batch, encoded
        if ahead is not None:
            yield _products(*ahead)

    def all_products(self, params: Any, batches: Iterable[Batch]) -> EncodedProducts:
        """`products`, joined."""
        parts = list(self.products(params, batches))
        return EncodedProducts(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def queries(self, params: Any, batches: Iterable[Batch]) -> np.ndarray:
        """Vectors of query batches, float32[n, E], rows that only pad left out."""
        encoded = [(self._query(params, batch["query_ids"]), batch["valid"]) for batch in batches]
        return np.concatenate([np.asarray(vectors)[valid] for vectors, valid in encoded])


def _products(batch: Batch, encoded: Any) -> EncodedProducts:
    valid = batch["valid"]
    arrays = encoded.vector, encoded.weights, encoded.image_weights
    return EncodedProducts(batch["product_id"][valid], *(np.asarray(array)[valid] for array in arrays))
