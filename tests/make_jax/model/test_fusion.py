"""What every sort of fusion promises: unit vectors, honest weights, and no trace of what a product lacks."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fusion_models import IMAGES, KINDS, ROWS, Compiled, batch, compiled, model_config, random_params
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from make_jax.config import FusionConfig
from make_jax.errors import UserError
from make_jax.model.adaptation import ModalAdaptation, Pooled, shares_of_length

every_kind = pytest.mark.parametrize("name", KINDS)
every_path = pytest.mark.parametrize("name", ["vector_gate", "concat", "joint", "cross_attention"])
batches = st.builds(batch, st.integers(0, 2**31), hnp.arrays(bool, ROWS), hnp.arrays(bool, (ROWS, IMAGES)))


@every_kind
@given(shown=batches)
@settings(max_examples=12)
def test_vectors_and_weights_keep_their_promises(name: str, shown: dict[str, np.ndarray]) -> None:
    found = compiled(name)(shown)
    has_title, has_image = shown["title_ids"].any(axis=1), shown["has_image"]
    present = np.stack([has_title, has_image.any(axis=1)], axis=1)
    for vectors, there in (
        (found.vector, present.any(axis=1)),
        (found.title, has_title),
        (found.picture, present[:, 1]),
    ):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), there, atol=1e-4)
    for weights, mask in ((found.weights, present), (found.image_weights, has_image)):
        assert weights.dtype == np.float32
        assert weights.shape == mask.shape
        assert (weights[~mask] == 0).all()
        assert (weights[mask] > 0).all()
        np.testing.assert_allclose(weights.sum(axis=1), mask.any(axis=1), atol=1e-6)
        assert (weights[mask & (mask.sum(axis=1, keepdims=True) == 1)] == 1).all()
    only_title, only_picture = present[:, 0] & ~present[:, 1], present[:, 1] & ~present[:, 0]
    np.testing.assert_allclose(found.vector[only_title], found.title[only_title], atol=1e-5)
    np.testing.assert_allclose(found.vector[only_picture], found.picture[only_picture], atol=1e-5)


@every_path
@given(shown=batches)
@settings(max_examples=6)
def test_what_a_product_lacks_leaves_no_trace(name: str, shown: dict[str, np.ndarray]) -> None:
    other = {key: value.copy() for key, value in shown.items()}
    other["image"][~shown["has_image"]] ^= 255
    for before, after in zip(compiled(name)(shown), compiled(name)(other), strict=True):
        np.testing.assert_array_equal(before, after)
    # A product without pictures is the same however many there might be, and a shorter padding changes nothing.
    none = {**shown, "has_image": np.zeros_like(shown["has_image"])}
    short = {key: value[:, :1] for key, value in none.items() if key != "title_ids"}
    np.testing.assert_allclose(
        compiled(name)(none).vector, compiled(name)({**short, "title_ids": none["title_ids"]}).vector, atol=1e-5
    )


@every_path
@given(shown=batches)
@settings(max_examples=6)
def test_the_order_of_pictures_is_no_matter_and_a_single_one_is_simply_taken(
    name: str, shown: dict[str, np.ndarray]
) -> None:
    found = compiled(name)(shown)
    turned = compiled(name)({**shown, "image": shown["image"][:, ::-1], "has_image": shown["has_image"][:, ::-1]})
    np.testing.assert_allclose(found.vector, turned.vector, atol=1e-4)
    np.testing.assert_allclose(found.image_weights, turned.image_weights[:, ::-1], atol=1e-4)
    first = {**shown, "has_image": shown["has_image"] & (np.arange(IMAGES) == 0)}
    alone = {"title_ids": shown["title_ids"], "image": shown["image"][:, :1], "has_image": shown["has_image"][:, :1]}
    for joined, single in zip(compiled(name)(first)[:4], compiled(name)(alone)[:4], strict=True):
        np.testing.assert_allclose(joined, single, atol=1e-5)


@pytest.mark.parametrize("name", ["vector_gate", "joint", "cross_attention"])
def test_gradients_are_finite_and_reach_all_parts(name: str) -> None:
    model = compiled(name)
    shown = batch(
        0, np.array([True, True, False, True, False]), np.array([[1, 1], [0, 0], [1, 0], [0, 1], [0, 0]], bool)
    )
    # Towards a fixed direction each, which no symmetry of the vectors hides.
    aims = [jnp.asarray(np.random.default_rng(n).normal(size=(ROWS, 6)), jnp.float32) for n in range(3)]

    def score(params):
        found = model.model.encode_product(params, shown["title_ids"], shown["image"], shown["has_image"])
        parts = zip(aims, (found.vector, found.title, found.picture), strict=True)
        return sum(jnp.sum(aim * vectors) for aim, vectors in parts) + jnp.sum(found.weights[:, 0] ** 2)

    gradients = jax.jit(jax.grad(score))(model.params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        where = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all(), where
        if not any(part in where for part in ("query", "scale_logit")):
            assert np.asarray(leaf).any(), where


def test_a_model_of_one_modality_has_nothing_of_the_other() -> None:
    masks = np.array([True, True, False, False, True]), np.array([[1, 1], [0, 0], [1, 0], [0, 0], [0, 1]], bool)
    shown = batch(1, *masks)
    titles, pictures = (Compiled(model_config(modalities=only)) for only in ("title", "image"))
    assert not {"image", "cross_modal"} & titles.params.keys()
    assert set(titles.params["adaptation"]) == {"project_title"}
    assert not {"title", "cross_modal"} & pictures.params.keys()
    assert set(pictures.params["adaptation"]) == {
        "project_picture",
        "image_gate",
        "image_gate_hidden",
        "image_gate_norm",
    }
    found = titles({"title_ids": shown["title_ids"]})
    assert found.weights.tolist() == [[float(there), 0.0] for there in masks[0]]
    np.testing.assert_array_equal(found.vector, found.title)
    assert not found.picture.any()
    for before, after in zip(found[:4], titles(shown)[:4], strict=True):
        np.testing.assert_array_equal(before, after)
    found = pictures(shown)
    assert found.weights.tolist() == [[0.0, float(there)] for there in masks[1].any(axis=1)]
    np.testing.assert_allclose(np.linalg.norm(found.vector, axis=1), masks[1].any(axis=1), atol=1e-5)
    with pytest.raises(ValueError, match="reads pictures"):
        pictures({"title_ids": shown["title_ids"]})


def test_a_shared_text_encoder_is_one_set_of_parameters() -> None:
    model = Compiled(model_config(shared_text=True))
    assert {"text"} == model.params.keys() & {"text", "query", "title"}
    assert model.params["text"]["positions"].shape == (5, 8)
    shapes = jax.eval_shape(model.model.encode_query, model.params, np.array([[3, 4, 0, 0]], np.int32))
    assert shapes.shape == (1, 6)


def test_a_shared_table_of_tokens_is_read_by_both_towers() -> None:
    model, apart = (Compiled(model_config(shared_tokens=shared)) for shared in (True, False))
    table = model.params["tokens"]["embedding"]
    assert table.shape == apart.params["title"]["tokens"]["embedding"].shape
    assert all("tokens" not in model.params[tower] for tower in ("query", "title"))
    assert "tokens" not in apart.params

    shown = batch(0, np.ones(1, bool), np.zeros((1, IMAGES), bool)) | {
        "title_ids": np.array([[5, 6, 0, 0, 0]], np.int32)
    }

    def part(params: Any) -> jax.Array:
        queries = model.model.encode_query(params, np.array([[3, 4, 0, 0]], np.int32))
        titles = model.model.encode_product(params, *shown.values()).title
        return queries[:, 0].sum() + titles[:, 0].sum()

    gradient = jax.jit(jax.grad(part))(model.params)["tokens"]["embedding"]
    assert np.flatnonzero(np.abs(gradient).sum(axis=1)).tolist() == [3, 4, 5, 6]


def test_regions_are_one_picture() -> None:
    model = Compiled(model_config(stem="regions", max_images=3))
    rng = np.random.default_rng(0)
    found = model(
        {
            "title_ids": rng.integers(1, 30, (4, 5)).astype(np.int32),
            "image": rng.normal(size=(4, 7, 3)).astype(np.float32),
            "has_image": np.arange(7) < np.array([[7], [3], [1], [0]]),
        }
    )
    assert found.image_weights.tolist() == [[1], [1], [1], [0]]
    assert not any("image_gate" in name for name in model.params["adaptation"])


def test_layers_are_as_many_as_asked_for() -> None:
    for kind in ("modal_adaptation", "cross_attention"):
        stack = Compiled(model_config(fusion={"kind": kind, "layers": 3})).params["cross_modal"]
        layers = stack.get("transformer", stack)
        assert {leaf.shape[0] for leaf in jax.tree.leaves(layers["layers"])} == {3}


@pytest.mark.parametrize("kind", ["modal_adaptation", "mean", "vector_gate", "concat", "joint"])
@given(seed=st.integers(0, 2**31))
@settings(max_examples=15)
def test_fusion_equals_numpy(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 4, (3, 3)).astype(np.float32)  # title, picture, picture of three products
    states = (rng.normal(size=(3, 3, 4)) * (sizes > 0)[..., None]).astype(np.float32)
    pooled = Pooled(states[:, 0], states[:, 1:], sizes[:, 0], sizes[:, 1:])
    init, apply = _adaptation(kind)
    params = random_params(init, pooled, seed=seed)["params"]
    found = apply({"params": params}, pooled)
    for row in range(3):
        vector, weights, images = _reference(kind, params, states[row].astype(np.float64), sizes[row])
        np.testing.assert_allclose(found.vector[row], vector, atol=2e-4)
        np.testing.assert_allclose(found.weights[row], weights, atol=2e-4)
        np.testing.assert_allclose(found.image_weights[row], images, atol=2e-4)


@lru_cache
def _adaptation(kind: str):
    module = ModalAdaptation(FusionConfig(kind=kind, gate_width=3), 5, choose_images=True)
    return module.init, jax.jit(module.apply)


def _reference(kind: str, params, states: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One product, step by step: its vector [5], weights of title and picture [2], weights of pictures [2]."""
    there = sizes > 0
    if kind == "joint":
        parts = sizes[:, None] / max(sizes.sum(), 1) * (states @ params["project_product"]["kernel"])
        return _unit(parts.sum(0)), _lengths(parts[0], parts[1:].sum(0)), _lengths(*parts[1:])
    title, *pictures = (states[n] @ params["project_picture" if n else "project_title"]["kernel"] for n in range(3))
    units = [_unit(title), *map(_unit, pictures)]
    opinions = [_gate(params, "image_gate", units[0], unit)[0] if kind != "mean" else 0.0 for unit in units[1:]]
    images = _softmax(np.array(opinions), there[1:])
    if kind == "concat":
        picture = sum(weight * part for weight, part in zip(images, pictures, strict=True))
        return _unit(title + picture), _lengths(title, picture), images
    title, picture = units[0], _unit(sum(weight * part for weight, part in zip(images, units[1:], strict=True)))
    present = np.array([there[0], there[1:].any()])
    if kind == "mean":
        weights = _softmax(np.zeros(2), present)
        return _unit(weights[0] * title + weights[1] * picture), weights, images
    opinion = _gate(params, "gate", title, picture).reshape(-1, 2)
    rows = np.array([_softmax(row, present) for row in opinion])
    parts = rows[:, 0] * title, rows[:, 1] * picture
    return _unit(parts[0] + parts[1]), _lengths(*parts) if kind == "vector_gate" else rows[0], images


