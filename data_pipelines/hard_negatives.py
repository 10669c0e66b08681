"""Hard negatives of the queries: products that a model found near a query and that nobody clicked under it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.atomic import atomic_directory
from data_pipelines.errors import DataError
from data_pipelines.hashing import hash_keys
from data_pipelines.manifest import (
    NAME,
    content_fingerprint,
    foreign_content,
    read_manifest,
    verify_files,
    write_manifest,
)
from data_pipelines.ragged import gather_ragged

if TYPE_CHECKING:
    from data_pipelines.input import ProductBatches

KIND = "make_jax-negatives"
NONE = -1  # in place of a row where a query has too few negatives
_TABLE = "negatives.parquet"
_DRAWS = 1 << 61  # keeps these draws apart from those that hide words and vary pictures
_OF_PRODUCTS = ("title_ids", "image", "has_image", "side_ids")
_SCHEMA = pa.schema(
    {"query_key": pa.int32(), "product_row": pa.int32(), "product_id": pa.string(), "score": pa.float32()}
)


class HardNegatives:
    """The mined products of every query, and which of them a step shows.

    Attributes:
      path: the directory they came from.
      fingerprint: a SHA-256 over their content.
      made_from: fingerprints of the `data` that the rows belong to and of the `model` that found them.
      per_pair: H, how many each pair of a batch gets.
    """

    def __init__(
        self,
        query_keys: np.ndarray,
        rows: np.ndarray,
        per_pair: int,
        path: str = "",
        fingerprint: str = "",
        made_from: dict[str, str] | None = None,
    ) -> None:
        """Groups the negatives by query.

        Args:
          query_keys: int[n], one entry a negative.
          rows: int[n], the product's row in the data.
          per_pair: H, at least 1.
          path, fingerprint, made_from: where they come from.

        Raises:
          DataError: H below 1.
        """
        if per_pair < 1:
            raise DataError(f"per_pair={per_pair} must be at least 1")
        self.per_pair, self.path, self.fingerprint, self.made_from = per_pair, path, fingerprint, made_from or {}
        order = np.lexsort((rows, query_keys))
        self._rows = rows[order].astype(np.int32)
        counts = np.bincount(query_keys, minlength=1)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._most = max(per_pair, int(counts.max()))

    def draw(self, query_keys: np.ndarray, positions: np.ndarray, seed: int) -> np.ndarray:
        """Different negatives for each pair, in an order that only (seed, position) decides: int32[n, H].

        Args:
          query_keys: int32[n], of the pairs' queries.
          positions: int64[n], of the pairs in the whole order.
          seed: of the order.

        Returns:
          Rows of products; -1 where a query has fewer than H.
        """
        known = np.where(query_keys < len(self._starts) - 1, query_keys, -1)
        starts = np.where(known < 0, 0, self._starts[known])
        ends = np.where(known < 0, 0, self._starts[known + 1])
        rows = gather_ragged(self._rows, starts, ends, self._most, padding=NONE)
        chance = hash_keys(seed, positions[:, None], _DRAWS, np.arange(self._most))
        chance = np.where(rows == NONE, np.iinfo(np.uint64).max, chance)
        first = np.argsort(chance, axis=1, kind="stable")[:, : self.per_pair]
        return np.take_along_axis(rows, first, axis=1)

    def keys(self, positions: np.ndarray, seed: int) -> np.ndarray:
        """What varies the pictures of the negatives of these pairs: int64[n * H, 2], each different from all others."""
        own = _DRAWS + positions[:, None] * self.per_pair + np.arange(self.per_pair)
        return np.stack([np.full(own.size, seed), own.reshape(-1)], axis=1)

    def check(self, data_path: str, fingerprint: str) -> None:
        """Refuses data whose rows these negatives do not mean; raises DataError."""
        mined = self.made_from.get("data")
        if mined != fingerprint:
            raise DataError(
                f"{self.path} was mined from data {str(mined)[:12]}, but {data_path} is data {fingerprint[:12]}, whose "
                f"rows are other products; run `make-jax mine` with --data {data_path}"
            )


class BatchesWithNegatives(Iterator[dict[str, np.ndarray]]):
    """Batches whose last B·H products become arrays of their own, as `negative_title_ids`; see `data_pipelines.input`.

    Attributes:
      set_aside: how many damaged products were met so far.
      reading: what is being read, "" if that is not known.
    """

    def __init__(self, batches: ProductBatches, size: int, per_pair: int) -> None:
        """Takes over `batches` of B·(1 + H) products, those of the pairs first; B is `size`, H `per_pair`."""
        self._batches, self._size, self._per_pair = batches, size, per_pair

    @property
    def set_aside(self) -> int:
        return self._batches.set_aside

    @property
    def reading(self) -> str:
        return self._batches.reading

    def __next__(self) -> dict[str, np.ndarray]:
        """Returns the next batch; raises as the batches taken over."""
        batch, size = next(self._batches), self._size
        found = {name: array[:size] for name, array in batch.items()}
        for name in (name for name in _OF_PRODUCTS if name in batch):
            rest = batch[name][size:]
            found[f"negative_{name}"] = rest.reshape(size, self._per_pair, *rest.shape[1:])
        return found

    def close(self) -> None:
        """Stops the background work."""
        self._batches.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


def write_negatives(
    out: Path,
    columns: dict[str, np.ndarray],
    counts: dict[str, int],
    options: dict[str, Any],
    made_from: dict[str, str],
) -> None:
    """Writes a directory of mined negatives, whole or not at all; earlier ones there are replaced.

    Args:
      out: the directory.
      columns: query_key int32[n], product_row int32[n], product_id object[n] of str, score float32[n].
      counts: what there is to say of how many were found and refused.
      options: how they were mined.
      made_from: the fingerprints of `data` and `model`.

    Raises:
      DataError: `out` holds something else.
    """
    with atomic_directory(out, partial(foreign_content, kind=KIND)) as root:
        pq.write_table(pa.table(columns, schema=_SCHEMA), root / _TABLE)
        write_manifest(root, counts, {}, {**options, "made_from": made_from}, kind=KIND)


def open_negatives(path: Path, per_pair: int) -> HardNegatives:
    """Opens mined negatives after comparing their files with their manifest.

    Args:
      path: the directory.
      per_pair: H, how many each pair of a batch gets.

    Raises:
      DataError: no such directory, another format version, or a missing or changed file.
    """
    if not (path / NAME).is_file():
        raise DataError(f"{path} has no {NAME}, so there are no mined negatives; make them with `make-jax mine`")
    manifest = read_manifest(path, (KIND,))
    verify_files(path, manifest)
    table = pq.read_table(path / _TABLE, columns=["query_key", "product_row"])
    return HardNegatives(
        table["query_key"].to_numpy(),
        table["product_row"].to_numpy(),
        per_pair,
        str(path),
        content_fingerprint(manifest),
        manifest["options"]["made_from"],
    )
