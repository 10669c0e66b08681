"""Compile an experiment's programs for a slice that is not here. Only shapes are needed: no parameter is ever made."""

from __future__ import annotations

import collections
import itertools
import math
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import jax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from make_jax.errors import UserError
from make_jax.model import build_model
from make_jax.planning.batches import product_shapes, train_shapes
from make_jax.planning.chips import Chip, Slice, parse_slice
from make_jax.planning.collectives import Collective, read_collectives, spanned
from make_jax.planning.jobs import Compiled, Exchange, Job, Program
from make_jax.planning.traffic import hbm_bytes
from make_jax.training.flops import matmul_flops, model_flops
from make_jax.training.loop import mesh_for, trainer_for
from make_jax.training.mesh import batch_sharding, gathered

_USED = re.compile(r"Used (?P<used>[\d.]+[KMGT]?) of (?P<limit>[\d.]+[KMGT]?) hbm", re.IGNORECASE)
_HELD = re.compile(r"^\s*(?P<what>program|arguments)\s+(?P<size>[\d.]+[KMGTB]?)", re.MULTILINE)
_PART = {"program": "temporaries", "arguments": "arguments"}


def compile_job(job: Job) -> Compiled:
    """Compile the training step and the embedding of products.

    Raises:
      UserError: the slice does not exist, or mesh, chips and batch do not fit together.
    """
    experiment, place = job.experiment, parse_slice(job.topology)
    devices = _devices(place, job.tpu)
    mesh = mesh_for(experiment, devices)
    model, trainer = build_model(experiment), trainer_for(experiment, mesh)
    split = batch_sharding(mesh)
    batch = {name: _placed(shape, split) for name, shape in train_shapes(experiment).items()}
    state = jax.tree.map(_placed, trainer.shapes, trainer.shardings)
    counted = matmul_flops(trainer.step, trainer.shapes, train_shapes(experiment))
    compiling = _Compiling(place, mesh, job.tpu)
    train = compiling.program(trainer.step, (state, batch), counted)

    embedded = experiment.training.eval_batch_size * mesh.shape["data"] * mesh.shape["fsdp"]
    products = product_shapes(experiment, embedded)
    inputs = [products.get(name) for name in ("title_ids", "image", "has_image", "side_ids")]
    whole = NamedSharding(mesh, PartitionSpec())

    def encode(params: Any, *products: Any) -> Any:
        return model.encode_product(gathered(params, mesh, experiment.mesh.rules), *products)

    placed = [shape and _placed(shape, split) for shape in inputs]
    counted = matmul_flops(model.encode_product, trainer.shapes.params, *inputs)
    return Compiled(
        mesh=dict(mesh.shape),
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(trainer.shapes.params)),
        model_flops=model_flops(model, train_shapes(experiment)),
        state_bytes=sum(_bytes_here(leaf) for leaf in jax.tree.leaves(state)),
        train=train,
        embed=compiling.program(jax.jit(encode, out_shardings=whole), (state.params, *placed), counted),
        embedded=embedded,
    )


def _devices(place: Slice, tpu: bool) -> list[jax.Device]:
    if not tpu:
        return jax.devices("cpu")[: place.chips]
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=place.name).devices)
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith("INVALID_ARGUMENT"):
            raise
        reason = str(error).removeprefix("INVALID_ARGUMENT: ").splitlines()[0]
        raise UserError(f"--topology {place.name}: there is no such slice ({reason}); see docs/plan.md") from error


