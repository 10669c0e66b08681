"""The pre-training loss: which of the model's outputs go into which objective."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from make_jax.config import CONTRASTS, OBJECTIVES, ModelConfig, ObjectivesConfig
from make_jax.model.adaptation import ProductEmbedding
from make_jax.model.heads import LossHeads, Segment
from make_jax.model.hidden_losses import hidden_patches, hidden_tokens
from make_jax.model.outputs import Batch, Metrics, Outputs, Towers
from make_jax.objectives.contrastive import (
    Past,
    Side,
    am_softmax,
    log_counts,
    same_products,
    sigmoid_contrast,
)
from make_jax.objectives.gate import gate_loss, gate_targets
from make_jax.objectives.hard_negatives import NONE, hard_negatives, joined
from make_jax.objectives.keywords import Judged, Keys, judge_pairs
from make_jax.objectives.matching import Pairs, draw_pairs, matching_loss
from make_jax.objectives.memory import Memory, filled, past_negatives, remember

_SIDES = {
    "qic": ("query", "product"),
    "query_title": ("query", "title"),
    "query_image": ("query", "image"),
    "title_image": ("title", "image"),
    "title_product": ("title", "product"),
    "image_product": ("image", "product"),
}


def objective_losses(
    config: ObjectivesConfig,
    outputs: Outputs,
    towers: Towers,
    heads: LossHeads,
    batch: Batch,
    memory: Memory | None,
    key: jax.Array,
) -> tuple[jax.Array, Metrics, Memory | None]:
    """The weighted sum of the objectives, what to log, and the memory after this batch.

    Args:
      config: an objective of weight 0 costs nothing.
      outputs: of this batch.
      towers, heads: bound to their parameters.
      batch: see `data_pipelines.input`.
      memory: of the batches before, None without one.
      key: decides what is drawn.
    """
    judged = _judged(config, batch)
    excluded = judged.excluded | judged.positive  # what is never drawn as a negative; the diagonal is not anyway
    for_pairs, for_patches = jax.random.split(key)
    found = (
        _contrasts(config, outputs, batch, judged, memory)
        | _gate(config, outputs, excluded)
        | _matching(config, outputs, heads, excluded, for_pairs)
        | hidden_tokens(config, towers, heads, batch)
        | hidden_patches(config, towers.image, heads, batch, for_patches)
    )
    weights = {name: getattr(config, name) for name in OBJECTIVES if name in found}
    loss = sum((weight * found[name] for name, weight in weights.items()), start=jnp.zeros(()))
    found |= {
        "scale": outputs.scale,
        "weight_text": jnp.mean(outputs.products.weights[:, 0]),
        **_shares(config, judged),
    }
    if config.contrast == "sigmoid":
        found["bias"] = outputs.bias
    if outputs.negatives is not None:
        found["hard_negative_fill"] = jnp.mean((batch["negative_key"] != NONE).astype(jnp.float32))
    if memory is None:
        return loss, found, None
    found["memory_fill"] = filled(memory) / memory.product_key.size
    return loss, found, _remember(outputs, batch, memory)


def _judged(config: ObjectivesConfig, batch: Batch) -> Judged:
    keys = Keys(batch["query_key"], batch["product_key"], batch["product_queries"])
    if config.keyword_mask == "title":
        keys = keys._replace(query_words=batch["query_word_keys"], title_words=batch["title_word_keys"])
    return judge_pairs(keys, config.keyword_mask, config.positives == "many")


def _shares(config: ObjectivesConfig, judged: Judged) -> Metrics:
    """Of all pairs of the batch, how many are left out, and how many are further positives."""
    found = {"masked_share": jnp.mean(judged.excluded.astype(jnp.float32))}
    if config.keyword_mask == "title":
        found["masked_title_share"] = jnp.mean(judged.by_title.astype(jnp.float32))
    if config.positives == "many":
        further = jnp.sum(judged.positive) - len(judged.positive)
        found["positive_share"] = further / judged.positive.size
    return found


def _contrasts(
    config: ObjectivesConfig, outputs: Outputs, batch: Batch, judged: Judged, memory: Memory | None
) -> Metrics:
    """QIC, its parts, and the contrasts among a product's own parts (all pairs: CommerceMM, Yu et al. 2022)."""
    asked = [name for name in CONTRASTS if getattr(config, name) > 0]
    sides = _sides(config, outputs, batch)
    of_queries = judged.excluded, judged.positive
    among_products = of_queries
    if any("query" not in _SIDES[name] for name in asked):
        same = same_products(batch["product_key"], batch["title_ids"], sides["title"].present)
        among_products = same, jnp.eye(len(same), dtype=bool)
    found = {}
    for name in asked:
        rows, columns = (sides[side] for side in _SIDES[name])
        left_out, positive = of_queries if "query" in _SIDES[name] else among_products
        past = None
        if name == "qic" and memory is not None:
            columns, past = _with_past(config, columns, batch, memory)
        if name == "qic" and outputs.negatives is not None:
            hard = _hard_negatives(config, outputs.negatives, batch)
            past = hard if past is None else joined(past, hard)
        if config.contrast == "sigmoid":
            found[name] = sigmoid_contrast(rows, columns, left_out, outputs.scale, outputs.bias, past, positive)
        else:
            found[name] = am_softmax(rows, columns, left_out, outputs.scale, config.margin, past, positive)
    return found


