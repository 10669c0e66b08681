"""Typed, frozen configuration: what an experiment file returns and what a run directory stores.

Every section is a frozen dataclass. A section checks itself when it is made, so an impossible combination never
gets as far as the compiler. Its messages name whole keys, as `--set` takes them; a section that is used in several
places writes ".key" instead. `overrides.py`, which turns `--set a.b=c` and stored JSON into these classes, knows the
place and completes them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from make_jax.errors import UserError

SEEDS = 2**32  # jax would silently cut longer ones to 32 bits


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise UserError(message)


def _at_least(section: str, minimum: float, **values: float) -> None:
    for name, value in values.items():
        _require(value >= minimum, f"{section}.{name} is {value}, but it must be at least {minimum}")


def _share(section: str, **values: float) -> None:
    for name, value in values.items():
        _require(0.0 <= value < 1.0, f"{section}.{name} is {value}, but a share must be in [0, 1)")


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return bool(text)


@dataclass(frozen=True)
class TransformerConfig:
    """One stack of pre-norm transformer blocks."""

    layers: int = 2
    width: int = 128
    heads: int = 4
    mlp_ratio: int = 4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _at_least("", 0, layers=self.layers)
        _at_least("", 1, width=self.width, heads=self.heads, mlp_ratio=self.mlp_ratio)
        _share("", dropout=self.dropout)
        _require(
            self.width % self.heads == 0,
            f".width {self.width} is not divisible by .heads {self.heads}; "
            "choose a width that is a multiple of the heads",
        )


@dataclass(frozen=True)
class TextConfig:
    """A text encoder: token and position embeddings, then a transformer."""

    max_tokens: int = 32
    transformer: TransformerConfig = field(default_factory=TransformerConfig)

    def __post_init__(self) -> None:
        _at_least("", 3, max_tokens=self.max_tokens)


@dataclass(frozen=True)
class ImageConfig:
    """The picture tower: a ViT over square patches, or a transformer over region features.

    Up to `max_images` pictures of a product, the main one first, are seen together. `stem` is "patch" (one linear map
    per patch, as in ViT), "hierarchical" (an MLP that joins 4×4 pixels, then 2×2 cells until a cell is a patch; Touvron
    et al. 2022, "Three things everyone should know about Vision Transformers", hMLP), which learns small pictures
    better and costs little, or "regions": products come with up to `max_regions` features of regions, made by a
    detector, in place of pixels. `region_width` F is left to the data.
    """

    height: int = 80
    width: int = 64
    patch: int = 16
    max_images: int = 1
    max_regions: int = 36
    region_width: int | None = None
    stem: Literal["patch", "hierarchical", "regions"] = "hierarchical"
    transformer: TransformerConfig = field(default_factory=TransformerConfig)

    def __post_init__(self) -> None:
        _at_least("model.image", 1, height=self.height, width=self.width, patch=self.patch)
        _at_least("model.image", 1, max_images=self.max_images, max_regions=self.max_regions)
        for side, pixels in (("height", self.height), ("width", self.width)):
            _require(
                pixels % self.patch == 0,
                f"model.image.{side} {pixels} is not divisible by model.image.patch {self.patch}; "
                f"use {pixels // self.patch * self.patch or self.patch} or another patch",
            )
        if self.stem == "hierarchical":
            _require(
                self.patch >= 4 and self.patch & (self.patch - 1) == 0,
                f"model.image.patch is {self.patch}, but the hierarchical stem doubles cells of 4 pixels; use 4, 8, 16 "
                "or 32, or model.image.stem=patch",
            )

    @property
    def images(self) -> int:
        """I, how many pictures of a product there may be; regions are all of one."""
        return 1 if self.stem == "regions" else self.max_images

    @property
    def patches(self) -> int:
        """P, the number of patches of a picture."""
        return (self.height // self.patch) * (self.width // self.patch)

    @property
    def stem_steps(self) -> tuple[int, ...]:
        """By how much each step of the stem enlarges a cell; the product is the patch."""
        if self.stem == "patch":
            return (self.patch,)
        return (4,) + (2,) * (self.patch.bit_length() - 3)


@dataclass(frozen=True)
class FusionConfig:
    """Cross-modal layers and the way a title and pictures become one vector.

    `kind`:
      "modal_adaptation" learns a weight for title and picture per product; "mean" fixes them; "vector_gate" learns a
      weight per product and dimension; "concat" maps both, side by side, to one vector; "joint" averages all states of
      title and pictures after the cross-modal layers, without a gate; "cross_attention" is "modal_adaptation" whose
      layers let each side attend to the other only. The last two need `layers` ≥ 1.
    `layers` counts the cross-modal layers, of the title tower's sort. `gate_input`: the gate sees "vectors", the unit
    vectors that are weighed, or "states", the pooled states they are projections of, whose sizes may tell more.
    `text_weight` is the title's weight where both are there: always for "mean", to begin with for a gate.
    `modality_dropout` is the share of training products that lose one of their two modalities, so that neither tower
    leans on the other; of these, `dropped_pictures` lose the picture, the rest the title.
    """

    kind: Literal["modal_adaptation", "mean", "concat", "vector_gate", "joint", "cross_attention"] = "modal_adaptation"
    layers: int = 1
    gate_width: int = 64
    gate_input: Literal["vectors", "states"] = "vectors"
    text_weight: float = 0.5
    modality_dropout: float = 0.0
    dropped_pictures: float = 0.5

    def __post_init__(self) -> None:
        _at_least("model.fusion", 0, layers=self.layers)
        _at_least("model.fusion", 1, gate_width=self.gate_width)
        _share("model.fusion", modality_dropout=self.modality_dropout)
        _require(
            0 <= self.dropped_pictures <= 1,
            f"model.fusion.dropped_pictures is {self.dropped_pictures}, but a share of the products that lose a "
            "modality is in [0, 1]",
        )
        _require(
            0 < self.text_weight < 1,
            f"model.fusion.text_weight is {self.text_weight}, but it must be above 0 and below 1; for titles or "
            "pictures alone set model.modalities",
        )
        _require(
            self.layers > 0 or self.kind not in ("joint", "cross_attention"),
            f"model.fusion.kind is {self.kind!r}, but model.fusion.layers is 0, so title and picture never meet; set "
            "model.fusion.layers=1 or another kind",
        )
        _require(
            self.text_weight == 0.5 or self.kind not in ("joint", "concat"),
            f"model.fusion.text_weight is {self.text_weight}, but model.fusion.kind {self.kind!r} has no weight "
            "to set; leave it at 0.5 or choose another kind",
        )


@dataclass(frozen=True)
class ModelConfig:
    """The MAKE model: query tower | title tower + picture tower → cross-modal layers → Modal Adaptation.

    `vocab_size` None takes the tokenizer's; a run directory always stores the number. `pad_id` is its padding
    token: 0 for the ones that `prepare` trains, 1 for RoBERTa's kin. `embedding` is E. With `modalities` "title" or
    "image" a product is that alone: the other tower and the fusion do not exist. `shared_text` makes one encoder of
    the query's and the title's; their projections stay apart.
    """

    vocab_size: int | None = None
    pad_id: int = 0
    embedding: int = 128
    modalities: Literal["both", "title", "image"] = "both"
    shared_text: bool = False
    query: TextConfig = field(default_factory=lambda: TextConfig(max_tokens=16))
    title: TextConfig = field(default_factory=TextConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)

    def __post_init__(self) -> None:
        _at_least("model", 1, embedding=self.embedding)
        _at_least("model", 0, pad_id=self.pad_id)
        _require(
            self.vocab_size is None or self.pad_id < self.vocab_size,
            f"model.pad_id is {self.pad_id}, but the ids of model.vocab_size {self.vocab_size} end before it; "
            "take both from the tokenizer",
        )
        title, picture = self.title.transformer.width, self.image.transformer.width
        _require(
            title == picture or self.fusion.layers == 0 or self.modalities != "both",
            f"model.title.transformer.width {title} differs from model.image.transformer.width {picture}, but "
            f"the {self.fusion.layers} cross-modal layers need one width; make them equal or set "
            "model.fusion.layers=0",
        )
        if self.shared_text:
            self._check_shared_text()

    def _check_shared_text(self) -> None:
        _require(
            self.modalities != "image",
            "model.shared_text is True, but model.modalities 'image' has no title to share an encoder with; set "
            "model.shared_text=false",
        )
        query, title = self.query.transformer, self.title.transformer
        for key in ("layers", "width", "heads", "mlp_ratio", "dropout"):
            one, other = getattr(query, key), getattr(title, key)
            _require(
                one == other,
                f"model.query.transformer.{key} {one} differs from model.title.transformer.{key} {other}, but "
                "model.shared_text makes one encoder of them; make them equal or set model.shared_text=false",
            )

    @property
    def text(self) -> TextConfig:
        """The one encoder of `shared_text`, with positions for the longer of the two texts."""
        return max(self.query, self.title, key=lambda config: config.max_tokens)

    @property
    def has_title(self) -> bool:
        """Whether products are seen through their titles."""
        return self.modalities != "image"

    @property
    def has_image(self) -> bool:
        """Whether products are seen through their pictures."""
        return self.modalities != "title"


CONTRASTS = ("qic", "query_title", "query_image", "title_image", "title_product", "image_product")
OBJECTIVES = (*CONTRASTS, "qim", "qim2", "mlm", "mpm", "mpm_r")


@dataclass(frozen=True)
class ObjectivesConfig:
    """Weights and constants of the pre-training objectives; a weight of 0 turns one off, at no cost.

    Contrasts: `qic` of queries with fused products; `query_title` and `query_image` with each modality alone;
    `title_image` (TIC), `title_product` and `image_product` among a product's own parts. `contrast` is the form of all:
    "softmax", from which `margin` m makes AM-softmax, or "sigmoid" (SigLIP), whose learned bias starts at `bias`. The
    inverse temperature s starts at `scale` and is learned up to `scale_max`. `memory_size` past product vectors are
    further negatives of the queries in `qic`. `log_q`, from 0 to 1, is how much of the popularity that batches are
    drawn by is taken off the negatives' logits (softmax only).

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
    memory_size: int = 0
    log_q: float = 0.0
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

    def __post_init__(self) -> None:
        _at_least("objectives", 0.0, **{name: getattr(self, name) for name in OBJECTIVES})
        _at_least("objectives", 0.0, margin=self.margin, memory_size=self.memory_size)
        _at_least("objectives", 1, matching_layers=self.matching_layers, patch_negatives=self.patch_negatives)
        _require(
            any(getattr(self, name) for name in OBJECTIVES),
            "every weight of objectives is 0, so there is nothing to learn; set objectives.qic=1",
        )
        _require(
            0 < self.scale < self.scale_max,
            f"objectives.scale is {self.scale}, but it must be above 0 and below objectives.scale_max {self.scale_max}",
        )
        _require(0 <= self.log_q <= 1, f"objectives.log_q is {self.log_q}, but it must be from 0 (off) to 1 (all)")
        for name in ("matching_share", "mask_share", "patch_mask_share"):
            share = getattr(self, name)
            _require(0 < share <= 1, f"objectives.{name} is {share}, but it must be above 0 and at most 1")
        self._check_sigmoid()
        self._check_parts()

    def _check_sigmoid(self) -> None:
        """The sigmoid judges every pair for itself: there is no positive to push ahead, and no sum to correct."""
        for name in ("margin", "log_q"):
            value = getattr(self, name)
            _require(
                self.contrast == "softmax" or value == 0,
                f"objectives.{name} is {value}, but objectives.contrast is {self.contrast!r} and {name} belongs to the "
                f"softmax; set objectives.{name}=0 or objectives.contrast=softmax",
            )

    def _check_parts(self) -> None:
        _require(
            self.memory_size == 0 or self.qic > 0,
            f"objectives.memory_size is {self.memory_size}, but objectives.qic is 0 and nothing else uses the memory; "
            "set objectives.qic=1 or objectives.memory_size=0",
        )
        for name, teachers in (("qim", ("qic",)), ("qim2", ("qic", "query_image"))):
            weight = getattr(self, name)
            _require(
                weight == 0 or any(getattr(self, teacher) > 0 for teacher in teachers),
                f"objectives.{name} is {weight}, but objectives.{' and objectives.'.join(teachers)} "
                f"{'is' if len(teachers) == 1 else 'are'} 0: its negatives are drawn by a similarity that nothing "
                f"teaches; set objectives.{teachers[-1]}=1 or objectives.{name}=0",
            )


