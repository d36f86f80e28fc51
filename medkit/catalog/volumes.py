"""From the frames of a series to its volumes.

A SeriesInstanceUID is not a volume: a series may hold scouts, several orientations, echoes or
moments. Frames are first divided by what they are and how they lie; then by what changes between
repetitions, where one position is seen more than once; at last by the order in which it is seen.

The checks are those of IDC's ``volume_geometry_index``, with its names and tolerances; there they
are of a series, here of a volume.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.integer[Any]]

_SLICE_TOLERANCE = 0.2  # mm, as dcm2niix's kSliceTolerance
_IN_PLANE_TOLERANCE = 0.1  # mm
_ORTHOGONAL_TOLERANCE = 0.01  # of the cross product's length from 1
_COSINE_TOLERANCE = 1e-3  # below it, two orientations are one
_SPACING_TOLERANCE = 1e-3  # relative
_POSITION_TOLERANCE = 0.01  # mm along the normal, below which two positions are one
_FLAT = 0.5  # a cross product this short belongs to no plane

_SERIES = ["source", "StudyInstanceUID", "SeriesInstanceUID"]
# Frames that differ in one of these are never of one volume.
_KINDS = [
    "SOPClassUID",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "FrameOfReferenceUID",
    "TemporalPositionIdentifier",
    "EchoTime",
    "DiffusionBValue",
]
# These differ from slice to slice in many a good volume; they divide only repetitions.
_REPETITIONS = ["AcquisitionNumber", "TriggerTime"]


@dataclass(frozen=True)
class _Geometry:
    """How the frames lie, a row a frame; what is not known is NaN."""

    positions: Floats  # (n, 3), mm
    orientations: Floats  # (n, 6)
    spacings: Floats  # (n, 2), mm
    normals: Floats  # (n, 3), not normalised

    def project(self, rows: Rows) -> Floats:
        """Return the position of frames along the normal of the first, mm."""
        return np.asarray(self.positions[rows] @ self.normals[rows[0]])


def find_volumes(frames: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Divide frames into volumes, and order each along its normal.

    Parameters
    ----------
    frames : DataFrame
        The table ``frames`` with the columns of their instances, and ``path``, beside; only
        images that count.

    Returns
    -------
    places : DataFrame
        ``volume`` and ``slice`` of each frame that lies in a volume, by the index of ``frames``.
    volumes : DataFrame
        The table ``volumes``.
    """
    frames = frames[_may_be_placed(frames)].sort_values(
        [*_SERIES, "InstanceNumber", "path", "frame"]
    )
    geometry = _read_geometry(frames)
    flavour = frames["ImageType"].map(_flavour)
    kinds = frames[_KINDS].assign(flavour=flavour).groupby([*_KINDS, "flavour"], dropna=False)
    kind_codes = kinds.ngroup().to_numpy()
    repetitions = [pd.factorize(frames[name])[0] for name in _REPETITIONS]
    known = frames[["Modality", "Rows", "Columns"]].to_dict("records")
    places, volumes = [], []
    for series, rows in _list_series(frames):
        rows = rows[np.linalg.norm(geometry.normals[rows], axis=1) >= _FLAT]
        for ordinal, stack in enumerate(_divide(geometry, rows, kind_codes, repetitions)):
            ordered = stack[np.argsort(geometry.project(stack), kind="stable")]
            name = hashlib.sha256(json.dumps([*series, ordinal]).encode()).hexdigest()[:16]
            places.append((name, ordered))
            volumes.append(
                {"volume": name, **dict(zip(_SERIES, series, strict=True)), **known[ordered[0]]}
                | _measure(geometry, ordered)
            )
    return _tabulate(frames, places), pd.DataFrame(volumes)


def _may_be_placed(frames: pd.DataFrame) -> pd.Series[bool]:
    scout = frames["ImageType"].map(lambda kind: kind is not None and "LOCALIZER" in [*kind])
    stated = frames["ImageOrientationPatient"].notna() & frames["ImagePositionPatient"].notna()
    return stated & ~scout.astype(bool)


def _flavour(image_type: Any) -> str:
    """Return what sets an image apart within its series: value 3 on (PS3.3 C.7.6.1.1.2)."""
    return "\\".join(image_type[2:]) if image_type is not None else ""


def _read_geometry(frames: pd.DataFrame) -> _Geometry:
    orientations = _stack(frames["ImageOrientationPatient"], 6)
    return _Geometry(
        _stack(frames["ImagePositionPatient"], 3),
        orientations,
        _stack(frames["PixelSpacing"], 2),
        np.cross(orientations[:, :3], orientations[:, 3:]),
    )


def _stack(column: pd.Series[Any], width: int) -> Floats:
    missing = [np.nan] * width
    rows = [missing if value is None else value for value in column]
    return np.array(rows, dtype=np.float64).reshape(len(rows), width)


