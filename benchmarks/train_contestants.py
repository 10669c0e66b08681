"""Those who race at training the same towers on the same batches: ours, and torch with and without its compiler.

All batches are on the device before the race begins. Imports are in the functions because each contestant has a
process of its own, which is to hold nothing of the others.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from train_sizes import Contestant, random_batches, written_batches

from make_jax.config import Experiment

Device = Literal["cpu", "gpu"]

_RANDOM_BATCHES = 2


@dataclass(frozen=True)
class Task:
    """What to train, and on what.

    Attributes:
      experiment: complete.
      device: "gpu" computes in the dtype that the experiment says, and torch in bfloat16.
      threads: of a CPU.
      batches: a folder that `write_batches` filled; None for random ones of full length.
    """

    experiment: Experiment
    device: Device
    threads: int
    batches: Path | None = None

    def read(self, contestant: Contestant) -> list[dict[str, np.ndarray]]:
        """The batches that a contestant goes through again and again."""
        if self.batches is not None:
            return list(written_batches(self.batches, contestant))
        return list(random_batches(self.experiment, _RANDOM_BATCHES))


def alone(steps: Callable[[Task], Iterator[Any]], task: Task) -> Iterator[Any]:
    """The steps of a contestant that has this process for itself."""
    settle(task.device, task.threads)
    yield from steps(task)


def settle(device: Device, threads: int) -> None:
    """Gives this process a device, before anything takes one, and no more cores than `threads`."""
    if device == "gpu":
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # others are on the device, too
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if hasattr(os, "sched_setaffinity"):  # what XLA asks for the number of its threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def ours(task: Task) -> Iterator[Any]:
    """Steps of the trainer that `make-jax train` uses; gives what the step before said, to be logged."""
    import jax

    from make_jax.training.host_memory import keep_freed_memory
    from make_jax.training.mesh import make_mesh, place_batch

    keep_freed_memory()  # as `make-jax train` does
    mesh = make_mesh(task.experiment.mesh, jax.devices()[:1])
    trainer = _trainer(task.experiment, mesh)
    state = trainer.init()
    batches = [place_batch(batch, mesh) for batch in task.read("ours")]
    before = None
    for batch in _one_of_each_shape(batches):
        state, before = trainer.step(state, batch)
    for batch in itertools.cycle(batches):
        state, metrics = trainer.step(state, batch)
        # One step is under way while the next is asked for, as in training, where nobody waits for a loss either.
        yield jax.block_until_ready(before)
        before = metrics


def torch_steps(task: Task, compiled: bool = False) -> Iterator[Any]:
    """Steps in torch."""
    import torch
    from torch_twin import NEEDED, train_step

    torch.manual_seed(0)
    gpu = task.device == "gpu"
    if not gpu:
        torch.set_num_threads(task.threads)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if gpu else "cpu"
    step = train_step(task.experiment, device, bf16=gpu, compiled=compiled)
    batches = [{name: torch.from_numpy(batch[name]).to(device) for name in NEEDED} for batch in task.read("torch")]
    for batch in _one_of_each_shape(batches):
        before = step(batch)
    for batch in itertools.cycle(batches):
        loss = step(batch)
        before.item()  # waits as ours does
        before = loss
        yield


def _one_of_each_shape(batches: list[Any]) -> list[Any]:
    """So that whatever compiles has compiled before its first turn."""
    return list({tuple(tuple(array.shape) for array in batch.values()): batch for batch in batches}.values())


def _trainer(experiment: Experiment, mesh: Any) -> Any:
    """As `training.loop.trainer_for` makes it, of which one device needs less: no files, no TensorBoard."""
    from make_jax.model import build_model
    from make_jax.training.optimizer import make_optimizer
    from make_jax.training.step import make_trainer

    config = experiment.training
    optimizer = make_optimizer(experiment.optimizer, config.steps)
    return make_trainer(build_model(experiment), optimizer, mesh, config.seed, microbatches=config.microbatches)


def find_device() -> tuple[Device, str]:
    """What JAX computes on when nothing is said, and its name."""
    import jax

    device = jax.devices()[0]
    return ("gpu" if device.platform == "gpu" else "cpu"), device.device_kind


def step_flops(experiment: Experiment) -> int:
    """What a step needs at least, by its matrix products; see `training.flops.model_flops`."""
    settle("cpu", 1)
    from make_jax.model import build_model
    from make_jax.planning.batches import train_shapes
    from make_jax.training.flops import model_flops

    return model_flops(build_model(experiment), train_shapes(experiment))


def step_gigabytes(task: Task) -> float:
    """The most memory of the device that two steps of ours took; NaN where the device does not say."""
    settle(task.device, task.threads)
    import jax

    for _ in itertools.islice(ours(task), 2):
        pass
    used = jax.devices()[0].memory_stats()
    return used["peak_bytes_in_use"] / 1e9 if used else float("nan")
