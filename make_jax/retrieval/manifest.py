"""The manifest of an index or BM25 directory: what the files are, and how to tell that they still are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_pipelines.manifest import sha256
from make_jax.errors import UserError

NAME = "manifest.json"
KIND = "make_jax-index"
BM25_KIND = "make_jax-bm25"
FORMAT_VERSION = 1
_NAMES = {KIND: "an index", BM25_KIND: "a BM25 directory"}
_REMEDIES = {KIND: "build it again with `make-jax index`", BM25_KIND: "build it again with `make-jax bm25`"}


def write_manifest(directory: Path, facts: dict[str, Any], kind: str = KIND) -> None:
    """Write `facts`, and size and checksum of every file in the directory, as its manifest."""
    files = {
        path.relative_to(directory).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    manifest = {"format_version": FORMAT_VERSION, "kind": kind, **facts, "files": files}
    (directory / NAME).write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_manifest(directory: Path, kind: str = KIND) -> dict[str, Any]:
    """The manifest of a directory of this kind, after comparing every file with it.

    Raises:
      UserError: no such directory, one of another format version, or a file that is missing, differs or was
        added.
    """
    path, remedy = directory / NAME, _REMEDIES[kind]
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{directory} is not {_NAMES[kind]}: it has no {NAME}; {remedy}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); {remedy}") from error
    found = manifest.get("kind") if isinstance(manifest, dict) else None
    if found != kind:
        raise UserError(f"{path} describes {found!r}, expected {kind!r}; give the directory of {_NAMES[kind]}")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {manifest.get('format_version')!r}, this program reads "
            f"{FORMAT_VERSION}; {remedy}"
        )
    _check_files(directory, manifest["files"], remedy)
    return manifest


def _check_files(directory: Path, expected: dict[str, dict[str, Any]], remedy: str) -> None:
    present = {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()} - {NAME}
    if missing := sorted(expected.keys() - present):
        raise UserError(f"{directory / missing[0]} is missing, {NAME} lists it; {remedy}")
    if added := sorted(present - expected.keys()):
        raise UserError(f"{directory / added[0]} does not belong there, {NAME} does not list it; remove it")
    for name, entry in expected.items():
        path = directory / name
        if path.stat().st_size != entry["size"]:
            raise UserError(f"{path} has {path.stat().st_size} bytes, {NAME} says {entry['size']}; {remedy}")
        if (found := sha256(path)) != entry["sha256"]:
            raise UserError(f"{path} has sha256 {found}, {NAME} says {entry['sha256']}; {remedy}")
