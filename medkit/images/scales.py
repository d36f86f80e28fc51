"""What values mean: their range, rescale, window, polarity, and what stands for nothing.

Nothing here looks at the values of an image, only at its header, so that all slices of a series
are read alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medkit.errors import PixelError
from medkit.images.decoding import Decoded
from medkit.images.lookups import Lookup
from medkit.images.rows import Row, is_grey, is_picture, read_column

Values = npt.NDArray[Any]

# Modalities whose values mean brightness and nothing else. In all others MONOCHROME1 is a wish
# about display, and turning it would change what is measured: a PET in MONOCHROME1 has its SUV.
DISPLAY_MODALITIES = {"CR", "DX", "IO", "MG", "PX", "RF", "RG", "XA"}
_AIR_HU = -1000.0


class Window(NamedTuple):
    """A window of the header, in real-world units; None where there is none."""

    center: float | None = None
    width: float | None = None
    function: str | None = None


@dataclass(frozen=True)
class Scale:
    """What values mean.

    Attributes
    ----------
    low, high : float
        The least and greatest that a value can be, by the header; nan in floating point.
    slope, intercept : float
        Real-world value = value * slope + intercept.
    units : str or None
        Of real-world values; None where the header does not say.
    """

    low: float
    high: float
    slope: float = 1.0
    intercept: float = 0.0
    units: str | None = None

    @property
    def bits(self) -> int:
        """Bits that hold all values from low to high."""
        return int(self.high - self.low).bit_length()

    @property
    def pivot(self) -> float:
        """What turned values are subtracted from: the range is turned onto itself.

        2^BitsStored - 1 for unsigned values, -1 for signed ones.
        """
        return self.low + self.high

    @property
    def full_range(self) -> tuple[float, float]:
        """The least and greatest real-world value."""
        ends = [end * self.slope + self.intercept for end in (self.low, self.high)]
        return min(ends), max(ends)


def read_scale(row: Row, decoded: Decoded, lookup: Lookup | None) -> Scale:
    """Return what a frame's values mean, after its lookup table.

    Raises
    ------
    PixelError
        ``rescale``: the slope is zero, or one of both not finite.
    """
    if lookup is not None:
        return Scale(0, 2**lookup.bits - 1, units=lookup.units)
    if decoded.values.ndim == 3:
        stored = row["format"] == "dicom"
        bits = read_column(row, "BitsStored") if stored else 8 * decoded.values.itemsize
        return Scale(0, 2 ** int(bits) - 1)
    slope, intercept = (
        float(read_column(row, name, default))
        for name, default in (("RescaleSlope", 1), ("RescaleIntercept", 0))
    )
    if not (math.isfinite(slope) and math.isfinite(intercept) and slope != 0):
        raise PixelError("rescale", f"slope {slope} and intercept {intercept} give no values")
    return Scale(*_find_range(row, decoded.values), slope, intercept, _find_units(row))


def _find_range(row: Row, values: Values) -> tuple[float, float]:
    if values.dtype.kind == "f":
        return math.nan, math.nan
    bits = int(read_column(row, "BitsStored", 8 * values.itemsize))
    if values.dtype.kind == "i":
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return 0, 2**bits - 1


def _find_units(row: Row) -> str | None:
    # CT without a type has Hounsfield units (PS3.3 C.8.2.1.1.2).
    rescaled = read_column(row, "RescaleIntercept") is not None
    default = "HU" if rescaled and read_column(row, "Modality") == "CT" else None
    units: str | None = read_column(row, "RescaleType", default)
    return units


def is_turned(row: Row) -> bool:
    """Say whether low values are bright in an image that is there to be displayed.

    MONOCHROME1 says so, and so does a PresentationLUTShape of INVERSE; both together say it once
    (PS3.3 C.8.11.1.1.2).
    """
    shape = read_column(row, "PresentationLUTShape")
    inverse = row["PhotometricInterpretation"] == "MONOCHROME1" or shape == "INVERSE"
    displayed = is_picture(row) or read_column(row, "Modality") in DISPLAY_MODALITIES
    return bool(inverse and displayed and is_grey(row))


def turn_polarity(values: Values, scale: Scale) -> Values:
    """Return ``pivot - values``, the same for every image of the same header.

    Raises
    ------
    PixelError
        ``photometric``: floating point has no range to be turned in.
    """
    if not math.isfinite(scale.pivot):
        raise PixelError("photometric", "MONOCHROME1 in floating point")
    return np.subtract(int(scale.pivot), values, dtype=values.dtype)


def turn_window(window: Window, scale: Scale) -> Window:
    """Return the window that displays turned values as before.

    A real-world value x becomes ``slope * pivot + 2 * intercept - x``. LINEAR is not symmetric
    about its centre, but about centre - 0.5 (PS3.3 C.11.2.1.2.1), so one is added.
    """
    if window.center is None:
        return window
    lopsided = 0 if window.function in ("LINEAR_EXACT", "SIGMOID") else 1
    center = scale.slope * scale.pivot + 2 * scale.intercept - window.center + lopsided
    return window._replace(center=center)


def read_window(row: Row) -> Window:
    """Return the window of the header."""
    names = ("WindowCenter", "WindowWidth", "VOILUTFunction")
    return Window(*(read_column(row, name) for name in names))


def choose_fill(row: Row, scale: Scale, colour: bool) -> float:
    """Return the real-world value for what lies outside the image; see `Frame.fill`."""
    if colour:
        return 0.0
    wish = 0.0
    if scale.units in ("HU", "US") and read_column(row, "Modality") == "CT":  # US: unspecified
        wish = _AIR_HU
    elif is_picture(row) or read_column(row, "Modality") in DISPLAY_MODALITIES:
        wish = scale.full_range[0]
    if math.isnan(scale.low):
        return wish if math.isfinite(wish) else 0.0
    stored = round((wish - scale.intercept) / scale.slope)
    return min(max(stored, scale.low), scale.high) * scale.slope + scale.intercept
