"""Results to make tables of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from make_jax.sweeps import grid
from make_jax.sweeps.results import RunResult
from make_jax.sweeps.table import Table, build_table

RATES = {name: {k: str(v) for k, v in s.items()} for name, s in grid({"optimizer.learning_rate": [1e-4, 1e-3]}).items()}
CROSSED = grid({"model.fusion.kind": ["mean", "gate"], "model.fusion.layers": [0, 1]})
VARIANTS: list[tuple[str, dict[str, str]]] = [
    ("full <b>", {}),
    ("mean | fixed", {"model.fusion.kind": "mean"}),
    ("broken", {}),
    *RATES.items(),
    *((name, {key: str(value) for key, value in setting.items()}) for name, setting in CROSSED.items()),
]


def result(variant: str, seed: int, value: float, minutes: float = 5.0, commit: str = "abc") -> RunResult:
    facts = {
        "commit": commit,
        "hardware": "a computer",
        "command": f"make-jax train {variant}",
        "data_fingerprint": "f",
    }
    return RunResult(
        variant, seed, "done", metrics={"mrr": value / 2, "r_precision": value}, segments={"facet: colour": value},
        seconds=60 * minutes, compile_seconds=3.0, examples_per_second=300.0, steps=700, parameters=4_000_000,
        facts=facts,
    )  # fmt: skip


def sample(seeds: Sequence[int] = (0, 1, 2), baseline: str | None = "mean | fixed") -> Table:
    random = np.random.default_rng(0)
    results = [
        result(name, seed, float(0.5 + 0.02 * number + 0.01 * random.standard_normal()), 2 + number / 2)
        for number, (name, _) in enumerate(VARIANTS)
        if name != "broken"
        for seed in seeds
    ]
    results += [RunResult("broken", 0, "failed", "exit status 1: <oh> | no"), RunResult("broken", 1, "missing")]
    return build_table("a sweep", "r_precision", VARIANTS, results, command="make-jax sweep", baseline=baseline)
