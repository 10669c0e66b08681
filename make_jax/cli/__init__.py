"""The console script. Every command imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import logging
import os
import sys

import click

from make_jax import __version__
from make_jax.cli import preparing, searching, training
from make_jax.cli.errors import Commands


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="make-jax")
def main() -> None:
    """Text-to-multimodal product retrieval: train, evaluate and search your own catalogue."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for name in ("make_jax", "data_pipelines"):
        logging.getLogger(name).setLevel(logging.INFO)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported: it greets on stderr


for _command in (
    *(preparing.synthesize, preparing.convert, preparing.prepare, preparing.data),
    *(training.demo, training.train, training.checkpoints, training.plan, training.sweep, training.mine),
    *(searching.embed, searching.index, searching.bm25, searching.hybrid_command),
    *(searching.evaluate, searching.compare, searching.search),
):
    main.add_command(_command)
