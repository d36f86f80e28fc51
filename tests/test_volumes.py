"""Volumes: what is done at once is what is done one by one, and what the checks mean."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkit.catalog.runs import find_starts
from medkit.catalog.volumes import (
    Frames,
    Stacks,
    divide,
    divide_carefully,
    find_flat,
    measure,
)

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
NEARLY_AXIAL = (0.99999, 0.0005, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (0.8, 0.6, 0.0, -0.3, 0.4, math.sqrt(0.75))
NAN = math.nan

frames_of_a_series = st.lists(
    st.fixed_dictionaries(
        {
            "kinds": st.sampled_from([0, 0, 0, 1]),
            "positions": st.tuples(
                st.sampled_from([0.0, 0.0, 0.05, 3.0]),
                st.sampled_from([0.0, 0.0, 1.0]),
                st.sampled_from([-7.5, 0.0, 0.005, 1.0, 1.1, 2.0, 3.0, 1e5]),
            ),
            "orientations": st.sampled_from([AXIAL, AXIAL, NEARLY_AXIAL, CORONAL, OBLIQUE]),
            "spacings": st.sampled_from([(0.7, 0.7), (0.7, 0.7), (0.7001, 0.7), (1.0, NAN)]),
            "acquisitions": st.sampled_from([NAN, 1.0, 2.0]),
            "triggers": st.sampled_from([NAN, 0.0, 30.5]),
        }
    ),
    min_size=1,
    max_size=8,
)
plain_series = st.builds(
    lambda places, orientation, kind: [
        {
            "kinds": kind,
            "positions": (0.0, 0.0, float(place)),
            "orientations": orientation,
            "spacings": (0.7, 0.7),
            "acquisitions": NAN,
            "triggers": NAN,
        }
        for place in places
    ],
    st.lists(st.integers(-5, 5), min_size=1, max_size=6, unique=True),
    st.sampled_from([AXIAL, OBLIQUE]),
    st.integers(0, 1),
)
some_series = st.lists(frames_of_a_series | plain_series, max_size=6)


def make_frames(series: list[list[dict[str, Any]]]) -> Frames:
    rows = [row for one in series for row in one]

    def stack(name: str, width: int) -> Any:
        return np.array([row[name] for row in rows], np.float64).reshape(-1, width)

    return Frames(
        np.repeat(np.arange(len(series)) * 3, [len(one) for one in series]),
        np.array([row["kinds"] for row in rows], np.int64),
        [stack("acquisitions", 1)[:, 0], stack("triggers", 1)[:, 0]],
        stack("positions", 3),
        stack("orientations", 6),
        stack("spacings", 2),
    )


def list_stacks(stacks: Stacks) -> list[list[int]]:
    return [part.tolist() for part in np.split(stacks.rows, stacks.starts[1:])][
        : len(stacks.starts)
    ]


@given(some_series)
def test_all_at_once_is_the_same_as_one_by_one(series: list[list[dict[str, Any]]]) -> None:
    frames = make_frames(series)
    edges = [*find_starts(frames.series), len(frames.series)]
    expected = [
        stack.tolist()
        for start, end in pairwise(edges)
        for stack, _ in divide_carefully(frames, np.arange(start, end))
    ]
    assert list_stacks(divide(frames)) == expected


@given(some_series)
def test_every_frame_is_in_one_volume_and_no_position_is_in_it_twice(
    series: list[list[dict[str, Any]]],
) -> None:
    frames = make_frames(series)
    stacks = list_stacks(divide(frames))
    assert sorted(row for stack in stacks for row in stack) == [*range(len(frames.series))]
    for stack in stacks:
        assert len({*frames.series[stack].tolist()}) == len({*frames.kinds[stack].tolist()}) == 1
        lead = min(stack)
        along = frames.positions[stack] @ frames.normals[lead]
        assert (np.diff(along) > 0.009).all()


def dot(one: Any, other: Any) -> float:
    return float(one[0] * other[0] + one[1] * other[1] + one[2] * other[2])


def measure_one(frames: Frames, stack: list[int]) -> dict[str, Any]:
    """The checks as IDC's volume_geometry_index has them, written for one volume."""
    positions, orientations = frames.positions[stack], frames.orientations[stack]
    normals = [np.cross(one[:3], one[3:]) for one in orientations]
    along = [dot(position, normals[0]) for position in positions]
    steps = [after - before for before, after in pairwise(along)]
    mean = (along[-1] - along[0]) / len(steps) if steps else NAN
    across = [[dot(position, axis) for position in positions] for axis in
              (orientations[0][:3], orientations[0][3:])]  # fmt: skip
    shifts = [[b - a for a, b in pairwise(one)] for one in across]
    apart = [max(one) - min(one) >= 0.1 for one in across]
    spacings = frames.spacings[stack]
    checks = {
        "single_orientation": all((one == orientations[0]).all() for one in orientations),
        "orthogonal_orientation": all(abs(math.sqrt(dot(n, n)) - 1) <= 0.01 for n in normals),
        "unique_slice_positions": all(step != 0 for step in steps),
        "consistent_in_plane_row": not apart[0],
        "consistent_in_plane_col": not apart[1],
        "consistent_pixel_spacing": bool(((spacings == spacings[0]) | np.isnan(spacings)).all()),
        "consistent_image_dimensions": True,
        "uniform_slice_spacing": bool(steps)
        and max(abs(step - mean) for step in steps) < 0.01 * mean,
    }
    sheared = len(stack) > 2 and any(apart) and all(max(one) - min(one) < 0.1 for one in shifts)
    return {
        "slices": len(stack),
        "slice_spacing": mean,
        **checks,
        "regularly_spaced_3d_volume": all(checks.values()),
        "tilted": sheared and checks["uniform_slice_spacing"],
    }


