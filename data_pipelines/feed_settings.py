"""What a training run asks of its batches: their sizes, which pairs are drawn, and how they are made ahead of time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.side_ids import SideColumns


@dataclass(frozen=True)
class BatchShape:
    """Sizes of a batch, and what else of the products it tells.

    Attributes:
      max_query_tokens: Q, at least 3.
      max_title_tokens: T, at least 3.
      image_size: (H, W) in pixels.
      num_images: I, how many pictures of a product are used; 0 with region features.
      num_regions: R, how many regions of a product are used; 0 with pictures.
      length_multiple: shorten the texts of a batch to the longest in it, rounded up to a multiple of this; 0 always
        pads to Q and T. The whole batch decides, so all hosts agree; each length is compiled once.
      side: the columns of the product table that come as side_ids.

    Raises:
      DataError: sizes that cannot be.
    """

    max_query_tokens: int
    max_title_tokens: int
    image_size: tuple[int, int]
    num_images: int = 1
    num_regions: int = 0
    length_multiple: int = 0
    side: SideColumns = field(default_factory=SideColumns)

    def __post_init__(self) -> None:
        at_least(3, max_query_tokens=self.max_query_tokens, max_title_tokens=self.max_title_tokens)
        at_least(0, num_images=self.num_images, num_regions=self.num_regions, length_multiple=self.length_multiple)
        if (self.num_images == 0) == (self.num_regions == 0):
            raise DataError(
                f"num_images={self.num_images} and num_regions={self.num_regions}: a product is seen through its "
                "pictures or through region features; one of the two must be 0"
            )

    def check_kind(self, source: str, region_width: int) -> None:
        """Raises DataError where pictures are asked for and products have region features, or the other way round."""
        if (self.num_regions > 0) != (region_width > 0):
            found = f"region features of width {region_width}" if region_width else "pictures"
            raise DataError(
                f"{source} has {found}, but num_images={self.num_images} and num_regions={self.num_regions} are asked "
                f"for; ask for {'regions' if region_width else 'images'} only"
            )

    def padded(self, lengths: np.ndarray, longest: int) -> int:
        """To how many tokens texts of these lengths are padded, `longest` at the most."""
        if self.length_multiple == 0:
            return longest
        steps = -(-int(lengths.max(initial=3)) // self.length_multiple)
        return min(longest, max(3, steps * self.length_multiple))


@dataclass(frozen=True)
class Sampling:
    """Which pairs are drawn, and how often; see `order.pair_weights`, `order.with_swaps` and `order.with_cold`.

    Attributes:
      batch_size: of the global batch.
      seed: of the order and of the augmentation, at least 0.
      popularity_power: damps popular pairs; 1 follows the log, 0 ignores it.
      purchase_weight: how many clicks a purchase is worth on top of its own.
      recency_half_life: in days; None takes old clicks for as good as new ones.
      cold_share: of all draws, the share that shows products nobody clicked yet, under queries made from their titles;
        without any clicks these are all there is.
      pseudo_share: of all draws, the share that shows any product, clicked or not, under such queries.
      query_swap: of the draws from the log, the share that shows another of the product's queries instead.
      further_queries: K, how many others of the product's queries come with each draw.
      max_product_queries: M.
      max_product_words: W; 0 for no product_word_keys.
    """

    batch_size: int
    seed: int
    popularity_power: float = 0.75
    purchase_weight: float = 1.0
    recency_half_life: float | None = None
    cold_share: float = 0.0
    pseudo_share: float = 0.0
    query_swap: float = 0.0
    further_queries: int = 0
    max_product_queries: int = 64
    max_product_words: int = 0


@dataclass(frozen=True)
class FeedOptions:
    """How batches are made ahead of time, and how much damage is borne.

    Attributes:
      threads: decoding threads; None for one per core.
      prefetch: batches kept ready.
      max_bad_share: of all products, the share that may be damaged and left out; above it reading stops.
      stall_seconds: how long reading may take before it counts as hanging.

    Raises:
      DataError: nothing is to be kept ready.
    """

    threads: int | None = None
    prefetch: int = 2
    max_bad_share: float = 0.001
    stall_seconds: float = 300.0

    def __post_init__(self) -> None:
        at_least(1, prefetch=self.prefetch)


def at_least(minimum: int, **values: int) -> None:
    """Raises DataError for a value below `minimum`, naming it."""
    for name, value in values.items():
        if value < minimum:
            raise DataError(f"{name}={value} must be at least {minimum}")
