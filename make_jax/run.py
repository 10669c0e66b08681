"""A run directory: all that is needed to use a model, and where it came from.

```
RUN/experiment.json     the configuration, complete
    run.json            format, command, versions, commit, hardware, data and when
    tokenizer/          as transformers.AutoTokenizer loads it
    checkpoints/        of the training state, to go on from
    metrics.jsonl       one record a step; tensorboard/ holds the same, wandb/ and wandb.json too if asked for
    model.safetensors   the parameters, written when training is done
    result.json         steps, number of parameters, last dev metrics, fingerprint of the model
```
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util
from safetensors.numpy import load_file, save

from data_pipelines.atomic import atomic_directory
from make_jax import __version__
from make_jax.config import Experiment
from make_jax.errors import UserError
from make_jax.formats import check_format, written
from make_jax.overrides import from_dict, to_json, unknown_settings
from make_jax.small_files import read_object, write_text, write_whole

# What may differ when a run goes on: none of these changes what is learned, unless a step goes wrong.
_FREE = ("mesh", "training.log_every", "training.eval_every", "training.checkpoint_every",
         "training.keep_", "training.best_", "training.eval_batch_size", "data.prefetch", "data.max_bad_share",
         "data.stall_seconds", "training.non_finite", "training.spike", "training.max_skipped", "training.slow_",
         "training.hang_seconds", "training.wandb")  # fmt: skip

# What every run.json and result.json tells.
_ORIGIN_KEYS = ("command", "versions", "commit", "hardware", "date", "data", "data_fingerprint")
_RESULT_KEYS = ("parameters", "fingerprint")
_REMEDY = "the run is damaged, restore the file or train again"


class Run(NamedTuple):
    """A finished run, opened; `origin` and `result` are the contents of run.json and result.json."""

    path: Path
    experiment: Experiment
    params: Any
    tokenizer_path: Path
    fingerprint: str
    origin: dict[str, Any]
    result: dict[str, Any]


def start_run(
    path: Path,
    experiment: Experiment,
    tokenizer: Path,
    data_paths: Sequence[str],
    data_fingerprint: str,
    init_from: dict[str, Any] | None = None,
    negatives: dict[str, Any] | None = None,
) -> None:
    """Make a run directory, whole or not at all, or check that the one there is of the same experiment and data.

    `init_from`, where the first parameters came from, and `negatives`, with their fingerprint, go into run.json.

    Raises:
      UserError: `path` is a file or holds something else: other files, or another experiment or data set; the
        differing settings are named.
    """
    if (path / "experiment.json").exists():
        _refuse_other_model(path, experiment, data_fingerprint, negatives)
        return
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: this is a file, a run needs a folder; choose another --workdir")
    if path.exists() and any(path.iterdir()):
        raise UserError(f"{path}: this folder is not empty and holds no run; choose another --workdir")
    origin = written() | provenance()
    origin |= {"data": [_absolute(path) for path in data_paths], "data_fingerprint": data_fingerprint}
    origin |= {"init_from": init_from} if init_from else {}
    origin |= {"negatives": negatives} if negatives else {}
    with atomic_directory(path, lambda _: "is not empty") as made:
        _copy_files(tokenizer, made / "tokenizer")
        write_text(made / "run.json", json.dumps(origin, indent=2) + "\n")
        write_text(made / "experiment.json", to_json(experiment))


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())


def _copy_files(source: Path, target: Path) -> None:
    """Copy a folder; unlike shutil.copytree, a full disk stays an OSError with its errno."""
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())


def _refuse_other_model(
    path: Path, experiment: Experiment, data_fingerprint: str, negatives: dict[str, Any] | None
) -> None:
    origin = _read_origin(path)
    different = differences(_read_experiment(path, origin), experiment)
    if different:
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise UserError(
            f"{path}: this run is of another model ({'; '.join(different[:3])}{more}); choose another --workdir or "
            "the settings it was started with"
        )
    if origin["data_fingerprint"] != data_fingerprint:
        raise UserError(
            f"{path}: this run was trained on other data ({', '.join(origin['data'])}, fingerprint "
            f"{str(origin['data_fingerprint'])[:12]}; now {data_fingerprint[:12]}); choose another --workdir"
        )
    before = origin.get("negatives", {}).get("fingerprint")
    if negatives and negatives["fingerprint"] != before:
        raise UserError(
            f"{path}: this run was trained with other hard negatives (fingerprint {str(before)[:12]}; "
            f"{negatives['path']} now has {negatives['fingerprint'][:12]}); choose another --workdir"
        )


def differences(before: Experiment, now: Experiment) -> list[str]:
    """The settings of two experiments that differ and change what is learned, as "key A there, B here"."""
    there, here = (_flat(dataclasses.asdict(experiment)) for experiment in (before, now))
    return [
        f"{key} {there.get(key)!r} there, {here.get(key)!r} here"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key) and not key.startswith(_FREE)
    ]


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    return traverse_util.flatten_dict(tree, sep=".")


def finish_run(path: Path, params: Any, result: dict[str, Any]) -> str:
    """Write the trained parameters and the result; returns the model's fingerprint. Safe to repeat."""
    arrays = {name: np.array(leaf, order="C") for name, leaf in traverse_util.flatten_dict(params, sep="/").items()}
    write_whole(path / "model.safetensors", save(arrays))
    fingerprint = _fingerprint(path)
    count = int(sum(array.size for array in arrays.values()))
    write_text(
        path / "result.json", json.dumps(result | {"parameters": count, "fingerprint": fingerprint}, indent=2) + "\n"
    )
    return fingerprint


