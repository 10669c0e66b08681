"""Settings of the model: towers, fusion, and what products are seen through."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from make_jax.config.checks import at_least, require, share

SCALAR_GATES = ("modal_adaptation", "cross_attention")  # kinds of fusion that weigh title against picture


@dataclass(frozen=True)
class TransformerConfig:
    """One stack of pre-norm transformer blocks."""

    layers: int = 2
    width: int = 128
    heads: int = 4
    mlp_ratio: int = 4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        at_least("", 0, layers=self.layers)
        at_least("", 1, width=self.width, heads=self.heads, mlp_ratio=self.mlp_ratio)
        share("", dropout=self.dropout)
        require(
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
        at_least("", 3, max_tokens=self.max_tokens)


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
        at_least("model.image", 1, height=self.height, width=self.width, patch=self.patch)
        at_least("model.image", 1, max_images=self.max_images, max_regions=self.max_regions)
        for side, pixels in (("height", self.height), ("width", self.width)):
            require(
                pixels % self.patch == 0,
                f"model.image.{side} {pixels} is not divisible by model.image.patch {self.patch}; "
                f"use {pixels // self.patch * self.patch or self.patch} or another patch",
            )
        if self.stem == "hierarchical":
            require(
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
        at_least("model.fusion", 0, layers=self.layers)
        at_least("model.fusion", 1, gate_width=self.gate_width)
        share("model.fusion", modality_dropout=self.modality_dropout)
        require(
            0 <= self.dropped_pictures <= 1,
            f"model.fusion.dropped_pictures is {self.dropped_pictures}, but a share of the products that lose a "
            "modality is in [0, 1]",
        )
        require(
            0 < self.text_weight < 1,
            f"model.fusion.text_weight is {self.text_weight}, but it must be above 0 and below 1; for titles or "
            "pictures alone set model.modalities",
        )
        require(
            self.layers > 0 or self.kind not in ("joint", "cross_attention"),
            f"model.fusion.kind is {self.kind!r}, but model.fusion.layers is 0, so title and picture never meet; set "
            "model.fusion.layers=1 or another kind",
        )
        require(
            self.text_weight == 0.5 or self.kind not in ("joint", "concat"),
            f"model.fusion.text_weight is {self.text_weight}, but model.fusion.kind {self.kind!r} has no weight "
            "to set; leave it at 0.5 or choose another kind",
        )


@dataclass(frozen=True)
class SideConfig:
    """Learned vectors of a product's id and category, added to its unit vector after the fusion.

    `columns` of the product table have one, "product_id" and "category"; none: there are no such vectors. Of a
    category such as "Apparel > Topwear > Tshirts" each level is a value of its own, and their vectors are summed.
    Values share `buckets` vectors a column by a hash, which start at zero. A value that training never met has the
    vector of a bucket that one of n others was trained in with probability 1 - (1 - 1/buckets)^n, about n / buckets;
    two given values share one with probability 1/buckets. `dropout` is the share of training products that go without,
    so that the rest of the model does not lean on them.
    """

    columns: tuple[str, ...] = ()
    buckets: int = 65536
    dropout: float = 0.5

    def __post_init__(self) -> None:
        require(
            1 <= self.buckets < 2**31,
            f"model.side.buckets is {self.buckets}, but it must be at least 1 and below 2^31; use 65536",
        )
        share("model.side", dropout=self.dropout)
        twice = [column for column in self.columns if self.columns.count(column) > 1]
        require(not twice, f"model.side.columns has {''.join(twice[:1])!r} twice; name each column once")


@dataclass(frozen=True)
class ModelConfig:
    """The MAKE model: query tower | title tower + picture tower → cross-modal layers → Modal Adaptation.

    `vocab_size` None takes the tokenizer's; a run directory always stores the number. `pad_id` is its padding
    token: 0 for the ones that `prepare` trains, 1 for RoBERTa's kin. `embedding` is E. With `modalities` "title" or
    "image" a product is that alone: the other tower and the fusion do not exist. `shared_text` makes one encoder of
    the query's and the title's; their projections stay apart. `shared_tokens` gives the two towers one table of
    tokens, so that a word has one meaning to begin with, which each reads in its own way. `side` joins what a product
    is to what is seen of it.
    """

    vocab_size: int | None = None
    pad_id: int = 0
    embedding: int = 128
    modalities: Literal["both", "title", "image"] = "both"
    shared_text: bool = False
    shared_tokens: bool = False
    query: TextConfig = field(default_factory=lambda: TextConfig(max_tokens=16))
    title: TextConfig = field(default_factory=TextConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    side: SideConfig = field(default_factory=SideConfig)

    def __post_init__(self) -> None:
        at_least("model", 1, embedding=self.embedding)
        at_least("model", 0, pad_id=self.pad_id)
        require(
            self.vocab_size is None or self.pad_id < self.vocab_size,
            f"model.pad_id is {self.pad_id}, but the ids of model.vocab_size {self.vocab_size} end before it; "
            "take both from the tokenizer",
        )
        title, picture = self.title.transformer.width, self.image.transformer.width
        require(
            title == picture or self.fusion.layers == 0 or self.modalities != "both",
            f"model.title.transformer.width {title} differs from model.image.transformer.width {picture}, but "
            f"the {self.fusion.layers} cross-modal layers need one width; make them equal or set "
            "model.fusion.layers=0",
        )
        if self.shared_text:
            self._check_shared_text()
        if self.shared_tokens:
            self._check_shared_tokens()

    def _check_shared_text(self) -> None:
        require(
            self.modalities != "image",
            "model.shared_text is True, but model.modalities 'image' has no title to share an encoder with; set "
            "model.shared_text=false",
        )
        query, title = self.query.transformer, self.title.transformer
        for key in ("layers", "width", "heads", "mlp_ratio", "dropout"):
            one, other = getattr(query, key), getattr(title, key)
            require(
                one == other,
                f"model.query.transformer.{key} {one} differs from model.title.transformer.{key} {other}, but "
                "model.shared_text makes one encoder of them; make them equal or set model.shared_text=false",
            )

    def _check_shared_tokens(self) -> None:
        require(
            self.modalities != "image",
            "model.shared_tokens is True, but model.modalities 'image' has no title to share a table with; set "
            "model.shared_tokens=false",
        )
        require(
            not self.shared_text,
            "model.shared_tokens is True, but model.shared_text makes one encoder of both, table included; set one of "
            "them to false",
        )
        query, title = self.query.transformer.width, self.title.transformer.width
        require(
            query == title,
            f"model.query.transformer.width {query} differs from model.title.transformer.width {title}, but "
            "model.shared_tokens gives both one table; make them equal or set model.shared_tokens=false",
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
