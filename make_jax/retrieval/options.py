"""The options of the commands that search and judge; needs nothing but click, so that `--help` answers at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

PATH = click.Path(path_type=Path)
_queries = click.option("--queries", required=True, metavar="F", help="Query table; further columns become segments.")
_qrels = click.option("--qrels", required=True, metavar="F", help="Judgements.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_hybrid = click.option(
    "--hybrid", type=click.Choice(["rrf", "learned"]), help="Join vectors and BM25 by ranks or by a learned weight."
)
_hybrid_weight = click.option("--hybrid-weight", type=PATH, help="The learned weight, which hybrid wrote.")


def _all(*options: Decorator) -> Decorator:
    """The options in one decorator, shown by --help in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


bm25_options = _all(
    click.option("--out", type=PATH, required=True, help="BM25 directory to write."),
    click.option(
        "--fields", multiple=True, metavar="COLUMN", show_default="title, category", help="Column to search; repeat it."
    ),
)

hybrid_options = _all(
    click.option("--run", type=PATH, required=True, help="Run directory."),
    click.option("--index", type=PATH, help="Index directory, to search through it."),
    click.option("--embeddings", type=PATH, help="Product vectors, to search exactly."),
    click.option("--bm25", type=PATH, required=True, help="BM25 directory."),
    click.option("--queries", required=True, metavar="F", help="Query table; other queries than those to judge by."),
    _qrels,
    click.option("--out", type=PATH, required=True, help="JSON file to write."),
)

evaluate_options = _all(
    click.option("--run", type=PATH, help="Run directory; leave it out to judge BM25 alone."),
    click.option("--index", type=PATH, help="Index directory: judges exact and index search side by side."),
    click.option("--embeddings", type=PATH, help="Product vectors, to judge exact search only."),
    click.option("--bm25", type=PATH, help="BM25 directory, to judge beside the model or alone."),
    _hybrid,
    _hybrid_weight,
    _queries,
    _qrels,
    click.option(
        "--interactions", metavar="F", help="Click log that tells cold products; the training data's if none."
    ),
    click.option(
        "--words", multiple=True, metavar="NAME=FILE", help="Words to look for in titles: colour=colours.txt."
    ),
    click.option("--out", type=PATH, required=True, help="Folder of the report."),
)

compare_options = _all(
    click.argument("reports", nargs=-1, required=True, metavar="REPORT[:COLUMN]..."),
    click.option("--metric", multiple=True, help="Metric to compare; repeat it.", show_default="four of them"),
    click.option("--group", default="all", help="Group of products, as 'never clicked'."),
    _json,
)

mine_options = _all(
    click.option("--run", type=PATH, required=True, help="Run directory of the model that looks for them."),
    click.option(
        "--data", multiple=True, required=True, metavar="DATA[=WEIGHT]", help="As train takes it; what to train on."
    ),
    click.option("--out", type=PATH, required=True, help="Folder of negatives to write."),
    click.option("--index", type=PATH, help="Index directory of the products; if none, one is built and not kept."),
    click.option("--depth", type=click.IntRange(min=1), default=100, help="How many of the nearest to draw from."),
    click.option("--per-query", type=click.IntRange(min=1), default=8, help="How many to draw for each query."),
    click.option("--skip-top", type=click.IntRange(min=0), default=0, help="How many of the nearest to leave out."),
    click.option(
        "--title-mask/--no-title-mask", default=True, help="Refuse products whose title has all words of the query."
    ),
    click.option(
        "--below-positive",
        type=click.FloatRange(0, 1, min_open=True),
        metavar="SHARE",
        help="Leave out what scores above this share of the query's mean positive; 0.95, say.",
    ),
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Of the draw."),
)

search_options = _all(
    click.option("--run", type=PATH, required=True, help="Run directory."),
    click.option("--index", type=PATH, required=True, help="Index directory."),
    click.option("--bm25", type=PATH, help="BM25 directory, for --hybrid."),
    _hybrid,
    _hybrid_weight,
    click.argument("query"),
    click.option("-k", type=int, default=10, help="How many products."),
    _json,
)
