"""The texts of products alone: no picture is read, so a catalogue takes seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from data_pipelines.checks import Patterns
from data_pipelines.keywords import clean_text
from data_pipelines.quarantine import Quarantine
from data_pipelines.schema import PRODUCTS, Column, TableSchema
from data_pipelines.tables import read_table

USUAL_FIELDS = ("title", "category")


def product_texts(
    patterns: Patterns, fields: Sequence[str] | None, quarantine: Quarantine
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields product_id and cleaned texts, one for each field, "" for none; each product once, in file order.

    Args:
      patterns: product tables.
      fields: columns of text or numbers, which every file must have; title and category, as far as they are there,
        if None.
      quarantine: takes rows without an id and those that contradict an earlier one of the same id.

    Raises:
      DataError: a file cannot be read, or its columns are not those.
    """
    table = _schema(fields)
    seen: dict[str, int] = {}
    for chunk in read_table(patterns, table):
        quarantine.enter(table, chunk)
        names = [column.name for column in table.columns[1:]]
        columns = [chunk.rows[name].to_pylist() for name in names]
        ids = [(name or "").strip() for name in chunk.rows["product_id"].to_pylist()]
        for position, (product_id, *values) in enumerate(zip(ids, *columns, strict=True)):
            texts = tuple(clean_text(value or "") for value in values)
            if not product_id:
                quarantine.add(table, chunk, position, "missing_id", "product_id is empty")
            elif product_id not in seen:
                seen[product_id] = hash(texts)
                yield product_id, texts
            elif seen[product_id] == hash(texts):
                quarantine.merged[table.name] += 1
            else:
                quarantine.add(table, chunk, position, "duplicate_product_id", "an earlier row has other texts")


def _schema(fields: Sequence[str] | None) -> TableSchema:
    required = fields is not None
    columns = [Column(name, "text", required) for name in dict.fromkeys(fields or USUAL_FIELDS)]
    one_of = () if required else USUAL_FIELDS
    return TableSchema(PRODUCTS.name, (Column("product_id", "id", required=True), *columns), one_of)
