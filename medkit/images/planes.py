"""Images that are made of a whole volume: planes through it, and projections of it.

All slices are decoded and taken through `pixels`, each by its own header, and stacked. Where they
have one rescale, values stay as stored, and slope and intercept go with them, as in `pixels`; where
they do not, as in PET, they become real-world values in floating point.

A plane is interpolated between the eight voxels around a point, in the volume's own axes: a tilted
gantry shears those, and no image. Padding has no share: values and mask are interpolated alike, and
divided. What lies outside the volume is padding too. A projection is the greatest real-world value
along a line, of what is not padding; along the stored slices it needs no geometry.

A volume is refused as a whole, with the codes of `pixels` where a slice is, and with

=============== =================================================================================
too-large       the volume, or its grid, is beyond the limits
volume-geometry it is no even stack: a slice is missing, or headers do not say how slices lie
volume-values   its slices cannot be told in one scale: in colour, of several units or polarities
=============== =================================================================================
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medkit.errors import PixelError
from medkit.images import pixels
from medkit.images.arrays import split_name
from medkit.images.grids import Grid, Lattice, map_grid, plan_grid, read_lattice
from medkit.images.pixels import Frame, Mask, Values
from medkit.images.resampling import Spacing
from medkit.images.rows import Row, read_column
from medkit.workspace import hash_json

# Bytes of a volume's values, which for a moment are held twice: 2,048 slices of 512 x 512 in 16
# bits.
_VOLUME_LIMIT = 2**30
# Voxels with less of the image around them than this are padding; as `resampling` has it.
_LEAST_SHARE = 2.0**-10
_SLAB = 8  # planes that a projection takes at a time
# What must be equal for values to stay as stored, and what stands for its absence.
_SCALE = {
    **{"RescaleSlope": 1.0, "RescaleIntercept": 0.0, "has_modality_lut": False},
    **{"BitsAllocated": 0, "BitsStored": 0, "PixelRepresentation": 0},
}


def read_plane(row: Row, members: Sequence[Row]) -> Frame:
    """Return an image that is made of a volume.

    Parameters
    ----------
    row : mapping
        A row of `selection.Selection`, with ``plane`` and ``plane_index``.
    members : sequence of mapping
        The volume's slices, in the catalog's order.

    Returns
    -------
    Frame
        With isotropic spacing, but of a projection along the stored slices. Its window and fill are
        those of the slice that the row is of; ``source_sha256`` is of the hashes of all slices.

    Raises
    ------
    PixelError
        See the codes of this module and of `pixels`.
    """
    array = name_array(row, members)
    plane, index = read_column(row, "plane"), read_column(row, "plane_index")
    if plane is None:
        values, mask, slices = _project_slices(members, array)
        spacing = pixels.read_spacing(row)
    else:
        volume = _VOLUMES.get(_identify(members), lambda: _stack(members, array))
        grid = plan_grid(volume.lattice, plane)
        if index is None:
            values, mask = _project_planes(volume, grid)
        else:
            values, mask = _cut_plane(volume, grid, int(index))
        slices, spacing = volume.slices, Spacing(grid.spacing, grid.spacing, "PixelSpacing")
    if not mask.any():
        raise PixelError("all-padding", "no voxel of the volume lies in it, but for padding")
    frame = _find_slice(row, members, slices)
    names = [
        slices[place].source_sha256 if place in slices else "" for place in range(len(members))
    ]
    return dataclasses.replace(
        frame,
        values=values,
        mask=None if mask.all() else mask,
        full_low=float(np.min([each.full_low for each in slices.values()])),
        full_high=float(np.max([each.full_high for each in slices.values()])),
        source_sha256=hash_json([plane, None if index is None else int(index), names], length=64),
        lossy=any(each.lossy for each in slices.values()),
        constant=pixels.is_constant(values, mask),
        spacing=spacing,
    )


def name_array(row: Row, members: Sequence[Row]) -> str:
    """Return the array that an image of a volume belongs to, by the slices' headers alone.

    It is that of the slices where they have one rescale and one type, else ``float32x1``, or
    ``float64x1`` where one of them needs that.

    Raises
    ------
    PixelError
        If the headers say that the volume cannot be normalised, or not be cut along the plane.
    """
    plane = read_column(row, "plane")
    key = (plane, _identify(members))
    name: str = _NAMES.get(key, lambda: _name_array(members, plane))
    return name


def _name_array(members: Sequence[Row], plane: str | None) -> str:
    if plane is not None:
        plan_grid(read_lattice(members), plane)
    names = {pixels.name_array(member) for member in members}
    if any(split_name(name)[1] > 1 for name in names):
        raise PixelError("volume-values", "planes and projections of colour are not made")
    array = min(names)
    if len(names) > 1 or not _has_one_scale(members):
        array = "float64x1" if "float64x1" in names else "float32x1"
    size = len(members) * int(members[0]["Rows"]) * int(members[0]["Columns"])
    size *= split_name(array)[0].itemsize
    if plane is not None and size > _VOLUME_LIMIT:
        raise PixelError("too-large", f"a volume of {size:,} bytes; the limit is {_VOLUME_LIMIT:,}")
    return array


def _has_one_scale(members: Sequence[Row]) -> bool:
    """Say whether all slices have values of one type, and one rescale."""
    scales = {
        tuple(read_column(member, name, default) for name, default in _SCALE.items())
        for member in members
    }
    return len(scales) == 1


# ---- Reading the slices --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Volume:
    """A volume in memory.

    Attributes
    ----------
    lattice : Lattice
        Where its voxels are.
    values, shares : SimpleITK.Image
        In the volume's own axes: values, zero at padding, and 1 or 0 at padding. None where there
        is no padding.
    slices : dict of int to Frame
        What is known of each slice, without pixels; those of nothing but padding are missing.
    """

    lattice: Lattice
    values: Any
    shares: Any
    slices: dict[int, Frame]


def _stack(members: Sequence[Row], array: str) -> _Volume:
    lattice = read_lattice(members)
    stack = np.empty(0)
    masks = {}
    slices: dict[int, Frame] = {}
    for place, frame in _read_slices(members, array):
        if not slices:
            stack = np.zeros(lattice.shape[::-1], frame.values.dtype)
        stack[place] = frame.values
        if frame.mask is not None:
            stack[place][~frame.mask] = 0
            masks[place] = frame.mask
        slices[place] = _strip(frame)
    if not slices:
        raise PixelError("all-padding", "every voxel is padding")
    values = _import_itk().GetImageFromArray(stack, isVector=False)
    if not masks and len(slices) == len(members):
        return _Volume(lattice, values, None, slices)
    shares = np.zeros(stack.shape, np.uint8)
    for place in slices:
        shares[place] = masks.get(place, True)
    return _Volume(lattice, values, _import_itk().GetImageFromArray(shares, isVector=False), slices)


def _read_slices(members: Sequence[Row], array: str) -> Iterator[tuple[int, Frame]]:
    """Yield the slices, by their places, with values in one scale; not those of padding alone."""
    real = not _has_one_scale(members) or len({pixels.name_array(each) for each in members}) > 1
    # In the order of a file: what is packed can be unpacked from its start alone.
    order = sorted(range(len(members)), key=lambda place: _find_source(members[place]))
    first: Frame | None = None
    for place in order:
        try:
            frame = pixels.read_frame(members[place])
        except PixelError as error:
            if error.code == "all-padding":
                continue
            detail = f"slice {place} of {len(members)}: {error.detail}"
            raise PixelError(error.code, detail) from None
        frame = _make_real(frame, array) if real else frame
        first = first or _strip(frame, frame.values[:0])
        _check_alike(first, frame, members[place])
        yield place, frame


def _find_source(member: Row) -> tuple[str, int]:
    return str(member["path"]), int(member["frame"])


def _make_real(frame: Frame, array: str) -> Frame:
    """Return a slice with its real-world values, in floating point."""
    values = frame.values * np.float64(frame.slope)
    values += frame.intercept
    if frame.mask is not None:
        values[~frame.mask] = 0
    kind = split_name(array)[0]
    if not (abs(values) <= np.finfo(kind).max).all():
        raise PixelError("rescale", f"its real-world values are beyond {kind.name}")
    return dataclasses.replace(
        frame, values=values.astype(kind), array=array, slope=1.0, intercept=0.0, base=0.0, k=1.0
    )


def _check_alike(first: Frame, frame: Frame, member: Row) -> None:
    """Refuse a slice whose values mean something else than those of the first."""
    for name in ("array", "slope", "intercept", "base", "k", "units", "polarity"):
        here, there = getattr(frame, name), getattr(first, name)
        if here != there:
            raise PixelError("volume-values", f"{name} is {here!r} in one slice, {there!r} in one")
    if frame.values.dtype != first.values.dtype:
        raise PixelError("volume-values", "slices are of several types")
    if frame.values.shape != (member["Rows"], member["Columns"]):
        raise PixelError("volume-values", "slices are of several sizes")


def _strip(frame: Frame, values: Values | None = None) -> Frame:
    """Return what is known of a slice, without its pixels."""
    return dataclasses.replace(frame, values=np.empty(0) if values is None else values, mask=None)


def _find_slice(row: Row, members: Sequence[Row], slices: dict[int, Frame]) -> Frame:
    """Return the slice that a row is of, or the nearest one that is not padding alone."""
    sources = [(member["file"], member["frame"]) for member in members]
    place = sources.index((row["file"], row["frame"]))
    return slices[min(slices, key=lambda other: (abs(other - place), other))]


# ---- Planes and projections ----------------------------------------------------------------------


def _cut(volume: _Volume, grid: Grid, first: int, count: int) -> tuple[Values, Mask]:
    """Return some planes, shape (count, rows, columns), and where they are image."""
    values = _interpolate(volume, volume.values, grid, first, count)
    if volume.shares is None:
        mask = ~np.isnan(values)
        values[~mask] = 0
        return values, mask
    shares = _interpolate(volume, volume.shares, grid, first, count)
    mask = shares >= _LEAST_SHARE  # not so where it is no number, outside the volume
    values[~mask] = 0
    return np.divide(values, shares, out=values, where=mask), mask


def _interpolate(volume: _Volume, image: Any, grid: Grid, first: int, count: int) -> Values:
    """Return linear interpolations at the voxels of some planes; outside the volume nan."""
    itk = _import_itk()
    matrix, offset = map_grid(grid, volume.lattice, first)
    wide = next(iter(volume.slices.values())).array == "float64x1"
    # Both are in units of voxels: the transform alone says how they lie, so that no convention
    # of directions and origins comes between.
    resampler = itk.ResampleImageFilter()
    resampler.SetSize((grid.shape[0], grid.shape[1], count))
    resampler.SetTransform(itk.AffineTransform(matrix.ravel().tolist(), offset.tolist()))
    resampler.SetInterpolator(itk.sitkLinear)
    resampler.SetDefaultPixelValue(math.nan)
    resampler.SetOutputPixelType(itk.sitkFloat64 if wide else itk.sitkFloat32)
    resampler.SetNumberOfThreads(1)  # processes work side by side already
    return np.asarray(itk.GetArrayFromImage(resampler.Execute(image)))


def _import_itk() -> Any:
    import SimpleITK

    return SimpleITK


def _cut_plane(volume: _Volume, grid: Grid, index: int) -> tuple[Values, Mask]:
    if not 0 <= index < grid.shape[2]:
        raise PixelError("no-frame", f"plane {index} of {grid.shape[2]}")
    values, mask = _cut(volume, grid, index, 1)
    return values[0], mask[0]


def _project_planes(volume: _Volume, grid: Grid) -> tuple[Values, Mask]:
    slope = next(iter(volume.slices.values())).slope
    seen = _cut_plane(volume, grid, 0)
    for first in range(1, grid.shape[2], _SLAB):
        slab = _cut(volume, grid, first, min(_SLAB, grid.shape[2] - first))
        for values, mask in zip(*slab, strict=True):
            seen = _lay_over(seen, values, mask, slope)
    return seen


def _project_slices(members: Sequence[Row], array: str) -> tuple[Values, Mask, dict[int, Frame]]:
    slices = {}
    seen = None
    for place, frame in _read_slices(members, array):
        mask = np.ones(frame.values.shape, bool) if frame.mask is None else frame.mask
        seen = _lay_over(seen, frame.values, mask, frame.slope)
        slices[place] = _strip(frame)
    if seen is None:
        raise PixelError("all-padding", "every voxel is padding")
    return *seen, slices


def _lay_over(
    seen: tuple[Values, Mask] | None, values: Values, mask: Mask, slope: float
) -> tuple[Values, Mask]:
    """Return what is the greatest in the real world so far, and where anything is image."""
    if seen is None:
        return np.where(mask, values, 0), mask.copy()
    greatest, covered = seen
    choose = np.maximum if slope > 0 else np.minimum
    choose(greatest, values, out=greatest, where=covered & mask)
    np.copyto(greatest, values, where=mask & ~covered)
    covered |= mask
    return greatest, covered


# ---- What is kept --------------------------------------------------------------------------------


class _Last:
    """The last result of a costly step, or its refusal, as one volume has many planes."""

    def __init__(self) -> None:
        self._held: dict[Any, Any] = {}

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what a key stands for, made if it is not the last one."""
        held = self._held.get(key)
        if held is None:
            self._held = {}  # before another is made: never two in memory
            try:
                held = make()
            except PixelError as error:
                held = (error.code, error.detail)  # an error itself would hold on to all it saw
            self._held = {key: held}
        if isinstance(held, tuple):
            raise PixelError(*held)
        return held


_VOLUMES, _NAMES = _Last(), _Last()


def _identify(members: Sequence[Row]) -> Any:
    """Return what tells a volume, and the state of its files, from any other."""
    seen, key = _IDENTIFIED[0]
    if seen is not members:  # the images of one volume follow one another
        names = ("root", "path", "frame", "size", "mtime_ns")
        key = tuple(tuple(member.get(name) for name in names) for member in members)
        _IDENTIFIED[0] = (members, key)
    return key


_IDENTIFIED: list[tuple[Sequence[Row], Any]] = [((), ())]
