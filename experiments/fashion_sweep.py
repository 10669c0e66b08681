# make-jax sweep experiments/fashion_sweep.py --data DATA --workdir DIR --products F --queries F --qrels F
"""Every baseline and every part of MAKE on the fashion shop, three seeds each, with five minutes of training a run.

Runs are to be made one after the other on a machine that does nothing else; on two CPU cores all of them are a night.
`--only` makes some. Each variant is experiments/fashion.py with some settings changed, so that
`make-jax train experiments/fashion.py --set ...` trains it alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments import fashion
from make_jax.sweeps import Sweep

Settings = Mapping[str, Any]

# One contrast of query and product, in which all other products are negatives, between two encoders of text that share
# nothing, as the baselines' authors have it.
PLAIN: Settings = {
    "objectives.keyword_mask": "none",
    "data.further_queries": 0,
    "model.fusion.kind": "mean",
    "model.shared_tokens": False,
    "objectives.query_title": 0.0,
    "objectives.query_image": 0.0,
}

BASELINES: dict[str, Settings] = {
    # Late fusion: the mean of both unit vectors, or one linear map of them side by side.
    "late_mean": PLAIN,
    "late_concat": {**PLAIN, "model.fusion.kind": "concat"},
    # Titles alone, and pictures alone as CLIP has them (Radford et al. 2021).
    "text_only": {**PLAIN, "model.modalities": "title"},
    "image_only": {**PLAIN, "model.modalities": "image"},
    # One encoder for queries and titles, as the system before MAKE had.
    "late_mean_shared_text": {**PLAIN, "model.shared_text": True},
    # The pairwise loss of SigLIP (Zhai et al. 2023).
    "siglip": {**PLAIN, "objectives.contrast": "sigmoid"},
    # FashionBERT-style (Gao et al. 2020): tokens and patches go straight into one stack.
    "single_stream": {
        **PLAIN,
        "model.title.transformer.layers": 0,
        "model.image.transformer.layers": 0,
        "model.fusion.kind": "joint",
        "model.fusion.layers": 3,
    },
    # ALBEF-style (Li et al. 2021): contrasts of query and product and of title and picture, matching, masked words.
    "albef": {
        **PLAIN,
        "model.fusion.kind": "cross_attention",
        "model.fusion.layers": 1,
        "objectives.title_image": 0.5,
        "objectives.qim": 0.5,
        "objectives.mlm": 0.5,
    },
    # CommerceMM-style (Yu et al. 2022): every pair among query, title, picture and product is contrasted.
    "commerce_mm": {
        **PLAIN,
        "model.fusion.layers": 1,
        "objectives.query_title": 0.5,
        "objectives.query_image": 0.5,
        "objectives.title_image": 0.5,
        "objectives.title_product": 0.5,
        "objectives.image_product": 0.5,
    },
}

# MAKE with something less, or else.
ABLATIONS: dict[str, Settings] = {
    "shared_text": {"model.shared_text": True, "model.shared_tokens": False},
    "own_tokens": {"model.shared_tokens": False},
    "fixed_mean": {"model.fusion.kind": "mean"},
    "concat": {"model.fusion.kind": "concat"},
    "vector_gate": {"model.fusion.kind": "vector_gate"},
    "cross_modal_layer": {"model.fusion.layers": 1},
    "joint": {"model.fusion.kind": "joint", "model.fusion.layers": 1},
    "cross_attention": {"model.fusion.kind": "cross_attention", "model.fusion.layers": 1},
    "gate_supervision": {"objectives.gate_supervision": 0.2},
    "modality_dropout": {"model.fusion.modality_dropout": 0.2},
    "mask_none": {"objectives.keyword_mask": "none"},
    "mask_query": {"objectives.keyword_mask": "query"},
    "mask_title": {"objectives.keyword_mask": "title"},
    "many_positives": {"objectives.positives": "many"},
    "one_query": {"data.further_queries": 0},
    "five_queries": {"data.further_queries": 4},
    "pseudo_queries": {"data.pseudo_share": 0.2},
    "query_drop": {"data.query_drop": 0.2},
    "query_shuffle": {"data.query_shuffle": 0.2},
    "category": {"model.side.columns": ("category",)},
    "no_auxiliary": {"objectives.query_title": 0.0, "objectives.query_image": 0.0},
}

# MAKE with one more objective, or more of one.
OBJECTIVES: dict[str, Settings] = {
    "auxiliary_half": {"objectives.query_title": 0.5, "objectives.query_image": 0.5},
    "margin": {"objectives.margin": 0.1},
    "title_image": {"objectives.title_image": 0.5},
    "qim": {"objectives.qim": 0.5},
    "qim2": {"objectives.qim2": 0.5},
    "mlm": {"objectives.mlm": 0.5},
    "mpm": {"objectives.mpm": 0.5},
    "mpm_r": {"objectives.mpm_r": 0.5},
    "memory": {"objectives.memory_size": 3840},
    "log_q": {"objectives.log_q": 1.0},
}


def get_sweep() -> Sweep:
    """All variants, compared with late fusion by a mean."""
    return Sweep(
        name="fashion",
        base=fashion.get_config(),
        variants={"make": {}} | BASELINES | ABLATIONS | OBJECTIVES,
        seeds=3,
        minutes=5,
        baseline="late_mean",
    )
