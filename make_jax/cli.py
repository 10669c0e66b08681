"""The console script. Every command imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from data_pipelines.sources import SOURCES
from make_jax import __version__
from make_jax.retrieval.options import (
    bm25_options,
    compare_options,
    evaluate_options,
    hybrid_options,
    mine_options,
    search_options,
)
from make_jax.sweeps.options import sweep_options

PATH = click.Path(path_type=Path)
log = logging.getLogger("make_jax")


_NO_SPACE = "free some space or choose another place, then run the command again"
_NO_RIGHT = "ask for the right to it or choose another place"
_NO_FOLDER = "a file is where a folder has to be; choose another place or move the file away"
_MOUNTED = "a whole file system cannot be replaced; name a folder inside it"
_REMEDIES = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EROFS: _NO_RIGHT,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EEXIST: _NO_FOLDER,
    errno.EISDIR: "a folder is where a file has to be; name a file",
    errno.ENOENT: "check the path",
    errno.EBUSY: _MOUNTED,
    errno.EXDEV: _MOUNTED,
}


class _Command(click.Command):
    """Turns the errors that users can mend into one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        from data_pipelines.errors import DataError
        from make_jax.errors import UserError

        try:
            return super().invoke(ctx)
        except (UserError, DataError) as error:
            _exit(str(error), 2)
        except OSError as error:
            if error.errno not in _REMEDIES:
                raise
            # A write that fails does not say to which file, but there is one place that a command writes to.
            place = error.filename or ctx.params.get("out") or ctx.params.get("workdir")
            where = f"{place}: " if place else ""
            _exit(f"{where}{os.strerror(error.errno)}; {_REMEDIES[error.errno]}", 2)


class _Commands(click.Group):
    command_class = _Command


def _exit(message: str, code: int) -> None:
    click.echo(f"make-jax: error: {message}", err=True)
    sys.exit(code)


def _products_option(required: bool = True, text: str = "Product tables; quote globs.") -> Callable[..., Any]:
    return click.option("--products", multiple=True, required=required, metavar="GLOB", help=text)


