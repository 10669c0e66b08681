"""The weights that modalities deserve, against loops over the batch; what the loss moves and what it leaves alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from make_jax.objectives.gate import gate_loss, gate_targets


def unit(rng: np.random.Generator, rows: int) -> np.ndarray:
    x = rng.normal(size=(rows, 5))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def loop_targets(vectors: list[np.ndarray], left_out: np.ndarray, both: np.ndarray, scale: float) -> np.ndarray:
    queries, *sides = (v.astype(np.float64) for v in vectors)
    found = np.zeros((len(queries), 2))
    for i, query in enumerate(queries):
        chances = []
        for side in sides:
            rivals = [j for j in range(len(queries)) if j == i or (both[j] and not left_out[i, j])]
            chances.append(np.exp(scale * query @ side[i]) / sum(np.exp(scale * query @ side[j]) for j in rivals))
        found[i] = np.array(chances) / sum(chances)
    return found


@settings(deadline=None, max_examples=40)
@given(batch=st.sampled_from([1, 4, 9]), seed=st.integers(0, 2**31), scale=st.floats(1, 40))
def test_targets_and_loss_equal_the_formula(batch: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    vectors, both = [unit(rng, batch) for _ in range(3)], rng.random(batch) < 0.8
    left_out, text = rng.random((batch, batch)) < 0.3, rng.uniform(0.01, 0.99, batch)
    targets = jax.jit(gate_targets)(*vectors, left_out, np.eye(batch, dtype=bool), both, jnp.float32(scale))
    expected = loop_targets(vectors, left_out, both, scale)
    np.testing.assert_allclose(targets[both], expected[both], rtol=1e-3, atol=1e-4)
    weights = np.stack([text, 1 - text], axis=1).astype(np.float32)
    losses = [-expected[i] @ np.log(weights[i]) for i in np.flatnonzero(both)]
    loss = jax.jit(gate_loss)(weights, targets, both)
    np.testing.assert_allclose(loss, np.sum(losses) / max(len(losses), 1), rtol=1e-3, atol=1e-4)


def test_the_modality_that_finds_the_product_deserves_the_weight() -> None:
    queries = jnp.eye(3)
    targets = gate_targets(
        queries,
        queries,
        jnp.roll(queries, 1, 0),
        jnp.zeros((3, 3), bool),
        jnp.eye(3, dtype=bool),
        jnp.ones(3, bool),
        jnp.float32(20),
    )
    np.testing.assert_allclose(targets, [[1, 0]] * 3, atol=1e-6)


def test_only_the_weights_of_products_with_both_are_moved() -> None:
    rng = np.random.default_rng(0)
    queries, titles, pictures = (jnp.asarray(unit(rng, 4)) for _ in range(3))
    both = jnp.asarray([True, False, True, True])
    weights = jnp.asarray([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0], [0.9, 0.1]])

    def loss(weights: jax.Array, titles: jax.Array) -> jax.Array:
        targets = gate_targets(
            queries, titles, pictures, jnp.zeros((4, 4), bool), jnp.eye(4, dtype=bool), both, jnp.float32(10)
        )
        return gate_loss(weights, targets, both)

    by_weight, by_title = jax.grad(loss, argnums=(0, 1))(weights, titles)
    assert np.isfinite(by_weight).all()
    np.testing.assert_array_equal(by_title, 0)
    np.testing.assert_array_equal(by_weight[1], 0)
    assert np.abs(by_weight[0]).min() > 1e-3
    assert float(loss(weights, titles)) == pytest.approx(float(loss(weights, 2 * titles / 2)))
