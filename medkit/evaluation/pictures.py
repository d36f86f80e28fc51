"""Pictures of single images for the eye: in the aspect of their source, with a map laid over.

The images of a set are square, or whatever its recipe says; here they are cut out of their padding
and stretched back.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medkit.images.resampling import resize

Floats = npt.NDArray[np.floating[Any]]
Bytes = npt.NDArray[np.uint8]

_MOST = 320  # pixels that a picture is wide or high at most
_FOR, _AGAINST = (255, 122, 0), (0, 140, 255)  # told apart by all kinds of colour vision
_COVER = 0.7  # of the picture, where a map is at its strongest
_PLACES = (
    ("upper left", "upper middle", "upper right"),
    ("left", "middle", "right"),
    ("lower left", "lower middle", "lower right"),
)


def draw_picture(codes: npt.NDArray[Any], row: Mapping[Any, Any]) -> Bytes:
    """Make one image of a set visible.

    Grey is stretched between the 1st and the 99th percentile of its pixels; colour keeps its
    values.

    Parameters
    ----------
    codes : ndarray, shape (H, W) or (H, W, 3)
        As the set stores them.
    row : mapping
        Of the set's table: ``pad_box``, ``affine``, ``slope``, ``plane`` and ``PixelSpacing``.

    Returns
    -------
    ndarray of uint8, shape (h, w) or (h, w, 3)
        Without padding, in the physical aspect of the source.
    """
    inside = cut(codes.astype(np.float64), row["pad_box"])
    if codes.dtype == np.uint8 and codes.ndim == 3:
        low, high = 0.0, 255.0
    else:
        inside = inside if row["slope"] >= 0 else -inside
        low, high = np.nanpercentile(inside, (1, 99))
    shown = resize(np.nan_to_num(inside, nan=low), find_size(inside.shape[:2], row))
    shown = (shown - low) / max(high - low, 1e-12)
    return np.asarray(np.clip(shown, 0, 1) * 255).round().astype(np.uint8)


def cut(values: npt.NDArray[Any], box: Sequence[int]) -> npt.NDArray[Any]:
    """Return what lies in a box: left, top, right, bottom."""
    left, top, right, bottom = (int(edge) for edge in box)
    return values[top:bottom, left:right]


def find_size(inside: tuple[int, ...], row: Mapping[Any, Any]) -> tuple[int, int]:
    """Return rows and columns of a picture whose aspect is the physical one of its source.

    Parameters
    ----------
    inside : (rows, columns)
        That the image has in its set, without padding.
    row : mapping
        Of the set's table.
    """
    affine = np.asarray(row["affine"], dtype=np.float64)
    height, width = inside[0] * abs(affine[4]), inside[1] * abs(affine[0])
    spacing = row["PixelSpacing"]
    # A plane that was cut anew has an isotropic grid, whatever the spacing of its slices.
    if isinstance(row["plane"], str) or spacing is None or np.size(spacing) != 2:
        spacing = (1.0, 1.0)
    sides = np.array([height, width]) * (np.asarray(spacing) if min(spacing) > 0 else 1.0)
    most = min(_MOST, max(inside))
    rows, columns = np.maximum((sides * most / sides.max()).round(), 1).astype(int).tolist()
    return rows, columns


def lay_over(picture: Bytes, strengths: Floats, size: Sequence[int], box: Sequence[int]) -> Bytes:
    """Colour a picture by a map: orange where it is above 0, blue where it is below.

    Parameters
    ----------
    picture : ndarray of uint8
        From `draw_picture`.
    strengths : ndarray, shape (h, w)
        Over the whole image of the set; what is greatest, either way, has the full colour.
    size : (rows, columns)
        Of images of the set.
    box : (left, top, right, bottom)
        Where the image lies in it.

    Returns
    -------
    ndarray of uint8, shape (h, w, 3)
    """
    shown = _fit(strengths, size, box, picture.shape[:2])
    share = np.abs(shown) / max(float(np.abs(shown).max()), 1e-12)
    colour = np.where(shown[..., None] > 0, np.array(_FOR), np.array(_AGAINST))
    under = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=-1)
    cover = _COVER * share[..., None]
    return np.asarray((1 - cover) * under + cover * colour).round().astype(np.uint8)


def _fit(
    strengths: Floats, size: Sequence[int], box: Sequence[int], shape: Sequence[int]
) -> Floats:
    """Return a map as it lies over a picture."""
    whole = resize(np.ascontiguousarray(strengths, dtype=np.float64), (size[0], size[1]))
    shown: Floats = resize(np.ascontiguousarray(cut(whole, box)), (shape[0], shape[1]))
    return shown


def name_place(strengths: Floats, size: Sequence[int], box: Sequence[int]) -> str:
    """Say in words in which ninth of an image a map is greatest; empty where it is nowhere above 0.

    Left and right are those of the picture. The parameters are those of `lay_over`.
    """
    ninths = _fit(np.maximum(strengths, 0), size, box, (3, 3))
    row, column = np.unravel_index(int(ninths.argmax()), (3, 3))
    return _PLACES[row][column] if ninths.max() > 0 else ""


def encode(picture: Bytes, *, exact: bool = True) -> str:
    """Return a picture as a ``data:`` URI: a PNG, or, where it need not be exact, a JPEG."""
    import imagecodecs

    pixels = np.ascontiguousarray(picture)
    if exact:
        return _spell("png", imagecodecs.png_encode(pixels, level=6))
    return _spell("jpeg", imagecodecs.jpeg8_encode(pixels, level=85))


def _spell(kind: str, content: bytes | bytearray) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
