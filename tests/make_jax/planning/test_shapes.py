"""Batches are planned for in the shapes in which they come."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipelines.input import catalogue_batches, train_batches
from data_pipelines.plans import TrainPlans
from data_pipelines.prepared import open_data
from make_jax.commands.feeding import augmentation, batch_shape, sampling, text_outputs
from make_jax.commands.train import complete
from make_jax.overrides import load_experiment
from make_jax.planning.batches import product_shapes, train_shapes

TINY = Path(__file__).parents[3] / "experiments" / "tiny.py"


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("objectives.mlm=1", "objectives.keyword_mask=title", "model.image.max_images=2"),
        ("model.side.columns=product_id,category", "data.product_queries=8"),
        ("objectives.keyword_mask=words", "data.further_queries=2"),
    ],
)
def test_shapes_are_those_of_real_batches(tiny_data: Path, overrides: tuple[str, ...]) -> None:
    data = open_data(tiny_data)
    experiment = complete(load_experiment(TINY, overrides), data)
    titles, queries = text_outputs(experiment, data)
    plans = TrainPlans(data, sampling(experiment), batch_shape(experiment), 0, 1, queries)
    with train_batches(data, plans, augment=augmentation(experiment), titles=titles) as feed:
        real = next(feed)
    planned = train_shapes(experiment)
    assert {name: (shape.shape, shape.dtype) for name, shape in planned.items()} == {
        name: (rows.shape, rows.dtype) for name, rows in real.items()
    }
    with catalogue_batches(data, batch_shape(experiment), batch_size=32) as products:
        real = next(products)
    for name, shape in product_shapes(experiment, 32).items():
        assert (shape.shape, shape.dtype) == (real[name].shape, real[name].dtype), name


def test_mined_negatives_have_the_shapes_of_products() -> None:
    experiment = load_experiment(TINY, ["objectives.hard_negatives=3"])
    planned = train_shapes(experiment)
    assert planned["negative_key"].shape == (16, 3)
    assert planned["negative_queries"].shape == (16, 3, 64)
    assert planned["negative_image"].shape == (16, 3, 1, 32, 32, 3)
    assert planned["negative_title_ids"].shape == (16, 3, 24)
