"""What is seen of an image: its outlines, how bright it is, and a thumbnail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from medkit.images.reader import Images

Floats = npt.NDArray[np.floating[Any]]

# Histograms of oriented gradients: Dalal and Triggs, CVPR 2005.
CELLS = 6
ORIENTATIONS = 9
_CLIP = 0.2
# Of brightness, and of the thumbnail's rows and columns.
BINS = 16
THUMBNAIL = 6
# Images whose pixels are in memory at a time.
_BATCH = 64


def describe_images(images: Images) -> npt.NDArray[np.float32]:
    """Return the features of images, a row each, shape (n, d).

    Parameters
    ----------
    images : Images
        In a view from 0 to 1 of at least 12 rows and columns.
    """
    rows = [np.empty((0, _count_features(images.shape[3])), np.float32)]
    for pixels in images.batches(_BATCH):
        parts = describe_outlines(pixels), describe_brightness(pixels), _shrink(pixels)
        rows.append(np.concatenate(parts, axis=1).astype(np.float32))
    return np.concatenate(rows)


def describe_outlines(pixels: Floats) -> Floats:
    """Return histograms of oriented gradients of images (n, H, W, C).

    Each gradient is shared between the two orientations it lies between, and weighed by its length.
    Two by two cells have the length 1 together (L2-Hys), so that contrast does not count.
    """
    grey = pixels.mean(axis=3, dtype=np.float64)
    down, across = np.gradient(grey, axis=(1, 2))
    place = np.arctan2(down, across) / np.pi % 1.0 * ORIENTATIONS
    lower, share = np.floor(place).astype(np.int64), place % 1.0
    length = np.hypot(down, across)
    cells = [
        _sum_parts(length * _share_between(lower, share, kind), CELLS)
        for kind in range(ORIENTATIONS)
    ]
    return _normalise_blocks(np.stack(cells, axis=3))


def describe_brightness(pixels: Floats) -> Floats:
    """Return the share of pixels in each range of brightness, shape (n, BINS * C)."""
    bins = np.minimum((pixels * BINS).astype(np.int64), BINS - 1)
    shares = [(bins == each).mean(axis=(1, 2)) for each in range(BINS)]
    return np.concatenate(shares, axis=1)


def _share_between(lower: npt.NDArray[np.int64], share: Floats, kind: int) -> Floats:
    """Return how much of each gradient is of one orientation."""
    here, next_one = lower % ORIENTATIONS == kind, (lower + 1) % ORIENTATIONS == kind
    return np.asarray(here * (1.0 - share) + next_one * share)


def _normalise_blocks(cells: Floats) -> Floats:
    corners = [cells[:, y : CELLS - 1 + y, x : CELLS - 1 + x] for y in (0, 1) for x in (0, 1)]
    blocks = np.concatenate(corners, axis=3)
    for limit in (_CLIP, np.inf):
        length = np.sqrt((blocks**2).sum(axis=3, keepdims=True)) + 1e-6
        blocks = np.minimum(blocks / length, limit)
    return blocks.reshape(len(blocks), -1)


def _shrink(pixels: Floats) -> Floats:
    sides = pixels.shape[1] * pixels.shape[2]
    sums = _sum_parts(pixels.astype(np.float64), THUMBNAIL)
    return np.asarray(sums.reshape(len(pixels), -1) * THUMBNAIL**2 / sides)


def _sum_parts(values: Floats, parts: int) -> Floats:
    """Return sums over as many parts of rows and columns, shape (n, parts, parts, ...)."""
    rows, columns = (np.arange(parts) * side // parts for side in values.shape[1:3])
    return np.add.reduceat(np.add.reduceat(values, rows, axis=1), columns, axis=2)


def _count_features(channels: int) -> int:
    outlines = (CELLS - 1) ** 2 * 4 * ORIENTATIONS
    return outlines + (BINS + THUMBNAIL**2) * channels
