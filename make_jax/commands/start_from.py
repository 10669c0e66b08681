"""`make-jax train --init-from`: the parameters of another run, as far as they fit this model."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from make_jax.config import Experiment
from make_jax.errors import UserError
from make_jax.model import build_model
from make_jax.run import open_run
from make_jax.training.checkpoints import saved_params

log = logging.getLogger(__name__)

_SHOWN = 8  # names in a log line


class Initial(NamedTuple):
    """What a run starts with: parameters by path, and what run.json tells of them."""

    params: dict[str, np.ndarray]
    origin: dict[str, Any]


def initial_parameters(experiment: Experiment, tokenizer: Path) -> Initial | None:
    """The parameters that `training.init_from` names, those that the model has in the same shape; None if it is unset.

    Raises:
      UserError: there is no such run or checkpoint, its tokenizer is another one, or nothing fits.
    """
    source = experiment.training.init_from
    if source is None:
        return None
    run, step = _split(source)
    given, fingerprint = _read(run, step)
    check_tokenizer(run / "tokenizer", tokenizer, f"--init-from {source}")
    shapes = traverse_util.flatten_dict(jax.eval_shape(build_model(experiment).init, jax.random.key(0)), sep="/")
    loaded = {name: given[name] for name in shapes if name in given and given[name].shape == shapes[name].shape}
    fresh, left = sorted(shapes.keys() - loaded.keys()), sorted(given.keys() - loaded.keys())
    if not any(value.ndim > 1 for value in loaded.values()):  # a temperature alone is no start
        raise UserError(
            f"--init-from {source}: none of the matrices among its {len(given)} parameters has the path and shape of "
            f"one of the {len(shapes)} here; name a run of the same sizes"
        )
    log.info("%s: %d of %d parameters taken over", source, len(loaded), len(shapes))
    for what, names in (("fresh, not there in this shape", fresh), ("left over, not wanted here", left)):
        if names:
            log.info("%s: %s", what, _list(names))
    origin = {"run": str(run), "step": step, "fingerprint": fingerprint, "loaded": len(loaded)}
    return Initial(loaded, origin | {"fresh": fresh, "left_over": left})


def _split(source: str) -> tuple[Path, int | None]:
    match = re.fullmatch(r"(?P<run>.+)@(?P<step>\d+)", source)
    return (Path(source), None) if match is None or Path(source).exists() else (Path(match["run"]), int(match["step"]))


def _read(run: Path, step: int | None) -> tuple[dict[str, np.ndarray], str | None]:
    """Parameters by path, and the model's fingerprint if it is a finished run's."""
    if step is None:
        opened = open_run(run)
        return traverse_util.flatten_dict(opened.params, sep="/"), opened.fingerprint
    if not (run / "experiment.json").exists():
        raise UserError(f"{run}: there is no run here (experiment.json is missing); make one with make-jax train")
    return traverse_util.flatten_dict(saved_params(run / "checkpoints", step), sep="/"), None


def check_tokenizer(theirs: Path, ours: Path, source: str) -> None:
    """Refuse a run, called `source`, whose tokens mean other words than those of the data; raises UserError."""
    try:
        same = _content(theirs) == _content(ours)
    except (OSError, ValueError) as error:
        raise UserError(f"{source}: its tokenizer cannot be read ({error}); restore the folder") from error
    if not same:
        raise UserError(
            f"{source}: its tokenizer is not that of the data, so its token embeddings mean other words; "
            f"prepare the data again with --tokenizer {theirs}"
        )


def _content(folder: Path) -> Any:
    return json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
