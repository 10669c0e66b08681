"""Prepared data in object storage: small files are copied once, shards are streamed."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.host_tensorflow import tf
from data_pipelines.manifest import NAME, check_content, check_size, parse_manifest, sha256
from data_pipelines.shards import is_shard

_THREADS = 16  # each waits for the other side most of the time


def is_remote(path: str) -> bool:
    """Whether a path names another file system: gs://bucket/data and its like."""
    return "://" in path


def copy_small_files(root: str) -> tuple[Path, dict[str, Any]]:
    """Copies all but the shards of remote prepared data to a folder that is removed when the program ends.

    Args:
      root: the remote directory, as TensorFlow's file systems name it.

    Returns:
      The folder, and the manifest that its files and the sizes of the shards were compared with.

    Raises:
      DataError: not a prepared data directory, another format version, shards that cannot be streamed, or a missing
        or changed file.
    """
    manifest = parse_manifest(_manifest_content(root), root)
    if manifest["options"]["storage"] != "tfrecord":
        raise DataError(
            f"{root} is stored as {manifest['options']['storage']}, which cannot be streamed; mount the bucket and "
            "name the mounted directory, or run `make-jax prepare` with --storage tfrecord"
        )
    folder = Path(tempfile.mkdtemp(prefix="make_jax-data-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

    def fetch(item: tuple[str, dict[str, Any]]) -> None:
        name, entry = item
        path, copy = f"{root}/{name}", folder / name
        try:
            check_size(path, entry, _size(path))
            if is_shard(name):
                return
            copy.parent.mkdir(parents=True, exist_ok=True)
            tf.io.gfile.copy(path, str(copy))
        except tf.errors.OpError as error:
            raise _unreachable(path, error) from error
        check_content(path, entry, sha256(copy))

    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(fetch, manifest["files"].items()))
    return folder, manifest


def _size(path: str) -> int | None:
    try:
        return tf.io.gfile.stat(path).length
    except tf.errors.NotFoundError:
        return None


def _manifest_content(root: str) -> bytes:
    path = f"{root}/{NAME}"
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    except tf.errors.NotFoundError as error:
        raise DataError(f"{root} has no {NAME}, so it is not prepared data; check the path") from error
    except tf.errors.OpError as error:
        raise _unreachable(path, error) from error


def _unreachable(path: str, error: tf.errors.OpError) -> DataError:
    return DataError(f"{path} cannot be read: {error.message}; check the path and your access to it")
