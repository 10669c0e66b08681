# make-jax train experiments/tiny.py --data DATA --workdir RUN
"""The smallest model that has every part: one layer a tower. Seconds on a laptop; for trying out, and for the tests."""

from __future__ import annotations

from make_jax.config import (
    DataConfig,
    Experiment,
    FusionConfig,
    ImageConfig,
    ModelConfig,
    ObjectivesConfig,
    OptimizerConfig,
    TextConfig,
    TrainingConfig,
    TransformerConfig,
)


def get_config() -> Experiment:
    """Width 32, one layer everywhere."""
    one = TransformerConfig(layers=1, width=32, heads=2)
    return Experiment(
        name="tiny",
        model=ModelConfig(
            embedding=32,
            query=TextConfig(max_tokens=8, transformer=one),
            title=TextConfig(max_tokens=24, transformer=one),
            image=ImageConfig(height=32, width=32, patch=16, transformer=one),
            fusion=FusionConfig(layers=1, gate_width=16, modality_dropout=0.1),
        ),
        objectives=ObjectivesConfig(query_title=0.5, query_image=0.5),
        data=DataConfig(crop=0.8),
        optimizer=OptimizerConfig(learning_rate=3e-3),
        training=TrainingConfig(steps=30, batch_size=16, checkpoint_every=10, log_every=5, eval_batch_size=32),
    )
