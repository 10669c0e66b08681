"""What a report shows, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

RELEVANCE_LABELS = {2: "all asked for", 1: "right kind", 0: "not relevant"}


@dataclass(frozen=True)
class RunFacts:
    """Where the model comes from. What is empty is left out; ``more`` takes further facts by name."""

    experiment: str = ""
    commit: str = ""
    command: str = ""
    hardware: str = ""
    seed: int | None = None
    date: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    training_seconds: float | None = None
    parameters: int | None = None
    more: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """One product found. ``relevance`` None means that nobody judged it; ``image`` is an encoded picture."""

    product_id: str
    title: str
    score: float
    relevance: int | None = None
    image: bytes | None = None
    weight_text: float | None = None
    weight_image: float | None = None


@dataclass(frozen=True)
class QueryResults:
    """A query, its metrics and its best results; ``relevant`` counts all products with the top grade."""

    query: str
    metrics: Mapping[str, float]
    results: Sequence[Result]
    relevant: int | None = None


@dataclass(frozen=True)
class Segment:
    """Mean metrics over a part of the queries, such as group "facets", name "colour+type"."""

    group: str
    name: str
    queries: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Group:
    """Mean metrics of one column by the relevant products of a group, such as split "picture", name "no picture".

    ``pairs`` counts its relevant (query, product) pairs. ``matched`` is R-precision by as many relevant products as of
    the split's other group, which can be compared with that group's; ``matched_queries`` have products in both.
    """

    split: str
    name: str
    column: str
    queries: int
    pairs: int
    metrics: Mapping[str, float]
    matched: float
    matched_queries: int


@dataclass(frozen=True)
class TuningPoint:
    """One setting of the index, measured; recall is against exact search."""

    recall: float
    queries_per_second: float
    parameters: Mapping[str, Any] = field(default_factory=dict)
    chosen: bool = False


@dataclass(frozen=True)
class CategoryWeights:
    """Mean and standard deviation of the text weights of a category's products."""

    category: str
    products: int
    weight_text: float
    std: float


@dataclass(frozen=True)
class KindWeights:
    """Text weights of single products of one kind; ``asked_in`` is where its queries are answered."""

    kind: str
    asked_in: Literal["title", "picture", "both"]
    weights: Sequence[float]


@dataclass(frozen=True)
class ReportData:
    """All that a report shows. Only ``title`` is required: an empty part leaves its section out.

    ``metrics`` maps a column ("exact", "index", "bm25") to metric values; the first metric of the first column is the
    headline. ``definitions`` holds one line per metric. ``headline_per_query`` is the headline metric of each
    query. ``training`` holds the rows of metrics.jsonl: ``step``, ``loss`` and, at some steps, ``dev/NAME``.
    Metric values that are NaN or infinite show as a dash.
    """

    title: str
    run: RunFacts = field(default_factory=RunFacts)
    products: int | None = None
    queries: int | None = None
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    definitions: Mapping[str, str] = field(default_factory=dict)
    headline_per_query: Sequence[float] = ()
    segments: Sequence[Segment] = ()
    groups: Sequence[Group] = ()
    samples: Sequence[QueryResults] = ()
    worst: Sequence[QueryResults] = ()
    best: Sequence[QueryResults] = ()
    category_weights: Sequence[CategoryWeights] = ()
    kind_weights: Sequence[KindWeights] = ()
    training: Sequence[Mapping[str, Any]] = ()
    tuning: Sequence[TuningPoint] = ()
    target_recall: float | None = None
    notes: Sequence[str] = ()
    relevance_labels: Mapping[int, str] = field(default_factory=lambda: dict(RELEVANCE_LABELS))
