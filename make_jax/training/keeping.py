"""Which checkpoints of a run stay, and why: the last, every so many steps, the best on the dev queries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from make_jax.config import TrainingConfig

Judged = dict[int, dict[str, float]]
_DEV = "dev/"


def why_kept(config: TrainingConfig, steps: Iterable[int], judged: Mapping[int, Mapping[str, float]]) -> dict[int, str]:
    """Of the checkpoints of these steps those that stay, each with the rules that say so.

    `judged` has the dev metrics of the steps that were evaluated; others are never among the best, nor is one whose
    metric is not finite. Of equals the earlier one counts as better.
    """
    ordered = sorted(steps)
    rules = {
        f"last {config.keep_checkpoints}": ordered[-config.keep_checkpoints :],
        f"every {config.keep_every}": [step for step in ordered if config.keep_every and step % config.keep_every == 0],
        f"best {config.keep_best} by {config.best_metric}": _best(config, ordered, judged),
    }
    kept = {step: [rule for rule, found in rules.items() if step in found] for step in ordered}
    return {step: ", ".join(reasons) for step, reasons in kept.items() if reasons}


def _best(config: TrainingConfig, steps: Sequence[int], judged: Mapping[int, Mapping[str, float]]) -> list[int]:
    values = {step: judged.get(step, {}).get(config.best_metric, math.nan) for step in steps}
    sign = -1 if config.best_mode == "max" else 1
    comparable = [step for step in steps if math.isfinite(values[step])]
    return sorted(comparable, key=lambda step: sign * values[step])[: config.keep_best]


def dev_record(metrics: Mapping[str, float]) -> dict[str, float]:
    """Dev metrics under the names that they have in `metrics.jsonl`."""
    return {_DEV + name: value for name, value in metrics.items()}


def dev_metrics(records: Iterable[Mapping[str, Any]], last: int | None = None) -> Judged:
    """The dev metrics that the records of `metrics.jsonl` have, by step, up to step `last`."""
    found = {
        record["step"]: {name.removeprefix(_DEV): value for name, value in record.items() if name.startswith(_DEV)}
        for record in records
        if last is None or record["step"] <= last
    }
    return {step: metrics for step, metrics in found.items() if metrics}
