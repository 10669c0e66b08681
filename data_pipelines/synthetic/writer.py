"""Writes a synthetic catalogue as Parquet tables: whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.atomic import atomic_directory
from data_pipelines.synthetic.catalogue import Product, product_id, products
from data_pipelines.synthetic.shoppers import DevQuery, Shoppers
from data_pipelines.synthetic.spec import SyntheticSpec
from data_pipelines.synthetic.vocabulary import ATTRIBUTES

_FORMAT = 1
_SPEC_FILE = "synthetic.json"
_SHARD_PRODUCTS = 10_000
_GROUP_PRODUCTS = 1_000  # products held in memory while writing
_GROUP_ROWS = 100_000

_PRODUCTS = pa.schema(
    [("product_id", pa.string()), ("title", pa.string()), ("category", pa.string()), ("image", pa.binary())]
)
_TRUTH = pa.schema(
    [
        ("product_id", pa.string()),
        ("kind", pa.string()),
        ("language", pa.string()),
        ("asked_in", pa.string()),
        ("cold", pa.bool_()),
        ("wrong_title", pa.bool_()),
        *((name, pa.string()) for attribute in ATTRIBUTES for name in (attribute, f"{attribute}_in")),
    ]
)
_INTERACTIONS = pa.schema(
    [
        ("query", pa.string()),
        ("product_id", pa.string()),
        ("clicks", pa.int32()),
        ("purchases", pa.int32()),
        ("day", pa.int32()),
    ]
)
_QUERIES = pa.schema(
    [
        ("query_id", pa.string()),
        ("query", pa.string()),
        ("facets", pa.string()),
        ("asked_in", pa.string()),
        ("novel", pa.bool_()),
        ("kind", pa.string()),
        ("language", pa.string()),
        ("asked", pa.string()),
    ]
)
_QRELS = pa.schema([("query_id", pa.string()), ("product_id", pa.string()), ("relevance", pa.int32())])


@dataclass(frozen=True)
class CataloguePaths:
    """Where the tables of a synthetic catalogue are.

    Attributes:
      root: the folder.
    """

    root: Path

    @property
    def products(self) -> str:
        """Glob of the shards: product_id, title, category, image."""
        return str(self.root / "products-*.parquet")

    @property
    def interactions(self) -> Path:
        """query, product_id, clicks, purchases, day; one row per (query, product, day)."""
        return self.root / "interactions.parquet"

    @property
    def queries(self) -> Path:
        """query_id, query, facets ("colour+kind"), asked_in, novel, kind, language, asked.

        `asked` is a JSON object, attribute -> value.
        """
        return self.root / "queries.parquet"

    @property
    def qrels(self) -> Path:
        """query_id, product_id, relevance: 2 all that was asked for, 1 only the right kind; absent: 0."""
        return self.root / "qrels.parquet"

    @property
    def truth(self) -> Path:
        """product_id, kind, language, asked_in, cold, wrong_title, and two columns for each attribute.

        `colour` is its true value, `colour_in` where it can be seen: "title", "picture", "both" or
        "neither"; both are null for kinds without it.
        """
        return self.root / "truth.parquet"


def write_catalogue(spec: SyntheticSpec, out: Path) -> CataloguePaths:
    """Write the catalogue to the folder `out`; memory does not grow with it but for some 15 bytes a product.

    The judgements name every product of the right kind for every development query, so their table grows with
    products times queries (about 6 % of the product for each).

    Args:
      out: a folder that is absent, empty, or holds a catalogue of the same spec (which is replaced).

    Raises:
      DataError: `out` holds something else, or the spec cannot be met.
    """
    with atomic_directory(out, partial(_foreign_content, spec=spec)) as made:
        paths = CataloguePaths(made)
        shoppers = Shoppers(spec)
        queries = shoppers.dev_queries()
        _write_products(spec, paths)
        _write(paths.interactions, _INTERACTIONS, _interaction_tables(shoppers))
        _write(paths.queries, _QUERIES, [_query_table(queries)])
        _write(paths.qrels, _QRELS, _qrel_tables(shoppers, queries))
        marker = {"format_version": _FORMAT, "spec": spec.as_json()}
        (made / _SPEC_FILE).write_text(json.dumps(marker, indent=1))
    return CataloguePaths(out)


def _foreign_content(out: Path, spec: SyntheticSpec) -> str | None:
    """Why a directory is no catalogue of this spec, None if it is one."""
    marker = out / _SPEC_FILE
    if not marker.exists():
        return f"holds files but no {_SPEC_FILE}, so no synthetic catalogue"
    try:
        there = json.loads(marker.read_text())["spec"]
        differences = [
            f"{key}={there.get(key)} against {value}"
            for key, value in spec.as_json().items()
            if there.get(key) != value
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"holds a {_SPEC_FILE} that cannot be read ({type(error).__name__}: {error})"
    return f"holds a synthetic catalogue of another spec ({', '.join(differences)})" if differences else None


def _write_products(spec: SyntheticSpec, paths: CataloguePaths) -> None:
    shards = -(-spec.products // _SHARD_PRODUCTS)
    with pq.ParquetWriter(paths.truth, _TRUTH) as truth:
        for shard in range(shards):
            start = shard * _SHARD_PRODUCTS
            stream = products(spec, start, min(start + _SHARD_PRODUCTS, spec.products))
            file = paths.root / f"products-{shard:05d}-of-{shards:05d}.parquet"
            # JPEG bytes do not shrink.
            with pq.ParquetWriter(file, _PRODUCTS, compression={"title": "zstd", "image": "none"}) as writer:
                while group := list(islice(stream, _GROUP_PRODUCTS)):
                    rows = [{name: getattr(product, name) for name in _PRODUCTS.names} for product in group]
                    writer.write_table(pa.Table.from_pylist(rows, _PRODUCTS))
                    truth.write_table(pa.Table.from_pylist([_truth_row(product) for product in group], _TRUTH))


def _truth_row(product: Product) -> Mapping[str, Any]:
    row = {
        "product_id": product.product_id,
        "kind": product.kind.key,
        "language": product.language,
        "asked_in": product.kind.asked_in,
        "cold": product.cold,
        "wrong_title": product.wrong_title,
    }
    return row | dict(product.attributes) | {f"{name}_in": where for name, where in product.seen.items()}


def _interaction_tables(shoppers: Shoppers) -> Iterator[pa.Table]:
    for clicks in shoppers.clicks():
        ids = [product_id(number) for number in clicks.products.tolist()]
        columns = [pa.array(clicks.queries, pa.string()), ids, clicks.clicks, clicks.purchases, clicks.days]
        yield pa.table(columns, schema=_INTERACTIONS)


def _query_table(queries: list[DevQuery]) -> pa.Table:
    rows = [
        {
            "query_id": _query_id(number),
            "query": query.query,
            "facets": "+".join(sorted([*query.intent.asked, "kind"])),
            "asked_in": query.intent.asked_in,
            "novel": query.novel,
            "kind": query.intent.kind.key,
            "language": query.intent.language,
            "asked": json.dumps(query.intent.asked),
        }
        for number, query in enumerate(queries)
    ]
    return pa.Table.from_pylist(rows, _QUERIES)


def _qrel_tables(shoppers: Shoppers, queries: list[DevQuery]) -> Iterator[pa.Table]:
    for number, query in enumerate(queries):
        members, relevance = shoppers.relevance(query.intent)
        ids = [product_id(member) for member in members.tolist()]
        yield pa.table([[_query_id(number)] * len(ids), ids, relevance.astype("int32")], schema=_QRELS)


def _query_id(number: int) -> str:
    return f"q{number:06d}"


def _write(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write many small tables as one file with row groups of a fair size."""
    with pq.ParquetWriter(path, schema) as writer:
        held: list[pa.Table] = []
        rows = 0
        for table in tables:
            held.append(table)
            rows += table.num_rows
            if rows >= _GROUP_ROWS:
                writer.write_table(pa.concat_tables(held))
                held, rows = [], 0
        if held:
            writer.write_table(pa.concat_tables(held))
