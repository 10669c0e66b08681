# make-jax demo
# or, step by step: make-jax train experiments/demo.py --data DATA --workdir RUN
"""A small MAKE for the synthetic catalogue: about two minutes on two CPU cores."""

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
    """Two layers a tower, width 96."""
    small = TransformerConfig(layers=2, width=96, heads=3)
    return Experiment(
        name="demo",
        model=ModelConfig(
            embedding=64,
            query=TextConfig(max_tokens=16, transformer=small),
            title=TextConfig(max_tokens=48, transformer=small),
            image=ImageConfig(height=80, width=64, patch=16, transformer=small),
            fusion=FusionConfig(layers=2),
        ),
        objectives=ObjectivesConfig(query_title=0.5, query_image=0.5),
        # Queries made up of titles would pull the weights, which the demo is to show, towards the text.
        data=DataConfig(cold_share=0.0),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        training=TrainingConfig(steps=300, batch_size=128, eval_every=100, checkpoint_every=100),
    )
