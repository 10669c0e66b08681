"""Contrasts against loops that follow the formulas term by term."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from make_jax.objectives.contrastive import (
    Past,
    Side,
    am_softmax,
    log_counts,
    sigmoid_contrast,
)

ALL = jnp.ones(4, bool)
NOTHING = jnp.zeros((4, 4), bool)


class Problem(NamedTuple):
    """Two sides and all that may be left out of their contrast, as numpy arrays."""

    rows: Side
    columns: Side
    excluded: np.ndarray
    past: Past


def problem(seed: int, batch: int, share: float) -> Problem:
    rng = np.random.default_rng(seed)
    sides = []
    for _ in range(2):
        vectors, present = unit(rng, batch, 5), rng.random(batch) < 0.8
        vectors[~present] = 0
        sides.append(Side(vectors, present, rng.normal(size=batch).astype(np.float32)))
    excluded = (rng.random((batch, batch)) < share) & ~np.eye(batch, dtype=bool)
    past = Past(
        unit(rng, 6, 5).reshape(2, 3, 5),
        rng.random((batch, 2, 3)) < share,
        rng.normal(size=(2, 3)).astype(np.float32),
    )
    return Problem(*sides, excluded, past)


def unit(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    x = rng.normal(size=(rows, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def loop_am_softmax(p: Problem, scale: float, margin: float, with_past: bool) -> float:
    q, c = p.rows.vectors.astype(np.float64), p.columns.vectors.astype(np.float64)
    total, count = 0.0, 0
    for i in np.flatnonzero(p.rows.present & p.columns.present):
        own = np.exp(scale * (q[i] @ c[i] - margin))
        to_columns = to_rows = own
        for j in range(len(q)):
            if j != i and p.columns.present[j] and not p.excluded[i, j]:
                to_columns += np.exp(scale * (q[i] @ c[j]) - p.columns.log_count[j])
            if j != i and p.rows.present[j] and not p.excluded[j, i]:
                to_rows += np.exp(scale * (q[j] @ c[i]) - p.rows.log_count[j])
        for slot, place in np.argwhere(~p.past.excluded[i]) if with_past else ():
            to_columns += np.exp(scale * (q[i] @ p.past.vectors[slot, place]) - p.past.log_count[slot, place])
        total -= 0.5 * (np.log(own / to_columns) + np.log(own / to_rows))
        count += 1
    return total / max(count, 1)


def loop_sigmoid(p: Problem, scale: float, bias: float, with_past: bool) -> float:
    q, c = p.rows.vectors.astype(np.float64), p.columns.vectors.astype(np.float64)
    total = 0.0
    for i in np.flatnonzero(p.rows.present):
        for j in np.flatnonzero(p.columns.present):
            if not p.excluded[i, j]:
                z = 1 if i == j else -1
                total -= np.log(1 / (1 + np.exp(-z * (scale * (q[i] @ c[j]) + bias))))
        for slot, place in np.argwhere(~p.past.excluded[i]) if with_past else ():
            total -= np.log(1 / (1 + np.exp(scale * (q[i] @ p.past.vectors[slot, place]) + bias)))
    return total / max(np.sum(p.rows.present & p.columns.present), 1)


@settings(deadline=None, max_examples=40)
@given(
    batch=st.sampled_from([1, 2, 7]),  # each size compiles anew
    seed=st.integers(0, 2**31),
    scale=st.floats(1, 60),
    margin=st.sampled_from([0.0, 0.3]),
    share=st.floats(0, 1),
    with_past=st.booleans(),
)
def test_am_softmax_equals_the_formula(
    batch: int, seed: int, scale: float, margin: float, share: float, with_past: bool
) -> None:
    p = problem(seed, batch, share)
    past = p.past if with_past else None
    loss = jax.jit(am_softmax)(p.rows, p.columns, p.excluded, jnp.float32(scale), margin, past)
    np.testing.assert_allclose(loss, loop_am_softmax(p, scale, margin, with_past), rtol=2e-4, atol=2e-5)


@settings(deadline=None, max_examples=30)
@given(
    batch=st.sampled_from([1, 2, 7]),
    seed=st.integers(0, 2**31),
    scale=st.floats(1, 30),
    bias=st.floats(-12, 2),
    share=st.floats(0, 1),
    with_past=st.booleans(),
)
def test_sigmoid_equals_the_formula(
    batch: int, seed: int, scale: float, bias: float, share: float, with_past: bool
) -> None:
    p = problem(seed, batch, share)
    past = p.past if with_past else None
    loss = jax.jit(sigmoid_contrast)(p.rows, p.columns, p.excluded, jnp.float32(scale), jnp.float32(bias), past)
    np.testing.assert_allclose(loss, loop_sigmoid(p, scale, bias, with_past), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("form", [am_softmax, sigmoid_contrast])
def test_what_is_missing_is_nobodys_positive_and_nobodys_negative(form) -> None:
    p = problem(2, 5, 0.0)
    rows, columns = p.rows._replace(present=jnp.ones(5, bool)), p.columns._replace(present=jnp.arange(5) != 2)

    def loss(q: jax.Array, c: jax.Array) -> jax.Array:
        nothing = jnp.zeros((5, 5), bool)
        return form(rows._replace(vectors=q), columns._replace(vectors=c), nothing, jnp.float32(20), 0.1, p.past)

    q, c = jnp.asarray(rows.vectors), jnp.asarray(columns.vectors).at[2].set(0)
    by_query, by_product = jax.jit(jax.grad(loss, argnums=(0, 1)))(q, c)
    assert np.isfinite(by_query).all()
    np.testing.assert_array_equal(by_product[2], 0)
    assert np.abs(by_product[jnp.arange(5) != 2]).max() > 1e-3
    assert float(jax.jit(loss)(q, c)) == float(jax.jit(loss)(q, c.at[2].set(jnp.ones(5))))


@pytest.mark.parametrize("form", [am_softmax, sigmoid_contrast])
def test_excluded_pairs_have_no_gradient(form) -> None:
    rng = np.random.default_rng(0)
    q, c = jnp.asarray(unit(rng, 4, 6)), jnp.asarray(unit(rng, 4, 6))

    def gradient(excluded: jax.Array) -> jax.Array:
        return jax.grad(lambda q: form(Side(q, ALL), Side(c, ALL), excluded, jnp.float32(20), 0.1))(q)

    everything = ~jnp.eye(4, dtype=bool)
    alone = jax.grad(lambda q: form(Side(q[:1], ALL[:1]), Side(c[:1], ALL[:1]), NOTHING[:1, :1], 20.0, 0.1))(q)[0]
    np.testing.assert_allclose(gradient(everything)[0], alone / 4, atol=1e-6)
    assert np.abs(gradient(NOTHING)[0] - alone / 4).max() > 1e-3


def test_margin_makes_the_task_harder() -> None:
    rng = np.random.default_rng(1)
    q, c = Side(unit(rng, 4, 6), ALL), Side(unit(rng, 4, 6), ALL)
    losses = [float(am_softmax(q, c, NOTHING, jnp.float32(10), margin)) for margin in (0.0, 0.1, 0.3)]
    assert losses == sorted(losses)
    assert losses[2] > losses[0] + 0.5


def test_log_q_turns_a_batch_into_an_estimate_of_the_whole_catalogue() -> None:
    """Of products drawn by popularity; the mean over many batches of the sum over negatives is that over all."""
    rng = np.random.default_rng(3)
    shares = rng.dirichlet(np.ones(30))
    scores = rng.normal(size=30)
    drawn = rng.choice(30, size=(4000, 50), p=shares)
    counts = np.asarray(log_counts(jnp.log(jnp.asarray(shares)), 50, 1.0))
    estimate = np.exp(scores[drawn] - counts[drawn]).sum(axis=1).mean()
    assert estimate == pytest.approx(np.exp(scores).sum(), rel=0.05)
    np.testing.assert_allclose(log_counts(jnp.log(jnp.asarray([0.5])), 4, 0.5), [0.5 * np.log(2)], rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_loss_and_gradient_are_finite_for_equal_vectors(scale: float) -> None:
    q = jnp.tile(jnp.asarray([[1.0, 0.0]]), (4, 1))
    value, gradient = jax.value_and_grad(
        lambda p: am_softmax(Side(q, ALL), Side(p, ALL), NOTHING, jnp.float32(scale), 0.2)
    )(q)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
