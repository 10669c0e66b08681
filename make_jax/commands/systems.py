"""What is judged and searched: vectors, exactly or through an index, BM25, and both joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from make_jax.commands.embed import BATCH_SIZE, TrainedModel
from make_jax.errors import UserError
from make_jax.retrieval import hybrid, hybrid_weight
from make_jax.retrieval.bm25 import Bm25, load_bm25
from make_jax.retrieval.embeddings import Without, read_embeddings
from make_jax.retrieval.exact import exact_top_k
from make_jax.retrieval.hybrid import Pool, Ranking
from make_jax.retrieval.hybrid_weight import HybridWeight
from make_jax.retrieval.index import Index, load_index
from make_jax.retrieval.metrics import Qrels

Hybrid = Literal["rrf", "learned"]
_JOINED = {"exact": "hybrid", "index": "hybrid_index"}


@dataclass(frozen=True)
class Vectors:
    """A model and the vectors it made of a catalogue.

    Attributes:
      model: encodes the queries.
      product_ids: object[N] of str.
      vectors: float32[N, E].
      weights: float32[N, 2], title and picture.
      index: to search them through; None to search exactly only.
      without: what was left out of all products.
    """

    model: TrainedModel
    product_ids: np.ndarray
    vectors: np.ndarray
    weights: np.ndarray
    index: Index | None
    without: Without | None

    @classmethod
    def open(cls, run: Path, index: Path | None, embeddings: Path | None) -> Vectors:
        """Load a run and one of an index and an embeddings file that it made; raises UserError if it did not."""
        if (index is None) == (embeddings is None):
            raise UserError("--run needs either --index or --embeddings beside it, and not both")
        model = TrainedModel.open(run)
        if index is not None:
            loaded = load_index(index)
            loaded.check_model(model.run.fingerprint)
            return cls(model, loaded.product_ids, loaded.vectors, loaded.weights, loaded, loaded.without)
        assert embeddings is not None
        stored = read_embeddings(embeddings, "products")
        if stored.fingerprint != model.run.fingerprint:
            raise UserError(
                f"{embeddings} was made by model {stored.fingerprint[:12]}, but {run} is model "
                f"{model.run.fingerprint[:12]}; embed the catalogue again with this run"
            )
        assert stored.weight_text is not None
        assert stored.weight_image is not None
        weights = np.stack([stored.weight_text, stored.weight_image], axis=1)
        return cls(model, stored.ids, stored.vectors, weights, None, stored.without)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of queries, float32[Nq, E]."""
        return self.model.encode_queries(texts, min(len(texts), BATCH_SIZE))

    def rankings(self, query_vectors: np.ndarray, depth: int, exact: bool) -> dict[str, Ranking]:
        """By exact search if wanted, and through the index if there is one: "exact", "index"."""
        found = {"exact": Ranking(*exact_top_k(query_vectors, self.vectors, depth))} if exact else {}
        if self.index is not None:
            result = self.index.search(query_vectors, depth)
            found["index"] = Ranking(result.scores, result.rows)
        return found


@dataclass(frozen=True)
class HybridChoice:
    """How BM25 and vectors are joined; `weight` and its file are None where it is learned from the judged queries."""

    kind: Hybrid
    weight: HybridWeight | None = None
    path: Path | None = None

    @classmethod
    def of(cls, kind: Hybrid | None, weight: Path | None, bm25: Path | None, has_run: bool) -> HybridChoice | None:
        """From the options of a command; raises UserError for those that do not go together."""
        if weight is not None and kind != "learned":
            raise UserError("--hybrid-weight goes with --hybrid learned; give both or neither")
        if kind is None:
            return None
        if bm25 is None or not has_run:
            raise UserError("--hybrid joins vectors and BM25; give --run and --bm25")
        return cls(kind, hybrid_weight.read_weight(weight) if weight else None, weight)


