"""Checkpoints of the training state: the one place that touches orbax."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from make_jax.errors import UserError
from make_jax.formats import check_format, differing_arrays
from make_jax.training.checkpoint_files import (
    ARRAYS,
    DELETED,
    clear_deleted,
    damaged_file,
    read_record,
    saved_steps,
    seal,
)
from make_jax.training.hosts import is_first
from make_jax.training.mesh import path_name
from make_jax.training.step import TrainState

logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax narrates every save, and prints what it raises

_AT_A_TIME = 256 << 20  # bytes of arrays that are read before they are checked

Keep = Callable[[Sequence[int]], Container[int]]


class Checkpoints:
    """Saves a training state by step, asynchronously and atomically, and restores it onto any mesh.

    `keep` says which of the steps that there are shall stay; it is asked at every save, the new one among them. A save
    that fails, as on a full disk, raises OSError at that call or at the next one; the checkpoints before it stay.
    """

    def __init__(self, folder: Path, keep: Keep) -> None:
        self._folder, self._keep = folder, keep
        self._step: int | None = None  # that is being saved
        options = ocp.CheckpointManagerOptions(
            create=True,
            cleanup_tmp_directories=True,
            preservation_policy=_Policy(keep),
            todelete_subdir=DELETED,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        with _as_os_error(folder):
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
        self._clear()

    def latest(self) -> int | None:
        """The last step that was saved whole, or None; a save that was cut off does not count."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Begin to save; the state may be donated to the next step at once. Saving a saved step does nothing."""
        if step != self.latest():
            with _as_os_error(self._folder):
                self._manager.wait_until_finished()
                self._clear()
                self._check_room(state)
                self._step = step
                self._manager.save(step, args=ocp.args.StandardSave(_stored(state)), force=True)

    def _seal(self) -> None:
        """Called by orbax on the process that writes, when all is written and the rename alone is left to do."""
        (path,) = (path for path in self._folder.iterdir() if path.name.split(".")[0] == str(self._step))
        seal(path)

    def _clear(self) -> None:
        if is_first():
            clear_deleted(self._folder)

    def _check_room(self, state: TrainState) -> None:
        """A disk that is known to be too small is refused beforehand: half-way, orbax' threads print tracebacks."""
        if shutil.disk_usage(self._folder).free < sum(leaf.nbytes for leaf in jax.tree.leaves(state)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))

    def restore(self, step: int, shapes: TrainState, shardings: TrainState) -> TrainState:
        """The state saved at `step`, laid out by `shardings` whatever mesh wrote it.

        Raises:
          UserError: the checkpoint is damaged, of another version's format, or holds another model's arrays.
        """
        path = self._folder / str(step)
        target = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
        )
        with _as_restored(path):
            _check_arrays(path, target)
            restored = self._manager.restore(step, args=ocp.args.StandardRestore(_stored(target)))
        return TrainState(**restored)

    def prune(self) -> None:
        """Remove what need not be kept, now that more is known than at the last save."""
        with _as_os_error(self._folder):
            self._manager.wait_until_finished()
            steps = self._manager.all_steps()
            kept = self._keep(steps)
            for step in steps:
                if step not in kept:
                    self._manager.delete(step)

    def close(self) -> None:
        """Wait until every save is on disk."""
        with _as_os_error(self._folder):
            try:
                self._manager.wait_until_finished()
                self._clear()
            finally:
                self._manager.close()


class _Policy:
    """What is to be kept, as orbax asks for it."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        steps = [info.step for info in checkpoints]
        kept = self._keep(steps)
        return [step in kept for step in steps]


def _stored(state: TrainState) -> dict[str, Any]:
    """A state as it is stored: without the average where there is none, as it was before there were averages."""
    return {name: part for name, part in state._asdict().items() if name != "average" or part}


def _check_arrays(path: Path, target: TrainState) -> None:
    """Refuse a checkpoint of another format, or whose arrays are not those of `target`."""
    record = read_record(path)
    check_format(path, record)
    there = dict(_named_leaves(_metadata(path)))
    if different := differing_arrays(there, dict(_named_leaves(_stored(target)))):
        by = f", written by make_jax {record['make_jax']}," if "make_jax" in record else ""
        raise UserError(
            f"{path}: this checkpoint{by} is not of this model ({different}); use the version and settings that it was "
            "written with, or choose another --workdir"
        )


def _named_leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    return ((path_name(place), leaf) for place, leaf in jax.tree_util.tree_leaves_with_path(tree))


def saved_params(folder: Path, step: int) -> dict[str, Any]:
    """The parameters of the checkpoint that another run saved at `step`, as a nested dict of arrays on the host.

    Their average where the run kept one.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    steps = saved_steps(folder)
    if step not in steps:
        found = f"those of {', '.join(map(str, steps))}" if steps else "none"
        raise UserError(f"{folder}: there is no checkpoint of step {step}, but {found}; name one of these")
    path = folder / str(step)
    with _as_restored(path):
        check_format(path, read_record(path))
        tree = _metadata(path)
        part = "average" if "average" in tree else "params"
        params: dict[str, Any] = _read(path, lambda name: name.startswith(f"{part}/"))[part]
        return params


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, all of which is read; None for a sound one."""
    if (wrong := damaged_file(path)) is not None:
        return wrong
    try:
        for names in _portions(path):
            read = _read(path, names.__contains__)
            for name, leaf in _named_leaves(read):
                if isinstance(leaf, np.ndarray) and not _finite(leaf):
                    return f"{name} is not finite"
    except (ValueError, KeyError, TypeError, OSError) as error:
        return _reason(error)
    return None


def _finite(array: np.ndarray) -> bool:
    return not jnp.issubdtype(array.dtype, jnp.inexact) or bool(np.isfinite(array).all())


def _portions(path: Path) -> Iterator[set[str]]:
    """The names of all arrays, so many at a time as fit into memory easily."""
    names: set[str] = set()
    size = 0
    for name, leaf in _named_leaves(_metadata(path)):
        names.add(name)
        size += int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        if size >= _AT_A_TIME:
            yield names
            names, size = set(), 0
    if names:
        yield names


def _metadata(path: Path) -> Any:
    """Shape and dtype of each array that a checkpoint has, as a tree."""
    with ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.metadata(path.absolute() / ARRAYS).item_metadata
    if stored is None:
        raise ValueError("what it holds is not told")
    return stored.tree


def _read(path: Path, wanted: Callable[[str], bool]) -> Any:
    """The arrays whose names are wanted, on the host whatever mesh wrote them; `...` in the places of the others."""
    target = jax.tree_util.tree_map_with_path(
        lambda place, leaf: np.empty(leaf.shape, leaf.dtype) if wanted(path_name(place)) else ocp.PLACEHOLDER,
        _metadata(path),
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
        return checkpointer.restore(
            path.absolute() / ARRAYS, args=ocp.args.PyTreeRestore(item=target, restore_args=as_numpy)
        )


@contextmanager
def _as_restored(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, OSError) as error:
        raise UserError(
            f"{path}: this checkpoint cannot be restored ({_reason(error)}); delete the folder to go on from the one "
            "before it"
        ) from error


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


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
