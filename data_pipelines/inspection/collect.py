"""Everything that an inspection finds out, gathered."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from data_pipelines.augmentation import AugmentSpec
from data_pipelines.dataset import PreparedData
from data_pipelines.feed_settings import BatchShape, FeedOptions, Sampling, at_least
from data_pipelines.inspection.contents import Contents, read_contents
from data_pipelines.inspection.examples import Example, training_examples
from data_pipelines.inspection.scan import Scan, scan_products
from data_pipelines.inspection.speed import InputSpeed, input_speed
from data_pipelines.plans import TrainPlans
from data_pipelines.query_arrays import QueryOutput


@dataclass(frozen=True)
class Inspection:
    """What is known of prepared data.

    Attributes:
      contents: what its tables and files say.
      scan: what reading its products one by one shows.
      sampling: how training draws from it.
      shape: the sizes that training uses.
      augment: how training varies the pictures.
      step: the training step that the examples are of.
      examples: the first pairs of that step's batch.
      speed: of the input alone; None, and no examples, where there is nothing to train on.
    """

    contents: Contents
    scan: Scan
    sampling: Sampling
    shape: BatchShape
    augment: AugmentSpec
    step: int
    examples: list[Example]
    speed: InputSpeed | None

    @property
    def queries_cut(self) -> float:
        """Of the queries that shoppers typed, the share that is longer than Q."""
        return _share_above(self.contents.query_tokens, self.shape.max_query_tokens)

    @property
    def titles_cut(self) -> float:
        """Of the titles, the share that is longer than T."""
        return _share_above(self.contents.title_tokens, self.shape.max_title_tokens)

    def text(self) -> str:
        """Some lines for people."""
        contents, scan = self.contents, self.scan
        set_aside = sum(group.rows for group in contents.set_aside)
        lines = [
            f"{contents.path}: {contents.num_bytes / 1e6:,.1f} MB in {len(contents.shards)} {contents.storage} shards",
            f"  products      {contents.num_products:>12,}   {contents.share_cold:.1%} nobody clicked, "
            f"{contents.share_without_title:.1%} without title",
            f"  pairs         {len(contents.pair_clicks):>12,}   of query and product, and "
            f"{contents.num_pseudo_pairs:,} made up of titles",
            f"  queries       {len(contents.query_tokens):>12,}   {self.queries_cut:.1%} longer than "
            f"{self.shape.max_query_tokens} tokens; titles: {self.titles_cut:.1%} longer than "
            f"{self.shape.max_title_tokens}",
            f"  set aside     {set_aside:>12,}   rows by prepare",
            f"  repeated      {scan.repeated:>12,}   products with title and main picture of another",
            f"  unreadable    {scan.num_unreadable:>12,}   of {scan.scanned:,} products read",
        ]
        if self.speed:
            lines.append(
                f"  input         {self.speed.examples_per_second:>12,.0f}   examples/s on this machine, an epoch in "
                f"about {self.speed.epoch_seconds:,.0f} s; the input alone"
            )
        return "\n".join(lines)


def inspect(
    data: PreparedData,
    sampling: Sampling,
    shape: BatchShape,
    augment: AugmentSpec,
    options: FeedOptions,
    *,
    queries: QueryOutput | None = None,
    count: int = 24,
    step: int = 0,
    progress: bool = True,
) -> Inspection:
    """Looks at prepared data as training with these settings would see it.

    Args:
      data: the data; damaged products are counted and do not stop the inspection.
      sampling: which pairs are drawn.
      shape: sizes of a batch.
      augment: how pictures are varied.
      options: how batches are made ahead of time.
      queries: what is shown of queries; None for all of each, as it was typed.
      count: how many examples to show, at most those of one batch.
      step: the training step that they are taken from.
      progress: show a progress bar where standard error is a terminal.

    Raises:
      DataError: settings that cannot be.
    """
    at_least(0, examples=count, step=step)
    options = dataclasses.replace(options, max_bad_share=1.0)
    contents = read_contents(data)
    examples: list[Example] = []
    speed = None
    if contents.has_clicks or contents.num_pseudo_pairs:
        plans = TrainPlans(data, sampling, shape, 0, 1, queries)
        examples = training_examples(data, plans, augment, options, count=count, step=step)
        speed = input_speed(data, plans, augment, options, step=step)
    scan = scan_products(data, progress=progress)
    return Inspection(contents, scan, sampling, shape, augment, step, examples, speed)


def _share_above(lengths: np.ndarray, limit: int) -> float:
    return float(np.mean(lengths > limit)) if len(lengths) else 0.0
