"""How the memory of the contrastive loss and its gradient grows with the batch, all at once and in chunks.

XLA's own analysis of the compiled program; nothing is run, so that batches may be of any size.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import click
import jax
import jax.numpy as jnp
from harness import Row, report
from matplotlib.figure import Figure

from make_jax.objectives.chunks import Chunks
from make_jax.objectives.contrastive import Side
from make_jax.objectives.keywords import Keys, judge_pairs
from make_jax.objectives.paired import Form, Known, contrast

_CLICKED_UNDER = 8  # queries that a product is known by


@click.command(context_settings={"show_default": True})
@click.option("--batches", default="2048,4096,8192,16384,32768", help="Sizes, the first of them the smallest.")
@click.option("--chunk-size", default=512)
@click.option("--embedding", default=256)
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw a figure, PNG or SVG.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the table here.")
def main(batches: str, chunk_size: int, embedding: int, plot: Path | None, json_file: Path | None) -> None:
    """Peak memory of AM-softmax with Keyword Enhancement, in both directions, on one device."""
    sizes = [int(size) for size in batches.split(",")]
    plain, ours = ([megabytes(size, embedding, chunk) for size in sizes] for chunk in (0, chunk_size))
    chunks = f"chunks of {chunk_size}"
    rows = [
        Row(
            f"batch {size:,}, {chunks}",
            our,
            "MB",
            f"all at once, {whole:,.0f} MB",
            our / whole,
            1.0,
            more_is_better=False,
        )
        for size, our, whole in zip(sizes, ours, plain, strict=True)
    ]
    grown, batch_grown = ours[-1] / ours[0], sizes[-1] / sizes[0]
    rows.append(Row(f"growth, {chunks}", grown, "×", "the batch's", grown / batch_grown, 1.1, more_is_better=False))
    report(rows, json_file)
    if plot is not None:
        _draw(plot, sizes, {"all at once": plain, chunks: ours})


def megabytes(batch: int, embedding: int, chunk_size: int) -> float:
    """What loss and gradients need beside inputs and outputs."""

    def loss(queries: jax.Array, products: jax.Array, keys: Keys) -> jax.Array:
        rows, columns = (Known(Side(v, jnp.ones(batch, bool), jnp.zeros(batch)), keys) for v in (queries, products))
        judge = functools.partial(judge_pairs, mask="query", many_positives=False)
        form = Form("softmax", 0.1, jnp.float32(20), jnp.float32(0))
        return contrast(rows, columns, judge, form, chunks=Chunks(chunk_size))

    def inputs() -> tuple[jax.Array, jax.Array, Keys]:
        vectors, key = jnp.zeros((batch, embedding)), jnp.zeros(batch, jnp.int32)
        return vectors, vectors, Keys(key, key, key, jnp.zeros((batch, _CLICKED_UNDER), jnp.int32))

    lowered = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*jax.eval_shape(inputs))
    used: Any = lowered.compile().memory_analysis()
    return float(used.temp_size_in_bytes) / 1e6


def _draw(file: Path, sizes: list[int], lines: dict[str, list[float]]) -> None:
    figure = Figure((6, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in lines.items():
        axes.plot(sizes, values, marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel="batch", ylabel="MB, loss and gradient")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
