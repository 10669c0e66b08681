"""Bayesian search through Optuna, the only place that knows it.

The study lies in WORKDIR/study.log (Optuna's journal: plain text, which `optuna-dashboard` reads too), so a search that
was stopped goes on with what it has learned. Every trial is a variant, "trial-007", whose objective is the mean of the
metric over the seeds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from make_jax.errors import UserError
from make_jax.sweeps.execute import Outcome
from make_jax.sweeps.folders import RunFolder, write_variant
from make_jax.sweeps.plan import PlannedRun, Variant, make_variant
from make_jax.sweeps.space import Choice, Distribution, value_text
from make_jax.sweeps.sweep import Search, Sweep

log = logging.getLogger(__name__)

Objective = Callable[[PlannedRun], float | None]


def check_optuna() -> None:
    """Refuse a search where its library is missing; raises UserError."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UserError(f"a search needs Optuna, and {error}; pip install 'make_jax[search]'") from error


class _Trial:
    """A trial at work: the seeds not taken yet, the values of those that have ended."""

    def __init__(self, number: int, variant: Variant, seeds: Sequence[int]) -> None:
        self.number, self.variant, self.total = number, variant, len(seeds)
        self.seeds = list(seeds)
        self.values: list[float | None] = []


class SearchSource:
    """Runs that a study asks for, as long as it has trials left; see `schedule.Source`.

    Args:
      sweep: with a search.
      sets: settings of every run.
      workdir: of the sweep.
      objective: the metric of a run that is done, None if it has none.
    """

    def __init__(self, sweep: Sweep, sets: Sequence[str], workdir: Path, objective: Objective) -> None:
        assert sweep.search is not None
        check_optuna()
        self._sweep, self._sets, self._workdir, self._objective = sweep, sets, workdir, objective
        self._search: Search = sweep.search
        self._study = _open_study(workdir / "study.log", sweep)
        self._open: list[_Trial] = []
        waiting = [trial for trial in self._study.trials if not trial.state.is_finished()]
        for trial in waiting:  # taken by a process that was stopped
            self._begin(trial.number, trial.params)

    def take(self) -> PlannedRun | None:
        while True:
            for trial in self._open:
                if trial.seeds:
                    return PlannedRun(trial.variant, trial.seeds.pop(0))
            if len(self._study.trials) >= self._search.trials:
                return None
            self._ask()

    def ended(self, run: PlannedRun, outcome: Outcome) -> None:
        trial = next(trial for trial in self._open if trial.variant.name == run.variant.name)
        if outcome.state in ("stopped", "busy"):
            trial.seeds.clear()  # stays open in the study, and goes on next time
            return
        trial.values.append(self._objective(run) if outcome.state == "done" else None)
        if len(trial.values) == trial.total:
            self._open.remove(trial)
            self._tell(trial)

    def left(self) -> int:
        new = max(self._search.trials - len(self._study.trials), 0)
        return new * len(self._sweep.seed_list) + sum(len(trial.seeds) for trial in self._open)

    def _ask(self) -> None:
        import optuna

        # A sampler made anew for every trial draws the same whether or not the search was stopped in between.
        number = len(self._study.trials)
        seed = (self._search.seed * 1_000_003 + number) % 2**32
        self._study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        space = {key: _distribution(d) for key, d in self._search.space.items()}
        trial = self._study.ask(space)
        self._begin(trial.number, trial.params)

    def _begin(self, number: int, params: dict[str, Any]) -> None:
        from optuna.trial import TrialState

        name = f"trial-{number:03d}"
        params = {key: _rounded(value) for key, value in params.items()}
        try:
            variant = make_variant(self._sweep, name, params, self._sets)
        except UserError as error:  # a combination that the configuration refuses teaches the study to avoid it
            log.warning("%s", error)
            self._refuse(name, params, str(error))
            self._study.tell(number, state=TrialState.FAIL)
            return
        write_variant(self._workdir, variant)
        self._open.append(_Trial(number, variant, self._sweep.seed_list))

    def _refuse(self, name: str, params: dict[str, Any], reason: str) -> None:
        """Record a trial that cannot be run, so that the table shows it."""
        assert self._sweep.base is not None
        variant = Variant(name, {key: value_text(value) for key, value in params.items()}, self._sweep.base)
        write_variant(self._workdir, variant)
        for seed in self._sweep.seed_list:
            RunFolder(self._workdir, PlannedRun(variant, seed)).write_status(state="failed", reason=reason, seconds=0.0)

    def _tell(self, trial: _Trial) -> None:
        from optuna.trial import TrialState

        values = [value for value in trial.values if value is not None]
        if len(values) < trial.total:
            folder = RunFolder(self._workdir, PlannedRun(trial.variant, self._sweep.seed_list[0]))
            log.warning("%s counts as failed: see %s", trial.variant.name, folder.variant)
            self._study.tell(trial.number, state=TrialState.FAIL)
            return
        self._study.tell(trial.number, fmean(values))
        log.info("best so far: trial-%03d with %.4f", self._study.best_trial.number, self._study.best_value)


def _open_study(journal: Path, sweep: Sweep) -> Any:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    assert sweep.search is not None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=sweep.name,
        storage=JournalStorage(JournalFileBackend(str(journal))),
        direction="maximize",
        load_if_exists=True,
    )
    facts = {"metric": sweep.metric, "space": repr(dict(sweep.search.space))}
    for name, now in facts.items():
        before = study.user_attrs.get(name, now)
        if before != now:
            raise UserError(
                f"{journal}: the search was begun with the {name} {before}, and now it is {now}; choose another "
                "--workdir or put it back"
            )
        study.set_user_attr(name, now)
    return study


def _distribution(distribution: Distribution) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, Choice):
        return CategoricalDistribution(distribution.options)
    if distribution.kind == "whole":
        return IntDistribution(int(distribution.low), int(distribution.high))
    return FloatDistribution(distribution.low, distribution.high, log=distribution.kind == "log_uniform")


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
