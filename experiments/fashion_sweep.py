# make-jax sweep experiments/fashion_sweep.py --data DATA --workdir DIR --products F --queries F --qrels F
"""Every baseline and every part of MAKE on the fashion shop, three seeds each, with five minutes of training a run.

Runs are to be made one after the other on a machine that does nothing else; on two CPU cores that is a night.
"""

from __future__ import annotations

from collections.abc import Mapping

from experiments import fashion, fashion_baselines, fashion_keywords
from make_jax.sweeps import Setting, Sweep

# MAKE with one more objective, or with one thing less.
OBJECTIVES: dict[str, Mapping[str, float]] = {
    "no_auxiliary_contrast": {"objectives.query_title": 0.0, "objectives.query_image": 0.0},
    "margin": {"objectives.margin": 0.1},
    "title_image": {"objectives.title_image": 0.5},
    "qim": {"objectives.qim": 0.5},
    "qim2": {"objectives.qim2": 0.5},
    "mlm": {"objectives.mlm": 0.5},
    "mpm": {"objectives.mpm": 0.5},
    "mpm_r": {"objectives.mpm_r": 0.5},
    "memory": {"objectives.memory_size": 3840},
    "log_q": {"objectives.log_q": 1.0},
    "modality_dropout": {"model.fusion.modality_dropout": 0.2},
}


def get_sweep() -> Sweep:
    """All variants, compared with late fusion by a mean."""
    built = fashion_baselines.VARIANTS | fashion_keywords.VARIANTS
    variants: dict[str, Setting] = {name: build() for name, build in built.items()}
    return Sweep(
        name="fashion",
        base=fashion.get_config(),
        variants=variants | OBJECTIVES,
        seeds=3,
        minutes=5,
        baseline="late_mean",
    )
