"""From the user's tables to a prepared data directory, whole or not at all."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from data_pipelines.atomic import atomic_directory
from data_pipelines.checks import Patterns
from data_pipelines.disk import disk_errors
from data_pipelines.errors import DataError
from data_pipelines.interactions import add_up, pseudo_pairs, train_queries
from data_pipelines.keyword_weights import weigh_keywords
from data_pipelines.log_checks import ClickChecker, Clicks, QrelChecker, checked_queries
from data_pipelines.manifest import KIND, foreign_content, write_manifest
from data_pipelines.parallel import Runner, RunnerName, choose_runner
from data_pipelines.product_parts import CheckedProducts, check_products
from data_pipelines.product_shards import ShardPlan, WrittenShards, write_shards
from data_pipelines.quarantine import FURTHER_IMAGES, Quarantine
from data_pipelines.schema import INTERACTIONS, PRODUCTS, QRELS, QUERIES
from data_pipelines.shards import Storage
from data_pipelines.summary import PrepareSummary
from data_pipelines.tables import match_files, table_parts
from data_pipelines.title_tokens import KeywordSet
from data_pipelines.tokenizer import TextTokenizer, pretrained_tokenizer
from data_pipelines.tokenizer_training import train_tokenizer

DEFAULT_SHARD_BYTES = 64 * 1024 * 1024
DEFAULT_VOCAB_SIZE = 8192
TRAINED = ("wordpiece", "unigram")


def prepare(
    products: Patterns,
    out: str | Path,
    interactions: Patterns | None = None,
    queries: Patterns | None = None,
    qrels: Patterns | None = None,
    *,
    tokenizer: str = "wordpiece",
    vocab_size: int | None = None,
    pseudo_queries: int = 2,
    storage: Storage = "array_record",
    max_bad_share: float = 0.05,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    workers: int | None = None,
    runner: RunnerName = "processes",
    beam_options: str = "",
    progress: bool = True,
) -> PrepareSummary:
    """Checks a catalogue, tokenises it and writes it, with its click log and dev queries, to a directory.

    `out` appears complete or not at all; an earlier prepared directory is replaced only at the end. Bad rows
    are set aside in `out`/quarantine.parquet. The same input gives the same files, to the byte, whoever does the work
    and however many share it; since processes are started afresh, a script needs its `if __name__ == "__main__":`.

    Args:
      products: paths or glob patterns of the product tables, Parquet, CSV or JSONL. The parts that are worked on side
        by side are row groups of Parquet and whole files of the others.
      out: the directory to write.
      interactions: the click log; without it there are no training pairs.
      queries: the dev queries; they go together with `qrels`.
      qrels: the judgements of the dev queries.
      tokenizer: "wordpiece" or "unigram" to train one; else a folder that holds one, or its name on the Hugging Face
        hub.
      vocab_size: tokens at most of a trained one, 8,192 by default.
      pseudo_queries: how many queries at most are made up from the title of a product.
      storage: "array_record" for reading any product at any time from a disk or a mounted bucket, "tfrecord" for
        streaming from object storage.
      max_bad_share: the share of a table's rows, 0 to 1, that may be set aside.
      shard_bytes: target size of a shard.
      workers: CPU cores to use; None for all.
      runner: "processes" of this machine, or "beam" for Apache Beam.
      beam_options: Beam's own, as on a command line.
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
    if pseudo_queries < 0:
        raise DataError(f"pseudo_queries={pseudo_queries} is too few; use 0 for none")
    if storage not in ("array_record", "tfrecord"):
        raise DataError(f"storage {storage!r} is unknown; use 'array_record' or 'tfrecord'")
    out = Path(out).resolve()
    patterns_by_table = {PRODUCTS: products, INTERACTIONS: interactions, QUERIES: queries, QRELS: qrels}
    job = _Job(
        out=out,
        files={table.name: match_files(patterns or [], table) for table, patterns in patterns_by_table.items()},
        options={
            "tokenizer": tokenizer,
            "vocab_size": vocab_size or (DEFAULT_VOCAB_SIZE if tokenizer in TRAINED else None),
            "pseudo_queries": pseudo_queries,
            "storage": storage,
            "max_bad_share": max_bad_share,
            "shard_bytes": shard_bytes,
        },
        pretrained=_pretrained(tokenizer, vocab_size),
        runner=choose_runner(runner, workers, beam_options),
        progress=progress,
    )
    with (
        disk_errors(out, job.files["products"]),
        atomic_directory(out, partial(foreign_content, kind=KIND)) as root,
    ):
        summary = job.build(root, started)
    job.report.unlink(missing_ok=True)  # of an earlier run that failed
    return summary


def _pretrained(name: str, vocab_size: int | None) -> TextTokenizer | None:
    """The tokenizer of that name or folder; None if one is to be trained."""
    if name in TRAINED:
        return None
    if vocab_size is not None:
        raise DataError(
            f"vocab_size={vocab_size} is given with the tokenizer {name!r}, which has its vocabulary already; "
            "leave it out or choose 'wordpiece' or 'unigram'"
        )
    return pretrained_tokenizer(name)


