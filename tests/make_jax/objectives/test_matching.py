"""Matching: how negatives are drawn, and the loss against the formula."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from make_jax.objectives.chunks import WHOLE, Chunks
from make_jax.objectives.contrastive import Side
from make_jax.objectives.keywords import Judged
from make_jax.objectives.matching import Pairs, draw, draw_pairs, matching_loss
from make_jax.objectives.paired import Known

BATCH, ROWS = 8, 4


def drawn(
    seed: jax.Array,
    logits: jax.Array,
    excluded: np.ndarray,
    present: np.ndarray,
    rows: int = ROWS,
    chunks: Chunks = WHOLE,
) -> Pairs:
    """Pairs by given logits [B, B], which are those of unit vectors of queries."""
    size = len(present)
    places = jnp.arange(size)

    def judge(left: jax.Array, right: jax.Array) -> Judged:
        own = left[:, None] == right[None]
        return Judged(own, jnp.asarray(excluded)[left[:, None], right[None]], jnp.zeros_like(own))

    queries = Known(Side(jnp.eye(size), jnp.ones(size, bool), jnp.zeros(size)), places)
    products = Known(Side(jnp.asarray(logits).T, jnp.asarray(present), jnp.zeros(size)), places)
    return draw_pairs(jax.random.key(seed), queries, products, judge, jnp.float32(1), rows, chunks)


def test_negatives_come_in_proportion_to_the_softmax_over_what_is_allowed() -> None:
    logits = jnp.asarray([[0.0, 1.0, 2.0, 9.0], [3.0, 3.0, 3.0, 3.0]])
    allowed = jnp.asarray([[True, True, True, False], [True, False, False, True]])
    keys = jax.random.split(jax.random.key(0), 8000)
    found, _ = jax.jit(jax.vmap(lambda key: draw(key, jnp.arange(2), logits, allowed)))(keys)
    shares = np.stack([np.bincount(found[:, row], minlength=4) / len(keys) for row in range(2)])
    weights = np.where(allowed, np.exp(logits), 0)
    np.testing.assert_allclose(shares, weights / weights.sum(axis=1, keepdims=True), atol=0.02)
    assert not shares[~np.asarray(allowed)].any()


def in_threes(*given: jax.Array) -> Pairs:
    return drawn(*given, chunks=Chunks(3))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31 - 1), share=st.floats(0, 1))
def test_a_pair_is_never_a_false_negative_nor_of_something_missing(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    excluded, present = rng.random((BATCH, BATCH)) < share, rng.random(BATCH) < 0.7
    np.fill_diagonal(excluded, False)
    logits = rng.normal(size=(BATCH, BATCH)).astype(np.float32)
    pairs = jax.jit(drawn)(seed, logits, excluded, present)
    for one, other in zip(pairs, jax.jit(in_threes)(seed, logits, excluded, present), strict=True):
        np.testing.assert_array_equal(one, other)
    chosen = [0, 2, 4, 6]
    assert pairs.query[:ROWS].tolist() == pairs.product[:ROWS].tolist() == chosen
    assert pairs.query[ROWS : 2 * ROWS].tolist() == pairs.product[2 * ROWS :].tolist() == chosen
    assert pairs.match.tolist() == [True] * ROWS + [False] * 2 * ROWS
    for query, product, match, valid in zip(*(part.tolist() for part in pairs), strict=True):
        if valid:
            assert present[product]
            assert (query == product) == match
            assert not excluded[query, product]
    allowed = ~excluded & present & ~np.eye(BATCH, dtype=bool)
    there = [present[chosen], allowed[chosen].any(axis=1), allowed[:, chosen].any(axis=0)]
    assert pairs.valid.tolist() == np.concatenate(there).tolist()


def test_the_same_key_draws_the_same_and_another_one_others() -> None:
    nothing, everything = jnp.zeros((64, 64), bool), jnp.ones(64, bool)

    def products(seed: int) -> list[int]:
        return drawn(seed, jnp.zeros((64, 64)), nothing, everything, 64).product.tolist()

    assert products(1) == products(1) != products(2)


def test_no_gradient_reaches_the_similarity() -> None:
    def picked(logits: jax.Array) -> jax.Array:
        pairs = drawn(0, logits, jnp.zeros((8, 8), bool), jnp.ones(8, bool))
        return jnp.sum(pairs.product.astype(jnp.float32))

    np.testing.assert_array_equal(jax.grad(picked)(jnp.ones((8, 8))), 0)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31 - 1), share=st.floats(0, 1))
def test_the_loss_equals_the_formula(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    logits, match, valid = rng.normal(size=9).astype(np.float32), rng.random(9) < 0.3, rng.random(9) < share
    loss, accuracy = jax.jit(matching_loss)(logits, match, valid)
    chance = 1 / (1 + np.exp(-logits.astype(np.float64)))
    terms = -np.log(np.where(match, chance, 1 - chance))[valid]
    np.testing.assert_allclose(loss, terms.sum() / max(valid.sum(), 1), rtol=1e-5, atol=1e-6)
    right = ((logits > 0) == match)[valid]
    np.testing.assert_allclose(accuracy, right.sum() / max(valid.sum(), 1), rtol=1e-6)
