"""The manifest of a prepared data directory: what is in it, and proof that it is still so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError

FORMAT_VERSION = 3
KIND = "make_jax-data"
CACHE_KIND = "make_jax-cache"
NAME = "manifest.json"
HASH_ON_OPEN_BYTES = 1 << 30  # below this total, opening also compares checksums (about 1 s per GiB)

_REMEDY = (
    "run `make-jax prepare` again, or `make-jax data cache` if it is a cache, `make-jax mine` if it is mined negatives"
)


def write_manifest(
    root: Path, counts: dict[str, int], sources: dict[str, list[str]], options: dict[str, Any], kind: str = KIND
) -> None:
    """Describes every file under `root` in `root/manifest.json`; call it last.

    The manifest holds no times and no absolute paths of its own, so equal inputs give equal manifests.
    """
    files = {
        path.relative_to(root).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
    manifest = {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "counts": counts,
        "sources": sources,
        "options": options,
        "files": files,
    }
    text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False)
    (root / NAME).write_text(text + "\n", encoding="utf-8")


def read_manifest(root: Path, kinds: Sequence[str] = (KIND,)) -> dict[str, Any]:
    """Reads the manifest of a data directory without looking at the other files.

    Raises:
      DataError: `root` is not a data directory of one of these kinds, or of another format version.
    """
    path = root / NAME
    if not path.is_file():
        what = "has no manifest.json" if root.is_dir() else "is not a directory"
        raise DataError(f"{root} {what}, so it is not prepared data; make it with `make-jax prepare --out {root}`")
    return parse_manifest(path.read_bytes(), root, kinds)


def parse_manifest(content: bytes, root: Path | str, kinds: Sequence[str] = (KIND,)) -> dict[str, Any]:
    """The same for the content of the manifest of `root`, wherever that is."""
    path = f"{root}/{NAME}"
    try:
        manifest = json.loads(content)
        kind, version = manifest["kind"], manifest["format_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path} cannot be read as a manifest ({type(error).__name__}: {error}); remove {root} and {_REMEDY}"
        ) from error
    if kind not in kinds or version != FORMAT_VERSION:
        wanted = " or ".join(map(repr, kinds))
        raise DataError(
            f"{path} says {kind!r} format {version!r}, wanted here is {wanted} format {FORMAT_VERSION}; {_REMEDY}"
        )
    return manifest


def content_fingerprint(manifest: dict[str, Any]) -> str:
    """SHA-256 over the files' checksums; the quarantine, which names where its rows came from, is left out."""
    sums = {name: entry["sha256"] for name, entry in manifest["files"].items() if name != "quarantine.parquet"}
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def foreign_content(root: Path, kind: str) -> str | None:
    """Why a directory is more than what its manifest, of this kind and any version, lists; None if it is just that."""
    try:
        manifest = json.loads((root / NAME).read_text(encoding="utf-8"))
        ours = {root / name for name in [NAME, *manifest["files"]]} if manifest["kind"] == kind else set()
    except (OSError, ValueError, TypeError, KeyError):
        ours = set()
    if not ours:
        return f"is not empty and has no {NAME} of kind {kind!r}"
    for path in sorted(root.rglob("*")):
        if not path.is_dir() and path not in ours:
            return f"holds {path.relative_to(root)}, which its {NAME} does not list"
    return None


def verify_files(root: Path, manifest: dict[str, Any], checksums: bool = True) -> None:
    """Compares the files under `root` with the manifest: sizes always, checksums if wanted and below 1 GiB in total.

    Raises:
      DataError: a file is missing or differs, naming it with what was expected and found.
    """
    for _, error in file_faults(root, manifest, checksums):
        raise error


def file_faults(root: Path, manifest: dict[str, Any], checksums: bool = True) -> Iterator[tuple[str, DataError]]:
    """The same one by one: the names of the files that are missing or differ, each with the error that says how."""
    files: dict[str, dict[str, Any]] = manifest["files"]
    as_large = []
    for name, entry in files.items():
        path = root / name
        try:
            check_size(path, entry, path.stat().st_size if path.is_file() else None)
            as_large.append(name)
        except DataError as error:
            yield name, error
    if not checksums or sum(entry["size"] for entry in files.values()) >= HASH_ON_OPEN_BYTES:
        return
    for name in as_large:
        try:
            check_content(root / name, files[name], sha256(root / name))
        except DataError as error:
            yield name, error


def check_size(path: Path | str, entry: dict[str, Any], size: int | None) -> None:
    """Raises DataError if a file has not the size in its entry of the manifest; None: it is missing."""
    if size is None:
        raise DataError(f"{path} is missing (expected {entry['size']} bytes); {_REMEDY}")
    if size != entry["size"]:
        raise DataError(f"{path} has {size} bytes, the manifest expects {entry['size']}; {_REMEDY}")


def check_content(path: Path | str, entry: dict[str, Any], found: str) -> None:
    """Raises DataError if the SHA-256 found is not the one in a file's entry of the manifest."""
    if found != entry["sha256"]:
        raise DataError(f"{path} has sha256 {found}, the manifest expects {entry['sha256']}; {_REMEDY}")


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
