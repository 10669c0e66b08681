"""What the pre-training objectives need beside the towers; nothing of it is used once a model is trained."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from make_jax.config import ComputeConfig, ModelConfig, ObjectivesConfig, TransformerConfig
from make_jax.model.encoders import TextEncoder
from make_jax.model.layers import Transformer, masked_mean

Segment = tuple[jax.Array, jax.Array]


class MatchingHead(nn.Module):
    """Does a product fit a query? A transformer over the states of both.

    Segments (states float[N, L, D'], mask bool[N, L]), the query's first → logits float32[N]. The answer is read off
    the query's words, each of which has looked for itself in the product.
    """

    transformer: TransformerConfig
    compute: ComputeConfig

    @nn.compact
    def __call__(self, segments: list[Segment], deterministic: bool) -> jax.Array:
        width, dtype = self.transformer.width, self.compute.dtype
        # A projection each brings all to one width; its bias says which segment a state is from.
        states = [
            nn.Dense(width, dtype=dtype, name=f"segment_{number}")(part) for number, (part, _) in enumerate(segments)
        ]
        mask = jnp.concatenate([mask for _, mask in segments], axis=1)
        stack = Transformer(self.transformer, self.compute, name="transformer")
        read = stack(jnp.concatenate(states, axis=1), mask, deterministic)
        query_mask = segments[0][1]
        pooled = masked_mean(read[:, : query_mask.shape[1]], query_mask)
        return nn.Dense(1, name="match")(pooled)[:, 0]


class TokenHead(nn.Module):
    """Which token is hidden: states float[..., D] and the tower's own token table [V, D] → logits float32[..., V].

    A transform, then the tied table and a bias of its own for each token (BERT, Devlin et al. 2019).
    """

    compute: ComputeConfig

    @nn.compact
    def __call__(self, states: jax.Array, table: jax.Array) -> jax.Array:
        states = _transformed(states, table.shape[1], self.compute.dtype)
        logits = jnp.matmul(states, table.T.astype(states.dtype), preferred_element_type=jnp.float32)
        return logits + self.param("bias", nn.initializers.zeros, (table.shape[0],))


class PatchHead(nn.Module):
    """What is hidden behind a patch: states float[..., D] → float32[..., F], by a transform and a linear map."""

    features: int
    compute: ComputeConfig

    @nn.compact
    def __call__(self, states: jax.Array) -> jax.Array:
        states = _transformed(states, states.shape[-1], self.compute.dtype)
        return nn.Dense(self.features, name="predict")(states.astype(jnp.float32))


def _transformed(states: jax.Array, width: int, dtype: str) -> jax.Array:
    """What a head reads off states, before its last map; within a module's call."""
    return nn.LayerNorm(dtype=dtype, name="norm")(nn.gelu(nn.Dense(width, dtype=dtype, name="transform")(states)))


class LossHeads(nn.Module):
    """All heads; one that is never called has no parameters."""

    config: ModelConfig
    objectives: ObjectivesConfig
    compute: ComputeConfig = ComputeConfig()

    def setup(self) -> None:
        image, compute = self.config.image, self.compute
        matching = dataclasses.replace(self.config.query.transformer, layers=self.objectives.matching_layers)
        self.match_product = MatchingHead(matching, compute)
        self.match_picture = MatchingHead(matching, compute)
        self.query_tokens = TokenHead(compute)
        self.title_tokens = TokenHead(compute)
        values = (image.region_width or 1) if image.stem == "regions" else 3 * image.patch**2
        self.patch_values = PatchHead(values, compute)
        self.patch_features = PatchHead(image.transformer.width, compute)


def token_table(encoder: TextEncoder) -> jax.Array:
    """The token embeddings of a text encoder that has been called: float32[V, D]."""
    shared = encoder.tokens
    tokens = encoder.variables["params"]["tokens"] if shared is None else shared.variables["params"]
    table: jax.Array = tokens["embedding"]
    return table
