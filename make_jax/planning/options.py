"""Options of `make-jax plan`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_OPTIONS = (
    click.argument("experiment", type=click.Path(path_type=Path)),
    click.option("--topology", required=True, metavar="CHIP:SIZES", help="TPU slice, as v5e:16x16 or v5p:4x4x8."),
    click.option("--data", multiple=True, metavar="DATA", help="Prepared data, to know vocabulary and widths from."),
    click.option("--vocab-size", type=click.IntRange(min=1), help="Entries of the tokenizer, without --data."),
    click.option(
        "--compare",
        multiple=True,
        metavar="[CHIP:SIZES][,KEY=VALUE...]",
        help="A further way to lay beside it: another slice, other settings, or both.",
    ),
    click.option("--pairs", type=click.IntRange(min=1), help="To train on in all; batch size × steps if not given."),
    click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting of the experiment."),
    click.option("--json", "as_json", is_flag=True, help="Everything, for programs."),
)


def plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """All of them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
