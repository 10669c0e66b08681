"""What becomes of a step whose loss or gradient is not finite, or far above those before it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from make_jax.config import TrainingConfig

log = logging.getLogger(__name__)

WINDOW = 128  # steps whose median is the measure
ENOUGH = 32  # of them, before anything is a spike


class NonFiniteLoss(Exception):
    """The loss or gradient of a step is not finite, or too many steps were skipped. Nothing is saved from then on."""


class Watch(NamedTuple):
    """What the next step is judged by, a part of the training state.

    skipped int32, how many updates were left out; seen int32, how many steps were finite; recent float32[2, WINDOW],
    the losses and gradient norms of the last of those, the newest at the end.
    """

    skipped: jax.Array
    seen: jax.Array
    recent: jax.Array


def new_watch() -> Watch:
    """Of a run that has not begun."""
    return Watch(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), jnp.zeros((2, WINDOW)))


def judge(
    config: TrainingConfig, watch: Watch, loss: jax.Array, gradient_norm: jax.Array
) -> tuple[jax.Array | None, Watch, dict[str, jax.Array]]:
    """Whether a step is to be skipped (None: never), the watch after it, and what to log: `spike`, `steps_skipped`.

    A spike is finite and above spike_factor times the median, in loss or gradient norm; it counts in later medians.
    """
    now = jnp.stack([loss, gradient_norm])
    finite = jnp.all(jnp.isfinite(now))
    reasons, found = [], {}
    if config.non_finite == "skip":
        reasons.append(~finite)
    if config.spikes != "off":
        spike = finite & jnp.any(now > config.spike_factor * _medians(watch))
        later = jnp.concatenate([watch.recent[:, 1:], now[:, None]], axis=1)
        watch = watch._replace(seen=watch.seen + finite, recent=jnp.where(finite, later, watch.recent))
        found["spike"] = spike.astype(jnp.float32)
        if config.spikes == "skip":
            reasons.append(spike)
    if not reasons:
        return None, watch, found
    skip = jnp.any(jnp.stack(reasons))
    watch = watch._replace(skipped=watch.skipped + skip)
    return skip, watch, found | {"steps_skipped": watch.skipped.astype(jnp.float32)}


def kept(skip: jax.Array | None, before: Any, after: Any) -> Any:
    """What a step leaves behind: `after`, or `before` where it is skipped."""
    return after if skip is None else jax.tree.map(lambda old, new: jnp.where(skip, old, new), before, after)


def _medians(watch: Watch) -> jax.Array:
    """Of what is recent, [2], the upper one of two; infinite until there is enough."""
    count = jnp.minimum(watch.seen, WINDOW)
    ordered = jnp.sort(jnp.where(jnp.arange(WINDOW) < WINDOW - count, jnp.inf, watch.recent), axis=1)
    return jnp.where(count >= ENOUGH, ordered[:, count // 2], jnp.inf)


def check(config: TrainingConfig, step: int, record: Mapping[str, float]) -> None:
    """Say what is wrong with a step, if anything is.

    Raises:
      NonFiniteLoss: the run must not go on.
    """
    loss, norm, skipped = record["loss"], record["gradient_norm"], int(record.get("steps_skipped", 0))
    # A gradient that is not finite ruins the parameters although the loss before it was fine.
    finite = math.isfinite(loss) and math.isfinite(norm)
    if not finite and config.non_finite == "stop":
        raise NonFiniteLoss(
            f"the loss of step {step} is {loss} and the norm of its gradient {norm}; the last checkpoint is from "
            "before it. Run the same command with --set training.non_finite=skip to leave such steps out, or lower "
            "optimizer.learning_rate or objectives.scale_max in a new --workdir"
        )
    if finite and not record.get("spike"):
        return
    outcome = f"skipped, {skipped} so far" if not finite or config.spikes == "skip" else "made all the same"
    what = f"more than {config.spike_factor:g} times the median of late steps" if finite else "not finite"
    log.warning("step %d: loss %.4g, gradient norm %.4g: %s; the update is %s", step, loss, norm, what, outcome)
    if skipped > config.max_skipped:
        raise NonFiniteLoss(
            f"{skipped} steps were skipped up to step {step}, more than training.max_skipped {config.max_skipped}: the "
            "loss or its gradient is not finite, or far above what it was. Lower optimizer.learning_rate or "
            "objectives.scale_max in a new --workdir, or raise training.max_skipped and run the same command"
        )
