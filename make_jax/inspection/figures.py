"""Figures of the inspection page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from data_pipelines.inspection.contents import ShardFile
from make_jax.drawing import COLOURS, Drawing, draw

_SIZE = (5.0, 2.5)
_BARS = 40


def token_lengths(lengths: np.ndarray, what: str, limit: int) -> Drawing | None:
    """Draw how long texts are, int[n] tokens, and how many tokens of them the model takes."""
    if not len(lengths):
        return None

    def paint(axes: Axes) -> str:
        step = -(-(int(lengths.max()) + 1) // _BARS)
        counts, edges = np.histogram(lengths, np.arange(0, lengths.max() + 1 + step, step) - 0.5)
        axes.bar(edges[:-1], counts, step * 0.88, align="edge", color=COLOURS["accent"])
        axes.axvline(limit + 0.5, color=COLOURS["ink"], lw=1.2, ls="--")
        axes.set(xlabel="tokens", ylabel=what)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="x", visible=False)
        _thousands(axes)
        median, longest, cut = np.median(lengths), lengths.max(), np.mean(lengths > limit)
        return (
            f"{len(lengths):,} {what}: median {median:g} tokens, longest {longest:,}. The model takes {limit} "
            f"(dashed); {cut:.1%} are longer and lose tokens before the last one."
        )

    return draw(f"{what}-tokens", _SIZE, paint)


def pictures_per_product(counts: np.ndarray, what: str, limit: int) -> Drawing | None:
    """Draw how many pictures or regions products have, int[n], of which the model takes the first `limit`."""
    if not len(counts):
        return None

    def paint(axes: Axes) -> str:
        numbers = np.bincount(counts)
        axes.bar(np.arange(len(numbers)), numbers, 0.88, color=COLOURS["accent"])
        axes.set(xlabel=f"{what} of a product", ylabel="products")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="x", visible=False)
        _thousands(axes)
        none, more = np.mean(counts == 0), np.mean(counts > limit)
        return (
            f"{counts.sum():,} {what} of {len(counts):,} products: {none:.1%} have none, {more:.1%} have more than the "
            f"{limit} that the model takes."
        )

    return draw(what, _SIZE, paint)


def click_counts(clicks: np.ndarray, what: str) -> Drawing | None:
    """Draw how clicks, int[n], spread over pairs or products, both axes logarithmic; those without are left out."""
    kept = clicks[clicks > 0]
    if not len(kept):
        return None

    def paint(axes: Axes) -> str:
        edges = np.unique(np.rint(np.geomspace(1, kept.max() + 1, 24)))
        counts, edges = np.histogram(kept, edges)
        axes.bar(edges[:-1], counts, np.diff(edges) * 0.88, align="edge", color=COLOURS["accent"])
        axes.set(xscale="log", yscale="log", xlabel=f"clicks of a {what}", ylabel=f"{what}s")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(bottom=0.7)  # so that a single one is seen
        _thousands(axes)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        busiest = np.sort(kept)[-max(1, len(kept) // 100) :].sum() / kept.sum()
        return (
            f"{kept.sum():,} clicks of {len(kept):,} {what}s: median {np.median(kept):g}, most {kept.max():,}; the "
            f"busiest hundredth has {busiest:.0%} of the clicks."
        )

    return draw(f"{what}-clicks", _SIZE, paint)


def shard_sizes(shards: Sequence[ShardFile]) -> Drawing | None:
    """Draw the size of each shard."""
    return _by_shard("Size", "MB", [shard.num_bytes / 1e6 for shard in shards])


def shard_records(shards: Sequence[ShardFile]) -> Drawing | None:
    """Draw how many records each shard has."""
    return _by_shard("Length", "records", [shard.records for shard in shards])


def _by_shard(name: str, unit: str, values: Sequence[float]) -> Drawing | None:
    if not values:
        return None

    def paint(axes: Axes) -> str:
        if len(values) <= _BARS:
            axes.bar(np.arange(len(values)), values, 0.88, color=COLOURS["accent"])
        else:
            axes.stairs(values, np.arange(len(values) + 1) - 0.5, fill=True, color=COLOURS["accent"])
        axes.set(xlabel="shard", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="x", visible=False)
        _thousands(axes)
        return f"{name} of {len(values):,} shards: from {min(values):,.6g} to {max(values):,.6g} {unit}."

    return draw(f"shard-{unit}", _SIZE, paint)


def _thousands(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
