# make-jax train experiments/fashion.py --data DATA --workdir RUN
"""MAKE on a fashion shop of 44 thousand products with 60×80 pictures: under twenty minutes on two CPU cores.

The queries of a shop are short and its titles too, so 10 and 16 tokens hold 99 in 100 of them whole.
"""

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
    """Width 128, two layers of text, three of picture, two that join them."""
    text = TransformerConfig(layers=2, width=128, heads=4)
    return Experiment(
        name="fashion",
        model=ModelConfig(
            embedding=128,
            query=TextConfig(max_tokens=10, transformer=text),
            title=TextConfig(max_tokens=16, transformer=text),
            image=ImageConfig(
                height=80, width=64, patch=16, transformer=TransformerConfig(layers=3, width=128, heads=4)
            ),
            fusion=FusionConfig(layers=2),
        ),
        objectives=ObjectivesConfig(query_title=0.5, query_image=0.5),
        data=DataConfig(popularity_power=0.75),
        optimizer=OptimizerConfig(learning_rate=1.5e-3),
        training=TrainingConfig(steps=700, batch_size=384, checkpoint_every=100),
    )
