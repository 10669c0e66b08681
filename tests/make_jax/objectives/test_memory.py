"""The memory bank: first in, first out, never a positive, no gradient."""

from __future__ import annotations

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np

from make_jax.objectives.contrastive import Past
from make_jax.objectives.further import past_of
from make_jax.objectives.memory import Memory, empty_memory, filled, past_negatives, remember

SLOTS, BATCH, WIDTH, QUERIES = 3, 4, 2, 2


def step(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "vectors": rng.normal(size=(BATCH, WIDTH)).astype(np.float32),
        "present": rng.random(BATCH) < 0.7,
        "product_key": rng.integers(0, 8, BATCH).astype(np.int32),
        "query_key": rng.integers(0, 8, BATCH).astype(np.int32),
        "product_queries": rng.integers(-1, 8, (BATCH, QUERIES)).astype(np.int32),
        "log_q": rng.normal(size=BATCH).astype(np.float32),
    }


def after(steps: int) -> Memory:
    memory = empty_memory(SLOTS, BATCH, WIDTH, QUERIES)
    for number in range(steps):
        memory = jax.jit(remember)(memory, **step(number))
    return memory


def test_it_keeps_the_last_batches_and_says_how_much_it_holds() -> None:
    kept: deque[dict[str, np.ndarray]] = deque(maxlen=SLOTS)
    for number in range(5):
        memory = after(number)
        assert filled(memory) == sum(int(batch["present"].sum()) for batch in kept)
        for slot, batch in enumerate(kept):
            np.testing.assert_array_equal(memory.vectors[slot], batch["vectors"])
            np.testing.assert_array_equal(memory.log_q[slot], batch["log_q"])
            keys = np.where(batch["present"], batch["product_key"], -1)
            np.testing.assert_array_equal(memory.product_key[slot], keys)
        kept.appendleft(step(number))


def past(memory: Memory, query_key: jax.Array, product_key: jax.Array) -> Past:
    return past_of([past_negatives(memory, 1, 0.0)], query_key, product_key)


def test_nothing_that_a_query_wants_is_its_negative() -> None:
    seen = 0
    for steps in (0, 1, 5):
        memory, now = after(steps), step(99)
        found = jax.jit(past)(memory, now["query_key"], now["product_key"])
        all_excluded = np.asarray(found.excluded).reshape(BATCH, BATCH, SLOTS)
        batches = [step(number) for number in reversed(range(max(0, steps - SLOTS), steps))]
        for i in range(BATCH):
            query, product = now["query_key"][i], now["product_key"][i]
            for slot in range(SLOTS):
                for j in range(BATCH):
                    if slot >= len(batches):
                        assert all_excluded[i, j, slot]  # not filled yet
                        continue
                    old = batches[slot]
                    wanted = {*old["product_queries"][j].tolist(), old["query_key"][j]}
                    excluded = not old["present"][j] or query in wanted or product == old["product_key"][j]
                    assert all_excluded[i, j, slot] == excluded
                    seen += not excluded
    assert seen > 5


def test_no_gradient_goes_back_to_earlier_steps() -> None:
    def total(vectors: jax.Array) -> jax.Array:
        memory = remember(empty_memory(SLOTS, BATCH, WIDTH, QUERIES), **{**step(0), "vectors": vectors})
        return jnp.sum(memory.vectors**2)

    vectors = jnp.asarray(step(0)["vectors"])
    assert total(vectors) > 0
    np.testing.assert_array_equal(jax.grad(total)(vectors), 0)
