"""ScaNN behind one door: the only module that imports it, so its traps are dealt with here.

ScaNN pads short results with row 0 and a NaN score, writes document ids to a pickle, and brings TensorFlow
along although its numpy interface needs none of it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import math
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from make_jax.errors import UserError

Builder = Literal["brute_force", "ah", "tree_ah"]
BRUTE_FORCE_BELOW = 20_000
TREE_FROM = 100_000
MEMORY_PER_VECTOR_BYTE = 4  # the vectors themselves, and what building was measured to add to them
_DIMENSIONS_PER_BLOCK = 2
_ANISOTROPIC_THRESHOLD = 0.2
_TRAINING_SAMPLE = 250_000
_PARALLEL_BATCH = 64


def available() -> bool:
    """Whether ScaNN is installed; it is to be had for Linux only."""
    return importlib.util.find_spec("scann") is not None


def version() -> str:
    """The installed version of ScaNN."""
    return importlib.metadata.version("scann")


def builder_for(count: int) -> Builder:
    """The kind of index that suits a catalogue of `count` products."""
    if count < BRUTE_FORCE_BELOW:
        return "brute_force"
    return "ah" if count < TREE_FROM else "tree_ah"


class ScannSearcher:
    """A built index. Made by `build` or `load`.

    Attributes:
      builder: the kind of index.
      count: products N in it.
      leaves: partitions of the tree; 0 without a tree.
    """

    def __init__(self, searcher: Any, builder: Builder, count: int, leaves: int) -> None:
        self._searcher = searcher
        self.builder, self.count, self.leaves = builder, count, leaves

    def search(
        self, queries: np.ndarray, k: int, reorder: int | None = None, leaves_to_search: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The approximate K' = min(k, N) best products by inner product, best first.

        Args:
          queries: float32[B, E].
          k: results wanted, at least 1.
          reorder: candidates scored exactly, at least k; ignored by brute force.
          leaves_to_search: partitions looked into; ignored without a tree.

        Returns:
          scores float32[B, K'] and rows int32[B, K']; where fewer were found, score -inf and row -1 at the
          end.
        """
        k = min(k, self.count)
        if not len(queries):  # ScaNN takes no queries for queries of the wrong width
            return np.zeros((0, k), np.float32), np.zeros((0, k), np.int32)
        arguments: dict[str, int] = {"final_num_neighbors": k}
        if self.builder != "brute_force" and reorder is not None:
            arguments["pre_reorder_num_neighbors"] = min(max(reorder, k), self.count)
        if self.leaves and leaves_to_search is not None:
            arguments["leaves_to_search"] = min(leaves_to_search, self.leaves)
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if len(queries) > _PARALLEL_BATCH:
            rows, scores = self._searcher.search_batched_parallel(queries, batch_size=_PARALLEL_BATCH, **arguments)
        else:
            rows, scores = self._searcher.search_batched(queries, **arguments)
        found = np.isfinite(scores)
        return np.where(found, scores, -np.inf).astype(np.float32), np.where(found, rows.astype(np.int32), -1)

    def save(self, directory: Path) -> None:
        """Write the index into an existing directory, which can be moved afterwards."""
        self._searcher.serialize(str(directory), relative_path=True)


def build(vectors: np.ndarray, builder: Builder | None = None, leaves: int | None = None) -> ScannSearcher:
    """Build an index for inner products.

    Args:
      vectors: float32[N, E], finite, unit norm, N at least 1. One NaN would silently empty every result.
      builder: the kind of index; chosen by N if None.
      leaves: partitions of a tree, at most N; about √N if None.

    Raises:
      UserError: the machine has too little memory.
    """
    check_memory(vectors.nbytes, _physical_memory())
    count = len(vectors)
    builder = builder or builder_for(count)
    leaves = min(leaves or round(math.sqrt(count)), count) if builder == "tree_ah" else 0
    plan = _scann().builder(np.ascontiguousarray(vectors, dtype=np.float32), 10, "dot_product")
    if builder == "brute_force":
        return ScannSearcher(plan.score_brute_force().build(), builder, count, leaves)
    sample = min(count, _TRAINING_SAMPLE)
    if leaves:
        plan = plan.tree(leaves, max(1, leaves // 10), training_sample_size=sample)
    plan = plan.score_ah(
        _DIMENSIONS_PER_BLOCK,
        anisotropic_quantization_threshold=_ANISOTROPIC_THRESHOLD,
        training_sample_size=sample,
    )
    return ScannSearcher(plan.reorder(100).build(), builder, count, leaves)


def load(directory: Path, builder: Builder, count: int, leaves: int) -> ScannSearcher:
    """Load what `ScannSearcher.save` wrote.

    Raises:
      UserError: there are no ScaNN files, or a pickle lies among them, which ScaNN would run.
    """
    if pickles := sorted(directory.glob("*.pkl")):
        raise UserError(f"{pickles[0]} is a pickle, which can run any program when loaded; build the index again")
    if not (directory / "scann_assets.pbtxt").is_file():
        raise UserError(f"{directory} has no scann_assets.pbtxt, so it is no ScaNN index; build the index again")
    searcher = _scann().load_searcher(str(directory), assets_backcompat_shim=False)
    return ScannSearcher(searcher, builder, count, leaves)


def check_memory(vector_bytes: int, physical: int) -> None:
    """Refuse to build what will not fit: ScaNN keeps the whole matrix in memory.

    Raises:
      UserError: `vector_bytes` of vectors need more than `physical` bytes.
    """
    needed = MEMORY_PER_VECTOR_BYTE * vector_bytes
    if needed > physical:
        raise UserError(
            f"an index of these vectors needs about {needed / 2**30:.1f} GiB of memory, this machine has "
            f"{physical / 2**30:.1f} GiB; use a larger machine, a smaller embedding width, or one index per "
            "category"
        )


def _physical_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _scann() -> ModuleType:
    """ScaNN's numpy interface, imported as if TensorFlow were not installed.

    With TensorFlow, importing ScaNN also loads its TensorFlow operators: seconds of start-up, the
    accelerator's memory, and an undefined symbol unless TensorFlow is the very version that ScaNN was
    compiled against.
    """
    name = "scann.scann_ops.py.scann_ops_pybind"
    if name in sys.modules:
        return sys.modules[name]
    tensorflow = sys.modules.get("tensorflow")
    sys.modules["tensorflow"] = None  # type: ignore[assignment]  # what Python takes for "not installed"
    try:
        return importlib.import_module(name)
    finally:
        if tensorflow is None:
            del sys.modules["tensorflow"]
        else:
            sys.modules["tensorflow"] = tensorflow
