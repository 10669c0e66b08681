# make-jax train experiments/fashion.py --data DATA --workdir RUN
"""MAKE on a fashion shop of 44 thousand products with 60×80 pictures: under fifteen minutes on two CPU cores.

The queries of a shop are short and its titles too, so 10 and 16 tokens hold 99 in 100 of them whole. Small towers that
see many products learn more in the same time than deep ones, and so do three queries of a product against one, and one
table of tokens for queries and titles against two. Queries are contrasted a little with titles and pictures alone, so
that a product which lacks one of them is found by the other.
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
    """Width 128, two layers of text and three of picture, joined by a gate; three queries of each product a step."""
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
            fusion=FusionConfig(layers=0),
            shared_tokens=True,
        ),
        objectives=ObjectivesConfig(keyword_mask="words", query_title=0.1, query_image=0.1),
        data=DataConfig(popularity_power=0.75, further_queries=2),
        optimizer=OptimizerConfig(learning_rate=1.5e-3),
        training=TrainingConfig(steps=700, batch_size=384, checkpoint_every=100),
    )
