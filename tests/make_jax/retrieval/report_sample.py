"""A report with every part filled, for the tests of the page and of how a browser shows it."""

from __future__ import annotations

import dataclasses
import io

from PIL import Image

from make_jax.retrieval.report_data import (
    CategoryWeights,
    Group,
    KindWeights,
    QueryResults,
    ReportData,
    Result,
    RunFacts,
    Segment,
    TuningPoint,
)

HOSTILE = '<script>alert("1")</script><img src=x onerror=alert(2)>\'"& 红色连衣裙 $x^{2'
METRICS = {"R-precision": 0.6123, "nDCG@10": 0.7411}


def picture(colour: str, size: tuple[int, int] = (60, 80), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def sample() -> ReportData:
    """A report with every part filled, one hostile title and one missing picture."""
    results = [
        Result("p1", "Navy shirt", 0.91, 2, picture("navy"), 0.25, 0.75),
        Result("p2", HOSTILE, 0.84, 1, None, 1.0, 0.0),
        Result("p3", "Red shoe", 0.72, 0, b"not a picture", 0.4, 0.6),
        Result("p4", "Green hat " * 40, 0.5, None, picture("green")),
    ]
    query = QueryResults("navy shirt", {"R-precision": 0.5}, results, relevant=1234)
    steps = range(0, 400, 10)
    return ReportData(
        title="Fashion run",
        run=RunFacts(
            experiment="fashion_make",
            commit="a1b2c3d",
            command="make-jax evaluate --run " + "long/" * 60,
            hardware="2 CPU cores",
            seed=0,
            date="2025-01-02",
            versions={"jax": "0.10.2"},
            training_seconds=3725.0,
            parameters=14812673,
            more={"Tokenizer": "WordPiece"},
        ),
        products=44335,
        queries=1500,
        metrics={"exact": METRICS, "index": {"R-precision": 0.6083, "nDCG@10": 0.74}},
        definitions={"R-precision": "Share of what fits among the first n."},
        headline_per_query=[0.1, 0.2, 0.9],
        segments=[
            Segment("facets", "colour+type", 300, {"R-precision": 0.7}),
            Segment("facets", "pattern+type", 40, {"R-precision": 0.3}),
            Segment("facets", "brand", 3, {"R-precision": 0.01}),
        ],
        groups=[
            Group("clicks", name, column, 120, 4321, {"R-precision": value}, value, 100)
            for column in ("exact", "bm25")
            for name, value in (("never clicked", 0.52), ("clicked", 0.65))
        ],
        samples=[query],
        worst=[dataclasses.replace(query, query="worst of all", results=[])],
        best=[dataclasses.replace(query, query="best of all")],
        category_weights=[CategoryWeights(f"Shop > Kind {i}", 10 + i, i / 40, 0.1) for i in range(30)],
        kind_weights=[KindWeights("mug", "picture", [0.1, 0.2]), KindWeights("电池", "title", [0.8, 0.9])],
        training=[{"step": s, "loss": 3 - s / 200, "dev/R-precision": s / 800} for s in steps],
        tuning=[
            TuningPoint(0.99, 5000.0, {"leaves": 40}),
            TuningPoint(0.957, 12345.0, {"leaves": 20}, chosen=True),
            TuningPoint(0.8, 30000.0, {"leaves": 2}),
        ],
        target_recall=0.95,
        notes=["37 rows were set aside"],
    )
