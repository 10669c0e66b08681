# make-jax train experiments/fashion_keywords.py --data DATA --workdir RUN
"""Keyword Enhancement and a taught gate on the fashion shop: each variant is experiments/fashion.py but for a switch.

`get_config()` is experiments/fashion.py itself; a sweep runs every entry of `VARIANTS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from experiments import fashion
from make_jax.config import Experiment


def make() -> Experiment:
    """The base: other products that the log says a query led to are no negatives, and no positives."""
    return fashion.get_config()


def mask_none() -> Experiment:
    """All other products are negatives."""
    return _variant("mask_none", objectives={"keyword_mask": "none"})


def mask_title() -> Experiment:
    """Products whose title has all words of the query are no negatives either."""
    return _variant("mask_title", objectives={"keyword_mask": "title"})


def many_positives() -> Experiment:
    """Other products that the log says a query led to are positives."""
    return _variant("many_positives", objectives={"positives": "many"})


def pseudo_queries() -> Experiment:
    """One draw in five shows any product under a query made from its title."""
    return _variant("pseudo_queries", data={"pseudo_share": 0.2})


def query_drop() -> Experiment:
    """One query in five loses a word."""
    return _variant("query_drop", data={"query_drop": 0.2})


def query_shuffle() -> Experiment:
    """The words of one query in five change places."""
    return _variant("query_shuffle", data={"query_shuffle": 0.2})


def query_swap() -> Experiment:
    """Half the draws show another of the product's queries, whichever."""
    return _variant("query_swap", data={"query_swap": 0.5})


def gate_supervision() -> Experiment:
    """The gate is taught which modality alone would have found the product."""
    return _variant("gate_supervision", objectives={"gate_supervision": 0.2})


VARIANTS: dict[str, Callable[[], Experiment]] = {
    "make": make,
    "mask_none": mask_none,
    "mask_title": mask_title,
    "many_positives": many_positives,
    "pseudo_queries": pseudo_queries,
    "query_drop": query_drop,
    "query_shuffle": query_shuffle,
    "query_swap": query_swap,
    "gate_supervision": gate_supervision,
}


def get_config() -> Experiment:
    """The base itself."""
    return make()


def _variant(name: str, *, objectives: dict[str, Any] | None = None, data: dict[str, Any] | None = None) -> Experiment:
    base = fashion.get_config()
    return dataclasses.replace(
        base,
        name=f"fashion_{name}",
        objectives=dataclasses.replace(base.objectives, **(objectives or {})),
        data=dataclasses.replace(base.data, **(data or {})),
    )
