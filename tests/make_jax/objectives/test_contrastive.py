"""QIC against loops that follow the formula term by term."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from make_jax.objectives.contrastive import am_softmax, false_negatives


def loop_am_softmax(q: np.ndarray, p: np.ndarray, excluded: np.ndarray, scale: float, margin: float) -> float:
    q, p = q.astype(np.float64), p.astype(np.float64)
    total = 0.0
    for i in range(len(q)):
        own = np.exp(scale * (q[i] @ p[i] - margin))
        others_p = sum(np.exp(scale * (q[i] @ p[j])) for j in range(len(q)) if j != i and not excluded[i, j])
        others_q = sum(np.exp(scale * (q[j] @ p[i])) for j in range(len(q)) if j != i and not excluded[j, i])
        total -= 0.5 * (np.log(own / (own + others_p)) + np.log(own / (own + others_q)))
    return total / len(q)


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
    loss = jax.jit(am_softmax)(q, p, excluded, jnp.float32(scale), margin)
    np.testing.assert_allclose(loss, loop_am_softmax(q, p, excluded, scale, margin), rtol=2e-4, atol=2e-5)


def test_excluded_pairs_have_no_gradient() -> None:
    rng = np.random.default_rng(0)
    q, p = jnp.asarray(unit(rng, 4, 6)), jnp.asarray(unit(rng, 4, 6))
    everything = ~jnp.eye(4, dtype=bool)
    gradient = jax.grad(lambda p: am_softmax(q, p, everything, jnp.float32(20), 0.1))(p)
    np.testing.assert_array_equal(gradient, 0)
    gradient = jax.grad(lambda p: am_softmax(q, p, ~everything & False, jnp.float32(20), 0.1))(p)
    assert np.abs(gradient).max() > 1e-3


def test_margin_makes_the_task_harder() -> None:
    rng = np.random.default_rng(1)
    q, p = jnp.asarray(unit(rng, 8, 6)), jnp.asarray(unit(rng, 8, 6))
    nothing = jnp.zeros((8, 8), bool)
    losses = [float(am_softmax(q, p, nothing, jnp.float32(10), margin)) for margin in (0.0, 0.1, 0.3)]
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
    value, gradient = jax.value_and_grad(lambda p: am_softmax(q, p, jnp.zeros((4, 4), bool), jnp.float32(scale), 0.2))(
        q
    )
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
