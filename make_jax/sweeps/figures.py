"""Figures of a sweep's page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from make_jax.drawing import COLOURS, Drawing, draw, label
from make_jax.sweeps.table import Row, Summary, Table

MAX_ROWS = 60
MAX_LABELS = 12
SAME_TIME = 1.1  # the longest over the shortest, up to which time tells nothing


def by_variant(table: Table) -> Drawing | None:
    """Draw the headline metric of every variant: seeds as dots, mean and deviation as a bar."""
    rows = _scored(table)[:MAX_ROWS]
    if not rows:
        return None

    def paint(axes: Axes) -> str:
        for number, (row, summary) in enumerate(rows):
            colour = COLOURS["good" if row.is_best else "accent"]
            if summary.deviation is not None:
                ends = (summary.mean - summary.deviation, summary.mean + summary.deviation)
                axes.plot(ends, [number, number], color=colour, lw=7, alpha=0.25, solid_capstyle="butt")
            axes.plot([summary.mean] * 2, [number - 0.28, number + 0.28], color=colour, lw=2.2)
            axes.plot(summary.values, [number] * len(summary.values), "o", ms=4, mew=0, color=COLOURS["ink"])
        baseline = next((summary.mean for row, summary in rows if row.name == table.baseline), None)
        if baseline is not None:
            axes.axvline(baseline, color=COLOURS["muted"], lw=1, ls="--")
        names = [label(row.name, 34) + (" (best)" if row.is_best else "") for row, _ in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(label(table.metric))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.grid(axis="y", visible=False)
        dashed = f"; dashed is {table.baseline}" if baseline is not None else ""
        return (
            f"{table.metric} by variant, best first: dots are seeds, the line is their mean, the band one standard "
            f"deviation to each side{dashed}."
        )

    return draw("variants", (7.4, 1.0 + 0.36 * len(rows)), paint)


def against_time(table: Table) -> Drawing | None:
    """Draw the headline metric against training time, a point per variant; nothing where all took as long."""
    points = [(row, s, seconds / 60) for row, s in _scored(table) if (seconds := row.mean("seconds"))]
    if len(points) < 2 or max(p[2] for p in points) < SAME_TIME * min(p[2] for p in points):
        return None
    named = [
        point
        for number, point in enumerate(points)
        if len(points) <= MAX_LABELS or number < MAX_LABELS // 3 or point[0].name == table.baseline
    ]

    def paint(axes: Axes) -> str:
        for row, summary, minutes in points:
            colour = COLOURS["good" if row.is_best else "accent"]
            axes.errorbar(minutes, summary.mean, yerr=summary.deviation or 0, fmt="o", ms=6, color=colour, lw=1.2)
        axes.set(xlabel="minutes of training", ylabel=label(table.metric))
        axes.set_xlim(0, max(p[2] for p in points) * 1.12)
        axes.margins(y=0.15)
        _beside(axes, [(label(row.name, 26), minutes, summary.mean) for row, summary, minutes in named])
        return f"{table.metric} against the time that the training steps took; bars are one standard deviation."

    return draw("time", (5.0, 3.0), paint)


def by_settings(table: Table) -> list[tuple[str, Drawing]]:
    """Draw how the metric follows settings, with captions: a line where one number varies, a map where two settings
    are crossed, points where more vary."""
    groups: dict[tuple[str, ...], list[tuple[Row, Summary]]] = {}
    for row, summary in _scored(table):
        if row.changes:
            groups.setdefault(tuple(sorted(row.changes)), []).append((row, summary))
    drawings: list[tuple[str, Drawing]] = []
    for number, (keys, rows) in enumerate(groups.items()):
        if len(keys) == 1 and len(rows) > 1 and all(_number(row.changes[keys[0]]) is not None for row, _ in rows):
            drawings.append((keys[0], _line(f"line-{number}", table.metric, keys[0], rows)))
        elif len(keys) == 2 and len({tuple(row.changes[key] for key in keys) for row, _ in rows}) >= 4:
            drawings.append((" × ".join(keys), _map(f"map-{number}", table.metric, keys, rows)))
        elif len(keys) > 2 or len(rows) > 3:
            drawings += [
                (key, _scatter(f"scatter-{number}-{index}", table.metric, key, rows))
                for index, key in enumerate(keys)
                if len({row.changes[key] for row, _ in rows}) > 2
                and all(_number(row.changes[key]) is not None for row, _ in rows)
            ]
    return drawings


def _line(name: str, metric: str, key: str, rows: Sequence[tuple[Row, Summary]]) -> Drawing:
    points = sorted(((_value(row, key), summary) for row, summary in rows), key=lambda point: point[0])

    def paint(axes: Axes) -> str:
        x, means = [value for value, _ in points], [summary.mean for _, summary in points]
        deviations = [summary.deviation or 0 for _, summary in points]
        axes.errorbar(x, means, yerr=deviations, color=COLOURS["accent"], marker="o", ms=5, elinewidth=1.2)
        for value, summary in points:
            axes.plot([value] * len(summary.values), summary.values, "o", ms=3, mew=0, color=COLOURS["ink"])
        _scale(axes, x, key)
        axes.set_ylabel(label(metric))
        axes.margins(y=0.15)
        return f"{metric} by {key}; small dots are seeds, bars one standard deviation."

    return draw(name, (5.0, 3.0), paint)


def _scatter(name: str, metric: str, key: str, rows: Sequence[tuple[Row, Summary]]) -> Drawing:
    def paint(axes: Axes) -> str:
        x = [_value(row, key) for row, _ in rows]
        for value, (row, summary) in zip(x, rows, strict=True):
            axes.plot(value, summary.mean, "o", ms=6, color=COLOURS["good" if row.is_best else "accent"])
        _scale(axes, x, key)
        axes.set_ylabel(label(metric))
        axes.margins(y=0.15)
        return f"{metric} of {len(rows)} variants by {key}, whatever else they change."

    return draw(name, (5.0, 3.0), paint)


def _map(name: str, metric: str, keys: Sequence[str], rows: Sequence[tuple[Row, Summary]]) -> Drawing:
    across, down = (_ordered([row.changes[key] for row, _ in rows]) for key in keys)

    def paint(axes: Axes) -> str:
        values = np.full((len(down), len(across)), np.nan)
        for row, summary in rows:
            values[down.index(row.changes[keys[1]]), across.index(row.changes[keys[0]])] = summary.mean
        low, high = np.nanmin(values), np.nanmax(values)
        axes.set(xlim=(-0.5, len(across) - 0.5), ylim=(len(down) - 0.5, -0.5))
        for (y, x), value in np.ndenumerate(values):
            if np.isnan(value):
                axes.text(x, y, "–", ha="center", va="center")
                continue
            # One colour whose opacity says the value: right on a light and on a dark page.
            alpha = 0.08 + 0.5 * (value - low) / max(high - low, 1e-12)
            axes.add_patch(_cell((x - 0.48, y - 0.47), alpha))
            weight = "bold" if value == high else "normal"
            axes.text(x, y, f"{value:.4f}", ha="center", va="center", weight=weight)
        axes.set_xticks(range(len(across)), [label(text, 14) for text in across])
        axes.set_yticks(range(len(down)), [label(text, 22) for text in down])
        axes.set(xlabel=label(keys[0], 40), ylabel=label(keys[1], 40))
        axes.grid(visible=False)
        return f"{metric} by {keys[0]} (across) and {keys[1]} (down): the darker, the higher."

    return draw(name, (2.2 + 0.9 * len(across), 1.2 + 0.5 * len(down)), paint)


def _cell(corner: tuple[float, float], alpha: float) -> Rectangle:
    return Rectangle(corner, 0.96, 0.94, facecolor=COLOURS["accent"], alpha=alpha, linewidth=0)


def _scored(table: Table) -> list[tuple[Row, Summary]]:
    return [(row, row.metrics[table.metric]) for row in table.rows if table.metric in row.metrics]


def _value(row: Row, key: str) -> float:
    value = _number(row.changes[key])
    assert value is not None
    return value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _ordered(texts: Sequence[str]) -> list[str]:
    """Different values, numbers by size, words as they came."""
    unique = list(dict.fromkeys(texts))
    numbers = [_number(text) for text in unique]
    return unique if None in numbers else [text for _, text in sorted(zip(numbers, unique, strict=True))]


def _scale(axes: Axes, x: Sequence[float], key: str) -> None:
    """A logarithmic axis where the values span orders of magnitude."""
    axes.set_xlabel(label(key, 48))
    if min(x) > 0 and max(x) / min(x) > 8:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _beside(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Write next to points, on the side that has room, moved up where the text would lie on another."""
    low, high = axes.get_ylim()
    line = (high - low) * 0.065
    left, right = axes.get_xlim()
    lowest = low
    for text, x, y in sorted(points, key=lambda point: point[2]):
        rightwards = x - left < 0.55 * (right - left)
        place = max(y, lowest)
        lowest = place + line
        axes.annotate(
            text,
            (x, y),
            xytext=(x + (right - left) * (0.025 if rightwards else -0.025), place),
            textcoords="data",
            ha="left" if rightwards else "right",
            va="center",
            fontsize=9,
        )
