"""Windows: which part of the real-world range of an image becomes 0 to 1 (PS3.3 C.11.2).

A window is chosen when a set is read, never when it is written. Its constants are the header's or
the user's, never an image's own minimum and maximum, which would throw away what the values mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.floating[Any]]
Truths = npt.NDArray[np.bool_]

# Centre and width in Hounsfield units.
PRESETS = {
    "lung": (-600.0, 1500.0),
    "soft": (40.0, 400.0),
    "bone": (480.0, 2500.0),
    "brain": (40.0, 80.0),
}


@dataclass(frozen=True)
class Transfer:
    """The map from the stored codes of each image to 0 to 1.

    Attributes
    ----------
    gain, offset : ndarray of float64, shape (n,)
        ``code * gain + offset`` is 0 at the window's lower end and 1 at its upper end.
    sigmoid : ndarray of bool, shape (n,)
        True where the ends are approached by a sigmoid instead of being cut.
    """

    gain: Floats
    offset: Floats
    sigmoid: Truths

    def apply(self, codes: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> Floats:
        """Return float32 values from 0 to 1.

        Parameters
        ----------
        codes : ndarray, shape (m, H, W) or (m, H, W, 3)
            Stored codes.
        rows : ndarray of int64, shape (m,)
            Which images they are.
        """
        values = np.empty(codes.shape, dtype=np.float32)
        for code, row, shown in zip(codes, rows, values, strict=True):
            self.show(code, int(row), shown)
        return values

    def show(self, code: npt.NDArray[Any], row: int, out: Floats) -> None:
        """Write float32 values from 0 to 1.

        One image at a time stays in the processor's cache from pass to pass, which is several
        times as fast as all images of a batch, pass by pass.

        Parameters
        ----------
        code : ndarray, shape (H, W) or (H, W, 3)
            Stored codes of one image.
        row : int
            Which image it is.
        out : ndarray of float32, of the same shape
            Where they go.
        """
        # A code of float64 needs its own precision until it lies within the window.
        wide = np.float64 if code.dtype == np.float64 else np.float32
        values = out if wide == np.float32 else np.empty(code.shape, dtype=wide)
        np.multiply(code, wide(self.gain[row]), out=values, dtype=wide)
        np.add(values, wide(self.offset[row]), out=values)
        if self.sigmoid[row]:
            # PS3.3 C.11.2.1.3.1: 1 / (1 + exp(-4 (x - c) / w)), which is this tanh and never
            # overflows; 4 (x - c) / w = 4 values - 2.
            values[...] = 0.5 + 0.5 * np.tanh(2 * values - 1)
        np.clip(values, 0, 1, out=out)


def split_windows(text: str) -> tuple[str, ...]:
    """Return the windows named in a text such as ``"lung,40/400"``.

    Raises
    ------
    UsageError
        If one is not ``header``, ``full``, a preset, or ``CENTRE/WIDTH`` with a positive width.
    """
    names = tuple(name.strip() for name in str(text).split(","))
    for name in names:
        if name not in ("header", "full"):
            _parse(name)
    return names


def plan_transfer(table: pd.DataFrame, window: str) -> Transfer:
    """Return how codes are mapped through one window.

    Parameters
    ----------
    table : DataFrame
        Rows of an ImageSet's table.
    window : str
        ``"header"``: the image's own, by its VOI LUT Function, and the full range where it has
        none that is usable. ``"full"``: the whole representable range. ``CENTRE/WIDTH`` or a
        preset, in real-world units: from centre - width/2 to centre + width/2 (LINEAR_EXACT,
        PS3.3 C.11.2.1.3.2). Colour images always have their full range, since windows are for
        grey ones (PS3.3 C.11.2.1.2).

    Raises
    ------
    UsageError
        If an image has neither the window nor a range, as floating-point pixels may.
    """
    low, extent = _full_range(table)
    sigmoid = np.zeros(len(table), dtype=bool)
    grey = ~table["array"].str.endswith("x3").to_numpy(dtype=bool)
    if window == "header":
        header_low, header_extent, usable, smooth = _header_window(table)
        chosen = grey & usable
        low, extent = np.where(chosen, header_low, low), np.where(chosen, header_extent, extent)
        sigmoid = chosen & smooth
    elif window != "full":
        centre, width = _parse(window)
        low, extent = np.where(grey, centre - width / 2, low), np.where(grey, width, extent)
    _check_ranges(table, low + extent)
    # A width of 0 is a step: steep enough to be one between any two codes of 16 bits.
    extent = np.where(extent > 0, extent, 1e-6)
    slope, intercept = (table[name].to_numpy(dtype=float) for name in ("slope", "intercept"))
    return Transfer(slope / extent, (intercept - low) / extent, sigmoid)


def _full_range(table: pd.DataFrame) -> tuple[Floats, Floats]:
    low, high = (table[name].to_numpy(dtype=float) for name in ("full_low", "full_high"))
    return low, high - low


def _header_window(table: pd.DataFrame) -> tuple[Floats, Floats, Truths, Truths]:
    """Return lower end, extent, where there is a usable window, and where it is a sigmoid."""
    centre, width = (table[name].to_numpy(dtype=float) for name in ("WindowCenter", "WindowWidth"))
    function = table["VOILUTFunction"].fillna("LINEAR").to_numpy(dtype=str)
    sigmoid = function == "SIGMOID"
    exact = sigmoid | (function == "LINEAR_EXACT")
    # LINEAR counts whole steps: centre - 0.5 and width - 1 (PS3.3 C.11.2.1.2.1), so its width is
    # at least 1; that of the others is above 0.
    low = np.where(exact, centre - width / 2, centre - 0.5 - (width - 1) / 2)
    extent = np.where(exact, width, width - 1)
    usable = np.isfinite(centre) & np.isfinite(width) & np.where(exact, width > 0, width >= 1)
    return low, extent, usable, sigmoid


def _check_ranges(table: pd.DataFrame, high: Floats) -> None:
    lost = np.flatnonzero(~np.isfinite(high))
    if len(lost):
        raise UsageError(
            f"{len(lost)} images have neither a window in their header nor a fixed range, the "
            f"first is image {table['image'].iloc[lost[0]]}; give a window in their units, such "
            "as '40/400' (centre/width)"
        )


def _parse(name: str) -> tuple[float, float]:
    try:
        centre, width = PRESETS.get(name) or map(float, name.split("/"))
    except ValueError:
        centre = width = np.nan
    if not (np.isfinite(centre) and np.isfinite(width) and width > 0):
        raise UsageError(
            f"{name!r} is not a window: use 'header', 'full', {', '.join(map(repr, PRESETS))}, "
            "or CENTRE/WIDTH such as '40/400'; several, separated by commas, become channels"
        )
    return centre, width
