"""`make-jax hybrid`: judged queries become the weight that hybrid search joins vectors and BM25 by."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_pipelines.quarantine import Quarantine
from make_jax.commands.judging import read_judgements
from make_jax.commands.systems import Systems, Vectors, rank
from make_jax.retrieval import hybrid, hybrid_weight
from make_jax.retrieval.hybrid_weight import GRID, HybridWeight
from make_jax.small_files import write_text


def learn_weight(
    run: Path,
    bm25: Path,
    queries: str,
    qrels: str,
    out: Path,
    index: Path | None = None,
    embeddings: Path | None = None,
) -> HybridWeight:
    """Learn the weight of largest nDCG@10 over judged queries, and write it to `out`.

    Args:
      run: a finished run.
      bm25: a BM25 directory.
      queries: table of queries; never those that hybrid search is judged by.
      qrels: table of judgements.
      out: JSON file to write.
      index: an index, to search through as will be searched with the weight.
      embeddings: or embeddings of products, to search exactly.

    Raises:
      UserError, DataError: inputs that are unusable or do not belong together.
    """
    vectors = Vectors.open(run, index, embeddings)
    systems = Systems.open(vectors, bm25)
    frame, judgements = read_judgements(queries, qrels, Quarantine())
    query_ids, texts = frame["query_id"].tolist(), frame["query"].tolist()
    columns = rank(systems, query_ids, texts, hybrid.CANDIDATES, exact=index is None).columns
    assert systems.bm25 is not None
    found = hybrid.pools(
        vectors.encode(texts),
        vectors.vectors,
        texts,
        systems.bm25,
        columns["exact" if index is None else "index"],
        columns["bm25"],
    )
    table = hybrid_weight.gains(found, vectors.product_ids, judgements, query_ids)
    weight = hybrid_weight.best_weight(table)
    means = np.nanmean(table, axis=1)
    learned = HybridWeight(
        weight=weight,
        ndcg=float(means[np.searchsorted(GRID, weight)]),
        ndcg_bm25=float(means[0]),
        ndcg_vectors=float(means[-1]),
        model_fingerprint=vectors.model.run.fingerprint,
        queries=hybrid_weight.hashes(query_ids, texts),
    )
    write_text(out, learned.to_json())
    return learned
