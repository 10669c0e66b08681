"""Which part of the model each objective looks at and teaches, with missing modalities, and what it costs when off."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from make_jax.config import (
    CONTRASTS,
    OBJECTIVES,
    DataConfig,
    Experiment,
    FusionConfig,
    ImageConfig,
    ModelConfig,
    ObjectivesConfig,
    TextConfig,
    TrainingConfig,
    TransformerConfig,
)
from make_jax.model import build_model
from make_jax.objectives.contrastive import Side, am_softmax
from make_jax.objectives.keywords import Keys, ProductKeys, false_negatives, judge_products

SIZE, VOCAB = 6, 50
SMALL = TransformerConfig(layers=1, width=16, heads=2)
PICTURES = ImageConfig(height=16, width=16, patch=8, transformer=SMALL)
REGIONS = ImageConfig(stem="regions", max_regions=4, region_width=5, transformer=SMALL)
WEIGHTS = {name: 0.1 * (number + 1) for number, name in enumerate(OBJECTIVES)}
ALL = ObjectivesConfig(**WEIGHTS, matching_share=1.0, mask_share=0.3, patch_negatives=12)
MASKED = ObjectivesConfig(mpm=1.0, mpm_r=1.0, patch_negatives=12)


def experiment(objectives: ObjectivesConfig, image: ImageConfig = PICTURES, layers: int = 1) -> Experiment:
    text = dataclasses.replace(SMALL, layers=layers)
    return Experiment(
        "test",
        model=ModelConfig(
            vocab_size=VOCAB,
            embedding=12,
            query=TextConfig(max_tokens=6, transformer=text),
            title=TextConfig(max_tokens=10, transformer=text),
            image=image,
            fusion=FusionConfig(gate_width=8, layers=layers),
        ),
        objectives=objectives,
        data=DataConfig(product_queries=3),
        training=TrainingConfig(batch_size=SIZE),
    )


def batch(image: ImageConfig = PICTURES, seed: int = 0) -> dict[str, np.ndarray]:
    """Product 0 has no title, product 1 no picture, the last neither; the last two come under one query."""
    rng = np.random.default_rng(seed)
    texts = {name: rng.integers(4, VOCAB, (SIZE, width)).astype(np.int32) for name, width in WIDTHS.items()}
    texts["query"][:, 4:] = 0
    texts["title"][:, 7:] = 0
    texts["title"][[0, -1]] = 0
    found = {f"{name}_ids": ids for name, ids in texts.items()}
    for name, ids in texts.items():
        hidden = (rng.random(ids.shape) < 0.3) & (ids != 0)
        found |= {f"masked_{name}_ids": np.where(hidden, 3, ids), f"{name}_targets": np.where(hidden, ids, -1)}
    regions = image.stem == "regions"
    shown = np.ones((SIZE, image.max_regions if regions else 1), bool)
    shown[[1, -1]] = False
    pixels = rng.normal(size=(SIZE, 4, 5)) if regions else rng.integers(0, 255, (SIZE, 1, 16, 16, 3))
    keys = np.array([0, 1, 2, 3, 4, 4], np.int32)
    return found | {
        "image": pixels.astype(np.float32 if regions else np.uint8),
        "has_image": shown,
        "query_key": keys,
        "product_key": np.arange(SIZE, dtype=np.int32),
        "product_queries": np.stack([keys, keys, keys], axis=1),
        "query_log_q": rng.normal(size=SIZE).astype(np.float32),
        "product_log_q": rng.normal(size=SIZE).astype(np.float32),
    }


WIDTHS = {"query": 6, "title": 10}


class Taught(NamedTuple):
    """Of one batch: parameters, metrics with the loss, and the gradients of every objective, by its name."""

    params: Any
    metrics: dict[str, jax.Array]
    gradients: dict[str, dict[str, Any]]


@lru_cache
def teach(objectives: ObjectivesConfig, image: ImageConfig) -> Taught:
    model = build_model(experiment(objectives, image))
    params = jax.jit(model.init)(jax.random.key(0))
    # The gate's last layer starts at zero, and what lies before it would feel nothing.
    params["adaptation"]["gate"]["kernel"] += 0.1 * jnp.asarray([1.0, -1.0])
    names = [name for name in OBJECTIVES if getattr(objectives, name) > 0]

    def parts(params: Any, b: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        loss, (metrics, _) = model.losses(params, (), b, jax.random.key(1))
        return jnp.stack([metrics[name] for name in names]), metrics | {"loss": loss}

    gradients, metrics = jax.jit(jax.jacrev(parts, has_aux=True))(params, batch(image))
    by_name = {name: jax.tree.map(lambda g, i=i: g[i], gradients) for i, name in enumerate(names)}
    return Taught(params, metrics, by_name)


def taught(gradients: dict[str, Any]) -> set[str]:
    """The top-level parts of the model that a gradient reaches; heads by their own names."""
    parts = {**gradients, **gradients["heads"]}
    del parts["heads"]
    return {name for name, part in parts.items() if any(np.asarray(leaf).any() for leaf in jax.tree.leaves(part))}


QUERY, PRODUCT = {"query"}, {"title", "image", "cross_modal"}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("qim", QUERY | PRODUCT | {"match_product"}),
        ("qim2", QUERY | {"image", "match_picture"}),  # pictures as their own tower sees them, without the title
        ("mlm", {"query", "title", "query_tokens", "title_tokens"}),  # in the towers: higher up it hurts
        ("mpm", {"image", "patch_values"}),
        ("mpm_r", {"image", "patch_features"}),
        ("title_image", {*PRODUCT, "adaptation", "scale_logit"}),
        ("gate_supervision", {*PRODUCT, "adaptation"}),  # the targets, which the query is in, are given
    ],
)
def test_each_objective_teaches_its_own_part(name: str, parts: set[str]) -> None:
    assert taught(teach(ALL, PICTURES).gradients[name]) == parts


def test_hidden_words_are_predicted_with_the_table_that_both_towers_share() -> None:
    built = experiment(ObjectivesConfig(mlm=0.5), layers=0)
    model = build_model(dataclasses.replace(built, model=dataclasses.replace(built.model, shared_tokens=True)))
    params = jax.jit(model.init)(jax.random.key(0))
    gradient = jax.jit(jax.grad(lambda p: model.losses(p, (), batch(), jax.random.key(1))[1][0]["mlm"]))(params)
    # Predicting pushes all words apart, not only those that are shown.
    assert np.abs(gradient["tokens"]["embedding"]).sum(axis=1).all()


def test_regions_are_hidden_like_patches() -> None:
    gradients = teach(MASKED, REGIONS).gradients
    assert taught(gradients["mpm"]) == {"image", "patch_values"}
    assert taught(gradients["mpm_r"]) == {"image", "patch_features"}
    assert gradients["mpm"]["heads"]["patch_values"]["predict"]["bias"].shape == (5,)


@pytest.mark.parametrize(("objectives", "image"), [(ALL, PICTURES), (MASKED, REGIONS)], ids=["pictures", "regions"])
def test_every_parameter_learns_and_everything_is_finite(objectives: ObjectivesConfig, image: ImageConfig) -> None:
    _, metrics, gradients = teach(objectives, image)
    assert all(np.isfinite(value).all() for value in metrics.values())
    total = jax.tree.map(lambda *parts: np.abs(np.stack(parts)).sum(axis=0), *gradients.values())
    leaves = jax.tree_util.tree_leaves_with_path(total)
    assert all(np.isfinite(leaf).all() for _, leaf in leaves)
    assert [jax.tree_util.keystr(path) for path, leaf in leaves if not leaf.any()] == []


def test_the_loss_is_the_weighted_sum() -> None:
    metrics = teach(ALL, PICTURES).metrics
    expected = sum(weight * metrics[name] for name, weight in WEIGHTS.items())
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_contrasts_are_those_of_the_vectors() -> None:
    params, metrics, _ = teach(ALL, PICTURES)
    model, b = build_model(experiment(ALL)), batch()
    queries = jax.jit(model.encode_query)(params, b["query_ids"])
    products = jax.jit(model.encode_product)(params, b["title_ids"], b["image"], b["has_image"])
    has_title, has_image = b["title_ids"].any(axis=1), b["has_image"].any(axis=1)
    sides = {
        "query": Side(queries, jnp.ones(SIZE, bool)),
        "title": Side(products.title, has_title),
        "image": Side(products.picture, has_image),
        "product": Side(products.vector, has_title | has_image),
    }
    keys = Keys(np.arange(SIZE), b["query_key"], b["product_key"], b["product_queries"])
    of_products = ProductKeys(keys.place, b["product_key"], b["title_ids"], has_title)
    hidden, alike = false_negatives(keys, keys), judge_products(of_products, of_products).excluded
    for name in CONTRASTS:
        first, second = ("query", "product") if name == "qic" else name.split("_")
        excluded = hidden if first == "query" else alike
        expected = am_softmax(sides[first], sides[second], excluded, metrics["scale"], 0.0)
        np.testing.assert_allclose(metrics[name], expected, rtol=1e-4)


def test_the_switches_of_keyword_enhancement_reach_the_contrasts() -> None:
    """Without masks there are more negatives than with the log's, and by words fewer; many positives cost more."""
    names = ("query_word_keys", "title_word_keys", "product_word_keys")
    b = batch() | {name: np.ones((SIZE, 2), np.int32) for name in names}
    b["query_word_keys"][0] = 2  # which is in no title
    b["product_word_keys"][:3] = 2  # but in other queries of three products

    def metrics(**switches: str) -> dict[str, float]:
        model = build_model(experiment(ObjectivesConfig(**switches), layers=0))
        params = jax.jit(model.init)(jax.random.key(0))
        found = jax.jit(model.losses)(params, (), b, jax.random.key(0))[1][0]
        return {name: float(value) for name, value in found.items() if value.ndim == 0}

    none, query, title, words = (metrics(keyword_mask=mask) for mask in ("none", "query", "title", "words"))
    many = metrics(positives="many")
    assert none["qic"] > query["qic"] > title["qic"] > words["qic"]
    assert (none["masked_share"], query["masked_share"]) == (0, pytest.approx(2 / 36))
    assert title["alike_by_words_share"] == pytest.approx(23 / 36)
    assert words["alike_by_words_share"] == pytest.approx(25 / 36)
    for by_words in (title, words):
        assert by_words["masked_share"] == pytest.approx(2 / 36 + by_words["alike_by_words_share"])
    of_words = metrics(positives="many", keyword_mask="words")
    assert (of_words["masked_share"], of_words["positive_share"]) == (0, pytest.approx(27 / 36))
    assert (many["masked_share"], many["positive_share"]) == (0, pytest.approx(2 / 36))
    assert many["qic"] != query["qic"]


