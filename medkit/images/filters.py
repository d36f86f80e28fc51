"""The sums of a resize: each output pixel is a weighted mean of the source's, axis by axis.

Sums are exact. Weights are whole multiples of 2**-24 that add up to one, and sources of up to 16
bits are summed in float64 with room to spare, so that no processor and no order of additions can
change a bit of the result. Sources of other types are summed in one fixed order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medkit.catalog.compiled import compiled

if TYPE_CHECKING:
    from medkit.images.resampling import Axis

Values = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

_WEIGHT_BITS = 24
_EXACT_BITS = 53  # of a float64
# Output pixels with less of the image under their filter than this are padding.
_LEAST_SHARE = 2.0**-10
# What is compiled for: other types are turned into one of these, which holds their values.
_KINDS = ("uint8", "uint16", "int16", "float32", "float64")
# Output rows that are filtered at a time: few enough to stay in the cache.
_ROWS = 64
# Of these, rows that are turned at a time: as many as a line of the cache has float64.
_TURNED = 8


class Weights(NamedTuple):
    """How one axis is filtered.

    Attributes
    ----------
    first, taps : ndarray of int64, shape (n,)
        For each output pixel, the first source pixel with a share in it, and how many there are.
    shares : ndarray of float64, shape (n, most)
        Their shares; each row adds up to one.
    """

    first: npt.NDArray[np.int64]
    taps: npt.NDArray[np.int64]
    shares: npt.NDArray[np.float64]


@lru_cache(maxsize=128)
def weigh(axis: Axis, antialiased: bool) -> Weights:
    """Return the weights for the output pixels that show the source.

    Pillow's rule (``precompute_coeffs`` in its Resample.c): pixel centres at halves, a triangle
    whose support grows with the reduction if antialiased, cut at the edges of the source and
    scaled to add up to one.
    """
    radius = max(axis.scale, 1.0) if antialiased else 1.0
    # A source far smaller than an output pixel may have no centre on it, but has one pixel there.
    centres = np.clip(axis.centres(), 0, axis.source)
    first = np.maximum(np.floor(centres - radius + 0.5), 0).astype(np.int64)
    end = np.minimum(np.floor(centres + radius + 0.5), axis.source).astype(np.int64)
    taps = end - first
    steps = np.arange(taps.max())
    distances = first[:, np.newaxis] + steps + 0.5 - centres[:, np.newaxis]
    triangle = np.maximum(1 - np.abs(distances) / radius, 0)
    return Weights(first, taps, _quantise(np.where(steps < taps[:, np.newaxis], triangle, 0)))


def _quantise(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return each row as multiples of a unit that add up to exactly one."""
    unit = 2**_WEIGHT_BITS
    whole = np.rint(shares / shares.sum(axis=1, keepdims=True) * unit)
    # What rounding left over goes to the largest weight, where it matters least.
    whole[np.arange(len(whole)), whole.argmax(axis=1)] += unit - whole.sum(axis=1)
    return np.asarray(whole / unit)


def blend(
    values: Values, mask: Mask | None, rows: Weights, columns: Weights, out: Values, covered: Mask
) -> None:
    """Write the weighted means of a source.

    Parameters
    ----------
    values : ndarray, shape (H, W) or (H, W, C)
        The source, of any real type.
    mask : ndarray of bool, shape (H, W), optional
        False where the source has no share; the shares of the others are scaled up.
    rows, columns : Weights
        Of the axes.
    out : ndarray of float32 or float64, shape (h, w) or (h, w, C)
        What is written; 0 where ``covered`` is False.
    covered : ndarray of bool, shape (h, w)
        Written too: whether the source has a share worth the name.
    """
    lines = out.reshape(len(out), -1)  # a view: only rows lie apart
    if mask is None or mask.all():
        covered[...] = True
        _sum(values, rows, columns, lines)
        return
    inside = mask if values.ndim == 2 else mask[..., np.newaxis]
    # A product is quick, but what is not finite stays so.
    clear = np.where(inside, values, 0) if values.dtype.kind == "f" else values * inside
    sums = np.empty(lines.shape)
    _sum(clear, rows, columns, sums)
    _divide(sums, np.ascontiguousarray(mask), *rows, *columns, lines, covered)


def _sum(values: Values, rows: Weights, columns: Weights, sums: Values) -> None:
    """Write the weighted sums, shape (h, w * C)."""
    small = values.dtype.kind in "iu" and values.dtype.itemsize <= 2
    # The sums of the first axis are kept this finely, so that those of the second are exact. What
    # is dropped is below 2**-29 of the type's range.
    unit = 2.0 ** (_EXACT_BITS - _WEIGHT_BITS - 8 * values.dtype.itemsize) if small else 0.0
    other = np.int16 if small else np.float64
    kind = values.dtype.newbyteorder("=") if values.dtype.name in _KINDS else np.dtype(other)
    depth = sums.shape[1] // len(columns.first)
    flat = np.ascontiguousarray(values, dtype=kind).reshape(len(values), -1)
    _filter(flat, depth, unit, *rows, *columns, sums)