def _unit(vector: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector)
    return vector / length if length > 0 else vector


def _lengths(*parts: np.ndarray) -> np.ndarray:
    lengths = np.array([np.linalg.norm(part) for part in parts])
    return lengths / lengths.sum() if lengths.sum() else lengths


def _softmax(logits: np.ndarray, there: np.ndarray) -> np.ndarray:
    parts = np.exp(logits - logits.max()) * there
    return parts / parts.sum() if there.any() else parts


def _gate(params, name: str, title: np.ndarray, picture: np.ndarray) -> np.ndarray:
    seen = np.concatenate([title, picture, title * picture])
    norm, hidden, last = (params[name + part] for part in ("_norm", "_hidden", ""))
    seen = (seen - seen.mean()) / np.sqrt(seen.var() + 1e-6) * norm["scale"] + norm["bias"]
    x = seen @ hidden["kernel"] + hidden["bias"]
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x @ last["kernel"] + last.get("bias", 0.0)


@pytest.mark.parametrize("weight", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["mean", "modal_adaptation", "vector_gate", "cross_attention"])
def test_a_gate_starts_at_the_weight_that_a_mean_keeps(kind: str, weight: float) -> None:
    module = ModalAdaptation(FusionConfig(kind=kind, gate_width=3, text_weight=weight), 4)
    ones = jnp.ones((2, 1))
    pooled = Pooled(jnp.eye(2, 3), jnp.ones((2, 1, 3)), ones[:, 0], ones)
    parts = module.init_with_output(jax.random.key(0), pooled)[0]
    np.testing.assert_allclose(parts.weights[:, 0], weight, atol=1e-5)


