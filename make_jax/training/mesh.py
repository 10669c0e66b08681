"""The device mesh, and which axes each parameter and batch is split over."""

from __future__ import annotations

import functools
import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from make_jax.config import AXES, DEFAULT_RULES, MeshConfig, Rules
from make_jax.errors import UserError

log = logging.getLogger(__name__)

BATCH = PartitionSpec(("data", "fsdp"))
MEMORY = PartitionSpec(None, *BATCH)


class Whole(NamedTuple):
    """A dimension of a parameter that a rule splits over an axis, but whose `size` that axis' `ways` do not divide."""

    path: str
    shape: tuple[int, ...]
    size: int
    axis: str
    ways: int


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A (data, fsdp, tensor) mesh over all devices, or over those given; raises UserError if they do not fit."""
    devices = list(devices if devices is not None else jax.devices())
    sizes = config.sizes(len(devices))
    # Auto axes: shardings propagate by GSPMD from the annotations on inputs and parameters.
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def path_name(path: Any) -> str:
    """A parameter's path as "query/transformer/layers/up/kernel"."""
    return "/".join(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path)


def parameter_spec(
    path: str, shape: tuple[int, ...], mesh: Mesh, rules: Rules = ()
) -> tuple[PartitionSpec, list[Whole]]:
    """How the first rule that fits splits a parameter, and what it cannot split."""
    axes = next(axes for pattern, axes in (*rules, *DEFAULT_RULES) if re.search(pattern, path)).split()
    if len(axes) > len(shape):  # optimizer counters and the like share a name with nothing that is split
        return PartitionSpec(), []
    split: list[tuple[str, ...] | str | None] = []
    whole = []
    for size, names in zip(shape, ["-"] * (len(shape) - len(axes)) + axes, strict=True):
        named = () if names == "-" else tuple(names.split("+"))
        ways = math.prod(mesh.shape[name] for name in named)
        if size % ways:
            whole.append(Whole(path, shape, size, names, ways))
            named = ()
        split.append(named if len(named) > 1 else next(iter(named), None))
    return PartitionSpec(*split), whole


def state_shardings(state: Any, mesh: Mesh, rules: Rules = ()) -> Any:
    """A NamedSharding per leaf of a training state; moments and averages follow their parameters by name.

    The memory keeps whole batches, each split as a batch is, so that remembering one moves nothing between devices.
    What a rule cannot split is logged, and how much of the parameters is on every device.
    """
    kept: list[Whole] = []
    sizes: dict[str, tuple[int, int]] = {}
    parameters = {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(getattr(state, "params", state))}

    def place(path: Any, leaf: Any) -> NamedSharding:
        name, shape = path_name(path), np.shape(leaf)
        if name.startswith("memory/"):
            return NamedSharding(mesh, MEMORY)
        parts = name.split("/")
        of = next((tail for at in range(len(parts)) if (tail := "/".join(parts[at:])) in parameters), None)
        if of is None:  # a counter or the like
            return NamedSharding(mesh, PartitionSpec())
        spec, whole = parameter_spec(of, shape, mesh, rules)
        sharding = NamedSharding(mesh, spec)
        if of not in sizes:  # moments and averages would say everything again
            kept.extend(whole)
            sizes[of] = math.prod(shape), math.prod(sharding.shard_shape(shape))
        return sharding

    shardings = jax.tree_util.tree_map_with_path(place, state)
    _log_layout(kept, sizes, mesh)
    return shardings


def _log_layout(kept: Sequence[Whole], sizes: Mapping[str, tuple[int, int]], mesh: Mesh) -> None:
    """Say what no axis divides, and what of all is here; sizes: entries of a parameter, and of those here."""
    for path, shape, size, axis, ways in kept:
        log.info("%s %s: %d is not divisible by %s=%d, replicated", path, shape, size, axis, ways)
    if mesh.shape["fsdp"] * mesh.shape["tensor"] > 1 and sizes:
        everywhere = {name: here for name, (entries, here) in sizes.items() if here == entries > 1}
        largest = ", ".join(sorted(everywhere, key=lambda name: -everywhere[name])[:3])
        total, held = (sum(column) for column in zip(*sizes.values(), strict=True))
        log.info(
            "a device holds %.1f of %.1f million parameters; on every device are %.2f million%s",
            held / 1e6,
            total / 1e6,
            sum(everywhere.values()) / 1e6,
            f", the largest {largest}" if largest else "",
        )


def gathered(params: Any, mesh: Mesh, rules: Rules = ()) -> Any:
    """The parameters as the model computes with them: only what tensor splits stays split, the rest is put together.

    Without that XLA is free to move activations to the parts of the parameters instead, and does. It keeps a gathered
    parameter no longer than it is needed. The gradient is split as the parameter is, so no device ever has all of it.
    """
    if mesh.shape["fsdp"] == 1 and not any("data" in axes for _, axes in rules):
        return params

    def place(path: Any, leaf: Any) -> Any:
        name = path_name(path)
        split, _ = parameter_spec(name, leaf.shape, mesh, rules)
        together = PartitionSpec(*("tensor" if "tensor" in (axes or ()) else None for axes in split))
        with jax.named_scope(f"parameter {name}"):  # for profiles and plans
            return _gather(leaf, NamedSharding(mesh, together), NamedSharding(mesh, split))

    return jax.tree_util.tree_map_with_path(place, params)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(leaf: Any, together: NamedSharding, split: NamedSharding) -> Any:
    return jax.lax.with_sharding_constraint(leaf, together)


_gather.defvjp(
    lambda leaf, together, split: (_gather(leaf, together, split), None),
    lambda together, split, _, gradient: (jax.lax.with_sharding_constraint(gradient, split),),
)


def check_rules(rules: Rules, params: Any) -> None:
    """Raises UserError where a rule finds no parameter, or names more dimensions than those have that it finds."""
    shapes = {path_name(path): np.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    for pattern, axes in rules:
        found = [name for name in shapes if re.search(pattern, name)]
        if not found:
            tops = ", ".join(sorted({name.split("/")[0] for name in shapes}))
            raise UserError(f"mesh.rules has {pattern!r}, but no parameter's path has that; paths begin with {tops}")
        short = next((name for name in found if len(shapes[name]) < len(axes.split())), None)
        if short is not None:
            raise UserError(
                f"mesh.rules splits {pattern!r} by {axes!r}, which is {len(axes.split())} dimensions, but {short} has "
                f"{len(shapes[short])}; make the pattern narrower, such as {pattern + 'kernel$'!r}"
            )


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
