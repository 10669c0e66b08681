# make-jax plan experiments/base.py --topology v5e:16x16 --vocab-size 30522
# make-jax train experiments/base.py --data DATA --workdir RUN      on such a slice
"""The base model for a pod: ViT-B/16 at 224² and towers of BERT-base's size, 32,768 pairs a step."""

from __future__ import annotations

from make_jax.config import (
    ComputeConfig,
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
    """Twelve layers of width 768 in each tower, one that joins title and picture."""
    base = TransformerConfig(layers=12, width=768, heads=12)
    return Experiment(
        name="base",
        model=ModelConfig(
            embedding=512,
            query=TextConfig(max_tokens=16, transformer=base),
            title=TextConfig(max_tokens=64, transformer=base),
            image=ImageConfig(height=224, width=224, patch=16, stem="patch", transformer=base),
            fusion=FusionConfig(layers=1, gate_width=256),
        ),
        objectives=ObjectivesConfig(query_title=0.5, query_image=0.5),
        optimizer=OptimizerConfig(learning_rate=5e-4, weight_decay=0.1),
        training=TrainingConfig(steps=30_000, batch_size=32_768, checkpoint_every=1000, eval_batch_size=256),
        compute=ComputeConfig(dtype="bfloat16", remat="dots"),
    )
