"""Exact top-K by inner product with JAX: the truth that indexes are measured against."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

QUERY_CHUNK = 128
CATALOGUE_CHUNK = 65536  # with QUERY_CHUNK, 32 MiB of scores at a time


def exact_top_k(
    queries: np.ndarray,
    catalogue: np.ndarray,
    k: int,
    *,
    query_chunk: int = QUERY_CHUNK,
    catalogue_chunk: int = CATALOGUE_CHUNK,
) -> tuple[np.ndarray, np.ndarray]:
    """The K' = min(k, N) catalogue rows of largest inner product, best first; of equals the lower row first.

    Args:
      queries: float32[Nq, E], finite.
      catalogue: float32[N, E], finite; may be memory-mapped, it is read one chunk at a time.
      k: results wanted, at least 1.
      query_chunk: queries scored at a time.
      catalogue_chunk: products scored at a time.

    Returns:
      scores float32[Nq, K'] and rows int32[Nq, K'].

    Raises:
      ValueError: k below 1, or widths that differ.
    """
    if k < 1:
        raise ValueError(f"k is {k}; ask for at least 1 result")
    if queries.shape[1] != catalogue.shape[1]:
        raise ValueError(f"queries are {queries.shape[1]} wide, the catalogue is {catalogue.shape[1]} wide")
    count, kept = len(catalogue), min(k, len(catalogue))
    query_chunk = min(query_chunk, _power_of_two(len(queries)))
    catalogue_chunk = min(catalogue_chunk, _power_of_two(count))
    shape = (query_chunk, _power_of_two(kept))
    starts = range(0, len(queries), query_chunk)
    batches = [jnp.asarray(_padded(queries[i : i + query_chunk], query_chunk)) for i in starts]
    best = [(jnp.full(shape, -jnp.inf, jnp.float32), jnp.full(shape, -1, jnp.int32))] * len(batches)
    for start in range(0, count, catalogue_chunk):
        chunk = jnp.asarray(_padded(catalogue[start : start + catalogue_chunk], catalogue_chunk))
        best = [_merge(*b, q, chunk, start, count) for b, q in zip(best, batches, strict=True)]
    scores = [np.zeros((0, kept), np.float32), *(np.asarray(s)[:, :kept] for s, _ in best)]
    rows = [np.zeros((0, kept), np.int32), *(np.asarray(r)[:, :kept] for _, r in best)]
    return np.concatenate(scores)[: len(queries)], np.concatenate(rows)[: len(queries)]


@jax.jit
def _merge(
    scores: jax.Array, rows: jax.Array, queries: jax.Array, chunk: jax.Array, start: int, count: int
) -> tuple[jax.Array, jax.Array]:
    """The best so far [B, W] and the best of one chunk [C, E], as the new best [B, W]."""
    width = scores.shape[1]
    new = jnp.einsum("be,ce->bc", queries, chunk, precision=lax.Precision.HIGHEST)
    new = jnp.where(new == 0, 0.0, new)  # top_k orders -0.0 before 0.0, which would break ties the wrong way
    row = start + jnp.arange(len(chunk), dtype=jnp.int32)
    new, at = lax.top_k(jnp.where(row < count, new, -jnp.inf), min(width, len(chunk)))
    # top_k keeps the earlier of two equals, and everything kept so far has lower rows than this chunk.
    scores, at_both = lax.top_k(jnp.concatenate([scores, new], axis=1), width)
    return scores, jnp.take_along_axis(jnp.concatenate([rows, row[at]], axis=1), at_both, axis=1)


def _power_of_two(count: int) -> int:
    """The next one from `count` on: few distinct shapes, so few compilations."""
    return 1 << max(0, count - 1).bit_length()


def _padded(part: np.ndarray, length: int) -> np.ndarray:
    """float32[length, E]: `part` with zero rows after it."""
    padded = np.zeros((length, part.shape[1]), np.float32)
    padded[: len(part)] = part
    return padded