def _placed(shape: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def _bytes_here(leaf: jax.ShapeDtypeStruct) -> int:
    return math.prod(cast(NamedSharding, leaf.sharding).shard_shape(leaf.shape)) * leaf.dtype.itemsize


class _Compiling:
    """Compiles programs for the chips of one slice."""

    def __init__(self, place: Slice, mesh: Mesh, tpu: bool) -> None:
        self._chip, self._mesh = place.chip, mesh
        self._coordinates = [
            tuple(device.coords) if tpu else position
            for device, position in zip(
                mesh.devices.flat, itertools.product(*(range(size) for size in place.sizes)), strict=True
            )
        ]

    def program(self, function: Any, inputs: tuple[Any, ...], counted: int) -> Program:
        """What a jitted function needs and does; counted: its FLOPs over all chips."""
        began = time.perf_counter()
        lowered = cast(jax.stages.Wrapped, function).lower(*inputs)
        with tempfile.TemporaryDirectory() as folder:
            try:
                compiled = lowered.compile(compiler_options={"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
            except jax.errors.JaxRuntimeError as error:
                if not (overflow := read_overflow(str(error))):
                    raise
                return overflow
            # What libtpu hands back cannot always be read by a jaxlib that is older; what it wrote itself can.
            written = list(Path(folder).glob("*.after_codegen.txt"))
            text = written[0].read_text() if written else compiled.as_text()
        held = compiled.memory_analysis()
        if held is None or text is None:
            raise RuntimeError("this compiler does not tell what its programs need")
        memory = {
            "arguments": held.argument_size_in_bytes,
            "results": held.output_size_in_bytes - held.alias_size_in_bytes,
            "temporaries": held.temp_size_in_bytes,
            "code": held.generated_code_size_in_bytes,
        }
        cost = compiled.cost_analysis() or {}
        # The compiler takes a loop for one turn: the products of the others are known.
        flops = max(float(cost.get("flops", 0.0)), counted / self._mesh.size)
        estimate = float(cost.get("optimal_seconds", -1.0))
        needed = sum(memory.values())
        return Program(
            fits=needed <= self._chip.hbm,
            limit=self._chip.hbm,
            needed=needed,
            memory=memory,
            flops=flops,
            bytes_accessed=float(hbm_bytes(text)),
            estimate=estimate if estimate > 0 else None,
            exchanges=tuple(self._exchanges(text)),
            compile_seconds=time.perf_counter() - began,
        )

    def _exchanges(self, text: str) -> list[Exchange]:
        return summed(read_collectives(text, self._mesh.size), self._coordinates, self._chip)


def summed(collectives: Sequence[Collective], places: Sequence[Sequence[int]], chip: Chip) -> list[Exchange]:
    """Those of one kind, shape and source together, the longest first; a source is without its numbers of layers."""
    groups: dict[tuple[Any, ...], list[Collective]] = collections.defaultdict(list)
    for one in collectives:
        more = f" and {one.arrays - 1} more" if one.arrays > 1 else ""
        array = f"{one.type}[{','.join(map(str, one.shape))}]{more}"
        groups[one.kind, array, readable(one.source), len(one.group)].append(one)
    found = []
    for (kind, array, source, group), members in groups.items():
        sent = [one.sent() * one.times for one in members]
        seconds = sum(
            size / (chip.axis_bandwidth * spanned(one.group, places)) for size, one in zip(sent, members, strict=True)
        )
        found.append(Exchange(kind, array, source, sum(one.times for one in members), group, sum(sent), seconds))
    return sorted(found, key=lambda exchange: -exchange.seconds)


def readable(source: str) -> str:
    """Where in the model an operation comes from, without what jax and flax wrap around it and layers' numbers."""
    backward = "transpose(" in source
    source = re.sub(r"\['(\w+)'\]", r"/\1", source.split(";")[0])
    source = re.sub(r"^(state\.)?params/", "parameter ", source)
    source = re.sub(r".*\b(parameter [\w/]+?)(/sharding_constraint|\)).*", r"\1", source)
    source = re.sub(r"^(jit\(.*?\)/)+|(transpose\()?jvp\([^/]*\)/|\bMakeModule\.\w+/|\w+\.(?=\w)", "", source)
    source = re.sub(r"layer_\d+", "layer_*", source)
    return f"backward of {source}" if backward else source


def read_overflow(message: str) -> Program | None:
    """What the TPU compiler says of a program that does not fit into HBM; None of anything else."""
    match = _USED.search(message)
    if match is None:
        return None
    memory: dict[str, int] = {}
    for held in _HELD.finditer(message):
        memory.setdefault(_PART[held["what"]], _bytes(held["size"]))
    return Program(False, _bytes(match["limit"]), _bytes(match["used"]), memory)


def _bytes(text: str) -> int:
    unit = "KMGT".find(text[-1]) + 1
    return round(float(text.rstrip("KMGTB")) * 1024**unit)
