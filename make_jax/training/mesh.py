"""The device mesh, and which axes each parameter and batch is split over."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from make_jax.config import MeshConfig

log = logging.getLogger(__name__)

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))
MEMORY = PartitionSpec(None, *BATCH)

# (pattern of a parameter's path, axes of its dimensions); the first match counts. Column-parallel in, row-parallel
# out: a block needs one reduction after attention and one after the MLP.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"(\bq|\bkv|qkv|up|gate_hidden)/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"(\bq|\bkv|qkv|up|gate_hidden)/bias$", PartitionSpec("tensor")),
    (r"(out|down)/kernel$", PartitionSpec("tensor", "fsdp")),
    (r"(tokens|\bside/\w+)/embedding$", PartitionSpec("tensor", "fsdp")),
    (r"(project_\w+|query_projection|stem_\d+|regions)/kernel$", PartitionSpec(None, "fsdp")),
    (r".*", PartitionSpec()),
)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A (data, fsdp, tensor) mesh over all devices, or over those given; raises UserError if they do not fit."""
    devices = list(devices if devices is not None else jax.devices())
    sizes = config.sizes(len(devices))
    # Auto axes: shardings propagate by GSPMD from the annotations on inputs and parameters.
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def path_name(path: Any) -> str:
    """A parameter's path as "query/transformer/layer_0/up/kernel"."""
    return "/".join(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path)


def parameter_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The first rule that fits; an axis that does not divide its dimension is left out, and said so."""
    spec = next(spec for pattern, spec in RULES if re.search(pattern, path))
    if len(spec) > len(shape):  # optimizer counters and the like share a name with nothing that is split
        return PartitionSpec()
    axes = []
    for size, axis in zip(shape, [*spec, *[None] * (len(shape) - len(spec))], strict=True):
        if axis is not None and size % mesh.shape[axis]:
            log.info("%s %s: %d is not divisible by %s=%d, replicated", path, shape, size, axis, mesh.shape[axis])
            axis = None
        axes.append(axis)
    return PartitionSpec(*axes)


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """A NamedSharding per leaf of a training state; optimizer moments follow their parameters by name.

    The memory keeps whole batches, each split as a batch is, so that remembering one moves nothing between devices.
    """

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = path_name(path)
        spec = MEMORY if name.startswith("memory/") else parameter_spec(name, np.shape(leaf), mesh)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, state)


def replaced(params: Any, given: Mapping[str, np.ndarray]) -> Any:
    """The parameters with those given by path in place of their own, laid out as they were."""

    def place(path: Any, leaf: jax.Array) -> jax.Array:
        value = given.get(path_name(path))
        if value is None:
            return leaf
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: value[index])

    return jax.tree_util.tree_map_with_path(place, params)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches are split over their first dimension, by data and fsdp."""
    return NamedSharding(mesh, BATCH)


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process' rows of a global batch, as global arrays split over the mesh."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}
