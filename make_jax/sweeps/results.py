"""What a run has brought: read from its directory, whoever made it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from make_jax.run import read_metrics
from make_jax.sweeps.budget import pace, windows
from make_jax.sweeps.execute import shown, train_command
from make_jax.sweeps.folders import RunFolder, read_json
from make_jax.sweeps.plan import PlannedRun

MAIN = "exact"  # the column of exact search over the whole catalogue
CONDITIONS = ("images", "titles")

RunState = Literal["done", "failed", "stopped", "running", "missing"]


@dataclass(frozen=True)
class RunResult:
    """One run of the table.

    Attributes:
      variant, seed: which.
      state: "missing" has never begun, "stopped" is half done.
      reason: of a failure.
      metrics: of the evaluation if there was one, else of training's last dev evaluation.
      segments: the headline metric by "COLUMN: NAME" of the evaluated queries.
      seconds: training steps; compilation and evaluation not counted.
      compile_seconds: what the first steps took longer than others.
      examples_per_second, steps, parameters: as trained.
      facts: command, commit, hardware, date, data_fingerprint.
      per_query: the table of metrics by query, if evaluation wrote one.
    """

    variant: str
    seed: int
    state: RunState
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    segments: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    compile_seconds: float | None = None
    examples_per_second: float | None = None
    steps: int | None = None
    parameters: int | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    per_query: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.variant}/seed-{self.seed}"


def read_result(workdir: Path, run: PlannedRun, data: Sequence[str], headline: str, judged: bool) -> RunResult:
    """Read one run.

    Args:
      workdir: of the sweep.
      run: which.
      data: as make-jax train takes it, for the command.
      headline: the metric that segments show.
      judged: whether metrics are to come from an evaluation; then a run without one is not done.
    """
    folder = RunFolder(workdir, run)
    judgement = read_json(folder.report() / "metrics.json") if folder.is_trained else {}
    state, reason = _state(folder, judged and not judgement)
    if not folder.has_begun:
        return RunResult(run.variant.name, run.seed, state, reason)
    result, origin = read_json(folder.run / "result.json"), read_json(folder.run / "run.json")
    experiment = read_json(folder.run / "experiment.json")
    metrics = _finite(result.get("dev", {}), prefix="dev/")
    if judgement:
        metrics = _evaluated(judgement) | _without(folder)
    facts = {name: str(origin.get(name) or "") for name in ("commit", "hardware", "date", "data_fingerprint")}
    facts["command"] = shown(train_command(folder, data))
    per_query = folder.report() / "per_query.parquet"
    return RunResult(
        run.variant.name,
        run.seed,
        state,
        reason,
        metrics=metrics if state == "done" else {},
        segments=_segments(judgement, headline) if state == "done" else {},
        steps=result.get("steps"),
        parameters=result.get("parameters"),
        facts=facts,
        per_query=per_query if judgement and per_query.exists() else None,
        **_speed(folder.run / "metrics.jsonl", experiment["training"]["batch_size"]),
    )


def _state(folder: RunFolder, unjudged: bool) -> tuple[RunState, str]:
    status = folder.status()
    if folder.is_trained and not unjudged:
        return "done", ""
    if folder.is_locked():
        return "running", ""
    if status.get("state") == "failed":
        return "failed", str(status.get("reason", ""))
    if folder.has_begun:
        return "stopped", "trained, but not evaluated yet" if folder.is_trained else ""
    return "missing", ""


def _main(judgement: Mapping[str, Any]) -> str:
    """The column that the metrics' plain names stand for."""
    columns = list(judgement.get("metrics", {}))
    return MAIN if MAIN in columns or not columns else columns[0]


def _evaluated(judgement: Mapping[str, Any]) -> dict[str, float]:
    """The main column's metrics by their own names, those of other columns as "COLUMN: NAME"."""
    columns, main = judgement.get("metrics", {}), _main(judgement)
    metrics = _finite(columns.get(main, {}))
    for column, values in columns.items():
        if column != main:
            metrics |= {f"{column}: {name}": value for name, value in _finite(values).items()}
    return metrics


def _without(folder: RunFolder) -> dict[str, float]:
    """Metrics of the catalogue without images or titles, where that was evaluated."""
    found: dict[str, float] = {}
    for condition in CONDITIONS:
        judgement = read_json(folder.report(condition) / "metrics.json")
        values = judgement.get("metrics", {}).get(_main(judgement), {})
        found |= {f"without {condition}: {name}": value for name, value in _finite(values).items()}
    return found


def _segments(judgement: Mapping[str, Any], headline: str) -> dict[str, float]:
    """The headline metric of parts of the queries, and by groups of products."""
    found: dict[str, Any] = {}
    main = _main(judgement)
    for segment in judgement.get("segments", []):
        if segment.get("column", main) == main:
            found[f"{segment['group']}: {segment['name']}"] = segment["metrics"].get(headline)
    for group in judgement.get("groups", []):
        if group["column"] == main:
            name = f"{group['split']}: {group['name']}"
            found[name] = group["metrics"].get(headline)
            if headline == "r_precision":  # by as many products as the other group has, so that the two compare
                found[f"{name}, matched"] = group.get("matched")
    return _finite(found)


def _speed(metrics: Path, batch_size: int) -> dict[str, Any]:
    """Seconds of steps, with the first window (in which compilation takes place) at the pace of the others."""
    found = windows(read_metrics(metrics))
    if not found:
        return {}
    usual, (first_steps, first_seconds) = pace(found), found[0]
    if usual is None:
        return {"seconds": first_seconds}
    steady = min(first_seconds, first_steps * usual)
    later_steps, later_seconds = (sum(column) for column in zip(*found[1:], strict=True))
    return {
        "seconds": steady + later_seconds,
        "compile_seconds": first_seconds - steady,
        "examples_per_second": later_steps * batch_size / later_seconds if later_seconds else None,
    }


def _finite(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    return {name.removeprefix(prefix): float(value) for name, value in values.items() if _is_finite(value)}


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
