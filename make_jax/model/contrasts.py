"""The objectives that compare every row with the whole batch: contrasts, and the gate that is taught by them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from make_jax.config import CONTRASTS, OBJECTIVES, ObjectivesConfig
from make_jax.model.outputs import Batch, Contrast, Embedded, Metrics
from make_jax.objectives.chunks import Chunks, map_rows
from make_jax.objectives.contrastive import Side, log_counts
from make_jax.objectives.further import NONE, Further
from make_jax.objectives.gate import gate_loss, gate_targets
from make_jax.objectives.hard_negatives import hard_negatives
from make_jax.objectives.keywords import Keys, ProductKeys, judge_pairs, judge_products, own_pairs
from make_jax.objectives.memory import Memory, filled, past_negatives, remember
from make_jax.objectives.paired import Form, Judge, Known, contrast, shares
from make_jax.objectives.spread import spread

_SIDES = {
    "qic": ("query", "product"),
    "query_title": ("query", "title"),
    "query_image": ("query", "image"),
    "title_image": ("title", "image"),
    "title_product": ("title", "product"),
    "image_product": ("image", "product"),
}


def compare(
    config: ObjectivesConfig,
    embedded: Embedded,
    scalars: Contrast,
    batch: Batch,
    memory: Memory | None,
    chunks: Chunks,
) -> tuple[jax.Array, Metrics, Memory | None]:
    """The weighted sum of the contrasts, what to log (scalars, and the moments of `spread`), and the memory after this
    batch.

    Args:
      config: an objective of weight 0 costs nothing.
      embedded: of this batch.
      scalars: of the contrasts.
      batch: see `data_pipelines.input`.
      memory: of the batches before, None without one.
      chunks: how the pairs of a batch are cut.
    """
    found = _contrasts(config, embedded, scalars, batch, memory, chunks)
    found |= _gate(config, embedded, scalars, batch, chunks)
    loss = weighted(config, found)
    found |= {
        "scale": scalars.scale,
        "weight_text": jnp.mean(embedded.products.weights[:, 0]),
        **_shares(config, batch, chunks),
        **_spread(embedded),
    }
    if config.contrast == "sigmoid":
        found["bias"] = scalars.bias
    if embedded.negatives is not None:
        found["hard_negative_fill"] = jnp.mean((batch["negative_key"] != NONE).astype(jnp.float32))
    if memory is None:
        return loss, found, None
    found["memory_fill"] = filled(memory) / memory.product_key.size
    return loss, found, _remember(embedded, batch, memory)


def weighted(config: ObjectivesConfig, found: Metrics) -> jax.Array:
    """The sum of the objectives among what was found, each by its weight: float32 scalar."""
    weights = {name: getattr(config, name) for name in OBJECTIVES if name in found}
    return sum((weight * found[name] for name, weight in weights.items()), start=jnp.zeros(()))


def pair_keys(config: ObjectivesConfig, batch: Batch) -> Keys:
    """What queries and products are known by to each other."""
    place = jnp.arange(len(batch["query_key"]), dtype=jnp.int32)
    keys = Keys(place, batch["query_key"], batch["product_key"], batch["product_queries"])
    words = {"title": ["title_word_keys"], "words": ["title_word_keys", "product_word_keys"]}.get(config.keyword_mask)
    if words is None:
        return keys
    known = jnp.concatenate([batch[name] for name in words], axis=1)
    return keys._replace(query_words=batch["query_word_keys"], product_words=known)


def pair_judge(config: ObjectivesConfig) -> Judge:
    """What a query and a product are to each other, by their keys."""
    return functools.partial(judge_pairs, mask=config.keyword_mask, many_positives=config.positives == "many")


def _shares(config: ObjectivesConfig, batch: Batch, chunks: Chunks) -> Metrics:
    """Of all pairs of the batch, how many are left out, and how many are further positives."""
    found = shares(pair_keys(config, batch), pair_judge(config), chunks)
    logged = {"masked_share": found["excluded"]}
    if config.keyword_mask in ("title", "words"):
        logged["alike_by_words_share"] = found["by_words"]
    if config.positives == "many":
        logged["positive_share"] = found["positive"] - 1 / len(batch["query_key"])
    return logged


def _spread(embedded: Embedded) -> Metrics:
    products = embedded.products
    shown = jnp.any(products.weights > 0, axis=1)
    return spread(*jax.lax.stop_gradient((embedded.queries, products.vector)), shown)


def _contrasts(
    config: ObjectivesConfig,
    embedded: Embedded,
    scalars: Contrast,
    batch: Batch,
    memory: Memory | None,
    chunks: Chunks,
) -> Metrics:
    """QIC, its parts, and the contrasts among a product's own parts (all pairs: CommerceMM, Yu et al. 2022)."""
    sides = _sides(config, embedded, batch)
    of_pairs = pair_keys(config, batch)
    of_products = ProductKeys(of_pairs.place, batch["product_key"], batch["title_ids"], sides["title"].present)
    form = Form(config.contrast, config.margin, scalars.scale, scalars.bias)
    found = {}
    for name in (name for name in CONTRASTS if getattr(config, name) > 0):
        rows, columns = (sides[side] for side in _SIDES[name])
        further: tuple[Further, ...] = ()
        if name == "qic":
            columns, further = _with_further(config, columns, embedded, batch, memory)
        keys, judge = (of_pairs, pair_judge(config)) if "query" in _SIDES[name] else (of_products, judge_products)
        asked = [(rows, keys)]
        if name == "qic":
            asked += _further_queries(config, of_pairs, embedded, batch)
        lost = [contrast(Known(*query), Known(columns, keys), judge, form, further, chunks) for query in asked]
        found[name] = sum(lost, start=jnp.zeros(())) / len(lost)
    return found


