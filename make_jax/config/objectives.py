"""Settings of the pre-training objectives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from make_jax.config.checks import at_least, require

CONTRASTS = ("qic", "query_title", "query_image", "title_image", "title_product", "image_product")
OBJECTIVES = (*CONTRASTS, "qim", "qim2", "mlm", "mpm", "mpm_r", "gate_supervision")


@dataclass(frozen=True)
class ObjectivesConfig:
    """Weights and constants of the pre-training objectives; a weight of 0 turns one off, at no cost.

    Contrasts: `qic` of queries with fused products; `query_title` and `query_image` with each modality alone;
    `title_image` (TIC), `title_product` and `image_product` among a product's own parts. `contrast` is the form of all:
    "softmax", from which `margin` m makes AM-softmax, or "sigmoid" (SigLIP), whose learned bias starts at `bias`. The
    inverse temperature s starts at `scale` and is learned up to `scale_max`. `memory_size` past product vectors are
    further negatives of the queries in `qic`; so are `hard_negatives` mined products for each pair (with
    training.negatives), each of which counts `hard_negative_weight` times (softmax only). `log_q`, from 0 to 1, is how
    much of the popularity that batches are drawn by is taken off the negatives' logits (softmax only).

    Keyword Enhancement: `keyword_mask` says which products are no negatives of a query though they came with another:
    with "none" only its own, with "query" those that the log says it led to, with "title" also those whose title has
    all of its words, with "words" those whose title and queries have them together. `positives` "many" takes what the
    log says for positives instead of leaving it out, queries' words included.

    `chunk_size` is how many rows a device compares with the rest of the batch at a time, where pairs are many; 0 is all
    of its rows at once. It changes memory and time, not the loss.

    Matching: `qim` judges (query, title, picture) and `qim2` (query, picture) with `matching_layers` of a
    cross-encoder, on `matching_share` of the rows of a batch, each with a drawn negative for its query and its product.

    Masking: `mlm` predicts `mask_share` of the words of queries and titles, `mpm` the pixels and `mpm_r` the features
    of `patch_mask_share` of the patches, the latter against `patch_negatives` other patches.
    """

    qic: float = 1.0
    query_title: float = 0.0
    query_image: float = 0.0
    title_image: float = 0.0
    title_product: float = 0.0
    image_product: float = 0.0
    contrast: Literal["softmax", "sigmoid"] = "softmax"
    margin: float = 0.0
    scale: float = 20.0
    scale_max: float = 100.0
    bias: float = -10.0
    keyword_mask: Literal["none", "query", "title", "words"] = "query"
    positives: Literal["one", "many"] = "one"
    memory_size: int = 0
    hard_negatives: int = 0
    hard_negative_weight: float = 1.0
    log_q: float = 0.0
    chunk_size: int = 0
    qim: float = 0.0
    qim2: float = 0.0
    matching_layers: int = 1
    matching_share: float = 0.25
    mlm: float = 0.0
    mask_share: float = 0.15
    mpm: float = 0.0
    mpm_r: float = 0.0
    patch_mask_share: float = 0.4
    patch_negatives: int = 512
    gate_supervision: float = 0.0

    def __post_init__(self) -> None:
        at_least("objectives", 0.0, **{name: getattr(self, name) for name in OBJECTIVES})
        at_least("objectives", 0.0, margin=self.margin, memory_size=self.memory_size)
        at_least("objectives", 0, hard_negatives=self.hard_negatives, chunk_size=self.chunk_size)
        at_least("objectives", 1, matching_layers=self.matching_layers, patch_negatives=self.patch_negatives)
        require(
            any(getattr(self, name) for name in OBJECTIVES),
            "every weight of objectives is 0, so there is nothing to learn; set objectives.qic=1",
        )
        require(
            0 < self.scale < self.scale_max,
            f"objectives.scale is {self.scale}, but it must be above 0 and below objectives.scale_max {self.scale_max}",
        )
        require(0 <= self.log_q <= 1, f"objectives.log_q is {self.log_q}, but it must be from 0 (off) to 1 (all)")
        for name in ("matching_share", "mask_share", "patch_mask_share"):
            share = getattr(self, name)
            require(0 < share <= 1, f"objectives.{name} is {share}, but it must be above 0 and at most 1")
        self._check_sigmoid()
        self._check_hard_negatives()
        self._check_parts()
        require(
            self.positives == "one" or self.keyword_mask != "none",
            f"objectives.positives is {self.positives!r}, but with objectives.keyword_mask 'none' nothing is taken "
            "from the log; set objectives.keyword_mask=query or objectives.positives=one",
        )

    def _check_sigmoid(self) -> None:
        """The sigmoid judges every pair for itself: there is no positive to push ahead, and no sum to correct."""
        for name in ("margin", "log_q"):
            value = getattr(self, name)
            require(
                self.contrast == "softmax" or value == 0,
                f"objectives.{name} is {value}, but objectives.contrast is {self.contrast!r} and {name} belongs to the "
                f"softmax; set objectives.{name}=0 or objectives.contrast=softmax",
            )

    def _check_hard_negatives(self) -> None:
        weight, count = self.hard_negative_weight, self.hard_negatives
        require(
            weight > 0,
            f"objectives.hard_negative_weight is {weight}, but it must be above 0; to leave them out set "
            "objectives.hard_negatives=0",
        )
        require(
            weight == 1 or self.contrast == "softmax",
            f"objectives.hard_negative_weight is {weight}, but objectives.contrast is {self.contrast!r} and weighs "
            "every pair alike; set objectives.hard_negative_weight=1",
        )
        require(
            count == 0 or self.qic > 0,
            f"objectives.hard_negatives is {count}, but objectives.qic is 0 and nothing else uses them; set "
            "objectives.qic=1 or objectives.hard_negatives=0",
        )

    def _check_parts(self) -> None:
        teachers_of_both = self.qic > 0 or (self.query_title > 0 and self.query_image > 0)
        require(
            self.gate_supervision == 0 or teachers_of_both,
            f"objectives.gate_supervision is {self.gate_supervision}, but nothing teaches queries to rank by title and "
            "by picture; set objectives.qic=1 or objectives.gate_supervision=0",
        )
        require(
            self.memory_size == 0 or self.qic > 0,
            f"objectives.memory_size is {self.memory_size}, but objectives.qic is 0 and nothing else uses the memory; "
            "set objectives.qic=1 or objectives.memory_size=0",
        )
        for name, teachers in (("qim", ("qic",)), ("qim2", ("qic", "query_image"))):
            weight = getattr(self, name)
            require(
                weight == 0 or any(getattr(self, teacher) > 0 for teacher in teachers),
                f"objectives.{name} is {weight}, but objectives.{' and objectives.'.join(teachers)} "
                f"{'is' if len(teachers) == 1 else 'are'} 0: its negatives are drawn by a similarity that nothing "
                f"teaches; set objectives.{teachers[-1]}=1 or objectives.{name}=0",
            )
