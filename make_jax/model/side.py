"""Learned vectors of what a product is - its id, its category - joined to the vector of what is seen of it.

In the recall stage of MAKE's predecessor ID embeddings of product, shop and category may join the pre-trained vectors
after a projection; how is our own decision. The tables are hashed (Weinberger et al. 2009) and start at zero, so that
a value which training never met adds nothing, and a product in a new catalogue has the vector of its title and picture.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from make_jax.config import SideConfig
from make_jax.model.adaptation import ProductEmbedding
from make_jax.model.layers import unit_norm


class SideEmbeddings(nn.Module):
    """Add the vectors of a product's values to its unit vector, and bring the sum back to unit length.

    One table a column, float32[buckets, E]; a product has the sum over columns and values. `config.dropout` of the
    products go without in training. A product of which nothing is seen keeps its zero vector.
    """

    config: SideConfig
    embedding: int

    @nn.compact
    def __call__(self, products: ProductEmbedding, side_ids: jax.Array, deterministic: bool) -> ProductEmbedding:
        """Join products and their side_ids, int32[B, C, L], -1 for none."""
        added = jnp.zeros_like(products.vector)
        for number, column in enumerate(self.config.columns):
            table = nn.Embed(self.config.buckets, self.embedding, embedding_init=nn.initializers.zeros, name=column)
            ids = side_ids[:, number]
            added += jnp.sum(jnp.where((ids >= 0)[..., None], table(jnp.maximum(ids, 0)), 0.0), axis=1)
        joined = jnp.any(products.weights > 0, axis=1, keepdims=True)
        if not deterministic and self.config.dropout > 0:
            joined &= jax.random.uniform(self.make_rng("dropout"), joined.shape) >= self.config.dropout
        return products._replace(vector=unit_norm(products.vector + jnp.where(joined, added, 0.0)))
