"""From a compiled program to times, and to what would make it fit."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import NamedTuple

from make_jax.config import Experiment
from make_jax.planning.chips import GIB, Chip
from make_jax.planning.jobs import Compiled, Exchange, Program


class Roofline(NamedTuple):
    """Seconds that each part of a machine is busy at least; they overlap at best, so the longest is the step."""

    compute: float
    memory: float
    interconnect: float

    @property
    def seconds(self) -> float:
        """Of the whole."""
        return max(self)

    @property
    def bound(self) -> str:
        """By what."""
        return self._fields[self.index(self.seconds)]


def roofline(program: Program, chip: Chip) -> Roofline:
    """How long a program takes at least."""
    return Roofline(
        program.flops / chip.flops,
        program.bytes_accessed / chip.hbm_bandwidth,
        sum(exchange.seconds for exchange in program.exchanges),
    )


class Speed(NamedTuple):
    """At best: examples a second, the share of the peak that the model's own FLOPs reach, and days for all pairs."""

    examples: float
    utilisation: float
    days: float


def speed(compiled: Compiled, seconds: float, chip: Chip, chips: int, batch_size: int, pairs: int) -> Speed:
    """Of training, where a step takes so many seconds."""
    return Speed(
        batch_size / seconds,
        compiled.model_flops / (seconds * chips * chip.flops),
        pairs / batch_size * seconds / 86400,
    )


def exchanges_by_kind(exchanges: Sequence[Exchange]) -> list[tuple[str, int, float, float]]:
    """(kind, count, bytes sent by a chip, seconds), the longest first."""
    sums: dict[str, list[float]] = collections.defaultdict(lambda: [0, 0.0, 0.0])
    for one in exchanges:
        for column, value in enumerate((one.count, one.bytes, one.seconds)):
            sums[one.kind][column] += value
    found = [(kind, int(count), size, seconds) for kind, (count, size, seconds) in sums.items()]
    return sorted(found, key=lambda row: -row[3])


def remedies(compiled: Compiled, experiment: Experiment) -> list[str]:
    """What to change so that a training step fits, what helps most first."""
    train, mesh = compiled.train, compiled.mesh
    over = train.needed - train.limit
    split = mesh["fsdp"] * mesh["tensor"]
    state, chips = compiled.state_bytes, mesh["data"] * split
    # Temporaries are activations for the most part, and these grow with the rows of a chip.
    rest = max(train.needed - state, 1)
    found = []
    if state > 0.25 * train.limit and mesh["data"] > 1:
        ways = next(way for way in _doubled(split, chips) if way == chips or state * split / way < 0.1 * train.limit)
        found.append(
            f"mesh.fsdp={max(ways // mesh['tensor'], 1)}: parameters and optimizer take {state / GIB:.1f} GiB of each "
            f"chip, and would take {state * split / ways / GIB:.1f}"
        )
    room = train.limit - state
    shards = mesh["data"] * mesh["fsdp"]
    if room > 0.05 * train.limit:
        rows = int(experiment.training.batch_size / shards * 0.95 * room / rest)
        if rows >= 1:
            found.append(
                f"training.batch_size={rows * shards}: the {rest / GIB:.1f} GiB beside the state grow with the batch, "
                "of which a chip has "
                f"{experiment.training.batch_size // shards} now"
            )
    found.append(
        f"a slice of {train.needed / train.limit:.1f} times as many chips for the same batch, or chips with "
        f"{train.needed / GIB:.0f} GiB of HBM: {over / GIB:.1f} GiB are missing on each"
    )
    return found


def _doubled(start: int, end: int) -> list[int]:
    ways = [start]
    while ways[-1] * 2 <= end:
        ways.append(ways[-1] * 2)
    return [*ways[1:], end] if ways[-1] != end else ways[1:] or [end]
