"""The click log, added up, the pairs made up beside it, and the queries of both, tokenised and keyed."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipelines.keywords import query_keyword_key
from data_pipelines.log_checks import MAX_COUNT, Clicks
from data_pipelines.tokenizer import TextTokenizer

MAX_QUERY_TOKENS = 128

_PAIR = ["query_index", "product_index"]
_SCHEMA = pa.schema(
    [
        ("query_index", pa.int32()),
        ("product_index", pa.int32()),
        ("clicks", pa.int32()),
        ("purchases", pa.int32()),
        ("last_day", pa.int32()),
    ]
)

_SCHEMA_OF_QUERIES = pa.schema([("query", pa.string()), ("query_key", pa.int32()), ("query_ids", pa.list_(pa.int32()))])
_QUERIES_AT_ONCE = 16_384


def add_up(chunks: Iterable[Clicks]) -> pa.Table:
    """One sorted row per (query, product): clicks and purchases added up (2^31 - 1 at most), the last day."""
    names = [*_PAIR, "clicks", "purchases", "last_day"]
    types = [pa.int32(), pa.int32(), pa.int64(), pa.int64(), pa.int64()]
    tables = [pa.table([pa.array(column) for column in chunk], names=names) for chunk in chunks]
    log = pa.concat_tables([pa.schema(zip(names, types, strict=True)).empty_table(), *tables])
    sums = [("clicks", "sum"), ("purchases", "sum"), ("last_day", "max")]
    added = log.group_by(_PAIR).aggregate(sums).sort_by([(name, "ascending") for name in _PAIR])
    limit = pa.scalar(MAX_COUNT, pa.int64())
    columns = [added[name] for name in _PAIR] + [
        pc.min_element_wise(added[f"{name}_{how}"], limit) for name, how in sums
    ]
    return pa.table(columns, names=_SCHEMA.names).cast(_SCHEMA)


def pseudo_pairs(queries: dict[str, int], made_up: Iterable[list[str]]) -> pa.Table:
    """One row per (product, query made up for it): query_index, product_index int32, sorted by product, then query.

    Args:
      queries: the query_index of each query; those that are new are added.
      made_up: the queries of each product, in the order of the catalogue.
    """
    query_index, product_index = array("i"), array("i")
    for product, product_queries in enumerate(made_up):
        numbers = sorted(queries.setdefault(query, len(queries)) for query in product_queries)
        query_index.extend(numbers)
        product_index.extend([product] * len(numbers))
    columns = (np.array(column, np.int32) for column in (query_index, product_index))
    return pa.table([pa.array(column) for column in columns], names=_PAIR)


def train_queries(queries: Iterable[str], tokenizer: TextTokenizer) -> pa.Table:
    """One row per query: its text, query_key int32 (equal for equal keyword sets), query_ids list<int32>."""
    keys: dict[str, int] = {}
    parts = [_SCHEMA_OF_QUERIES.empty_table()]
    rest = iter(queries)
    while part := list(islice(rest, _QUERIES_AT_ONCE)):  # the library needs far more memory than the ids it gives
        query_key = [keys.setdefault(query_keyword_key(query), len(keys)) for query in part]
        ids = tokenizer.encode(part, MAX_QUERY_TOKENS)
        offsets = np.cumsum([0, *map(len, ids)], dtype=np.int32)
        lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(ids)))
        parts.append(pa.table([part, query_key, lists], schema=_SCHEMA_OF_QUERIES))
    return pa.concat_tables(parts).combine_chunks()
