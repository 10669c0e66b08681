"""Many runs, one table: what a sweep file is made of."""

from make_jax.sweeps.space import choice, draws, grid, log_uniform, uniform, whole
from make_jax.sweeps.sweep import Search, Setting, Sweep

__all__ = ["Search", "Setting", "Sweep", "choice", "draws", "grid", "log_uniform", "uniform", "whole"]
