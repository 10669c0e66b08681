"""Commands that make tables and data to train on, and look into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from data_pipelines.sources import SOURCES
from make_jax.cli.errors import Command, Commands
from make_jax.cli.options import PATH, max_bad_share_option, products_option


@click.command(cls=Command)
@click.option("--out", type=PATH, required=True, help="Folder to write.")
@click.option("--products", "count", type=click.IntRange(min=1), default=2000, help="How many products.")
@click.option("--seed", type=click.IntRange(min=0), default=0)
@click.option("--chinese-share", type=click.FloatRange(0, 1), default=0.0, help="Share with Chinese listings.")
def synthesize(out: Path, count: int, seed: int, chinese_share: float) -> None:
    """Draw a synthetic catalogue with queries, clicks, judgements and the truth behind them."""
    from data_pipelines.synthetic import SyntheticSpec, write_catalogue

    paths = write_catalogue(SyntheticSpec(products=count, seed=seed, chinese_share=chinese_share), out)
    click.echo(f"{count:,} products, their clicks, queries and judgements are in {paths.root}")


@click.command(cls=Command)
@click.argument("source", type=click.Choice(list(SOURCES)))
@click.argument("folder", type=PATH)
@click.option("--out", type=PATH, required=True, help="Folder of tables to write.")
@click.option("--images", type=PATH, help="Folder of pictures, where it is not the usual one.")
@click.option("--locale", multiple=True, help="esci-sqid: us, es or jp; us by default.")
@click.option("--language", multiple=True, help="abo: of titles, the preferred one first; en_US, then en by default.")
@click.option("--split", multiple=True, help="Parts of the data, as the source calls them; all by default.")
@click.option("--field", multiple=True, metavar="NAME=KEY", help="webdataset: the KEY that holds the title, say.")
@click.option("--titles/--no-titles", default=True, help="kdd-cup-2020: make titles of the detected kinds.")
def convert(source: str, folder: Path, out: Path, **options: Any) -> None:
    """Turn a public data set in FOLDER into tables for prepare; see docs/data-sources.md."""
    from data_pipelines.sources.convert import convert as run_convert
    from data_pipelines.sources.rows import Options

    click.echo(run_convert(source, folder, out, Options(**options)).text())


@click.command(cls=Command)
@products_option()
@click.option("--interactions", metavar="F", help="Click log.")
@click.option("--queries", metavar="F", help="Dev queries, with --qrels.")
@click.option("--qrels", metavar="F", help="Judgements of the dev queries.")
@click.option("--out", type=PATH, required=True, help="Folder to write.")
@click.option(
    "--tokenizer",
    default="wordpiece",
    metavar="KIND|FOLDER|NAME",
    help="wordpiece or unigram to train one; else a folder that holds one, or its name on the Hugging Face hub.",
)
@click.option("--vocab-size", type=click.IntRange(min=64), show_default="8192", help="Largest vocabulary to train.")
@click.option("--pseudo-queries", type=click.IntRange(min=0), default=2, help="Made of the title of each product.")
@click.option(
    "--storage",
    type=click.Choice(["array_record", "tfrecord"]),
    default="array_record",
    help="array_record for disks and mounted buckets, tfrecord for streaming from object storage.",
)
@click.option(
    "--workers", type=click.IntRange(min=1), show_default="one per CPU core", help="Processes that share work."
)
@click.option("--runner", type=click.Choice(["processes", "beam"]), default="processes", help="Who does the work.")
@click.option(
    "--beam-options",
    default="",
    show_default=False,
    metavar="OPTIONS",
    help="Beam's own, as '--runner=FlinkRunner ...'.",
)
@max_bad_share_option
def prepare(out: Path, products: tuple[str, ...], **options: Any) -> None:
    """Check tables, train a tokenizer and write a dataset to train on."""
    from data_pipelines.prepare import prepare as run_prepare

    click.echo(run_prepare(products=list(products), out=out, **options).text())


overrides_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting of the experiment."
)


@click.group(cls=Commands)
def data() -> None:
    """Look into prepared data, or decode it once for all."""


@data.command()
@click.argument("data", type=str)
@click.option("--out", type=PATH, help="Folder to write; DATA-cache if not given.")
@click.option("--experiment", type=PATH, help="Experiment whose sizes of pictures to take.")
@overrides_option
def cache(data: str, out: Path | None, experiment: Path | None, overrides: tuple[str, ...]) -> None:
    """Decode and tokenise DATA once, so that training needs neither time nor TensorFlow for it."""
    from make_jax.commands.cache_data import cache_data

    click.echo(cache_data(data, out, experiment, overrides))


@data.command("inspect")
@click.argument("data", type=str)
@click.option("--experiment", type=PATH, help="Show it as this experiment (a Python file) sees it.")
@click.option("--out", type=PATH, help="Page to write, .html if no other ending is given; DATA-inspect.html if none.")
@click.option("--examples", type=click.IntRange(min=0), default=24, help="How many to show, at most those of a batch.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Of the draws; the experiment's if not given.")
@click.option("--step", type=click.IntRange(min=0), default=0, help="Training step to take the examples from.")
@overrides_option
def inspect_command(data: str, experiment: Path | None, out: Path | None, **options: Any) -> None:
    """Write a page that shows prepared DATA, and what the model sees of it."""
    from make_jax.commands.inspect_data import inspect_data

    inspected = inspect_data(data, experiment, out, **options)
    click.echo(f"{inspected.text}\nLook at {inspected.page}")
