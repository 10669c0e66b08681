"""Sets of settings: every combination, or values drawn at random.

A setting is a dict from keys, as `--set` takes them, to values: `{"optimizer.learning_rate": 1e-3}`.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from make_jax.errors import UserError

Settings = dict[str, Any]


@dataclass(frozen=True)
class Between:
    """A number from `low` to `high`; `kind` says how it is drawn."""

    low: float
    high: float
    kind: Literal["uniform", "log_uniform", "whole"]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UserError(f"{self.kind}({self.low}, {self.high}): the first number must be below the second")
        if self.kind == "log_uniform" and self.low <= 0:
            raise UserError(f"log_uniform({self.low}, {self.high}): both must be above 0; use uniform")

    def draw(self, source: random.Random) -> float | int:
        """One value; floats have six digits, which is plenty and easier to read."""
        if self.kind == "whole":
            return source.randint(int(self.low), int(self.high))
        if self.kind == "log_uniform":
            drawn = math.exp(source.uniform(math.log(self.low), math.log(self.high)))
        else:
            drawn = source.uniform(self.low, self.high)
        return min(max(float(f"{drawn:.6g}"), self.low), self.high)

    @property
    def edges(self) -> tuple[Any, ...]:
        """Values that show whether the others are possible."""
        return self.low, self.high


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    options: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise UserError("choice() has nothing to choose from; give it at least one value")

    def draw(self, source: random.Random) -> Any:
        """One of them."""
        return source.choice(self.options)

    @property
    def edges(self) -> tuple[Any, ...]:
        """All of them."""
        return self.options


Distribution = Between | Choice


def uniform(low: float, high: float) -> Between:
    """Any number between two, all as likely."""
    return Between(float(low), float(high), "uniform")


def log_uniform(low: float, high: float) -> Between:
    """Any number between two, all orders of magnitude as likely: for learning rates and the like."""
    return Between(float(low), float(high), "log_uniform")


def whole(low: int, high: int) -> Between:
    """A whole number from `low` to `high`, both included."""
    return Between(int(low), int(high), "whole")


def choice(*options: Any) -> Choice:
    """One of the values given."""
    return Choice(options)


def grid(values: Mapping[str, Sequence[Any]]) -> dict[str, Settings]:
    """Every combination of the values of some keys, named like "learning_rate=0.001,kind=mean".

    Raises:
      UserError: a key without values.
    """
    for key, options in values.items():
        if isinstance(options, str) or not len(options):
            raise UserError(f"grid: {key} is {options!r}, but it must be a list of at least one value")
    combinations = itertools.product(*values.values())
    settings = [dict(zip(values, combination, strict=True)) for combination in combinations]
    return {describe(setting): setting for setting in settings}


def draws(space: Mapping[str, Distribution], count: int, seed: int = 0) -> dict[str, Settings]:
    """`count` settings drawn at random, the same ones for the same seed; a higher count adds to them.

    Raises:
      UserError: `count` is below 1.
    """
    if count < 1:
        raise UserError(f"draws: count is {count}, but it must be at least 1")
    source = random.Random(seed)
    return {f"draw-{number:02d}": draw(space, source) for number in range(count)}


def draw(space: Mapping[str, Distribution], source: random.Random) -> Settings:
    """One value for each key."""
    return {key: distribution.draw(source) for key, distribution in space.items()}


def describe(setting: Mapping[str, Any]) -> str:
    """A setting as "learning_rate=0.001,kind=mean"; keys that end alike are written in full."""
    leaves = [key.rpartition(".")[2] for key in setting]
    return ",".join(
        f"{leaf if leaves.count(leaf) == 1 else key}={value_text(value)}"
        for (key, value), leaf in zip(setting.items(), leaves, strict=True)
    )


def value_text(value: Any) -> str:
    """A value as `--set` takes it."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
