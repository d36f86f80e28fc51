"""What a network says of images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.engine import prefetch
from medkit.errors import TrainingError
from medkit.networks.hardware import is_out_of_memory
from medkit.networks.outputs import gives_labels

if TYPE_CHECKING:
    import keras

    from medkit.images.reader import Images

Floats = npt.NDArray[np.float32]

_BATCH = 64
_AHEAD = 2


def predict(
    network: keras.Model, pixels: Images | Floats, batch_size: int = _BATCH
) -> npt.NDArray[np.float64]:
    """Return the probabilities of each image; rows sum to 1 unless an image has several labels.

    Parameters
    ----------
    network : keras.Model
        From pixels (n, H, W, C) to probabilities (n, classes).
    pixels : Images or ndarray of float32, shape (n, H, W, C)
        In the view that the network was trained on.
    batch_size : int
        Images a step; halved where they do not fit in memory.

    Returns
    -------
    ndarray of float64, shape (n, classes)

    Raises
    ------
    TrainingError
        If not even one image fits in memory.
    """
    rows = apply_network(network, pixels, batch_size).astype(np.float64)
    if gives_labels(network):
        return rows
    return np.asarray(rows / rows.sum(axis=1, keepdims=True))


def apply_network(
    network: keras.Model, pixels: Images | Floats, batch_size: int = _BATCH
) -> Floats:
    """Return what the network gives for each image, shape (n, ...); see `predict`."""
    parts: list[Floats] = []
    size, done = batch_size, 0
    while done < len(pixels):
        try:
            for found in _apply(network, pixels, done, size):
                parts.append(found)
                done += len(found)
        except Exception as error:
            size = halve_batch(size, error)
    return np.concatenate([np.empty((0, *network.output_shape[1:]), np.float32), *parts])


def halve_batch(size: int, error: Exception) -> int:
    """Return the batch size to go on with after an error; one of another kind is raised again.

    Raises
    ------
    TrainingError
        If the batch that did not fit was one image.
    """
    if not is_out_of_memory(error):
        raise error
    if size == 1:
        raise TrainingError(
            "the memory that the network runs in does not hold a single image; a smaller -p size, "
            "a smaller network or --device cpu would work"
        ) from error
    return size // 2


def _apply(network: keras.Model, pixels: Any, start: int, size: int) -> Iterator[Floats]:
    for batch, count in prefetch(_cut(pixels, start, size), _AHEAD):
        yield np.asarray(network.predict_on_batch(batch))[:count]


def _cut(pixels: Any, start: int, size: int) -> Iterator[tuple[Floats, int]]:
    """Yield batches of one shape, the last one filled up: a row must not depend on the others."""
    for first in range(start, len(pixels), size):
        batch = pixels[first : first + size]
        filler = np.zeros((size - len(batch), *batch.shape[1:]), np.float32)
        yield np.concatenate([batch, filler]), len(batch)
