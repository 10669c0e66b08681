"""Vectors of ids and categories: nothing at the start, one product's own after training, and a sum that is checked."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

import jax
import numpy as np
import pytest
from test_losses import SIZE, batch, experiment
from test_mined_losses import PER_PAIR, with_negatives

from make_jax.config import Experiment, ObjectivesConfig, SideConfig
from make_jax.model import build_model
from make_jax.model.adaptation import ProductEmbedding
from make_jax.model.side import SideEmbeddings

BUCKETS, LEVELS = 32, 3
COLUMNS = ("category", "product_id")
MINED = ObjectivesConfig(hard_negatives=PER_PAIR)


def with_side(config: Experiment, **side: Any) -> Experiment:
    chosen = SideConfig(**{"columns": COLUMNS, "buckets": BUCKETS, **side})
    return dataclasses.replace(config, model=dataclasses.replace(config.model, side=chosen))


def side_ids(count: int = SIZE, seed: int = 0) -> np.ndarray:
    """The first product has no category, the second has no value at all; ids are their own."""
    rng = np.random.default_rng(seed)
    found = np.full((count, len(COLUMNS), LEVELS), -1, np.int32)
    found[:, 0] = rng.integers(0, 8, (count, LEVELS))
    found[2, 0, 1:] = -1
    found[:, 1, 0] = 16 + np.arange(count)
    found[0, 0] = found[1] = -1
    return found


@lru_cache
def plain_model():
    return build_model(experiment(MINED, layers=0))


@lru_cache
def side_model(**side: Any):
    return build_model(with_side(experiment(MINED, layers=0), **side))


def encoded(model: Any, params: Any, *ids: np.ndarray) -> ProductEmbedding:
    b = batch()
    return jax.jit(model.encode_product)(params, b["title_ids"], b["image"], b["has_image"], *ids)


def trained_tables(params: Any) -> Any:
    rng = np.random.default_rng(5)
    tables = {name: {"embedding": rng.normal(size=(BUCKETS, 12)).astype(np.float32)} for name in COLUMNS}
    return {**params, "side": tables}


def test_without_columns_there_is_nothing_of_it() -> None:
    one, other = (jax.jit(model.init)(jax.random.key(0)) for model in (plain_model(), side_model()))
    assert "side" not in one
    tables = other.pop("side")
    assert {name: table["embedding"].shape for name, table in tables.items()} == dict.fromkeys(COLUMNS, (BUCKETS, 12))
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(tables))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_fresh_tables_change_no_vector() -> None:
    plain, model = plain_model(), side_model()
    params = jax.jit(model.init)(jax.random.key(0))
    before, after = encoded(plain, params), encoded(model, params, side_ids())
    for name, value in before._asdict().items():
        np.testing.assert_allclose(getattr(after, name), value, atol=1e-6, err_msg=name)


def joined(vectors: np.ndarray, ids: np.ndarray, tables: Any) -> np.ndarray:
    """What the join is, one product and value at a time."""
    found = []
    for vector, columns in zip(np.asarray(vectors, np.float64), ids, strict=True):
        total = vector.copy()
        for name, values in zip(COLUMNS, columns, strict=True):
            for value in values[values >= 0]:
                total += tables[name]["embedding"][value]
        found.append(total / np.linalg.norm(total) if vector.any() else vector)
    return np.array(found)


def test_the_join_is_the_unit_vector_of_the_sum() -> None:
    model = side_model()
    params = trained_tables(jax.jit(model.init)(jax.random.key(0)))
    bare, found = encoded(plain_model(), params), encoded(model, params, side_ids())
    np.testing.assert_allclose(found.vector, joined(bare.vector, side_ids(), params["side"]), atol=1e-5)
    assert np.abs(np.asarray(found.vector - bare.vector))[0].max() > 0.05
    # A product without any value, and one of which nothing is seen (whose values would be all of it).
    np.testing.assert_allclose(found.vector[1], bare.vector[1], atol=1e-6)
    assert not np.asarray(found.vector[-1]).any()
    for name in ("weights", "title", "picture", "image_weights"):
        np.testing.assert_allclose(getattr(found, name), getattr(bare, name), atol=1e-6, err_msg=name)


def test_a_table_moves_only_products_with_its_values() -> None:
    model = side_model()
    params = jax.jit(model.init)(jax.random.key(0))
    before = encoded(model, params, side_ids()).vector
    table = np.zeros((BUCKETS, 12), np.float32)
    table[16 + 3] = 1.0  # the id of the fourth product
    params["side"]["product_id"]["embedding"] = table
    moved = np.abs(encoded(model, params, side_ids()).vector - before).max(axis=1) > 1e-3
    assert moved.tolist() == [row == 3 for row in range(SIZE)]


def test_fresh_tables_change_no_loss_and_only_what_a_batch_shows_learns() -> None:
    model = side_model(dropout=0.0)
    params, of_negatives = jax.jit(model.init)(jax.random.key(0)), side_ids(SIZE * PER_PAIR, seed=1)
    b = with_negatives()
    plain, (metrics, _) = jax.jit(plain_model().losses)(params, (), b, jax.random.key(1))
    told = {"side_ids": side_ids(), "negative_side_ids": of_negatives.reshape(SIZE, PER_PAIR, *of_negatives.shape[1:])}
    graded = jax.jit(jax.value_and_grad(model.losses, has_aux=True))
    (loss, (others, _)), gradients = graded(params, (), b | told, jax.random.key(1))
    np.testing.assert_allclose(loss, plain, rtol=1e-5)
    assert metrics.keys() == others.keys()
    shown = np.concatenate([side_ids(), of_negatives])
    seen = np.ones(len(shown), bool)
    # The last product and the first negative have nothing to see; the last place of the negatives is empty.
    seen[[SIZE - 1, SIZE, -1]] = False
    for column, name in enumerate(COLUMNS):
        rows = np.flatnonzero(np.asarray(gradients["side"][name]["embedding"]).any(axis=1))
        ids = shown[seen][:, column]
        assert set(rows.tolist()) == set(ids[ids >= 0].tolist()), name
        assert np.isfinite(gradients["side"][name]["embedding"]).all()


@pytest.mark.parametrize("dropout", [0.0, 0.3, 0.9])
def test_dropout_leaves_products_without_in_training_only(dropout: float) -> None:
    count = 4000
    module = SideEmbeddings(SideConfig(COLUMNS, BUCKETS, dropout), 12)
    vectors = np.eye(12, dtype=np.float32)[np.arange(count) % 12]
    seen = ProductEmbedding(vectors, np.full((count, 2), 0.5, np.float32), vectors, vectors, np.ones((count, 1)))
    ids = np.zeros((count, 2, 1), np.int32)
    params = {"params": trained_tables({})["side"]}

    def without(deterministic: bool, seed: int = 0) -> np.ndarray:
        rngs = {"dropout": jax.random.key(seed)}
        found = module.apply(params, seen, ids, deterministic, rngs=rngs).vector
        return np.asarray(np.abs(found - vectors).max(axis=1) < 1e-5)

    assert not without(True).any()
    assert abs(without(False).mean() - dropout) < 0.03
    assert dropout == 0 or (without(False, 1) != without(False, 2)).any()


def test_a_model_with_columns_needs_side_ids() -> None:
    params = jax.jit(side_model().init)(jax.random.key(0))
    with pytest.raises(ValueError, match="knows products by category, product_id; give side_ids"):
        encoded(side_model(), params)