def open_run(path: Path) -> Run:
    """A finished run's experiment, parameters (numpy float32) and tokenizer.

    Raises:
      UserError: no run, one that is not finished, or one whose files do not fit its record.
    """
    experiment = read_experiment(path)
    origin = _read_origin(path)
    if not (path / "result.json").exists():
        raise UserError(f"{path}: this run is not finished; run the same make-jax train command again to go on")
    result = read_object(path / "result.json", _REMEDY, _RESULT_KEYS)
    if not (path / "model.safetensors").exists():
        raise UserError(f"{path / 'model.safetensors'}: this file is missing; restore the folder or train again")
    expected, found = result["fingerprint"], _fingerprint(path)
    if expected != found:
        raise UserError(
            f"{path}: the model's files are not those that training wrote (fingerprint {found[:12]}, "
            f"recorded {str(expected)[:12]}); restore the folder or train again"
        )
    params = traverse_util.unflatten_dict(load_file(path / "model.safetensors"), sep="/")
    return Run(path, experiment, params, path / "tokenizer", found, origin, result)


def read_experiment(path: Path) -> Experiment:
    """The experiment of a run, finished or not, whichever version began it.

    Raises:
      UserError: no run, a damaged one, or one of a version whose files or settings this one does not know.
    """
    if not (path / "experiment.json").exists():
        raise UserError(f"{path}: there is no run here (experiment.json is missing); make one with make-jax train")
    return _read_experiment(path, _read_origin(path))


def _fingerprint(path: Path) -> str:
    """sha256 over what decides a vector: model settings as they are stored, parameters, tokenizer.

    So it stays what it is when later versions have more settings.
    """
    stored = read_object(path / "experiment.json", _REMEDY, ["model"])["model"]
    digest = hashlib.sha256(json.dumps(stored, sort_keys=True).encode())
    for file in [path / "model.safetensors", *sorted((path / "tokenizer").rglob("*"))]:
        if file.is_file():
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _read_origin(path: Path) -> dict[str, Any]:
    origin = read_object(path / "run.json", _REMEDY, _ORIGIN_KEYS)
    check_format(path, origin)
    return origin


def _read_experiment(path: Path, origin: dict[str, Any]) -> Experiment:
    """Settings that an older version did not have are at their defaults."""
    file, version = path / "experiment.json", origin["versions"].get("make_jax")
    tree = read_object(file, _REMEDY)
    if unknown := unknown_settings(tree):
        raise UserError(
            f"{file}: make_jax {version} wrote this with settings that make_jax {__version__} does not have "
            f"({', '.join(unknown)}); use make_jax {version}, or a newer one"
        )
    try:
        return from_dict(tree)
    except UserError as error:
        raise UserError(f"{file}: {error} (written by make_jax {version}, this is {__version__})") from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file, oldest first; a line cut off by a crash is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def provenance() -> dict[str, Any]:
    """Command, versions, commit and hardware of this process, for records."""
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "tensorflow-cpu", "transformers", "scann", "numpy")
    versions = {"make_jax": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": versions,
        "commit": _commit(),
        "hardware": f"{_processor()}, {os.cpu_count()} cores",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """The commit this code runs from, with "+" where it has changes; None outside a checkout of its own."""
    root = Path(__file__).resolve().parents[1]
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:  # installed into a folder of somebody else's checkout
        return None
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    return head and head + ("+" if _git(root, "status", "--porcelain") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None where it fails or is not installed."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
