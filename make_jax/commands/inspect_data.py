"""`make-jax data inspect`: a page that shows prepared data and what the model sees of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines.dataset import PreparedData, open_prepared
from data_pipelines.inspection import inspect
from make_jax.commands.feeding import (
    augmentation,
    batch_shape,
    beside,
    check_pictures,
    feed_options,
    sampling,
    text_outputs,
)
from make_jax.config import Experiment
from make_jax.errors import UserError
from make_jax.inspection.page import render
from make_jax.overrides import apply_overrides, load_experiment
from make_jax.pages import write_page


class Inspected(NamedTuple):
    """The page that was written, and some lines for people."""

    page: Path
    text: str


def inspect_data(
    data_path: str,
    experiment_path: Path | None = None,
    out: Path | None = None,
    examples: int = 24,
    seed: int | None = None,
    step: int = 0,
    overrides: Sequence[str] = (),
) -> Inspected:
    """Write the inspection page of prepared data.

    Args:
      data_path: what `make-jax prepare` wrote.
      experiment_path: whose sizes, draws and augmentation to use; None for the settings of an experiment that changes
        none.
      out: the page, with .html added where the name has no ending; by default DATA-inspect.html beside the data.
      examples: how many to show, at most those of a batch.
      seed: of the draws and the augmentation; the experiment's where None.
      step: the training step that the examples are taken from.
      overrides: of the experiment, "key=value".

    Raises:
      UserError, DataError: the data cannot be used, or it and the experiment do not fit together.
    """
    page = _html_file(out or beside(data_path, "-inspect.html"))
    data = open_prepared(data_path, checksums=False)
    experiment = (
        load_experiment(experiment_path, overrides)
        if experiment_path
        else apply_overrides(_default_experiment(data), overrides)
    )
    check_pictures(experiment, data)
    drawn = sampling(experiment)
    found = inspect(
        data,
        drawn if seed is None else dataclasses.replace(drawn, seed=seed),
        batch_shape(experiment),
        augmentation(experiment),
        feed_options(experiment),
        queries=text_outputs(experiment, data)[1],
        count=examples,
        step=step,
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    write_page(page, render(found, experiment.name))
    return Inspected(page, found.text())


def _html_file(wanted: Path) -> Path:
    """The file to write: browsers show one without an ending as its source."""
    _refuse_folder(wanted)
    if wanted.suffix:
        return wanted
    named = wanted.with_name(f"{wanted.name}.html")
    _refuse_folder(named)
    return named


def _refuse_folder(page: Path) -> None:
    if page.is_dir():
        raise UserError(f"{page} is a folder; name the file to write with --out")


def _default_experiment(data: PreparedData) -> Experiment:
    """The default settings, but for what the kind of data decides."""
    experiment = Experiment("an experiment with default settings")
    if not data.region_width:
        return experiment
    image = dataclasses.replace(experiment.model.image, stem="regions")
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, image=image))
