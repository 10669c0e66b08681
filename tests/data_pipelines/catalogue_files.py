"""Small catalogues on disk, for the tests beside this file."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PRODUCT_SCHEMA = pa.schema(
    [("product_id", pa.string()), ("title", pa.string()), ("category", pa.string()), ("image", pa.binary())]
)
COLOURS = ("red", "blue", "green", "black", "white")
KINDS = ("shirt", "dress", "shoes", "mug")


def picture(seed: int = 0, size: tuple[int, int] = (12, 9), kind: str = "JPEG", **options: Any) -> bytes:
    """An encoded picture of noise, width x height."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def huge_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises many pixels."""

    def block(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = block(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + block(b"IDAT", zlib.compress(b"")) + block(b"IEND", b"")


def product(number: int, **changes: Any) -> dict[str, Any]:
    """A sound product row."""
    title = f"{COLOURS[number % 5]} {KINDS[number % 4]} no {number}"
    row = {"product_id": f"p{number}", "title": title, "category": KINDS[number % 4], "image": picture(number)}
    return row | changes


def write_products(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Writes product rows as Parquet."""
    pq.write_table(pa.Table.from_pylist(list(rows), PRODUCT_SCHEMA), path)
    return path


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Writes rows as one JSON object per line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def small_catalogue(folder: Path, count: int = 40) -> dict[str, Any]:
    """Writes products in two Parquet shards, clicks as CSV, dev tables as JSONL; the arguments for `prepare`."""
    folder.mkdir(exist_ok=True)
    rows = [product(i) for i in range(count)]
    write_products(folder / "products-0.parquet", rows[: count // 2])
    write_products(folder / "products-1.parquet", rows[count // 2 :])
    clicks = ["query,product_id,clicks,purchases,day"]
    clicks += [f"{COLOURS[i % 5]} {KINDS[i % 4]},p{i},{i % 3 + 1},{i % 2},{i % 7}" for i in range(count - 5)]
    clicks += ["Red Shirt,p0,4,1,9", "shirt red,p0,1,0,2", "red shirt,p0,2,1,3"]
    (folder / "clicks.csv").write_text("\n".join(clicks) + "\n", encoding="utf-8")
    write_jsonl(
        folder / "queries.jsonl", [{"query_id": f"q{i}", "query": c, "novel": i > 2} for i, c in enumerate(COLOURS)]
    )
    write_jsonl(
        folder / "qrels.jsonl",
        [{"query_id": f"q{i % 5}", "product_id": f"p{i}", "relevance": i % 3} for i in range(count)],
    )
    return {
        "products": str(folder / "products-*.parquet"),
        "interactions": str(folder / "clicks.csv"),
        "queries": str(folder / "queries.jsonl"),
        "qrels": str(folder / "qrels.jsonl"),
    }
