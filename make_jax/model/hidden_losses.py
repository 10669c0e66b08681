"""The objectives of a second look, at texts and pictures of which something is hidden."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from make_jax.config import ObjectivesConfig
from make_jax.model.encoders import ImageEncoder, merge_cells, pixels
from make_jax.model.heads import LossHeads, token_table
from make_jax.model.layers import unit_norm
from make_jax.model.outputs import Batch, Metrics, Towers
from make_jax.objectives import masked_patches, masked_tokens


def hidden_tokens(config: ObjectivesConfig, towers: Towers, heads: LossHeads, batch: Batch) -> Metrics:
    """MLM in each text tower: in a cross-modal encoder it hurt (MAKE's predecessor)."""
    if config.mlm == 0:
        return {}
    losses, found = [], {}
    for name, tower, head in (
        ("query", towers.query, heads.query_tokens),
        ("title", towers.title, heads.title_tokens),
    ):
        if tower is None:
            continue
        states, _ = tower(batch[f"masked_{name}_ids"], False)
        places, targets = masked_tokens.hidden_tokens(batch[f"{name}_targets"], config.mask_share)
        logits = head(masked_tokens.take_states(states, places), token_table(tower))
        loss, found[f"mlm_{name}_accuracy"] = masked_tokens.token_loss(logits, targets)
        losses.append(loss)
    return {"mlm": jnp.mean(jnp.stack(losses)), **found}


def hidden_patches(
    config: ObjectivesConfig, tower: ImageEncoder | None, heads: LossHeads, batch: Batch, key: jax.Array
) -> Metrics:
    """MPM and MPM_R in the picture tower."""
    if tower is None or (config.mpm == 0 and config.mpm_r == 0):
        return {}
    for_hiding, for_negatives = jax.random.split(key)
    patches = tower.patches(batch["image"])
    regions = tower.config.stem == "regions"
    there = batch["has_image"] if regions else batch["has_image"].reshape(-1, 1)
    present = jnp.broadcast_to(there, patches.shape[:2])
    hidden = masked_patches.hide_patches(for_hiding, present, config.patch_mask_share)
    mask = masked_patches.hidden_mask(hidden, patches.shape[1])
    states, _ = tower.read(patches, batch["has_image"], False, mask)
    states = masked_patches.take_patches(states.reshape(patches.shape), hidden)
    found: Metrics = {}
    if config.mpm > 0:
        truth = batch["image"] if regions else merge_cells(pixels(batch["image"]), tower.config.patch)[0]
        truth = masked_patches.take_patches(truth.reshape(*patches.shape[:2], -1), hidden)
        found["mpm"] = masked_patches.regression_loss(heads.patch_values(states), truth, hidden.used)
    if config.mpm_r > 0:
        predicted = unit_norm(heads.patch_features(states))
        found["mpm_r"], found["mpm_r_accuracy"] = masked_patches.contrast_loss(
            for_negatives, predicted, unit_norm(patches), present, hidden, config.patch_negatives
        )
    return found