def _further_queries(config: ObjectivesConfig, keys: Keys, embedded: Embedded, batch: Batch) -> list[tuple[Side, Keys]]:
    """The further queries of each pair, as so many batches of queries that ask for the same products."""
    if embedded.further_queries is None:
        return []
    found = []
    for number, vectors in enumerate(jnp.unstack(embedded.further_queries, axis=1)):
        key = batch["further_query_key"][:, number]
        count = jnp.zeros(len(key))
        if config.log_q > 0:
            count = log_counts(batch["further_query_log_q"][:, number], len(key), config.log_q)
        words = None if keys.query_words is None else batch["further_query_word_keys"][:, number]
        found.append((Side(vectors, key != NONE, count), keys._replace(query_key=key, query_words=words)))
    return found


def _gate(config: ObjectivesConfig, embedded: Embedded, scalars: Contrast, batch: Batch, chunks: Chunks) -> Metrics:
    """The modal weights against those that each modality earned alone; `gate_target_text` is the mean of the latter."""
    if config.gate_supervision == 0:
        return {}
    products, keys, judge = embedded.products, pair_keys(config, batch), pair_judge(config)
    both = jnp.all(products.weights > 0, axis=1)

    def part(
        rows: tuple[jax.Array, Keys], columns: tuple[jax.Array, jax.Array, jax.Array, Keys], scale: jax.Array
    ) -> jax.Array:
        (queries, keys), (titles, pictures, both, others) = rows, columns
        own = own_pairs(keys.place, others.place)
        return gate_targets(queries, titles, pictures, judge(keys, others).spared, own, both, scale)

    given = jax.lax.stop_gradient((embedded.queries, products.title, products.picture, scalars.scale))
    targets = map_rows(part, (given[0], keys), (*given[1:3], both, keys), given[3], chunks)
    wanted = jnp.sum(jnp.where(both, targets[:, 0], 0.0)) / jnp.maximum(jnp.sum(both), 1)
    return {"gate_supervision": gate_loss(products.weights, targets, both), "gate_target_text": wanted}


def _sides(config: ObjectivesConfig, embedded: Embedded, batch: Batch) -> dict[str, Side]:
    products = embedded.products
    shown = products.weights > 0  # which modalities a product has, and did not lose to modality dropout
    query_count = product_count = jnp.zeros(len(shown))
    if config.log_q > 0:
        query_count = log_counts(batch["query_log_q"], len(shown), config.log_q)
        product_count = log_counts(batch["product_log_q"], len(shown), config.log_q)
    return {
        "query": Side(embedded.queries, jnp.ones(len(shown), bool), query_count),
        "product": Side(products.vector, jnp.any(shown, axis=1), product_count),
        "title": Side(products.title, shown[:, 0], product_count),
        "image": Side(products.picture, shown[:, 1], product_count),
    }


def _with_further(
    config: ObjectivesConfig, products: Side, embedded: Embedded, batch: Batch, memory: Memory | None
) -> tuple[Side, tuple[Further, ...]]:
    """The products, and what else is a negative of queries: those of the memory, as draws of one sample with the
    products, and mined ones, which are not drawn by popularity, so that nothing is taken off for it."""
    further: tuple[Further, ...] = ()
    if memory is not None:
        drawn = len(products.present) + filled(memory)
        further = (past_negatives(memory, drawn, config.log_q),)
        if config.log_q > 0:
            products = products._replace(log_count=log_counts(batch["product_log_q"], drawn, config.log_q))
    if embedded.negatives is not None:
        mined = embedded.negatives
        present = jnp.any(mined.weights > 0, axis=-1)
        keys = batch["negative_key"], batch["negative_queries"]
        further = (*further, hard_negatives(mined.vector, present, *keys, config.hard_negative_weight))
    return products, further


def _remember(embedded: Embedded, batch: Batch, memory: Memory) -> Memory:
    vectors, present = embedded.products.vector, jnp.any(embedded.products.weights > 0, axis=1)
    keys = batch["product_key"], batch["query_key"], batch["product_queries"]
    return remember(memory, vectors, present, *keys, batch["product_log_q"])
