"""Modal weights that are taught: which of title and picture alone would have found the product?"""

from __future__ import annotations

import jax
import jax.numpy as jnp

_LEAST = 1e-6  # a weight of 0 would be infinitely wrong


def gate_targets(
    queries: jax.Array,
    titles: jax.Array,
    pictures: jax.Array,
    left_out: jax.Array,
    own: jax.Array,
    both: jax.Array,
    scale: jax.Array,
) -> jax.Array:
    """The weights that title and picture deserve, as a query ranked its product by each alone: float32[R, 2].

    Softmax over the two log-probabilities of the product among the batch's products that have both, without gradient.

    Args:
      queries: float[R, E], unit length.
      titles, pictures: float[B, E], unit length.
      left_out: bool[R, B], which products are no negatives of which query; its own may be or not.
      own: bool[R, B], which product is a query's own, one of each row.
      both: bool[B], which products have title and picture; the rows of the others mean nothing.
      scale: scalar, the inverse temperature.
    """
    candidates = (both[None, :] & ~left_out) | own

    def log_probability(vectors: jax.Array) -> jax.Array:
        logits = scale * jnp.dot(queries, vectors.T, precision="highest")
        wanted = jnp.sum(jnp.where(own, logits, 0.0), axis=1)
        return wanted - jax.nn.logsumexp(jnp.where(candidates, logits, -jnp.inf), axis=1)

    found = jnp.stack([log_probability(titles), log_probability(pictures)], axis=1)
    return jax.lax.stop_gradient(jax.nn.softmax(found, axis=1))


def gate_loss(weights: jax.Array, targets: jax.Array, both: jax.Array) -> jax.Array:
    """Cross-entropy of the gate's weights with the ones they deserve, mean over products that have both: a scalar.

    float[B, 2], float[B, 2], bool[B]; each row of the first two sums to 1 where `both` is true.
    """
    lost = -jnp.sum(targets * jnp.log(jnp.maximum(weights, _LEAST)), axis=1)
    return jnp.sum(jnp.where(both, lost, 0.0)) / jnp.maximum(jnp.sum(both), 1)
