"""The options of `make-jax sweep`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_PATH = click.Path(path_type=Path)

_OPTIONS = (
    click.argument("sweep", type=_PATH),
    click.option(
        "--data", multiple=True, required=True, metavar="DATA[=WEIGHT]", help="As make-jax train takes it; repeatable."
    ),
    click.option("--workdir", type=_PATH, required=True, help="Folder of all runs; an existing sweep goes on."),
    click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting of every variant."),
    click.option("--seeds", type=click.IntRange(min=1), show_default="the sweep's", help="How many, from 0."),
    click.option(
        "--minutes",
        type=click.FloatRange(min=0, min_open=True),
        show_default="the sweep's",
        help="Time that each run may train.",
    ),
    click.option("--only", multiple=True, metavar="NAME", help="Variants or runs to make; '*/seed-0' is a pattern."),
    click.option("--jobs", type=click.IntRange(min=1), default=1, help="Runs at a time."),
    click.option("--gpus", metavar="0,1,...", help="GPUs to share out, one for each run at a time; sets --jobs."),
    click.option("--baseline", metavar="NAME", show_default="the sweep's", help="Variant to compare the others with."),
    click.option("--products", multiple=True, metavar="GLOB", help="With --queries: evaluate runs on this catalogue."),
    click.option("--queries", metavar="F", help="Queries to evaluate runs with; further columns become segments."),
    click.option("--qrels", metavar="F", help="Judgements of these queries."),
    click.option(
        "--without",
        multiple=True,
        type=click.Choice(["images", "titles"]),
        help="Evaluate again as if no product had any.",
    ),
    click.option("--evaluate", "evaluate_options", default="", metavar="OPTIONS", help="More for make-jax evaluate."),
    click.option("--dry-run", is_flag=True, help="Say what would be run, and do nothing."),
    click.option("--collect", is_flag=True, help="Run nothing; make the table from what is there."),
    click.option("--table/--no-table", default=True, help="Write the table at the end."),
    click.option(
        "--launcher", type=click.Choice(["local", "print", "slurm", "tpu-vm"]), default="local", help="Where to run."
    ),
    click.option("--slurm", multiple=True, metavar="KEY=VALUE", help="For submitit, as slurm_partition=gpu."),
    click.option("--tpu", multiple=True, metavar="NAME", help="TPU VM to run on; repeat it for several."),
    click.option("--zone", help="Of the TPU VMs."),
    click.option("--before", default="", metavar="COMMAND", help="What to run first on a TPU VM, as 'cd make_jax'."),
)


def sweep_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument and the options of `make-jax sweep` to a function."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function
