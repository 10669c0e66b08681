"""Those who race at making batches of the same products: ours, the raw limit, a torch DataLoader and Grain.

Ours reads products from disk in its training order, parses and pads them. The others have pictures and padded tokens
ready in memory; all decode every picture anew, fit it into the middle of white with antialiasing, and shuffle. Imports
are in the functions because each contestant has a process of its own, which is to hold nothing of the others.
"""

from __future__ import annotations

import io
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.augmentation import NO_AUGMENT

WORKERS = 2  # processes or threads of the contestants that have to be told

_ENDLESS = 1 << 40
_EPOCHS = 1000
_READY = 2  # batches, as many as ours keeps; left to itself, tf.data would fill its memory while the others race


@dataclass(frozen=True)
class Task:
    """What batches to make.

    Attributes:
      folder: as `catalogues.write_catalogue` fills it.
      height: H of the pictures in the batch.
      width: W.
      batch_size: B.
    """

    folder: Path
    height: int
    width: int
    batch_size: int

    @cached_property
    def pictures(self) -> list[bytes]:
        """N encoded pictures."""
        import pyarrow.parquet as pq

        files = sorted((self.folder / "tables").glob("products-*.parquet"))
        return [picture for file in files for picture in pq.read_table(file)["image"].to_pylist()]

    @property
    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Width and height of the pictures, which are all alike, as stored and as fitted into the batch's."""
        from PIL import Image, ImageOps

        picture = Image.open(io.BytesIO(self.pictures[0]))
        return picture.size, ImageOps.contain(picture, (self.width, self.height)).size

    @cached_property
    def tokens(self) -> dict[str, np.ndarray]:
        """query_ids int32[N, Q] and title_ids int32[N, T]."""
        with np.load(self.folder / "tokens.npz") as arrays:
            return dict(arrays)


class PillowExamples:
    """The examples as a torch or Grain user would make them: a sequence of dicts, decoded when asked for.

    With `draft`, JPEGs are shrunk while they are decoded, as far as the size wanted allows: faster, if less known.
    """

    def __init__(self, task: Task, draft: bool) -> None:
        self._size, self._draft = (task.width, task.height), draft
        self._pictures, self._tokens = task.pictures, task.tokens

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        from PIL import Image, ImageOps

        picture = Image.open(io.BytesIO(self._pictures[index]))
        if self._draft:
            picture.draft("RGB", self._size)
        fitted = ImageOps.pad(picture.convert("RGB"), self._size, Image.Resampling.BILINEAR, color="white")
        return {"image": np.array(fitted)} | {name: ids[index] for name, ids in self._tokens.items()}


def ours(task: Task, step: int = 0) -> Generator[Any, None, None]:
    """Training batches from prepared data on disk, with the settings that a run has when nothing is said."""
    from data_pipelines.dataset import open_prepared
    from data_pipelines.feed_settings import BatchShape, Sampling
    from data_pipelines.input import train_batches
    from data_pipelines.plans import TrainPlans

    data = open_prepared(task.folder / "data")
    query_tokens, title_tokens = (ids.shape[1] for ids in (task.tokens["query_ids"], task.tokens["title_ids"]))
    shape = BatchShape(query_tokens, title_tokens, (task.height, task.width))
    plans = TrainPlans(data, Sampling(task.batch_size, seed=0), shape, 0, 1)
    with train_batches(data, plans, start_step=step) as batches:
        yield from batches


def first_batch_seconds(task: Task, step: int) -> float:
    """How long ours takes from opening the data to the batch of `step`, in a process that has its imports behind it."""
    import data_pipelines.stored_feed  # noqa: F401

    started = time.monotonic()
    batches = ours(task, step)
    next(batches)
    seconds = time.monotonic() - started
    batches.close()
    return seconds


def raw_pictures(task: Task) -> Iterator[Any]:
    """A tight tf.data loop over pictures, as anybody would write it: decode, resize where need be, pad."""
    from data_pipelines.host_tensorflow import tf

    stored, (width, height) = task.sizes
    margins = [[(task.height - height) // 2, (task.height - height + 1) // 2],
               [(task.width - width) // 2, (task.width - width + 1) // 2], [0, 0]]  # fmt: skip

    def fit(encoded: Any) -> Any:
        pixels = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
        if stored != (width, height):
            pixels = tf.cast(tf.image.resize(pixels, [height, width], antialias=True) + 0.5, tf.uint8)
        return tf.pad(pixels, margins, constant_values=255)

    decoded = _all_pictures(task).map(fit, num_parallel_calls=tf.data.AUTOTUNE)
    return iter(decoded.batch(task.batch_size, drop_remainder=True).prefetch(_READY))


def raw_groups(task: Task) -> Iterator[Any]:
    """A tight tf.data loop that does what ours does to pictures, and nothing else: no products, no order, no tokens."""
    from data_pipelines.decode import fit_picture, group_decoder
    from data_pipelines.host_tensorflow import tf
    from data_pipelines.picture_groups import GROUP

    fit = fit_picture(task.pictures[0], task.height, task.width)
    assert not isinstance(fit, str)
    size = min(GROUP, task.batch_size)
    numbers = tf.constant([[fit.height, fit.width, 0, 0]] * size, tf.int64)
    way = tf.constant(fit.way, tf.int64)
    decode = group_decoder(task.height, task.width, NO_AUGMENT)
    groups = _all_pictures(task).batch(size, drop_remainder=True)
    decoded = groups.map(lambda encoded: decode(encoded, numbers, way), num_parallel_calls=tf.data.AUTOTUNE)
    joined = decoded.batch(task.batch_size // size, drop_remainder=True)
    return iter(joined.prefetch(_READY))


def _all_pictures(task: Task) -> Any:
    from data_pipelines.host_tensorflow import tf

    return tf.data.Dataset.from_tensor_slices(tf.constant(task.pictures)).repeat()


def torch_loader(task: Task, draft: bool = False) -> Iterator[Any]:
    """A torch DataLoader with worker processes."""
    from torch.utils.data import DataLoader, RandomSampler

    examples: Any = PillowExamples(task, draft)  # all that a DataLoader wants of a data set
    sampler = RandomSampler(examples, replacement=True, num_samples=_ENDLESS)  # no pause between epochs
    return iter(DataLoader(examples, task.batch_size, sampler=sampler, num_workers=WORKERS))


def grain_processes(task: Task, draft: bool = False) -> Iterator[Any]:
    """Grain with worker processes, each without threads, as Grain advises for data in memory."""
    import grain

    batches = _grain_batches(task, draft).to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    return iter(batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=WORKERS)))


def grain_threads(task: Task, draft: bool = False) -> Iterator[Any]:
    """Grain with reading threads in one process; Pillow lets go of Python's lock while it works."""
    import grain

    options = grain.ReadOptions(num_threads=WORKERS, prefetch_buffer_size=2 * WORKERS)
    return iter(_grain_batches(task, draft).to_iter_dataset(options))


def _grain_batches(task: Task, draft: bool) -> Any:
    import grain
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # Grain has flags, reads them all the time and wants somebody to have parsed them
    examples = grain.MapDataset.source(PillowExamples(task, draft))
    # Grain takes the longer to shuffle the fewer there are; a thousand epochs at once cost it next to nothing.
    return examples.repeat(_EPOCHS).seed(0).shuffle().repeat().batch(task.batch_size)
