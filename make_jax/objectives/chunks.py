"""Rows against all columns of a batch, a chunk of rows at a time, on every device its own rows.

What a function makes of rows and columns (logits, masks) is as large as rows times columns. Here it is alive for one
chunk of rows only, forward and backward: the gradient makes it again for each chunk. On a mesh the rows stay on their
devices and the columns are gathered from all; the gradient of the columns goes back by the transposed collective, a
reduce-scatter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

Function = Callable[[Any, Any, Any], Any]


class Chunks(NamedTuple):
    """How to cut: at most `size` rows at a time on a device, 0 for all rows at once and no cutting at all.

    layout: how the rows of a batch lie on a mesh, their first dimension split over some of its axes; None on a single
    device.
    """

    size: int = 0
    layout: NamedSharding | None = None


WHOLE = Chunks()


def map_rows(function: Function, rows: Any, columns: Any, fixed: Any, chunks: Chunks) -> Any:
    """function(rows, columns, fixed), whose results are of rows, computed in chunks.

    Args:
      function: of R rows, C columns and what is fixed → arrays [R, ...]; rows with nothing but zeros must do no harm.
      rows: arrays [R, ...] in any tree.
      columns: arrays [C, ...]; on a mesh its devices divide C.
      fixed: arrays of any shape, all of which every row sees.
      chunks: how to cut.
    """
    if chunks.size == 0:
        return function(rows, columns, fixed)
    if chunks.layout is None:
        return _in_chunks(function, rows, columns, fixed, chunks.size)
    axes, mesh = chunks.layout.spec[0], chunks.layout.mesh
    axes = (axes,) if isinstance(axes, str) else axes
    count = _length(rows)
    shared_out = _padded(rows, -count % math.prod(mesh.shape[axis] for axis in axes))

    def on_device(rows: Any, columns: Any, fixed: Any) -> Any:
        columns = jax.tree.map(lambda array: jax.lax.all_gather(array, axes, tiled=True), columns)
        return _in_chunks(function, rows, columns, fixed, chunks.size)

    split, whole = PartitionSpec(axes), PartitionSpec()
    found = jax.shard_map(on_device, mesh=mesh, in_specs=(split, split, whole), out_specs=split)(
        shared_out, columns, fixed
    )
    return jax.tree.map(lambda array: array[:count], found)


def _in_chunks(function: Function, rows: Any, columns: Any, fixed: Any, size: int) -> Any:
    count = _length(rows)
    number = -(-count // size)
    size = -(-count // number)  # as even as can be, so that little is padded
    padded = _padded(rows, number * size - count)
    parts = jax.tree.map(lambda array: array.reshape(number, size, *array.shape[1:]), padded)
    # A loop computes nothing twice by itself, so that the checkpoint need not be guarded against it.
    once = jax.checkpoint(function, prevent_cse=False)
    found = jax.lax.map(lambda part: once(part, columns, fixed), parts)
    return jax.tree.map(lambda array: array.reshape(number * size, *array.shape[2:])[:count], found)


def _length(rows: Any) -> int:
    return int(jax.tree.leaves(rows)[0].shape[0])


def _padded(rows: Any, more: int) -> Any:
    """The rows and so many more of zeros."""
    return jax.tree.map(lambda array: jnp.pad(array, [(0, more)] + [(0, 0)] * (array.ndim - 1)), rows)
