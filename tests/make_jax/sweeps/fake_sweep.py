"""A sweep over a make-jax that only pretends to train."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from make_jax.commands.sweep import SweepOptions

Options = Callable[..., SweepOptions]

FAKE = (sys.executable, str(Path(__file__).with_name("fake_make_jax.py")))

SWEEP = """
from dataclasses import replace
from experiments import tiny
from make_jax.overrides import apply_overrides
from make_jax.sweeps import *

def get_sweep():
    base = apply_overrides(tiny.get_config(), ["training.steps=30", "training.log_every=5", "optimizer.weight_decay=0"])
    return Sweep(name="test", base=base, {content})
"""

RATES = 'variants={"low": {"optimizer.learning_rate": 1e-5}, "good": {"optimizer.learning_rate": 1e-3}}, seeds=2'


def write_options(folder: Path, content: str, behaviour: dict[str, str], **more: Any) -> SweepOptions:
    """Options of a sweep with this content, whose runs behave as told."""
    file, data = folder / "my_sweep.py", folder / "data"
    file.write_text(SWEEP.replace("{content}", content))
    data.mkdir(exist_ok=True)
    (data / "behaviour.json").write_text(json.dumps(behaviour))
    return SweepOptions(file, (str(data),), folder / "out", program=FAKE, **more)
