"""A contrast from keys: which pairs are what is judged as it is computed, all at once or a chunk of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from make_jax.objectives.chunks import WHOLE, Chunks, map_rows
from make_jax.objectives.contrastive import (
    Lost,
    Past,
    Side,
    am_softmax,
    cosine,
    mean_lost,
    mean_sigmoid,
    sigmoid_contrast,
    sigmoid_rows,
    softmax_rows,
)
from make_jax.objectives.further import Further, past_of
from make_jax.objectives.keywords import Judged

Judge = Callable[[Any, Any], Judged]


class Known(NamedTuple):
    """A side of a contrast, and what its entries are known by: arrays [B, ...], such as `keywords.Keys`.

    log_count of the side is float[B].
    """

    side: Side
    keys: Any


Others = tuple[Known, tuple[Further, ...]]
Scalars = tuple[jax.Array, jax.Array]  # scale and bias


class Form(NamedTuple):
    """Which contrast: "softmax" with its margin, or "sigmoid" with its bias; the scale is of both."""

    kind: Literal["softmax", "sigmoid"]
    margin: float
    scale: jax.Array
    bias: jax.Array


def contrast(
    rows: Known, columns: Known, judge: Judge, form: Form, further: Sequence[Further] = (), chunks: Chunks = WHOLE
) -> jax.Array:
    """`am_softmax` or `sigmoid_contrast` of a batch: float32 scalar.

    In chunks the softmax looks at the pairs twice, once from each side, so that neither direction needs all logits.

    Args:
      rows, columns: the two sides.
      judge: keys of R rows, keys of C columns → what their pairs are, bool[R, C].
      form: which contrast.
      further: negatives of the rows beside the columns; then the keys are `keywords.Keys`.
      chunks: how to cut the pairs.
    """
    if chunks.size == 0:
        judged = judge(rows.keys, columns.keys)
        given = rows.side, columns.side, judged.excluded, form.scale
        past = _past(further, rows.keys)
        if form.kind == "sigmoid":
            return sigmoid_contrast(*given, form.bias, past, judged.positive)
        return am_softmax(*given, form.margin, past, judged.positive)
    others, scalars = (columns, tuple(further)), (form.scale, form.bias)
    if form.kind == "sigmoid":
        lost = map_rows(_sigmoid_part(judge), rows, others, scalars, chunks)
        return mean_sigmoid(lost, rows.side, columns.side)
    there = map_rows(_softmax_part(judge, form.margin), rows, others, scalars, chunks)
    back = map_rows(_softmax_part(turned(judge), form.margin), columns, (rows, ()), scalars, chunks)
    return 0.5 * (mean_lost(there) + mean_lost(back))


def _softmax_part(judge: Judge, margin: float) -> Callable[[Known, Others, Scalars], Lost]:
    def part(rows: Known, others: Others, scalars: Scalars) -> Lost:
        (columns, further), (scale, _) = others, scalars
        judged, pairs = judge(rows.keys, columns.keys), (rows.side, columns.side)
        past = _past(further, rows.keys)
        return softmax_rows(cosine(*pairs), *pairs, judged.excluded, judged.positive, scale, margin, past)

    return part


def _sigmoid_part(judge: Judge) -> Callable[[Known, Others, Scalars], jax.Array]:
    def part(rows: Known, others: Others, scalars: Scalars) -> jax.Array:
        columns, further = others
        judged, past = judge(rows.keys, columns.keys), _past(further, rows.keys)
        return sigmoid_rows(rows.side, columns.side, judged.excluded, judged.positive, *scalars, past)

    return part


def _past(further: Sequence[Further], keys: Any) -> Past | None:
    return past_of(further, keys.query_key, keys.product_key) if further else None


def turned(judge: Judge) -> Judge:
    """The same of columns and rows."""
    return lambda rows, columns: judge(columns, rows).transposed


def shares(keys: Any, judge: Judge, chunks: Chunks = WHOLE) -> dict[str, jax.Array]:
    """Of all pairs of a batch, the shares of each sort that `Judged` has, the own pairs among the positive."""

    def part(rows: Any, columns: Any, _: Any) -> dict[str, jax.Array]:
        judged = judge(rows, columns)._asdict()
        return {name: jnp.mean(pairs, axis=1, dtype=jnp.float32) for name, pairs in judged.items()}

    return {name: jnp.mean(share) for name, share in map_rows(part, keys, keys, (), chunks).items()}
