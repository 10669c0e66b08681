"""How many programs jax compiles: a step whose shapes keep changing is slow for no other visible reason."""

from __future__ import annotations

from typing import Any, Self

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"


class Compilations:
    """Counts the programs that this process compiles, or fetches from the compilation cache; a context manager."""

    def __init__(self) -> None:
        self._count = 0

    def take(self) -> int:
        """How many there were since this was last asked."""
        count, self._count = self._count, 0
        return count

    def _heard(self, event: str, duration_secs: float, **_: Any) -> None:
        self._count += event == _COMPILED

    def __enter__(self) -> Self:
        jax.monitoring.register_event_duration_secs_listener(self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._heard)
