"""The evaluation report: one HTML page that says how good a model is, what it finds, what fails, and why."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import median

from make_jax.errors import UserError
from make_jax.pages import Filters, render_page, write_page
from make_jax.retrieval import figures
from make_jax.retrieval.report_data import CategoryWeights, Group, ReportData

SMALL_SEGMENT = 10  # queries; a mean over fewer says too little to be called the weakest
CATEGORIES_SHOWN = 24  # the largest; the others are folded away

_TEMPLATE = Path(__file__).with_name("templates") / "report.html.j2"


@dataclass(frozen=True)
class Finding:
    """One thing to know at a glance: what it is about, the short answer, and a sentence of detail."""

    about: str
    answer: str
    detail: str


def write_report(data: ReportData, out_dir: str | os.PathLike[str]) -> Path:
    """Write ``report.html``, one self-contained page, into ``out_dir`` (made if absent) and return its path.

    The file is whole or absent. Raises UserError if ``out_dir`` is a file.
    """
    folder = Path(out_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"the report cannot go to {folder}: it is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    write_page(page, render(data))
    return page


def render(data: ReportData) -> str:
    """Return the page as a string; the same data gives the same string."""
    filters: Filters = {
        "num": _num,
        "signed": _signed,
        "duration": _duration,
        "share": _share,
        "leaf": _leaf,
        "mark": partial(_mark, labels=data.relevance_labels),
    }
    names = list(dict.fromkeys(name for column in data.metrics.values() for name in column))
    headline = names[0] if names else ""
    by_size = sorted(data.category_weights, key=lambda c: -c.products)
    return render_page(
        _TEMPLATE,
        filters,
        data=data,
        names=names,
        headline=headline,
        findings=_findings(data, headline),
        segments=[(group, list(rows)) for group, rows in groupby(data.segments, key=lambda s: s.group)],
        groups=_side_by_side(data.groups),
        nan=math.nan,
        categories=_by_text_weight(by_size[:CATEGORIES_SHOWN]),
        more_categories=_by_text_weight(by_size[CATEGORIES_SHOWN:]),
        loss=figures.loss_curve(data.training),
        dev=figures.dev_curves(data.training),
        spread=figures.spread(data.headline_per_query, headline or "metric"),
        tuning=figures.tuning_curve(data.tuning, data.target_recall),
        kinds=figures.weights_by_kind(data.kind_weights),
    )


def _side_by_side(groups: Iterable[Group]) -> list[tuple[str, list[list[Group]]]]:
    """For each split, the groups of each column in a row."""
    splits: dict[str, dict[str, list[Group]]] = {}
    for group in groups:
        splits.setdefault(group.split, {}).setdefault(group.column, []).append(group)
    return [(split, list(columns.values())) for split, columns in splits.items()]


def _findings(data: ReportData, headline: str) -> list[Finding]:
    """What to know besides the metrics: the weakest segment, what the weights say, what the index costs."""
    found = (_weakest(data, headline), _asked_in(data) or _leanings(data), _index(data))
    return [finding for finding in found if finding]


def _weakest(data: ReportData, headline: str) -> Finding | None:
    judged = [s for s in data.segments if s.queries >= SMALL_SEGMENT and _is_finite(s.metrics.get(headline))]
    if len(judged) < 2:
        return None
    worst, best = (choose(judged, key=lambda s: s.metrics[headline]) for choose in (min, max))
    low, high = (_num(segment.metrics[headline]) for segment in (worst, best))
    detail = f"{headline} over {worst.queries:,} queries; the strongest, {best.name}, has {high}."
    return Finding(f"Weakest: {worst.name}", low, detail)


def _asked_in(data: ReportData) -> Finding | None:
    """Compare the text weights of products asked for by title words with those asked for by looks."""
    by_place: dict[str, list[float]] = {"title": [], "picture": [], "both": []}
    for group in data.kind_weights:
        by_place[group.asked_in] += filter(_is_finite, group.weights)
    if not by_place["title"] or not by_place["picture"]:
        return None
    title, picture = (_num(median(by_place[place]), 2) for place in ("title", "picture"))
    detail = "Median over products asked for by what the title says, against by what the picture shows."
    return Finding("Text weight", f"{title} vs {picture}", detail)


def _leanings(data: ReportData) -> Finding | None:
    known = [c for c in data.category_weights if c.products >= SMALL_SEGMENT and _is_finite(c.weight_text)]
    if len(known) < 2:
        return None
    least, most = (choose(known, key=lambda c: c.weight_text) for choose in (min, max))
    detail = f"{_leaf(most.category)} leans most on titles, {_leaf(least.category)} most on pictures."
    return Finding("Text weight", f"{_num(least.weight_text, 2)} to {_num(most.weight_text, 2)}", detail)


def _index(data: ReportData) -> Finding | None:
    chosen = next((point for point in data.tuning if point.chosen), None)
    if chosen is None:
        return None
    target = "" if data.target_recall is None else f" The target was {_num(data.target_recall)}."
    detail = f"Recall of exact search, at {_num(chosen.queries_per_second, 0)} queries a second.{target}"
    return Finding("Index", f"{_num(chosen.recall)} recall", detail)


def _by_text_weight(categories: Iterable[CategoryWeights]) -> list[CategoryWeights]:
    return sorted(categories, key=lambda c: (not _is_finite(c.weight_text), -c.weight_text, c.category))


def _leaf(category: str) -> str:
    """The last part of "Apparel > Topwear > Tshirts"."""
    return category.rpartition(">")[2].strip() or category


def _mark(grade: int | None, labels: Mapping[int, str]) -> dict[str, str]:
    """How a relevance grade is shown: kind (a CSS class), a sign and words, so that colour is never alone."""
    if grade is None:
        return {"kind": "unjudged", "sign": "?", "label": "not judged"}
    label = labels.get(grade, f"relevance {grade}")
    if grade <= 0:
        return {"kind": "none", "sign": "✕", "label": label}
    if grade >= max(labels, default=1):
        return {"kind": "top", "sign": "✓", "label": label}
    return {"kind": "part", "sign": "◐", "label": label}


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _num(value: float | None, digits: int = 3) -> str:
    return f"{value:,.{digits}f}" if value is not None and math.isfinite(value) else "–"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−") if math.isfinite(value) else "–"


def _share(value: float | None) -> str:
    """A CSS percentage between 0 and 100; what is not a number has no length."""
    return f"{100 * min(max(value, 0.0), 1.0):.1f}%" if value is not None and math.isfinite(value) else "0%"


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
