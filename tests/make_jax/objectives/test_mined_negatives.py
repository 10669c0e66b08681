"""Hard negatives in the contrast equal the sum written out term by term."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from make_jax.objectives.contrastive import Past, Side, am_softmax, sigmoid_contrast
from make_jax.objectives.further import Further, past_of
from make_jax.objectives.hard_negatives import hard_negatives
from make_jax.objectives.keywords import Keys, false_negatives

B, H, E, SCALE = 4, 2, 3, 7.0


def unit(*shape: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


QUERIES, PRODUCTS, MINED = unit(B, E, seed=0), unit(B, E, seed=1), unit(B, H, E, seed=2)
QUERY_KEY, PRODUCT_KEY = np.array([0, 1, 2, 3]), np.array([10, 11, 12, 13])
# Product 20 is wanted under queries 1 and 2, product 13 is that of pair 3, and the last pair has only one.
KEYS = np.array([[20, 21], [22, 13], [23, 24], [25, -1]])
WANTED = np.full((B, H, 2), -1)
WANTED[0, 0] = [1, 2]
PRESENT = np.ones((B, H), bool)
PRESENT[2, 1] = False  # damaged


def mined(vectors: np.ndarray | jax.Array = MINED, weight: float = 1.0) -> Further:
    return hard_negatives(jnp.asarray(vectors), *(jnp.asarray(array) for array in (PRESENT, KEYS, WANTED)), weight)


def past(vectors: np.ndarray | jax.Array = MINED, weight: float = 1.0) -> Past:
    return past_of([mined(vectors, weight)], jnp.asarray(QUERY_KEY), jnp.asarray(PRODUCT_KEY))


def allowed(query: int, pair: int, slot: int) -> bool:
    key = KEYS[pair, slot]
    wanted = QUERY_KEY[query] in WANTED[pair, slot] or PRODUCT_KEY[query] == key
    return bool(PRESENT[pair, slot] and key != -1 and not wanted)


def sides() -> tuple[Side, Side]:
    return Side(jnp.asarray(QUERIES), jnp.ones(B, bool)), Side(jnp.asarray(PRODUCTS), jnp.ones(B, bool))


PAIRS = Keys(*(jnp.asarray(array) for array in (np.arange(B), QUERY_KEY, PRODUCT_KEY, np.full((B, 2), -1))))
EXCLUDED = false_negatives(PAIRS, PAIRS)


def test_who_is_whose_negative() -> None:
    excluded = np.asarray(past().excluded).reshape(B, B, H)
    expected = [[[not allowed(q, p, s) for s in range(H)] for p in range(B)] for q in range(B)]
    np.testing.assert_array_equal(excluded, expected)
    assert excluded[1:3, 0, 0].all()
    assert excluded[3, 1, 1]
    assert not excluded[0, 1, 1]


@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_softmax_term_by_term(weight: float) -> None:
    loss = am_softmax(*sides(), EXCLUDED, jnp.float32(SCALE), 0.1, past(weight=weight))
    total = 0.0
    for i in range(B):
        wanted = SCALE * (QUERIES[i] @ PRODUCTS[i] - 0.1)
        columns = [np.exp(SCALE * QUERIES[i] @ PRODUCTS[j]) for j in range(B) if j != i]
        rows = [np.exp(SCALE * QUERIES[j] @ PRODUCTS[i]) for j in range(B) if j != i]
        hard = [
            weight * np.exp(SCALE * QUERIES[i] @ MINED[p, s]) for p in range(B) for s in range(H) if allowed(i, p, s)
        ]
        total += np.log(np.exp(wanted) + sum(columns) + sum(hard)) - wanted
        total += np.log(np.exp(wanted) + sum(rows)) - wanted
    np.testing.assert_allclose(loss, total / (2 * B), rtol=1e-5)


def test_sigmoid_term_by_term() -> None:
    with_hard = sigmoid_contrast(*sides(), EXCLUDED, jnp.float32(SCALE), jnp.float32(-2.0), past())
    without = sigmoid_contrast(*sides(), EXCLUDED, jnp.float32(SCALE), jnp.float32(-2.0))
    hard = [
        np.log1p(np.exp(SCALE * QUERIES[i] @ MINED[p, s] - 2.0))
        for i in range(B)
        for p in range(B)
        for s in range(H)
        if allowed(i, p, s)
    ]
    np.testing.assert_allclose(with_hard - without, sum(hard) / B, rtol=1e-4)


def test_they_learn_but_what_is_left_out_does_not() -> None:
    gradient = jax.grad(lambda v: am_softmax(*sides(), EXCLUDED, jnp.float32(SCALE), 0.0, past(v)))(jnp.asarray(MINED))
    lengths = np.linalg.norm(np.asarray(gradient), axis=-1)
    assert lengths[2, 1] == lengths[3, 1] == 0
    assert (lengths[:2] > 0).all()


def test_memory_and_mined_together_are_the_sum_of_both() -> None:
    keys = np.arange(50, 50 + 3 * B).reshape(3, B)
    wanted = jnp.full((3, B, 1), -1).at[1, 2].set(0)  # by query 0
    memory = Further(jnp.asarray(unit(3, B, E, seed=3)), jnp.asarray(keys), keys, wanted, jnp.full((3, B), 0.25))
    joined = past_of([memory, mined()], jnp.asarray(QUERY_KEY), jnp.asarray(PRODUCT_KEY))
    both = am_softmax(*sides(), EXCLUDED, jnp.float32(SCALE), 0.0, joined)
    kept = np.exp(SCALE * np.einsum("be,sce->bsc", QUERIES, memory.vectors) - 0.25)
    kept[0, 1, 2] = 0
    total = 0.0
    for i in range(B):
        wanted, logits = SCALE * QUERIES[i] @ PRODUCTS[i], SCALE * QUERIES[i] @ PRODUCTS.T
        hard = [np.exp(SCALE * QUERIES[i] @ MINED[p, s]) for p in range(B) for s in range(H) if allowed(i, p, s)]
        total += np.log(np.exp(logits).sum() + kept[i].sum() + sum(hard)) - wanted
        total += np.log(np.exp(SCALE * QUERIES @ PRODUCTS[i]).sum()) - wanted
    np.testing.assert_allclose(both, total / (2 * B), rtol=1e-5)
