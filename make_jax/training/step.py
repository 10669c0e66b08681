"""The training state and the one jitted step that changes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from make_jax.config import Rules, TrainingConfig
from make_jax.model import RetrievalModel
from make_jax.training.mesh import batch_sharding, state_shardings
from make_jax.training.microbatches import gradients
from make_jax.training.policy import Watch, judge, kept, new_watch

Metrics = dict[str, jax.Array]


class TrainState(NamedTuple):
    """Everything that a step changes; `step` int32 counts the steps done, `memory` is the model's.

    `average` is that of the parameters, an empty tuple where none is kept.
    """

    step: jax.Array
    params: Any
    optimizer: Any
    memory: Any
    watch: Watch
    average: Any = ()

    @property
    def settled(self) -> Any:
        """The parameters to judge and to use: the average where there is one."""
        return self.average or self.params


class Trainer(NamedTuple):
    """Compiled pieces of a run: shapes and shardings of the state, a fresh state, and the step."""

    shapes: Any
    shardings: Any
    init: Callable[[], TrainState]
    step: Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Metrics]]


def make_trainer(
    model: RetrievalModel,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    seed: int,
    hold: Callable[[Any], Any] = lambda params: params,
    rules: Rules = (),
    microbatches: int = 1,
    ema_decay: float = 0.0,
    watching: TrainingConfig | None = None,
) -> Trainer:
    """Init and train step as jitted functions with explicit shardings over `mesh`.

    Loss and gradients are those of the *global* batch: the arrays are global, so no hand-written averaging over
    devices can scale them wrongly. Randomness is a function of (seed, step), so a resumed run repeats it.
    `hold` cuts the parameters that are not to learn off from the gradient; `rules` are those of `MeshConfig`;
    `microbatches` see `microbatches.gradients`; `ema_decay` see `averaged`, 0 keeps no average; `watching` has the
    policy for steps that go wrong.
    """
    watching = watching or TrainingConfig()
    gradients_of = gradients(model, hold, microbatches, batch_sharding(mesh))
    init_key, dropout_key = jax.random.split(jax.random.key(seed))

    def fresh() -> TrainState:
        params = model.init(init_key)
        state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), model.init_memory(), new_watch())
        return state._replace(average=jax.tree.map(jnp.zeros_like, params)) if ema_decay else state

    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(dropout_key, state.step)
        (loss, (metrics, memory)), found = gradients_of(state.params, state.memory, batch, key)
        updates, moments = optimizer.update(found, state.optimizer, state.params)
        norms = {name: optax.tree.norm(tree) for name, tree in (("gradient", found), ("parameter", state.params))}
        skip, watch, judged = judge(watching, state.watch, loss, norms["gradient"])
        params = optax.apply_updates(state.params, updates)
        average = averaged(state.average, params, state.step - state.watch.skipped, ema_decay) if ema_decay else ()
        after = TrainState(state.step, params, moments, memory, state.watch, average)
        after = kept(skip, state, after)._replace(step=state.step + 1, watch=watch)
        metrics |= {f"{name}_norm": norm for name, norm in norms.items()}
        metrics["update_ratio"] = optax.tree.norm(updates) / norms["parameter"]
        return after, {"loss": loss, **metrics, **judged}

    shapes = jax.eval_shape(fresh)
    shardings = state_shardings(shapes, mesh, rules)
    replicated = NamedSharding(mesh, PartitionSpec())
    return Trainer(
        shapes,
        shardings,
        jax.jit(fresh, out_shardings=shardings),
        jax.jit(
            step,
            in_shardings=(shardings, batch_sharding(mesh)),
            out_shardings=(shardings, replicated),
            donate_argnums=0,
        ),
    )


def averaged(average: Any, params: Any, steps: jax.Array, decay: float) -> Any:
    """The moving average after one more step; steps: how many there were before it.

    decay · average + (1 − decay) · params, with decay at most steps / (steps + 9), so that the average begins as the
    parameters after the first step, whatever it was, and is not held back by the first ones.
    """
    taken = jnp.maximum(1 - decay, 9 / (steps + 9))
    # In this form what does not change stays what it is to the last bit.
    return jax.tree.map(lambda mean, leaf: mean + taken.astype(mean.dtype) * (leaf - mean), average, params)
