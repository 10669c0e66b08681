"""The pictures of a batch, sorted into groups that TensorFlow decodes in one way each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.augmentation import AugmentSpec
from data_pipelines.decode import fit_picture

GROUP = 32  # enough at a time that what comes with each group is small, few enough that every core gets some

_OTHER_PICTURES = 1 << 48  # above every position in the order


@dataclass(frozen=True)
class PictureGroups:
    """G groups of up to 32 pictures; at least one, if an empty one, so that every batch has its turn.

    A picture's number counts through the batch: product number * I + picture number.

    Attributes:
      places: G arrays int64[n] of the numbers of a group's pictures.
      encoded: object[G, 32] of bytes, the files, b"" behind the last one.
      numbers: int64[G, 32, 4], what `decode.group_decoder` is to know of each.
      heads: int64[G, 2], the way that a group is decoded, and n.
      faults: of the pictures that are not even tried, the number and the reason.
    """

    places: list[np.ndarray]
    encoded: np.ndarray
    numbers: np.ndarray
    heads: np.ndarray
    faults: dict[int, str]

    def files(self, group: int) -> list[bytes]:
        """The files of a group."""
        return self.encoded[group, : len(self.places[group])].tolist()

    def keys(self, group: int) -> np.ndarray:
        """What decides how each picture of a group is varied, int64[n, 2]."""
        return self.numbers[group, : len(self.places[group]), 2:]


def group_pictures(
    images: Sequence[Sequence[bytes]],
    num_images: int,
    image_size: tuple[int, int],
    augment: AugmentSpec,
    augment_keys: np.ndarray | None,
) -> PictureGroups:
    """Sorts the pictures of B products.

    Args:
      images: B lists of encoded pictures, the main one first; b"" is none.
      num_images: I; further pictures of a product are left out.
      image_size: (H, W) in pixels.
      augment: how pictures are varied.
      augment_keys: int64[B, 2], what decides how each product's pictures are varied; None where none is.
    """
    faults: dict[int, str] = {}
    ways: dict[int, tuple[list[int], list[bytes], list[tuple[int, int]]]] = {}
    for product, pictures in enumerate(images):
        for number, picture in enumerate(pictures[:num_images], product * num_images):
            if not picture:
                continue
            fit = fit_picture(picture, *image_size, augment)
            if isinstance(fit, str):
                faults[number] = fit
                continue
            places, encoded, sizes = ways.setdefault(fit.way, ([], [], []))
            places.append(number)
            encoded.append(picture)
            sizes.append((fit.height, fit.width))
    return _in_groups(ways, faults, num_images, augment_keys)


def _in_groups(
    ways: dict[int, tuple[list[int], list[bytes], list[tuple[int, int]]]],
    faults: dict[int, str],
    num_images: int,
    augment_keys: np.ndarray | None,
) -> PictureGroups:
    parts = [(way, first) for way in ways for first in range(0, len(ways[way][0]), GROUP)] or [(0, 0)]
    encoded = np.full([len(parts), GROUP], b"", object)
    numbers = np.zeros([len(parts), GROUP, 4], np.int64)
    heads = np.zeros([len(parts), 2], np.int64)
    places = []
    for group, (way, first) in enumerate(parts):
        found, files, sizes = (values[first : first + GROUP] for values in ways.get(way, ([], [], [])))
        count = len(found)
        places.append(np.array(found, np.int64))
        encoded[group, :count] = files
        numbers[group, :count, :2] = np.reshape(sizes, [count, 2])
        if augment_keys is not None:
            products, others = np.divmod(places[-1], num_images)
            numbers[group, :count, 2:] = augment_keys[products]
            numbers[group, :count, 3] += others * _OTHER_PICTURES
        heads[group] = way, count
    return PictureGroups(places, encoded, numbers, heads, faults)
