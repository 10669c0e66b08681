# make-jax train experiments/fashion_baselines.py --data DATA --workdir RUN
"""What MAKE is compared with on the fashion shop: each variant is experiments/fashion.py but for one design.

All see the same number of pairs in batches of the same size. What a variant saves of the fusion goes into its towers,
so that each token and patch passes through about as many layers. `get_config()` is MAKE itself; a sweep runs every
entry of `VARIANTS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from experiments import fashion
from make_jax.config import Experiment, ModelConfig, TransformerConfig


def make() -> Experiment:
    """MAKE: separate towers, cross-modal layers, Modal Adaptation, query–title and query–image contrast."""
    return fashion.get_config()


def text_only() -> Experiment:
    """Titles alone; the layers of the fusion, which is gone, stand on the title's tower."""
    return _variant("text_only", {"modalities": "title", "title": {"layers": 4}}, query_title=0.0, query_image=0.0)


def image_only() -> Experiment:
    """Pictures alone, as CLIP does; the layers of the fusion, which is gone, stand on the picture's tower."""
    return _variant("image_only", {"modalities": "image", "image": {"layers": 5}}, query_title=0.0, query_image=0.0)


def late_mean() -> Experiment:
    """Late fusion: the mean of both unit vectors, which meet nowhere before; deeper towers make up for it."""
    return _variant("late_mean", {**_DEEPER, "fusion": {"kind": "mean", "layers": 0}})


def late_concat() -> Experiment:
    """Late fusion: one linear map of both pooled vectors side by side."""
    return _variant("late_concat", {**_DEEPER, "fusion": {"kind": "concat", "layers": 0}})


def fixed_mean() -> Experiment:
    """MAKE with a fixed mean in place of Modal Adaptation."""
    return _variant("fixed_mean", {"fusion": {"kind": "mean"}})


def vector_gate() -> Experiment:
    """MAKE with a weight per product and dimension."""
    return _variant("vector_gate", {"fusion": {"kind": "vector_gate"}})


def joint() -> Experiment:
    """MAKE whose product vector is the mean of all states after the cross-modal layers, without a gate."""
    return _variant("joint", {"fusion": {"kind": "joint"}})


def cross_attention() -> Experiment:
    """MAKE whose cross-modal layers let each side look at the other only."""
    return _variant("cross_attention", {"fusion": {"kind": "cross_attention"}})


def shared_text() -> Experiment:
    """MAKE with one encoder for queries and titles, as the system before it had."""
    return _variant("shared_text", {"shared_text": True})


def single_stream() -> Experiment:
    """FashionBERT-style (Gao et al. 2020): tokens and patches go straight into one deep stack."""
    flat = {"title": {"layers": 0}, "image": {"layers": 0}}
    return _variant(
        "single_stream", {**flat, "fusion": {"kind": "joint", "layers": 5}}, query_title=0.0, query_image=0.0
    )


def siglip() -> Experiment:
    """MAKE with the pairwise sigmoid loss of SigLIP (Zhai et al. 2023)."""
    return _variant("siglip", {}, contrast="sigmoid")


def albef() -> Experiment:
    """ALBEF-style (Li et al. 2021): contrast of query and product and of title and picture, matching, masked words."""
    return _variant(
        "albef",
        {"fusion": {"kind": "cross_attention"}},
        query_title=0.0,
        query_image=0.0,
        title_image=0.5,
        qim=0.5,
        mlm=0.5,
    )


def commerce_mm() -> Experiment:
    """CommerceMM-style (Yu et al. 2022): every pair among query, title, picture and product is contrasted."""
    return _variant("commerce_mm", {}, title_image=0.5, title_product=0.5, image_product=0.5)


_DEEPER: dict[str, Any] = {"title": {"layers": 4}, "image": {"layers": 5}}

VARIANTS: dict[str, Callable[[], Experiment]] = {
    "make": make,
    "text_only": text_only,
    "image_only": image_only,
    "late_mean": late_mean,
    "late_concat": late_concat,
    "fixed_mean": fixed_mean,
    "vector_gate": vector_gate,
    "joint": joint,
    "cross_attention": cross_attention,
    "shared_text": shared_text,
    "single_stream": single_stream,
    "siglip": siglip,
    "albef": albef,
    "commerce_mm": commerce_mm,
}


def get_config() -> Experiment:
    """MAKE itself."""
    return make()


def _variant(name: str, model: dict[str, Any], **objectives: Any) -> Experiment:
    """experiments/fashion.py with another model: keys of ModelConfig, and sections of it that change in part."""
    base = fashion.get_config()
    return dataclasses.replace(
        base,
        name=f"fashion_{name}",
        model=_changed(base.model, model),
        objectives=dataclasses.replace(base.objectives, **objectives),
    )


def _changed(model: ModelConfig, changes: dict[str, Any]) -> ModelConfig:
    values = dict(changes)
    for tower in ("title", "image"):
        if tower in changes:
            before = getattr(model, tower)
            transformer: TransformerConfig = dataclasses.replace(before.transformer, **changes[tower])
            values[tower] = dataclasses.replace(before, transformer=transformer)
    if "fusion" in changes:
        values["fusion"] = dataclasses.replace(model.fusion, **changes["fusion"])
    return dataclasses.replace(model, **values)
