"""Windows, against pydicom's and against the standard's own words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.pixels import apply_windowing

from medkit.errors import UsageError
from medkit.images.windows import plan_transfer, split_windows

ONE = np.array([0])


def table(**columns: Any) -> pd.DataFrame:
    """One image, as a row of a set's table."""
    row = {
        "image": 0,
        "array": "uint16x1",
        "slope": 1.0,
        "intercept": 0.0,
        "full_low": 0.0,
        "full_high": 4095.0,
        "WindowCenter": None,
        "WindowWidth": None,
        "VOILUTFunction": None,
    }
    return pd.DataFrame([row | columns])


def show(codes: np.ndarray, window: str, **columns: Any) -> np.ndarray:
    return plan_transfer(table(**columns), window).apply(codes[np.newaxis, np.newaxis], ONE)[0, 0]


@given(
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    centre=st.integers(-100, 4200),
    width=st.integers(2, 5000),
    intercept=st.integers(-2000, 0),
)
def test_header_windows_are_pydicoms(
    function: str, centre: int, width: int, intercept: int
) -> None:
    stored = np.arange(0, 4096, 7, dtype=np.uint16)
    header = pydicom.Dataset()
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsStored, header.PixelRepresentation = 12, 0
    header.WindowCenter, header.WindowWidth = centre, width
    header.VOILUTFunction = function
    # With a rescale in the header, pydicom spreads the window over the rescaled range.
    header.RescaleSlope, header.RescaleIntercept = 1, intercept
    with np.errstate(over="ignore"):  # pydicom's sigmoid overflows far from the centre
        wanted = (apply_windowing(stored + float(intercept), header) - intercept) / 4095
    columns = {"WindowCenter": centre, "WindowWidth": width, "VOILUTFunction": function}
    shown = show(stored, "header", intercept=intercept, **columns)
    assert shown.dtype == np.float32
    np.testing.assert_allclose(shown, wanted, atol=2e-3 if width < 10 else 1e-4)


def test_linear_counts_whole_steps() -> None:
    # PS3.3 C.11.2.1.2.1, note 3: centre 2048, width 4096 maps 0 to 0 and 4095 to the maximum.
    columns = {"WindowCenter": 2048.0, "WindowWidth": 4096.0}
    assert show(np.array([0, 4095], np.uint16), "header", **columns).tolist() == [0, 1]


def test_a_window_of_width_1_is_a_threshold() -> None:
    # The same note: centre c, width 1 maps all below c - 0.5 to the minimum, the rest above.
    columns = {"WindowCenter": 2048.0, "WindowWidth": 1.0}
    codes = np.array([0, 2047, 2048, 4095], np.uint16)
    assert show(codes, "header", **columns).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"WindowCenter": 40.0, "WindowWidth": 0.0},
        {"WindowCenter": 40.0, "WindowWidth": -1.0, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": np.inf, "WindowWidth": 10.0},
    ],
    ids=["none", "no width", "negative width", "infinite"],
)
def test_without_a_usable_window_the_header_gives_the_full_range(columns: dict[str, Any]) -> None:
    codes = np.array([0, 1024, 4095], np.uint16)
    shown = show(codes, "header", **columns)
    np.testing.assert_array_equal(shown, show(codes, "full"))
    np.testing.assert_allclose(shown, codes / 4095, atol=1e-6)


def test_a_given_window_is_in_real_world_units() -> None:
    codes = np.array([0, 200, 1200, 1600, 4095], np.uint16)
    shown = show(codes, "40/400", slope=0.5, intercept=-560.0)
    np.testing.assert_allclose(shown, [0, 0, 0.5, 1, 1], atol=1e-6)
    np.testing.assert_array_equal(shown, show(codes, "soft", slope=0.5, intercept=-560.0))


def test_colour_has_its_full_range_whatever_the_window() -> None:
    facts = table(array="uint8x3", full_high=255.0, WindowCenter=10.0, WindowWidth=4.0)
    codes = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3) * 20
    for window in ("header", "full", "40/400"):
        shown = plan_transfer(facts, window).apply(codes, ONE)
        np.testing.assert_allclose(shown, codes / 255, atol=1e-6)


def test_float_pixels_without_a_range_need_a_window() -> None:
    facts = {"array": "float64x1", "full_low": np.nan, "full_high": np.nan}
    with pytest.raises(UsageError, match=r"1 images .* image 0.*40/400"):
        show(np.zeros(1), "header", **facts)
    shown = show(np.array([1e9, 1e9 + 0.5, 1e9 + 1]), "1000000000.5/1", **facts)
    np.testing.assert_allclose(shown, [0, 0.5, 1], atol=1e-6)


def test_each_image_has_its_own_map() -> None:
    facts = pd.concat([table(full_high=100.0), table(full_high=200.0)], ignore_index=True)
    transfer = plan_transfer(facts, "full")
    codes = np.full((3, 1, 1), 50, np.uint16)
    shown = transfer.apply(codes, np.array([1, 0, 1])).ravel()
    np.testing.assert_allclose(shown, [0.25, 0.5, 0.25])


def test_several_windows_are_split_at_commas() -> None:
    assert split_windows("lung, 40/400") == ("lung", "40/400")


@pytest.mark.parametrize(
    "text", ["", "head", "40", "40/0", "40/-3", "a/b", "1/2/3", "nan/1", "full,"]
)
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="CENTRE/WIDTH"):
        split_windows(text)
