"""Resizing: from the pixels of a source to those of a set, and the way back for points.

The filter ``"bilinear"`` is Pillow's ``BILINEAR``: half-pixel centres, one triangle per axis whose
support grows with the reduction, so that every pixel of the source has its share in the result.
``"two-tap"`` is the plain bilinear of ``tf.image.resize`` without antialiasing, which looks at two
pixels per axis and skips the rest. ``"nearest"`` copies values, for label maps and phantoms.

Sums are exact. Weights are whole multiples of 2**-24 that add up to one, and sources of up to 16
bits are summed in float64 with room to spare, so that neither the processor, the BLAS library nor
its threads can change a bit of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medkit.errors import PixelError, UsageError

Values = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

_WEIGHT_BITS = 24
_EXACT_BITS = 53  # of a float64
# Output pixels with less of the image under their filter than this are padding.
_LEAST_SHARE = 2.0**-10
# Rows of weights that are multiplied at a time (as measured): fewer where the reduction is large,
# since a block of weights is then mostly zeros.
_BLOCK_ROWS = (4, 16)
_BLOCK_TAPS = 32  # source pixels that a block takes, about


class Spacing(NamedTuple):
    """Size of a source's pixel.

    Attributes
    ----------
    row, column : float
        Distance between rows, and between columns: mm, where ``physical``, else only their ratio
        counts.
    origin : str
        The attribute it comes from; empty where pixels are taken to be square.
    """

    row: float = 1.0
    column: float = 1.0
    origin: str = ""

    @property
    def physical(self) -> bool:
        """Whether the distances are in mm."""
        return self.origin not in ("", "PixelAspectRatio")


@dataclass(frozen=True)
class Axis:
    """How one axis of the output lies over that of the source.

    Attributes
    ----------
    source, output : int
        Pixels.
    scale : float
        Source pixels per output pixel.
    origin : float
        Where the outer edge of the output's first pixel lies, in source pixels from the outer
        edge of the source.
    first, stop : int
        The output pixels that show the source; the others are padding.
    """

    source: int
    output: int
    scale: float
    origin: float
    first: int
    stop: int

    @property
    def offset(self) -> float:
        """Source coordinate of the centre of output pixel 0, in pixels from centre to centre."""
        return self.origin + (self.scale - 1) / 2

    def centres(self) -> npt.NDArray[np.float64]:
        """Return where the centres of ``first`` to ``stop`` lie, in the units of ``origin``."""
        centres = (np.arange(self.first, self.stop) + 0.5) * self.scale + self.origin
        return np.asarray(centres, dtype=np.float64)

    def is_identity(self) -> bool:
        """Say whether output pixels are source pixels."""
        return self.scale == 1 and self.origin == int(self.origin)


@dataclass(frozen=True)
class Geometry:
    """Where the source lies in the output.

    Attributes
    ----------
    rows, columns : Axis
        The two axes; neither is rotated or mirrored.
    """

    rows: Axis
    columns: Axis

    @property
    def affine(self) -> tuple[float, ...]:
        """Map from output to source: ``x_s = a x + b y + c``, ``y_s = d x + e y + f``.

        Coordinates are (column, row), whole at the centres of pixels.
        """
        return (
            self.columns.scale,
            0.0,
            self.columns.offset,
            0.0,
            self.rows.scale,
            self.rows.offset,
        )

    @property
    def inverse(self) -> tuple[float, ...]:
        """Map from source to output, as `affine`."""
        return invert_affine(self.affine)

    @property
    def pad_box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom edge, in output pixels, of where the source lies."""
        return (self.columns.first, self.rows.first, self.columns.stop, self.rows.stop)

    def is_identity(self) -> bool:
        """Say whether output pixels are source pixels, on both axes."""
        return self.rows.is_identity() and self.columns.is_identity()


