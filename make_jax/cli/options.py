"""Options that several commands take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)


def products_option(required: bool = True, text: str = "Product tables; quote globs.") -> Callable[..., Any]:
    """Of the tables of a catalogue."""
    return click.option("--products", multiple=True, required=required, metavar="GLOB", help=text)


max_bad_share_option = click.option(
    "--max-bad-share", type=click.FloatRange(0, 1), default=0.05, help="Stop if more rows of a table are bad."
)
