"""BM25 over the texts of products: a baseline, and the other half of hybrid search. The one place that knows bm25s."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.atomic import atomic_directory
from data_pipelines.manifest import foreign_content
from data_pipelines.text_units import fold_unit, text_runs
from make_jax.errors import UserError
from make_jax.retrieval.manifest import BM25_KIND, read_manifest, write_manifest

K1, B = 1.5, 0.75  # the library's defaults; titles are too short for either to matter much
_FOLDER = "bm25s"


def units(text: str) -> list[str]:
    """The words of a text; of a run without spaces (Chinese, say) its single characters."""
    return [word for run in _folded_runs(text) for word in run]


def terms(text: str) -> list[str]:
    """What BM25 counts: the units of a text, and where several follow each other without a space each two of them."""
    return [term for run in _folded_runs(text) for term in (*run, *(a + b for a, b in pairwise(run)))]


class Bm25:
    """A loaded BM25 directory. Made by `load_bm25`.

    Attributes:
      path: the directory.
      manifest: what it says of itself.
      product_ids: object[N] of str, the products in the order of `rows`.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest
        self.product_ids: np.ndarray = pq.read_table(path / "ids.parquet").column("product_id").to_numpy()
        self._model = _library().BM25.load(path / _FOLDER, show_progress=False)
        self._positions: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.product_ids)

    @property
    def missing(self) -> int:
        """How many of `product_ids` have no text here, after `over`."""
        return 0 if self._positions is None else int(np.sum(self._positions < 0))

    def over(self, product_ids: np.ndarray) -> Bm25:
        """The same scores, by the rows of another catalogue, object[N] of str; products that are not here score 0.

        Raises:
          UserError: the two have no product in common.
        """
        positions = pd.Index(self.product_ids).get_indexer(product_ids)
        if len(product_ids) and (positions < 0).all():
            raise UserError(
                f"{self.path} has none of the {len(product_ids)} products of the catalogue, as {product_ids[0]!r}; "
                "build it from the same products with `make-jax bm25`"
            )
        view = object.__new__(Bm25)
        view.path, view.manifest, view.product_ids, view._model = self.path, self.manifest, product_ids, self._model
        view._positions = positions
        return view

    def scores(self, query: str) -> np.ndarray:
        """float32[N], 0 for products without any of the query's terms; a term counts once however often it is said."""
        ids = sorted(set(self._model.get_tokens_ids(terms(query))))
        known = self._model.scores["num_docs"]
        found = self._model.get_scores_from_ids(ids) if ids else np.zeros(known, np.float32)
        return found if self._positions is None else np.append(found, np.float32(0))[self._positions]

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best products that have a term of the query, best first; of equals the lower row first.

        Returns:
          scores float32[Nq, K'] and rows int32[Nq, K'], K' = min(k, N); where fewer have a term, 0 and -1.
        """
        width = min(k, len(self))
        scores, rows = np.zeros((len(queries), width), np.float32), np.full((len(queries), width), -1, np.int32)
        for i, query in enumerate(queries):
            found = self.scores(query)
            best = _best(found, width)
            scores[i, : len(best)], rows[i, : len(best)] = found[best], best
        return scores, rows


def build_bm25(products: Iterable[tuple[str, Sequence[str]]], out: Path, fields: Sequence[str]) -> int:
    """Write a BM25 directory, whole or not at all; one that is already at `out` is replaced.

    Args:
      products: product_id, unique, and texts of each product.
      out: the directory.
      fields: what the texts are, for the manifest.

    Returns:
      How many products it has.

    Raises:
      UserError: no product has a word.
      DataError: `out` is a file, or holds something else.
    """
    vocabulary: dict[str, int] = {}
    product_ids, corpus = [], []
    for product_id, texts in products:
        product_ids.append(product_id)
        found = (term for text in texts for term in terms(text))
        corpus.append([vocabulary.setdefault(term, len(vocabulary)) for term in found])
    if not vocabulary:
        raise UserError(f"none of {len(corpus)} products has a word in {', '.join(fields)}; name other --fields")
    bm25s = _library()
    model = bm25s.BM25(k1=K1, b=B)
    model.index((corpus, vocabulary), create_empty_token=False, show_progress=False)
    facts = {"count": len(corpus), "fields": list(fields), "terms": len(vocabulary), "k1": K1, "b": B}
    with atomic_directory(out, partial(foreign_content, kind=BM25_KIND)) as directory:
        pq.write_table(pa.table({"product_id": pa.array(product_ids, pa.string())}), directory / "ids.parquet")
        _save(model, directory / _FOLDER)
        write_manifest(directory, facts | {"bm25s_version": bm25s.__version__}, BM25_KIND)
    return len(corpus)


def load_bm25(path: Path) -> Bm25:
    """Load a BM25 directory after verifying the checksum of every file.

    Raises:
      UserError: not such a directory, another format version, or a file that is missing, differs or was added.
    """
    return Bm25(path, read_manifest(path, BM25_KIND))


def _library() -> Any:
    """bm25s, which imports JAX and asks it for a device, so only when it is needed; it logs every step it takes."""
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return bm25s


def _save(model: Any, folder: Path) -> None:
    try:
        model.save(folder, show_progress=False)
    except OSError as error:
        if error.errno is None:  # np.save does not say why; a write of our own fails with it, on a full disk say
            (folder / "probe").write_bytes(bytes(1 << 20))
        raise


def _folded_runs(text: str) -> list[list[str]]:
    return [
        [word for unit in run for word in fold_unit(text[unit.start : unit.end]).split()] for run in text_runs(text)
    ]


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """The rows of the k largest positive scores, best first; of equals the lower row first."""
    rows = np.flatnonzero(scores > 0)
    if len(rows) > k:
        least = np.partition(scores[rows], len(rows) - k)[len(rows) - k]
        above, equal = rows[scores[rows] > least], rows[scores[rows] == least]
        rows = np.concatenate([above, equal[: k - len(above)]])
    return rows[np.lexsort((rows, -scores[rows]))]
