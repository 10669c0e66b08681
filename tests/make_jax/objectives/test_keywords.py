"""Which pairs of a batch are positives, negatives or neither, against loops over sets; the loss of many positives."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from make_jax.objectives.contrastive import Side, am_softmax, sigmoid_contrast
from make_jax.objectives.keywords import (
    Keys,
    ProductKeys,
    false_negatives,
    have_all_words,
    judge_pairs,
    judge_products,
)

MASKS = st.sampled_from(["none", "query", "title", "words"])
SIZES = st.sampled_from([1, 4, 9])  # each size compiles anew


def some_keys(seed: int, batch: int) -> Keys:
    rng = np.random.default_rng(seed)
    return Keys(
        np.arange(batch, dtype=np.int32),
        rng.integers(0, 6, batch).astype(np.int32),
        rng.integers(0, 7, batch).astype(np.int32),
        rng.integers(-1, 6, (batch, 3)).astype(np.int32),
        rng.integers(-1, 4, (batch, 2)).astype(np.int32),
        rng.integers(-1, 4, (batch, 5)).astype(np.int32),
    )


def answers(query: np.ndarray, words: np.ndarray) -> bool:
    asked, there = set(query.tolist()) - {0}, {key for key in words.tolist() if key > 0}
    return any(key > 0 for key in asked) and asked <= there


@settings(deadline=None, max_examples=60)
@given(batch=SIZES, seed=st.integers(0, 2**31))
def test_a_product_answers_a_query_when_it_has_all_of_its_words(batch: int, seed: int) -> None:
    keys = some_keys(seed, batch)
    found = np.asarray(jax.jit(have_all_words)(keys.query_words, keys.product_words))
    for i in range(batch):
        for j in range(batch):
            assert found[i, j] == answers(keys.query_words[i], keys.product_words[j])


@settings(deadline=None, max_examples=60)
@given(
    batch=SIZES,
    seed=st.integers(0, 2**31),
    mask=MASKS,
    many=st.booleans(),
)
def test_pairs_are_judged_by_set_logic(batch: int, seed: int, mask: Any, many: bool) -> None:
    keys = some_keys(seed, batch)
    many = many and mask != "none"
    found = judge_pairs(keys, keys, mask, many)
    for i in range(batch):
        for j in range(batch):
            same = keys.product_key[i] == keys.product_key[j]
            known = keys.query_key[i] in set(keys.product_queries[j]) or keys.query_key[i] == keys.query_key[j] or same
            titled = mask in ("title", "words") and answers(keys.query_words[i], keys.product_words[j])
            left_out = same if mask == "none" else known or titled
            positive = i == j or (many and (known or (titled and mask == "words")))
            assert found.positive[i, j] == positive
            assert found.excluded[i, j] == (left_out and not positive)
            assert found.by_words[i, j] == (titled and not known and i != j)


@settings(deadline=None, max_examples=40)
@given(batch=SIZES, seed=st.integers(0, 2**31))
def test_products_are_alike_by_set_logic(batch: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    product = rng.integers(0, 6, batch).astype(np.int32)
    titles, has_title = rng.integers(0, 2, (batch, 3)).astype(np.int32), rng.random(batch) < 0.7
    keys = ProductKeys(np.arange(batch, dtype=np.int32), product, titles, has_title)
    found = judge_products(keys, keys)
    for i in range(batch):
        for j in range(batch):
            alike = has_title[i] and has_title[j] and titles[i].tolist() == titles[j].tolist()
            assert found.excluded[i, j] == ((alike or product[i] == product[j]) and i != j)
            assert found.positive[i, j] == (i == j)


@settings(deadline=None, max_examples=40)
@given(
    batch=SIZES,
    seed=st.integers(0, 2**31),
    mask=MASKS,
    many=st.booleans(),
)
def test_parts_of_a_batch_are_judged_as_the_whole(batch: int, seed: int, mask: Any, many: bool) -> None:
    keys = some_keys(seed, batch)
    rows, columns = slice(batch // 2, None), slice(0, batch // 2 + 1)
    whole = judge_pairs(keys, keys, mask, many)
    part = judge_pairs(Keys(*(k[rows] for k in keys)), Keys(*(k[columns] for k in keys)), mask, many)
    for expected, found in zip(whole, part, strict=True):
        np.testing.assert_array_equal(found, expected[rows, columns])


def test_padding_of_product_queries_masks_nothing() -> None:
    keys = Keys(jnp.arange(2), jnp.asarray([0, 1]), jnp.asarray([0, 1]), jnp.full((2, 3), -1))
    assert not np.asarray(false_negatives(keys, keys)).any()


def test_words_that_nothing_equals_are_of_no_product() -> None:
    queries = jnp.asarray([[3, -1], [-1, 0], [0, 0], [3, 0]])
    found = have_all_words(queries, jnp.asarray([[3, -1, 0]] * 4))
    np.testing.assert_array_equal(found[:, 0], [False, False, False, True])


def a_problem(seed: int, batch: int) -> tuple[Side, Side, np.ndarray, np.ndarray]:
    """Two sides, what is excluded, and positives, the diagonal and some more."""
    rng = np.random.default_rng(seed)
    sides = []
    for _ in range(2):
        x = rng.normal(size=(batch, 5))
        vectors = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
        sides.append(Side(vectors, rng.random(batch) < 0.8, rng.normal(size=batch).astype(np.float32)))
    positive = np.eye(batch, dtype=bool) | (rng.random((batch, batch)) < 0.3)
    return sides[0], sides[1], (rng.random((batch, batch)) < 0.3) & ~positive, positive


def loop_one_way(
    rows: Side, columns: Side, excluded: np.ndarray, positive: np.ndarray, scale: float, margin: float
) -> float:
    """Khosla et al. 2020, L_out, with a margin, for rows only; popular negatives count less."""
    q, c = rows.vectors.astype(np.float64), columns.vectors.astype(np.float64)
    losses = []
    for i in np.flatnonzero(rows.present):
        pulled = [j for j in np.flatnonzero(columns.present) if positive[i, j]]
        pushed = [j for j in np.flatnonzero(columns.present) if not positive[i, j] and not excluded[i, j]]
        total = sum(np.exp(scale * (q[i] @ c[j] - margin)) for j in pulled)
        total += sum(np.exp(scale * (q[i] @ c[j]) - columns.log_count[j]) for j in pushed)
        if pulled:
            losses.append(-np.mean([np.log(np.exp(scale * (q[i] @ c[j] - margin)) / total) for j in pulled]))
    return sum(losses) / max(len(losses), 1)


@settings(deadline=None, max_examples=40)
@given(batch=SIZES, seed=st.integers(0, 2**31), scale=st.floats(1, 60), margin=st.sampled_from([0.0, 0.3]))
def test_many_positives_equal_the_formula(batch: int, seed: int, scale: float, margin: float) -> None:
    rows, columns, excluded, positive = a_problem(seed, batch)
    loss = jax.jit(am_softmax)(rows, columns, excluded, jnp.float32(scale), margin, None, positive)
    there = loop_one_way(rows, columns, excluded, positive, scale, margin)
    back = loop_one_way(columns, rows, excluded.T, positive.T, scale, margin)
    np.testing.assert_allclose(loss, 0.5 * (there + back), rtol=2e-4, atol=2e-5)


@settings(deadline=None, max_examples=30)
@given(batch=SIZES, seed=st.integers(0, 2**31), scale=st.floats(1, 30), bias=st.floats(-12, 2))
def test_the_sigmoid_labels_all_positives_one(batch: int, seed: int, scale: float, bias: float) -> None:
    rows, columns, excluded, positive = a_problem(seed, batch)
    loss = jax.jit(sigmoid_contrast)(rows, columns, excluded, jnp.float32(scale), jnp.float32(bias), None, positive)
    expected = 0.0
    for i in np.flatnonzero(rows.present):
        for j in np.flatnonzero(columns.present & ~excluded[i]):
            logit = scale * (rows.vectors[i].astype(np.float64) @ columns.vectors[j]) + bias
            expected += np.log1p(np.exp(-logit if positive[i, j] else logit))
    expected /= max(np.sum(rows.present & columns.present), 1)
    np.testing.assert_allclose(loss, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("form", [am_softmax, sigmoid_contrast])
def test_one_positive_each_is_the_plain_contrast(form: Any) -> None:
    rows, columns, excluded, _ = a_problem(3, 9)
    excluded &= ~np.eye(9, dtype=bool)
    plain = form(rows, columns, excluded, jnp.float32(20), 0.1)
    assert float(plain) == float(form(rows, columns, excluded, jnp.float32(20), 0.1, None, jnp.eye(9, dtype=bool)))


@pytest.mark.parametrize("form", [am_softmax, sigmoid_contrast])
def test_rows_with_nothing_to_pull_have_finite_gradients(form: Any) -> None:
    rows, columns, _, positive = a_problem(5, 6)
    rows, columns = rows._replace(present=np.arange(6) > 1), columns._replace(present=np.arange(6) != 4)
    everything = ~positive
    gradient = jax.grad(
        lambda q: form(rows._replace(vectors=q), columns, everything, jnp.float32(20), 0.1, None, positive)
    )(jnp.asarray(rows.vectors))
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[:2], 0)
