"""How fast training batches are made, how soon a run goes on, and how much memory that takes.

    python benchmarks/input_pipeline.py [--json FILE] [--seconds 20] [--sizes 60x80:64x80,500x500:224x224]
    python benchmarks/input_pipeline.py --memory [--json FILE] [--products 1000000]

See docs/benchmarks.md for what is compared. Other contestants take part where they are installed:
`pip install -c requirements.txt -e '.[benchmark]'`.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import contestants
import numpy as np
from contestants import WORKERS, Task
from harness import Row, Starter, in_new_process, race, report
from memory import STATUS, memory_use

if TYPE_CHECKING:
    from data_pipelines.shards import Storage

# Nothing heavy is imported here: every process that is started imports this file again.


class _Rival(NamedTuple):
    """Whom to race against; of several ways to set it up, the fastest counts."""

    package: str | None
    ways: dict[str, Callable[[Task], Iterator[Any]]]
    target: float


_DRAFT = ", shrinking JPEGs early"
_RIVALS = (
    _Rival(None, {"tf.data, picture by picture": contestants.raw_pictures}, 0.9),
    _Rival(None, {"tf.data, our way with pictures": contestants.raw_groups}, 0.9),
    _Rival(
        "torch",
        {
            f"torch DataLoader, {WORKERS} processes": contestants.torch_loader,
            f"torch DataLoader, {WORKERS} processes{_DRAFT}": partial(contestants.torch_loader, draft=True),
        },
        1.5,
    ),
    _Rival(
        "grain",
        {
            f"Grain, {WORKERS} processes": contestants.grain_processes,
            f"Grain, {WORKERS} threads": contestants.grain_threads,
            f"Grain, {WORKERS} processes{_DRAFT}": partial(contestants.grain_processes, draft=True),
        },
        1.0,
    ),
)
_FAR_STEP = 1_000_000
_MOST_SECONDS = 5.0
_MOST_RESUME_RATIO = 1.5  # a run that goes on costs what one that begins does, give or take what clocks do
_HOUR = 2770  # steps, at 1.3 seconds each
_MEMORY_BATCH = 384


class Sizes(NamedTuple):
    """Pictures of one size that become pictures of another, each (width, height) in pixels."""

    stored: tuple[int, int]
    wanted: tuple[int, int]

    def __str__(self) -> str:
        return " to ".join(f"{width}x{height}" for width, height in self)


class _SizesType(click.ParamType):
    name = "WxH:WxH,..."

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> list[Sizes]:
        found = []
        for part in value.split(","):
            match = re.fullmatch(r"(\d+)x(\d+):(\d+)x(\d+)", part)
            if match is None:
                self.fail(f"{part!r} is not of the form 60x80:64x80, width x height as stored and as wanted")
            a, b, c, d = map(int, match.groups())
            found.append(Sizes((a, b), (c, d)))
        return found


@click.command()
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the results to this file.")
@click.option("--seconds", default=20.0, show_default=True, help="How long each contestant is timed for each size.")
@click.option(
    "--rounds", type=click.IntRange(1), default=5, show_default=True, help="Into how many turns that is divided."
)
@click.option(
    "--sizes",
    type=_SizesType(),
    default="60x80:64x80,500x500:224x224",
    show_default=True,
    help="Pictures, width x height, as stored and as wanted.",
)
@click.option("--pictures", default=2048, show_default=True, help="How many products there are of each size.")
@click.option("--batch-size", default=256, show_default=True)
@click.option("--memory", is_flag=True, help="Measure memory instead of speed.")
@click.option("--products", default=1_000_000, show_default=True, help="How many products memory is measured with.")
@click.option("--steps", default=_HOUR, show_default=True, help="How many batches of 384 memory is measured over.")
@click.option(
    "--workdir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where the data is written, to be removed at the end; memory needs 7 GB for a million products.",
)
def main(
    json_file: Path | None,
    seconds: float,
    rounds: int,
    sizes: list[Sizes],
    pictures: int,
    batch_size: int,
    memory: bool,
    products: int,
    steps: int,
    workdir: Path | None,
) -> None:
    """Measures the input pipeline against others, on this machine, in one run."""
    with tempfile.TemporaryDirectory(dir=workdir, prefix="benchmark-") as folder:
        if memory:
            rows = _memory_rows(Path(folder), products, steps)
        else:
            rows = _speed_rows(Path(folder), sizes, pictures, batch_size, rounds, seconds)
    report(rows, json_file)


def _speed_rows(
    folder: Path, sizes: list[Sizes], pictures: int, batch_size: int, rounds: int, seconds: float
) -> list[Row]:
    from catalogues import write_small

    rivals = _installed_rivals()
    rows = []
    for number, size in enumerate(sizes):
        place = folder / str(number)
        click.echo(f"{size}: drawing and preparing {pictures:,} products", err=True)
        write_small(place, pictures, size.stored)
        width, height = size.wanted
        task = Task(place, height, width, batch_size)
        rows += _race_rows(task, size, rivals, rounds, seconds)
        rows += _resume_rows(task, size, rounds)
    return rows


def _installed_rivals() -> list[_Rival]:
    """Those to race against; the others are named."""
    rivals = []
    for rival in _RIVALS:
        if rival.package is None or find_spec(rival.package) is not None:
            rivals.append(rival)
        else:
            click.echo(
                f"{rival.package} is not installed, so it does not take part; "
                "pip install -c requirements.txt -e '.[benchmark]'"
            )
    return rivals


def _race_rows(task: Task, size: Sizes, rivals: list[_Rival], rounds: int, seconds: float) -> list[Row]:
    starts: dict[str, Starter] = {"ours": partial(contestants.ours, task)}
    for rival in rivals:
        starts |= {name: partial(start, task) for name, start in rival.ways.items()}
    speeds = race(starts, rounds, seconds / rounds)
    ours = speeds.pop("ours") * task.batch_size
    for name, batches in speeds.items():
        click.echo(f"{size}, {name}: {np.median(batches) * task.batch_size:,.0f} pictures/s")
    rows = []
    for rival in rivals:
        best = max(rival.ways, key=lambda name: np.median(speeds[name]))
        ratio = np.median(ours / (speeds[best] * task.batch_size))
        rows.append(Row(f"input, {size}", float(np.median(ours)), "pictures/s", best, float(ratio), rival.target))
    return rows


def _resume_rows(task: Task, size: Sizes, rounds: int) -> list[Row]:
    """How long it takes to open the data and make the first batch, when a run begins and when one goes on."""
    times = np.array(
        [
            [in_new_process(contestants.first_batch_seconds, task, step) for step in (0, _FAR_STEP)]
            for _ in range(rounds)
        ]
    )
    late = float(np.median(times[:, 1]))
    name, ratio = f"first batch at step {_FAR_STEP:,}, {size}", float(np.median(times[:, 1] / times[:, 0]))
    return [
        Row(name, late, "s", "first batch at step 0", ratio, _MOST_RESUME_RATIO, more_is_better=False),
        Row(name, late, "s", f"{_MOST_SECONDS:g} s", late / _MOST_SECONDS, 1.0, more_is_better=False),
    ]


def _memory_rows(folder: Path, products: int, steps: int) -> list[Row]:
    if not STATUS.exists():
        raise click.ClickException(f"{STATUS} does not exist, so memory cannot be measured; use Linux")
    from large_data import write_large

    folders: dict[Storage, Path] = {storage: folder / storage for storage in ("array_record", "tfrecord")}
    click.echo(f"writing {products:,} products in two forms", err=True)
    write_large(folders, products)
    rows = []
    for storage, place in folders.items():
        use = in_new_process(memory_use, place, _MEMORY_BATCH, steps)
        click.echo(f"{storage}: {use.describe()}")
        rows.append(use.row(f"memory, {storage}, {products:,} products, {steps:,} steps of {_MEMORY_BATCH}"))
    return rows


if __name__ == "__main__":
    main()
