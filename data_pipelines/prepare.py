"""From the user's tables to a prepared data directory, whole or not at all."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from data_pipelines.atomic import atomic_directory
from data_pipelines.checks import Patterns, Product, ProductChecker
from data_pipelines.dataset import MAX_TITLE_TOKENS, write_products
from data_pipelines.errors import DataError
from data_pipelines.interactions import add_up, train_queries
from data_pipelines.log_checks import ClickChecker, QrelChecker, checked_queries
from data_pipelines.manifest import KIND, foreign_content, write_manifest
from data_pipelines.quarantine import Quarantine
from data_pipelines.schema import INTERACTIONS, PRODUCTS, QRELS, QUERIES
from data_pipelines.spool import ProductSpool
from data_pipelines.summary import PrepareSummary
from data_pipelines.tables import match_files
from data_pipelines.tokenizer import TextTokenizer, TokenizerKind, train_tokenizer

DEFAULT_SHARD_BYTES = 64 * 1024 * 1024
_DISK_FULL = (
    "No space left on device",
    "Disk quota exceeded",
)  # so say Python, Arrow, ArrayRecord and Rust alike

_Chunk = TypeVar("_Chunk")


def prepare(
    products: Patterns,
    out: str | Path,
    interactions: Patterns | None = None,
    queries: Patterns | None = None,
    qrels: Patterns | None = None,
    *,
    vocab_size: int = 8192,
    tokenizer_kind: TokenizerKind = "wordpiece",
    max_bad_share: float = 0.05,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    progress: bool = True,
) -> PrepareSummary:
    """Checks a catalogue, tokenises it and writes it, with its click log and dev queries, to a directory.

    `out` appears complete or not at all; an earlier prepared directory is replaced only at the end. Bad rows
    are set aside in `out`/quarantine.parquet. The same input gives the same files, to the byte.

    Args:
      products: paths or glob patterns of the product tables, Parquet, CSV or JSONL.
      out: the directory to write.
      interactions: the click log; without it there are no training pairs.
      queries: the dev queries; they go together with `qrels`.
      qrels: the judgements of the dev queries.
      vocab_size: tokens at most.
      tokenizer_kind: "wordpiece" or "unigram".
      max_bad_share: the share of a table's rows, 0 to 1, that may be set aside.
      shard_bytes: target size of a shard.
      progress: show progress bars where standard error is a terminal.

    Raises:
      DataError: anything wrong with the input, the output directory or the disk. If too many rows were bad,
        the report is left at `out`.quarantine.parquet.
    """
    started = time.monotonic()
    if (queries is None) != (qrels is None):
        given, absent = ("queries", "qrels") if qrels is None else ("qrels", "queries")
        raise DataError(f"{given} are given without {absent}; dev queries and judgements belong together")
    if not 0 <= max_bad_share <= 1:
        raise DataError(f"max_bad_share={max_bad_share} is out of bounds; choose from 0 to 1")
    out = Path(out).resolve()
    patterns_by_table = {PRODUCTS: products, INTERACTIONS: interactions, QUERIES: queries, QRELS: qrels}
    job = _Job(
        out=out,
        files={table.name: match_files(patterns or [], table) for table, patterns in patterns_by_table.items()},
        vocab_size=vocab_size,
        tokenizer_kind=tokenizer_kind,
        max_bad_share=max_bad_share,
        shard_bytes=shard_bytes,
        progress=progress,
        quarantine=Quarantine(),
    )
    source_bytes = sum(path.stat().st_size for path in job.files["products"])
    try:
        with atomic_directory(out, partial(foreign_content, kind=KIND)) as root:
            summary = job.build(root, started)
    except DataError:
        raise
    except Exception as error:
        if any(sign in str(error) for sign in _DISK_FULL):
            raise DataError(_disk_full(out, source_bytes)) from error
        if isinstance(error, OSError):
            raise DataError(
                f"{out} cannot be written: {error}; choose another --out or mend its permissions"
            ) from error
        raise
    job.report.unlink(missing_ok=True)  # of an earlier run that failed
    return summary


@dataclass
class _Job:
    """One run of `prepare`: what it was told, and the rows set aside so far."""

    out: Path
    files: dict[str, list[Path]]
    vocab_size: int
    tokenizer_kind: TokenizerKind
    max_bad_share: float
    shard_bytes: int
    progress: bool
    quarantine: Quarantine

    @property
    def report(self) -> Path:
        return self.out.with_name(self.out.name + ".quarantine.parquet")

    def build(self, root: Path, started: float) -> PrepareSummary:
        spool = ProductSpool(root / "spool.arrow")
        products = ProductChecker(self.quarantine).products(self.files["products"])
        spool.write(self._watch(products, "check products", len))
        self._accept("products")
        if not spool.index:
            raise DataError(f"products: no rows in {_names(self.files['products'])}; the catalogue is empty")
        checker = ClickChecker(self.quarantine, spool.index)
        clicks = checker.clicks(self.files["interactions"])
        pairs = add_up(self._watch(clicks, "check clicks", lambda chunk: len(chunk.clicks)))
        self._accept("interactions")
        counts = self._write_dev(root, spool.index)

        tokenizer = train_tokenizer(_Texts(spool, checker.queries), self.vocab_size, self.tokenizer_kind)
        tokenizer.save(root / "tokenizer")
        queries = train_queries(list(checker.queries), tokenizer)
        pq.write_table(pairs, root / "interactions.parquet")
        pq.write_table(queries, root / "train_queries.parquet")
        titles = _TitleEncoder(tokenizer)
        counts["shards"] = self._write_products(root, spool, titles)
        spool.remove()
        self.quarantine.write(root / "quarantine.parquet")
        counts |= {
            "products": len(spool.index),
            "queries": queries.num_rows,
            "query_keys": len(queries["query_key"].unique()),
            "interactions": pairs.num_rows,
            "vocabulary": tokenizer.vocab_size,
        }
        self._write_manifest(root, counts)
        return PrepareSummary(
            out=self.out,
            rows_read=dict(self.quarantine.read),
            set_aside={name: reasons for name in self.quarantine.read if (reasons := self.quarantine.reasons(name))},
            duplicates_merged=self.quarantine.merged.total(),
            rows_without_click=self.quarantine.without_click,
            counts=counts,
            mean_title_tokens=titles.mean_tokens,
            share_without_title=spool.without_title / len(spool.index),
            share_without_image=spool.without_image / len(spool.index),
            share_cold=1 - len(pairs["product_index"].unique()) / len(spool.index),
            size_bytes=sum(path.stat().st_size for path in root.rglob("*") if path.is_file()),
            seconds=time.monotonic() - started,
        )

    def _accept(self, table: str) -> None:
        """Raises DataError if too many of the table's rows were set aside."""
        self.quarantine.accept(table, self.max_bad_share, self.report)

    def _write_dev(self, root: Path, products: dict[str, int]) -> dict[str, int]:
        if not self.files["queries"]:
            return {"dev_queries": 0, "qrels": 0}
        queries = checked_queries(self.files["queries"], self.quarantine)
        self._accept("queries")
        checker = QrelChecker(self.quarantine, products, set(queries["query_id"].to_pylist()))
        qrels = checker.qrels(self.files["qrels"])
        self._accept("qrels")
        (root / "dev").mkdir()
        pq.write_table(queries, root / "dev" / "queries.parquet")
        pq.write_table(qrels, root / "dev" / "qrels.parquet")
        return {"dev_queries": queries.num_rows, "qrels": qrels.num_rows}

    def _write_products(self, root: Path, spool: ProductSpool, titles: _TitleEncoder) -> int:
        table = pa.table({name: pa.array(spool.column(name), pa.string()) for name in ("product_id", "category")})
        pq.write_table(table, root / "products.parquet")
        shards = math.ceil(spool.num_bytes / self.shard_bytes) or 1
        records = titles.records(self._watch(spool.products(), "write products", len, len(spool.index)))
        return write_products(root, records, math.ceil(len(spool.index) / shards))

    def _write_manifest(self, root: Path, counts: dict[str, int]) -> None:
        sources = {table: [str(path) for path in files] for table, files in self.files.items()}
        options = {
            "vocab_size": self.vocab_size,
            "tokenizer_kind": self.tokenizer_kind,
            "max_bad_share": self.max_bad_share,
            "shard_bytes": self.shard_bytes,
        }
        write_manifest(root, counts, sources, options)

    def _watch(
        self, chunks: Iterable[_Chunk], label: str, rows: Callable[[_Chunk], int], total: int | None = None
    ) -> Iterator[_Chunk]:
        """Passes chunks on and shows the rows they hold."""
        # None lets tqdm decide: it stays quiet where standard error is not a terminal.
        with tqdm(total=total, desc=label, unit=" rows", disable=None if self.progress else True) as bar:
            for chunk in chunks:
                yield chunk
                bar.update(rows(chunk))


