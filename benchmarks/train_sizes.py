"""What is trained in the benchmark of the training step: towers of three sizes, and batches for them.

Query and title each have a text tower and pictures a ViT, title and picture are fused late, by a fixed mean, and the
loss is AM-softmax in both directions: what can be built from the modules of `transformers` just as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from make_jax.config import (
    Experiment,
    FusionConfig,
    ImageConfig,
    ModelConfig,
    ObjectivesConfig,
    TextConfig,
    TrainingConfig,
    TransformerConfig,
)

Size = Literal["toy", "sketch", "base"]
Contestant = Literal["ours", "torch"]

_MARGIN = 0.1
_LENGTHS = 4  # ours pads to a multiple of this, as each length is compiled once; torch to the longest


def experiment_of(size: Size, batch_size: int | None = None) -> Experiment:
    """The towers of a size, for full-length inputs."""
    if size == "toy":
        layers = TransformerConfig(layers=1, width=32, heads=2)
        return _experiment(size, layers, (8, 12), (32, 32), 100, batch_size or 8)
    if size == "sketch":
        layers = TransformerConfig(layers=4, width=256, heads=4)
        return _experiment(size, layers, (16, 32), (80, 64), 8192, batch_size or 128)
    layers = TransformerConfig(layers=12, width=768, heads=12)
    return _experiment(size, layers, (16, 64), (224, 224), 30522, batch_size or 256)


def _experiment(
    name: str, layers: TransformerConfig, tokens: tuple[int, int], pixels: tuple[int, int], vocab_size: int, batch: int
) -> Experiment:
    return Experiment(
        name=name,
        model=ModelConfig(
            vocab_size=vocab_size,
            embedding=min(512, layers.width),
            query=TextConfig(tokens[0], layers),
            title=TextConfig(tokens[1], layers),
            image=ImageConfig(*pixels, patch=16, stem="patch", transformer=layers),
            fusion=FusionConfig(kind="mean", layers=0),
        ),
        objectives=ObjectivesConfig(margin=_MARGIN, keyword_mask="none"),
        training=TrainingConfig(batch_size=batch),
    )


def random_batches(experiment: Experiment, count: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches of full length with a picture each, as `data_pipelines.input` describes them."""
    from make_jax.planning.batches import train_shapes

    rng = np.random.default_rng(0)
    vocab_size, size = experiment.model.vocab_size, experiment.training.batch_size
    keys = np.arange(size, dtype=np.int32)
    for _ in range(count):
        batch = {name: np.zeros(shape.shape, shape.dtype) for name, shape in train_shapes(experiment).items()}
        for name in ("query_ids", "title_ids"):
            batch[name] = rng.integers(1, vocab_size, batch[name].shape, np.int32)
        batch["image"] = rng.integers(0, 256, batch["image"].shape, np.uint8)
        batch["has_image"][:] = True
        batch["product_queries"][:] = -1
        yield batch | {"query_key": keys, "product_key": keys}


def write_batches(experiment: Experiment, data: str, folder: Path, count: int) -> Experiment:
    """Writes the first batches of prepared data, for ours and for torch, which differ in their padding alone.

    Returns:
      The experiment, with what the data decides.
    """
    from data_pipelines.input import train_batches
    from data_pipelines.plans import TrainPlans
    from data_pipelines.prepared import open_data
    from make_jax.commands.feeding import batch_shape, sampling
    from make_jax.commands.train import complete

    opened = open_data(data)
    model = dataclasses.replace(experiment.model, vocab_size=None)
    experiment = complete(dataclasses.replace(experiment, model=model), opened)
    padded: dict[Contestant, int] = {"ours": _LENGTHS, "torch": 1}
    for contestant, multiple in padded.items():
        shape = dataclasses.replace(batch_shape(experiment), length_multiple=multiple)
        plans = TrainPlans(opened, sampling(experiment), shape, 0, 1)
        with train_batches(opened, plans, num_steps=count) as batches:
            for number, batch in enumerate(batches):
                np.savez(_file(folder, contestant, number), **batch)  # type: ignore[arg-type]
    return experiment


def written_batches(folder: Path, contestant: Contestant) -> Iterator[dict[str, np.ndarray]]:
    """What `write_batches` wrote."""
    for file in sorted(folder.glob(f"{contestant}-*.npz")):
        with np.load(file) as arrays:
            yield dict(arrays)


def _file(folder: Path, contestant: Contestant, number: int) -> Path:
    return folder / f"{contestant}-{number:04}.npz"
