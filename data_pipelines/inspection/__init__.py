"""A look at prepared data: what is in it, what the model sees of it, and how fast it is read."""

from __future__ import annotations

from data_pipelines.inspection.collect import Inspection, inspect

__all__ = ["Inspection", "inspect"]
