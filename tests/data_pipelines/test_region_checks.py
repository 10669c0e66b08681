"""Region features become a matrix of one width, or cost their product its row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from catalogue_files import picture
from product_rows import check_products, write_lists


def test_regions_become_a_matrix_of_float16(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(100, 7)).astype(np.float32)
    rows = [{"product_id": "1", "title": None, "regions": values.tolist()}, {"product_id": "2", "regions": []}]
    clean, quarantine = check_products(write_lists(tmp_path / "p.parquet", rows))
    assert quarantine.bad == []
    assert [(p.product_id, p.region_width) for p in clean] == [("1", 7), ("2", 0)]
    found = np.frombuffer(clean[0].regions, np.float16).reshape(-1, 7)
    np.testing.assert_array_equal(found, values.astype(np.float16))
    assert clean[1].regions == b""


BAD_REGIONS: dict[str, dict[str, Any]] = {
    "ragged": {"regions": [[1.0, 2.0], [1.0]]},
    "a missing region": {"regions": [[1.0, 2.0], None]},
    "a missing value": {"regions": [[1.0, None]]},
    "not finite": {"regions": [[1.0, float("inf")]]},
    "not a number": {"regions": [[float("nan"), 1.0]]},
    "beyond float16": {"regions": [[1.0, 70_000.0]]},
    "too many": {"regions": [[1.0, 2.0]] * 101},
    "empty": {"regions": [[], []]},
    "too wide": {"regions": [[0.5] * 8_193]},
    "beside a picture": {"regions": [[1.0, 2.0]], "image": [picture()]},
    "another width": {"regions": [[1.0, 2.0, 3.0]]},
}


@pytest.mark.parametrize("case", BAD_REGIONS)
def test_bad_regions_are_set_aside(tmp_path: Path, case: str) -> None:
    sound = {"product_id": "1", "regions": [[1.0, 2.0]]}
    path = write_lists(tmp_path / "p.parquet", [sound, {"product_id": "2", **BAD_REGIONS[case]}])
    clean, quarantine = check_products(path)
    assert [p.product_id for p in clean] == ["1"]
    assert [(row.row, row.key, row.reason) for row in quarantine.bad] == [(2, "2", "bad_regions")]
    assert quarantine.bad[0].detail


def test_the_first_product_with_regions_decides_their_width(tmp_path: Path) -> None:
    write_lists(tmp_path / "a.parquet", [{"product_id": "0"}, {"product_id": "1", "regions": [[1.0] * 3]}])
    rows = [{"product_id": "2", "regions": [[1.0] * 2]}, {"product_id": "2", "regions": [[1.0] * 3]}]
    write_lists(tmp_path / "b.parquet", rows)
    clean, quarantine = check_products(tmp_path / "?.parquet")
    assert [(p.product_id, p.region_width) for p in clean] == [("0", 0), ("1", 3), ("2", 3)]
    assert [row.detail for row in quarantine.bad] == ["each region has 2 values, those of earlier products have 3"]
