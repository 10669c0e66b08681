"""Parked products come back as they were, whichever of them make the catalogue and wherever a shard begins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.checks import Product
from data_pipelines.spool import ProductSpool, read_heads, write_part

SIZES = (150, 64, 0, 3)  # of the parts; batches hold 64


def made_up(part: int, position: int) -> Product:
    images = tuple(bytes([part, i]) * (position + 1) for i in range(position % 3))
    regions = b"" if images else b"ab" * position
    return Product(f"{part}-{position}", "é" * (position % 4), "", images, regions, len(regions) // 2)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("spool")
    files = [folder / f"{part}.arrow" for part in range(len(SIZES))]
    for part, (file, size) in enumerate(zip(files, SIZES, strict=True)):
        write_part(file, ((7 * position, made_up(part, position)) for position in range(size)))
    return files


def test_heads_tell_what_is_parked(parts: list[Path]) -> None:
    for part, (file, size) in enumerate(zip(parts, SIZES, strict=True)):
        heads = list(read_heads(file))
        assert len(heads) == size
        for position, head in enumerate(heads):
            product = made_up(part, position)
            assert (head.row, head.product_id) == (7 * position, product.product_id)
            assert (head.region_width, head.num_images) == (product.region_width, len(product.images))
            assert head.digest == product.digest()
            assert head.has_title == bool(product.title)
            assert head.num_bytes == len(product.title.encode()) + len(b"".join(product.images)) + len(product.regions)


@settings(deadline=None)
@given(kept=st.sets(st.integers(0, sum(SIZES) - 1), min_size=1), data=st.data())
def test_any_range_of_any_products_comes_back(parts: list[Path], kept: set[int], data: st.DataObject) -> None:
    everything = [(part, position) for part, size in enumerate(SIZES) for position in range(size)]
    rows = [everything[i] for i in sorted(kept)]
    part, position = np.array(rows, np.int32).T
    spool = ProductSpool(parts, part, position)
    path = parts[0].with_name("catalogue.arrow")
    spool.save(path)
    start = data.draw(st.integers(0, len(rows) - 1))
    stop = data.draw(st.integers(start + 1, len(rows)))
    found = [product for chunk in ProductSpool.open(path, start, stop).products() for product in chunk]
    assert found == [made_up(*row) for row in rows[start:stop]]
    assert list(spool.column("title")) == [made_up(*row).title for row in rows]
