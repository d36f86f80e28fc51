"""From the frames of a series to its volumes.

A SeriesInstanceUID is not a volume: a series may hold scouts, several orientations, echoes or
moments. Frames are first divided by what they are and how they lie; then by what changes between
repetitions, where one position is seen more than once; at last by the order in which it is seen.
A scout is in no volume, and neither is a mosaic: one frame that shows a whole volume, slice beside
slice, is none of its slices.

Most series are plain: their frames are of one kind and orientation, and each position is seen
once. These are found, ordered and measured all at once; the others are divided one by one.

The checks are those of IDC's ``volume_geometry_index``, with its names and tolerances; there they
are of a series, here of a volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medkit.catalog.runs import find_starts

Floats = npt.NDArray[np.float64]
Truths = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.integer[Any]]

_SLICE_TOLERANCE = 0.01  # of the mean step
_IN_PLANE_TOLERANCE = 0.1  # mm
_ORTHOGONAL_TOLERANCE = 0.01  # of the cross product's length from 1
_COSINE_TOLERANCE = 1e-3  # below it, two orientations are one
_SPACING_TOLERANCE = 1e-3  # relative
_POSITION_TOLERANCE = 0.01  # mm along the normal, below which two positions are one, ...
_PIXEL_TOLERANCE = 0.1  # ... or of a pixel, if that is less: there is microscopic CT
BY_ORDER, BY_NOTHING = -1, -2  # in `Stacks.told`
_FLAT = 0.5  # a cross product this short belongs to no plane
_LONG = 2.0  # no cosine
_FAR = 1e6  # mm; no place in a scanner's room


@dataclass(frozen=True)
class Frames:
    """Frames of some series: those of one series together, in the order of their numbers.

    Attributes
    ----------
    series : (n,) integers
        The series of each frame.
    kinds : (n,) integers
        Frames of different kinds are never of one volume.
    repetitions : sequence of (n,) float64 arrays
        What may tell one repetition from another, the best first; NaN where it is not known.
        These differ from slice to slice in many a good volume, so they divide only repetitions.
    positions : (n, 3) float64 array
        ImagePositionPatient, mm; NaN where it is not known, as below.
    orientations : (n, 6) float64 array
        ImageOrientationPatient.
    spacings : (n, 2) float64 array
        PixelSpacing, mm.
    """

    series: Rows
    kinds: Rows
    repetitions: Sequence[Floats]
    positions: Floats
    orientations: Floats
    spacings: Floats

    def take(self, rows: Rows | Truths) -> Frames:
        """Return some of the frames."""
        return Frames(
            self.series[rows],
            self.kinds[rows],
            [values[rows] for values in self.repetitions],
            self.positions[rows],
            self.orientations[rows],
            self.spacings[rows],
        )

    @property
    def normals(self) -> Floats:
        """(n, 3) float64 array: the cross products of rows and columns, not normalised."""
        return np.cross(self.orientations[:, :3], self.orientations[:, 3:])


@dataclass(frozen=True)
class Stacks:
    """Frames in the order of their volumes, and in a volume along its normal.

    Attributes
    ----------
    rows : (n,) integers
        The frames, as positions in `Frames`.
    starts : (v,) integers
        Where in ``rows`` each volume starts.
    told : (v,) integers
        What told each from others at the same place: the place in ``Frames.repetitions``,
        `BY_ORDER`, or `BY_NOTHING` where no position is seen twice.
    """

    rows: Rows
    starts: Rows
    told: Rows

    @property
    def sizes(self) -> Rows:
        """(v,) integers: the slices of each volume."""
        return np.diff(self.starts, append=len(self.rows))


def find_flat(frames: Frames) -> Truths:
    """Return which frames lie in a plane, at a place that is known."""
    # Comparing with NaN is False: what is not known is no place and no plane.
    placed = (abs(frames.positions) <= _FAR).all(axis=1)
    turned = (abs(frames.orientations) <= _LONG).all(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):  # of cosines that are none
        return placed & turned & (_measure_lengths(frames.normals) >= _FLAT)


def divide(frames: Frames) -> Stacks:
    """Divide frames into volumes, each ordered by position along the normal of its first frame.

    Parameters
    ----------
    frames : Frames
        All of them flat, see `find_flat`.

    Returns
    -------
    Stacks
        By series, and in a series by the first frame.
    """
    starts = find_starts(frames.series)
    order, plain = _sort_plain(frames, starts)
    pieces, counts, told = [], [], []
    edges = [*starts.tolist(), len(frames.series)]
    runs = find_starts(plain).tolist()  # plain ones are taken whole: most trees are one run
    for first, end in zip(runs, [*runs[1:], len(plain)], strict=False):
        if plain[first]:
            pieces.append(order[edges[first] : edges[end]])
            counts.append(np.diff(edges[first : end + 1]))
            told.append(np.full(end - first, BY_NOTHING))
            continue
        for one in range(first, end):
            for stack, by in divide_carefully(frames, np.arange(edges[one], edges[one + 1])):
                pieces.append(stack)
                counts.append(np.array([len(stack)]))
                told.append(np.array([by]))
    sizes, rows, tellers = (
        np.concatenate([np.empty(0, np.intp), *each]) for each in (counts, pieces, told)
    )
    return Stacks(rows, np.cumsum(sizes) - sizes, tellers)


def divide_carefully(frames: Frames, rows: Rows) -> list[tuple[Rows, int]]:
    """Return the volumes of one series, whatever it holds, and what told each; see `divide`."""
    orientations = _cluster(frames.orientations[rows], rtol=0, atol=_COSINE_TOLERANCE)
    spacings = _cluster(frames.spacings[rows], rtol=_SPACING_TOLERANCE, atol=0)
    found = []
    for stack in _split(rows, frames.kinds[rows], orientations, spacings):
        parts, told = _divide_repetitions(frames, stack)
        for part in parts:
            found.append((part[np.argsort(_project(frames, part), kind="stable")], told))
    return found


def measure(frames: Frames, stacks: Stacks) -> dict[str, Any]:
    """Return columns of the table ``volumes``: how the slices of each volume lie.

    Parameters
    ----------
    frames : Frames
        What was divided.
    stacks : Stacks
        What `divide` returned.
    """
    starts, sizes = stacks.starts, stacks.sizes
    ordered = frames.take(stacks.rows)
    normals = ordered.normals
    lead = np.repeat(starts, sizes)  # the first slice of each slice's volume
    along = _dot(ordered.positions, normals[lead])
    steps = np.diff(along, append=np.nan)
    inner = np.diff(lead, append=-1) == 0  # the steps that stay within a volume
    # As in the schema: it does not depend on how a sum of steps is rounded.
    with np.errstate(invalid="ignore"):  # a volume of one slice has no steps
        mean = (along[starts + sizes - 1] - along[starts]) / np.where(sizes > 1, sizes - 1, 0)
    uneven = np.where(inner, abs(steps - np.repeat(mean, sizes)), 0.0)
    uniform = (sizes > 1) & (_reduce(np.maximum, uneven, starts) < _SLICE_TOLERANCE * mean)
    axes = ordered.orientations[lead]
    across = [_dot(ordered.positions, axes[:, part]) for part in (slice(3), slice(3, 6))]
    row_apart, col_apart = (_span(values, starts) >= _IN_PLANE_TOLERANCE for values in across)
    lengths = _measure_lengths(normals)
    checks = {
        "single_orientation": _are_constant(ordered.orientations, starts, lead),
        "orthogonal_orientation": _all(abs(lengths - 1) <= _ORTHOGONAL_TOLERANCE, starts),
        "unique_slice_positions": _all((steps != 0) | ~inner, starts),
        "consistent_in_plane_row": ~row_apart,
        "consistent_in_plane_col": ~col_apart,
        "consistent_pixel_spacing": _are_constant(ordered.spacings, starts, lead),
        # Frames of other dimensions are other volumes.
        "consistent_image_dimensions": np.ones(len(starts), bool),
        "uniform_slice_spacing": uniform,
    }
    even = [_span_steps(values, inner, starts) < _IN_PLANE_TOLERANCE for values in across]
    sheared = (sizes > 2) & (row_apart | col_apart) & even[0] & even[1]
    return {
        "slices": sizes,
        "PixelSpacing": ordered.spacings[starts],
        "slice_spacing": mean,
        "ImageOrientationPatient": ordered.orientations[starts],
        "obliquity_degrees": _measure_obliquity(normals[starts]),
        **checks,
        "regularly_spaced_3d_volume": np.logical_and.reduce([*checks.values()]),
        "tilted": sheared & uniform,
    }


def _sort_plain(frames: Frames, starts: Rows) -> tuple[Rows, Truths]:
    """Return the frames by series and position, and which series are one volume as they are."""
    sizes = np.diff(starts, append=len(frames.series))
    lead = np.repeat(starts, sizes)
    apart = np.concatenate(
        [
            frames.kinds != frames.kinds[lead],
            _differ(frames.orientations, lead, rtol=0, atol=_COSINE_TOLERANCE),
            _differ(frames.spacings, lead, rtol=_SPACING_TOLERANCE, atol=0),
        ]
    ).reshape(3, -1)
    along = _dot(frames.positions, frames.normals[lead])
    order = np.lexsort((along, frames.series))
    steps = np.diff(along[order], prepend=-np.inf)
    steps[starts] = np.inf
    repeated = ~(steps > _find_tolerances(frames.spacings[lead]))
    return order, ~_reduce(np.logical_or, apart.any(axis=0) | repeated, starts)


def _differ(values: Floats, lead: Rows, *, rtol: float, atol: float) -> Truths:
    same = np.isclose(values, values[lead], rtol=rtol, atol=atol, equal_nan=True)
    return np.asarray(~same.all(axis=1))


def _divide_repetitions(frames: Frames, stack: Rows) -> tuple[list[Rows], int]:
    places = _number_positions(frames, stack)
    turns = _rank(np.arange(len(stack)), places)
    if not turns.any():
        return [stack], BY_NOTHING
    most = int(turns.max()) + 1
    for by, values in enumerate(frames.repetitions):
        # A value of its own for each repetition; or one that drifts from slice to slice, of which
        # the n-th of each position belong together. One that differs anyhow tells nothing.
        for said in (values[stack], _rank_evenly(values[stack], places, most)):
            keys = np.unique(said, return_inverse=True)[1]
            parts = _split(stack, keys)
            if len(parts) == most and len(_split(places, places, keys)) == len(stack):
                return parts, by
    return _split(stack, turns), BY_ORDER


def _rank(values: npt.NDArray[Any], places: Rows) -> Rows:
    """Return how many values at the same place go before each."""
    order = np.lexsort((values, places))
    starts = find_starts(places[order])
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return ranks


def _rank_evenly(values: Floats, places: Rows, most: int) -> Rows:
    """Return the ranks of values at each place, if they are known, differ, and are as many."""
    pairs = np.unique(np.stack([places, values]), axis=1)
    full = len(values) == most * (int(places.max()) + 1) == pairs.shape[1]
    return _rank(values, places) if full and not np.isnan(values).any() else np.zeros_like(places)


def _number_positions(frames: Frames, stack: Rows) -> Rows:
    """Return for each frame the number of its position along the normal, ascending."""
    along = _project(frames, stack)
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order], prepend=-np.inf)
    numbers = np.empty_like(order)
    numbers[order] = np.cumsum(steps > _find_tolerances(frames.spacings[stack[:1]])) - 1
    return numbers


def _find_tolerances(spacings: Floats) -> Floats:
    """Return below which distance, mm, two positions are one."""
    pixels = np.nan_to_num(spacings.min(axis=1), nan=np.inf)
    return np.asarray(np.minimum(_POSITION_TOLERANCE, _PIXEL_TOLERANCE * pixels))


def _project(frames: Frames, rows: Rows) -> Floats:
    """Return the position of frames along the normal of the first, mm."""
    return _dot(frames.positions[rows], frames.take(rows[:1]).normals)


def _split(rows: Rows, *keys: Rows) -> list[Rows]:
    """Return the rows apart by their keys, in the order in which each is first met."""
    codes = np.unique(np.stack(keys), axis=1, return_inverse=True)[1].reshape(-1)
    order = np.argsort(codes, kind="stable")
    parts = np.split(rows[order], np.flatnonzero(np.diff(codes[order])) + 1)
    return sorted(parts, key=lambda part: int(part[0]))


def _cluster(values: Floats, *, rtol: float, atol: float) -> Rows:
    """Return for each row the number of the first row that it equals within a tolerance."""
    # Sorting knows no order of NaN. This is close to itself alone, and to no value of a header.
    values = np.where(np.isnan(values), -1e300, values)
    # Each is compared once, however often it is there; in the order in which it is first met.
    _, first, inverse = np.unique(values, axis=0, return_index=True, return_inverse=True)
    met = np.argsort(first)
    distinct = values[first[met]]
    numbers = np.full(len(distinct), -1)
    for row in range(len(distinct)):
        if numbers[row] < 0:
            same = np.isclose(distinct, distinct[row], rtol=rtol, atol=atol)
            numbers[same.all(axis=1) & (numbers < 0)] = row
    return numbers[np.argsort(met)][inverse.reshape(-1)]


def _dot(left: Floats, right: Floats) -> Floats:
    """Return scalar products, row by row; always summed in one order, and so the same anywhere."""
    return np.asarray(
        left[:, 0] * right[:, 0] + left[:, 1] * right[:, 1] + left[:, 2] * right[:, 2]
    )


def _measure_lengths(vectors: Floats) -> Floats:
    return np.asarray(np.sqrt(_dot(vectors, vectors)))


def _measure_obliquity(normals: Floats) -> Floats:
    cosines = abs(normals).max(axis=1, initial=0) / _measure_lengths(normals)
    return np.asarray(np.degrees(np.arccos(np.minimum(1.0, cosines))))


def _reduce(function: np.ufunc, values: npt.NDArray[Any], starts: Rows) -> npt.NDArray[Any]:
    """Return the values of each volume or series reduced; there may be none at all."""
    return function.reduceat(values, starts) if len(starts) else values[:0]


def _all(values: Truths, starts: Rows) -> Truths:
    return _reduce(np.logical_and, values, starts)


def _span(values: Floats, starts: Rows) -> Floats:
    return np.asarray(_reduce(np.maximum, values, starts) - _reduce(np.minimum, values, starts))


def _span_steps(values: Floats, inner: Truths, starts: Rows) -> Floats:
    """Return by how much the steps of each volume differ; those of one without steps, by less."""
    steps = np.diff(values, append=np.nan)
    low = _reduce(np.minimum, np.where(inner, steps, np.inf), starts)
    high = _reduce(np.maximum, np.where(inner, steps, -np.inf), starts)
    return np.asarray(high - low)


def _are_constant(values: Floats, starts: Rows, lead: Rows) -> Truths:
    return _all(((values == values[lead]) | np.isnan(values)).all(axis=1), starts)
