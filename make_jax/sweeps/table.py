"""From runs to rows: mean ± deviation over seeds, sorted by the headline metric, compared with a baseline."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from make_jax.errors import UserError
from make_jax.sweeps.results import MAIN, RunResult

_OFF_BUDGET = 0.1  # of the minutes, from which on a run's time is worth a note


class Summary(NamedTuple):
    """The values of the seeds that have one; the deviation is a sample's, None for a single seed."""

    mean: float
    deviation: float | None
    values: tuple[float, ...]


class Difference(NamedTuple):
    """A variant's metric minus the baseline's, with its 95 % interval; None where it cannot be told."""

    difference: float
    low: float | None
    high: float | None

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Row:
    """A variant: its runs, and summaries of those that are done."""

    name: str
    changes: Mapping[str, str]
    runs: tuple[RunResult, ...]
    metrics: Mapping[str, Summary] = field(default_factory=dict)
    segments: Mapping[str, Summary] = field(default_factory=dict)
    difference: Difference | None = None
    is_best: bool = False

    @property
    def done(self) -> tuple[RunResult, ...]:
        return tuple(run for run in self.runs if run.state == "done")

    def mean(self, fact: str) -> float | None:
        """Of a number that every run has, such as seconds; None if none has it."""
        values = [value for run in self.done if (value := getattr(run, fact)) is not None]
        return statistics.fmean(values) if values else None


@dataclass(frozen=True)
class Table:
    """All that the table's files show."""

    sweep: str
    metric: str
    rows: tuple[Row, ...]
    command: str
    baseline: str | None = None
    minutes: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> list[str]:
        """Names, the headline first, the others in the order of the first row that has them."""
        names = dict.fromkeys(name for row in self.rows for name in row.metrics)
        return [self.metric] * (self.metric in names) + [name for name in names if name != self.metric]

    @property
    def segments(self) -> list[str]:
        """Names, in the order of the rows."""
        return list(dict.fromkeys(name for row in self.rows for name in row.segments))

    @property
    def open_runs(self) -> list[RunResult]:
        """Those that are not done."""
        return [run for row in self.rows for run in row.runs if run.state != "done"]


def build_table(
    sweep: str,
    metric: str,
    variants: Sequence[tuple[str, Mapping[str, str]]],
    results: Sequence[RunResult],
    *,
    command: str,
    baseline: str | None = None,
    minutes: float | None = None,
    notes: Sequence[str] = (),
) -> Table:
    """Rows for all variants, best first, those without any result last.

    Raises:
      UserError: no variant is called `baseline`; no run that is done has `metric`.
    """
    names = [name for name, _ in variants]
    if baseline is not None and baseline not in names:
        raise UserError(f"baseline {baseline}: there is no such variant; there are: {', '.join(names[:20])}")
    by_variant = {name: tuple(run for run in results if run.variant == name) for name in names}
    rows = [_row(name, changes, by_variant[name]) for name, changes in variants]
    known = list(dict.fromkeys(name for row in rows for name in row.metrics))
    if known and metric not in known:
        raise UserError(f"metric {metric}: the runs have no such metric; they have: {', '.join(known)}")
    if baseline is not None:
        ours = next(row for row in rows if row.name == baseline)
        compared = [(row, compare(row, ours, metric)) for row in rows]
        rows = [replace(row, difference=difference) for row, (difference, _) in compared]
        notes = [*notes, *dict.fromkeys(note for _, (_, note) in compared if note)]
    rows.sort(key=lambda row: (-row.metrics[metric].mean if metric in row.metrics else math.inf, names.index(row.name)))
    rows = _mark_best(rows, metric)
    return Table(sweep, metric, tuple(rows), command, baseline, minutes, (*notes, *_notes(rows, minutes)))


