"""Small prepared data written straight from records, for the tests beside this file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from catalogue_files import COLOURS, KINDS, picture, product
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from data_pipelines.manifest import write_manifest
from data_pipelines.records import serialize_product
from data_pipelines.shards import Storage, shard_path, write_dataset_info, write_shard
from data_pipelines.tokenizer import TextTokenizer
from data_pipelines.tokenizer_training import train_tokenizer


def record(number: int, **changes: Any) -> dict[str, Any]:
    """The stored record of a product, with one or two pictures and token ids that name it."""
    row = product(number)
    images = [row.pop("image"), *[picture(1000 + number)] * (number % 2)]
    return {**row, "images": images, "regions": b"", **title(2, number, number + 1, 3), **changes}


def title(*ids: int) -> dict[str, np.ndarray]:
    """The arrays of a title of these tokens; all but the first and the last are keywords and words of their own."""
    words = np.arange(len(ids), dtype=np.int32) - 1
    words[-1:] = -1
    return {
        "title_ids": np.array(ids, np.int32),
        "title_words": words,
        "title_keywords": (words >= 0).astype(np.int32),
    }


def messages(count: int) -> list[bytes]:
    """The stored records of products 0 to count - 1, serialised."""
    return list(map(serialize_product, map(record, range(count))))


def write_shards(root: Path, contents: list[bytes], per_shard: int, storage: Storage) -> list[Path]:
    """Writes serialised records in shards of `per_shard` and describes them."""
    parts = [contents[first : first + per_shard] for first in range(0, len(contents), per_shard)]
    paths = [shard_path(root, index, storage) for index in range(len(parts))]
    written = [write_shard(path, part, storage) for path, part in zip(paths, parts, strict=True)]
    write_dataset_info(root, [records for records, _ in written], sum(size for _, size in written), storage)
    return paths


def word_tokenizer() -> TextTokenizer:
    """A tokenizer of whole words whose padding is 1, as that of RoBERTa is."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words = [*special, *COLOURS, *KINDS, "no", *map(str, range(60))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    return TextTokenizer(tokenizer, dict(zip(names, special, strict=True)))


def write_data(
    root: Path,
    count: int = 40,
    per_shard: int = 7,
    storage: Storage = "array_record",
    changes: Mapping[int, dict[str, Any]] | None = None,
    tokenizer: TextTokenizer | None = None,
    region_width: int = 0,
) -> Path:
    """Writes a whole prepared data directory; the last five products have no clicks but pseudo queries.

    Args:
      root: the directory, which is made.
      count: how many products.
      per_shard: how many of them are in a shard.
      storage: the form.
      changes: what is different in the records of some products.
      tokenizer: None for one trained on the titles.
      region_width: F of the records' regions.
    """
    root.mkdir(parents=True)
    records = [record(number, **(changes or {}).get(number, {})) for number in range(count)]
    write_shards(root, list(map(serialize_product, records)), per_shard, storage)
    tokenizer = tokenizer or train_tokenizer((product(number)["title"] for number in range(count)), vocab_size=200)
    tokenizer.save(root / "tokenizer")
    num_images = [len(row["images"]) for row in records]
    pq.write_table(
        pa.table(
            {
                "product_id": [row["product_id"] for row in records],
                "category": [row["category"] for row in records],
                "title_tokens": pa.array([len(row["title_ids"]) for row in records], pa.int32()),
                "num_images": pa.array(num_images, pa.int32()),
            }
        ),
        root / "products.parquet",
    )
    _write_queries(root, count, tokenizer)
    (root / "dev").mkdir()
    pq.write_table(
        pa.table({"query_id": [f"q{i}" for i in range(5)], "query": COLOURS, "novel": [i > 2 for i in range(5)]}),
        root / "dev" / "queries.parquet",
    )
    pq.write_table(
        pa.table(
            {
                "query_id": [f"q{i % 5}" for i in range(count)],
                "product_id": [f"p{i}" for i in range(count)],
                "relevance": pa.array([i % 3 for i in range(count)], pa.int32()),
            }
        ),
        root / "dev" / "qrels.parquet",
    )
    options = {"storage": storage, "region_width": region_width, "max_images": max(1, *num_images)}
    write_manifest(root, {"products": count}, {}, options)
    return root


def _write_queries(root: Path, count: int, tokenizer: TextTokenizer) -> None:
    clicked = count - 5
    queries = [f"{COLOURS[i % 5]} {KINDS[i % 4]}" for i in range(20)] + [f"no {i}" for i in range(clicked, count)]
    pq.write_table(
        pa.table(
            {
                "query": queries,
                "query_key": pa.array(range(len(queries)), pa.int32()),
                "query_ids": pa.array(tokenizer.encode(queries, 128), pa.list_(pa.int32())),
            }
        ),
        root / "train_queries.parquet",
    )
    log = {
        "query_index": [i % 20 for i in range(clicked)],
        "product_index": list(range(clicked)),
        "clicks": [i % 3 + 1 for i in range(clicked)],
        "purchases": [i % 2 for i in range(clicked)],
        "last_day": [i % 7 - 1 for i in range(clicked)],
    }
    pq.write_table(_int32_table(log), root / "interactions.parquet")
    pseudo = {"query_index": [20 + i for i in range(5)], "product_index": [clicked + i for i in range(5)]}
    pq.write_table(_int32_table(pseudo), root / "pseudo_pairs.parquet")


def _int32_table(columns: dict[str, list[int]]) -> pa.Table:
    return pa.table({name: pa.array(values, pa.int32()) for name, values in columns.items()})
