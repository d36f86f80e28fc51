"""What a network trains on: codes that are held where they are used, batches made ahead."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.engine import map_threads, prefetch
from medkit.images import feeds
from medkit.networks.augmentation import Augmentation
from medkit.networks.hardware import is_out_of_memory, load_keras
from medkit.networks.outputs import weigh_labels

if TYPE_CHECKING:
    from medkit.images.reader import Images
    from medkit.training.contract import LabelledImages

Rows = npt.NDArray[np.int64]
Batch = tuple[Any, npt.NDArray[np.int64], npt.NDArray[np.float32]]

# Stored codes of one part are held in memory, or on a GPU, up to this; above it, each batch is
# read from the set.
MEMORY_BYTES = 4 << 30
DEVICE_BYTES = 2 << 30
_AHEAD = 3
# Images that a scale is measured on at most, and at a time; and the least deviation, a grey step of
# 16 bits: below it lies rounding, which must not be blown up.
_MEASURED, _BLOCK = 1024, 64
_LEAST = 2.0**-16
# Where codes can lie and be looked at on a GPU; JAX has its batches from the host.
_FRAMEWORKS: dict[str, Callable[[], feeds.Framework]] = {
    "tensorflow": feeds.TensorFlow,
    "torch": lambda: feeds.Torch("cuda"),
}


@dataclass(frozen=True)
class Part:
    """Images to train on or to choose by.

    Attributes
    ----------
    pixels : Images or DeviceImages
        ``pixels[rows]`` is an array, or a tensor on the GPU, (n, H, W, C) of float32.
    labels : ndarray of int64, shape (n,) or (n, classes)
        Their classes; of several labels an image as of `LabelledImages`.
    weights : ndarray of float32, in the shape of ``labels``
        How much each counts; 0 of a label that is not known.
    """

    pixels: Any
    labels: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)


def open_part(
    part: LabelledImages, factors: npt.NDArray[np.float64], on_device: bool = False
) -> Part:
    """Hold images where they are used, if they fit there.

    Parameters
    ----------
    part : LabelledImages
        In the network's view.
    factors : ndarray of float64, shape (classes,) or (classes, 2)
        Weight of each class, of `outputs.weigh_classes`.
    on_device : bool
        Hold them on the GPU, if its framework can.
    """
    # Turned twice: an image's weight is one for all its labels.
    weights = (part.weights * weigh_labels(part.labels, factors).T).T.astype(np.float32)
    held: Any = _hold_on_device(part.images) if on_device else None
    if held is None and _count_bytes(part.images) <= MEMORY_BYTES:
        held = part.images.cached(reduced=True)
    return Part(part.images if held is None else held, part.labels, weights)


def _hold_on_device(images: Images) -> feeds.DeviceImages | None:
    """Return the images on the GPU, or None if they do not fit there or are not wanted there."""
    framework = _FRAMEWORKS.get(load_keras().backend.backend())
    if framework is None or _count_bytes(images) > DEVICE_BYTES:
        return None
    try:
        return feeds.DeviceImages.load(images, framework())
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None


def _count_bytes(images: Images) -> int:
    """Return what the codes of images take, in the size of their view."""
    _, height, width, _ = images.shape
    kinds = images.table["array"].str.split("x", n=1, expand=True)
    if not len(kinds):
        return 0
    each = [np.dtype(kind).itemsize * int(depth) for kind, depth in kinds.to_numpy(str)]
    return int(height * width * sum(each))


def measure_scale(images: Images) -> tuple[float, float]:
    """Return the scale with which the pixels of images have mean 0 and standard deviation 1.

    What images show can be a small part of their window: that of 12 bits in a file of 16 bits
    whose header has none is 3 % of it around one value. On a fixed scale such images are all but
    equal, and a network learns nothing from them. Measured on the training part and kept with the
    network, the scale is one for all images, so that a value still means one thing.

    Parameters
    ----------
    images : Images
        In the network's view, but for the scale. Of more than 1,024, so many at even distances
        are read.

    Returns
    -------
    low, high : float
        For ``images.with_view(scale=...)``.
    """
    rows = np.linspace(0, len(images) - 1, min(len(images), _MEASURED)).astype(np.int64)
    count, total, square = 0, 0.0, 0.0
    for pixels in images.with_view(scale=(0.0, 1.0)).batches(_BLOCK, rows):
        count += pixels.size
        total += float(pixels.sum(dtype=np.float64))
        square += float(np.square(pixels, dtype=np.float64).sum())
    mean = total / count
    deviation = max(math.sqrt(max(square / count - mean * mean, 0.0)), _LEAST)
    return -mean / deviation, (1 - mean) / deviation


def draw_batches(count: int, size: int, random: np.random.Generator) -> list[Rows]:
    """Return the rows of each batch; sizes differ by one at most: none is too small for norms."""
    return np.array_split(random.permutation(count), -(-count // size))


def make_batches(
    part: Part,
    batches: Sequence[Rows],
    augmentation: Augmentation,
    seeds: tuple[int, ...],
    threads: int,
) -> Generator[Batch, None, None]:
    """Yield pixels, labels and weights of each batch, which threads make ahead.

    Parameters
    ----------
    part : Part
        What they are of.
    batches : sequence of ndarray of int64
        The rows of each.
    augmentation : Augmentation
        How the pixels are varied; none for those that lie on a GPU.
    seeds : tuple of int
        What is drawn follows from these and the number of the batch.
    threads : int
        How many make batches; 0 is one beside the training.
    """

    def make(number: int) -> Batch:
        rows = batches[number]
        pixels = part.pixels[rows]
        if augmentation:
            random = np.random.default_rng((*seeds, number))
            pixels = augmentation.apply(pixels, random, part.pixels.view.scale)
        return pixels, part.labels[rows], part.weights[rows]

    return prefetch(map_threads(make, range(len(batches)), threads), _AHEAD)
