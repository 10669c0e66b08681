"""Catalogues to measure with, drawn by the synthetic catalogue and prepared as any other."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_pipelines.dataset import open_prepared
from data_pipelines.prepare import prepare
from data_pipelines.ragged import pad_tokens
from data_pipelines.synthetic import SyntheticSpec, write_catalogue
from data_pipelines.tokenizer import load_tokenizer

QUERY_TOKENS, TITLE_TOKENS = 16, 32

_QUALITY = 90
_NOISE = 3.0  # levels; with it a drawing compresses about as far as a photograph of its size


def photograph(drawing: bytes, rng: np.random.Generator) -> bytes:
    """A drawn picture with the noise of a camera, as JPEG: smooth areas alone would be too easy to decode."""
    pixels = np.asarray(Image.open(io.BytesIO(drawing)), np.float32)
    noisy = pixels + rng.normal(0, _NOISE, (*pixels.shape[:2], 1))
    buffer = io.BytesIO()
    Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def write_small(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Makes a catalogue in which every product has a picture.

    Args:
      folder: gets tables/, data/ (the same prepared) and tokens.npz, of product i the title as title_ids int32[N, T]
        and some query as query_ids int32[N, Q].
      count: N.
      size: width and height of the pictures, pixels.
    """
    spec = SyntheticSpec(products=count, dev_queries=0, image_size=size, missing_image_share=0.0)
    tables = write_catalogue(spec, folder / "tables")
    rng = np.random.default_rng(0)
    titles: list[str] = []
    for file in sorted((folder / "tables").glob("products-*.parquet")):
        table = pq.read_table(file)
        pictures = [photograph(drawing, rng) for drawing in table["image"].to_pylist()]
        image = table.column_names.index("image")
        pq.write_table(table.set_column(image, "image", pa.array(pictures, pa.binary())), file)
        titles += [title or "" for title in table["title"].to_pylist()]
    prepare(tables.products, folder / "data", interactions=str(tables.interactions), progress=False)
    data = open_prepared(folder / "data")
    queries = data.query_ids.take(np.arange(count) % len(data.queries))
    np.savez(
        folder / "tokens.npz",
        query_ids=pad_tokens(queries, QUERY_TOKENS, data.pad_id),
        title_ids=load_tokenizer(data.tokenizer_path).encode_padded(titles, TITLE_TOKENS),
    )