_max_bad_share_option = click.option(
    "--max-bad-share", type=click.FloatRange(0, 1), default=0.05, help="Stop if more rows of a table are bad."
)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="make-jax")
def main() -> None:
    """Text-to-multimodal product retrieval: train, evaluate and search your own catalogue."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for name in ("make_jax", "data_pipelines"):
        logging.getLogger(name).setLevel(logging.INFO)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported: it greets on stderr


@main.command()
@click.option("--workdir", type=PATH, default=Path("make-jax-demo"), help="Where everything goes.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0)
def demo(workdir: Path, seed: int) -> None:
    """The whole path on a synthetic catalogue, from products to a report to look at."""
    from make_jax.commands.demo import run_demo

    report = run_demo(workdir, seed)
    if report is None:
        click.echo(f"{workdir}: stopped and saved; the same command goes on from there")
        return
    click.echo(
        f"\nLook at {report}\nSearch with: make-jax search --run {workdir}/run --index {workdir}/index 'red dress'"
    )


@main.command()
@click.option("--out", type=PATH, required=True, help="Folder to write.")
@click.option("--products", "count", type=click.IntRange(min=1), default=2000, help="How many products.")
@click.option("--seed", type=click.IntRange(min=0), default=0)
@click.option("--chinese-share", type=click.FloatRange(0, 1), default=0.0, help="Share with Chinese listings.")
def synthesize(out: Path, count: int, seed: int, chinese_share: float) -> None:
    """Draw a synthetic catalogue with queries, clicks, judgements and the truth behind them."""
    from data_pipelines.synthetic import SyntheticSpec, write_catalogue

    paths = write_catalogue(SyntheticSpec(products=count, seed=seed, chinese_share=chinese_share), out)
    click.echo(f"{count:,} products, their clicks, queries and judgements are in {paths.root}")


@main.command()
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


@main.command()
@_products_option()
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
@_max_bad_share_option
def prepare(out: Path, products: tuple[str, ...], **options: Any) -> None:
    """Check tables, train a tokenizer and write a dataset to train on."""
    from data_pipelines.prepare import prepare as run_prepare

    click.echo(run_prepare(products=list(products), out=out, **options).text())


@main.group(cls=_Commands)
def data() -> None:
    """Look into prepared data, or decode it once for all."""


@data.command()
@click.argument("data", type=str)
@click.option("--out", type=PATH, help="Folder to write; DATA-cache if not given.")
@click.option("--experiment", type=PATH, help="Experiment whose sizes of pictures to take.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting of the experiment.")
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
def inspect_command(
    data: str, experiment: Path | None, out: Path | None, examples: int, seed: int | None, step: int
) -> None:
    """Write a page that shows prepared DATA, and what the model sees of it."""
    from make_jax.commands.inspect_data import inspect_data

    inspected = inspect_data(data, experiment, out, examples, seed, step)
    click.echo(f"{inspected.text}\nLook at {inspected.page}")


@main.command()
@click.argument("experiment", type=PATH)
@click.option(
    "--data",
    multiple=True,
    required=True,
    metavar="DATA[=WEIGHT]",
    help="Folder that prepare or data cache wrote; repeat it to mix several, with weights if wanted.",
)
@click.option("--workdir", type=PATH, required=True, help="Run directory; an existing run goes on.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting, as training.steps=500.")
@click.option("--init-from", metavar="RUN[@STEP]", help="Run, or checkpoint of a run, whose parameters to start with.")
@click.option("--negatives", metavar="NEGATIVES", help="Hard negatives that mine wrote, for objectives.hard_negatives.")
def train(
    experiment: Path,
    data: tuple[str, ...],
    workdir: Path,
    overrides: tuple[str, ...],
    init_from: str | None,
    negatives: str | None,
) -> None:
    """Train EXPERIMENT (a Python file); run it again to go on after a stop."""
    from make_jax.overrides import load_experiment

    if init_from:
        overrides = (*overrides, f"training.init_from={init_from}")
    if negatives:
        overrides = (*overrides, f"training.negatives={negatives}")
    loaded = load_experiment(experiment, overrides)
    from make_jax.commands.train import train_run
    from make_jax.training.loop import NonFiniteLoss

    try:
        outcome = train_run(loaded, data, workdir)
    except NonFiniteLoss as error:
        _exit(str(error), 1)
    steps = loaded.training.steps
    if outcome.finished:
        click.echo(f"{workdir}: trained {steps} steps")
    else:
        click.echo(
            f"{workdir}: stopped and saved at step {outcome.step} of {steps}; the same command goes on from there"
        )


@main.command()
@sweep_options
def sweep(sweep: Path, **options: Any) -> None:
    """Make every run of SWEEP (a Python file), then one table; run it again to go on after a stop."""
    from make_jax.commands.sweep import SweepOptions, run_sweep

    report = run_sweep(SweepOptions(sweep, **options))
    click.echo("\n".join(report.lines))
    if report.failed:
        sys.exit(1)


@main.command()
@click.option("--run", type=PATH, required=True, help="Run directory.")
@_products_option(required=False)
@click.option("--queries", metavar="F", help="Query table.")
@click.option("--out", type=PATH, required=True, help="Parquet file to write.")
@click.option("--without", type=click.Choice(["images", "titles"]), help="Embed the products as if none had any.")
@_max_bad_share_option
def embed(
    run: Path, products: tuple[str, ...], queries: str | None, out: Path, without: Any, max_bad_share: float
) -> None:
    """Turn products or queries into vectors."""
    if bool(products) == bool(queries):
        raise click.UsageError("give either --products or --queries")
    if queries and without:
        raise click.UsageError("--without is for --products")
    from make_jax.commands.embed import embed_products, embed_queries

    count = (
        embed_queries(run, queries, out, max_bad_share)
        if queries
        else embed_products(run, products, out, max_bad_share, without)
    )
    click.echo(f"{out}: {count:,} vectors")


@main.command()
@click.option("--embeddings", type=PATH, required=True, help="Product vectors that embed wrote.")
@click.option("--out", type=PATH, required=True, help="Index directory to write.")
@click.option("--target-recall", type=float, default=0.95, help="Recall@10 wanted, against exact search.")
@click.option("--tune-queries", type=PATH, help="Query vectors that embed wrote, to tune on real queries.")
def index(embeddings: Path, out: Path, target_recall: float, tune_queries: Path | None) -> None:
    """Build a ScaNN index and measure its recall."""
    from make_jax.retrieval.embeddings import read_embeddings
    from make_jax.retrieval.index import build_index

    queries = read_embeddings(tune_queries, "queries") if tune_queries else None
    click.echo(str(build_index(embeddings, out, target_recall, queries)))


@main.command()
@mine_options
def mine(run: Path, data: tuple[str, ...], out: Path, index: Path | None, **rules: Any) -> None:
    """Find hard negatives: near products that nobody clicked under a query, for train --negatives."""
    from make_jax.commands.mine import mine as run_mine
    from make_jax.retrieval.mining import MiningRules

    click.echo(run_mine(run, data, out, MiningRules(**rules), index).text())


@main.command()
@_products_option()
@bm25_options
@_max_bad_share_option
def bm25(products: tuple[str, ...], out: Path, fields: tuple[str, ...], max_bad_share: float) -> None:
    """Build BM25 over the texts of products: a baseline, and half of hybrid search."""
    from make_jax.commands.bm25 import bm25_products

    click.echo(f"{out}: {bm25_products(products, out, fields or None, max_bad_share):,} products")


@main.command("hybrid")
@hybrid_options
def hybrid_command(**options: Any) -> None:
    """Learn the weight that joins vectors and BM25."""
    from make_jax.commands.hybrid import learn_weight

    learned = learn_weight(**options)
    click.echo(
        f"{options['out']}: weight {learned.weight:.2f} of the vectors, nDCG@10 {learned.ndcg:.4f} "
        f"over {len(learned.queries):,} queries (BM25 alone {learned.ndcg_bm25:.4f}, vectors alone "
        f"{learned.ndcg_vectors:.4f})"
    )


@main.command()
@evaluate_options
@_products_option(required=False, text="Product tables to know titles and pictures from, instead of the training data.")
def evaluate(run: Path | None, out: Path, **options: Any) -> None:
    """Judge a model, BM25 or both; writes metrics.json, per_query.parquet and report.html."""
    from make_jax.commands.evaluate import evaluate as run_evaluate

    result = run_evaluate(run, out=out, **options)
    for column, values in result["metrics"].items():
        click.echo(f"{column:12} " + "  ".join(f"{name} {value:.4f}" for name, value in values.items()))
    click.echo(f"Look at {out / 'report.html'}")


@main.command()
@compare_options
def compare(reports: tuple[str, ...], metric: tuple[str, ...], group: str, as_json: bool) -> None:
    """Compare evaluated systems with the first one, with 95 % intervals; join runs of other seeds with commas."""
    from make_jax.commands import compare as comparison

    found = comparison.compare(reports, metric or comparison.METRICS, group)
    click.echo(comparison.as_json(found) if as_json else comparison.as_text(found))


@main.command()
@search_options
def search(run: Path, index: Path, query: str, k: int, as_json: bool, **hybrid: Any) -> None:
    """Find products for QUERY."""
    from make_jax.commands.search import search as run_search

    hits = run_search(run, index, query, k, **hybrid)
    if as_json:
        click.echo(json.dumps({"query": query, "results": [hit._asdict() for hit in hits]}, ensure_ascii=False))
        return
    click.echo(f"{'rank':>4}  {'score':>6}  {'text':>4}  {'image':>5}  product")
    for hit in hits:
        click.echo(
            f"{hit.rank:4}  {hit.score:6.3f}  {hit.weight_text:4.0%}  {hit.weight_image:5.0%}  {hit.product_id}"
            + (f"  {hit.title}" if hit.title else "")
        )
