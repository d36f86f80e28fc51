"""What values images have: counted once, in little memory, the same in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medkit.evaluation.distributions import cut_bins
from medkit.evaluation.survey import (
    Counted,
    Group,
    Tally,
    count_values,
    find_outliers,
    find_step,
    group_images,
)

FINITE = st.floats(-(2.0**40), 2.0**40, width=32)


def counted(values: Any) -> Counted:
    return Counted(*np.unique(np.asarray(values, np.float64), return_counts=True))


def row(**changes: Any) -> dict[str, Any]:
    return {
        "array": "uint16x1",
        "slope": 0.5,
        "intercept": -10.0,
        "full_low": -10.0,
        "full_high": 32757.5,
        "fill_value": -10.0,
        "pad_box": [0, 0, 4, 4],
        "padding_share": 0.0,
    } | changes


@given(st.lists(arrays(np.float64, 5, elements=FINITE), min_size=1, max_size=6))
@example([np.zeros(5), np.full(5, 2.0**-126)])
def test_a_tally_is_the_same_in_any_order_and_loses_nothing(images: list[np.ndarray]) -> None:
    forth, back, halves = Tally(), Tally(), [Tally(), Tally()]
    for number, image in enumerate(images):
        forth.add(counted(image))
        back.add(counted(images[-1 - number]))
        halves[number % 2].add(counted(image))
    halves[0].merge(halves[1])
    for other in (back, halves[0]):
        assert (forth.exponent, forth.first) == (other.exponent, other.first)
        assert forth.counts.tolist() == other.counts.tolist()
    assert forth.counts.sum() == 5 * len(images)
    assert len(forth.counts) <= 1 << 16
    everything = np.sort(np.concatenate(images))
    width = 2.0**forth.exponent
    middle = forth.counted().percentiles([0.5])[0]
    assert abs(middle - everything[(len(everything) + 1) // 2 - 1]) <= width
    assert (forth.low, forth.high) == (everything[0], everything[-1])


def test_zeros_alone_can_be_drawn() -> None:
    tally = Tally()
    tally.add(counted(np.zeros(4)))
    edges = cut_bins(tally, 0, 0)
    assert (np.diff(edges) > 0).all()
    assert edges[0] < 0 < edges[-1]


def test_whole_numbers_stay_whole() -> None:
    tally = Tally()
    for start in (-1000, 0, 500):
        tally.add(counted(np.arange(start, start + 40)))
    assert set(tally.counted().values) == {
        float(start + step) for start in (-1000, 0, 500) for step in range(40)
    }


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_percentiles_are_those_of_numpy(values: list[int]) -> None:
    shares = (0.01, 0.25, 0.5, 0.99)
    expected = np.percentile(values, [100 * share for share in shares], method="inverted_cdf")
    assert counted(values).percentiles(shares).tolist() == expected.tolist()


@pytest.mark.parametrize("slope", [0.5, -0.5])
def test_values_are_real_ones_and_ascend(slope: float) -> None:
    codes = np.array([[3, 3, 0, 7]] * 4, np.uint16)
    found, levels = count_values(codes, row(slope=slope))
    expected = sorted({code * slope - 10 for code in (0, 3, 7)})
    assert found.values.tolist() == expected
    assert found.counts.sum() == 16
    assert found.mean == pytest.approx((codes * slope - 10).mean())
    assert levels == 3


def test_padding_is_left_out_around_an_image_and_in_it() -> None:
    codes = np.zeros((4, 4), np.uint16)
    codes[1:3, 1:4] = [[5, 0, 7], [0, 5, 7]]
    boxed = row(pad_box=[1, 1, 4, 3], padding_share=1 - 6 / 16)
    assert count_values(codes, boxed)[0].counts.tolist() == [2, 2, 2]
    masked = row(pad_box=[1, 1, 4, 3], padding_share=1 - 4 / 16)
    assert count_values(codes, masked)[0].counts.tolist() == [2, 2]
    nothing_else = count_values(np.zeros((4, 4), np.uint16), masked)[0]
    assert nothing_else.counts.sum() == 6


def test_colour_is_measured_by_its_luma_and_floating_point_as_it_is() -> None:
    colour = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    found, _ = count_values(colour, row(array="uint8x3", slope=1, intercept=0))
    assert found.values.tolist() == [76]
    values = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)
    found, levels = count_values(values, row(array="float32x1", slope=1, intercept=0))
    assert found.values.tolist() == values.ravel().tolist()
    assert np.isnan(levels)


@pytest.mark.parametrize(("bits", "step"), [(1, 16), (8, 16), (12, 16), (13, 8), (15, 2), (16, 1)])
def test_the_step_of_a_source_is_known_by_its_range(bits: int, step: int) -> None:
    slope = 2.0
    high = (2**bits - 1) * slope
    assert find_step(row(slope=slope / step, full_low=0.0, full_high=high)) == step
    assert find_step(row(array="uint8x3")) == 1


def test_levels_are_those_of_the_source() -> None:
    codes = np.repeat(np.arange(64, dtype=np.uint16), 2).reshape(8, 16)
    eight_bits = row(slope=1 / 16, full_low=0.0, full_high=255.0, intercept=0.0)
    assert count_values(codes, eight_bits | {"pad_box": [0, 0, 16, 8]})[1] == 4


def test_groups_hold_every_image_once() -> None:
    table = pd.DataFrame(
        {
            "array": ["uint16x1", "uint8x3", "uint16x1", "uint16x1", "float32x1"],
            "Modality": ["CT", None, "CT", None, "CT"],
            "units": ["HU", None, "HU", None, None],
        }
    )
    groups = group_images(table)
    assert sorted(np.concatenate([group.rows for group in groups])) == [0, 1, 2, 3, 4]
    assert sum(group.colour for group in groups) == 1
    first = groups[0]
    assert (first.modality, first.units, first.array, list(first.rows)) == (
        *("CT", "HU", "uint16x1"),
        [0, 2],
    )


def test_outliers_are_far_out_in_their_own_group() -> None:
    mean = np.concatenate([np.linspace(10, 12, 10), np.linspace(1000, 1200, 10)])
    measures = pd.DataFrame({"mean": mean, "low": mean - 5, "high": mean + 5})
    measures.loc[3, "mean"] = 40.0
    measures.loc[15, "high"] += 4000
    groups = [
        Group("CT", "HU", "uint16x1", np.arange(10)),
        Group("MR", None, "uint16x1", np.arange(10, 20)),
    ]
    found = find_outliers(groups, measures)
    assert {(one.position, one.group, one.what) for one in found} == {
        (3, 0, "mean"),
        (15, 1, "range"),
    }
    assert find_outliers([Group("CT", None, "uint16x1", np.arange(7))], measures) == []


@given(st.integers(1, 5000), st.sampled_from([0.0625, 0.1, 1.0, 3.0]))
def test_every_bin_of_a_drawing_has_as_many_levels(levels: int, step: float) -> None:
    values = np.arange(levels) * step - 7
    tally = Tally()
    tally.add(Counted(values, np.full(levels, 3)))
    edges = cut_bins(tally, -7, step)
    counts, _ = np.histogram(tally.counted().values, edges)
    inside = counts[np.flatnonzero(counts)[0] : np.flatnonzero(counts)[-1] + 1]
    assert len(set(inside[1:-1])) <= 1
    assert 2 <= len(counts) <= 125


def test_what_differs_from_all_equal_images_is_an_outlier() -> None:
    mean = np.zeros(10)
    measures = pd.DataFrame({"mean": mean, "low": mean, "high": mean})
    groups = [Group("MR", None, "uint16x1", np.arange(10))]
    assert find_outliers(groups, measures) == []
    measures.loc[4, "mean"] = 1e-300
    assert [one.position for one in find_outliers(groups, measures)] == [4]
    measures.loc[4, "mean"] = 1e300
    assert [one.position for one in find_outliers(groups, measures)] == [4]
