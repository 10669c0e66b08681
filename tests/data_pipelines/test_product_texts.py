"""Texts of products: which columns, which rows, and that no picture is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipelines.errors import DataError
from data_pipelines.product_texts import product_texts
from data_pipelines.quarantine import Quarantine


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "p.csv"
    path.write_text(
        "product_id,title,brand,image_path\n"
        "1, Red   dress,Acme,missing.jpg\n"
        "2,,,\n"
        ",no id,,\n"
        "1,Red dress,Acme,\n"
        "1,Blue dress,Acme,\n"
        "3,Shoe,7,\n"
    )
    return path


def test_title_and_category_as_far_as_they_are_there(table: Path) -> None:
    quarantine = Quarantine()
    found = list(product_texts(str(table), None, quarantine))
    assert found == [("1", ("Red dress", "")), ("2", ("", "")), ("3", ("Shoe", ""))]
    assert [(row.row, row.reason) for row in quarantine.bad] == [(3, "missing_id"), (5, "duplicate_product_id")]
    assert (quarantine.read["products"], quarantine.merged["products"]) == (6, 1)


def test_columns_of_ones_own(table: Path) -> None:
    assert list(product_texts(str(table), ["brand", "brand"], Quarantine()))[2] == ("3", ("7",))
    with pytest.raises(DataError, match="no column 'colour'"):
        list(product_texts(str(table), ["colour"], Quarantine()))


def test_a_table_without_texts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("product_id,image_path\n1,a.jpg\n")
    with pytest.raises(DataError, match="none of the columns 'title', 'category'"):
        list(product_texts(str(tmp_path / "p.csv"), None, Quarantine()))
