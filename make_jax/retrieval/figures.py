"""Figures for the evaluation report, as inline SVG."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from make_jax.drawing import COLOURS, Drawing, draw, label

if TYPE_CHECKING:
    from make_jax.retrieval.report_data import KindWeights, TuningPoint

MAX_BUCKETS = 200  # points on a training curve
MAX_DOTS = 80  # dots in one strip of the weights figure

_SERIES = (("accent", "-", "o"), ("picture", "--", "s"), ("good", "-.", "^"), ("both", ":", "D"))
_ASKED_IN = {"title": ("text", "o"), "both": ("both", "D"), "picture": ("picture", "s")}


def loss_curve(rows: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """Draw ``loss`` by step: the mean, in a band from the least to the greatest value nearby."""
    steps, values = _series(rows, "loss")
    if len(steps) < 2:
        return None

    def paint(axes: Axes) -> str:
        groups = np.array_split(np.arange(len(steps)), min(MAX_BUCKETS, max(2, len(steps) // 4)))
        x = [steps[group].mean() for group in groups]
        low, high = ([f(values[group]) for group in groups] for f in (np.min, np.max))
        axes.fill_between(x, low, high, color=COLOURS["accent"], alpha=0.18, linewidth=0)
        axes.plot(x, [values[group].mean() for group in groups], color=COLOURS["accent"])
        axes.set_xlabel("step")
        first, last = (f"{values[groups[g]].mean():.3g} around step {x[g]:,.0f}" for g in (0, -1))
        return f"Training loss by step: {first}, {last}; the band spans the least and the greatest nearby."

    return draw("loss", (5.0, 2.7), paint)


def dev_curves(rows: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """Draw the dev metrics measured while training: keys ``dev/NAME`` or ``dev_NAME``, the first four."""
    keys = list(dict.fromkeys(key for row in rows for key in row if re.match("dev[/_]", key)))
    series = {key[4:]: _series(rows, key) for key in keys}
    series = {name: pair for name, pair in series.items() if len(pair[0]) > 1}
    if not series:
        return None

    def paint(axes: Axes) -> str:
        said = []
        for (name, (steps, values)), (colour, dash, marker) in zip(series.items(), _SERIES, strict=False):
            (line,) = axes.plot(steps, values, dash, marker=marker, ms=4, color=COLOURS[colour])
            line.set_label(label(name, 18))
            said.append(f"{name} {values[0]:.3f} to {values[-1]:.3f}")
        axes.set_xlabel("step")
        _legend_above(axes, axes.get_legend_handles_labels()[0], columns=2)
        return f"Dev metrics while training, first to last: {', '.join(said)}."

    return draw("dev", (5.0, 2.7), paint)


def spread(values: Iterable[float], name: str) -> Drawing | None:
    """Draw how one metric spreads over the queries: a histogram of ``values``, one a query."""
    kept = _finite(values)
    if not len(kept):
        return None

    def paint(axes: Axes) -> str:
        counts, edges = np.histogram(kept, bins=20, range=(min(0.0, kept.min()), max(1.0, kept.max())))
        axes.bar(edges[:-1], counts, np.diff(edges) * 0.88, align="edge", color=COLOURS["accent"])
        axes.axvline(kept.mean(), color=COLOURS["ink"], lw=1.2, ls="--")
        axes.set(xlabel=label(name), ylabel="queries")
        axes.grid(axis="x", visible=False)
        mean, median = kept.mean(), np.median(kept)
        return f"{name} over {len(kept):,} queries: mean {mean:.3f} (dashed), median {median:.3f}."

    return draw("spread", (5.0, 2.5), paint)


def tuning_curve(points: Sequence[TuningPoint], target: float | None) -> Drawing | None:
    """Draw recall against queries per second (log axis) for every setting tried; the chosen one is filled."""
    kept = [p for p in points if np.isfinite(p.recall) and 0 < p.queries_per_second < np.inf]
    if not kept:
        return None

    def paint(axes: Axes) -> str:
        speed = np.array([p.queries_per_second for p in kept])
        frontier = np.array([(p.queries_per_second, p.recall) for p in _frontier(kept)])
        axes.plot(*frontier.T, color=COLOURS["accent"], lw=1.2)
        axes.plot(speed, [p.recall for p in kept], "o", ms=5, mfc="none", color=COLOURS["muted"])
        for point in (p for p in kept if p.chosen):
            at = (point.queries_per_second, point.recall)
            axes.plot(*at, "o", ms=10, color=COLOURS["picture"])
            axes.annotate("chosen", at, xytext=(8, 5), textcoords="offset points")
        if target is not None and np.isfinite(target):
            axes.axhline(target, color=COLOURS["ink"], lw=1, ls="--")
        axes.set(xscale="log", xlabel="queries per second", ylabel="recall")
        axes.set_xlim(speed.min() / 1.6, speed.max() * 2)  # room for one point alone and for the word
        axes.margins(y=0.15)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        aim = "" if target is None else f"; the dashed line is the target, {target:.3g}"
        return f"Recall against speed for {len(kept)} settings of the index{aim}."

    return draw("tuning", (5.0, 3.2), paint)


def weights_by_kind(groups: Sequence[KindWeights]) -> Drawing | None:
    """Draw the text weights of products, a strip per kind, coloured by where its queries are answered."""
    finite = [(group, _finite(group.weights)) for group in groups]
    strips = [(group, weights) for group, weights in finite if len(weights)]
    strips.sort(key=lambda strip: -float(np.median(strip[1])))
    strips.sort(key=lambda strip: list(_ASKED_IN).index(strip[0].asked_in))
    if not strips:
        return None

    def paint(axes: Axes) -> str:
        random = np.random.default_rng(0)  # the jitter says nothing, so it is the same every time
        for row, (group, weights) in enumerate(strips):
            colour, marker = _ASKED_IN[group.asked_in]
            dots = weights if len(weights) <= MAX_DOTS else random.choice(weights, MAX_DOTS, replace=False)
            jitter = row + random.uniform(-0.16, 0.16, len(dots))
            axes.plot(dots, jitter, marker, ms=3.2, mew=0, alpha=0.5, color=COLOURS[colour])
            axes.plot([np.median(weights)] * 2, [row - 0.26, row + 0.26], color=COLOURS["ink"], lw=2)
            axes.text(0, row - 0.3, label(group.kind, 48), fontsize=10, va="bottom")
        axes.set(xlim=(-0.02, 1.02), ylim=(len(strips) - 0.5, -0.85), yticks=[])
        axes.set_xlabel("text weight: 0 is all picture, 1 all text")
        places = dict.fromkeys(group.asked_in for group, _ in strips)
        _legend_above(axes, [_asked_in_handle(place) for place in places], columns=3)
        medians = (f"{g.kind} ({g.asked_in}) {np.median(w):.2f}" for g, w in strips)
        return f"Text weight of single products by kind; the bar is the median: {', '.join(medians)}."

    return draw("kinds", (5.0, 1.2 + 0.44 * len(strips)), paint)


def _asked_in_handle(place: str) -> Line2D:
    colour, marker = _ASKED_IN[place]
    label = "in both" if place == "both" else f"in the {place}"
    return Line2D([], [], ls="", marker=marker, color=COLOURS[colour], label=label)


def _frontier(points: Sequence[TuningPoint]) -> list[TuningPoint]:
    """Settings that no other setting beats in both recall and speed, slowest first."""
    best: list[TuningPoint] = []
    for point in sorted(points, key=lambda p: (-p.queries_per_second, -p.recall)):
        if not best or point.recall > best[-1].recall:
            best.append(point)
    return best[::-1]


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """The finite (step, value) pairs of one key, by rising step."""
    pairs = [(row.get("step"), row.get(key)) for row in rows]
    kept = [(s, v) for s, v in pairs if s is not None and v is not None and np.isfinite(s) and np.isfinite(v)]
    table = np.array(sorted(kept), np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _finite(values: Iterable[float]) -> np.ndarray:
    array = np.asarray([value for value in values if value is not None], np.float64)
    return array[np.isfinite(array)]


def _legend_above(axes: Axes, handles: Sequence[Artist], columns: int) -> None:
    place: dict[str, Any] = {
        "loc": "lower left",
        "bbox_to_anchor": (0, 1),
        "borderpad": 0,
        "borderaxespad": 0.6,
    }
    axes.legend(handles=handles, ncols=columns, handlelength=4 / columns, columnspacing=1.2, **place)