def _list_series(frames: pd.DataFrame) -> Iterator[tuple[list[str], Rows]]:
    """Yield the identity of each series, and the positions of its frames."""
    numbers = frames.groupby(_SERIES, sort=False).ngroup().to_numpy()
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    names = frames[_SERIES].iloc[starts].to_numpy().tolist()
    yield from zip(names, np.split(np.arange(len(frames)), starts[1:]), strict=False)


def _divide(
    geometry: _Geometry, rows: Rows, kinds: Rows, repetitions: Sequence[Rows]
) -> Iterator[Rows]:
    """Yield the volumes of one series, its frames being in the order of their numbers."""
    orientations = _cluster(geometry.orientations[rows], rtol=0, atol=_COSINE_TOLERANCE)
    spacings = _cluster(geometry.spacings[rows], rtol=_SPACING_TOLERANCE, atol=0)
    for stack in _split(rows, kinds[rows], orientations, spacings):
        yield from _divide_repetitions(geometry, stack, repetitions)


def _divide_repetitions(
    geometry: _Geometry, stack: Rows, repetitions: Sequence[Rows]
) -> list[Rows]:
    turns = _count_turns(geometry.project(stack))
    if not turns.any():
        return [stack]
    for values in repetitions:
        parts = _split(stack, values[stack])
        if len(parts) > 1 and not any(_count_turns(geometry.project(part)).any() for part in parts):
            return parts
    return _split(stack, turns)


def _split(rows: Rows, *keys: Rows) -> list[Rows]:
    """Return the rows apart by their keys, in the order in which each is first met."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, *key in zip(rows.tolist(), *(key.tolist() for key in keys), strict=True):
        groups[tuple(key)].append(row)
    return [np.array(group) for group in groups.values()]


def _count_turns(positions: Floats) -> Rows:
    """Return how often each position was seen before, in the order of the frames."""
    order = np.argsort(positions, kind="stable")
    starts = np.diff(positions[order], prepend=-np.inf) > _POSITION_TOLERANCE
    first = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    turns = np.empty_like(order)
    turns[order] = np.arange(len(order)) - first
    return turns


def _cluster(values: Floats, *, rtol: float, atol: float) -> Rows:
    """Return for each row the number of the first row that it equals within a tolerance."""
    numbers = np.full(len(values), -1)
    for row in range(len(values)):
        if numbers[row] < 0:
            same = np.isclose(values, values[row], rtol=rtol, atol=atol, equal_nan=True).all(axis=1)
            numbers[same & (numbers < 0)] = row
    return numbers


def _measure(geometry: _Geometry, rows: Rows) -> dict[str, Any]:
    """Return the columns of ``volumes`` for frames in the order of their positions."""
    orientation, spacing = geometry.orientations[rows[0]], geometry.spacings[rows[0]]
    steps = np.diff(geometry.project(rows))
    across = geometry.positions[rows] @ orientation.reshape(2, 3).T  # along rows, columns
    apart = np.ptp(across, axis=0) >= _IN_PLANE_TOLERANCE
    lengths = np.linalg.norm(geometry.normals[rows], axis=1)
    mean = float(steps.mean()) if len(steps) else None
    checks = {
        "single_orientation": _is_constant(geometry.orientations[rows]),
        "orthogonal_orientation": bool((abs(lengths - 1) <= _ORTHOGONAL_TOLERANCE).all()),
        "unique_slice_positions": bool((steps != 0).all()),
        "consistent_in_plane_row": not apart[0],
        "consistent_in_plane_col": not apart[1],
        "consistent_pixel_spacing": _is_constant(geometry.spacings[rows]),
        "consistent_image_dimensions": True,  # frames of other dimensions are other volumes
        "uniform_slice_spacing": mean is not None
        and bool(abs(steps - mean).max() < _SLICE_TOLERANCE),
    }
    sheared = len(rows) > 2 and bool(
        apart.any() and (np.ptp(np.diff(across, axis=0), axis=0) < _IN_PLANE_TOLERANCE).all()
    )
    return {
        "slices": len(rows),
        "PixelSpacing": None if np.isnan(spacing).any() else spacing,
        "slice_spacing": mean,
        "ImageOrientationPatient": orientation,
        "obliquity_degrees": _obliquity(geometry.normals[rows[0]]),
        **checks,
        "regularly_spaced_3d_volume": all(checks.values()),
        "tilted": sheared and checks["uniform_slice_spacing"],
    }


def _is_constant(values: Floats) -> bool:
    return bool(((values == values[0]) | np.isnan(values)).all())


def _obliquity(normal: Floats) -> float:
    cosine = abs(normal).max() / np.linalg.norm(normal)
    return float(np.degrees(np.arccos(min(1.0, cosine))))


def _tabulate(frames: pd.DataFrame, places: list[tuple[str, Rows]]) -> pd.DataFrame:
    names = [name for name, rows in places for _ in rows]
    slices = [number for _, rows in places for number in range(len(rows))]
    rows = np.concatenate([np.empty(0, np.intp), *(rows for _, rows in places)])
    return pd.DataFrame({"volume": names, "slice": slices}, index=frames.index[rows])
