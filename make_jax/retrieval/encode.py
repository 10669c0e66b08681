"""From batches to vectors: a model's two encoders, compiled once and driven over any number of batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

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
    """A model whose encoders are compiled; parameters are passed in, so that training can share it.

    `split` says how batches are split over the mesh that the parameters lie on, perhaps over several processes, which
    then all see the same batches and get all vectors.
    """

    def __init__(self, model: RetrievalModel, split: NamedSharding | None = None) -> None:
        self._split = split
        whole = NamedSharding(split.mesh, PartitionSpec()) if split else None
        self._product = jax.jit(model.encode_product, out_shardings=whole)
        self._query = jax.jit(model.encode_query, out_shardings=whole)

    def products(self, params: Any, batches: Iterable[Batch]) -> Iterator[EncodedProducts]:
        """Vectors of product batches, one result a batch, rows that only pad left out.

        The next batch is prepared while the device works on the last one.
        """
        ahead: tuple[Batch, Any] | None = None
        for batch in batches:
            inputs = (self._place(batch.get(name)) for name in ("title_ids", "image", "has_image", "side_ids"))
            encoded = self._product(params, *inputs)
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
        encoded = [(self._query(params, self._place(batch["query_ids"])), batch["valid"]) for batch in batches]
        return np.concatenate([np.asarray(vectors)[valid] for vectors, valid in encoded])

    def _place(self, array: np.ndarray | None) -> Any:
        """The rows of a batch where they are to be; those that do not come out even, on every device."""
        if array is None or self._split is None:
            return array
        sharding = self._split
        if len(array) % sharding.num_devices:
            sharding = NamedSharding(sharding.mesh, PartitionSpec())
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _products(batch: Batch, encoded: Any) -> EncodedProducts:
    valid = batch["valid"]
    arrays = encoded.vector, encoded.weights, encoded.image_weights
    return EncodedProducts(batch["product_id"][valid], *(np.asarray(array)[valid] for array in arrays))
