"""How fast a training step is, beside the same towers and loss in torch, and what share of a GPU's peak it reaches.

    python benchmarks/train_step.py [--data DATA] [--json FILE]
    python benchmarks/train_step.py --device gpu [--set compute.remat=dots] [--json FILE]

See docs/benchmarks.md for what is compared. Torch takes part where it is installed:
`pip install -c requirements.txt -e '.[benchmark]'`. TensorFlow is not needed but for --data.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, get_args

import click
import numpy as np
import train_contestants as contestants
from harness import Row, Starter, in_new_process, race, report
from train_contestants import Device, Task
from train_sizes import Size, experiment_of, write_batches

from make_jax.config import Experiment
from make_jax.errors import UserError
from make_jax.overrides import apply_overrides
from make_jax.planning.gpus import bf16_flops

# Nothing heavy is imported here: every process that is started imports this file again.

_READY = 2  # steps at the start of a turn that are not counted; nobody has any ready, but caches are cold
_FULL_LENGTH_TARGET, _CATALOGUE_TARGET, _GPU_TARGET = 1.0, 1.5, 1.3
_UTILISATION = 45.0  # percent
_MOST_GIGABYTES = 60.0
_GPU_SETTINGS = ("compute.dtype=bfloat16", "compute.attention=cudnn", "compute.unroll=12")


class _Huge(NamedTuple):
    """A contrastive batch that does not fit at once."""

    batch_size: int
    microbatches: int
    chunk_size: int

    def settings(self) -> list[str]:
        return [
            f"training.batch_size={self.batch_size}",
            f"training.microbatches={self.microbatches}",
            f"objectives.chunk_size={self.chunk_size}",
        ]


_HUGE: dict[Size, _Huge] = {"toy": _Huge(32, 4, 8), "sketch": _Huge(32768, 64, 1024), "base": _Huge(32768, 128, 1024)}


@click.command(context_settings={"show_default": True})
@click.option(
    "--device", type=click.Choice(["auto", *get_args(Device)]), default="auto", help="auto: a GPU if there is one."
)
@click.option("--size", type=click.Choice(get_args(Size)), help="Of the towers; base on a GPU, else sketch.")
@click.option("--batch-size", type=click.IntRange(2), help="Instead of the size's own.")
@click.option("--data", type=click.Path(exists=True), help="Prepared data, to train on a real catalogue, too.")
@click.option("--batches", default=16, help="How many batches of the data are gone through again and again.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Of ours, as make-jax train takes it.")
@click.option("--compile/--no-compile", "compiles", default=True, help="Whether torch.compile takes part.")
@click.option("--threads", type=click.IntRange(1), default=2, help="Of a CPU.")
@click.option("--seconds", default=60.0, help="How long each contestant is timed.")
@click.option("--rounds", type=click.IntRange(1), default=5, help="Into how many turns that is divided.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the table here.")
def main(
    device: str,
    size: Size | None,
    batch_size: int | None,
    data: str | None,
    batches: int,
    settings: tuple[str, ...],
    compiles: bool,
    threads: int,
    seconds: float,
    rounds: int,
    json_file: Path | None,
) -> None:
    """Measures training steps against torch, on this machine, in one run."""
    found, name = in_new_process(contestants.find_device)
    if device == "gpu" and found != "gpu":
        raise click.ClickException(f"--device gpu: JAX finds no GPU here, only {name}; install jax[cuda13]")
    on_gpu = found == "gpu" and device != "cpu"
    size = size or ("base" if on_gpu else "sketch")
    racing = _Race(_torch_ways(compiles, on_gpu), rounds, seconds)
    try:
        if on_gpu:
            experiment = apply_overrides(experiment_of(size, batch_size), [*_GPU_SETTINGS, *settings])
            rows = _gpu_rows(racing, experiment, _HUGE[size], name)
        else:
            experiment = apply_overrides(experiment_of(size, batch_size), settings)
            rows = _cpu_rows(racing, experiment, threads, data, batches)
            _say_what_waits(experiment, size, threads)
    except UserError as error:
        raise click.UsageError(str(error)) from error
    report(rows, json_file)


def _torch_ways(compiles: bool, on_gpu: bool) -> dict[str, Callable[[Task], Iterator[Any]]]:
    if find_spec("torch") is None:
        remedy = "pip install -c requirements.txt -e '.[benchmark]'"
        click.echo(f"torch is not installed, so it does not take part; {remedy}")
        return {}
    ways: dict[str, Callable[[Task], Iterator[Any]]] = {}
    if not on_gpu or not compiles:
        ways["torch"] = contestants.torch_steps
    if compiles:
        ways["torch.compile"] = partial(contestants.torch_steps, compiled=True)
    return ways


class _Race(NamedTuple):
    """How ours and torch race."""

    torch_ways: dict[str, Callable[[Task], Iterator[Any]]]
    rounds: int
    seconds: float

    def run(self, name: str, task: Task, target: float) -> tuple[list[Row], float]:
        """A row for each way of torch, and how many steps a second ours made."""
        ways = {"ours": contestants.ours, **self.torch_ways}
        starts: dict[str, Starter] = {way: partial(contestants.alone, steps, task) for way, steps in ways.items()}
        speeds = race(starts, self.rounds, self.seconds / self.rounds, _READY)
        size = task.experiment.training.batch_size
        for way, steps in speeds.items():
            click.echo(f"{name}, {way}: {np.median(steps) * size:,.1f} examples/s")
        ours = speeds.pop("ours")
        value = float(np.median(ours)) * size
        rows = [
            Row(name, value, "examples/s", way, float(np.median(ours / theirs)), target)
            for way, theirs in speeds.items()
        ]
        return rows, float(np.median(ours))


def _cpu_rows(racing: _Race, experiment: Experiment, threads: int, data: str | None, batches: int) -> list[Row]:
    task = Task(experiment, "cpu", threads)
    rows, _ = racing.run(f"step, {experiment.name}, full length", task, _FULL_LENGTH_TARGET)
    if data is None:
        click.echo(f"step, {experiment.name}, catalogue: waits for data; give --data")
        return rows
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        written = in_new_process(write_batches, experiment, data, Path(folder), batches)
        task = Task(written, "cpu", threads, Path(folder))
        return rows + racing.run(f"step, {experiment.name}, catalogue", task, _CATALOGUE_TARGET)[0]


def _gpu_rows(racing: _Race, experiment: Experiment, huge: _Huge, device: str) -> list[Row]:
    name = f"{experiment.name}, {device}"
    rows, steps = racing.run(f"step, {name}", Task(experiment, "gpu", 1), _GPU_TARGET)
    peak = bf16_flops(device)
    if peak is None:
        click.echo(f"MFU, {name}: the peak of this GPU is not known; add it to make_jax/planning/gpus.py")
    else:
        used = 100 * steps * in_new_process(contestants.step_flops, experiment) / peak
        rows.append(Row(f"MFU, {name}", used, "%", f"{_UTILISATION:g} %", used / _UTILISATION, 1.0))
    most = _gigabytes(experiment, huge, "gpu", 1)
    against = f"{_MOST_GIGABYTES:g} GB"
    row = Row(f"memory, batch {huge.batch_size:,}, {name}", most, "GB", against, most / _MOST_GIGABYTES, 1.0, False)
    return [*rows, row]


def _say_what_waits(experiment: Experiment, size: Size, threads: int) -> None:
    """Names the rows that a GPU would have; at toy size a batch in parts is tried on the CPU, to see that it runs."""
    tried = ""
    if size == "toy":
        _gigabytes(experiment, _HUGE[size], "cpu", threads)
        tried = "; tried on the CPU at toy size"
    for row in ("step, base, against torch.compile", "MFU, base", f"memory, batch {_HUGE['base'].batch_size:,}, base"):
        click.echo(f"{row}: waits for an NVIDIA GPU{tried if row.startswith('memory') else ''}")


def _gigabytes(experiment: Experiment, huge: _Huge, device: Device, threads: int) -> float:
    task = Task(apply_overrides(experiment, huge.settings()), device, threads)
    most = in_new_process(contestants.step_gigabytes, task)
    if device == "gpu" and math.isnan(most):
        raise click.ClickException("the GPU does not say how much of its memory was used")
    return most


if __name__ == "__main__":
    main()
