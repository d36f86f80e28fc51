"""What an image looks like, in few numbers that outlive resizing, re-encoding and another window.

An image is cut to its content, made small and square, and every pixel becomes what it is above its
surroundings, over how much these vary (local contrast normalisation: Jarrett et al., ICCV 2009).
Brightness, contrast and windows are nearly straight lines over so small a neighbourhood, and so
fall out; where a window clips, nothing varies and nothing is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.engine import Progress, count_workers, map_threads, silent
from medkit.images.feeds import LUMA

if TYPE_CHECKING:
    from medkit.images.reader import Images

Floats = npt.NDArray[np.float32]
Small = npt.NDArray[np.int8]
Positions = npt.NDArray[np.int64]

SIDE = 64  # pixels of a fine signature; two images are compared by these
COARSE = 16  # pixels of a coarse one; candidates are found by these
# Standard deviations, in pixels, of what smooths a pixel and of what its surroundings are.
_FINE_BAND, _COARSE_BAND = (0.67, 2.0), (0.5, 2.5)
# Surroundings that vary less than this share of the image's own deviation show nothing.
_FLAT = 0.2
_STEPS = 32  # of a fine signature to a whole: values to 4 deviations, in steps of 1/32
_NOTHING = -128
# An image shows too little to be told from others where less of it than this has any structure.
_LEAST = 0.05
_BLOCK = 64


@dataclass(frozen=True, eq=False)
class Signatures:
    """Of images, a row each: some 5 kB an image.

    Attributes
    ----------
    coarse : ndarray of float32, shape (n, COARSE, COARSE)
    fine : ndarray of int8, shape (n, SIDE, SIDE)
        As `unpack` reads it.
    plain : ndarray of bool, shape (n,)
        Images that show too little to be compared.
    """

    coarse: Floats
    fine: Small
    plain: npt.NDArray[np.bool_]


def sign_images(images: Images, progress: Progress = silent) -> Signatures:
    """Return the signatures of images, each of which is read once.

    Parameters
    ----------
    images : Images
        Grey or colour; of colour the luma counts. Their view does not matter.
    progress : callable
        Is told of images.
    """
    count = len(images)
    coarse = np.empty((count, COARSE, COARSE), np.float32)
    fine = np.empty((count, SIDE, SIDE), np.int8)

    def sign(places: Positions, grey: Floats) -> None:
        fine[places], coarse[places] = sign_pixels(grey)

    shrink_images(images, sign, progress)
    return Signatures(coarse, fine, (fine != _NOTHING).mean(axis=(1, 2)) < _LEAST)


def shrink_images(
    images: Images, use: Callable[[Positions, Floats], None], progress: Progress = silent
) -> None:
    """Read images once, in threads, and hand over their content, small and square and in grey.

    Parameters
    ----------
    images : Images
    use : callable
        Is given positions, and stored codes of shape (n, SIDE, SIDE): the luma of colour.
    progress : callable
        Is told of images.
    """
    boxes = images.table["pad_box"].tolist()

    def shrink(block: tuple[str, Positions, Positions]) -> int:
        name, places, rows = block
        codes = images.source.request(name, rows)()
        grey = [_shrink(one, boxes[at]) for one, at in zip(codes, places, strict=True)]
        use(places, np.stack(grey))
        return len(places)

    done = 0
    for some in map_threads(shrink, _cut(images), count_workers(None)):
        done += some
        progress(done, len(images), "images")


def sign_pixels(grey: Floats) -> tuple[Small, Floats]:
    """Return the fine and the coarse signature of small images, shape (n, SIDE, SIDE)."""
    values, shown = _normalise(grey, *_FINE_BAND)
    fine = np.where(shown, np.clip(np.rint(values * _STEPS), -127, 127), _NOTHING)
    pooled = grey.reshape(len(grey), COARSE, SIDE // COARSE, COARSE, SIDE // COARSE)
    coarse, shown = _normalise(pooled.mean(axis=(2, 4)), *_COARSE_BAND)
    return fine.astype(np.int8), np.where(shown, coarse, np.float32(0))


def unpack(fine: Small) -> tuple[Floats, Floats]:
    """Return the values of fine signatures, 0 where nothing is shown, and 1 where something is."""
    shown = fine != _NOTHING
    values = np.where(shown, fine, 0).astype(np.float32)
    values /= _STEPS
    return values, shown.astype(np.float32)


def _cut(images: Images) -> Iterator[tuple[str, Positions, Positions]]:
    """Yield blocks of an array's name, positions of images and their rows in it."""
    names = images.table["array"].to_numpy(dtype=str)
    stored = images.table["row"].to_numpy(dtype=np.int64)
    for name in np.unique(names):
        places = np.flatnonzero(names == name)
        places = places[np.argsort(stored[places])]
        for start in range(0, len(places), _BLOCK):
            block = places[start : start + _BLOCK]
            yield str(name), block, stored[block]


def _shrink(codes: npt.NDArray[Any], box: Any) -> Floats:
    """Return the content of an image, small and square, in grey."""
    from medkit.images.resampling import resize  # brings a compiler

    left, top, right, bottom = box
    small = resize(np.ascontiguousarray(codes[top:bottom, left:right]), (SIDE, SIDE))
    grey = small @ np.array(LUMA) if small.ndim == 3 else small
    return np.nan_to_num(np.asarray(grey, dtype=np.float64)).astype(np.float32)


def _normalise(grey: Floats, inner: float, outer: float) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return pixels by their surroundings, and where these vary at all."""
    above = _blur(grey, inner)
    above -= _blur(above, outer)
    around = np.sqrt(np.maximum(_blur(above * above, outer), 0))
    # Rounding of large numbers is no structure.
    noise = np.abs(grey).max(axis=(1, 2), keepdims=True) * 8 * np.finfo(np.float32).eps
    least = np.maximum(_FLAT * above.std(axis=(1, 2), keepdims=True), noise) + 1e-30
    return above / (around + least), around > least


def _blur(values: Floats, sigma: float) -> Floats:
    from scipy import ndimage

    blurred: Floats = ndimage.gaussian_filter(
        values, (0, sigma, sigma), mode="nearest", truncate=3.0
    )
    return blurred