@dataclass(frozen=True)
class _Texts:
    """All titles and queries, which the tokenizer reads twice."""

    spool: ProductSpool
    queries: Iterable[str]

    def __iter__(self) -> Iterator[str]:
        yield from self.spool.column("title")
        yield from self.queries


@dataclass
class _TitleEncoder:
    """Adds token ids to products, counting them."""

    tokenizer: TextTokenizer
    _titles: int = 0
    _tokens: int = 0

    @property
    def mean_tokens(self) -> float:
        return self._tokens / max(1, self._titles)

    def records(self, chunks: Iterable[list[Product]]) -> Iterator[dict[str, Any]]:
        for chunk in chunks:
            encoded = self.tokenizer.encode([product.title for product in chunk], MAX_TITLE_TOKENS)
            for product, title_ids in zip(chunk, encoded, strict=True):
                self._titles += len(title_ids) > 0
                self._tokens += len(title_ids)
                yield {**product._asdict(), "title_ids": title_ids}


def _names(files: list[Path]) -> str:
    return (", ".join(map(str, files[:3])) or "no files") + (", ..." if len(files) > 3 else "")


def _disk_full(out: Path, source_bytes: int) -> str:
    free = shutil.disk_usage(out.parent).free
    # Checked products and finished shards lie side by side for a while.
    return (
        f"{out}: the disk is full; preparing needs about {2 * source_bytes / 1e6:,.1f} MB plus twice the "
        f"size of images named by path, and {free / 1e6:,.1f} MB are free; make room or choose another --out"
    )
