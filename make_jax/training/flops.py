"""How many floating-point operations a function's matrix products take, counted on its jaxpr."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from make_jax.model import RetrievalModel


def matmul_flops(function: Callable[..., Any], *inputs: Any) -> int:
    """FLOPs of the matrix products and convolutions of a call, over all devices; inputs may be shapes.

    All that a call does counts, recomputation included; a loop as often as it turns where that is known, else once, and
    of branches the dearest.
    """
    return _count(jax.make_jaxpr(function)(*inputs).jaxpr)


def model_flops(model: RetrievalModel, batch: Any) -> int:
    """What a training step on a batch (of shapes) needs at least: the forward pass three times, as is usual.

    The backward pass takes twice as much as the forward pass; what is computed again to save memory does not count, so
    that the share of a machine's peak that it reaches (MFU) compares across ways to do the same.
    """
    params = jax.eval_shape(model.init, jax.random.key(0))
    memory = jax.eval_shape(model.init_memory)
    return 3 * matmul_flops(model.losses, params, memory, batch, jax.eval_shape(jax.random.key, 0))


def _count(jaxpr: Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        made_of = math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(equation.outvars[0].aval.shape) * made_of
    inner = [_count(jaxpr) for jaxpr in _inner(params)]
    if name == "cond":
        return max(inner)
    if name == "scan":
        return sum(inner) * int(params["length"])
    if name == "shard_map":  # says what one device does
        return sum(inner) * int(params["mesh"].size)
    return sum(inner)


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, Jaxpr):
                yield part
