"""Embedding files: Parquet with one unit vector per product or query, and the model they came from."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from make_jax.errors import UserError

Kind = Literal["products", "queries"]
Without = Literal["images", "titles"]
METADATA_KEY = b"make_jax"
NORM_TOLERANCE = 1e-3
_ID_COLUMN: dict[str, str] = {"products": "product_id", "queries": "query_id"}
_REMEDY = "write it with `make-jax embed`"


@dataclass(frozen=True)
class Embeddings:
    """The content of an embeddings file or folder.

    Attributes:
      ids: object[N] of str, unique.
      vectors: float32[N, E].
      weight_text: float32[N], how much of each product's vector its text made; None for queries.
      weight_image: float32[N], the same for its image; None for queries.
      fingerprint: of the model that made the vectors.
      kind: "products" or "queries".
      weight_images: float32[N, I], the share of each image in the images' part; None where a model sees but one.
      without: "images" or "titles" if these were left out of all products, else None.
    """

    ids: np.ndarray
    vectors: np.ndarray
    weight_text: np.ndarray | None
    weight_image: np.ndarray | None
    fingerprint: str
    kind: Kind
    weight_images: np.ndarray | None = None
    without: Without | None = None


class EmbeddingWriter:
    """Writes an embeddings file batch by batch; the file appears when the `with` block ends well.

    Args:
      path: the Parquet file to write; an older one is replaced.
      kind: "products" (with modality weights) or "queries".
      dim: width E of the vectors.
      fingerprint: of the model that makes the vectors.
      images: I, how many images of a product the model sees; above 1 each has its weight.
      without: what is left out of all products, if anything.
    """

    def __init__(
        self,
        path: str | Path,
        kind: Kind,
        dim: int,
        fingerprint: str,
        images: int = 1,
        without: Without | None = None,
    ) -> None:
        self._path = Path(path)
        self._temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.writing")
        self._kind, self._dim, self._count = kind, dim, 0
        self._images = images if images > 1 else 0  # columns of weights of single images
        self._about: dict[str, Any] = {"kind": kind, "dim": dim, "model_fingerprint": fingerprint}
        if images > 1:
            self._about["images"] = images
        if without:
            self._about["without"] = without
        self._schema = pa.schema(_fields(kind, dim, images), metadata={METADATA_KEY: json.dumps(self._about)})

    def __enter__(self) -> Self:
        if self._path.is_dir():
            raise UserError(f"{self._path} is a directory; --out names the embeddings file to write")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(self._temporary, self._schema)
        return self

    def write(
        self,
        ids: Sequence[str],
        vectors: np.ndarray,
        weight_text: np.ndarray | None = None,
        weight_image: np.ndarray | None = None,
        weight_images: np.ndarray | None = None,
    ) -> None:
        """Append one batch.

        Args:
          ids: str[B].
          vectors: float32[B, E], unit norm.
          weight_text: float32[B], for products.
          weight_image: float32[B], for products.
          weight_images: float32[B, I], for products with several images.

        Raises:
          ValueError: a shape that does not fit, or weights that are missing for products or given for
            queries.
          UserError: a vector that is not finite or not of unit norm.
        """
        if vectors.shape != (len(ids), self._dim):
            raise ValueError(f"vectors of shape {vectors.shape} for {len(ids)} ids of width {self._dim}")
        weights = [w for w in (weight_text, weight_image) if w is not None]
        if [len(w) for w in weights] != ([len(ids)] * 2 if self._kind == "products" else []):
            raise ValueError(f"{self._kind} got {len(weights)} columns of weights; products have two, queries none")
        if (0 if weight_images is None else weight_images.shape[1]) != self._images:
            raise ValueError(f"weights of single images are missing or too many; there are columns for {self._images}")
        check_unit_vectors(vectors, ids, str(self._path))
        columns = [pa.array(ids, pa.string()), _lists(vectors)]
        columns += [pa.array(np.asarray(w, dtype=np.float32)) for w in weights]
        columns += [_lists(weight_images)] if weight_images is not None else []
        self._writer.write_table(pa.table(columns, schema=self._schema))
        self._count += len(ids)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                # The schema's copy of these facts was written before the count was known; this is the file's.
                about = json.dumps(self._about | {"count": self._count})
                self._writer.add_key_value_metadata({METADATA_KEY: about.encode()})
            self._writer.close()
            if kind is None:
                self._temporary.replace(self._path)
        finally:
            self._temporary.unlink(missing_ok=True)


def read_embeddings(path: str | Path, kind: Kind | None = None) -> Embeddings:
    """Read an embeddings file, or all `part-*.parquet` of a folder in the order of their names.

    Args:
      path: file or folder.
      kind: what it must hold; anything if None.

    Raises:
      UserError: nothing there, not (whole) Parquet, not written by make_jax, of another kind, parts of
        different models or widths, or an id that occurs twice.
    """
    path = Path(path)
    parts = sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]
    if not parts or not all(p.is_file() for p in parts):
        raise UserError(f"{path}: no embeddings here (a Parquet file, or a folder of part-*.parquet); {_REMEDY}")
    tables, abouts = zip(*(_read_part(p, kind) for p in parts), strict=True)
    for part, about in zip(parts, abouts, strict=True):
        for key in ("kind", "dim", "model_fingerprint", "images", "without"):
            if about.get(key) != abouts[0].get(key):
                raise UserError(
                    f"{part} has {key} {about.get(key)!r} but {parts[0].name} beside it has {abouts[0].get(key)!r}; "
                    "embed the whole catalogue with one model, in one way"
                )
    table, found_kind = pa.concat_tables(tables), abouts[0]["kind"]
    ids = table.column(_ID_COLUMN[found_kind]).to_numpy()
    twice = pd.Index(ids).duplicated()
    if twice.any():
        raise UserError(f"{path}: id {ids[int(np.argmax(twice))]!r} occurs twice; embed a table with unique ids")
    vectors = _matrix(table, "vector", abouts[0]["dim"])
    weights = [
        table.column(c).to_numpy() if found_kind == "products" else None for c in ("weight_text", "weight_image")
    ]
    about = abouts[0]
    images = about.get("images", 1)
    weight_images = _matrix(table, "weight_images", images) if images > 1 else None
    fingerprint, without = about["model_fingerprint"], about.get("without")
    return Embeddings(ids, vectors, weights[0], weights[1], fingerprint, found_kind, weight_images, without)


def check_unit_vectors(vectors: np.ndarray, ids: Sequence[str] | np.ndarray, where: str) -> None:
    """Refuse float[N, E] vectors with a NaN, an infinity or a norm other than 1, naming the first one's id.

    Raises:
      UserError: there is such a vector.
    """
    norms = np.sqrt(np.einsum("ne,ne->n", vectors, vectors, dtype=np.float64))
    bad = np.flatnonzero(~(np.abs(norms - 1) <= NORM_TOLERANCE))
    if len(bad):
        row = int(bad[0])
        what = f"norm {norms[row]:.4g}" if np.isfinite(norms[row]) else "values that are not finite"
        raise UserError(
            f"{where}: the vector of {ids[row]!r} (row {row}) has {what}, expected a unit vector "
            f"({len(bad)} of {len(norms)} are wrong); embed again with a model that trained without NaN"
        )


def _lists(rows: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(rows, dtype=np.float32).reshape(-1)), rows.shape[1]
    )


def _matrix(table: pa.Table, column: str, width: int) -> np.ndarray:
    return np.asarray(table.column(column).combine_chunks().flatten().to_numpy()).reshape(len(table), width)


def _fields(kind: str, dim: int, images: int) -> list[pa.Field]:
    fields = [pa.field(_ID_COLUMN[kind], pa.string()), pa.field("vector", pa.list_(pa.float32(), dim))]
    weights = [pa.field("weight_text", pa.float32()), pa.field("weight_image", pa.float32())]
    if images > 1:
        weights.append(pa.field("weight_images", pa.list_(pa.float32(), images)))
    return fields + (weights if kind == "products" else [])


def _read_part(path: Path, kind: Kind | None) -> tuple[pa.Table, dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            about = json.loads((file.metadata.metadata or {}).get(METADATA_KEY, b"null"))
            table = file.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} cannot be read as Parquet ({reason}); it is damaged or something else: {_REMEDY}"
        ) from error
    if not isinstance(about, dict) or not {"kind", "dim", "model_fingerprint", "count"} <= about.keys():
        raise UserError(f"{path} is Parquet but says nothing of the model that made it; {_REMEDY}")
    if about["kind"] != (kind or about["kind"]) or about["kind"] not in _ID_COLUMN:
        raise UserError(
            f"{path} holds {about['kind']} where {kind or 'products or queries'} are needed; give the other file"
        )
    expected = pa.schema(_fields(about["kind"], about["dim"], about.get("images", 1)))
    if not table.schema.equals(expected) or len(table) != about["count"]:
        raise UserError(
            f"{path} has {len(table)} rows of ({_columns(table.schema)}), expected {about['count']} rows of "
            f"({_columns(expected)}); {_REMEDY}"
        )
    if any(column.null_count for column in table.columns):
        raise UserError(f"{path} has empty cells; every row needs an id and a vector: {_REMEDY}")
    return table, about


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