def _row(name: str, changes: Mapping[str, str], runs: tuple[RunResult, ...]) -> Row:
    row = Row(name, changes, runs)
    return replace(
        row,
        metrics=_summaries([run.metrics for run in row.done]),
        segments=_summaries([run.segments for run in row.done]),
    )


def _summaries(values: Sequence[Mapping[str, float]]) -> dict[str, Summary]:
    names = dict.fromkeys(name for run in values for name in run)
    return {name: summarise([run[name] for run in values if name in run]) for name in names}


def summarise(values: Sequence[float]) -> Summary:
    """Mean and deviation of at least one value."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Summary(statistics.fmean(values), deviation, tuple(values))


def compare(row: Row, baseline: Row, metric: str) -> tuple[Difference | None, str]:
    """A row against the baseline on the seeds that both have, and what to note about it.

    The interval is a paired bootstrap's over queries; it needs the metrics by query that an evaluation writes.
    """
    if row.name == baseline.name:
        return None, ""
    ours, theirs = ({run.seed: run for run in r.done if metric in run.metrics} for r in (row, baseline))
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None, "" if not ours else f"{row.name} and the baseline {baseline.name} have no seed in common"
    plain = statistics.fmean(ours[s].metrics[metric] - theirs[s].metrics[metric] for s in seeds)
    found = [_per_query(runs[s], metric) for runs in (ours, theirs) for s in seeds]
    known = [values for values in found if values is not None]
    if len(known) < len(found):
        note = "no interval without metrics by query: give --products, --queries and --qrels to have runs evaluated"
        return Difference(plain, None, None), note
    shared = sorted(query for query in known[0] if all(query in values for values in known))
    if not shared:
        return Difference(plain, None, None), f"{row.name} and {baseline.name} were evaluated on other queries"
    from make_jax.retrieval.bootstrap import paired_bootstrap

    table = np.array([[values[query] for query in shared] for values in known])
    a, b = np.split(table, 2)
    return Difference(*map(float, paired_bootstrap(a, b))), ""


def _per_query(run: RunResult, metric: str) -> dict[str, float] | None:
    """query_id → metric of the queries that have one; None where it is not known."""
    if run.per_query is None or metric not in pq.read_schema(run.per_query).names:
        return None
    table = pq.read_table(run.per_query)
    # Where there are several columns of metrics, or groups of products: the search over everything.
    for name, wanted in (("column", MAIN), ("group", "all")):
        if name in table.column_names:
            table = table.filter(pc.field(name) == wanted)
    pairs = zip(table["query_id"].to_pylist(), table[metric].to_pylist(), strict=True)
    return {query: value for query, value in pairs if value is not None and math.isfinite(value)}


def _mark_best(rows: Sequence[Row], metric: str) -> list[Row]:
    """The best of the rows whose runs are all done; of all, where none is complete."""
    scored = [row for row in rows if metric in row.metrics]
    complete = [row for row in scored if len(row.done) == len(row.runs)]
    best = max(complete or scored, key=lambda row: row.metrics[metric].mean, default=None)
    return [replace(row, is_best=row is best) for row in rows]


def _notes(rows: Sequence[Row], minutes: float | None) -> list[str]:
    """What makes runs hard to compare."""
    done = [run for row in rows for run in row.done]
    notes = []
    for what, fact in (("commits", "commit"), ("kinds of hardware", "hardware"), ("data sets", "data_fingerprint")):
        values = sorted({run.facts.get(fact, "") for run in done})
        if len(values) > 1:
            told = ", ".join(value[:60] or "unknown" for value in values)
            notes.append(f"the runs are of {len(values)} {what}: {told}")
    late = [run.name for run in done if minutes and run.seconds and abs(run.seconds / (60 * minutes) - 1) > _OFF_BUDGET]
    if late:
        shown = ", ".join(late[:5]) + (" …" if len(late) > 5 else "")
        notes.append(f"{len(late)} runs trained more than 10 % longer or shorter than {minutes:g} minutes: {shown}")
    return notes
