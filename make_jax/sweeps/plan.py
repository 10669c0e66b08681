"""From a sweep to single runs, all checked before any begins."""

from __future__ import annotations

import difflib
import fnmatch
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from make_jax.config import Experiment
from make_jax.errors import UserError
from make_jax.overrides import apply_overrides, call_file
from make_jax.sweeps.space import describe, value_text
from make_jax.sweeps.sweep import Setting, Sweep

log = logging.getLogger(__name__)

_STEPS, _SEED = "training.steps", "training.seed"


@dataclass(frozen=True)
class Variant:
    """One thing to try; `changes` is what it sets, as text by key, empty for a whole experiment."""

    name: str
    changes: Mapping[str, str]
    experiment: Experiment


@dataclass(frozen=True)
class PlannedRun:
    """A variant with a seed; `name` is "VARIANT/seed-N"."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        return f"{self.variant.name}/seed-{self.seed}"

    def experiment(self, steps: int | None = None) -> Experiment:
        """What to train, for so many steps if given."""
        training = replace(self.variant.experiment.training, seed=self.seed)
        return replace(self.variant.experiment, training=replace(training, steps=steps) if steps else training)


def load_sweep(file: Path, seeds: int | None = None, minutes: float | None = None) -> Sweep:
    """The sweep of a Python file, with seeds and minutes of one's own if given; raises UserError."""
    sweep = call_file(file, "get_sweep", Sweep)
    if seeds is not None:
        sweep = replace(sweep, seeds=seeds)
    return sweep if minutes is None else replace(sweep, minutes=minutes)


def plan_variants(sweep: Sweep, sets: Sequence[str]) -> list[Variant]:
    """Every variant but those of a search, with `--set` settings applied to each.

    Raises:
      UserError: a variant that is impossible, which the message names; a `--set` that contradicts one.
    """
    variants = [make_variant(sweep, name, setting, sets) for name, setting in _named(sweep)]
    seen: dict[Experiment, str] = {}
    for variant in variants:
        plain = replace(variant.experiment, name="same")
        if plain in seen:
            log.warning("variants %s and %s are the same experiment", seen[plain], variant.name)
        seen.setdefault(plain, variant.name)
    if sweep.search is not None:
        _check_search(sweep, sets)
    return variants


def make_variant(sweep: Sweep, name: str, setting: Setting, sets: Sequence[str]) -> Variant:
    """One variant, checked; raises UserError."""
    try:
        _check_name(name)
        changes = {} if isinstance(setting, Experiment) else _changes(setting)
        _check_keys(sweep, changes, sets)
        if isinstance(setting, Experiment):
            base = setting
        elif sweep.base is None:
            raise UserError("Sweep.base is missing, and a variant that is no whole experiment needs one to change")
        else:
            base = replace(sweep.base, name=f"{sweep.name}: {name}")
        overrides = [*(f"{key}={text}" for key, text in changes.items()), *sets]
        return Variant(name, changes, apply_overrides(base, overrides))
    except UserError as error:
        raise UserError(f"variant {name}: {error}") from error


def select_runs(variants: Sequence[Variant], seeds: Sequence[int], only: Sequence[str]) -> list[PlannedRun]:
    """The runs to make, seed by seed, so that every variant has a first result early.

    Args:
      variants: all of them.
      seeds: all of them.
      only: names of variants or runs, or patterns of such ("mean*", "*/seed-0"); empty for all.

    Raises:
      UserError: a name that fits nothing.
    """
    runs = [PlannedRun(variant, seed) for seed in seeds for variant in variants]
    if not only:
        return runs
    chosen: set[str] = set()
    for wanted in only:
        exact = {run.name for run in runs if wanted in (run.name, run.variant.name)}
        # A name may hold brackets, so what is meant literally is not read as a pattern.
        found = exact or {
            run.name for run in runs if any(fnmatch.fnmatch(n, wanted) for n in (run.name, run.variant.name))
        }
        if not found:
            names = [variant.name for variant in variants]
            near = difflib.get_close_matches(wanted, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names[:20])}"
            raise UserError(f"--only {wanted}: there is no such variant or run; {hint}")
        chosen |= found
    return [run for run in runs if run.name in chosen]


def _named(sweep: Sweep) -> list[tuple[str, Setting]]:
    if isinstance(sweep.variants, Mapping):
        return list(sweep.variants.items())
    named: list[tuple[str, Setting]] = []
    for setting in sweep.variants:
        if isinstance(setting, Experiment):
            named.append((setting.name, setting))
        else:
            named.append((describe(_changes(setting)) or "base", setting))
    names = [name for name, _ in named]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"Sweep.variants has {name} {names.count(name)} times; give names of your own in a dict")
    return named


def _changes(setting: Mapping[str, Any] | Sequence[str]) -> dict[str, str]:
    if isinstance(setting, Mapping):
        return {key: value_text(value) for key, value in setting.items()}
    changes = {}
    for override in [setting] if isinstance(setting, str) else setting:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"{override}: write it as key=value, such as training.steps=500")
        changes[key.strip()] = text.strip()
    return changes


def _check_name(name: str) -> None:
    if not name.strip() or "/" in name or not name.isprintable():
        raise UserError("a name must have letters that can be printed, and no /; choose another")


def _check_keys(sweep: Sweep, changes: Mapping[str, str], sets: Sequence[str]) -> None:
    """Settings have one source each: the variant, `--set`, the seeds, or the budget."""
    given = {key.strip(): text.strip() for key, _, text in (override.partition("=") for override in sets)}
    for key, text in changes.items():
        if key in given:
            raise UserError(f"{key} is {text}, and --set says {given[key]}; leave one of them out")
    for key, text in {**changes, **given}.items():
        if key == _SEED:
            raise UserError(f"{_SEED} is {text}, but every run has its own; use Sweep.seeds or --seeds")
        if key == _STEPS and sweep.minutes is not None:
            raise UserError(
                f"{_STEPS} is {text}, but it follows from the budget of {sweep.minutes:g} minutes a run; leave out "
                "one of them"
            )


def _check_search(sweep: Sweep, sets: Sequence[str]) -> None:
    """Refuse a search space in which a key is wrong or an end is impossible for itself."""
    assert sweep.search is not None
    for key, distribution in sweep.search.space.items():
        for value in distribution.edges:
            make_variant(sweep, "of the search", {key: value}, sets)
