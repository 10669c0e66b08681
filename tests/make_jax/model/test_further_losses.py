"""Further queries ask for the same products: the contrast is the mean of those of each lot of queries."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_losses import SIZE, VOCAB, batch, experiment

from make_jax.config import ObjectivesConfig
from make_jax.model import build_model
from make_jax.objectives.contrastive import Side, am_softmax, log_counts
from make_jax.objectives.keywords import Keys, false_negatives

FURTHER = 2


def with_further() -> dict[str, np.ndarray]:
    """The last product has no second other query; a further query led to another product of the batch, too."""
    rng = np.random.default_rng(5)
    keys = rng.integers(10, 20, (SIZE, FURTHER)).astype(np.int32)
    keys[-1, 1], keys[0, 0] = -1, 2
    return batch() | {
        "further_query_ids": rng.integers(4, VOCAB, (SIZE, FURTHER, 6)).astype(np.int32),
        "further_query_key": keys,
        "further_query_log_q": rng.normal(size=(SIZE, FURTHER)).astype(np.float32),
    }


@pytest.mark.parametrize("log_q", [0.0, 1.0])
def test_the_contrast_is_the_mean_over_the_queries(log_q: float) -> None:
    objectives = ObjectivesConfig(query_title=0.5, log_q=log_q)
    model, b = build_model(experiment(objectives, layers=0)), with_further()
    params = jax.jit(model.init)(jax.random.key(0))
    _, (metrics, _) = jax.jit(model.losses)(params, (), b, jax.random.key(1))
    _, (without, _) = jax.jit(model.losses)(params, (), batch(), jax.random.key(1))
    np.testing.assert_allclose(metrics["query_title"], without["query_title"], rtol=1e-6)

    products = jax.jit(model.encode_product)(params, b["title_ids"], b["image"], b["has_image"])
    count = log_counts(b["product_log_q"], SIZE, log_q)
    columns = Side(products.vector, products.weights.sum(axis=1) > 0, count)
    expected = [float(without["qic"])]
    for number in range(FURTHER):
        key = b["further_query_key"][:, number]
        vectors = jax.jit(model.encode_query)(params, b["further_query_ids"][:, number])
        rows = Side(vectors, key >= 0, log_counts(b["further_query_log_q"][:, number], SIZE, log_q))
        asked = Keys(jnp.arange(SIZE), key, b["product_key"], b["product_queries"])
        drawn = asked._replace(query_key=b["query_key"])
        excluded = false_negatives(asked, drawn)
        if number == 0:
            assert excluded[0, 2]
        expected.append(float(am_softmax(rows, columns, excluded, metrics["scale"], 0.0)))
    np.testing.assert_allclose(metrics["qic"], np.mean(expected), rtol=1e-4)


def test_words_of_further_queries_are_their_own() -> None:
    """A product with all words of a further query is not its negative."""
    b = with_further()
    b |= {name: np.ones((SIZE, 2), np.int32) for name in ("query_word_keys", "title_word_keys", "product_word_keys")}
    model = build_model(experiment(ObjectivesConfig(keyword_mask="words"), layers=0))
    params = jax.jit(model.init)(jax.random.key(0))

    def lost(word: int) -> float:
        words = np.full((SIZE, FURTHER, 2), word, np.int32)
        return float(jax.jit(model.losses)(params, (), b | {"further_query_word_keys": words}, jax.random.key(1))[0])

    assert lost(1) < lost(2)