def apply_affine(affine: Sequence[float], points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Map points (x, y), shape (..., 2), by the six numbers of an affine."""
    matrix = np.asarray(affine, dtype=np.float64).reshape(2, 3)
    mapped = np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return np.asarray(mapped, dtype=np.float64)


def invert_affine(affine: Sequence[float]) -> tuple[float, ...]:
    """Return the six numbers of the map that leads back."""
    matrix = np.asarray(affine, dtype=np.float64).reshape(2, 3)
    back = np.linalg.inv(matrix[:, :2])
    return tuple(np.column_stack([back, -back @ matrix[:, 2]]).ravel().tolist())


def plan_geometry(
    rows: int,
    columns: int,
    spacing: Spacing,
    size: tuple[int, int],
    geometry: str = "letterbox",
    mm: float | None = None,
) -> Geometry:
    """Return how a source is laid into an output of a given size.

    Parameters
    ----------
    rows, columns : int
        Of the source.
    spacing : Spacing
        Of its pixels.
    size : tuple of int
        (rows, columns) of the output.
    geometry : str
        ``"letterbox"``: all of the source in its physical aspect, centred, padded on two sides.
        ``"crop"``: its middle in its physical aspect, filling the output. ``"stretch"``: all of
        it, whatever becomes of the aspect. ``"mm"``: its middle at ``mm`` millimetres per output
        pixel, padded where the output is larger.
    mm : float, optional
        For ``"mm"`` alone.

    Raises
    ------
    UsageError
        If the geometry is unknown, or ``mm`` is missing.
    PixelError
        ``no-spacing``: the geometry is ``"mm"`` and the source does not say how large it is.
    """
    if geometry not in GEOMETRIES:
        raise UsageError(f"no geometry is named {geometry!r}; use one of {', '.join(GEOMETRIES)}")
    step = mm or 0.0
    if geometry == "mm":
        if step <= 0:
            raise UsageError(f"the geometry 'mm' needs millimetres per pixel above 0, not {mm!r}")
        if not spacing.physical:
            raise PixelError("no-spacing", "the header does not say how many mm a pixel has")
    else:
        # mm per output pixel if one axis alone decided
        steps = (rows * spacing.row / size[0], columns * spacing.column / size[1])
        step = min(steps) if geometry == "crop" else max(steps)
    plan = GEOMETRIES[geometry]
    return Geometry(
        plan(rows, size[0], step / spacing.row), plan(columns, size[1], step / spacing.column)
    )


def _fit_axis(source: int, output: int, scale: float) -> Axis:
    inner = min(output, max(1, round(source / scale)))
    first = (output - inner) // 2
    scale = source / inner
    return Axis(source, output, scale, -first * scale, first, first + inner)


def _fill_axis(source: int, output: int, scale: float) -> Axis:
    extent = _snap(scale * output)
    return Axis(source, output, extent / output, (source - extent) / 2, 0, output)


def _stretch_axis(source: int, output: int, scale: float) -> Axis:
    return Axis(source, output, source / output, 0.0, 0, output)


def _center_axis(source: int, output: int, scale: float) -> Axis:
    scale = _snap(scale)
    origin = (source - output * scale) / 2
    if scale == 1:  # no half pixel between source and output: values stay as they are
        origin = math.floor(origin)
    # The output pixels whose centre lies on the source, one at least.
    first = min(output // 2, max(0, math.ceil(-origin / scale - 0.5)))
    stop = max(first + 1, min(output, math.ceil((source - origin) / scale - 0.5)))
    return Axis(source, output, scale, origin, first, stop)


def _snap(number: float) -> float:
    """Return a number that rounding kept from being whole as a whole one."""
    whole = float(round(number))
    return whole if math.isclose(number, whole, rel_tol=1e-9) else number


GEOMETRIES: dict[str, Callable[[int, int, float], Axis]] = {
    "letterbox": _fit_axis,
    "stretch": _stretch_axis,
    "crop": _fill_axis,
    "mm": _center_axis,
}


def resample(
    values: Values, mask: Mask | None, geometry: Geometry, filter: str = "bilinear"
) -> tuple[Values, Mask]:
    """Lay a source into an output.

    Parameters
    ----------
    values : ndarray, shape (H, W) or (H, W, 3)
        Of any real type.
    mask : ndarray of bool, shape (H, W), optional
        False at padding of the source, which has no share in the result: where it lies under a
        filter, the weights of the other pixels are scaled up.
    geometry : Geometry
        As `plan_geometry` returns it for this source.
    filter : str
        ``"bilinear"``, ``"two-tap"`` or ``"nearest"``.

    Returns
    -------
    values : ndarray, shape (h, w) or (h, w, 3)
        Of the source's type after ``"nearest"``; else float32, or float64 where the source's type
        does not fit that. Zero where the mask is False.
    mask : ndarray of bool, shape (h, w)
        True where the image is: inside the pad box, and not over padding alone.

    Raises
    ------
    UsageError
        If the filter is unknown.
    """
    if filter not in FILTERS:
        raise UsageError(f"no filter is named {filter!r}; use one of {', '.join(FILTERS)}")
    if filter == "nearest" or geometry.is_identity():
        inside, covered = _pick(values, mask, geometry)
    else:
        inside, covered = _blend(values, mask, geometry, FILTERS[filter])
    kind = values.dtype if filter == "nearest" else np.result_type(values.dtype, np.float32)
    left, top, right, bottom = geometry.pad_box
    size = (geometry.rows.output, geometry.columns.output)
    canvas = np.zeros((*size, *values.shape[2:]), kind)
    canvas[top:bottom, left:right] = inside
    canvas_mask = np.zeros(size, dtype=bool)
    canvas_mask[top:bottom, left:right] = True if covered is None else covered
    if covered is not None:
        canvas[~canvas_mask] = 0
    return canvas, canvas_mask


def resize(values: Values, size: tuple[int, int], filter: str = "bilinear") -> Values:
    """Stretch an image, shape (H, W) or (H, W, 3), to a size; see `resample` for its type."""
    geometry = plan_geometry(values.shape[0], values.shape[1], Spacing(), size, "stretch")
    return resample(values, None, geometry, filter)[0]


def _pick(values: Values, mask: Mask | None, geometry: Geometry) -> tuple[Values, Mask | None]:
    """Copy the source's nearest pixels."""
    where = np.ix_(_nearest(geometry.rows), _nearest(geometry.columns))
    return values[where], None if mask is None else mask[where]


def _nearest(axis: Axis) -> npt.NDArray[np.intp]:
    return np.clip(np.floor(axis.centres()), 0, axis.source - 1).astype(np.intp)


def _blend(
    values: Values, mask: Mask | None, geometry: Geometry, antialiased: bool
) -> tuple[Values, Mask | None]:
    """Weigh the source's pixels."""
    if mask is None or mask.all():
        return _filter(values, geometry, antialiased), None
    inside = _filter(np.where(_spread(mask, values), values, 0), geometry, antialiased)
    share = _filter(mask.view(np.uint8), geometry, antialiased)
    covered = share >= _LEAST_SHARE
    # Exactly one where no padding is near, so that those pixels are as without a mask.
    inside /= _spread(np.where(covered, share, 1), inside)
    return inside, covered


def _spread(mask: Values, values: Values) -> Values:
    """Return a mask (H, W) in the shape that goes with values."""
    return mask if values.ndim == 2 else mask[..., np.newaxis]


def _filter(values: Values, geometry: Geometry, antialiased: bool) -> Values:
    """Return the weighted sums inside the pad box, float64."""
    if values.ndim == 3:
        channels = [
            _filter(channel, geometry, antialiased) for channel in np.moveaxis(values, -1, 0)
        ]
        return np.stack(channels, axis=-1)
    rows, columns = geometry.rows, geometry.columns
    tall = np.empty((rows.stop - rows.first, columns.source))
    for here, there, weights in _weigh(rows, antialiased):
        np.matmul(weights, values[there].astype(np.float64), out=tall[here])
    _round_for_exactness(tall, values.dtype)
    inside = np.empty((len(tall), columns.stop - columns.first))
    for here, there, weights in _weigh(columns, antialiased):
        inside[:, here] = tall[:, there] @ weights.T
    return inside


def _round_for_exactness(sums: Values, source: np.dtype[Any]) -> None:
    """Drop the lowest bits of the first axis's sums, so that those of the second are exact.

    What is dropped is below 2**-29 of the type's range.
    """
    if source.kind in "iu" and source.itemsize <= 2:
        unit = 2.0 ** (_EXACT_BITS - _WEIGHT_BITS - 8 * source.itemsize)
        sums *= unit
        np.rint(sums, out=sums)
        sums /= unit


@lru_cache(maxsize=128)
def _weigh(axis: Axis, antialiased: bool) -> list[tuple[slice, slice, npt.NDArray[np.float64]]]:
    """Return output pixels (counted from the pad box), source pixels, and weights, in blocks.

    Pillow's rule (``precompute_coeffs`` in its Resample.c): pixel centres at halves, the triangle
    cut at the edges of the source and the rest scaled to add up to one.
    """
    radius = max(axis.scale, 1.0) if antialiased else 1.0
    centres = axis.centres()
    begin = np.maximum(np.floor(centres - radius + 0.5), 0).astype(int)
    end = np.minimum(np.floor(centres + radius + 0.5), axis.source).astype(int)
    step = int(np.clip(_BLOCK_TAPS / axis.scale, *_BLOCK_ROWS))
    blocks = []
    for low in range(0, len(centres), step):
        here = slice(low, low + step)
        there = slice(int(begin[here].min()), int(end[here].max()))
        distances = np.arange(there.start, there.stop) + 0.5 - centres[here, np.newaxis]
        blocks.append((here, there, _quantise(np.maximum(1 - np.abs(distances) / radius, 0))))
    return blocks


def _quantise(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return each row as multiples of a unit that add up to exactly one."""
    unit = 2**_WEIGHT_BITS
    whole = np.rint(weights / weights.sum(axis=1, keepdims=True) * unit)
    # What rounding left over goes to the largest weight, where it matters least.
    whole[np.arange(len(whole)), whole.argmax(axis=1)] += unit - whole.sum(axis=1)
    return np.asarray(whole / unit)


# Whether the triangle grows with the reduction; nearest has none.
FILTERS = {"bilinear": True, "two-tap": False, "nearest": False}
