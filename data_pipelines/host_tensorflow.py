"""TensorFlow for reading data on the host: quiet, and kept away from the accelerators that JAX needs.

Import `tf` from here instead of importing tensorflow: left alone, it takes the memory of all it sees.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read once, when the library is loaded

import tensorflow as tf

for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)

__all__ = ["tf"]
