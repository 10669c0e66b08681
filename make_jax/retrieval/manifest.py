"""The manifest of an index directory: what the files are, and how to tell that they still are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_pipelines.manifest import sha256
from make_jax.errors import UserError

NAME = "manifest.json"
KIND = "make_jax-index"
FORMAT_VERSION = 1
_REMEDY = "build it again with `make-jax index`"


def write_manifest(directory: Path, facts: dict[str, Any]) -> None:
    """Write `facts`, and size and checksum of every file in the directory, as its manifest."""
    files = {
        path.relative_to(directory).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    manifest = {"format_version": FORMAT_VERSION, "kind": KIND, **facts, "files": files}
    (directory / NAME).write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of an index directory, after comparing every file with it.

    Raises:
      UserError: no index there, one of another format version, or a file that is missing, differs or was
        added.
    """
    path = directory / NAME
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{directory} is not an index: it has no {NAME}; {_REMEDY}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); {_REMEDY}") from error
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    if kind != KIND:
        raise UserError(f"{path} describes {kind!r}, expected {KIND!r}; give the directory of an index")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {manifest.get('format_version')!r}, this program reads "
            f"{FORMAT_VERSION}; {_REMEDY}"
        )
    _check_files(directory, manifest["files"])
    return manifest


def _check_files(directory: Path, expected: dict[str, dict[str, Any]]) -> None:
    present = {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()} - {NAME}
    if missing := sorted(expected.keys() - present):
        raise UserError(f"{directory / missing[0]} is missing, {NAME} lists it; {_REMEDY}")
    if added := sorted(present - expected.keys()):
        raise UserError(f"{directory / added[0]} does not belong to the index, {NAME} does not list it; remove it")
    for name, entry in expected.items():
        path = directory / name
        if path.stat().st_size != entry["size"]:
            raise UserError(f"{path} has {path.stat().st_size} bytes, {NAME} says {entry['size']}; {_REMEDY}")
        if (found := sha256(path)) != entry["sha256"]:
            raise UserError(f"{path} has sha256 {found}, {NAME} says {entry['sha256']}; {_REMEDY}")
