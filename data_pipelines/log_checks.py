"""Clicks, queries and judgements, whole columns at once since logs are long; bad rows are set aside."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from data_pipelines.checks import MAX_TEXT_CHARS, Patterns
from data_pipelines.errors import DataError
from data_pipelines.keywords import clean_text
from data_pipelines.quarantine import Quarantine
from data_pipelines.schema import INTERACTIONS, QRELS, QUERIES, ROW, Chunk, TableSchema
from data_pipelines.tables import read_table

MAX_COUNT = 2**31 - 1


class Clicks(NamedTuple):
    """Clean rows of the click log: equally long arrays, indices int32, the rest int64; day -1: unknown."""

    query_index: np.ndarray
    product_index: np.ndarray
    clicks: np.ndarray
    purchases: np.ndarray
    day: np.ndarray


@dataclass
class ClickChecker:
    """Tells clean rows of the click log from bad ones and numbers the queries.

    Attributes:
      quarantine: takes the bad rows.
      products: row of each known product.
      queries: the distinct queries met, with their query_index.
    """

    quarantine: Quarantine
    products: Mapping[str, int]
    queries: dict[str, int] = field(default_factory=dict)

    def clicks(self, patterns: Patterns) -> Iterator[Clicks]:
        """Reads click logs; a row without `clicks` counts as one click.

        Raises:
          DataError: a file cannot be read, or its columns are not those of interactions.
        """
        for chunk in read_table(patterns, INTERACTIONS):
            yield self._clean(_Rows(INTERACTIONS, chunk, self.quarantine))

    def _clean(self, rows: _Rows) -> Clicks:
        text = rows.queries("query")
        product_id = rows.ids("product_id")
        product = np.array([self.products.get(name, -1) for name in product_id], np.int32)
        rows.set_aside(product < 0, "unknown_product", "no clean product has this product_id")
        clicks, purchases, day = (
            rows.counts(name, absent) for name, absent in (("clicks", 1), ("purchases", 0), ("day", -1))
        )
        nobody = rows.clean & (clicks == 0) & (purchases == 0)
        self.quarantine.without_click += int(nobody.sum())
        keep = rows.clean & ~nobody
        query = np.array([self.queries.setdefault(name, len(self.queries)) for name in text[keep]], np.int32)
        return Clicks(query, product[keep], clicks[keep], purchases[keep], day[keep])


def checked_queries(patterns: Patterns, quarantine: Quarantine) -> pa.Table:
    """Reads query tables: query_id, query and the extra columns of the clean rows, in file order.

    Raises:
      DataError: a file cannot be read, its columns are not those of queries, or extra columns change type.
    """
    tables = []
    seen: set[str] = set()
    for chunk in read_table(patterns, QUERIES):
        rows = _Rows(QUERIES, chunk, quarantine)
        query_id, text = rows.ids("query_id"), rows.queries("query")
        rows.set_aside(_repeats(query_id, seen), "duplicate_query_id", "an earlier row has this query_id")
        columns = {"query_id": pa.array(query_id, pa.string()), "query": pa.array(text, pa.string())}
        columns.update({name: chunk.rows[name] for name in chunk.rows.column_names if name not in (*columns, ROW)})
        tables.append(pa.table(columns).filter(pa.array(rows.clean)))
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(
            f"queries {patterns}: the files' extra columns differ in type: {error}; make them alike"
        ) from error


@dataclass
class QrelChecker:
    """Tells clean judgements from bad ones.

    Attributes:
      quarantine: takes the bad rows.
      products: the known products; None accepts any.
      queries: the known query ids.
    """

    quarantine: Quarantine
    products: Container[str] | None
    queries: set[str]

    def qrels(self, patterns: Patterns) -> pa.Table:
        """Reads judgements: query_id, product_id string, relevance int32, in file order.

        Raises:
          DataError: a file cannot be read, or its columns are not those of qrels.
        """
        schema = pa.schema([("query_id", pa.string()), ("product_id", pa.string()), ("relevance", pa.int32())])
        seen: dict[tuple[str, str], int] = {}
        tables = [
            self._clean(_Rows(QRELS, chunk, self.quarantine), seen, schema) for chunk in read_table(patterns, QRELS)
        ]
        return pa.concat_tables(tables) if tables else schema.empty_table()

    def _clean(self, rows: _Rows, seen: dict[tuple[str, str], int], schema: pa.Schema) -> pa.Table:
        query_id, product_id = rows.ids("query_id"), rows.ids("product_id")
        relevance = rows.counts("relevance", None)
        known_query = np.array([name in self.queries for name in query_id], bool)
        rows.set_aside(~known_query, "unknown_query", "no clean query has this query_id")
        if self.products is not None:
            known_product = np.array([name in self.products for name in product_id], bool)
            rows.set_aside(~known_product, "unknown_product", "no clean product has this product_id")
        first, conflicts = np.zeros(len(query_id), bool), np.zeros(len(query_id), bool)
        for i in np.flatnonzero(rows.clean).tolist():
            pair = (query_id[i], product_id[i])
            first[i] = pair not in seen
            conflicts[i] = seen.setdefault(pair, relevance[i]) != relevance[i]
        rows.set_aside(conflicts, "duplicate_qrel", "an earlier row judges this pair differently")
        self.quarantine.merged[QRELS.name] += int((rows.clean & ~first).sum())
        return pa.table([query_id, product_id, relevance.astype(np.int32)], schema=schema).filter(pa.array(first))


class _Rows:
    """The rows of a chunk under inspection; each is set aside for its first problem only."""

    def __init__(self, table: TableSchema, chunk: Chunk, quarantine: Quarantine) -> None:
        quarantine.enter(table, chunk)
        self._table, self._chunk, self._quarantine = table, chunk, quarantine
        self.clean = np.ones(chunk.rows.num_rows, bool)

    def set_aside(self, bad: np.ndarray, reason: str, detail: str) -> None:
        """Quarantines the rows where `bad`, bool[rows], unless they were before."""
        for position in np.flatnonzero(bad & self.clean).tolist():
            self._quarantine.add(self._table, self._chunk, position, reason, detail)
        self.clean &= ~bad

    def ids(self, name: str) -> np.ndarray:
        """object[rows] of str without surrounding white space."""
        values = _per_distinct(self._chunk.rows[name], str.strip)
        self.set_aside(values == "", "missing_id", f"{name} is empty")
        return values

    def queries(self, name: str) -> np.ndarray:
        """object[rows] of cleaned text."""
        values = _per_distinct(self._chunk.rows[name], clean_text)
        self.set_aside(values == "", "empty_query", f"{name} is empty")
        too_long = np.array([len(value) > MAX_TEXT_CHARS for value in values], bool)
        self.set_aside(too_long, "query_too_long", f"{name} has more than {MAX_TEXT_CHARS} characters")
        return values

    def counts(self, name: str, absent: int | None) -> np.ndarray:
        """int64[rows] of whole numbers >= 0; `absent` where there is none, or set aside if that is None."""
        column = self._chunk.rows[name]
        given = np.asarray(column.is_valid())
        values = column.to_numpy(zero_copy_only=False).astype(np.float64)
        with np.errstate(invalid="ignore"):
            whole = (values >= 0) & (values <= MAX_COUNT) & (values == np.floor(values))
        bad = ~whole & (given | (absent is None))
        self.set_aside(bad, "bad_number", f"{name} must be a whole number from 0 to {MAX_COUNT}")
        return np.where(whole & given, values, -1 if absent is None else absent).astype(np.int64)


def _per_distinct(column: pa.ChunkedArray, clean: Callable[[str], str]) -> np.ndarray:
    """Applies `clean` once per distinct value; null becomes ""."""
    encoded = column.combine_chunks().fill_null("").dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    distinct = np.array([clean(value) for value in encoded.dictionary.to_pylist()], object)
    return distinct[encoded.indices.to_numpy()] if len(distinct) else np.array([], object)


def _repeats(values: np.ndarray, seen: set[str]) -> np.ndarray:
    """bool[rows]: true where a value occurred before; extends `seen`."""
    repeated = np.zeros(len(values), bool)
    for i, value in enumerate(values):
        repeated[i] = value in seen
        seen.add(value)
    return repeated