@dataclass(frozen=True)
class DataConfig:
    """How batches are drawn and pictures are changed while training.

    A pair is drawn with probability ∝ (clicks + purchase_weight · purchases) ** popularity_power, halved for every
    `recency_half_life` days that its last click is older than the log's end (None: age does not matter). `cold_share`
    of the draws show products that nobody clicked yet, under short queries made from their titles. `product_queries`
    is M: how many of the queries that a product was clicked under travel with it, so that it is never taken as their
    negative.

    Pictures: `crop` is the smallest share of a picture's area that augmentation keeps and `aspect` how much it may be
    stretched (1 = not at all). `flip` mirrors half the pictures: off, because letters and logos matter. `brightness`,
    `contrast`, `saturation` and `hue` vary colours by up to that share: off, because shoppers ask for colours.

    `length_multiple` pads texts only to the longest of their batch, rounded up to a multiple (0: always the same
    length; each new length is compiled once). Damaged records are left out up to `max_bad_share` of the products, then
    training stops, as it does when reading takes longer than `stall_seconds`.
    """

    popularity_power: float = 0.75
    purchase_weight: float = 1.0
    recency_half_life: float | None = None
    cold_share: float = 0.05
    product_queries: int = 64
    crop: float = 1.0
    aspect: float = 1.0
    flip: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    length_multiple: int = 0
    prefetch: int = 4
    max_bad_share: float = 0.001
    stall_seconds: float = 300.0

    def __post_init__(self) -> None:
        _at_least("data", 0.0, popularity_power=self.popularity_power, purchase_weight=self.purchase_weight)
        _at_least("data", 1, product_queries=self.product_queries, prefetch=self.prefetch)
        _at_least("data", 0, length_multiple=self.length_multiple)
        _at_least("data", 1.0, aspect=self.aspect)
        _share("data", cold_share=self.cold_share, max_bad_share=self.max_bad_share)
        _share("data", brightness=self.brightness, contrast=self.contrast, saturation=self.saturation)
        _require(0 < self.crop <= 1, f"data.crop is {self.crop}, but the share of a picture kept is in (0, 1]")
        _require(0 <= self.hue <= 0.5, f"data.hue is {self.hue}, but hues are turned by at most half a circle, 0.5")
        _require(self.stall_seconds > 0, f"data.stall_seconds is {self.stall_seconds}, but it must be above 0")
        _require(
            self.recency_half_life is None or self.recency_half_life > 0,
            f"data.recency_half_life is {self.recency_half_life}, but days to half a weight must be above 0; "
            "use none to ignore age",
        )


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up over `warmup_share` of the steps, cosine decay and clipping by global norm.

    Norms, biases, embeddings and the temperature are not decayed.

    For fine-tuning, by regular expressions that are searched for in the paths of parameters, such as
    "title/transformer/layer_0/up/kernel": what `frozen` finds stays as it is; `rates` pairs a pattern with a factor of
    the learning rate, and the first that is found counts. `layer_decay` multiplies the learning rate of a layer once
    for each layer above it and itself, so that the first ones learn slowest; heads, projections and gates keep theirs.
    """

    learning_rate: float = 1e-3
    warmup_share: float = 0.1
    final_share: float = 0.01
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.98
    clip_norm: float = 1.0
    frozen: tuple[str, ...] = ()
    rates: tuple[tuple[str, float], ...] = ()
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        for key, pattern in [("frozen", p) for p in self.frozen] + [("rates", p) for p, _ in self.rates]:
            _require(_is_pattern(pattern), f"optimizer.{key} has {pattern!r}, but that is no regular expression")
        for pattern, factor in self.rates:
            _require(
                factor > 0,
                f"optimizer.rates gives {pattern!r} {factor}, but it must be above 0; to leave parameters as they are "
                "use optimizer.frozen",
            )
        _require(
            0 < self.layer_decay <= 1,
            f"optimizer.layer_decay is {self.layer_decay}, but it must be above 0 and at most 1, which is off",
        )
        _require(self.learning_rate > 0, f"optimizer.learning_rate is {self.learning_rate}, but it must be above 0")
        _require(self.clip_norm > 0, f"optimizer.clip_norm is {self.clip_norm}, but it must be above 0")
        _at_least("optimizer", 0, weight_decay=self.weight_decay)
        _share("optimizer", beta1=self.beta1, beta2=self.beta2)
        _share("optimizer", warmup_share=self.warmup_share, final_share=self.final_share)


@dataclass(frozen=True)
class MeshConfig:
    """Devices by axis: `data` and `fsdp` split the batch, `fsdp` and `tensor` split parameters.

    `data` = 0 takes every device that the other axes leave.
    """

    data: int = 0
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        _at_least("mesh", 0, data=self.data)
        _at_least("mesh", 1, fsdp=self.fsdp, tensor=self.tensor)

    def sizes(self, devices: int) -> tuple[int, int, int]:
        """(data, fsdp, tensor) on this many devices; raises UserError where they do not come out even."""
        rest = self.fsdp * self.tensor
        _require(
            devices % rest == 0,
            f"mesh.fsdp {self.fsdp} × mesh.tensor {self.tensor} = {rest} does not divide the number of devices, "
            f"which is {devices}; change one of them",
        )
        data = self.data or devices // rest
        _require(
            data * rest == devices,
            f"mesh.data {data} × mesh.fsdp {self.fsdp} × mesh.tensor {self.tensor} = {data * rest}, but there are "
            f"{devices} devices; set mesh.data={devices // rest}, or mesh.data=0 to take what the other axes leave",
        )
        return data, self.fsdp, self.tensor


@dataclass(frozen=True)
class TrainingConfig:
    """Length, batch and habits of a run; `batch_size` is the global number of pairs of a step.

    0 turns `eval_every` or `checkpoint_every` off but for the end of the run. `init_from` is a run directory whose
    parameters a fresh run starts with, where path and shape are the same; DIRECTORY@STEP takes those of a checkpoint.
    """

    steps: int = 1000
    batch_size: int = 256
    seed: int = 0
    log_every: int = 10
    eval_every: int = 0
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    eval_batch_size: int = 256
    init_from: str | None = None

    def __post_init__(self) -> None:
        _at_least("training", 2, batch_size=self.batch_size)
        _at_least("training", 1, steps=self.steps, log_every=self.log_every, eval_batch_size=self.eval_batch_size)
        _at_least("training", 1, keep_checkpoints=self.keep_checkpoints)
        _at_least("training", 0, eval_every=self.eval_every, checkpoint_every=self.checkpoint_every)
        _require(0 <= self.seed < SEEDS, f"training.seed is {self.seed}, but a seed is from 0 to {SEEDS - 1}")

    def check_mesh(self, data: int, fsdp: int) -> None:
        """Refuse a batch that the mesh cannot share out evenly."""
        shards = data * fsdp
        _require(
            self.batch_size % shards == 0,
            f"training.batch_size {self.batch_size} is not divisible by mesh.data {data} × mesh.fsdp {fsdp} = "
            f"{shards}; use {max(self.batch_size // shards, 1) * shards} or another mesh",
        )


@dataclass(frozen=True)
class Experiment:
    """All that defines a training run, besides the data."""

    name: str
    model: ModelConfig = field(default_factory=ModelConfig)
    objectives: ObjectivesConfig = field(default_factory=ObjectivesConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        _require(bool(self.name.strip()), "name is empty; give the experiment a name")
        self._check_objectives()
        self._check_modalities()

    def _check_modalities(self) -> None:
        needs_title, needs_image = (
            ("query_title", "title_image", "title_product"),
            ("query_image", "title_image", "image_product", "qim2", "mpm", "mpm_r"),
        )
        for names, there in ((needs_title, self.model.has_title), (needs_image, self.model.has_image)):
            for name in names:
                weight = getattr(self.objectives, name)
                _require(
                    weight == 0 or there,
                    f"objectives.{name} is {weight}, but with model.modalities {self.model.modalities!r} there is no "
                    f"such vector; set objectives.{name}=0",
                )

    def _check_objectives(self) -> None:
        objectives, batch, image = self.objectives, self.training.batch_size, self.model.image
        _require(
            objectives.memory_size % batch == 0,
            f"objectives.memory_size {objectives.memory_size} is not a multiple of training.batch_size {batch}; "
            f"it keeps whole batches: use {max(1, round(objectives.memory_size / batch)) * batch}",
        )
        for name in ("mpm", "mpm_r"):
            weight, seen = getattr(objectives, name), image.max_regions if image.stem == "regions" else image.patches
            _require(
                weight == 0 or seen > 1,
                f"objectives.{name} is {weight}, but a picture is {seen} patch, so nothing is left to tell a hidden "
                f"one from; use a smaller model.image.patch or objectives.{name}=0",
            )
