"""Plain values out of the bytes of many headers: compiled readers of text and numbers.

Each looks at the values of one element in all files. ``heads`` is an array of bytes, and ``cells``
an (n, 2) int64 array of place and length of each value in it: a place of -1 where there is none,
a length of -1 where it is undefined. What is not plain is `STRANGE`, and left to pydicom.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from medkit.catalog.compiled import compiled

# States of a value.
MISSING, PLAIN, STRANGE = 0, 1, 2

_POWERS = 10.0 ** np.arange(23)  # those that a double holds exactly


@compiled
def _find_end(heads: Any, place: int, length: int) -> Any:
    """Return where a value ends, without its padding; its place where there is nothing of it."""
    if place < 0 or length < 0:
        return place
    stop = place + length
    while stop > place and (heads[stop - 1] == 0 or heads[stop - 1] == 32):
        stop -= 1
    return stop


@compiled
def find_fresh(heads: Any, cells: Any, fresh: Any) -> None:
    """Say which values are not, byte for byte, that of the file before, as in most series."""
    for row in range(len(cells)):
        fresh[row] = row == 0 or cells[row, 1] != cells[row - 1, 1]
        if not fresh[row]:
            here, before = cells[row, 0], cells[row - 1, 0]
            fresh[row] = (here < 0) != (before < 0)
            for index in range(cells[row, 1]):
                if heads[np.uintp(here + index)] != heads[np.uintp(before + index)]:
                    fresh[row] = True
                    break


@compiled
def measure_text(heads: Any, cells: Any, several: bool, lengths: Any, states: Any) -> None:
    """Find which texts are plain: printable ASCII, and how long they are without padding.

    A backslash is plain where a value may be ``several``.
    """
    for row in range(len(cells)):
        begin, length = cells[row, 0], cells[row, 1]
        lengths[row] = _find_end(heads, begin, length) - begin
        states[row] = PLAIN if lengths[row] else MISSING
        if length < 0 and begin >= 0:
            states[row] = STRANGE
        for index in range(begin, begin + lengths[row]):
            sign = heads[np.uintp(index)]
            if sign < 32 or sign > 126 or (sign == 92 and not several):
                states[row] = STRANGE


@compiled
def suspect(vrs: Any, expected: int, states: Any) -> Any:
    """Mark values as strange that have another VR; return whether any is strange.

    Parameters
    ----------
    vrs : (n,) uint16 array
        Of the values; 0 where it is implicit.
    expected : int
        The VR that they should have.
    """
    strange = False
    for row in range(len(states)):
        if vrs[row] != 0 and vrs[row] != expected:
            states[row] = STRANGE
        strange |= states[row] == STRANGE
    return strange


@compiled
def lay_out(lengths: Any, states: Any, offsets: Any) -> None:
    """Say where each text begins, and the last ends, if those that are there follow each other."""
    total = 0
    for row in range(len(states)):
        offsets[row] = total
        if states[row] == PLAIN:
            total += lengths[row]
    offsets[len(states)] = total


@compiled
def copy_text(heads: Any, cells: Any, states: Any, offsets: Any, text: Any) -> None:
    """Copy plain texts one behind another, to where ``offsets`` says."""
    for row in range(len(cells)):
        if states[row] == PLAIN:
            begin, to = cells[row, 0], offsets[row]
            for index in range(offsets[row + 1] - to):
                text[np.uintp(to + index)] = heads[np.uintp(begin + index)]


@compiled
def _parse_decimal(heads: Any, place: int, stop: int) -> Any:
    """Return (number, whether it is surely the nearest double, place behind it).

    Digits up to 2**53 and a power of ten up to 22 are exact doubles, so that one multiplication
    or division rounds rightly (Clinger 1990, "How to read floating point numbers accurately").
    """
    digits, scale, count = np.int64(0), 0, 0
    negative = False
    fraction = False
    if place < stop and (heads[place] == 43 or heads[place] == 45):
        negative = heads[place] == 45
        place += 1
    while place < stop and (48 <= heads[place] <= 57 or (heads[place] == 46 and not fraction)):
        if heads[place] == 46:
            fraction = True
        else:
            count += 1
            digits = digits * 10 + heads[place] - 48
            scale -= fraction
            if digits > 2**53:
                return 0.0, False, place
        place += 1
    if count and place < stop and (heads[place] == 69 or heads[place] == 101):
        place, power, sign, any_digit = place + 1, 0, 1, False
        if place < stop and (heads[place] == 43 or heads[place] == 45):
            sign = -1 if heads[place] == 45 else 1
            place += 1
        while place < stop and 48 <= heads[place] <= 57 and power < 100:
            power = power * 10 + heads[place] - 48
            any_digit = True
            place += 1
        if not any_digit:
            return 0.0, False, place
        scale += sign * power
    if not count or abs(scale) > 22:
        return 0.0, False, place
    number = float(digits)
    number = number * _POWERS[scale] if scale > 0 else number / _POWERS[-scale]
    return (-number if negative else number), True, place


@compiled
def parse_decimals(heads: Any, cells: Any, count: int, numbers: Any, states: Any) -> None:
    """Read decimal strings (VR DS, or IS) that have ``count`` values; of 1, further ones pass.

    Parameters
    ----------
    numbers : (n, count) float64 array
        Filled where the state is `PLAIN`.
    """
    for row in range(len(cells)):
        place, length = cells[row, 0], cells[row, 1]
        stop = _find_end(heads, place, length)
        states[row] = STRANGE if length < 0 and place >= 0 else MISSING
        if stop == place:
            continue
        seen = 0
        while True:
            while place < stop and heads[place] == 32:
                place += 1
            number, sure, place = _parse_decimal(heads, place, stop)
            if not sure:
                break
            if seen < count:
                numbers[row, seen] = number
            seen += 1
            while place < stop and heads[place] == 32:
                place += 1
            if place == stop or heads[place] != 92:
                break
            place += 1
        complete = sure and place == stop and (seen == count or count == 1)
        states[row] = PLAIN if complete else STRANGE


@compiled
def parse_integers(heads: Any, cells: Any, numbers: Any, states: Any) -> None:
    """Read integer strings (VR IS) of one value, of 18 digits at most."""
    for row in range(len(cells)):
        place, length = cells[row, 0], cells[row, 1]
        stop = _find_end(heads, place, length)
        states[row] = STRANGE if length < 0 and place >= 0 else MISSING
        if stop == place:
            continue
        while place < stop and heads[place] == 32:
            place += 1
        negative = place < stop and heads[place] == 45
        if place < stop and (heads[place] == 43 or heads[place] == 45):
            place += 1
        states[row] = PLAIN if 0 < stop - place <= 18 else STRANGE
        number = np.int64(0)
        for index in range(place, stop):
            if heads[index] < 48 or heads[index] > 57:
                states[row] = STRANGE
                break
            number = number * 10 + heads[index] - 48
        numbers[row] = -number if negative else number


@compiled
def read_shorts(heads: Any, cells: Any, numbers: Any, states: Any) -> None:
    """Read binary integers (VR US) of one value."""
    for row in range(len(cells)):
        place, length = cells[row, 0], cells[row, 1]
        states[row] = MISSING if place < 0 or length == 0 else STRANGE
        if place >= 0 and length == 2:
            numbers[row], states[row] = (
                np.int64(heads[place]) | np.int64(heads[place + 1]) << 8,
                PLAIN,
            )


@compiled
def read_doubles(heads: Any, cells: Any, numbers: Any, states: Any) -> None:
    """Read binary numbers (VR FD) of one finite value."""
    for row in range(len(cells)):
        place, length = cells[row, 0], cells[row, 1]
        states[row] = MISSING if place < 0 or length == 0 else STRANGE
        if place >= 0 and length == 8:
            numbers[row, 0] = heads[place : place + 8].view(np.float64)[0]
            states[row] = PLAIN if math.isfinite(numbers[row, 0]) else STRANGE
