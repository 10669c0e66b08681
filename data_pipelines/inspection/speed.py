"""How fast batches are made on this machine, without a model that uses them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from data_pipelines.augmentation import AugmentSpec
from data_pipelines.dataset import PreparedData
from data_pipelines.feed_settings import FeedOptions
from data_pipelines.input import train_batches
from data_pipelines.plans import TrainPlans

_WARM_UP = 2  # batches besides those kept ready, which pile up while the first one sets up the decoders
_BATCHES = 20
_SECONDS = 5.0


@dataclass(frozen=True)
class InputSpeed:
    """A short measurement.

    Attributes:
      examples: pairs that were made into batches.
      seconds: how long that took.
      epoch: pairs of an epoch.
    """

    examples: int
    seconds: float
    epoch: int

    @property
    def examples_per_second(self) -> float:
        """The speed."""
        return self.examples / self.seconds

    @property
    def epoch_seconds(self) -> float:
        """How long an epoch would take at this speed."""
        return self.epoch / self.examples_per_second


def input_speed(
    data: PreparedData, plans: TrainPlans, augment: AugmentSpec, options: FeedOptions, *, step: int = 0
) -> InputSpeed:
    """Times some 20 batches after a warm-up, or as many as come in 5 seconds; at least one."""
    with train_batches(data, plans, start_step=step, augment=augment, options=options) as batches:
        for _ in range(options.prefetch + _WARM_UP):
            next(batches)
        started = time.monotonic()
        made, seconds = 0, 0.0
        while made < _BATCHES and seconds < _SECONDS:
            next(batches)
            made, seconds = made + 1, time.monotonic() - started
    return InputSpeed(made * plans.share_size, seconds, plans.pairs_per_epoch)
