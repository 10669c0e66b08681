"""Clean products parked on disk, one Arrow file per part of the tables, between checking and writing them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipelines.checks import Product

_SCHEMA = pa.schema(
    [
        ("product_id", pa.string()),
        ("title", pa.string()),
        ("category", pa.string()),
        ("images", pa.list_(pa.large_binary())),
        ("regions", pa.large_binary()),
        ("region_width", pa.int32()),
        ("row", pa.int64()),
        ("digest", pa.binary(16)),
    ]
)
_BATCH_ROWS = 64  # of every batch but a part's last, so that a product is found without a search


class Head(NamedTuple):
    """What is known of a parked product without its contents.

    Attributes:
      row: where it came from in its file.
      product_id: its id.
      digest: 16 bytes that tell other content under the same id.
      region_width: F, 0 without regions.
      num_images: how many pictures.
      has_title: whether there is a title.
      num_bytes: of title, pictures and regions.
    """

    row: int
    product_id: str
    digest: bytes
    region_width: int
    num_images: int
    has_title: bool
    num_bytes: int


def write_part(path: Path, products: Iterable[tuple[int, Product]]) -> None:
    """Parks the products of one part, each with the number of its row; holds 64 of them in memory."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        waiting: list[tuple[Any, ...]] = []
        for row, product in products:
            waiting.append((*product, row, product.digest()))
            if len(waiting) == _BATCH_ROWS:
                writer.write_batch(_batch(waiting))
                waiting.clear()
        if waiting:
            writer.write_batch(_batch(waiting))


def read_heads(path: Path) -> Iterator[Head]:
    """What a part holds, in order, without reading pictures."""
    with pa.memory_map(str(path)) as file:
        reader = pa.ipc.open_file(file)
        for i in range(reader.num_record_batches):
            yield from _heads(reader.get_batch(i))


class ProductSpool:
    """The products of the catalogue: the parked ones that neither repeat nor contradict an earlier one."""

    def __init__(self, parts: Sequence[Path], part: np.ndarray, position: np.ndarray) -> None:
        """Names what is parked.

        Args:
          parts: the files that `write_part` wrote.
          part: int32[N], which of them holds each product; never falling.
          position: int32[N], its place there; rising within a part.
        """
        self._parts = parts
        self._part = part
        self._position = position

    @classmethod
    def open(cls, path: Path, start: int, stop: int) -> ProductSpool:
        """Opens rows [start, stop) of a catalogue that was saved."""
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all().slice(start, stop - start)
            parts = json.loads(table.schema.metadata[b"parts"])
            columns = (table[name].to_numpy().copy() for name in ("part", "position"))
            return cls([path.with_name(name) for name in parts], *columns)

    def save(self, path: Path) -> None:
        """Writes which products there are; `path` lies beside the parts."""
        table = pa.table({"part": self._part, "position": self._position})
        table = table.replace_schema_metadata({"parts": json.dumps([part.name for part in self._parts])})
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)

    def __len__(self) -> int:
        return len(self._part)

    def products(self) -> Iterator[list[Product]]:
        """The products in order, at most 64 at a time."""
        for batch in self._batches(list(Product._fields)):
            products = [Product(*row) for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)]
            yield [product._replace(images=tuple(product.images)) for product in products]

    def column(self, name: str) -> Iterator[str]:
        """The values of one text column, without reading pictures."""
        for batch in self._batches([name]):
            yield from batch[name].to_pylist()

    def _batches(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        for part in np.unique(self._part):
            positions = self._position[self._part == part]
            numbers = positions // _BATCH_ROWS
            with pa.memory_map(str(self._parts[part])) as file:
                reader = pa.ipc.open_file(file)
                for rows in np.split(positions, np.flatnonzero(np.diff(numbers)) + 1):
                    batch = reader.get_batch(int(rows[0]) // _BATCH_ROWS).select(names)
                    yield batch.take(pa.array(rows % _BATCH_ROWS))


def _batch(rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    return pa.record_batch(list(zip(*rows, strict=True)), schema=_SCHEMA)


def _heads(batch: pa.RecordBatch) -> Iterator[Head]:
    images = batch["images"]
    offsets = images.offsets.to_numpy()
    ends = np.cumsum([0, *pc.binary_length(images.flatten()).to_pylist()])
    picture_bytes = ends[offsets[1:]] - ends[offsets[:-1]]
    titles = pc.binary_length(batch["title"]).to_numpy()
    sizes = picture_bytes + titles + pc.binary_length(batch["regions"]).to_numpy()
    names = ("row", "product_id", "digest", "region_width")
    columns = [
        *(batch[name].to_pylist() for name in names),
        np.diff(offsets).tolist(),
        (titles > 0).tolist(),
        sizes.tolist(),
    ]
    return starmap(Head, zip(*columns, strict=True))
