"""`make-jax checkpoints`: what a run has saved, whether it can be read back, and what may go."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from make_jax.errors import UserError
from make_jax.overrides import apply_overrides
from make_jax.run import read_experiment, read_metrics
from make_jax.training.checkpoint_files import Saved, remove, saved, saved_steps
from make_jax.training.checkpoints import damage
from make_jax.training.keeping import dev_metrics, why_kept

_POLICY = "policy"


class Checkpoint(NamedTuple):
    """One line of the list.

    Attributes:
      saved: the files.
      metric: on the dev queries, NaN where it was not evaluated.
      kept: the rules by which it stays, empty if it may go.
      damage: what is wrong with it; None if nothing, or nobody looked.
    """

    saved: Saved
    metric: float
    kept: str
    damage: str | None


class Listing(NamedTuple):
    """The checkpoints of a run, in order; `pruned` are the steps removed or, in a dry run, to be removed."""

    folder: Path
    metric_name: str
    verified: bool
    checkpoints: list[Checkpoint]
    pruned: list[int]
    dry_run: bool

    @property
    def damaged(self) -> list[Checkpoint]:
        return [checkpoint for checkpoint in self.checkpoints if checkpoint.damage is not None]

    def error(self) -> str | None:
        """The line about damaged checkpoints that are still there."""
        left = [one for one in self.damaged if self.dry_run or one.saved.step not in self.pruned]
        if not left:
            return None
        told = "; ".join(f"step {one.saved.step}: {one.damage}" for one in left)
        steps = ",".join(str(one.saved.step) for one in left)
        return f"{self.folder}: damaged checkpoints ({told}); restore them, or remove them with --prune {steps}"


def checkpoints(
    run: Path, verify: bool = False, prune: str | None = None, dry_run: bool = False, overrides: Sequence[str] = ()
) -> Listing:
    """List the checkpoints of a run and, if asked to, read them back and remove some.

    Args:
      run: a run directory, finished or not, that nobody trains at the moment.
      verify: read every array back.
      prune: "policy", or steps with commas between. The policy is that of the run's settings; checkpoints that were
        found damaged do not count for it and are left alone.
      dry_run: remove nothing.
      overrides: of settings of the run, such as "training.keep_checkpoints=1".

    Raises:
      UserError: no run, no such step, or nothing would be left for the run to go on from.
    """
    config = apply_overrides(read_experiment(run), overrides).training
    folder = run / "checkpoints"
    judged = dev_metrics(read_metrics(run / "metrics.jsonl"))
    steps = saved_steps(folder)
    wrong = {step: damage(folder / str(step)) if verify else None for step in steps}
    sound = [step for step in steps if wrong[step] is None]
    kept = why_kept(config, sound, judged)
    found = [
        Checkpoint(
            saved(folder, step),
            judged.get(step, {}).get(config.best_metric, math.nan),
            kept.get(step, ""),
            wrong[step],
        )
        for step in steps
    ]
    pruned = _to_prune(prune, folder, steps, sound, kept) if prune else []
    if pruned and not (run / "result.json").exists() and not set(sound) - set(pruned):
        raise UserError(
            f"--prune {prune}: this would leave nothing for the run in {run} to go on from; leave one, or remove the "
            "run's folder"
        )
    if not dry_run:
        for step in pruned:
            remove(folder, step)
    return Listing(folder, config.best_metric, verify, found, pruned, dry_run)


def _to_prune(prune: str, folder: Path, steps: list[int], sound: list[int], kept: dict[int, str]) -> list[int]:
    if prune == _POLICY:
        return [step for step in sound if step not in kept]
    named = [part.strip() for part in prune.split(",")]
    unknown = [part for part in named if not part.isdigit() or int(part) not in steps]
    if unknown:
        there = ", ".join(map(str, steps)) or "none"
        raise UserError(
            f"--prune {prune}: {', '.join(map(repr, unknown))} is no step that {folder} has a checkpoint of; there "
            f"are {there}; name some of these with commas between, or {_POLICY!r}"
        )
    return sorted({int(part) for part in named})


def as_text(listing: Listing) -> str:
    """A table for people."""
    rows = [("step", "saved", "size", listing.metric_name, "stays as", *(["state"] if listing.verified else []))]
    for one in listing.checkpoints:
        state = "sound" if one.saved.has_checksums else "sound, without checksums"
        state = f"damaged: {one.damage}" if one.damage is not None else state
        date = one.saved.date.strftime("%Y-%m-%d %H:%M:%S")
        metric = "" if math.isnan(one.metric) else f"{one.metric:.4f}"
        cells = (f"{one.saved.step:,}", date, _megabytes(one.saved.size), metric, one.kept or "-")
        rows.append((*cells, *([state] if listing.verified else [])))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if number in (0, 2, 3) else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    if not listing.checkpoints:
        lines = [f"{listing.folder}: no checkpoints"]
    if listing.pruned:
        size = sum(one.saved.size for one in listing.checkpoints if one.saved.step in listing.pruned)
        done = "would remove" if listing.dry_run else "removed"
        lines.append(f"{done} {', '.join(f'{step:,}' for step in listing.pruned)}: {_megabytes(size)}")
    return "\n".join(lines)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def as_json(listing: Listing) -> str:
    """The same for programs."""
    return json.dumps(
        {
            "metric": listing.metric_name,
            "checkpoints": [_record(one, listing.verified) for one in listing.checkpoints],
            "pruned": listing.pruned,
            "dry_run": listing.dry_run,
        },
        indent=1,
    )


def _record(one: Checkpoint, verified: bool) -> dict[str, Any]:
    return {
        "step": one.saved.step,
        "path": str(one.saved.path),
        "date": one.saved.date.isoformat(),
        "bytes": one.saved.size,
        "make_jax": one.saved.version,
        "metric": None if math.isnan(one.metric) else one.metric,
        "stays_as": one.kept,
        **(
            {"sound": one.damage is None, "damage": one.damage, "checksums": one.saved.has_checksums}
            if verified
            else {}
        ),
    }
