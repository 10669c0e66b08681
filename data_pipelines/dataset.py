"""The prepared data directory: a TFDS dataset of the products, and the tables and tokenizer beside it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from data_pipelines.manifest import content_fingerprint, read_manifest, verify_files

SPLIT = "products"
MAX_TITLE_TOKENS = 512


def product_features() -> tfds.features.FeaturesDict:
    """The record of one product; `image` holds the encoded file ("" = none), `title_ids` is int32[<=512]."""
    return tfds.features.FeaturesDict(
        {
            "product_id": tfds.features.Text(),
            "title": tfds.features.Text(),
            "category": tfds.features.Text(),
            "image": tfds.features.Scalar(dtype=np.object_),
            "title_ids": tfds.features.Sequence(np.int32),
        }
    )


def write_products(root: Path, records: Iterable[dict[str, Any]], max_records_per_shard: int) -> int:
    """Writes product records, in order, as the TFDS dataset at `root`; returns the number of shards.

    The result opens with `tfds.builder_from_directory(root)`, split "products", in ArrayRecord shards. Equal records
    give equal files. There must be at least one record.
    """
    template = tfds.core.ShardedFileTemplate(
        data_dir=root,
        dataset_name="catalogue",
        split=SPLIT,
        filetype_suffix="array_record",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",  # how many there will be is not known yet
    )
    messages = map(_Serializer(), records)
    lengths: list[int] = []
    num_bytes = 0
    for first in messages:
        path = template.sharded_filepath(shard_index=len(lengths), num_shards=None)
        writer = ArrayRecordWriter(str(path), "group_size:1")  # each record can be read on its own
        length = 0
        for message in chain([first], islice(messages, max_records_per_shard - 1)):
            writer.write(message)
            length += 1
            num_bytes += len(message)
        writer.close()
        lengths.append(length)
    split = tfds.core.SplitInfo(name=SPLIT, shard_lengths=lengths, num_bytes=num_bytes, filename_template=template)
    tfds.folder_dataset.write_metadata(
        data_dir=root,
        features=product_features(),
        split_infos=[split],
        filename_template=template,
        check_data=False,  # it would read through tf.data, which ArrayRecord does not offer
        description="Products of a catalogue: text, encoded image, tokenised title.",
    )
    return len(lengths)


class _Serializer:
    """Turns a record into the bytes of a tf.train.Example, always the same ones.

    TFDS's own writers leave the order of the features to protobuf, where it differs from process to process.
    """

    def __init__(self) -> None:
        self._features = product_features()
        self._serializer = tfds.core.example_serializer.ExampleSerializer(self._features.get_serialized_info())

    def __call__(self, record: dict[str, Any]) -> bytes:
        example = self._serializer.get_tf_example(self._features.encode_example(record))
        return example.SerializeToString(deterministic=True)


@dataclass(frozen=True)
class Dev:
    """The judged queries set aside for evaluation.

    Attributes:
      query_ids: the queries' ids, in file order.
      queries: their texts.
      table: every column of the queries table, extra ones (facets, novel, ...) included.
      qrels: equally long int32 arrays `query_index` (into `query_ids`), `product_index`, `relevance`.
    """

    query_ids: list[str]
    queries: list[str]
    table: pa.Table
    qrels: dict[str, np.ndarray]


class PreparedData:
    """A verified prepared data directory; tables are read when first asked for, then kept.

    Attributes:
      path: the directory.
      manifest: the parsed manifest.json.
      fingerprint: a SHA-256 over the content, wherever it came from.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.fingerprint = content_fingerprint(manifest)

    @property
    def num_products(self) -> int:
        """N, the number of products."""
        return self.manifest["counts"]["products"]

    @property
    def tokenizer_path(self) -> Path:
        """The directory that `data_pipelines.tokenizer.load_tokenizer` opens."""
        return self.path / "tokenizer"

    @cached_property
    def product_ids(self) -> np.ndarray:
        """object[N] of str: the product ids in the row order of the split."""
        return _strings(self._table("products.parquet")["product_id"])

    @cached_property
    def categories(self) -> np.ndarray:
        """object[N] of str: the categories in the row order of the split, "" where there is none."""
        return _strings(self._table("products.parquet")["category"])

    @cached_property
    def interactions(self) -> dict[str, np.ndarray]:
        """Equally long int32 arrays, one entry per (query, product) pair seen.

        Keys: `query_index` (into `queries`), `product_index`, `clicks`, `purchases`, `last_day` (or -1).
        """
        table = self._table("interactions.parquet")
        return {name: table[name].to_numpy() for name in table.column_names}

    @cached_property
    def queries(self) -> list[str]:
        """The distinct training queries; the position is the query_index."""
        return self._table("train_queries.parquet")["query"].to_pylist()

    @cached_property
    def query_keys(self) -> np.ndarray:
        """int32[number of queries]: equal for queries with the same set of keywords."""
        return self._table("train_queries.parquet")["query_key"].to_numpy()

    @cached_property
    def query_ids(self) -> list[np.ndarray]:
        """The tokenised training queries: one int32 array per query, [CLS] and [SEP] included."""
        lists = self._table("train_queries.parquet")["query_ids"].combine_chunks()
        values = lists.flatten().to_numpy()
        return [values[start:end] for start, end in pairwise(lists.offsets.to_numpy())]

    @cached_property
    def dev(self) -> Dev | None:
        """The dev queries and judgements, None where none were given to prepare."""
        if not (self.path / "dev").is_dir():
            return None
        table, qrels = self._table("dev/queries.parquet"), self._table("dev/qrels.parquet")
        query_index = pc.index_in(qrels["query_id"], value_set=table["query_id"].combine_chunks())
        product_index = pc.index_in(qrels["product_id"], value_set=self._table("products.parquet")["product_id"])
        return Dev(
            query_ids=table["query_id"].to_pylist(),
            queries=table["query"].to_pylist(),
            table=table,
            qrels={
                "query_index": query_index.to_numpy(),
                "product_index": product_index.to_numpy(),
                "relevance": qrels["relevance"].to_numpy(),
            },
        )

    def records(self, indices: Iterable[int]) -> list[dict[str, Any]]:
        """Reads products by row: product_id, title, category: str; image: bytes; title_ids: int32[T]."""
        return [_decoded(record) for record in self._decoding_source.__getitems__([int(i) for i in indices])]

    def serialized(self, indices: Iterable[int]) -> list[bytes]:
        """Reads products by row as serialised tf.train.Example messages, for parsing inside tf.data."""
        return list(self._raw_source.__getitems__([int(i) for i in indices]))

    @cached_property
    def _builder(self) -> tfds.core.DatasetBuilder:
        return tfds.builder_from_directory(self.path)

    @cached_property
    def _decoding_source(self) -> Any:
        return self._builder.as_data_source(split=SPLIT)

    @cached_property
    def _raw_source(self) -> Any:
        return self._builder.as_data_source(split=SPLIT, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)

    def _table(self, name: str) -> pa.Table:
        return pq.read_table(self.path / name)


def open_data(path: str | Path, checksums: bool = True) -> PreparedData:
    """Opens a prepared data directory after comparing its files with its manifest.

    Args:
      path: the directory.
      checksums: compare contents too, and not sizes only; to show a few titles, hashing everything is too much.

    Raises:
      DataError: not a prepared data directory, another format version, or a missing or changed file.
    """
    root = Path(path)
    manifest = read_manifest(root)
    verify_files(root, manifest, checksums)
    return PreparedData(root, manifest)


def _decoded(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "product_id": record["product_id"].decode(),
        "title": record["title"].decode(),
        "category": record["category"].decode(),
        "image": bytes(record["image"]),
        "title_ids": np.asarray(record["title_ids"], dtype=np.int32),
    }


def _strings(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False).astype(object)