@dataclass(frozen=True)
class Systems:
    """All that can be asked for products, over one catalogue.

    Attributes:
      vectors: None to ask BM25 alone.
      bm25: over the rows of the vectors' catalogue; None for none.
      hybrid: how to join them; None not to.
    """

    vectors: Vectors | None
    bm25: Bm25 | None
    hybrid: HybridChoice | None = None

    @classmethod
    def open(cls, vectors: Vectors | None, bm25: Path | None, hybrid_choice: HybridChoice | None = None) -> Systems:
        """Raises UserError where nothing is given, or what does not belong together."""
        lexical = load_bm25(bm25) if bm25 else None
        if vectors is None:
            if lexical is None:
                raise UserError("there is nothing to judge; give --run with --index or --embeddings, or --bm25")
            return cls(None, lexical)
        if hybrid_choice and hybrid_choice.weight and hybrid_choice.path:
            hybrid_choice.weight.check_model(vectors.model.run.fingerprint, hybrid_choice.path)
        return cls(vectors, lexical and lexical.over(vectors.product_ids), hybrid_choice)

    @property
    def product_ids(self) -> np.ndarray:
        """object[N] of str."""
        known = self.vectors or self.bm25
        assert known is not None
        return known.product_ids


@dataclass(frozen=True)
class Ranked:
    """The rankings of queries, by the name of each column, and what hybrid search did."""

    columns: dict[str, Ranking]
    hybrid: dict[str, Any] | None


def rank(
    systems: Systems,
    query_ids: Sequence[str],
    texts: Sequence[str],
    depth: int,
    qrels: Qrels | None = None,
    exact: bool = True,
) -> Ranked:
    """Ask every system for every query.

    Columns: "exact" and "index" by vectors, "bm25", and with hybrid search "hybrid" (exact) and "hybrid_index".

    Args:
      systems: what to ask.
      query_ids: str[Nq].
      texts: str[Nq].
      depth: results wanted.
      qrels: judgements to learn the weight of hybrid search from, by cross-fitting, where none was given.
      exact: whether to search the vectors exactly too.

    Raises:
      UserError: the weight given was learned from some of these queries, or there are too few to learn it from.
    """
    columns: dict[str, Ranking] = {}
    wanted = max(depth, hybrid.CANDIDATES) if systems.hybrid else depth
    query_vectors = systems.vectors.encode(texts) if systems.vectors else None
    if systems.vectors is not None and query_vectors is not None:
        columns |= systems.vectors.rankings(query_vectors, wanted, exact)
    if systems.bm25:
        columns["bm25"] = Ranking(*systems.bm25.search(texts, wanted))
    facts: dict[str, Any] | None = None
    if systems.hybrid and query_vectors is not None:
        facts = {"kind": systems.hybrid.kind, "candidates": wanted}
        joiner = _Joiner(systems, query_vectors, query_ids, texts, depth, qrels)
        for column, name in _JOINED.items():
            if column in columns:
                columns[name], facts[name] = joiner.join(columns[column], columns["bm25"])
    cut = {name: Ranking(ranking.scores[:, :depth], ranking.rows[:, :depth]) for name, ranking in columns.items()}
    return Ranked(cut, facts)


@dataclass(frozen=True)
class _Joiner:
    """Joins rankings of the same queries as the choice of hybrid search says."""

    systems: Systems
    query_vectors: np.ndarray
    query_ids: Sequence[str]
    texts: Sequence[str]
    depth: int
    qrels: Qrels | None

    def join(self, vectors: Ranking, bm25: Ranking) -> tuple[Ranking, dict[str, Any]]:
        """The joined ranking, and what to tell of how it was made."""
        choice, lexical, catalogue = self.systems.hybrid, self.systems.bm25, self.systems.vectors
        assert choice is not None
        if choice.kind == "rrf":
            return hybrid.by_ranks(vectors, bm25, self.depth), {"k": hybrid.RRF_K}
        assert lexical is not None
        assert catalogue is not None
        pools = list(hybrid.pools(self.query_vectors, catalogue.vectors, self.texts, lexical, vectors, bm25))
        weights = self._weights(choice, pools)
        told = {"weights": sorted(set(weights.tolist())), "cross_fitted": choice.weight is None}
        return hybrid.by_weight(pools, weights, self.depth), told

    def _weights(self, choice: HybridChoice, pools: Sequence[Pool]) -> np.ndarray:
        """The weight of each query, float64[Nq]."""
        if choice.weight is not None and choice.path is not None:
            if self.qrels is not None:
                choice.weight.check_queries(self.query_ids, self.texts, choice.path)
            return np.full(len(self.texts), choice.weight.weight)
        if self.qrels is None:
            raise UserError(
                "--hybrid learned needs the weight to use; write it with `make-jax hybrid`, give --hybrid-weight"
            )
        table = hybrid_weight.gains(pools, self.systems.product_ids, self.qrels, self.query_ids)
        return hybrid_weight.cross_fitted(table, self.texts)
