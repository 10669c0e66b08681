"""Loss and gradients of a batch, whole or in parts: GradCache (Gao et al. 2021, arXiv 2101.06983).

In parts the towers run twice: first to embed all rows, without gradient; then the contrasts of the whole batch say what
the gradient of every vector is; then each part is embedded again, by the same randomness, and that gradient goes down
into the parameters. So only one part's activations are alive, while every row is compared with all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from make_jax.model import RetrievalModel
from make_jax.model.outputs import Batch, Metrics

Found = tuple[tuple[jax.Array, tuple[Metrics, Any]], Any]
Gradients = Callable[[Any, Any, Batch, jax.Array], Found]


def gradients(
    model: RetrievalModel, hold: Callable[[Any], Any], microbatches: int, layout: NamedSharding | None = None
) -> Gradients:
    """The function (params, memory, batch, rng) → ((loss, (metrics, memory)), gradients).

    Args:
      model: whose loss it is.
      hold: cuts the parameters that are not to learn off from the gradient.
      microbatches: K, how many parts. 1 is `model.losses`. Of K, part k has the rows k, k + K, k + 2K, …, which lie on
        the same devices as before, and the randomness `fold_in(rng, k)`. What looks into rows (`model.read`) sees a
        part at a time and is the mean over the parts, its metrics too.
      layout: how the rows of a batch lie on a mesh.
    """

    def losses(params: Any, memory: Any, batch: Batch, rng: jax.Array) -> tuple[jax.Array, tuple[Metrics, Any]]:
        return model.losses(hold(params), memory, batch, rng, layout)

    def in_parts(params: Any, memory: Any, batch: Batch, rng: jax.Array) -> Found:
        def embed(number: jax.Array) -> Any:
            return model.embed(hold(params), part(batch, number, microbatches, layout), jax.random.fold_in(rng, number))

        def compare(params: Any, embedded: Any) -> tuple[jax.Array, tuple[Metrics, Any]]:
            return model.compare(hold(params), embedded, memory, batch, layout)

        def again(total: Any, given: tuple[jax.Array, Any]) -> tuple[Any, tuple[jax.Array, Metrics]]:
            number, wanted = given
            rows, key = part(batch, number, microbatches, layout), jax.random.fold_in(rng, number)

            def read(params: Any) -> tuple[tuple[Any, jax.Array], Metrics]:
                embedded, loss, metrics = model.read(hold(params), rows, key, layout)
                return (embedded, loss), metrics

            (_, loss), pull, metrics = jax.vjp(read, params, has_aux=True)
            (found,) = pull((wanted, jnp.full_like(loss, 1 / microbatches)))
            return jax.tree.map(jnp.add, total, found), (loss, metrics)

        numbers = jnp.arange(microbatches)
        embedded = jax.tree.map(_interleaved, jax.lax.map(embed, numbers))
        (compared, (metrics, memory)), (total, wanted) = jax.value_and_grad(compare, argnums=(0, 1), has_aux=True)(
            params, embedded
        )
        wanted = jax.tree.map(lambda array: _dealt(array, microbatches), wanted)
        total, (read, found) = jax.lax.scan(again, total, (numbers, wanted))
        metrics |= {name: jnp.mean(values) for name, values in found.items()}
        return (compared + jnp.mean(read), (metrics, memory)), total

    return jax.value_and_grad(losses, has_aux=True) if microbatches == 1 else in_parts


def part(batch: Batch, number: jax.Array | int, parts: int, layout: NamedSharding | None = None) -> Batch:
    """The rows number, number + parts, number + 2 · parts, … of a batch."""

    def take(array: jax.Array) -> jax.Array:
        rows = array.reshape(-1, parts, *array.shape[1:])
        taken = jax.lax.dynamic_index_in_dim(rows, number, 1, keepdims=False)
        return taken if layout is None else jax.lax.with_sharding_constraint(taken, layout)

    return jax.tree.map(take, batch)


def _interleaved(array: jax.Array) -> jax.Array:
    """What the parts have, [K, B/K, ...], in the order of the batch: [B, ...]."""
    return jnp.swapaxes(array, 0, 1).reshape(-1, *array.shape[2:])


def _dealt(array: jax.Array, parts: int) -> jax.Array:
    """The other way round: [B, ...] → [K, B/K, ...]."""
    return jnp.swapaxes(array.reshape(-1, parts, *array.shape[1:]), 0, 1)