@dataclass
class _Job:
    """One run of `prepare`: what it was told, and the rows set aside so far."""

    out: Path
    files: dict[str, list[Path]]
    options: dict[str, Any]
    pretrained: TextTokenizer | None
    runner: Runner
    progress: bool
    quarantine: Quarantine = field(default_factory=Quarantine)

    @property
    def report(self) -> Path:
        return self.out.with_name(self.out.name + ".quarantine.parquet")

    def build(self, root: Path, started: float) -> PrepareSummary:
        work = root / "work"
        products = self._check_products(work)
        checker = ClickChecker(self.quarantine, products.index)
        pairs = add_up(self._watch(checker.clicks(self.files["interactions"])))
        self._accept("interactions")
        counts = self._write_dev(root, products.index)

        tokenizer = self.pretrained or self._train_tokenizer(_Texts(products, checker.queries))
        tokenizer.save(root / "tokenizer")
        pq.write_table(pairs, root / "interactions.parquet")
        clicked = np.zeros(len(products.index), bool)
        clicked[pairs["product_index"]] = True
        shards = self._write_shards(root, work, products, self._keywords(list(checker.queries), pairs, products))
        counts |= self._write_queries(root, checker.queries, shards, tokenizer)
        columns = {name: pa.array(products.spool.column(name), pa.string()) for name in ("product_id", "category")}
        columns |= {"title_tokens": shards.title_tokens, "num_images": shards.num_images}
        pq.write_table(pa.table(columns), root / "products.parquet")
        shutil.rmtree(work)

        self.quarantine.write(root / "quarantine.parquet")
        counts |= {
            "products": len(products.index),
            "images": products.images,
            "interactions": pairs.num_rows,
            "shards": len(shards.lengths),
            "vocabulary": tokenizer.vocab_size,
        }
        sources = {table: [str(path) for path in files] for table, files in self.files.items()}
        options = self.options | {"region_width": products.region_width, "max_images": products.max_images}
        write_manifest(root, counts, sources, options)
        title_tokens = shards.title_tokens.to_numpy()
        return PrepareSummary(
            out=self.out,
            storage=self.options["storage"],
            rows_read=dict(self.quarantine.read),
            set_aside={name: reasons for name in self.quarantine.read if (reasons := self.quarantine.reasons(name))},
            duplicates_merged=self.quarantine.merged.total(),
            rows_without_click=self.quarantine.without_click,
            counts=counts,
            mean_title_tokens=float(title_tokens.sum() / max(1, (title_tokens > 0).sum())),
            region_width=products.region_width,
            share_without_title=products.without_title / len(products.index),
            share_without_image=products.without_image / len(products.index),
            share_cold=1 - float(clicked.mean()),
            size_bytes=sum(path.stat().st_size for path in root.rglob("*") if path.is_file()),
            seconds=time.monotonic() - started,
        )

    def _check_products(self, work: Path) -> CheckedProducts:
        parts = table_parts(self.files["products"], PRODUCTS)
        with self._bar("check products", "parts", len(parts)) as bar:
            products = check_products(parts, work, self.runner, self.quarantine, bar.update)
        self._accept("products")
        self._accept(FURTHER_IMAGES)
        if not products.index:
            raise DataError(f"products: no rows in {_names(self.files['products'])}; the catalogue is empty")
        return products

    def _accept(self, table: str) -> None:
        """Raises DataError if too many of the table's rows were set aside."""
        self.quarantine.accept(table, self.options["max_bad_share"], self.report)

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

    def _train_tokenizer(self, texts: Iterable[str]) -> TextTokenizer:
        return train_tokenizer(texts, self.options["vocab_size"], self.options["tokenizer"])

    def _keywords(self, queries: list[str], pairs: pa.Table, products: CheckedProducts) -> KeywordSet:
        clicks = np.bincount(pairs["query_index"], weights=pairs["clicks"], minlength=len(queries))
        keywords = KeywordSet.from_queries(queries, clicks.astype(np.int64).tolist())
        if not self.options["pseudo_queries"]:
            return keywords  # nothing else asks for weights
        columns = {name: pairs[name].to_numpy() for name in ("query_index", "product_index")}
        return weigh_keywords(keywords, products.spool.column("title"), queries, columns)

    def _write_shards(self, root: Path, work: Path, products: CheckedProducts, keywords: KeywordSet) -> WrittenShards:
        plan = ShardPlan(root, work, *(self.options[name] for name in ("storage", "shard_bytes", "pseudo_queries")))
        with self._bar("write products", "shards", len(plan.lengths(products))) as bar:
            return write_shards(plan, products, keywords, self.runner, bar.update)

    def _write_queries(
        self, root: Path, queries: dict[str, int], shards: WrittenShards, tokenizer: TextTokenizer
    ) -> dict[str, int]:
        from_log = len(queries)
        made_up = (queries.as_py() for queries in shards.pseudo_queries)
        pairs = pseudo_pairs(queries, made_up)
        table = train_queries(queries, tokenizer)
        pq.write_table(pairs, root / "pseudo_pairs.parquet")
        pq.write_table(table, root / "train_queries.parquet")
        return {
            "queries": from_log,
            "query_keys": len(table["query_key"][:from_log].unique()),
            "pseudo_queries": len(queries) - from_log,
            "pseudo_pairs": pairs.num_rows,
        }

    def _bar(self, label: str, unit: str, total: int | None = None) -> tqdm:
        # None lets tqdm decide: it stays quiet where standard error is not a terminal.
        return tqdm(total=total, desc=label, unit=f" {unit}", disable=None if self.progress else True)

    def _watch(self, chunks: Iterable[Clicks]) -> Iterator[Clicks]:
        """Passes clicks on and shows how many they are."""
        with self._bar("check clicks", "rows") as bar:
            for chunk in chunks:
                yield chunk
                bar.update(len(chunk.clicks))


@dataclass(frozen=True)
class _Texts:
    """All titles and queries, which the tokenizer reads twice."""

    products: CheckedProducts
    queries: Iterable[str]

    def __iter__(self) -> Iterator[str]:
        return chain(self.products.spool.column("title"), self.queries)


def _names(files: list[Path]) -> str:
    return (", ".join(map(str, files[:3])) or "no files") + (", ..." if len(files) > 3 else "")
