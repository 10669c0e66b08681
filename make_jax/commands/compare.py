"""`make-jax compare`: differences between evaluated systems, with intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from make_jax.errors import UserError
from make_jax.retrieval.bootstrap import paired_bootstrap
from make_jax.retrieval.per_query import ALL, PerQuery, read_per_query

METRICS = ("r_precision", "ndcg@10", "p@10", "recall@100")


@dataclass(frozen=True)
class Difference:
    """A system against the first one, by one metric.

    Attributes:
      metric: its name.
      system: as it was given.
      mean: of the metric.
      against_first: the difference and its 95 % interval, low and high; None for the first system itself.
    """

    metric: str
    system: str
    mean: float
    against_first: tuple[float, float, float] | None


@dataclass(frozen=True)
class System:
    """One or more evaluations of the same system; several are runs with other seeds.

    Attributes:
      name: as it was given.
      runs: the tables and the column to take of each.
    """

    name: str
    runs: list[tuple[PerQuery, str]]

    @classmethod
    def read(cls, text: str) -> System:
        """Read REPORT[:COLUMN][,REPORT[:COLUMN]...]; the column is the report's first one if none is given."""
        return cls(text, [_read(part) for part in text.split(",") if part])

    def values(self, metric: str, group: str, query_ids: Sequence[str]) -> np.ndarray:
        """float64[S, Q] of the queries."""
        tables = [run.values(column, group) for run, column in self.runs]
        for (run, _), table in zip(self.runs, tables, strict=True):
            if metric not in table.columns:
                raise UserError(f"{run.path} has no metric {metric!r}; it has {', '.join(run.metrics)}")
        return np.stack([table[metric].loc[list(query_ids)].to_numpy(np.float64) for table in tables])


def compare(reports: Sequence[str], metrics: Sequence[str] = METRICS, group: str = ALL) -> list[Difference]:
    """Compare systems with the first one, query by query.

    Args:
      reports: two or more of REPORT[:COLUMN], folders that evaluate wrote; REPORT,REPORT,... are runs of one system.
      metrics: names of metrics.
      group: of products, "all" for all.

    Raises:
      UserError: fewer than two systems, no such report, column, metric or group, or reports over other queries or
        judgements.
    """
    systems = [System.read(text) for text in reports]
    if len(systems) < 2 or not all(system.runs for system in systems):
        raise UserError(f"{len(systems)} system to compare; give two reports or more")
    first = systems[0].runs[0][0]
    for run, _ in (run for system in systems for run in system.runs):
        if run.judgements != first.judgements:
            raise UserError(
                f"{run.path} was judged by other queries or judgements than {first.path}; evaluate both with the same "
                "--queries and --qrels"
            )
    query_ids = list(dict.fromkeys(first.table["query_id"]))
    found = []
    for metric in metrics:
        theirs = systems[0].values(metric, group, query_ids)
        found.append(Difference(metric, systems[0].name, float(np.nanmean(theirs)), None))
        for system in systems[1:]:
            ours = system.values(metric, group, query_ids)
            found.append(Difference(metric, system.name, float(np.nanmean(ours)), paired_bootstrap(ours, theirs)))
    return found


def as_text(differences: Sequence[Difference]) -> str:
    """A table for people: a line per metric and system; * marks differences whose interval leaves 0 out."""
    width = max(len(d.system) for d in differences)
    lines = [f"{'metric':12}  {'system':{width}}  {'mean':>6}  difference [95 % interval]"]
    lines += [f"{d.metric:12}  {d.system:{width}}  {d.mean:6.4f}  {_told(d)}".rstrip() for d in differences]
    return "\n".join(lines)


def as_json(differences: Sequence[Difference]) -> str:
    """The same for programs."""
    return json.dumps([asdict(difference) for difference in differences], indent=1)


def _told(found: Difference) -> str:
    if found.against_first is None:
        return ""
    difference, low, high = found.against_first
    return f"{difference:+.4f} [{low:+.4f}, {high:+.4f}]" + (" *" if low > 0 or high < 0 else "")


def _read(text: str) -> tuple[PerQuery, str]:
    folder, colon, column = text.rpartition(":")
    if not colon or Path(text).exists():
        folder, column = text, ""
    run = read_per_query(Path(folder))
    return run, column or run.table["column"].iloc[0]
