"""Clean products parked on disk between the pass that checks them and the pass that writes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from data_pipelines.checks import Product

_SCHEMA = pa.schema(
    [("product_id", pa.string()), ("title", pa.string()), ("category", pa.string()), ("image", pa.binary())]
)


class ProductSpool:
    """An Arrow file of products, written once, read as often as needed.

    Attributes:
      index: row of each product id, in file order.
      without_title: products that have none.
      without_image: products that have none.
      num_bytes: of all titles and images together.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.index: dict[str, int] = {}
        self.without_title = 0
        self.without_image = 0
        self.num_bytes = 0

    def write(self, chunks: Iterable[list[Product]]) -> None:
        """Writes all products; chunks may be empty."""
        with pa.OSFile(str(self._path), "wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
            for chunk in chunks:
                for product in chunk:
                    self.index[product.product_id] = len(self.index)
                    self.without_title += not product.title
                    self.without_image += not product.image
                    self.num_bytes += len(product.title) + len(product.image)
                if chunk:
                    writer.write_batch(pa.record_batch(list(zip(*chunk, strict=True)), schema=_SCHEMA))

    def products(self) -> Iterator[list[Product]]:
        """The products as written, chunk by chunk."""
        for batch in self._batches():
            yield [Product(*row) for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)]

    def column(self, name: str) -> Iterator[str]:
        """The values of one text column, without reading the images."""
        for batch in self._batches():
            yield from batch[name].to_pylist()

    def remove(self) -> None:
        """Deletes the file."""
        self._path.unlink()

    def _batches(self) -> Iterator[pa.RecordBatch]:
        with pa.memory_map(str(self._path)) as file:
            reader = pa.ipc.open_file(file)
            for i in range(reader.num_record_batches):
                yield reader.get_batch(i)
