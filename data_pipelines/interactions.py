"""The click log, added up, and its queries, tokenised and keyed."""

from __future__ import annotations

from collections.abc import Iterable

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


def train_queries(queries: list[str], tokenizer: TextTokenizer) -> pa.Table:
    """One row per query: its text, query_key int32 (equal for equal keyword sets), query_ids list<int32>."""
    keys: dict[str, int] = {}
    query_key = [keys.setdefault(query_keyword_key(query), len(keys)) for query in queries]
    ids = tokenizer.encode(queries, MAX_QUERY_TOKENS)
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int32)
    flat = np.concatenate(ids) if ids else np.zeros(0, np.int32)
    return pa.table(
        {
            "query": pa.array(queries, pa.string()),
            "query_key": pa.array(query_key, pa.int32()),
            "query_ids": pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat)),
        }
    )