def _gate(config: ObjectivesConfig, outputs: Outputs, excluded: jax.Array) -> Metrics:
    """The modal weights against those that each modality earned alone; `gate_target_text` is the mean of the latter."""
    if config.gate_supervision == 0:
        return {}
    products = outputs.products
    both = jnp.all(products.weights > 0, axis=1)
    targets = gate_targets(outputs.queries, products.title, products.picture, excluded, both, outputs.scale)
    wanted = jnp.sum(jnp.where(both, targets[:, 0], 0.0)) / jnp.maximum(jnp.sum(both), 1)
    return {"gate_supervision": gate_loss(products.weights, targets, both), "gate_target_text": wanted}


def _sides(config: ObjectivesConfig, outputs: Outputs, batch: Batch) -> dict[str, Side]:
    products = outputs.products
    shown = products.weights > 0  # which modalities a product has, and did not lose to modality dropout
    query_count: jax.Array | float = 0.0
    product_count: jax.Array | float = 0.0
    if config.log_q > 0:
        query_count = log_counts(batch["query_log_q"], len(shown), config.log_q)
        product_count = log_counts(batch["product_log_q"], len(shown), config.log_q)
    return {
        "query": Side(outputs.queries, jnp.ones(len(shown), bool), query_count),
        "product": Side(products.vector, jnp.any(shown, axis=1), product_count),
        "title": Side(products.title, shown[:, 0], product_count),
        "image": Side(products.picture, shown[:, 1], product_count),
    }


def _with_past(config: ObjectivesConfig, products: Side, batch: Batch, memory: Memory) -> tuple[Side, Past]:
    """The products and those of the memory, as draws of one sample."""
    past = past_negatives(memory, batch["query_key"], batch["product_key"])
    if config.log_q == 0:
        return products, past
    drawn = len(products.present) + filled(memory)
    return (
        products._replace(log_count=log_counts(batch["product_log_q"], drawn, config.log_q)),
        past._replace(log_count=log_counts(memory.log_q, drawn, config.log_q)),
    )


def _hard_negatives(config: ObjectivesConfig, products: ProductEmbedding, batch: Batch) -> Past:
    """The hard negatives of the batch, which are not drawn by popularity: nothing is taken off for it."""
    shape = batch["negative_key"].shape
    return hard_negatives(
        products.vector.reshape(*shape, -1),
        jnp.any(products.weights > 0, axis=1).reshape(shape),
        batch["negative_key"],
        batch["negative_queries"],
        batch["query_key"],
        batch["product_key"],
        config.hard_negative_weight,
    )


def _remember(outputs: Outputs, batch: Batch, memory: Memory) -> Memory:
    vectors, present = outputs.products.vector, jnp.any(outputs.products.weights > 0, axis=1)
    keys = batch["product_key"], batch["query_key"], batch["product_queries"]
    return remember(memory, vectors, present, *keys, batch["product_log_q"])


def _matching(
    config: ObjectivesConfig, outputs: Outputs, heads: LossHeads, excluded: jax.Array, key: jax.Array
) -> Metrics:
    """QIM over the fused states of products, QIM2 over the picture tower's, which know nothing of the title."""
    fused, towers, products = outputs.fused, outputs.towers, outputs.products
    shown = products.weights > 0
    found: Metrics = {}
    if config.qim > 0:
        pairs = _pairs(config, outputs, products.vector, excluded, jnp.any(shown, axis=1), jax.random.fold_in(key, 0))
        segments = [(fused.title, fused.title_mask), (fused.picture, fused.picture_mask)]
        logits = heads.match_product(_segments(outputs.query_states, segments, pairs), False)
        found["qim"], found["qim_accuracy"] = matching_loss(logits, pairs.match, pairs.valid)
    if config.qim2 > 0:
        pairs = _pairs(config, outputs, products.picture, excluded, shown[:, 1], jax.random.fold_in(key, 1))
        segments = [(towers.picture, towers.picture_mask)]
        logits = heads.match_picture(_segments(outputs.query_states, segments, pairs), False)
        found["qim2"], found["qim2_accuracy"] = matching_loss(logits, pairs.match, pairs.valid)
    return found


def _pairs(
    config: ObjectivesConfig,
    outputs: Outputs,
    vectors: jax.Array,
    excluded: jax.Array,
    present: jax.Array,
    key: jax.Array,
) -> Pairs:
    rows = max(1, round(config.matching_share * len(present)))
    logits = outputs.scale * jnp.dot(outputs.queries, vectors.T, precision="highest")
    return draw_pairs(key, logits, excluded, present, rows)


def _segments(query: Segment, product: list[Segment], pairs: Pairs) -> list[Segment]:
    """The states of the queries and products of so many pairs."""
    return [(query[0][pairs.query], query[1][pairs.query])] + [
        (states[pairs.product], mask[pairs.product]) for states, mask in product
    ]


def example_targets(config: ModelConfig) -> dict[str, Any]:
    """What the objectives need of a batch beside its texts and pictures: one row, to make parameters with."""
    key, log_q = jnp.zeros(1, jnp.int32), jnp.zeros(1)
    found = {"query_key": key, "product_key": key, "product_queries": key[None]}
    for name, length in (("query", config.query.max_tokens), ("title", config.title.max_tokens)):
        tokens = jnp.full((1, length), int(config.pad_id == 0), jnp.int32)
        found |= {f"masked_{name}_ids": tokens, f"{name}_targets": tokens}
        found[f"{name}_word_keys"] = tokens
    return found | {"query_log_q": log_q, "product_log_q": log_q}
