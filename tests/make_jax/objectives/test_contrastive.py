"""QIC against loops that follow the formula term by term."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from make_jax.objectives.contrastive import am_softmax, false_negatives

ALL = jnp.ones(4, bool)


def loop_am_softmax(q, p, excluded, present, scale: float, margin: float) -> float:
    q, p = q.astype(np.float64), p.astype(np.float64)
    total = 0.0
    for i in np.flatnonzero(present):
        own = np.exp(scale * (q[i] @ p[i] - margin))
        others = [j for j in range(len(q)) if j != i]
        others_p = sum(np.exp(scale * (q[i] @ p[j])) for j in others if present[j] and not excluded[i, j])
        others_q = sum(np.exp(scale * (q[j] @ p[i])) for j in others if not excluded[j, i])
        total -= 0.5 * (np.log(own / (own + others_p)) + np.log(own / (own + others_q)))
    return total / max(present.sum(), 1)


def unit(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    x = rng.normal(size=(rows, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(
    batch=st.sampled_from([1, 2, 7]),  # each size compiles anew
    seed=st.integers(0, 2**31),
    scale=st.floats(1, 60),
    margin=st.floats(0, 0.5),
    share=st.floats(0, 1),
)
def test_am_softmax_equals_the_formula(batch: int, seed: int, scale: float, margin: float, share: float) -> None:
    rng = np.random.default_rng(seed)
    q, p = unit(rng, batch, 5), unit(rng, batch, 5)
    excluded = (rng.random((batch, batch)) < share) & ~np.eye(batch, dtype=bool)
    present = rng.random(batch) < 0.8
    p[~present] = 0
    loss = jax.jit(am_softmax)(q, p, excluded, present, jnp.float32(scale), margin)
    np.testing.assert_allclose(loss, loop_am_softmax(q, p, excluded, present, scale, margin), rtol=2e-4, atol=2e-5)


def test_a_missing_vector_is_nobodys_positive_and_nobodys_negative() -> None:
    rng = np.random.default_rng(2)
    q, p = jnp.asarray(unit(rng, 5, 6)), jnp.asarray(unit(rng, 5, 6)).at[2].set(0)
    present = jnp.arange(5) != 2
    nothing = jnp.zeros((5, 5), bool)
    rest = np.array([0, 1, 3, 4])

    def to_product(q: jax.Array, p: jax.Array, present: jax.Array) -> jax.Array:
        return am_softmax(q, p, nothing[: len(q), : len(q)], present, jnp.float32(20), 0.1)

    by_query, by_product = jax.grad(to_product, argnums=(0, 1))(q, p, present)
    assert np.isfinite(by_query).all()
    np.testing.assert_array_equal(by_product[2], 0)
    # The query stays a negative for the products of others, as any other query; without those, nothing is left.
    alone = jax.grad(lambda q2: to_product(q.at[2].set(q2), p, jnp.zeros(5, bool)))(q[2])
    np.testing.assert_array_equal(alone, 0)
    changed = to_product(q, p.at[2].set(jnp.ones(6)), present)
    assert float(changed) == float(to_product(q, p, present))
    assert np.isfinite(float(to_product(q[rest], p[rest], jnp.ones(4, bool))))


def test_excluded_pairs_have_no_gradient() -> None:
    rng = np.random.default_rng(0)
    q, p = jnp.asarray(unit(rng, 4, 6)), jnp.asarray(unit(rng, 4, 6))
    everything = ~jnp.eye(4, dtype=bool)
    gradient = jax.grad(lambda p: am_softmax(q, p, everything, ALL, jnp.float32(20), 0.1))(p)
    np.testing.assert_array_equal(gradient, 0)
    gradient = jax.grad(lambda p: am_softmax(q, p, ~everything & False, ALL, jnp.float32(20), 0.1))(p)
    assert np.abs(gradient).max() > 1e-3


def test_margin_makes_the_task_harder() -> None:
    rng = np.random.default_rng(1)
    q, p = jnp.asarray(unit(rng, 8, 6)), jnp.asarray(unit(rng, 8, 6))
    nothing = jnp.zeros((8, 8), bool)
    losses = [
        float(am_softmax(q, p, nothing, jnp.ones(8, bool), jnp.float32(10), margin)) for margin in (0.0, 0.1, 0.3)
    ]
    assert losses == sorted(losses)
    assert losses[2] > losses[0] + 0.5


@settings(deadline=None, max_examples=60)
@given(batch=st.sampled_from([1, 4, 9]), width=st.sampled_from([1, 5]), seed=st.integers(0, 2**31))
def test_false_negatives_equal_set_logic(batch: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    query = rng.integers(0, 5, batch).astype(np.int32)
    product = rng.integers(0, 6, batch).astype(np.int32)
    clicked = rng.integers(-1, 5, (batch, width)).astype(np.int32)
    found = np.asarray(false_negatives(query, product, clicked))
    for i in range(batch):
        for j in range(batch):
            hidden = query[i] in set(clicked[j]) or query[i] == query[j] or product[i] == product[j]
            assert found[i, j] == (hidden and i != j)


def test_padding_of_product_queries_masks_nothing() -> None:
    found = false_negatives(jnp.asarray([0, 1]), jnp.asarray([0, 1]), jnp.full((2, 3), -1))
    assert not np.asarray(found).any()


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_loss_and_gradient_are_finite_for_equal_vectors(scale: float) -> None:
    q = jnp.tile(jnp.asarray([[1.0, 0.0]]), (4, 1))
    value, gradient = jax.value_and_grad(
        lambda p: am_softmax(q, p, jnp.zeros((4, 4), bool), ALL, jnp.float32(scale), 0.2)
    )(q)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
