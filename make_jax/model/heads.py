"""What the pre-training objectives need beside the towers; nothing of it is used once a model is trained."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from make_jax.config import ModelConfig, ObjectivesConfig, TransformerConfig
from make_jax.model.layers import Transformer, masked_mean

Segment = tuple[jax.Array, jax.Array]


class MatchingHead(nn.Module):
    """Does a product fit a query? A transformer over the states of both.

    Segments (states float[N, L, D'], mask bool[N, L]), the query's first → logits float32[N]. The answer is read off
    the query's words, each of which has looked for itself in the product.
    """

    transformer: TransformerConfig

    @nn.compact
    def __call__(self, segments: list[Segment], deterministic: bool) -> jax.Array:
        width = self.transformer.width
        # A projection each brings all to one width; its bias says which segment a state is from.
        states = [nn.Dense(width, name=f"segment_{number}")(part) for number, (part, _) in enumerate(segments)]
        mask = jnp.concatenate([mask for _, mask in segments], axis=1)
        read = Transformer(self.transformer, name="transformer")(jnp.concatenate(states, axis=1), mask, deterministic)
        query_mask = segments[0][1]
        pooled = masked_mean(read[:, : query_mask.shape[1]], query_mask)
        return nn.Dense(1, name="match")(pooled)[:, 0]


class TokenHead(nn.Module):
    """Which token is hidden: states float[..., D] and the tower's own token table [V, D] → logits float32[..., V].

    A transform, then the tied table and a bias of its own for each token (BERT, Devlin et al. 2019).
    """

    @nn.compact
    def __call__(self, states: jax.Array, table: jax.Array) -> jax.Array:
        states = nn.LayerNorm(name="norm")(nn.gelu(nn.Dense(table.shape[1], name="transform")(states)))
        return states @ table.T + self.param("bias", nn.initializers.zeros, (table.shape[0],))


class PatchHead(nn.Module):
    """What is hidden behind a patch: states float[..., D] → float32[..., F], by a transform and a linear map."""

    features: int

    @nn.compact
    def __call__(self, states: jax.Array) -> jax.Array:
        states = nn.LayerNorm(name="norm")(nn.gelu(nn.Dense(states.shape[-1], name="transform")(states)))
        return nn.Dense(self.features, name="predict")(states)


class LossHeads(nn.Module):
    """All heads; one that is never called has no parameters."""

    config: ModelConfig
    objectives: ObjectivesConfig

    def setup(self) -> None:
        image = self.config.image
        matching = dataclasses.replace(self.config.query.transformer, layers=self.objectives.matching_layers)
        self.match_product = MatchingHead(matching)
        self.match_picture = MatchingHead(matching)
        self.query_tokens = TokenHead()
        self.title_tokens = TokenHead()
        self.patch_values = PatchHead((image.region_width or 1) if image.stem == "regions" else 3 * image.patch**2)
        self.patch_features = PatchHead(image.transformer.width)


def token_table(encoder: nn.Module) -> jax.Array:
    """The token embeddings of a text encoder that has been called: float32[V, D]."""
    table: jax.Array = encoder.variables["params"]["tokens"]["embedding"]
    return table
