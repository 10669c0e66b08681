"""`python -m make_jax`, the same as `make-jax`."""

from __future__ import annotations

from make_jax.cli import main

main(prog_name="make-jax")
