"""AdamW as every large contrastive model uses it, from the config; parts may be frozen or learn more slowly."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from make_jax.config import OptimizerConfig
from make_jax.errors import UserError
from make_jax.training.mesh import path_name

_LAYER = re.compile(r"^(?P<tower>.+?)/(?:transformer/)?layer_(?P<number>\d+)/")
_FIRST = re.compile(r"^(?P<tower>[^/]+)/(tokens/|positions$|stem_|regions/|hidden_patch$)")
_SHARED = "tokens/"  # of both text towers, so that the higher of the two counts
_UNDER_FUSION = ("title", "image")  # towers whose states go through the cross-modal layers


def decayed(params: Any) -> Any:
    """Which parameters weight decay applies to: kernels only, so no norm, bias, embedding or temperature."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path_name(path).endswith("kernel"), params)


def frozen(config: OptimizerConfig, params: Any) -> Any:
    """Which parameters stay as they are: a tree of bool, or bool[layers, 1, ...] where that differs among layers."""
    return _by_layer(lambda name: _found(config.frozen, name), params)


def hold(config: OptimizerConfig, params: Any) -> Any:
    """The parameters, those that are frozen cut off from the gradient, so that it is not even computed."""
    if not config.frozen:
        return params

    def cut(held: Any, leaf: Any) -> Any:
        if np.ndim(held):
            return jnp.where(held, jax.lax.stop_gradient(leaf), leaf)
        return jax.lax.stop_gradient(leaf) if held else leaf

    return jax.tree.map(cut, frozen(config, params), params)


def rate_factors(config: OptimizerConfig, params: Any) -> Any:
    """By what each parameter's learning rate is multiplied: a tree of float, or float[layers, 1, ...] where that
    differs among layers; 0 for what is frozen."""
    layers = _layers(_names(params))

    def factor(name: str) -> float:
        if _found(config.frozen, name):
            return 0.0
        rate = next((rate for pattern, rate in config.rates if re.search(pattern, name)), 1.0)
        return rate * config.layer_decay ** _height(name, layers)

    return _by_layer(factor, params)


def check_patterns(config: OptimizerConfig, params: Any) -> None:
    """Raises UserError where a pattern finds no parameter, or nothing is left to learn."""
    names = _names(params)
    for key, patterns in (("frozen", config.frozen), ("rates", [pattern for pattern, _ in config.rates])):
        for pattern in patterns:
            if not any(re.search(pattern, name) for name in names):
                tops = ", ".join(sorted({name.split("/")[0] for name in names}))
                raise UserError(
                    f"optimizer.{key} has {pattern!r}, but no parameter's path has that; paths begin with {tops}"
                )
    if all(_found(config.frozen, name) for name in names):
        raise UserError(f"optimizer.frozen {', '.join(config.frozen)} leaves nothing to learn; freeze less")


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then cosine to `final_share`."""
    warmup = round(config.warmup_share * steps)
    return optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / max(warmup, 1),
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(steps, 1),
        end_value=config.learning_rate * config.final_share,
    )


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW on the schedule; what is frozen has no moments and no decay."""
    optimizer: optax.GradientTransformation = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        _kept_as(config.moments_dtype, optax.scale_by_adam(b1=config.beta1, b2=config.beta2)),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.scale_by_learning_rate(make_schedule(config, steps)),
    )
    if config.frozen:
        optimizer = optax.partition(
            {False: optimizer, True: optax.set_to_zero()},
            lambda tree: jax.tree.map(lambda held: bool(np.all(held)), frozen(config, tree)),
        )
    if config.frozen or config.rates or config.layer_decay < 1:
        optimizer = optax.chain(optimizer, _scale_each(config))
    return optimizer


def _scale_each(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, rate_factors(config, updates)))


def _kept_as(dtype: str, adam: optax.GradientTransformation) -> optax.GradientTransformation:
    """Adam computing in float32 whose moments are kept as `dtype` between steps."""
    if dtype == "float32":
        return adam

    def cast(state: optax.ScaleByAdamState, dtype: str) -> optax.ScaleByAdamState:
        return optax.ScaleByAdamState(state.count, *optax.tree.cast((state.mu, state.nu), dtype))

    def update(updates: Any, state: optax.ScaleByAdamState, params: Any = None) -> tuple[Any, optax.ScaleByAdamState]:
        updates, state = adam.update(updates, cast(state, "float32"), params)
        return updates, cast(state, dtype)

    return optax.GradientTransformation(lambda params: cast(adam.init(params), dtype), update)


def _names(params: Any) -> list[str]:
    """The paths of all parameters, each layer's by itself."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [name for path, leaf in leaves for name in _layer_names(path_name(path), leaf)]


def _layer_names(path: str, leaf: Any) -> list[str]:
    """A stack's parameter is that of all its layers: "title/transformer/layers/up/kernel", [layers, ...], is known as
    "title/transformer/layer_0/up/kernel" and so on."""
    if "/layers/" not in path:
        return [path]
    return [path.replace("/layers/", f"/layer_{number}/") for number in range(np.shape(leaf)[0])]


def _by_layer(value: Callable[[str], Any], params: Any) -> Any:
    """What `value` says of each parameter's path; where that differs among layers, [layers, 1, ...]."""

    def place(path: Any, leaf: Any) -> Any:
        found = [value(name) for name in _layer_names(path_name(path), leaf)]
        if len(set(found)) == 1:
            return found[0]
        return np.reshape(found, (-1,) + (1,) * (np.ndim(leaf) - 1))

    return jax.tree_util.tree_map_with_path(place, params)


def _found(patterns: tuple[str, ...], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _layers(names: list[str]) -> dict[str, int]:
    """How many layers each tower has."""
    found: dict[str, int] = {}
    for name in names:
        if match := _LAYER.search(name):
            tower, number = match["tower"], int(match["number"])
            found[tower] = max(found.get(tower, 0), number + 1)
    return found


def _height(name: str, layers: dict[str, int]) -> int:
    """How many layers there are from a parameter up to the vectors, its own included; 0 for what is in none."""
    if name.startswith(_SHARED):
        return max(_height(f"{tower}/{name}", layers) for tower in ("query", "title"))
    if match := _LAYER.search(name):
        left = layers[match["tower"]] - int(match["number"])
    elif match := _FIRST.search(name):
        left = layers.get(match["tower"], 0) + 1
    else:
        return 0
    return left + (layers.get("cross_modal", 0) if match["tower"] in _UNDER_FUSION else 0)
