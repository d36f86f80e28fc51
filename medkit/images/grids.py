"""How a volume lies in the patient, and the planes that can be laid through it.

All by the headers, as the catalog has them, so that the images of a set are known before one is
decoded. Points and directions are in the patient's axes of DICOM, mm: to the patient's left,
posterior and head (LPS).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medkit.errors import PixelError, UsageError
from medkit.images.decoding import check_size
from medkit.images.rows import Row, read_column

Floats = npt.NDArray[np.float64]

# The columns of ``images`` that say how a slice lies.
GEOMETRY_COLUMNS = (
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("Rows", "Columns", "format"),
)
# How a plane is shown, as a radiologist has it: along a row, and from row to row. The third axis,
# along which planes are counted, is their cross product: towards the head, posterior, and right.
_AXES = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
}
PLANES = ("stored", *_AXES)

# Of a grid: no axis is longer, and all voxels together are no more.
_LENGTH_LIMIT = 2**14
_GRID_LIMIT = 2**31
# The catalog's tolerances, see docs/volumes.md; ...
_STEP_TOLERANCE = 0.01  # of the mean step
_SHIFT_TOLERANCE = 0.1  # mm
_COSINE_TOLERANCE = 0.01  # of a direction's length from 1
# ... and how far steps within them may lead a slice from where an even stack has it.
_DRIFT_TOLERANCE = 0.1  # of the mean step
# Of two unit directions, the least area between them: DICOM's are at right angles (PS3.3
# C.7.6.2.1.1), those of other formats and of a tilted gantry need not be.
_RIGHT, _OBLIQUE = 0.99, 0.5


@dataclass(frozen=True)
class Lattice:
    """Where the voxels of a volume are.

    Attributes
    ----------
    origin : ndarray, shape (3,)
        The centre of the first voxel.
    steps : ndarray, shape (3, 3)
        A row each: from a voxel to the next along a row, from row to row, from slice to slice. They
        need not be at right angles, as by a tilted gantry they are not.
    shape : tuple of int
        Columns, rows, slices.
    """

    origin: Floats
    steps: Floats
    shape: tuple[int, int, int]

    @property
    def spacing(self) -> float:
        """The finest of rows, columns and slices, mm; between slices, at right angles to them."""
        normal = _measure_normal(self.steps)
        return float(min(*np.linalg.norm(self.steps[:2], axis=1), self.steps[2] @ normal))

    @property
    def corners(self) -> Floats:
        """The centres of the eight outermost voxels, shape (8, 3)."""
        ends = [(0, count - 1) for count in self.shape]
        return self.origin + np.array(np.meshgrid(*ends)).reshape(3, -1).T @ self.steps

    @property
    def centres(self) -> Floats:
        """The middle of each slice, shape (slices, 3)."""
        columns, rows, slices = self.shape
        first = self.origin + (columns - 1) / 2 * self.steps[0] + (rows - 1) / 2 * self.steps[1]
        return np.asarray(first + np.arange(slices)[:, np.newaxis] * self.steps[2])


@dataclass(frozen=True)
class Grid:
    """Voxels at right angles along the patient's axes, of one spacing: parallel planes.

    Attributes
    ----------
    origin : ndarray, shape (3,)
        The centre of the first voxel.
    axes : ndarray, shape (3, 3)
        Directions, a row each: along a row, from row to row, from plane to plane.
    spacing : float
        mm, along each.
    shape : tuple of int
        Columns, rows, planes.
    """

    origin: Floats
    axes: Floats
    spacing: float
    shape: tuple[int, int, int]

    @property
    def heights(self) -> Floats:
        """Where each plane lies along the third axis, mm."""
        first = float(self.origin @ self.axes[2])
        return np.asarray(first + self.spacing * np.arange(self.shape[2]))


def read_lattice(members: Sequence[Row]) -> Lattice:
    """Return where the voxels of a volume are.

    Parameters
    ----------
    members : sequence of mapping
        Its slices in the catalog's order, with `GEOMETRY_COLUMNS`.

    Raises
    ------
    PixelError
        ``volume-geometry``: it is no even stack of two slices or more, or its headers do not say
        where it is.
    """
    positions = _collect(members, "ImagePositionPatient", 3)
    # All but equal, or the catalog had made volumes of them; the median is one of them.
    across = np.median(_collect(members, "ImageOrientationPatient", 6), axis=0).reshape(2, 3)
    between_rows, between_columns = np.median(_collect(members, "PixelSpacing", 2), axis=0)
    if min(between_rows, between_columns) <= 0:
        raise _refuse(f"pixels of {between_rows:g} x {between_columns:g} mm")
    lengths = np.linalg.norm(across, axis=1, keepdims=True)
    if (abs(lengths - 1) > _COSINE_TOLERANCE).any():
        raise _refuse("the directions of rows and columns are no unit vectors")
    across = across / lengths
    area = np.linalg.norm(np.cross(*across))
    if area < (_RIGHT if members[0]["format"] == "dicom" else _OBLIQUE):
        raise _refuse("rows and columns are not at right angles")
    along = _find_step(positions, np.cross(*across) / area, min(between_rows, between_columns))
    steps = np.stack([across[0] * between_columns, across[1] * between_rows, along])
    shape = (int(members[0]["Columns"]), int(members[0]["Rows"]), len(members))
    return Lattice(positions[0], steps, shape)


def plan_grid(lattice: Lattice, plane: str) -> Grid:
    """Return the grid of a volume's planes: from its first voxels to its last, at its finest step.

    Where the voxels lie along the patient's axes at one spacing already, the grid's are the same.

    Raises
    ------
    UsageError
        If there is no such plane.
    PixelError
        ``too-large``: it has more voxels, or longer axes, than there is a use for.
    """
    if plane not in _AXES:
        raise UsageError(f"planes are named {', '.join(_AXES)}, not {plane!r}")
    right, down = np.array(_AXES[plane], dtype=np.float64)
    axes = np.stack([right, down, np.cross(right, down)])
    spacing = lattice.spacing
    along = lattice.corners @ axes.T
    low, high = along.min(axis=0), along.max(axis=0)
    counts = np.floor((high - low) / spacing + 1e-6) + 1
    if counts.max() > _LENGTH_LIMIT or math.prod(counts.tolist()) > _GRID_LIMIT:
        size = " x ".join(f"{count:.0f}" for count in counts)
        raise PixelError("too-large", f"a grid of {size} voxels of {spacing:.3g} mm")
    columns, rows, planes = (int(count) for count in counts)
    check_size(rows, columns, 1)
    first = (low + high) / 2 - (counts - 1) / 2 * spacing
    return Grid(first @ axes, axes, spacing, (columns, rows, planes))


def find_nearest(lattice: Lattice, grid: Grid) -> list[int]:
    """Return for each plane the slice whose middle is nearest to it; of several, a middle one."""
    slices = lattice.shape[2]
    order = np.argsort(abs(np.arange(slices) - (slices - 1) // 2), kind="stable")
    heights = lattice.centres[order] @ grid.axes[2]
    unit = 1e-3 * grid.spacing  # what is nearer by less is as near
    return [int(order[np.argmin(np.rint(abs(heights - height) / unit))]) for height in grid.heights]


def map_grid(grid: Grid, lattice: Lattice, first: int) -> tuple[Floats, Floats]:
    """Return matrix and offset that lead from grid to lattice, both as (column, row, slice).

    Parameters
    ----------
    grid, lattice
        Of one volume.
    first : int
        The plane from which on planes of the grid are counted.
    """
    back = np.linalg.inv(lattice.steps.T)
    origin = grid.origin + first * grid.spacing * grid.axes[2]
    return back @ (grid.spacing * grid.axes.T), back @ (origin - lattice.origin)


def _collect(members: Sequence[Row], name: str, length: int) -> Floats:
    values = [read_column(member, name, ()) for member in members]
    if any(len(numbers) != length for numbers in values):
        raise _refuse(f"a slice without {name}")
    found = np.array(values, dtype=np.float64)
    if not (abs(found) < 1e9).all():
        raise _refuse(f"{name} is out of any range")
    return found


def _find_step(positions: Floats, normal: Floats, pixel: float) -> Floats:
    """Return the vector from slice to slice of an even stack."""
    if len(positions) < 2:
        raise _refuse("one slice is no volume")
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    height = float(step @ normal)
    apart = np.diff(positions @ normal)
    strays = positions - (positions[0] + np.arange(len(positions))[:, np.newaxis] * step)
    drift = strays @ normal
    uneven = abs(apart - height).max() >= _STEP_TOLERANCE * height
    if uneven or abs(drift).max() >= _DRIFT_TOLERANCE * height:
        raise _refuse(f"slices are {apart.min():.4g} to {apart.max():.4g} mm apart")
    shifts = np.linalg.norm(strays - np.outer(drift, normal), axis=1)
    if shifts.max() >= min(_SHIFT_TOLERANCE, pixel / 2):
        raise _refuse(f"slices are shifted against each other by {shifts.max():.3g} mm")
    if height < _OBLIQUE * np.linalg.norm(step):
        raise _refuse("slices are shifted against each other by more than their distance")
    return np.asarray(step)


def _measure_normal(steps: Floats) -> Any:
    normal = np.cross(steps[0], steps[1])
    return normal / np.linalg.norm(normal)


def _refuse(detail: str) -> PixelError:
    return PixelError("volume-geometry", detail)
