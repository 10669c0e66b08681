"""Kaggle's "Fashion Product Images", the large data set and the small one.

    FOLDER/styles.csv            id, gender, masterCategory, subCategory, articleType, baseColour, season, year, usage,
                                 productDisplayName; names with commas in them are not quoted
    FOLDER/images/ID.jpg
    FOLDER/styles/ID.json        large one only; read where styles.csv has no name

All of it may be one folder further down, as some archives have it. The product's name is its title, articleType its
category. There are no queries: training makes some up from the titles.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.sources.files import PictureFolder, find_one, text_lines
from data_pipelines.sources.rows import Options, Product, Row
from data_pipelines.sources.skipped import Skipped

_NAME = "productDisplayName"


def read(folder: Path, options: Options, skipped: Skipped) -> Iterator[Row]:
    """Products."""
    table = find_one(folder, "styles.csv")
    pictures = PictureFolder(options.images, table.parent / "images", skipped)
    lines = text_lines(table, skipped)
    header = _cells(next(lines, ""))
    if not {"id", "articleType"} <= set(header) or header[-1] != _NAME:
        raise DataError(
            f"{table} has the columns {', '.join(header)}; it needs id, articleType and, as the last one, {_NAME}"
        )
    for line in lines:
        cells = _cells(line, len(header))
        if len(cells) == len(header):
            row = dict(zip(header, cells, strict=True))
            title = row[_NAME] if row[_NAME] != "NA" else ""
            picture = pictures.read(row["id"], [f"{row['id']}.jpg"])
            title = title or _name_of(table.parent / "styles" / f"{row['id']}.json")
            yield Product(row["id"], title, row["articleType"], [picture] if picture else [])
        elif line:
            skipped.add("products", cells[0], "bad_row", f"{len(cells)} cells, the header has {len(header)}: {line}")


def _cells(line: str, width: int = 0) -> list[str]:
    """The cells of a line; further commas belong to the last one. Those at the end of a line come from spreadsheets."""
    *cells, last = line.split(",", width - 1) if width else line.rstrip(",").split(",")
    return [
        cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell.strip()
        for cell in (*cells, last.rstrip(","))
    ]


def _name_of(path: Path) -> str:
    try:
        name = json.loads(path.read_text(encoding="utf-8"))["data"][_NAME]
    except (OSError, ValueError, TypeError, KeyError):  # it only fills a gap
        return ""
    return name if isinstance(name, str) else ""
