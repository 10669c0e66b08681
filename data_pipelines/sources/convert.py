"""From a foreign layout to tables that `prepare` reads, whole or not at all."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from tqdm import tqdm

from data_pipelines.atomic import atomic_directory
from data_pipelines.errors import DataError
from data_pipelines.manifest import NAME, foreign_content
from data_pipelines.sources import SOURCES, Source
from data_pipelines.sources.rows import Options
from data_pipelines.sources.skipped import Skipped
from data_pipelines.sources.writer import TablesWriter

KIND = "make_jax-tables"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class ConvertSummary:
    """The outcome of one `convert`.

    Attributes:
      out: the folder of tables.
      source: the name of the layout.
      counts: rows by table, as written.
      skipped: what was left out, by table (or "pictures") and reason code; details are in `out`/skipped.csv.
      seconds: wall-clock time.
    """

    out: Path
    source: str
    counts: Mapping[str, int]
    skipped: Mapping[tuple[str, str], int]
    seconds: float

    @property
    def prepare_command(self) -> str:
        """The command that goes on from here."""
        words = ["make-jax", "prepare", "--products", str(self.out / "products-*.parquet")]
        together = [("interactions",), ("queries", "qrels")]  # dev queries without judgements are of no use
        for tables in together:
            if all(self.counts[table] for table in tables):
                words += [word for table in tables for word in (f"--{table}", str(self.out / f"{table}.parquet"))]
        return shlex.join([*words, "--out", "data"])

    def text(self) -> str:
        """Some lines for people."""
        tables = ", ".join(f"{count:,} {table}" for table, count in self.counts.items() if count)
        lines = [f"{self.out}: {tables} from {self.source} in {self.seconds:.0f} s"]
        lines += [f"  left out {n:>12,}   {table}: {reason}" for (table, reason), n in sorted(self.skipped.items())]
        if self.skipped:
            lines.append(f"  see {self.out / 'skipped.csv'}")
        return "\n".join([*lines, "", "Go on with:", self.prepare_command])


def convert(name: str, folder: Path, out: Path, options: Options, *, progress: bool = True) -> ConvertSummary:
    """Reads a foreign layout and writes tables; memory does not grow with the source.

    `out` appears complete or not at all; earlier converted tables there are replaced only at the end. Rows and
    pictures that cannot be used are listed in `out`/skipped.csv. Pictures are copied as they are: `prepare` checks
    them.

    Args:
      name: one of SOURCES.
      folder: where the source is.
      out: the folder to write.
      options: those that the source takes.
      progress: show a progress bar where standard error is a terminal.

    Raises:
      DataError: an option that the source does not take, a file missing or damaged, no product that can be used, or
        `out` holds something else.
    """
    started = time.monotonic()
    source = SOURCES[name]
    _check_options(source, options)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; name the folder that holds the {name} data")
    with atomic_directory(out, partial(foreign_content, kind=KIND)) as root:
        with Skipped(root / "skipped.csv") as skipped, TablesWriter(root, source, skipped) as writer:
            rows = source.rows(folder, options, skipped)
            for row in tqdm(rows, "convert", unit=" rows", mininterval=1.0, disable=None if progress else True):
                writer.write(row)
        counts = {table: written.rows for table, written in writer.tables.items()}
        if not counts["products"]:
            reasons = ", ".join(f"{count} {table}: {reason}" for (table, reason), count in skipped.counts.items())
            raise DataError(
                f"{folder} holds no product that can be used as {name} ({reasons or 'nothing was found in it'}); "
                "check the folder and the options"
            )
        _write_manifest(root, name, counts)
    return ConvertSummary(out, name, counts, dict(skipped.counts), time.monotonic() - started)


def _check_options(source: Source, options: Options) -> None:
    for field in fields(options):
        if getattr(options, field.name) != field.default and field.name not in source.options:
            taken = ", ".join(f"--{option}" for option in source.options)
            raise DataError(f"{source.name} takes no option about {field.name}, only {taken}; leave it out")


def _write_manifest(root: Path, name: str, counts: Mapping[str, int]) -> None:
    """Lists the files, so that a later run knows that it may replace them."""
    files = {path.name: {"size": path.stat().st_size} for path in sorted(root.iterdir())}
    manifest = {"kind": KIND, "format_version": FORMAT_VERSION, "source": name, "counts": counts, "files": files}
    (root / NAME).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
