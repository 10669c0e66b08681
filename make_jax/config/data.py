"""Settings of how batches are drawn and pictures are changed."""

from __future__ import annotations

from dataclasses import dataclass

from make_jax.config.checks import at_least, require, share


@dataclass(frozen=True)
class DataConfig:
    """How batches are drawn and pictures are changed while training.

    A pair is drawn with probability ∝ (clicks + purchase_weight · purchases) ** popularity_power, halved for every
    `recency_half_life` days that its last click is older than the log's end (None: age does not matter). `cold_share`
    of the draws show products that nobody clicked yet, under short queries made from their titles; `pseudo_share` of
    the draws show any product so. `query_swap` of the draws from the log show a product under another of its queries,
    each as likely. `further_queries` is how many others of the product's queries come with each pair, drawn like it and
    contrasted with the same products, which are encoded once for all of them. Of the queries shown, `query_drop` lose a
    word and `query_shuffle` have their words reordered, if they have two or more. `product_queries` is M: how many of
    the queries that a product was clicked under travel with it, so that it is never taken as their negative;
    `product_words`, how many different words of these with objectives.keyword_mask=words.

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
    pseudo_share: float = 0.0
    query_swap: float = 0.0
    further_queries: int = 0
    query_drop: float = 0.0
    query_shuffle: float = 0.0
    product_queries: int = 64
    product_words: int = 32
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
        at_least("data", 0.0, popularity_power=self.popularity_power, purchase_weight=self.purchase_weight)
        at_least("data", 1, product_queries=self.product_queries, product_words=self.product_words)
        at_least("data", 1, prefetch=self.prefetch)
        at_least("data", 0, length_multiple=self.length_multiple, further_queries=self.further_queries)
        at_least("data", 1.0, aspect=self.aspect)
        share("data", cold_share=self.cold_share, pseudo_share=self.pseudo_share, max_bad_share=self.max_bad_share)
        require(
            self.cold_share + self.pseudo_share < 1,
            f"data.cold_share is {self.cold_share} and data.pseudo_share {self.pseudo_share}, which leaves no draws to "
            "the log; lower one of them",
        )
        for name in ("query_swap", "query_drop", "query_shuffle"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"data.{name} is {value}, but it is a share of the queries, in [0, 1]")
        share("data", brightness=self.brightness, contrast=self.contrast, saturation=self.saturation)
        require(0 < self.crop <= 1, f"data.crop is {self.crop}, but the share of a picture kept is in (0, 1]")
        require(0 <= self.hue <= 0.5, f"data.hue is {self.hue}, but hues are turned by at most half a circle, 0.5")
        require(self.stall_seconds > 0, f"data.stall_seconds is {self.stall_seconds}, but it must be above 0")
        require(
            self.recency_half_life is None or self.recency_half_life > 0,
            f"data.recency_half_life is {self.recency_half_life}, but days to half a weight must be above 0; "
            "use none to ignore age",
        )