@given(some_series)
def test_the_measures_are_those_of_each_volume_alone(series: list[list[dict[str, Any]]]) -> None:
    frames = make_frames(series)
    stacks = divide(frames)
    measures = measure(frames, stacks)
    for number, stack in enumerate(list_stacks(stacks)):
        for name, expected in measure_one(frames, stack).items():
            assert np.array_equal(measures[name][number], expected, equal_nan=True), name


def test_no_frames_are_no_volumes() -> None:
    frames = make_frames([])
    stacks = divide(frames)
    assert len(stacks.rows) == len(stacks.starts) == 0
    assert all(len(values) == 0 for values in measure(frames, stacks).values())


@pytest.mark.parametrize(
    "change",
    [
        {"orientations": (0.0,) * 6},
        {"orientations": (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)},
        {"orientations": (NAN, 0.0, 0.0, 0.0, 1.0, 0.0)},
        {"orientations": (1e300, 1e300, 0.0, 0.0, 1e300, 0.0)},
        {"positions": (0.0, NAN, 0.0)},
        {"positions": (0.0, 0.0, math.inf)},
        {"positions": (0.0, 0.0, 1e300)},
    ],
)
def test_what_is_no_plane_or_no_place_is_left_out(change: dict[str, Any]) -> None:
    row = {
        "kinds": 0, "positions": (0.0, 0.0, 0.0), "orientations": AXIAL, "spacings": (1.0, 1.0),
        "acquisitions": NAN, "triggers": NAN,
    }  # fmt: skip
    assert find_flat(make_frames([[row, row | change]])).tolist() == [True, False]


def test_frames_that_all_lie_differently_are_divided_in_bounded_time() -> None:
    count = 3000
    angles = np.linspace(0, np.pi, count)
    flat = np.zeros(count)
    frames = Frames(
        np.zeros(count, np.int64),
        np.zeros(count, np.int64),
        [],
        np.zeros((count, 3)),
        np.stack([np.cos(angles), np.sin(angles), flat, flat, flat, flat + 1], axis=1),
        np.ones((count, 2)),
    )
    assert 1000 < len(divide(frames).starts) <= count
