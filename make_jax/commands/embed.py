"""`make-jax embed`: a trained model and tables become files of vectors."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from tqdm import tqdm

from data_pipelines.checks import Product, ProductChecker
from data_pipelines.input import query_batches
from data_pipelines.log_checks import checked_queries
from data_pipelines.quarantine import Quarantine
from data_pipelines.stored_feed import row_batches
from data_pipelines.tokenizer import TextTokenizer, load_tokenizer
from make_jax import __version__
from make_jax.commands.feeding import batch_shape
from make_jax.commands.rows import MAX_BAD_SHARE, accept_rows
from make_jax.config import ModelConfig
from make_jax.errors import UserError
from make_jax.formats import differing_arrays
from make_jax.model import RetrievalModel, build_model
from make_jax.retrieval.embeddings import EmbeddingWriter, Without
from make_jax.retrieval.encode import Encoder
from make_jax.run import Run, open_run

log = logging.getLogger(__name__)

BATCH_SIZE = 256


def _check_parameters(run: Run, model: RetrievalModel) -> None:
    """Refuse parameters that are not those of the model: what a version does not know of, it would leave out."""
    here, there = (
        traverse_util.flatten_dict(tree, sep="/")
        for tree in (jax.eval_shape(model.init, jax.random.key(0)), run.params)
    )
    if different := differing_arrays(there, here):
        version = run.origin["versions"].get("make_jax")
        raise UserError(
            f"{run.path}: make_jax {version} at commit {run.origin['commit']} trained this model with other parameters "
            f"than make_jax {__version__} makes of its settings ({different}); use that version, or train again"
        )


class TrainedModel:
    """A finished run, ready to encode queries and products.

    Attributes:
      run: where it came from.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        model = build_model(run.experiment)
        _check_parameters(run, model)
        self._encoder = Encoder(model)
        self._tokenizer: TextTokenizer = load_tokenizer(run.tokenizer_path)

    @classmethod
    def open(cls, path: Path) -> TrainedModel:
        """Load a run directory; raises UserError where it is not a finished run, or of another version's model."""
        return cls(open_run(path))

    @property
    def dim(self) -> int:
        """E, the width of the vectors."""
        return self.run.experiment.model.embedding

    def encode_queries(self, texts: Sequence[str], batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Unit vectors of queries, float32[n, E]. Queries longer than the model reads are cut, and said to be."""
        limit = self.run.experiment.model.query.max_tokens
        self._warn_of_long(texts, limit)
        batches = query_batches(texts, self._tokenizer, batch_size=batch_size, max_query_tokens=limit)
        return self._encoder.queries(self.run.params, batches)

    def _warn_of_long(self, texts: Sequence[str], limit: int) -> None:
        lengths = [len(ids) for ids in self._tokenizer.encode(texts, 1_000_000)]
        long = [(text, length) for text, length in zip(texts, lengths, strict=True) if length > limit]
        if not long:
            return
        text, length = long[0]
        more = f" (and {len(long) - 1:,} more of {len(texts):,} queries have too many)" if len(long) > 1 else ""
        log.warning(
            "query %r has %d tokens%s; the model reads %d, the rest is cut off", _short(text), length, more, limit
        )

    def encode_rows(self, rows: Iterable[dict[str, Any]], source: str) -> Iterator[Any]:
        """Vectors and weights of products given as rows (product_id, title, category, images, regions), by batch."""
        experiment = self.run.experiment
        with row_batches(
            rows,
            self._tokenizer,
            batch_shape(experiment),
            batch_size=BATCH_SIZE,
            region_width=experiment.model.image.region_width or 0,
            source=source,
        ) as batches:
            yield from self._encoder.products(self.run.params, batches)


def embed_products(
    run: Path,
    products: Sequence[str],
    out: Path,
    max_bad_share: float = MAX_BAD_SHARE,
    without: Without | None = None,
) -> int:
    """Write the vectors and modal weights of a catalogue to `out`; returns how many.

    Rows that cannot be used go to `OUT.quarantine.parquet` with the reason. With `without`, the products are embedded
    as if none had a picture, or a title. Products that then have nothing that the model sees are left out, and counted
    in the log.

    Raises:
      UserError, DataError: no finished run, unreadable tables, no usable product, or too many bad rows.
    """
    model, quarantine = TrainedModel.open(run), Quarantine()
    checker, config, count, unseen = ProductChecker(quarantine), model.run.experiment.model, 0, 0
    images = config.image.images if config.has_image else 1

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal unseen
        for chunk in checker.products(list(products)):
            for product in chunk:
                bare = _bare(product, without)
                if _sees(config, bare):
                    yield bare._asdict()
                else:
                    unseen += 1

    with (
        EmbeddingWriter(out, "products", model.dim, model.run.fingerprint, images, without) as writer,
        tqdm(desc="embed", unit="product", mininterval=1.0) as bar,
    ):
        for part in model.encode_rows(rows(), ", ".join(products)):
            single = part.image_weights if images > 1 else None
            writer.write(part.product_ids, part.vectors, part.weights[:, 0], part.weights[:, 1], single)
            count += len(part.product_ids)
            bar.update(len(part.product_ids))
        accept_rows(quarantine, "products", count, out, max_bad_share)
    if unseen:
        left = f" without {without}" if without else ""
        log.warning("%d products have nothing%s that this model sees, and are left out", unseen, left)
    return count


def _bare(product: Product, without: Without | None) -> Product:
    if without == "images":
        return product._replace(images=(), regions=b"", region_width=0)
    return product._replace(title="") if without == "titles" else product


def _sees(config: ModelConfig, product: Product) -> bool:
    """Whether the product has anything that the model reads."""
    return bool((config.has_title and product.title) or (config.has_image and (product.images or product.regions)))


def embed_queries(run: Path, queries: str, out: Path, max_bad_share: float = MAX_BAD_SHARE) -> int:
    """Write the vectors of a query table to `out`; returns how many. Raises as `embed_products`."""
    model, quarantine = TrainedModel.open(run), Quarantine()
    table = checked_queries(queries, quarantine)
    accept_rows(quarantine, "queries", table.num_rows, out, max_bad_share)
    with EmbeddingWriter(out, "queries", model.dim, model.run.fingerprint) as writer:
        writer.write(table["query_id"].to_pylist(), model.encode_queries(table["query"].to_pylist()))
    return table.num_rows


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
