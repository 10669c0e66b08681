"""What an index is and how well it does, for people and for its manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from make_jax.retrieval.tuning import SearchParameters, Tuning

EXACT = "exact"  # the builder's name where ScaNN is not installed


@dataclass(frozen=True)
class IndexSummary:
    """What was built, and how well it finds what exact search finds.

    Attributes:
      path: the index directory.
      count: products N.
      dim: width E.
      model_fingerprint: of the model that made the vectors.
      builder: "brute_force", "ah", "tree_ah", or "exact" without ScaNN.
      leaves: partitions of the tree; 0 without one.
      target_recall: recall@k that was asked for.
      query_source: what the queries of the tuning were.
      tuning: every setting measured, and the choice; None without ScaNN.
      scann_version: of the ScaNN that built it; None without ScaNN.
      k: results per query of the recall.
    """

    path: Path
    count: int
    dim: int
    model_fingerprint: str
    builder: str
    leaves: int
    target_recall: float
    query_source: str
    tuning: Tuning | None
    scann_version: str | None
    k: int

    @property
    def parameters(self) -> SearchParameters:
        """What searches use."""
        return self.tuning.chosen.parameters if self.tuning else SearchParameters(self.k)

    @property
    def recall(self) -> float:
        """Recall@k against exact search, on queries that had no part in the tuning."""
        return self.tuning.chosen.recall if self.tuning else 1.0

    @property
    def queries_per_second(self) -> float | None:
        """Speed of the choice; None without ScaNN, where it depends on the accelerator."""
        return self.tuning.chosen.queries_per_second if self.tuning else None

    @property
    def target_reached(self) -> bool:
        """Whether the recall is the target or more."""
        return self.recall >= self.target_recall

    def __str__(self) -> str:
        """One line, and a second one of warning if the target was not reached."""
        speed = f", {self.queries_per_second:,.0f} queries/s" if self.queries_per_second else ""
        text = (
            f"{self.path}: {self.count:,} products, {self.builder}, recall@{self.k} {self.recall:.4f} "
            f"of exact search (target {self.target_recall}){speed}; tuned on {self.query_source}"
        )
        if self.target_reached:
            return text
        return (
            f"{text}\nWARNING: the target recall of {self.target_recall} was not reached, {self.recall:.4f} "
            "is the best found; lower the target, give sample queries to tune on, or search exactly"
        )

    def facts(self) -> dict[str, Any]:
        """What the manifest says besides the files."""
        tuning = self.tuning
        return {
            "count": self.count,
            "dim": self.dim,
            "model_fingerprint": self.model_fingerprint,
            "builder": self.builder,
            "leaves": self.leaves,
            "parameters": asdict(self.parameters),
            "target_recall": self.target_recall,
            "target_reached": self.target_reached,
            "recall": self.recall,
            "queries_per_second": self.queries_per_second,
            "tuning": {
                "query_source": self.query_source,
                "queries": tuning.queries if tuning else 0,
                "held_out_queries": tuning.held_out if tuning else 0,
                "curve": [asdict(point) for point in tuning.curve] if tuning else [],
            },
            "scann_version": self.scann_version,
        }
