"""Resizing: from the pixels of a source to those of a set, and the way back for points.

The filter ``"bilinear"`` is Pillow's ``BILINEAR``: half-pixel centres, one triangle per axis whose
support grows with the reduction, so that every pixel of the source has its share in the result.
``"two-tap"`` is the plain bilinear of ``tf.image.resize`` without antialiasing, which looks at two
pixels per axis and skips the rest. ``"nearest"`` copies values, for label maps and phantoms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from medkit.errors import PixelError, UsageError
from medkit.images.filters import Mask, Values, blend, weigh


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
    kind = values.dtype if filter == "nearest" else np.result_type(values.dtype, np.float32)
    left, top, right, bottom = geometry.pad_box
    size = (geometry.rows.output, geometry.columns.output)
    canvas = np.zeros((*size, *values.shape[2:]), kind)
    canvas_mask = np.zeros(size, dtype=bool)
    inside, covered = canvas[top:bottom, left:right], canvas_mask[top:bottom, left:right]
    if filter == "nearest" or geometry.is_identity():
        _pick(values, mask, geometry, inside, covered)
    else:
        rows, columns = (weigh(axis, FILTERS[filter]) for axis in (geometry.rows, geometry.columns))
        blend(values, mask, rows, columns, inside, covered)
    return canvas, canvas_mask


def resize(values: Values, size: tuple[int, int], filter: str = "bilinear") -> Values:
    """Stretch an image, shape (H, W) or (H, W, 3), to a size; see `resample` for its type."""
    geometry = plan_geometry(values.shape[0], values.shape[1], Spacing(), size, "stretch")
    return resample(values, None, geometry, filter)[0]


def _pick(
    values: Values, mask: Mask | None, geometry: Geometry, inside: Values, covered: Mask
) -> None:
    """Copy the source's nearest pixels."""
    where = np.ix_(_nearest(geometry.rows), _nearest(geometry.columns))
    covered[...] = True if mask is None else mask[where]
    inside[...] = values[where]
    inside[~covered] = 0


def _nearest(axis: Axis) -> npt.NDArray[np.intp]:
    return np.clip(np.floor(axis.centres()), 0, axis.source - 1).astype(np.intp)


# Whether the triangle grows with the reduction; nearest has none.
FILTERS = {"bilinear": True, "two-tap": False, "nearest": False}
