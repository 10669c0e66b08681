"""Several processes, one per host, that train as one: how they find each other, and what only the first one does."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # its key-value store has no public name
from jax.experimental import multihost_utils

from make_jax.errors import UserError

log = logging.getLogger(__name__)

_PATIENCE = 300  # seconds for all processes to come


class ProcessesApart(Exception):
    """The processes of a run did not find each other in time; they may if all are started again."""


def join_processes(coordinator: str | None = None, processes: int | None = None, process_id: int | None = None) -> None:
    """Join the other processes of a run, before anything else is asked of jax.

    All three are given, or found: under Slurm and on TPU hosts. `processes` 1 trains alone whatever is found.

    Raises:
      UserError: some are missing or do not fit together, or cannot be found.
      ProcessesApart: the others do not come.
    """
    if processes == 1 and coordinator is None and process_id is None:
        return
    if coordinator is None and processes is None and process_id is None:
        if not is_one_of_many(os.environ):
            return
        settings: dict[str, Any] = {}
    else:
        settings = _explicit(coordinator, processes, process_id)
    try:
        jax.distributed.initialize(**settings, initialization_timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        place = f"--coordinator {coordinator}" if coordinator else "the cluster's settings"
        reason = str(error).strip().splitlines()[0][:200]
        kind = UserError if isinstance(error, ValueError) else ProcessesApart
        raise kind(
            f"{place}: the processes of this run did not find each other within {_PATIENCE} seconds ({reason}); start "
            "all of them, each with its own --process-id, on hosts that reach the coordinator, or train alone with "
            "--processes 1"
        ) from error
    if not is_first():
        # What is to be said, the first one says.
        logging.getLogger("make_jax").setLevel(logging.ERROR)
        logging.getLogger("data_pipelines").setLevel(logging.ERROR)
    log.info(
        "%d processes with %d devices train as one; this is process %d",
        jax.process_count(),
        jax.device_count(),
        jax.process_index(),
    )


def _explicit(coordinator: str | None, processes: int | None, process_id: int | None) -> dict[str, Any]:
    given = {"--coordinator": coordinator, "--processes": processes, "--process-id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if coordinator is None or processes is None or process_id is None:
        there = " and ".join(name for name in given if name not in missing)
        raise UserError(f"{there} without {' and '.join(missing)}; give all three, or none to find them")
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 2**16):
        raise UserError(f"--coordinator {coordinator}: expected HOST:PORT of process 0, such as 10.0.0.2:12345")
    if not 0 <= process_id < processes:
        raise UserError(
            f"--process-id {process_id} is not one of --processes {processes}; they are counted from 0 to "
            f"{processes - 1}"
        )
    return {"coordinator_address": coordinator, "num_processes": processes, "process_id": process_id}


def is_one_of_many(environment: Mapping[str, str], devices: Path = Path("/dev")) -> bool:
    """Whether this process was started as one of several: a task of a Slurm step, or one of the hosts of a TPU."""
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks.isdigit() and int(tasks) > 1:
        return True
    if importlib.util.find_spec("libtpu") is None or "tpu" not in environment.get("JAX_PLATFORMS", "tpu"):
        return False
    # A TPU VM alone finds itself as one of one.
    return any(devices.glob("accel[0-9]*")) or any(devices.glob("vfio/[0-9]*"))


def is_first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def on_first(action: Callable[[], Any]) -> Any:
    """What `action` returns on the first process, on every process, once it is done there.

    Its result is made of what JSON knows. What it raises there is raised there; elsewhere a UserError says so.
    """
    if jax.process_count() == 1:
        return action()
    told: dict[str, Any] = {}
    failure: Exception | None = None
    if is_first():
        try:
            told = {"result": action()}
        except Exception as error:  # the others wait for an answer
            failure, told = error, {"error": f"{type(error).__name__}: {error}"}
    told = _broadcast(told)
    if failure is not None:
        raise failure
    if "error" in told:
        raise UserError(f"process 0 failed, and so the others stop ({told['error']})")
    return told["result"]


def _broadcast(message: dict[str, Any]) -> dict[str, Any]:
    """The first process' message, on all."""
    text = np.frombuffer(json.dumps(message).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(size, np.uint8)
    if is_first():
        padded[:] = text
    heard: dict[str, Any] = json.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes())
    return heard


def whole_on_host(tree: Any) -> Any:
    """Global arrays as numpy arrays, whole on every process; all processes must ask."""
    return jax.tree.map(lambda leaf: np.asarray(multihost_utils.process_allgather(leaf, tiled=True)), tree)


def asked_to_stop(step: int) -> bool:
    """Whether some process was asked to stop by SIGTERM, and this is the step at which all of them do."""
    return multihost_utils.reached_preemption_sync_point(step)


class Hosts:
    """What processes tell each other beside what they compute, through the coordinator; nothing where there is one."""

    _FOLDER = "make_jax/waits"

    @property
    def count(self) -> int:
        """How many there are."""
        return jax.process_count()

    @property
    def index(self) -> int:
        """Which of them this is."""
        return jax.process_index()

    def tell(self, message: Mapping[str, Any]) -> None:
        """Leave a message, of what JSON knows, in place of this process' last one."""
        client = distributed.global_state.client
        if client is None:
            return
        try:
            client.key_value_set(
                f"{self._FOLDER}/{self.index}", json.dumps({"at": time.time(), **message}), allow_overwrite=True
            )
        except jax.errors.JaxRuntimeError as error:  # the run is told by others that the coordinator is gone
            log.debug("%s", error)

    def heard(self, seconds: float) -> dict[int, dict[str, Any]]:
        """The messages of the last so many seconds, by process."""
        client = distributed.global_state.client
        if client is None:
            return {}
        try:
            entries = client.key_value_dir_get(self._FOLDER)
        except jax.errors.JaxRuntimeError as error:
            log.debug("%s", error)
            return {}
        messages = {int(key.rpartition("/")[2]): json.loads(text) for key, text in entries}
        return {number: message for number, message in messages.items() if message["at"] > time.time() - seconds}


HOSTS = Hosts()
