"""What is to be compiled, and what came of it; both travel as JSON to and from the process that compiles."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from make_jax.config import Experiment
from make_jax.overrides import from_dict


@dataclass(frozen=True)
class Job:
    """An experiment, complete, and the slice to compile it for; `tpu` False takes XLA's CPU compiler instead."""

    label: str
    experiment: Experiment
    topology: str
    tpu: bool

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Job:
        """The inverse of `dataclasses.asdict`."""
        return cls(**tree | {"experiment": from_dict(tree["experiment"])})


@dataclass(frozen=True)
class Exchange:
    """Collectives of one kind and shape: `bytes` each chip sends in all of them, in `seconds` at best."""

    kind: str
    array: str
    source: str
    count: int
    group: int
    bytes: float
    seconds: float


@dataclass(frozen=True)
class Program:
    """One compiled program, all numbers for one chip and one call.

    Bytes of memory by what it holds, of which `limit` is there; `needed` in all. FLOPs as the compiler counts them, or
    those of the matrix products, where loops hide some from it; `bytes_accessed` of memory, see `traffic.hbm_bytes`;
    `estimate` is the compiler's own, in seconds, None where it gives none. A program that does not fit has `fits`
    False, and neither FLOPs nor exchanges.
    """

    fits: bool
    limit: int
    needed: int
    memory: dict[str, int] = field(default_factory=dict)
    flops: float = 0.0
    bytes_accessed: float = 0.0
    estimate: float | None = None
    exchanges: tuple[Exchange, ...] = ()
    compile_seconds: float = 0.0

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Program:
        """The inverse of `dataclasses.asdict`."""
        return cls(**tree | {"exchanges": tuple(Exchange(**exchange) for exchange in tree["exchanges"])})


@dataclass(frozen=True)
class Compiled:
    """What came of a job: mesh sizes, parameters, the model's FLOPs of a global batch, bytes of what a chip keeps
    from step to step, and the programs: the training step and the embedding of `embedded` products at a time."""

    mesh: dict[str, int]
    parameters: int
    model_flops: int
    state_bytes: int
    train: Program
    embed: Program
    embedded: int

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Compiled:
        """The inverse of `dataclasses.asdict`."""
        programs = {name: Program.from_json(tree[name]) for name in ("train", "embed")}
        return cls(**tree | programs)


def to_json(value: Job | Compiled) -> dict[str, Any]:
    """As `from_json` reads it."""
    return dataclasses.asdict(value)
