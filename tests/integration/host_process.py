"""One of several processes that train together: PORT INDEX COUNT DATA OUT.

Writes the losses and the query and product keys of its batches to OUT/INDEX.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import numpy as np

from data_pipelines.input import train_batches
from data_pipelines.plans import TrainPlans
from data_pipelines.prepared import open_data
from data_pipelines.tokenizer import load_tokenizer
from make_jax.commands.feeding import augmentation, batch_shape, sampling
from make_jax.config import Experiment
from make_jax.model import build_model
from make_jax.overrides import load_experiment
from make_jax.training.feed import DeviceFeed, Feed
from make_jax.training.loop import mesh_for
from make_jax.training.optimizer import make_optimizer
from make_jax.training.step import make_trainer

STEPS = 3
TINY = Path(__file__).parents[2] / "experiments" / "tiny.py"


class Watched:
    """A feed that remembers which pairs it gave."""

    def __init__(self, feed: Feed) -> None:
        self._feed, self.close = feed, feed.close
        self.pairs: list[list[list[int]]] = []

    @property
    def set_aside(self) -> int:
        return self._feed.set_aside

    @property
    def reading(self) -> str:
        return self._feed.reading

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._feed)
        self.pairs.append([batch["query_key"].tolist(), batch["product_key"].tolist()])
        return batch


def losses(experiment: Experiment, feed: Feed) -> list[float]:
    """Of the first steps of a training run."""
    mesh = mesh_for(experiment)
    optimizer = make_optimizer(experiment.optimizer, experiment.training.steps)
    trainer = make_trainer(build_model(experiment), optimizer, mesh, experiment.training.seed)
    state, found = trainer.init(), []
    with DeviceFeed(feed, mesh) as batches:
        for _ in range(STEPS):
            state, metrics = trainer.step(state, next(batches))
            found.append(float(metrics["loss"]))
    return found


def main(port: str, index: int, count: int, data_path: str, out: Path) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", count, index, initialization_timeout=120)
    data = open_data(data_path)
    size = load_tokenizer(data.tokenizer_path).vocab_size
    experiment = load_experiment(TINY, ["data.cold_share=0.2", f"model.vocab_size={size}"])
    plans = TrainPlans(data, sampling(experiment), batch_shape(experiment), jax.process_index(), jax.process_count())
    feed = Watched(train_batches(data, plans, augment=augmentation(experiment)))
    result = {"processes": jax.process_count(), "losses": losses(experiment, feed), "pairs": feed.pairs[:STEPS]}
    (out / f"{index}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], Path(sys.argv[5]))
