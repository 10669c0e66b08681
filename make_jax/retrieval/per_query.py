"""The metrics of every query in a table, to compare systems by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from make_jax.errors import UserError
from make_jax.retrieval.metrics import Qrels

NAME = "per_query.parquet"
ALL = "all"  # the group of all relevant products
_METADATA_KEY = b"make_jax"
_KEYS = ("query_id", "column", "group")


@dataclass(frozen=True)
class PerQuery:
    """What one evaluation wrote.

    Attributes:
      path: the report's folder.
      table: query_id, column, group and a column per metric.
      judgements: a checksum of the queries and judgements.
    """

    path: Path
    table: pd.DataFrame
    judgements: str

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics."""
        return [name for name in self.table.columns if name not in _KEYS]

    def values(self, column: str, group: str = ALL) -> pd.DataFrame:
        """The metrics of one column and group, a row a query, in the order of the queries.

        Raises:
          UserError: there is no such column or group.
        """
        for key, wanted in (("column", column), ("group", group)):
            known = list(dict.fromkeys(self.table[key]))
            if wanted not in known:
                raise UserError(f"{self.path} has no {key} {wanted!r}; it has {', '.join(map(repr, known))}")
        rows = self.table[(self.table["column"] == column) & (self.table["group"] == group)]
        return rows.set_index("query_id")[self.metrics]


def write_per_query(
    path: Path,
    query_ids: np.ndarray,
    tables: Sequence[tuple[str, str, Mapping[str, np.ndarray]]],
    queries: Sequence[str],
    qrels: Qrels,
) -> None:
    """Write the metrics of every query to a Parquet file.

    Args:
      path: the file.
      query_ids: object[Nq].
      tables: column, group, and float64[Nq] by metric; a metric that only some have is NaN in the others.
      queries: the texts.
      qrels: the judgements.
    """
    frames = [
        pd.DataFrame({"query_id": query_ids, "column": column, "group": group} | dict(values))
        for column, group, values in tables
    ]
    table = pa.Table.from_pandas(pd.concat(frames, ignore_index=True), preserve_index=False)
    about = json.dumps({"judgements": _checksum(query_ids, queries, qrels)})
    temporary = path.with_name(path.name + ".tmp")
    try:
        pq.write_table(table.replace_schema_metadata({_METADATA_KEY: about}), temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_per_query(report: Path) -> PerQuery:
    """Read the table of a report's folder.

    Raises:
      UserError: it has none, or something else.
    """
    path = report / NAME
    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        return PerQuery(report, table.to_pandas(), about["judgements"])
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} cannot be read ({reason}); write it with `make-jax evaluate --out {report}`"
        ) from error


def _checksum(query_ids: np.ndarray, texts: Sequence[str], qrels: Qrels) -> str:
    """Of the queries and what is judged, whatever the order of the rows."""
    judged = sorted(zip(
        np.repeat(qrels.query_ids, np.diff(qrels.offsets)), qrels.product_ids[qrels.products], qrels.relevance.tolist(),
        strict=True,
    ))  # fmt: skip
    content = json.dumps([sorted(zip(query_ids, texts, strict=True)), judged])
    return hashlib.sha256(content.encode()).hexdigest()
