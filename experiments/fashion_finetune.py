# make-jax train experiments/fashion_finetune.py --data DATA --workdir RUN2 --init-from RUN --negatives NEGATIVES
"""The second stage on the fashion shop: a trained run learns to tell near misses apart, with hard negatives.

Only query and product are contrasted, since only their vectors are searched with. The rate is a tenth of that of the
first stage, and lower still for the first layers, which have less to learn anew. The model is that of
experiments/fashion.py: whatever `--set model...` the first run had, give again.
"""

from __future__ import annotations

import dataclasses

from experiments import fashion
from make_jax.config import Experiment, ObjectivesConfig, OptimizerConfig, TrainingConfig


def get_config() -> Experiment:
    """experiments/fashion.py, fine-tuned; needs --init-from and --negatives."""
    return dataclasses.replace(
        fashion.get_config(),
        name="fashion_finetune",
        objectives=ObjectivesConfig(hard_negatives=2),
        optimizer=OptimizerConfig(learning_rate=1.5e-4, layer_decay=0.8),
        training=TrainingConfig(steps=300, batch_size=256, checkpoint_every=100),
    )
