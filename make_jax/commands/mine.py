"""`make-jax mine`: the nearest products of the training queries that nobody clicked under them, as hard negatives."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data_pipelines.hard_negatives import write_negatives
from data_pipelines.input import catalogue_batches
from data_pipelines.interactions import MAX_QUERY_TOKENS
from data_pipelines.prepared import ProductData
from data_pipelines.title_words import title_words
from data_pipelines.tokenizer import load_tokenizer
from data_pipelines.word_keys import QueryWordKeys
from make_jax.commands.embed import BATCH_SIZE, TrainedModel
from make_jax.commands.feeding import batch_shape, check_pictures, feed_options, open_training_data
from make_jax.commands.start_from import check_tokenizer
from make_jax.errors import UserError
from make_jax.model import build_model
from make_jax.retrieval.embeddings import Embeddings, EmbeddingWriter
from make_jax.retrieval.encode import Encoder
from make_jax.retrieval.index import Index, build_index, load_index
from make_jax.retrieval.mining import Known, Mined, MiningRules, Words, score_limits
from make_jax.retrieval.mining import mine as mine_products

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class MineSummary:
    """What was mined: for so many of so many queries, and how many candidates were refused for what reason."""

    out: Path
    negatives: int
    with_negatives: int
    queries: int
    known: int
    named: int
    close: int

    def text(self) -> str:
        """For the user."""
        return (
            f"{self.out}: {self.negatives:,} hard negatives for {self.with_negatives:,} of {self.queries:,} queries; "
            f"{self.known:,} candidates refused as known positives, {self.named:,} as naming all words of the query, "
            f"{self.close:,} as too close to known positives\n"
            f"Train with: make-jax train EXPERIMENT.py --negatives {self.out} --set objectives.hard_negatives=2"
        )


def mine(run: Path, data: Sequence[str], out: Path, rules: MiningRules, index: Path | None = None) -> MineSummary:
    """Write the hard negatives of the click log's queries to the directory `out`.

    Args:
      run: a finished run.
      data: see `open_training_data`; only its products and clicks are looked at, never the dev queries.
      out: the directory to write.
      rules: what to take.
      index: of its products, made with `run`; one is built, and not kept, if None.

    Raises:
      UserError, DataError: inputs that are unusable or do not belong together, or no click to mine for.
    """
    _check(rules)
    model = TrainedModel.open(run)
    opened, _ = open_training_data(data)
    keys, texts = _log_queries(opened)
    vectors = model.encode_queries(texts)
    words = _words(opened, texts) if rules.title_mask else None
    with tempfile.TemporaryDirectory() as folder:
        found = _own_index(model, opened, vectors, Path(folder)) if index is None else _given(index, model, opened)
        mined = _mined(found, vectors, keys, opened, rules, words)
    columns = {
        "query_key": keys[mined.query],
        "product_row": mined.row.astype(np.int32),
        "product_id": opened.product_ids[mined.row],
        "score": mined.score,
    }
    counts = {
        "negatives": len(mined.row),
        "with_negatives": len(np.unique(mined.query)),
        "queries": len(keys),
        "known": mined.known,
        "named": mined.named,
        "close": mined.close,
    }
    made_from = {"data": opened.fingerprint, "model": model.run.fingerprint}
    write_negatives(out, columns, counts, asdict(rules), made_from)
    return MineSummary(out, **counts)


def _check(rules: MiningRules) -> None:
    if rules.skip_top >= rules.depth:
        raise UserError(
            f"--skip-top {rules.skip_top} leaves nothing of --depth {rules.depth}; make --depth larger than that by a "
            f"few times --per-query {rules.per_query}"
        )


def _log_queries(data: ProductData) -> tuple[np.ndarray, list[str]]:
    """The keys of the queries that were clicked under, int32[Q] ascending, and of each the text with most clicks.

    Queries made up of titles are left out: that nobody clicked under them says nothing of what they do not mean.
    """
    log = data.interactions
    if not len(log["query_index"]):
        raise UserError(
            f"{data.path}: there are no clicks, so no product is known to be unwanted; train without mining"
        )
    clicks = np.bincount(log["query_index"], weights=log["clicks"], minlength=len(data.queries))
    used = np.unique(log["query_index"])
    order = used[np.lexsort((used, -clicks[used], data.query_keys[used]))]
    keys, first = np.unique(data.query_keys[order], return_index=True)
    return keys.astype(np.int32), [data.queries[query] for query in order[first].tolist()]


def _words(data: ProductData, texts: Sequence[str]) -> Words:
    tokenizer = load_tokenizer(data.tokenizer_path)
    queries = QueryWordKeys(tokenizer)(texts, MAX_QUERY_TOKENS)
    return Words(queries[:, queries.any(axis=0)], title_words(data, tokenizer))


@dataclass(frozen=True)
class _Searchable:
    """An index, and the row in the data of each of its products, int64[n]."""

    index: Index
    rows: np.ndarray


def _mined(
    found: _Searchable,
    vectors: np.ndarray,
    keys: np.ndarray,
    data: ProductData,
    rules: MiningRules,
    words: Words | None,
) -> Mined:
    known = Known.of(keys, [data.interactions, data.pseudo_pairs], data.query_keys, data.num_products)

    def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        result = found.index.search(queries, k)
        return result.scores, np.where(result.rows < 0, -1, found.rows[result.rows])

    positive = np.full(len(vectors), np.inf)
    if rules.below_positive is not None:
        index_rows = np.full(data.num_products, -1)
        index_rows[found.rows] = np.arange(len(found.rows))
        positive = known.mean_scores(vectors, found.index.vectors, index_rows)
    return mine_products(search, vectors, known, rules, score_limits(rules, positive), words)


def _own_index(model: TrainedModel, data: ProductData, queries: np.ndarray, folder: Path) -> _Searchable:
    """An index of all products of the data that the model sees anything of, tuned on the queries to come."""
    run = model.run
    check_pictures(run.experiment, data)
    check_tokenizer(run.tokenizer_path, data.tokenizer_path, f"--run {run.path}")
    encoder = Encoder(build_model(run.experiment))
    with (
        catalogue_batches(
            data, batch_shape(run.experiment), batch_size=BATCH_SIZE, options=feed_options(run.experiment)
        ) as batches,
        EmbeddingWriter(folder / "products.parquet", "products", model.dim, run.fingerprint) as writer,
    ):
        for part in encoder.products(run.params, _by_row(batches)):
            seen = part.weights.any(axis=1)
            writer.write(part.product_ids[seen].tolist(), part.vectors[seen], *part.weights[seen].T)
    embedded = Embeddings(np.arange(len(queries)).astype(str), queries, None, None, run.fingerprint, "queries")
    build_index(folder / "products.parquet", folder / "index", queries=embedded)
    index = load_index(folder / "index")
    return _Searchable(index, index.product_ids.astype(np.int64))


def _by_row(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Rows in place of product ids, which come again where data sets are mixed."""
    first = 0
    for batch in batches:
        size = len(batch["product_id"])
        yield batch | {"product_id": np.arange(first, first + size).astype(str)}
        first += size


def _given(path: Path, model: TrainedModel, data: ProductData) -> _Searchable:
    index = load_index(path)
    index.check_model(model.run.fingerprint)
    rows = {product_id: row for row, product_id in enumerate(data.product_ids.tolist())}
    if len(rows) < data.num_products:
        raise UserError(
            f"{data.path}: product ids come again, so --index {path} does not tell whose products it has; leave "
            "--index out"
        )
    foreign = [product_id for product_id in index.product_ids.tolist() if product_id not in rows]
    if foreign:
        raise UserError(
            f"--index {path} has product {foreign[0]!r} ({len(foreign):,} such of {len(index):,}), which {data.path} "
            "does not have; give the index of its products, or leave --index out"
        )
    return _Searchable(index, np.array([rows[product_id] for product_id in index.product_ids.tolist()], np.int64))
