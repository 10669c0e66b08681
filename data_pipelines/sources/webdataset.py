"""WebDataset: tar shards of samples.

FOLDER/*.tar, *.tar.gz or *.tgz, or one folder further down. Files in a row that share their path up to the first dot
of the name are a sample; what follows the dot says what the file is:

    shirts/000017.jpg            the picture; png, jpeg and webp go too
    shirts/000017.1.jpg          further pictures, ordered by their number, behind one without a number
    shirts/000017.txt            the title
    shirts/000017.json           product_id, title, category, query (a text or a list of texts), or what --field says

The product id is that of the JSON, else the sample's key. Other files (cls, npy, ...) are not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.images import MAX_BYTES
from data_pipelines.sources.files import EXTENSIONS, find_all
from data_pipelines.sources.rows import MAX_IMAGES, Click, Options, Product, Row
from data_pipelines.sources.skipped import Skipped
from data_pipelines.sources.tar_files import Member, read_tar

_FIELDS = ("product_id", "title", "category", "query")
_READ = (*EXTENSIONS, ".txt", ".json")


@dataclass
class _Sample:
    pictures: list[tuple[int, str, bytes]] = field(default_factory=list)
    title: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


def read(folder: Path, options: Options, skipped: Skipped) -> Iterator[Row]:
    """Products, and clicks of the queries that their JSON names."""
    names = _field_names(options)
    shards = find_all(folder, "*.tar", "*.tar.gz", "*.tgz")
    if not shards:
        raise DataError(f"{folder} holds no .tar, .tar.gz or .tgz, itself or one folder further down; name another")
    for shard in shards:
        for key, members in groupby(read_tar(shard, _READ), lambda member: member.key):
            sample = _Sample()
            try:
                for member in members:
                    skipped.at(shard, member.number)
                    _take(sample, member, skipped)
                yield from _rows(key, sample, names)
            except (ValueError, RecursionError) as error:  # bad JSON, text that is not UTF-8
                skipped.add("products", key, "bad_row", str(error))


def _field_names(options: Options) -> dict[str, str]:
    given = dict(text.partition("=")[::2] for text in options.field)
    for name, key in given.items():
        if name not in _FIELDS or not key:
            raise DataError(f"--field {name}={key} must be NAME=KEY with NAME one of {', '.join(_FIELDS)}")
    return {name: name for name in _FIELDS} | given


def _take(sample: _Sample, member: Member, skipped: Skipped) -> None:
    if member.kind in EXTENSIONS:
        _take_picture(sample, member, skipped)
    elif member.content is None:
        raise ValueError(f"{member.name} has more than {MAX_BYTES} bytes")
    elif member.kind == ".txt":
        sample.title = member.content.decode()
    else:
        sample.fields = json.loads(member.content)
        if not isinstance(sample.fields, dict):
            raise ValueError(f"{member.name} is not a JSON object")


def _take_picture(sample: _Sample, member: Member, skipped: Skipped) -> None:
    if member.content is None:
        skipped.add("pictures", member.key, "image_too_large", f"{member.name} has more than {MAX_BYTES} bytes")
        return
    number = re.search(r"\d+", member.name.rpartition(".")[0])
    sample.pictures.append((int(number[0]) if number else -1, member.name, member.content))
    sample.pictures.sort(key=lambda picture: picture[:2])
    if len(sample.pictures) > MAX_IMAGES:
        _, name, _ = sample.pictures.pop()
        skipped.add("pictures", member.key, "too_many_images", f"{name} comes behind {MAX_IMAGES} others")


def _rows(key: str, sample: _Sample, names: dict[str, str]) -> Iterator[Row]:
    product_id, title, category = (_text(sample.fields, names[name]) for name in ("product_id", "title", "category"))
    product_id = product_id or key
    queries = sample.fields.get(names["query"]) or []
    queries = queries if isinstance(queries, list) else [queries]
    if not all(isinstance(query, str) for query in queries):
        raise ValueError(f"{names['query']} must be a text or a list of texts, it is {queries!r:.80}")
    yield Product(product_id, title or sample.title, category, [content for _, _, content in sample.pictures])
    for query in queries:
        yield Click(query, product_id)


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, (str, int, type(None))):
        raise ValueError(f"{name} must be a text, it is {value!r:.80}")
    return "" if value is None else str(value)
