"""Commands that embed, search, and judge what is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from make_jax.cli.errors import Command
from make_jax.cli.options import PATH, max_bad_share_option, products_option
from make_jax.retrieval.options import bm25_options, compare_options, evaluate_options, hybrid_options, search_options


@click.command(cls=Command)
@click.option("--run", type=PATH, required=True, help="Run directory.")
@products_option(required=False)
@click.option("--queries", metavar="F", help="Query table.")
@click.option("--out", type=PATH, required=True, help="Parquet file to write.")
@click.option("--without", type=click.Choice(["images", "titles"]), help="Embed the products as if none had any.")
@max_bad_share_option
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


@click.command(cls=Command)
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


@click.command(cls=Command)
@products_option()
@bm25_options
@max_bad_share_option
def bm25(products: tuple[str, ...], out: Path, fields: tuple[str, ...], max_bad_share: float) -> None:
    """Build BM25 over the texts of products: a baseline, and half of hybrid search."""
    from make_jax.commands.bm25 import bm25_products

    click.echo(f"{out}: {bm25_products(products, out, fields or None, max_bad_share):,} products")


@click.command("hybrid", cls=Command)
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


@click.command(cls=Command)
@evaluate_options
@products_option(required=False, text="Product tables to know titles and pictures from, instead of the training data.")
def evaluate(run: Path | None, out: Path, **options: Any) -> None:
    """Judge a model, BM25 or both; writes metrics.json, per_query.parquet and report.html."""
    from make_jax.commands.evaluate import evaluate as run_evaluate

    result = run_evaluate(run, out=out, **options)
    for column, values in result["metrics"].items():
        click.echo(f"{column:12} " + "  ".join(f"{name} {value:.4f}" for name, value in values.items()))
    click.echo(f"Look at {out / 'report.html'}")


@click.command(cls=Command)
@compare_options
def compare(reports: tuple[str, ...], metric: tuple[str, ...], group: str, as_json: bool) -> None:
    """Compare evaluated systems with the first one, with 95 % intervals; join runs of other seeds with commas."""
    from make_jax.commands import compare as comparison

    found = comparison.compare(reports, metric or comparison.METRICS, group)
    click.echo(comparison.as_json(found) if as_json else comparison.as_text(found))


@click.command(cls=Command)
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
