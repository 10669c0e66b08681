"""`make-jax search`: the products for one query."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from data_pipelines.errors import DataError
from make_jax.commands.catalogue import Shown, from_prepared
from make_jax.commands.embed import TrainedModel
from make_jax.errors import UserError
from make_jax.retrieval.index import load_index


class Hit(NamedTuple):
    """One product found; the title is empty where the training data is gone or does not have the product."""

    rank: int
    product_id: str
    score: float
    weight_text: float
    weight_image: float
    title: str


def search(run: Path, index: Path, query: str, k: int = 10) -> list[Hit]:
    """The `k` best products for a query, fewer if the catalogue is smaller.

    Raises:
      UserError: an empty query, k below 1, or an index that another model made.
    """
    if not query.strip():
        raise UserError("the query is empty; type what to look for")
    if k < 1:
        raise UserError(f"k is {k}; ask for at least 1 result")
    loaded = load_index(index)
    model = TrainedModel.open(run)
    loaded.check_model(model.run.fingerprint)
    found = loaded.search(model.encode_queries([query], batch_size=1), k)
    shown = _shown(model, found.product_ids[0])
    columns = (found.product_ids[0], found.scores[0], found.weight_text[0], found.weight_image[0])
    return [
        Hit(rank, str(product), float(score), float(text), float(image), shown.get(product, Shown("", b"")).title)
        for rank, (product, score, text, image) in enumerate(zip(*columns, strict=True), start=1)
    ]


def _shown(model: TrainedModel, product_ids: Iterable[str]) -> dict[str, Shown]:
    try:
        return from_prepared(model.run.origin["data"], product_ids).shown
    except DataError:
        return {}