def test_lengths_of_nothing_have_a_finite_gradient() -> None:
    parts, present = jnp.zeros((1, 2, 3)), jnp.asarray([[True, False]])
    assert shares_of_length(parts, present).tolist() == [[1, 0]]
    assert np.isfinite(jax.grad(lambda p: shares_of_length(p, present)[0, 0])(parts)).all()


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: FusionConfig(kind="joint", layers=0), ["model.fusion.kind is 'joint'", "set model.fusion.layers=1"]),
        (lambda: FusionConfig(kind="cross_attention", layers=0), ["'cross_attention'", "model.fusion.layers is 0"]),
        (lambda: FusionConfig(text_weight=1.0), ["model.fusion.text_weight is 1.0", "model.modalities"]),
        (lambda: FusionConfig(kind="concat", text_weight=0.4), ["0.4", "'concat'", "leave it at 0.5"]),
        (lambda: FusionConfig(dropped_pictures=1.5), ["model.fusion.dropped_pictures is 1.5"]),
        (lambda: model_config(shared_text=True, modalities="image"), ["model.shared_text", "model.modalities 'image'"]),
        (lambda: model_config(shared_tokens=True, modalities="image"), ["model.shared_tokens", "'image' has no title"]),
        (lambda: model_config(shared_tokens=True, shared_text=True), ["makes one encoder of both, table included"]),
    ],
)
def test_impossible_fusions_are_refused(make, parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        make()
    for part in parts:
        assert part in str(error.value)
