"""`make-jax search`: the products for one query."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from data_pipelines.errors import DataError
from make_jax.commands.catalogue import Shown, from_prepared
from make_jax.commands.systems import Hybrid, HybridChoice, Systems, Vectors, rank
from make_jax.errors import UserError


class Hit(NamedTuple):
    """One product found; the title is empty where the training data is gone or does not have the product."""

    rank: int
    product_id: str
    score: float
    weight_text: float
    weight_image: float
    title: str


def search(
    run: Path,
    index: Path,
    query: str,
    k: int = 10,
    bm25: Path | None = None,
    hybrid: Hybrid | None = None,
    hybrid_weight: Path | None = None,
) -> list[Hit]:
    """The `k` best products for a query through the index, fewer if the catalogue is smaller.

    With `hybrid` the vectors' results are joined with those of `bm25`; the scores are then those of the joined ranking.

    Raises:
      UserError: an empty query, k below 1, an index that another model made, or options that do not go together.
    """
    if not query.strip():
        raise UserError("the query is empty; type what to look for")
    if k < 1:
        raise UserError(f"k is {k}; ask for at least 1 result")
    choice = HybridChoice.of(hybrid, hybrid_weight, bm25, has_run=True)
    if bm25 is not None and choice is None:
        raise UserError("--bm25 is for hybrid search; give --hybrid rrf or learned too")
    vectors = Vectors.open(run, index, None)
    ranked = rank(Systems.open(vectors, bm25, choice), [""], [query], k, exact=False)
    scores, rows = (part[0] for part in ranked.columns["hybrid_index" if choice else "index"])
    product_ids = vectors.product_ids[rows]
    shown = _shown(vectors, product_ids)
    columns = (product_ids, scores, vectors.weights[rows, 0], vectors.weights[rows, 1])
    return [
        Hit(place, str(product), float(score), float(text), float(image), shown.get(product, Shown("", b"")).title)
        for place, (product, score, text, image) in enumerate(zip(*columns, strict=True), start=1)
    ]


def _shown(vectors: Vectors, product_ids: Iterable[str]) -> dict[str, Shown]:
    try:
        return from_prepared(vectors.model.run.origin["data"], product_ids).shown
    except DataError:
        return {}
