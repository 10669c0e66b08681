"""Hard negatives go through the same product tower, and into no objective but the contrast of queries and products."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_losses import PICTURES, SIZE, VOCAB, batch, experiment

from make_jax.config import ObjectivesConfig
from make_jax.model import build_model
from make_jax.objectives.contrastive import Side, am_softmax
from make_jax.objectives.further import past_of
from make_jax.objectives.hard_negatives import hard_negatives
from make_jax.objectives.keywords import Keys, false_negatives

PER_PAIR = 2
MINED = ObjectivesConfig(query_title=0.5, hard_negatives=PER_PAIR, hard_negative_weight=2.0)


def with_negatives() -> dict[str, np.ndarray]:
    """The first has neither title nor picture, the last place is empty."""
    rng = np.random.default_rng(7)
    titles = rng.integers(4, VOCAB, (SIZE, PER_PAIR, 10)).astype(np.int32)
    titles[0, 0] = 0
    shown = np.ones((SIZE, PER_PAIR, 1), bool)
    shown[0, 0] = False
    keys = np.arange(100, 100 + SIZE * PER_PAIR, dtype=np.int32).reshape(SIZE, PER_PAIR)
    keys[-1, -1] = -1
    return batch() | {
        "negative_title_ids": titles,
        "negative_image": rng.integers(0, 255, (SIZE, PER_PAIR, 1, 16, 16, 3)).astype(np.uint8),
        "negative_has_image": shown,
        "negative_key": keys,
        "negative_queries": rng.integers(-1, 5, (SIZE, PER_PAIR, 3)).astype(np.int32),
    }


def test_the_contrast_is_that_of_the_vectors_of_both() -> None:
    model, b = build_model(experiment(MINED, PICTURES, layers=0)), with_negatives()
    params = jax.jit(model.init)(jax.random.key(0))
    _, (metrics, _) = jax.jit(model.losses)(params, (), b, jax.random.key(1))
    plain = dataclasses.replace(MINED, hard_negatives=0)
    _, (without, _) = jax.jit(build_model(experiment(plain, PICTURES, layers=0)).losses)(
        params, (), b, jax.random.key(1)
    )
    assert float(metrics["hard_negative_fill"]) == pytest.approx(1 - 1 / (SIZE * PER_PAIR))
    assert set(metrics) - set(without) == {"hard_negative_fill"}
    np.testing.assert_allclose(metrics["query_title"], without["query_title"], rtol=1e-6)
    assert float(metrics["qic"]) > float(without["qic"])

    encode = jax.jit(model.encode_product)
    products = encode(params, b["title_ids"], b["image"], b["has_image"])
    flat = [b[f"negative_{name}"] for name in ("title_ids", "image", "has_image")]
    mined = encode(params, *(array.reshape(-1, *array.shape[2:]) for array in flat))
    present = np.asarray(mined.weights.sum(axis=1) > 0).reshape(SIZE, PER_PAIR)
    assert present.sum() == SIZE * PER_PAIR - 1
    keys = Keys(jnp.arange(SIZE), b["query_key"], b["product_key"], b["product_queries"])
    further = hard_negatives(
        mined.vector.reshape(SIZE, PER_PAIR, -1), present, b["negative_key"], b["negative_queries"], 2.0
    )
    past = past_of([further], b["query_key"], b["product_key"])
    expected = am_softmax(
        Side(jax.jit(model.encode_query)(params, b["query_ids"]), jnp.ones(SIZE, bool)),
        Side(products.vector, products.weights.sum(axis=1) > 0),
        false_negatives(keys, keys),
        metrics["scale"],
        0.0,
        past,
    )
    np.testing.assert_allclose(metrics["qic"], expected, rtol=1e-4)