def test_what_is_off_has_no_parameters_and_no_part_in_the_loss() -> None:
    plain = build_model(experiment(ObjectivesConfig()))
    shapes = jax.eval_shape(plain.init, jax.random.key(0))
    assert set(shapes) == {"query", "query_projection", "title", "image", "cross_modal", "adaptation", "scale_logit"}
    assert "hidden_patch" not in shapes["image"]
    assert plain.init_memory() == ()
    needed = set(batch()) - {name for name in batch() if name.startswith("masked_") or name.endswith("_targets")}
    lean = {name: batch()[name] for name in needed if not name.endswith("_log_q")}
    _, (metrics, _) = jax.eval_shape(plain.losses, shapes, (), lean, jax.random.key(0))
    health = {"alignment", "query_uniformity", "product_uniformity", "moments"}
    assert set(metrics) == {"qic", "scale", "weight_text", "masked_share"} | health


@pytest.mark.parametrize("contrast", ["softmax", "sigmoid"])
def test_the_memory_holds_negatives_of_the_queries(contrast: str) -> None:
    log_q = 0.5 if contrast == "softmax" else 0.0
    objectives = ObjectivesConfig(contrast=contrast, memory_size=2 * SIZE, log_q=log_q)
    forgetful = dataclasses.replace(objectives, memory_size=0)
    model, bare = (build_model(experiment(o, layers=0)) for o in (objectives, forgetful))
    params = jax.jit(model.init)(jax.random.key(0))
    run, old = jax.jit(model.losses), {**batch(seed=1), "product_key": np.arange(50, 50 + SIZE, dtype=np.int32)}
    old["query_key"], old["product_queries"] = old["query_key"] + 50, old["product_queries"] + 50
    empty, b = model.init_memory(), batch()
    alone, (metrics, _) = run(params, empty, b, jax.random.key(0))
    without, (plain, _) = jax.jit(bare.losses)(params, (), b, jax.random.key(0))
    assert metrics["memory_fill"] == 0
    np.testing.assert_allclose(alone, without, rtol=1e-6)
    assert set(metrics) - set(plain) == {"memory_fill"}
    assert ("bias" in metrics) == (contrast == "sigmoid")
    _, (_, once) = run(params, empty, old, jax.random.key(0))
    more, (metrics, twice) = run(params, once, b, jax.random.key(0))
    assert float(more) > float(alone)
    assert float(metrics["memory_fill"]) == pytest.approx((SIZE - 1) / (2 * SIZE))  # one product has nothing to show
    np.testing.assert_array_equal(twice.vectors[1], once.vectors[0])
    if contrast == "sigmoid":  # with logQ, more draws make each count less
        liked = {
            **b,
            "query_key": np.zeros_like(b["query_key"]),
            "product_queries": np.zeros_like(b["product_queries"]),
        }
        first, (_, known) = run(params, empty, liked, jax.random.key(0))
        again, _ = run(params, known, liked, jax.random.key(0))
        np.testing.assert_allclose(again, first, rtol=1e-6)  # a positive of the query is not its negative later either


def test_log_q_lowers_popular_negatives() -> None:
    model = build_model(experiment(ObjectivesConfig(log_q=1.0), layers=0))
    params, run = jax.jit(model.init)(jax.random.key(0)), jax.jit(model.losses)

    def loss(popular: float) -> float:
        b = batch() | {"product_log_q": np.full(SIZE, np.log(popular), np.float32)}
        return float(run(params, (), b, jax.random.key(0))[0])

    assert loss(0.2) < loss(0.01)
