"""From an experiment's settings to what the input pipeline wants to know."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.augmentation import AugmentSpec
from data_pipelines.feed_settings import BatchShape, FeedOptions, Sampling
from data_pipelines.prepared import ProductData, open_data
from data_pipelines.query_arrays import QueryMasking, QueryOutput
from data_pipelines.query_variation import QueryVariation
from data_pipelines.side_ids import SideColumns
from data_pipelines.title_arrays import TitleOutput
from data_pipelines.tokenizer import load_tokenizer
from data_pipelines.word_keys import QueryWordKeys
from make_jax.config import Experiment
from make_jax.errors import UserError

_WEIGHTED = re.compile(r"(?P<path>.+)=(?P<weight>\d+(\.\d+)?)")


def open_training_data(choices: Sequence[str]) -> tuple[ProductData, list[str]]:
    """Open one data directory or cache, or mix several; returns the data and its directories.

    Args:
      choices: each a directory, or DIRECTORY=WEIGHT; with weights, all have one.

    Raises:
      UserError: weights for some only.
      DataError: a directory cannot be opened, or those to mix do not fit together.
    """
    split = [(choice, None) if Path(choice).exists() else _split(choice) for choice in choices]
    paths, weights = [path for path, _ in split], [weight for _, weight in split]
    if len(paths) == 1:
        return open_data(paths[0]), paths
    if None in weights and any(weight is not None for weight in weights):
        bare = paths[weights.index(None)]
        raise UserError(f"--data {bare} has no weight, but others have; write {bare}=1, or give none a weight")
    from data_pipelines.dataset import open_prepared
    from data_pipelines.mixture import MixedData

    parts = [open_prepared(path) for path in paths]
    return MixedData(parts, None if None in weights else [weight or 0.0 for weight in weights]), paths


def _split(choice: str) -> tuple[str, float | None]:
    match = _WEIGHTED.fullmatch(choice)
    return (match["path"], float(match["weight"])) if match else (choice, None)


def beside(data: str, suffix: str) -> Path:
    """What is made of a data directory, by default: its name and a suffix, beside it or, if it is remote, here."""
    if "://" in data:
        return Path(data.rstrip("/").rsplit("/", 1)[-1] + suffix)
    folder = Path(data).resolve()  # "." has no name
    return folder.with_name(folder.name + suffix)


def batch_shape(experiment: Experiment) -> BatchShape:
    """Sizes of a batch, and what else of the products it tells; raises DataError for columns that there are not."""
    model = experiment.model
    regions = model.image.stem == "regions"
    return BatchShape(
        max_query_tokens=model.query.max_tokens,
        max_title_tokens=model.title.max_tokens,
        image_size=(model.image.height, model.image.width),
        num_images=0 if regions else model.image.max_images,
        num_regions=model.image.max_regions if regions else 0,
        length_multiple=experiment.data.length_multiple,
        side=SideColumns(model.side.columns, model.side.buckets),
    )


def sampling(experiment: Experiment) -> Sampling:
    """Which pairs are drawn, and how often."""
    data = experiment.data
    return Sampling(
        batch_size=experiment.training.batch_size,
        seed=experiment.training.seed,
        popularity_power=data.popularity_power,
        purchase_weight=data.purchase_weight,
        recency_half_life=data.recency_half_life,
        cold_share=data.cold_share,
        pseudo_share=data.pseudo_share,
        query_swap=data.query_swap,
        further_queries=data.further_queries,
        max_product_queries=data.product_queries,
        max_product_words=data.product_words if experiment.objectives.keyword_mask == "words" else 0,
    )


def augmentation(experiment: Experiment) -> AugmentSpec:
    """How pictures are varied."""
    data = experiment.data
    return AugmentSpec(
        min_scale=data.crop,
        aspect=data.aspect,
        flip=data.flip,
        brightness=data.brightness,
        contrast=data.contrast,
        saturation=data.saturation,
        hue=data.hue,
    )


def feed_options(experiment: Experiment) -> FeedOptions:
    """How far ahead batches are made, and how much damage is borne."""
    data = experiment.data
    return FeedOptions(prefetch=data.prefetch, max_bad_share=data.max_bad_share, stall_seconds=data.stall_seconds)


def text_outputs(experiment: Experiment, data: ProductData) -> tuple[TitleOutput, QueryOutput | None]:
    """What is shown of titles and queries: changed, hidden or counted words; raises UserError where none can be hidden.

    None: queries are shown as they are, and nothing else of them.
    """
    objectives, settings = experiment.objectives, experiment.data
    masks, compares = objectives.mlm > 0, objectives.keyword_mask in ("title", "words")
    varies = settings.query_drop > 0 or settings.query_shuffle > 0
    if not (masks or compares or varies):
        return TitleOutput(), None
    tokenizer = load_tokenizer(data.tokenizer_path)
    if masks and tokenizer.mask_id is None:
        raise UserError(
            f"objectives.mlm is {objectives.mlm}, but the tokenizer of {data.path} has no mask token; set "
            "objectives.mlm=0 or run make-jax prepare again with another --tokenizer"
        )
    share = objectives.mask_share
    titles = TitleOutput(mask_share=share if masks else 0.0, word_keys=compares, tokenizer=tokenizer)
    return titles, QueryOutput(
        tokenizer,
        variation=QueryVariation(settings.query_drop, settings.query_shuffle) if varies else None,
        masking=QueryMasking(share, tokenizer) if masks else None,
        word_keys=QueryWordKeys(tokenizer) if compares else None,
    )


def check_pictures(experiment: Experiment, data: ProductData) -> None:
    """Refuse data whose products are seen in another way than the picture tower sees them; raises UserError."""
    stem = experiment.model.image.stem
    if (stem == "regions") != (data.region_width > 0):
        found = f"region features of width {data.region_width}" if data.region_width else "pictures"
        remedy = "regions" if data.region_width else "hierarchical"
        raise UserError(f"{data.path} has {found}, but model.image.stem is {stem!r}; set model.image.stem={remedy}")
