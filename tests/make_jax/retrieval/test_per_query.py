from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from make_jax.errors import UserError
from make_jax.retrieval.metrics import Qrels
from make_jax.retrieval.per_query import ALL, NAME, PerQuery, read_per_query, write_per_query


def written(folder: Path, grades: list[int], order: list[int] | None = None) -> PerQuery:
    folder.mkdir()
    rows = order or [0, 1, 2]
    qrels = Qrels.from_arrays([["a", "b", "b"][i] for i in rows], ["1", "1", "2"], [grades[i] for i in rows])
    ids = np.array(["a", "b"], object)
    tables = [
        ("exact", ALL, {"mrr": np.array([0.5, np.nan])}),
        ("exact", "cold", {"mrr": np.array([0.1, 0.2]), "extra": np.ones(2)}),
    ]
    write_per_query(folder / NAME, ids, tables, ["red", "blue"], qrels)
    return read_per_query(folder)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = written(tmp_path / "r", [2, 1, 0])
    assert found.metrics == ["mrr", "extra"]
    assert found.values("exact")["mrr"].iloc[0] == 0.5
    assert found.values("exact", "cold").loc["b"].tolist() == [0.2, 1]
    assert found.values("exact")["extra"].isna().all()
    with pytest.raises(UserError, match="no column 'index'; it has 'exact'"):
        found.values("index")
    with pytest.raises(UserError, match="no group 'warm'; it has 'all', 'cold'"):
        found.values("exact", "warm")


def test_the_checksum_is_of_what_is_judged(tmp_path: Path) -> None:
    assert written(tmp_path / "a", [2, 1, 0]).judgements == written(tmp_path / "b", [2, 1, 0], [0, 1, 2]).judgements
    assert written(tmp_path / "c", [2, 1, 1]).judgements != read_per_query(tmp_path / "a").judgements


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make-jax evaluate"):
        read_per_query(tmp_path)
    pq.write_table(pa.Table.from_pandas(pd.DataFrame({"a": [1]})), tmp_path / NAME)
    with pytest.raises(UserError, match="cannot be read"):
        read_per_query(tmp_path)
