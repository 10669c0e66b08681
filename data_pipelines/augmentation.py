"""How pictures are varied in training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from data_pipelines.errors import DataError


@dataclass(frozen=True)
class AugmentSpec:
    """How pictures are varied; by default not at all.

    A random part of the picture is cut out and enlarged, which costs no meaning: a shirt is a shirt from any distance.
    The rest is off by default, because what it changes is what shoppers ask for: mirroring reverses prints, logos and
    letters, stretching changes cuts, and another hue or brightness makes a navy shirt a blue or a purple one.

    Attributes:
      min_scale: the part's area is between this share of the picture and all of it. 0 < min_scale <= 1, 1 keeps all.
      aspect: the part's sides are stretched against each other by a factor between 1 / aspect and aspect, at least 1;
        1 keeps the shape.
      flip: mirror every second picture, left to right, at random.
      brightness: what is added to all levels is between minus and plus this share of the full range, in [0, 1].
      contrast: distances from the mean level are multiplied by a factor between 1 - contrast and 1 + contrast, in
        [0, 1].
      saturation: likewise the distance from grey, in [0, 1].
      hue: colours are turned by up to this part of the colour circle, either way, in [0, 0.5].

    Raises:
      DataError: a value out of bounds.
    """

    min_scale: float = 1.0
    aspect: float = 1.0
    flip: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.min_scale <= 1:
            raise DataError(f"min_scale={self.min_scale} must be above 0 and at most 1")
        if not 1 <= self.aspect < math.inf:
            raise DataError(f"aspect={self.aspect} must be at least 1, the shape's own")
        for name, most in (("brightness", 1.0), ("contrast", 1.0), ("saturation", 1.0), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= most:
                raise DataError(f"{name}={getattr(self, name)} must be between 0 and {most}")

    @property
    def crops(self) -> bool:
        """Whether a part is cut out."""
        return self.min_scale < 1 or self.aspect > 1

    @property
    def colours(self) -> bool:
        """Whether colours are changed."""
        return max(self.brightness, self.contrast, self.saturation, self.hue) > 0


NO_AUGMENT = AugmentSpec()
