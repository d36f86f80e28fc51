"""Padding: the pixels that are no image (PS3.3 C.7.5.1.1.2)."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from medkit.images.decoding import Decoded
from medkit.images.lookups import read_float_padding
from medkit.images.rows import Row, is_grey, read_column

Mask = npt.NDArray[np.bool_]


def read_padding(stream: BinaryIO, row: Row) -> tuple[float, float] | None:
    """Return the least and the greatest value of a DICOM object's padding in floating point.

    None where there is none, and for integers, whose padding is in the row.

    Raises
    ------
    PixelError
        ``padding``: it cannot be read.
    """
    keyword = read_column(row, "pixel_keyword")
    if row["format"] != "dicom" or keyword == "PixelData":
        return None
    return read_float_padding(stream, keyword)


def find_padding(
    decoded: Decoded, row: Row, floating: tuple[float, float] | None = None
) -> Mask | None:
    """Return a mask, False at padding; None where there is none.

    Padding is what equals PixelPaddingValue, or lies between it and PixelPaddingRangeLimit, both
    included, as stored (PS3.3 C.7.5.1.1.2), in grey images only. In floating point it is also what
    is not a finite number, and ``floating`` are the ends of `read_padding`.
    """
    values = decoded.values
    if values.dtype.kind == "f":
        mask = np.isfinite(values)
        if floating is not None:
            low, high = np.array(floating, values.dtype)
            mask &= (values < low) | (values > high)
        return None if mask.all() else mask
    value = read_column(row, "PixelPaddingValue")
    if value is None or not is_grey(row):
        return None
    limit = read_column(row, "PixelPaddingRangeLimit", value)
    # Either may have been read with the wrong sign.
    low, high = sorted(_wrap(int(end), 8 * values.itemsize, values.dtype) for end in (value, limit))
    bits = int(read_column(row, "BitsStored", 8 * values.itemsize))
    if any(_wrap(end, bits, values.dtype) != end for end in (low, high)):
        # Stored bits cannot hold it (such as 63536 in 12 of 16 bits): it takes those around them
        # too, and with them cleared it would be mistaken for a value of the image.
        values = values if decoded.raw is None else decoded.raw
    mask = values != low if low == high else (values < low) | (values > high)
    return None if mask.all() else mask


def _wrap(value: int, bits: int, kind: np.dtype[Any]) -> int:
    """Return what a whole number becomes in some bits, signed or not."""
    low = -(1 << (bits - 1)) if kind.kind == "i" else 0
    return (value - low) % (1 << bits) + low
