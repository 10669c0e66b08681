"""The index directory: build it from embeddings, load it, search it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.atomic import atomic_directory
from data_pipelines.manifest import foreign_content
from make_jax.errors import UserError
from make_jax.retrieval import scann_backend
from make_jax.retrieval.embeddings import Embeddings, Without, check_unit_vectors, read_embeddings
from make_jax.retrieval.exact import exact_top_k
from make_jax.retrieval.manifest import KIND, read_manifest, write_manifest
from make_jax.retrieval.scann_backend import ScannSearcher
from make_jax.retrieval.summary import EXACT, IndexSummary
from make_jax.retrieval.tuning import SURROGATE_COSINE, SearchParameters, surrogate_queries, tune

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchResult:
    """Results of B queries, best first; K' = min(k, N).

    Attributes:
      product_ids: object[B, K'] of str.
      rows: int32[B, K'], rows of the index.
      scores: float32[B, K'], inner products.
      weight_text: float32[B, K'], how much of each product's vector its text made.
      weight_image: float32[B, K'], the same for its image.
    """

    product_ids: np.ndarray
    rows: np.ndarray
    scores: np.ndarray
    weight_text: np.ndarray
    weight_image: np.ndarray


class Index:
    """A loaded index. Made by `load_index`.

    Attributes:
      product_ids: object[N] of str.
      vectors: float32[N, E], memory-mapped.
      weights: float32[N, 2], how much of each vector the text and the image made.
      manifest: what the directory says of itself.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        table = pq.read_table(path / "ids.parquet")
        self.path, self.manifest = path, manifest
        self.product_ids: np.ndarray = table.column("product_id").to_numpy()
        self.vectors: np.ndarray = np.load(path / "vectors.npy", mmap_mode="r", allow_pickle=False)
        weights = [table.column(name).to_numpy() for name in ("weight_text", "weight_image")]
        self.weights: np.ndarray = np.stack(weights, axis=1)
        self._parameters = SearchParameters(**manifest["parameters"])
        self._searcher = _load_searcher(path, manifest)

    def __len__(self) -> int:
        return len(self.product_ids)

    @property
    def dim(self) -> int:
        """Width E of the vectors."""
        return int(self.vectors.shape[1])

    @property
    def without(self) -> Without | None:
        """ "images" or "titles" if the vectors were made without them, else None."""
        return self.manifest.get("without")

    def check_model(self, fingerprint: str) -> None:
        """Refuse queries of another model than the one that made the vectors.

        Raises:
          UserError: the fingerprints differ.
        """
        made_by = self.manifest["model_fingerprint"]
        if fingerprint != made_by:
            raise UserError(
                f"{self.path} was made with model {made_by}, the queries would be encoded by model "
                f"{fingerprint}; give the run that embedded the catalogue, or embed and index "
                "again with this one"
            )

    def search(self, vectors: np.ndarray, k: int, exact: bool = False) -> SearchResult:
        """The min(k, N) products of largest inner product with each query.

        Args:
          vectors: float32[B, E], the encoded queries.
          k: results per query, at least 1.
          exact: score every product, instead of asking the approximate index.

        Raises:
          UserError: k below 1, or vectors of another width or with values that are not finite.
        """
        if k < 1:
            raise UserError(f"k is {k}; ask for at least 1 result")
        vectors = np.asarray(vectors, dtype=np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise UserError(
                f"query vectors have shape {vectors.shape}, {self.path} holds vectors of width {self.dim}; "
                "encode the queries with the model of the index"
            )
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise UserError(f"query vector {bad[0]} has values that are not finite; check the model that encoded it")
        k = min(k, len(self))
        scores, rows = exact_top_k(vectors, self.vectors, k) if exact else self._approximate(vectors, k)
        return SearchResult(self.product_ids[rows], rows, scores, *np.moveaxis(self.weights[rows], -1, 0))

    def _approximate(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As exact_top_k, by the index; queries for which it finds fewer than k are searched exactly."""
        if self._searcher is None:
            return exact_top_k(vectors, self.vectors, k)
        effort = self._parameters.scaled_to(k)
        scores, rows = self._searcher.search(vectors, k, effort.reorder, effort.leaves_to_search)
        short = np.flatnonzero(rows[:, -1] < 0)
        if len(short):
            scores[short], rows[short] = exact_top_k(vectors[short], self.vectors, k)
        return scores, rows


def build_index(
    embeddings_path: str | Path,
    out: str | Path,
    target_recall: float = 0.95,
    queries: Embeddings | None = None,
    k: int = 10,
    seed: int = 0,
) -> IndexSummary:
    """Build an index directory from a catalogue's embeddings, tuned to a recall against exact search.

    The directory is whole or absent; an index that is already at `out` is replaced.

    Args:
      embeddings_path: embeddings of products, a file or a folder.
      out: the directory to write.
      target_recall: recall@k wanted, in (0, 1].
      queries: embedded queries like those to come; half of them tune, the other half judge. If None,
        catalogue vectors with noise stand in, which says less about real queries.
      k: results per query to tune for.
      seed: which queries (and what noise) are used.

    Raises:
      UserError: embeddings that are unusable or empty, queries of another model, arguments out of range, or too
        little memory.
      DataError: `out` is a file, or holds something else than an index.
    """
    if not 0 < target_recall <= 1:
        raise UserError(f"the target recall is {target_recall}; give a number above 0 and at most 1, such as 0.95")
    if k < 1:
        raise UserError(f"k is {k}; tune for at least 1 result")
    embeddings = read_embeddings(embeddings_path, "products")
    if not len(embeddings.ids):
        raise UserError(f"{embeddings_path} holds no products; embed a catalogue first")
    check_unit_vectors(embeddings.vectors, embeddings.ids, str(embeddings_path))
    query_vectors = None if queries is None else _checked_queries(queries, embeddings)
    with atomic_directory(Path(out), partial(foreign_content, kind=KIND)) as directory:
        searcher = scann_backend.build(embeddings.vectors) if scann_backend.available() else None
        summary = _measured(searcher, embeddings, Path(out), target_recall, query_vectors, k, seed)
        _write(searcher, embeddings, summary, directory)
    return summary


def load_index(path: str | Path) -> Index:
    """Load an index directory after verifying the checksum of every file.

    Raises:
      UserError: not an index, another format version, or a file that is missing, differs or was added.
    """
    path = Path(path)
    return Index(path, read_manifest(path))


def _measured(
    searcher: ScannSearcher | None,
    embeddings: Embeddings,
    out: Path,
    target_recall: float,
    query_vectors: np.ndarray | None,
    k: int,
    seed: int,
) -> IndexSummary:
    """Tune the index and say how well it does."""
    vectors = embeddings.vectors
    if query_vectors is None:
        source = f"catalogue vectors with noise (cosine {SURROGATE_COSINE}), for want of queries"
        query_vectors = surrogate_queries(vectors, seed)
    else:
        source = f"{len(query_vectors):,} given queries"
    return IndexSummary(
        path=out,
        count=len(vectors),
        dim=vectors.shape[1],
        model_fingerprint=embeddings.fingerprint,
        builder=searcher.builder if searcher else EXACT,
        leaves=searcher.leaves if searcher else 0,
        target_recall=target_recall,
        query_source=source,
        tuning=tune(searcher, vectors, query_vectors, target_recall, k, seed) if searcher else None,
        scann_version=scann_backend.version() if searcher else None,
        k=min(k, len(vectors)),
    )


def _write(searcher: ScannSearcher | None, embeddings: Embeddings, summary: IndexSummary, directory: Path) -> None:
    """Write every file of the index, the manifest last."""
    _write_vectors(embeddings.vectors, directory / "vectors.npy")
    _write_ids(embeddings, directory / "ids.parquet")
    if searcher:
        _save_searcher(searcher, directory / "scann")
    left_out = {"without": embeddings.without} if embeddings.without else {}
    write_manifest(directory, summary.facts() | left_out)


def _write_vectors(vectors: np.ndarray, path: Path) -> None:
    """As np.save, whose error of a full disk has no errno."""
    vectors = np.ascontiguousarray(vectors)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(vectors))
        file.write(vectors.data)


def _save_searcher(searcher: ScannSearcher, folder: Path) -> None:
    folder.mkdir()
    try:
        searcher.save(folder)
    except RuntimeError:
        # ScaNN says "I/O error" whatever the reason; a write of our own fails with it, on a full disk say.
        (folder / "probe").write_bytes(bytes(1 << 20))
        raise


def _write_ids(embeddings: Embeddings, path: Path) -> None:
    columns = {
        "row": pa.array(np.arange(len(embeddings.ids), dtype=np.int32)),
        "product_id": pa.array(embeddings.ids, pa.string()),
        "weight_text": pa.array(embeddings.weight_text),
        "weight_image": pa.array(embeddings.weight_image),
    }
    pq.write_table(pa.table(columns), path)


def _load_searcher(path: Path, manifest: dict[str, Any]) -> ScannSearcher | None:
    """The ScaNN index; None if there is none or ScaNN is not installed, and search is exact."""
    if manifest["builder"] == EXACT:
        return None
    if not scann_backend.available():
        _log.warning("ScaNN is not installed, so %s is searched exactly; on Linux: pip install scann", path)
        return None
    return scann_backend.load(path / "scann", manifest["builder"], manifest["count"], manifest["leaves"])


def _checked_queries(queries: Embeddings, catalogue: Embeddings) -> np.ndarray:
    """The vectors of queries to tune on, float32[M, E]; refused where they do not belong to the catalogue."""
    if queries.fingerprint != catalogue.fingerprint:
        raise UserError(
            f"the queries to tune on were made by model {queries.fingerprint}, the catalogue by model "
            f"{catalogue.fingerprint}; embed both with the same run"
        )
    vectors, dim = queries.vectors, catalogue.vectors.shape[1]
    if not len(vectors) or vectors.shape[1] != dim:
        raise UserError(
            f"query vectors to tune on have shape {vectors.shape}, the catalogue's are {dim} wide; "
            "give at least one query encoded by the same model"
        )
    if not np.isfinite(vectors).all():
        raise UserError("query vectors to tune on have values that are not finite; check the model that encoded them")
    return vectors