@compiled
def _filter(
    values: Any,
    depth: int,
    unit: float,
    row_first: Any,
    row_count: Any,
    row_shares: Any,
    first: Any,
    count: Any,
    shares: Any,
    sums: Any,
) -> None:
    """Filter some rows at a time, turn them, and filter their columns, all rows at once."""
    width = values.shape[1]
    # More than is used: what lies a power of two apart would fight for the same cache.
    lines, turned = np.empty((_TURNED, width + _TURNED)), np.empty((width, _ROWS + _TURNED))
    total = np.empty(_ROWS)
    rounder = 1.5 * 2.0**52 / unit if unit > 0 else 0.0
    for start in range(0, len(row_first), _ROWS):
        height = min(_ROWS, len(row_first) - start)
        for few in range(0, height, _TURNED):
            for y in range(_TURNED):
                row = min(start + few + y, len(row_first) - 1)
                line = lines[y, :width]
                _add_rows(values, row_first[row], row_count[row], row_shares[row], line)
                if unit > 0:
                    for x in range(width):
                        # Where a float64 has no room below the unit, adding rounds to it.
                        line[x] = (line[x] + rounder) - rounder
            for x in range(width):
                for y in range(_TURNED):
                    turned[x, few + y] = lines[y, x]
        for x in range(len(first)):
            for sample in range(depth):
                total[:height] = 0.0
                for tap in range(count[x]):
                    share, column = shares[x, tap], turned[(first[x] + tap) * depth + sample]
                    for y in range(height):
                        total[y] += share * column[y]
                for y in range(height):
                    sums[start + y, x * depth + sample] = total[y]


@compiled
def _add_rows(values: Any, first: int, count: int, shares: Any, line: Any) -> None:
    """Weigh and add rows, two at a time, which halves the passes over the line."""
    width = values.shape[1]
    line[:] = 0.0
    for tap in range(0, count - 1, 2):
        one, share_one = values[first + tap], shares[tap]
        other, share_other = values[first + tap + 1], shares[tap + 1]
        for x in range(width):
            line[x] += share_one * one[x] + share_other * other[x]
    if count % 2:
        last, share = values[first + count - 1], shares[count - 1]
        for x in range(width):
            line[x] += share * last[x]


@compiled
def _sum_shares(
    mask: Any,
    y: int,
    x: int,
    row_first: Any,
    row_count: Any,
    row_shares: Any,
    first: Any,
    count: Any,
    shares: Any,
) -> float:
    """Return the share that pixels of the image have in one of the output."""
    total = 0.0
    for column in range(count[x]):
        held = 0.0
        for row in range(row_count[y]):
            if mask[row_first[y] + row, first[x] + column]:
                held += row_shares[y, row]
        total += shares[x, column] * held
    return total


@compiled
def _find_runs(mask: Any, runs: Any) -> None:
    """Write of each row where the image begins and ends in it, and whether it has no hole."""
    for y in range(len(mask)):
        line = mask[y]
        begin, end = 0, len(line)
        while begin < end and not line[begin]:
            begin += 1
        while begin < end and not line[end - 1]:
            end -= 1
        held, run = np.int32(0), line[begin:end]
        for x in range(len(run)):
            held += np.int32(run[x])
        runs[y, 0], runs[y, 1], runs[y, 2] = begin, end, held == len(run)


@compiled
def _find_zones(runs: Any, first: Any, end: Any) -> Any:
    """Return four edges in a row of the output, by the runs of the rows under its filter.

    From the first to the last, pixels have some of the image under their filter, and between the
    other two nothing else; elsewhere in between they may have anything.
    """
    least, most, low, high = np.int64(0), end[-1], end[-1], np.int64(0)
    for y in range(len(runs)):
        least, most = max(least, runs[y, 0]), min(most, runs[y, 1])
        if runs[y, 0] < runs[y, 1]:
            low, high = min(low, runs[y, 0]), max(high, runs[y, 1])
        if not runs[y, 2]:
            most = np.int64(0)
    start = np.searchsorted(end, low, "right")
    stop = max(start, np.searchsorted(first, high, "left"))
    full = min(stop, max(start, np.searchsorted(first, least, "left")))
    return start, full, min(stop, max(full, np.searchsorted(end, most, "right"))), stop


@compiled
def _count_inside(mask: Any, inside: Any, before: Any) -> None:
    """Write how many pixels of the image lie in some rows, left of each column."""
    inside[:] = 0
    for y in range(len(mask)):
        line = mask[y]
        for x in range(len(line)):
            inside[x] += np.int32(line[x])
    total = np.int32(0)
    for x in range(len(inside)):
        total += inside[x]
        before[x + 1] = total


@compiled
def _divide(
    sums: Any,
    mask: Any,
    row_first: Any,
    row_count: Any,
    row_shares: Any,
    first: Any,
    count: Any,
    shares: Any,
    out: Any,
    covered: Any,
) -> None:
    """Scale sums up to a share of one, which is exactly that of pixels that no padding is near."""
    depth = sums.shape[1] // covered.shape[1]
    runs = np.empty((len(mask), 3), np.int64)
    _find_runs(mask, runs)
    end = first + count
    inside, before = np.empty(mask.shape[1], np.int32), np.zeros(mask.shape[1] + 1, np.int32)
    out[:], covered[:] = 0.0, False
    for y in range(len(covered)):
        top, bottom = row_first[y], row_first[y] + row_count[y]
        start, full, beyond, stop = _find_zones(runs[top:bottom], first, end)
        covered[y, full:beyond] = True
        to, found = out[y, full * depth : beyond * depth], sums[y, full * depth : beyond * depth]
        for x in range(len(to)):
            to[x] = found[x]
        if full == beyond and start < stop:
            _count_inside(mask[top:bottom], inside, before)
        for x in range(start, stop):
            if full <= x < beyond:
                continue
            share = 1.0
            if full < beyond or before[end[x]] - before[first[x]] < row_count[y] * count[x]:
                share = _sum_shares(
                    mask, y, x, row_first, row_count, row_shares, first, count, shares
                )
            if share >= _LEAST_SHARE:
                covered[y, x] = True
                for sample in range(x * depth, (x + 1) * depth):
                    out[y, sample] = sums[y, sample] / share
