"""`make-jax data cache`: prepared data, decoded once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_pipelines.cache_writer import write_cache
from data_pipelines.dataset import open_prepared
from data_pipelines.remote import is_remote
from make_jax.commands.feeding import batch_shape, check_pictures, feed_options
from make_jax.config import Experiment
from make_jax.errors import UserError
from make_jax.overrides import apply_overrides, load_experiment


def cache_data(data: str, out: Path | None, experiment: Path | None, overrides: Sequence[str]) -> str:
    """Write the cache for an experiment's sizes; returns what to tell the user.

    Raises:
      DataError: not prepared data, too many damaged products, or no room.
      UserError: no such experiment, settings that cannot be or do not fit the data, or nowhere to put the cache.
    """
    chosen = (
        load_experiment(experiment, overrides) if experiment else apply_overrides(Experiment(name="cache"), overrides)
    )
    if out is None and is_remote(data):
        raise UserError(f"{data} is not on this machine; say with --out where the cache goes")
    prepared = open_prepared(data)
    check_pictures(chosen, prepared)
    folder = prepared.folder.resolve()  # "." has no name
    place = out or folder.with_name(f"{folder.name}-cache")
    shape = batch_shape(chosen)
    written = write_cache(prepared, place, shape, feed_options(chosen))
    seen = f"{shape.num_regions} regions" if shape.num_regions else f"{shape.num_images} x {shape.image_size} pixels"
    damaged = f", {written.set_aside} of them damaged and left out" if written.set_aside else ""
    return (
        f"{place}: {written.products:,} products{damaged}, {seen} each, {written.size_bytes / 1e6:,.0f} MB\n"
        f"Train with: make-jax train EXPERIMENT.py --data {place} --workdir RUN"
    )
