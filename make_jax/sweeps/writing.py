"""The table as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from make_jax.pages import write_page
from make_jax.small_files import write_text
from make_jax.sweeps.page import render
from make_jax.sweeps.schedule import duration
from make_jax.sweeps.table import Difference, Row, Summary, Table

# In Markdown and HTML, after the headline, as far as there is room; CSV has all metrics.
SHOWN_METRICS = ("ndcg@10", "recall@100", "mrr")
MOST_METRICS = 5


def write_table(table: Table, workdir: Path) -> list[Path]:
    """Write `table.md`, `table.csv`, `table.html` and `runs.csv`, a row per run; returns their paths."""
    paths = [workdir / name for name in ("table.md", "table.csv", "table.html", "runs.csv")]
    write_text(paths[0], markdown(table))
    write_text(paths[1], _csv(variant_rows(table)))
    write_page(paths[2], render(table, shown_metrics(table)))
    write_text(paths[3], _csv(run_rows(table)))
    return paths


def shown_metrics(table: Table) -> list[str]:
    """The metrics that a reader sees at once, the headline first."""
    known, further = table.metrics, [name for name in SHOWN_METRICS if name in table.metrics]
    conditions = [name for name in known if name.startswith("without ") and name.endswith(f": {table.metric}")]
    return list(dict.fromkeys([*known[:1], *conditions, *further, *known]))[:MOST_METRICS]


def markdown(table: Table) -> str:
    """Tables for a README or an issue."""
    metrics = shown_metrics(table)
    parts = [f"# {table.sweep}", _lead(table), _markdown_rows(_headings(table, metrics), _cells(table, metrics))]
    if table.segments:
        heading = ["variant", *table.segments]
        rows = [[_name(row), *(_summary(row.segments.get(name)) for name in table.segments)] for row in table.rows]
        parts += [f"## {table.metric} by segment", _markdown_rows(heading, rows)]
    if table.open_runs:
        rows = [[f"`{run.name}`", run.state, run.reason] for run in table.open_runs]
        parts += ["## Runs without a result", _markdown_rows(["run", "state", "why"], rows)]
    if table.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in table.notes)]
    changes = [[_name(row), ", ".join(f"`{k}={v}`" for k, v in row.changes.items()) or "–"] for row in table.rows]
    parts += ["## Variants", _markdown_rows(["variant", "changes"], changes)]
    commands = [table.command, *(row.runs[0].facts["command"] for row in table.rows if row.runs and row.runs[0].facts)]
    parts += ["## Commands", "The sweep, then each variant's first run:", "```\n" + "\n".join(commands) + "\n```"]
    return "\n\n".join(parts) + "\n"


def _lead(table: Table) -> str:
    budget = f"{table.minutes:g} minutes of training steps a run" if table.minutes else "as many steps as each says"
    told = [f"Sorted by {table.metric}; mean ± standard deviation over seeds; {budget}; the best in bold."]
    if table.baseline:
        told.append(
            f"Δ is the difference to `{table.baseline}` with a 95 % interval (paired bootstrap over queries); * where "
            "it leaves zero out."
        )
    for what, fact in (("Commit", "commit"), ("On", "hardware")):
        values = sorted({run.facts.get(fact, "") for row in table.rows for run in row.done} - {""})
        if values:
            told.append(f"{what} {', '.join(values)}.")
    return " ".join(told)


def _headings(table: Table, metrics: Sequence[str]) -> list[str]:
    compared = ["Δ"] if table.baseline else []
    return ["variant", *metrics[:1], *compared, *metrics[1:], "seeds", "time", "steps", "examples/s", "parameters"]


def _cells(table: Table, metrics: Sequence[str]) -> list[list[str]]:
    rows = []
    for row in table.rows:
        values = [_summary(row.metrics.get(name)) for name in metrics]
        if row.is_best and values:
            values[0] = f"**{values[0]}**"
        compared = [_difference(row.difference)] if table.baseline else []
        done, planned = len(row.done), len(row.runs)
        facts = [str(done) if done == planned else f"{done} of {planned}", _time(row), *_numbers(row)]
        rows.append([_name(row), *values[:1], *compared, *values[1:], *facts])
    return rows


def _name(row: Row) -> str:
    return f"**{row.name}**" if row.is_best else row.name


def _summary(summary: Summary | None) -> str:
    if summary is None:
        return "–"
    return f"{summary.mean:.4f}" + ("" if summary.deviation is None else f" ± {summary.deviation:.4f}")


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return "–"
    value, low, high = difference
    interval = "" if low is None else f" [{low:+.4f}, {high:+.4f}]" + ("*" if difference.is_clear else "")
    return f"{value:+.4f}{interval}"


def _time(row: Row) -> str:
    seconds = row.mean("seconds")
    return "–" if seconds is None else duration(seconds)


def _numbers(row: Row) -> list[str]:
    values = [row.mean(fact) for fact in ("steps", "examples_per_second", "parameters")]
    return ["–" if value is None else f"{value:,.0f}" for value in values]


def _markdown_rows(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(heading), "|" + "---|" * len(heading), *map(line, rows)])


def variant_rows(table: Table) -> list[dict[str, object]]:
    """A dict per variant; the keys are the same in all."""
    rows = []
    for row in table.rows:
        first = row.runs[0].facts if row.runs else {}
        difference = row.difference
        cells: dict[str, object] = {
            "variant": row.name,
            "best": row.is_best,
            "seeds_done": len(row.done),
            "seeds_planned": len(row.runs),
        }
        for kind, names, values in (
            ("", table.metrics, row.metrics),
            (f"{table.metric}, ", table.segments, row.segments),
        ):
            for name in names:
                summary = values.get(name)
                cells[kind + name] = summary and summary.mean
                cells[f"{kind}{name} deviation"] = summary and summary.deviation
        if table.baseline:
            cells |= {
                f"difference to {table.baseline}": difference and difference.difference,
                "difference low": difference and difference.low,
                "difference high": difference and difference.high,
            }
        for fact in ("seconds", "compile_seconds", "examples_per_second", "steps", "parameters"):
            cells[fact] = row.mean(fact)
        cells |= {fact: first.get(fact) for fact in ("commit", "hardware", "command")}
        cells["changes"] = " ".join(f"{key}={value}" for key, value in row.changes.items())
        rows.append(cells)
    return rows


def run_rows(table: Table) -> list[dict[str, object]]:
    """A dict per run; the keys are the same in all."""
    rows = []
    for run in (run for row in table.rows for run in row.runs):
        cells: dict[str, object] = {"variant": run.variant, "seed": run.seed, "state": run.state, "reason": run.reason}
        cells |= {name: run.metrics.get(name) for name in table.metrics}
        cells |= {f"{table.metric}, {name}": run.segments.get(name) for name in table.segments}
        for fact in ("seconds", "compile_seconds", "examples_per_second", "steps", "parameters"):
            cells[fact] = getattr(run, fact)
        cells |= {fact: run.facts.get(fact) for fact in ("commit", "hardware", "date", "command")}
        rows.append(cells)
    return rows


def _csv(rows: Sequence[dict[str, object]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
