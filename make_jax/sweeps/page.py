"""The sweep's page: one HTML file with the table and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from make_jax.pages import render_page
from make_jax.sweeps import figures
from make_jax.sweeps.schedule import duration
from make_jax.sweeps.table import Table

_TEMPLATE = Path(__file__).with_name("templates") / "sweep.html.j2"


def render(table: Table, metrics: Sequence[str]) -> str:
    """The page as a string, with these metrics as columns."""
    filters = {"num": _number, "signed": _signed, "duration": _duration, "count": _count}
    done = [run for row in table.rows for run in row.done]
    return render_page(
        _TEMPLATE,
        filters,
        table=table,
        metrics=metrics,
        best=next((row for row in table.rows if row.is_best), None),
        runs=[run for row in table.rows for run in row.runs],
        done=done,
        facts={name: sorted({run.facts.get(name, "") for run in done} - {""}) for name in ("commit", "hardware")},
        variants=figures.by_variant(table),
        time=figures.against_time(table),
        settings=figures.by_settings(table),
    )


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _duration(seconds: float | None) -> str:
    return "–" if seconds is None else duration(seconds)
