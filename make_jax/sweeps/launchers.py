"""The same runs elsewhere: one command each, printed for a queue of one's own, for TPU VMs, or submitted to Slurm."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from make_jax.errors import UserError
from make_jax.sweeps.execute import MAKE_JAX, train_command
from make_jax.sweeps.folders import RunFolder
from make_jax.sweeps.plan import PlannedRun

_WHOLE, _CLUSTERS = re.compile(r"-?\d+"), ("slurm", "local", "debug")


def one_run_command(sweep_command: Sequence[str], run: PlannedRun) -> list[str]:
    """What follows "make-jax" to make one run of a sweep, with its budget and its evaluation."""
    return [*sweep_command, "--only", run.name, "--no-table"]


def tpu_lines(
    runs: Sequence[tuple[PlannedRun, RunFolder]],
    data: Sequence[str],
    machines: Sequence[str],
    zone: str | None = None,
    before: str = "",
) -> list[str]:
    """Shell lines that train on TPU VMs, the runs dealt out to them; those of one machine are to run in turn.

    All hosts of a slice run the same make-jax train, so the experiment's file and the data must be on a disk or mounted
    bucket that all of them see.

    Raises:
      UserError: no machines.
    """
    if not machines:
        raise UserError("--launcher tpu-vm needs the names of the machines; give --tpu NAME for each")
    lines = []
    for number, machine in enumerate(machines):
        own = runs[number :: len(machines)]
        if own:
            lines.append(f"# {machine}: {len(own)} runs, in turn")
        for _, folder in own:
            train = shlex.join(["make-jax", *train_command(folder, data)])
            remote = f"{before} && {train}" if before else train
            where = [f"--zone={zone}"] if zone else []
            call = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", machine, *where, "--worker=all"]
            lines.append(shlex.join([*call, f"--command={remote}"]))
    return lines


def slurm_settings(options: Sequence[str]) -> dict[str, Any]:
    """`--slurm key=value` options as submitit takes them: numbers as numbers.

    Raises:
      UserError: no "=", or a cluster that submitit has not.
    """
    settings: dict[str, Any] = {"cluster": "slurm"}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals:
            raise UserError(f"--slurm {option}: write it as key=value, such as slurm_partition=gpu or timeout_min=60")
        settings[key.strip()] = int(text) if _WHOLE.fullmatch(text.strip()) else text.strip()
    if settings["cluster"] not in _CLUSTERS:
        raise UserError(f"--slurm cluster={settings['cluster']}: expected one of {', '.join(_CLUSTERS)}")
    return settings


def submit(
    commands: Mapping[str, Sequence[str]],
    folder: Path,
    settings: Mapping[str, Any],
    program: Sequence[str] = MAKE_JAX,
) -> dict[str, Any]:
    """Submit a job for each run through submitit; returns its jobs by the run's name.

    Args:
      commands: what follows "make-jax", by the name of the run.
      folder: where submitit keeps its files and the jobs' output.
      settings: `cluster`, and what `submitit.AutoExecutor.update_parameters` takes.
      program: what stands before.

    Raises:
      UserError: submitit is missing, the cluster cannot be reached, or a setting is unknown.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError(f"--launcher slurm needs submitit, and {error}; pip install 'make_jax[slurm]'") from error
    try:
        parameters = {key: value for key, value in settings.items() if key != "cluster"}
        executor = submitit.AutoExecutor(folder=folder, cluster=settings["cluster"])
        executor.update_parameters(**{"name": "make-jax"} | parameters)
        jobs = {}
        with executor.batch():  # one array of jobs
            for name, command in commands.items():
                function = submitit.helpers.CommandFunction([*program, *command], verbose=True)
                jobs[name] = executor.submit(function)
    except (RuntimeError, NameError, ValueError, TypeError) as error:
        raise UserError(f"--launcher slurm: {' '.join(str(error).split())}; check the --slurm options") from error
    return jobs
