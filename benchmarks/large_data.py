"""Prepared data of a million products, written directly: what would be drawn and checked on the way takes too long."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from catalogues import photograph
from tqdm import tqdm

from data_pipelines.manifest import write_manifest
from data_pipelines.records import MAX_TITLE_TOKENS, serialize_product
from data_pipelines.shards import Storage, shard_path, write_dataset_info, write_shard
from data_pipelines.synthetic import SyntheticSpec
from data_pipelines.synthetic.catalogue import product_id, products
from data_pipelines.title_tokens import KeywordSet, tokenize_titles
from data_pipelines.tokenizer import TextTokenizer, load_tokenizer
from data_pipelines.tokenizer_training import train_tokenizer

_SHARD_PRODUCTS = 20_000  # of some 60 MB, as `prepare` makes them
_PICTURES = 4_000  # different ones
_SIZE = (60, 80)
_TRAINING_TITLES = 20_000
_CLICKED_BY = 2  # queries for each product
_PRODUCTS_PER_QUERY = 10


def write_large(folders: Mapping[Storage, Path], count: int) -> None:
    """Writes the same products in several forms of storage, a shard at a time; each product has a title of its own.

    Pictures come from a pool of 4,000, and who clicked on what is drawn at random.

    Args:
      folders: the prepared data directories, which are made.
      count: N.
    """
    titles = [title for title, _ in _listing(0, min(count, _TRAINING_TITLES))]
    tokenizer = train_tokenizer(titles)
    for root in folders.values():
        root.mkdir(parents=True)
        tokenizer.save(root / "tokenizer")
    writer = _ShardWriter(dict(folders), count, _pool_of_pictures(min(count, _PICTURES)))
    shards = range(-(-count // _SHARD_PRODUCTS))
    with ProcessPoolExecutor(min(len(shards), os.cpu_count() or 1), multiprocessing.get_context("spawn")) as processes:
        written = list(tqdm(processes.map(writer, shards), "write products", len(shards), unit=" shards", disable=None))
    tables, num_bytes = zip(*written, strict=True)
    for storage, root in folders.items():
        write_dataset_info(root, [len(table) for table in tables], sum(num_bytes), storage)
        pq.write_table(pa.concat_tables(tables), root / "products.parquet")
        _write_log(root, count, titles, tokenizer)
        write_manifest(root, {"products": count}, {}, {"storage": storage, "region_width": 0, "max_images": 1})


def _listing(start: int, stop: int) -> list[tuple[str, str]]:
    """Titles and categories; the number makes each title one of a kind."""
    spec = SyntheticSpec(products=stop, missing_image_share=1.0, missing_title_share=0.0)
    numbered = enumerate(products(spec, start, stop), start)
    return [(f"{product.title} {number}", product.category) for number, product in numbered]


def _pool_of_pictures(count: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    spec = SyntheticSpec(products=count, image_size=_SIZE, missing_image_share=0.0)
    return [photograph(product.image, rng) for product in products(spec) if product.image]


@dataclass(frozen=True)
class _ShardWriter:
    """Writes one shard in every form; returns its rows of products.parquet and how many bytes the records have."""

    folders: Mapping[Storage, Path]
    count: int
    pictures: list[bytes]

    def __call__(self, shard: int) -> tuple[pa.Table, int]:
        start = shard * _SHARD_PRODUCTS
        stop = min(start + _SHARD_PRODUCTS, self.count)
        titles, categories = zip(*_listing(start, stop), strict=True)
        tokenizer = load_tokenizer(next(iter(self.folders.values())) / "tokenizer")
        tokens = tokenize_titles(tokenizer, titles, KeywordSet(frozenset()), MAX_TITLE_TOKENS)
        ids = [product_id(number) for number in range(start, stop)]
        messages = [
            serialize_product(
                {
                    "product_id": ids[i],
                    "title": titles[i],
                    "category": categories[i],
                    "images": [self.pictures[(start + i) % len(self.pictures)]],
                    "title_ids": tokens.ids[i],
                    "title_words": tokens.words[i],
                    "title_keywords": tokens.keywords[i],
                    "regions": b"",
                }
            )
            for i in range(stop - start)
        ]
        for storage, root in self.folders.items():
            write_shard(shard_path(root, shard, storage), messages, storage)
        table = pa.table(
            {
                "product_id": ids,
                "category": categories,
                "title_tokens": pa.array(map(len, tokens.ids), pa.int32()),
                "num_images": pa.array([1] * len(ids), pa.int32()),
            }
        )
        return table, sum(map(len, messages))


def _write_log(root: Path, count: int, titles: list[str], tokenizer: TextTokenizer) -> None:
    """A log in which as many queries led to each product, drawn at random, and no cold products."""
    num_queries = max(1, count // _PRODUCTS_PER_QUERY)
    queries = [f"{' '.join(titles[i % len(titles)].split()[:3])} {i}" for i in range(num_queries)]
    table = {
        "query": queries,
        "query_key": np.arange(num_queries, dtype=np.int32),
        "query_ids": pa.array(tokenizer.encode(queries, 128), pa.list_(pa.int32())),
    }
    pq.write_table(pa.table(table), root / "train_queries.parquet")
    pairs = count * _CLICKED_BY
    rng = np.random.default_rng(0)
    log = {
        "query_index": rng.integers(num_queries, size=pairs, dtype=np.int32),
        "product_index": np.repeat(np.arange(count, dtype=np.int32), _CLICKED_BY),
        "clicks": rng.integers(1, 10, size=pairs, dtype=np.int32),
        "purchases": rng.integers(2, size=pairs, dtype=np.int32),
        "last_day": rng.integers(30, size=pairs, dtype=np.int32),
    }
    pq.write_table(pa.table(log), root / "interactions.parquet")
    nothing = np.zeros(0, np.int32)
    pq.write_table(pa.table({"query_index": nothing, "product_index": nothing}), root / "pseudo_pairs.parquet")
