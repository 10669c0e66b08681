"""Checkpoints of the training state: the one place that touches orbax."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from make_jax.errors import UserError

logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax narrates every save, and prints what it raises


class Checkpoints:
    """Saves a training state by step, asynchronously and atomically, and restores it onto any mesh.

    A save that fails, as on a full disk, raises OSError at that call or at the next one; the checkpoints before it
    stay.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, cleanup_tmp_directories=True)
        with _as_os_error(folder):
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def latest(self) -> int | None:
        """The last step that was saved whole, or None; a save that was cut off does not count."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Begin to save; the state may be donated to the next step at once. Saving a saved step does nothing."""
        if step != self.latest():
            with _as_os_error(self._folder):
                self._manager.wait_until_finished()
                self._check_room(state)
                self._manager.save(step, args=ocp.args.StandardSave(state), force=True)

    def _check_room(self, state: Any) -> None:
        """A disk that is known to be too small is refused beforehand: half-way, orbax' threads print tracebacks."""
        if shutil.disk_usage(self._folder).free < sum(leaf.nbytes for leaf in jax.tree.leaves(state)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))

    def restore(self, step: int, shapes: Any, shardings: Any) -> Any:
        """The state saved at `step`, laid out by `shardings` whatever mesh wrote it.

        Raises:
          UserError: the checkpoint is damaged or holds another model's arrays.
        """
        target = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
        )
        with _as_restored(self._folder / str(step)):
            return self._manager.restore(step, args=ocp.args.StandardRestore(target))

    def close(self) -> None:
        """Wait until every save is on disk."""
        with _as_os_error(self._folder):
            try:
                self._manager.wait_until_finished()
            finally:
                self._manager.close()


def saved_params(folder: Path, step: int) -> dict[str, Any]:
    """The parameters of the checkpoint that another run saved at `step`, as a nested dict of arrays on the host.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    steps = sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())
    if step not in steps:
        found = f"those of {', '.join(map(str, steps))}" if steps else "none"
        raise UserError(f"{folder}: there is no checkpoint of step {step}, but {found}; name one of these")
    with _as_restored(folder / str(step)), ocp.StandardCheckpointer() as checkpointer:
        saved = folder.absolute() / str(step) / "default"
        stored = checkpointer.metadata(saved).item_metadata.tree
        # Whatever mesh wrote them, they are needed on the host.
        target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), stored)
        params: dict[str, Any] = checkpointer.restore(saved, target)["params"]
        return params


@contextmanager
def _as_restored(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path}: this checkpoint cannot be restored ({reason}); delete the folder to go on from the one before it"
        ) from error


@contextmanager
def _as_os_error(folder: Path) -> Iterator[None]:
    """Orbax' storage library tells what the system refused in the text of a ValueError only."""
    try:
        yield
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(folder)) from error
