"""The objectives that look into the rows of a batch: matching, and a second look with something hidden."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from make_jax.config import ModelConfig, ObjectivesConfig
from make_jax.model.contrasts import pair_judge, pair_keys, weighted
from make_jax.model.heads import LossHeads, Segment
from make_jax.model.hidden_losses import hidden_patches, hidden_tokens
from make_jax.model.outputs import Batch, Contrast, Metrics, Outputs, Towers
from make_jax.objectives.chunks import Chunks
from make_jax.objectives.contrastive import Side
from make_jax.objectives.matching import Pairs, draw_pairs, matching_loss
from make_jax.objectives.paired import Known


def read(
    config: ObjectivesConfig,
    outputs: Outputs,
    scalars: Contrast,
    towers: Towers,
    heads: LossHeads,
    batch: Batch,
    key: jax.Array,
    chunks: Chunks,
) -> tuple[jax.Array, Metrics]:
    """The weighted sum of these objectives, and what to log.

    Args:
      config: an objective of weight 0 costs nothing.
      outputs: of this batch.
      scalars: of the contrasts, by which matching draws.
      towers, heads: bound to their parameters.
      batch: see `data_pipelines.input`.
      key: decides what is drawn.
      chunks: how the pairs of a batch are cut.
    """
    for_pairs, for_patches = jax.random.split(key)
    found = (
        _matching(config, outputs, scalars, heads, batch, for_pairs, chunks)
        | hidden_tokens(config, towers, heads, batch)
        | hidden_patches(config, towers.image, heads, batch, for_patches)
    )
    return weighted(config, found), found


def _matching(
    config: ObjectivesConfig,
    outputs: Outputs,
    scalars: Contrast,
    heads: LossHeads,
    batch: Batch,
    key: jax.Array,
    chunks: Chunks,
) -> Metrics:
    """QIM over the fused states of products, QIM2 over the picture tower's, which know nothing of the title."""
    fused, towers, products = outputs.fused, outputs.towers, outputs.embedded.products
    shown = products.weights > 0
    keys, judge = pair_keys(config, batch), pair_judge(config)
    rows = max(1, round(config.matching_share * len(shown)))
    queries = Known(Side(outputs.embedded.queries, jnp.ones(len(shown), bool), jnp.zeros(len(shown))), keys)

    def pairs_with(vectors: jax.Array, present: jax.Array, number: int) -> Pairs:
        candidates = Known(Side(vectors, present, jnp.zeros(len(shown))), keys)
        return draw_pairs(jax.random.fold_in(key, number), queries, candidates, judge, scalars.scale, rows, chunks)

    found: Metrics = {}
    if config.qim > 0:
        pairs = pairs_with(products.vector, jnp.any(shown, axis=1), 0)
        segments = [(fused.title, fused.title_mask), (fused.picture, fused.picture_mask)]
        logits = heads.match_product(_segments(outputs.query_states, segments, pairs), False)
        found["qim"], found["qim_accuracy"] = matching_loss(logits, pairs.match, pairs.valid)
    if config.qim2 > 0:
        pairs = pairs_with(products.picture, shown[:, 1], 1)
        segments = [(towers.picture, towers.picture_mask)]
        logits = heads.match_picture(_segments(outputs.query_states, segments, pairs), False)
        found["qim2"], found["qim2_accuracy"] = matching_loss(logits, pairs.match, pairs.valid)
    return found


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
    found["product_word_keys"] = key[None]
    return found | {"query_log_q": log_q, "product_log_q": log_q}
