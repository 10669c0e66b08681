# make-jax sweep experiments/tiny_sweep.py --data DATA --workdir DIR
"""What a sweep file looks like: the smallest model, with a fixed mean in place of learned weights, and some rates."""

from __future__ import annotations

from experiments import tiny
from make_jax.sweeps import Sweep, grid


def get_sweep() -> Sweep:
    """Two named variants and a grid of two, each with two seeds."""
    return Sweep(
        name="tiny",
        base=tiny.get_config(),
        variants={
            "full": {},
            "mean": {"model.fusion.kind": "mean"},
            **grid({"optimizer.learning_rate": [1e-3, 1e-2]}),
        },
        seeds=2,
        baseline="mean",
    )
