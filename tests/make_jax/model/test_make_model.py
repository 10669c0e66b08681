"""The model: shapes, units, missing modalities, padding, and gradients that survive them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from make_jax.config import (
    Experiment,
    FusionConfig,
    ImageConfig,
    ModelConfig,
    ObjectivesConfig,
    TextConfig,
    TransformerConfig,
)
from make_jax.errors import UserError
from make_jax.model import build_model
from make_jax.model.adaptation import masked_softmax
from make_jax.model.encoders import merge_cells
from make_jax.model.layers import masked_mean, unit_norm

SMALL = TransformerConfig(layers=1, width=16, heads=2)


def experiment(**fusion) -> Experiment:
    return Experiment(
        "test",
        model=ModelConfig(
            vocab_size=50,
            embedding=12,
            query=TextConfig(max_tokens=6, transformer=SMALL),
            title=TextConfig(max_tokens=10, transformer=SMALL),
            image=ImageConfig(height=16, width=8, patch=8, transformer=SMALL),
            fusion=FusionConfig(**fusion),
        ),
        objectives=ObjectivesConfig(query_title=0.5, query_image=0.5, margin=0.1),
    )


def batch(size: int = 6, seed: int = 0) -> dict[str, np.ndarray]:
    """Product 0 has no title, product 1 no picture, the last neither (a row that only pads)."""
    rng = np.random.default_rng(seed)
    result = {
        "query_ids": rng.integers(4, 50, (size, 6)).astype(np.int32),
        "title_ids": rng.integers(4, 50, (size, 10)).astype(np.int32),
        "image": rng.integers(0, 255, (size, 1, 16, 8, 3)).astype(np.uint8),
        "has_image": np.ones((size, 1), bool),
        "query_key": np.arange(size, dtype=np.int32),
        "product_key": np.arange(size, dtype=np.int32),
        "product_queries": np.full((size, 3), -1, np.int32),
    }
    result["query_ids"][:, 4:] = 0
    result["title_ids"][:, 7:] = 0
    result["title_ids"][[0, -1]] = 0
    result["has_image"][[1, -1]] = False
    return result


class Compiled:
    """A model with its calls compiled: op by op, every test would spend seconds in the compiler."""

    def __init__(self, **fusion) -> None:
        model = build_model(experiment(**fusion))
        self.init, self.encode_query = jax.jit(model.init), jax.jit(model.encode_query)
        self.encode_product = jax.jit(model.encode_product)

        def losses(params, b, rng):
            loss, (metrics, _) = model.losses(params, (), b, rng)
            return loss, metrics

        self.losses, self.gradients = jax.jit(losses), jax.jit(jax.value_and_grad(losses, has_aux=True))


def product(model, params, b):
    return model.encode_product(params, b["title_ids"], b["image"], b["has_image"])


@pytest.mark.parametrize("fusion", [{}, {"layers": 0}, {"kind": "mean"}])
def test_vectors_have_unit_length_and_weights_sum_to_one(fusion: dict) -> None:
    model, b = Compiled(**fusion), batch()
    params = model.init(jax.random.key(0))
    queries, found = model.encode_query(params, b["query_ids"]), product(model, params, b)
    assert queries.shape == found.vector.shape == (6, 12)
    assert found.weights.shape == (6, 2)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.vector[:-1], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found.weights[:-1].sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("fusion", [{}, {"layers": 0}, {"kind": "mean"}])
def test_a_missing_modality_weighs_exactly_nothing(fusion: dict) -> None:
    model, b = Compiled(**fusion), batch()
    found = product(model, model.init(jax.random.key(0)), b)
    assert found.weights[0].tolist() == [0, 1]
    assert found.weights[1].tolist() == [1, 0]
    assert found.weights[-1].tolist() == [0, 0]
    assert not np.asarray(found.vector[-1]).any()


@pytest.mark.parametrize("layers", [0, 2])
def test_what_is_missing_or_padding_has_no_influence(layers: int) -> None:
    model, b = Compiled(layers=layers), batch()
    params = model.init(jax.random.key(0))
    other = {name: value.copy() for name, value in b.items()}
    other["image"][~b["has_image"]] = 255 - other["image"][~b["has_image"]]
    np.testing.assert_array_equal(product(model, params, b).vector, product(model, params, other).vector)
    longer = np.pad(b["query_ids"][:, :4], [(0, 0), (0, 2)])
    np.testing.assert_allclose(
        model.encode_query(params, b["query_ids"][:, :4]), model.encode_query(params, longer), atol=1e-6
    )
    shorter = {**b, "title_ids": b["title_ids"][:, :7]}
    np.testing.assert_allclose(product(model, params, b).vector, product(model, params, shorter).vector, atol=1e-5)


def test_each_modality_matters_where_it_is_there() -> None:
    model, b = Compiled(), batch()
    params = model.init(jax.random.key(0))
    before = product(model, params, b).vector
    for name in ("title_ids", "image"):
        changed = {**b, name: b[name][::-1]}
        assert np.abs(product(model, params, changed).vector[2] - before[2]).max() > 1e-3


def test_products_do_not_see_the_query_nor_their_neighbours() -> None:
    model, b = Compiled(), batch()
    params = model.init(jax.random.key(0))
    alone = product(model, params, {name: value[2:3] for name, value in b.items()})
    np.testing.assert_allclose(alone.vector[0], product(model, params, b).vector[2], atol=1e-5)


@pytest.mark.parametrize("fusion", [{}, {"kind": "mean"}, {"modality_dropout": 0.5}])
def test_gradients_are_finite_with_missing_modalities(fusion: dict) -> None:
    model, b = Compiled(**fusion), batch()
    params = model.init(jax.random.key(0))
    (loss, metrics), gradients = model.gradients(params, b, jax.random.key(1))
    assert np.isfinite(loss)
    assert all(np.isfinite(value).all() for value in metrics.values())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_every_parameter_learns() -> None:
    model, b = Compiled(), batch()
    params = model.init(jax.random.key(0))
    # The gate's last layer starts at zero, so that only after one update its inputs feel anything.
    params["adaptation"]["gate"]["kernel"] += 0.1
    _, gradients = model.gradients(params, b, jax.random.key(1))
    silent = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
        if not np.asarray(leaf).any()
    ]
    assert silent == []


def test_modality_dropout_hides_one_side_in_training_only() -> None:
    model, b = Compiled(modality_dropout=0.9), batch(64)
    params = model.init(jax.random.key(0))
    params["adaptation"]["gate"]["bias"] = jnp.asarray([8.0, -8.0])  # all weight on the title
    _, metrics = model.losses(params, b, jax.random.key(1))
    assert 0.3 < metrics["weight_text"] < 0.75  # hidden titles leave the weight to pictures
    assert np.mean(product(model, params, b).weights[:, 0]) > 0.9


@pytest.mark.parametrize(("pictures", "expected"), [(0.0, 0.4), (0.25, 0.55), (1.0, 1.0)])
def test_modality_dropout_shares_out_what_it_hides(pictures: float, expected: float) -> None:
    model, b = Compiled(modality_dropout=0.6, dropped_pictures=pictures), batch(512)
    params = model.init(jax.random.key(0))
    params["adaptation"]["gate"]["bias"] = jnp.asarray([8.0, -8.0])  # all weight on a title that is there
    shown = [float(model.losses(params, b, jax.random.key(n))[1]["weight_text"]) for n in range(2)]
    np.testing.assert_allclose(shown, expected, atol=0.07)


def test_the_scale_is_bounded() -> None:
    model, b = Compiled(), batch()
    params = model.init(jax.random.key(0))
    params["scale_logit"] = jnp.asarray(50.0)
    assert float(model.losses(params, b, jax.random.key(1))[1]["scale"]) == 100


def test_an_unset_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="vocab_size"):
        build_model(Experiment("test"))


@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 5))
@settings(deadline=None, max_examples=30)
def test_masked_mean_equals_numpy(seed: int, size: int, length: int) -> None:
    rng = np.random.default_rng(seed)
    states, mask = rng.normal(size=(size, length, 3)).astype(np.float32), rng.random((size, length)) < 0.5
    states[~mask] = np.inf
    expected = [row[keep].mean(axis=0) if keep.any() else np.zeros(3) for row, keep in zip(states, mask, strict=True)]
    np.testing.assert_allclose(masked_mean(jnp.asarray(states), jnp.asarray(mask)), expected, rtol=1e-4, atol=1e-6)


def test_unit_norm_of_zero_has_a_finite_gradient() -> None:
    value, gradient = jax.value_and_grad(lambda x: unit_norm(x).sum())(jnp.zeros(4))
    assert value == 0
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(unit_norm(jnp.asarray([3.0, 4.0])), [0.6, 0.8], atol=1e-6)


@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=2), st.tuples(st.booleans(), st.booleans()))
@settings(deadline=None, max_examples=50)
def test_masked_softmax(logits: list[float], present: tuple[bool, bool]) -> None:
    found = np.asarray(masked_softmax(jnp.asarray([logits]), jnp.asarray([present])))[0]
    assert np.isfinite(found).all()
    assert found.sum() == pytest.approx(float(any(present)), abs=1e-6)
    assert all(weight == 0 for weight, there in zip(found, present, strict=True) if not there)
    gradient = jax.grad(lambda x: masked_softmax(x, jnp.asarray([present]))[0, 0])(jnp.asarray([logits]))
    assert np.isfinite(gradient).all()


def test_cells_merge_to_patches_in_reading_order() -> None:
    cells = jnp.arange(4 * 6).reshape(1, 4, 6, 1)
    merged, grid = merge_cells(cells, 2)
    assert grid == (1, 2, 3)
    assert merged[:2].tolist() == [[0, 1, 6, 7], [2, 3, 8, 9]]
