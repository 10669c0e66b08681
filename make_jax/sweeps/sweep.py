"""What a sweep file's `get_sweep()` returns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from make_jax.config import SEEDS, Experiment
from make_jax.errors import UserError
from make_jax.sweeps.space import Distribution

# A whole experiment, or what to change in the base: {"a.b": value} or ["a.b=value"].
Setting = Experiment | Mapping[str, Any] | Sequence[str]


@dataclass(frozen=True)
class Search:
    """A Bayesian search (Optuna's TPE) for the settings with the highest metric.

    Attributes:
      space: what may vary, by key.
      trials: how many settings to try, failed ones included.
      seed: of the search; with one job at a time the same seed makes the same search.
    """

    space: Mapping[str, Distribution]
    trials: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.space:
            raise UserError("Search.space is empty; name at least one key to vary")
        if self.trials < 1:
            raise UserError(f"Search.trials is {self.trials}, but it must be at least 1")


@dataclass(frozen=True)
class Sweep:
    """Runs to compare: every variant, and every trial of a search, with every seed.

    Attributes:
      name: for the table.
      base: the experiment that variants change; needed where one is not a whole experiment.
      variants: by name. In a list, a variant is named after what it changes, a whole experiment by its own name.
      search: further variants, found one after the other.
      seeds: how many, counted from 0, or which.
      minutes: how long each run trains; its number of steps follows from its measured speed. None: as many steps as
        each experiment says.
      metric: the headline: the table is sorted by it, and the search looks for its highest value.
      baseline: the variant that the others are compared with.
    """

    name: str
    base: Experiment | None = None
    variants: Mapping[str, Setting] | Sequence[Setting] = field(default_factory=dict)
    search: Search | None = None
    seeds: int | Sequence[int] = 1
    minutes: float | None = None
    metric: str = "r_precision"
    baseline: str | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise UserError("Sweep.name is empty; give the sweep a name")
        if not self.variants and self.search is None:
            raise UserError(f"Sweep {self.name} has neither variants nor a search; add one of them")
        if self.minutes is not None and not (self.minutes > 0 and math.isfinite(self.minutes)):
            raise UserError(f"Sweep.minutes is {self.minutes}, but it must be above 0; leave it out to train by steps")
        if self.search is not None and self.base is None:
            raise UserError("Sweep.base is missing, and Search.space needs an experiment to vary")
        for seed in self.seed_list:
            if not 0 <= seed < SEEDS:
                raise UserError(f"Sweep.seeds has {seed}, but a seed is from 0 to {SEEDS - 1}")
        if len(set(self.seed_list)) != len(self.seed_list) or not self.seed_list:
            raise UserError(f"Sweep.seeds is {self.seeds}; give at least one seed, and each only once")

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds, one by one."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else tuple(self.seeds)
