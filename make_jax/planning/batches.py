"""The shapes of the batches of an experiment, without any data."""

from __future__ import annotations

import jax
import numpy as np

from data_pipelines.side_ids import LEVELS
from make_jax.config import Experiment

Shapes = dict[str, jax.ShapeDtypeStruct]
_Sizes = dict[str, tuple[tuple[int, ...], type]]


def train_shapes(experiment: Experiment) -> Shapes:
    """Names, shapes and dtypes of a global training batch at its longest, as `data_pipelines.input` describes it."""
    objectives, model = experiment.objectives, experiment.model
    queries, known = model.query.max_tokens, experiment.data.product_queries
    product = _product(experiment)
    rows: _Sizes = {
        "query_ids": ((queries,), np.int32),
        "query_key": ((), np.int32),
        "product_key": ((), np.int32),
        "product_queries": ((known,), np.int32),
        "query_log_q": ((), np.float32),
        "product_log_q": ((), np.float32),
        **product,
    }
    for name, length in (("title", model.title.max_tokens), ("query", queries)):
        if objectives.mlm > 0:
            rows |= {f"masked_{name}_ids": ((length,), np.int32), f"{name}_targets": ((length,), np.int32)}
        if objectives.keyword_mask in ("title", "words"):
            rows[f"{name}_word_keys"] = (length,), np.int32
    if objectives.keyword_mask == "words":
        rows["product_word_keys"] = (experiment.data.product_words,), np.int32
    if others := experiment.data.further_queries:
        names = ("query_ids", "query_key", "query_log_q", "query_word_keys")
        asked = {name: rows[name] for name in names if name in rows}
        rows |= {f"further_{name}": ((others, *shape), dtype) for name, (shape, dtype) in asked.items()}
    if mined := objectives.hard_negatives:
        rows |= {"negative_key": ((mined,), np.int32), "negative_queries": ((mined, known), np.int32)}
        rows |= {f"negative_{name}": ((mined, *shape), dtype) for name, (shape, dtype) in product.items()}
    return _batch(rows, experiment.training.batch_size)


def product_shapes(experiment: Experiment, batch_size: int) -> Shapes:
    """What `encode_product` takes of so many products."""
    return _batch(_product(experiment), batch_size)


def _product(experiment: Experiment) -> _Sizes:
    image, columns = experiment.model.image, experiment.model.side.columns
    if image.stem == "regions":
        pictures: _Sizes = {
            "image": ((image.max_regions, image.region_width or 1), np.float32),
            "has_image": ((image.max_regions,), np.bool_),
        }
    else:
        pictures = {
            "image": ((image.images, image.height, image.width, 3), np.uint8),
            "has_image": ((image.images,), np.bool_),
        }
    levels = LEVELS if "category" in columns else 1
    side: _Sizes = {"side_ids": ((len(columns), levels), np.int32)} if columns else {}
    return {"title_ids": ((experiment.model.title.max_tokens,), np.int32), **pictures, **side}


def _batch(rows: _Sizes, size: int) -> Shapes:
    return {name: jax.ShapeDtypeStruct((size, *shape), dtype) for name, (shape, dtype) in rows.items()}
