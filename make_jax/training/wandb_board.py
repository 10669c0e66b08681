"""Weights & Biases, the one place that touches wandb; the extra `wandb` installs it."""

from __future__ import annotations

import importlib.util
import json
import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from make_jax.errors import UserError
from make_jax.small_files import read_object, write_text

log = logging.getLogger(__name__)

_REMEDY = "delete it to go on as another run at Weights & Biases"


class WandbBoard:
    """A run of a project at Weights & Biases, where the numbers of a run directory go.

    Its id is kept in `RUN/wandb.json`, so that a run that goes on is one there, too. Steps that a killed run repeats
    are there twice, since nothing can be taken back.
    """

    def __init__(self, workdir: Path, project: str, settings: Mapping[str, Any]) -> None:
        """Begins or goes on; `settings` is the experiment. Raises UserError where W&B refuses."""
        import wandb

        place = workdir / "wandb.json"
        if not place.exists():
            write_text(place, json.dumps({"id": secrets.token_hex(8)}) + "\n")
        try:
            self._run = wandb.init(
                project=project,
                name=workdir.name,
                id=str(read_object(place, _REMEDY, ("id",))["id"]),
                resume="allow",
                dir=str(workdir),
                config=dict(settings),
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.errors.Error as error:
            raise UserError(
                f"training.wandb is {project!r}, but Weights & Biases refuses ({str(error).strip().splitlines()[0]}); "
                "run wandb login, or set WANDB_MODE=offline, or training.wandb="
            ) from error
        self._run.define_metric("*", step_metric="step")
        log.info("Weights & Biases: %s", self._run.url or f"offline, in {workdir / 'wandb'}")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add one record."""
        self._run.log({"step": step, **values})

    def close(self, failed: bool) -> None:
        """Hand over what is not there yet, and say whether the run ended in an error."""
        self._run.finish(exit_code=int(failed))


def check_wandb(project: str) -> None:
    """Raises UserError where numbers shall go to Weights & Biases and wandb is not installed."""
    if project and importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"training.wandb is {project!r}, but wandb is not installed; pip install 'make_jax[wandb]', or set "
            "training.wandb="
        )
