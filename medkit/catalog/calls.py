"""Calls of Linux that list a folder and tell of files, compiled; see `medkit.catalog.folders`.

The layouts are those of ``linux_dirent64`` and ``struct statx``, which are the same on every
machine (getdents(2), statx(2)).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medkit.catalog import compiled as c
from medkit.catalog.compiled import compiled

# Globals: Numba does not look into a module.
_getdents, _statx = c.read_entries, c.stat_file

_NO_FOLLOW, _BASIC = 0x100, 0x7FF  # AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS
_RECORD, _NAME = 16, 19  # where an entry's length and name stand
_MODE, _INODE, _SIZE, _SECONDS, _NANOSECONDS = 28, 32, 40, 112, 120

_POSITIVE = 2**63 - 1


@compiled
def _number(data: Any, place: int, width: int) -> Any:
    number = np.uint64(0)
    for index in range(width):
        number |= np.uint64(data[place + index]) << np.uint64(8 * index)
    return np.int64(number)


@compiled
def read_folder(handle: int, buffer: Any) -> Any:
    """Fill a buffer with the next entries of an open folder, and return how much it holds."""
    return _getdents(handle, buffer.ctypes.data, len(buffer))


@compiled
def pick_names(buffer: Any, got: int, names: Any) -> Any:
    """Copy the names of entries, each ended by a zero, and return how much was copied."""
    place, filled = 0, 0
    while place < got:
        start, length = filled, _number(buffer, place + _RECORD, 2)
        index = place + _NAME
        while buffer[index] != 0:
            names[filled] = buffer[index]
            filled, index = filled + 1, index + 1
        names[filled] = 0
        dots = filled - start <= 2 and names[start] == 46
        own = dots and (filled - start == 1 or names[start + 1] == 46)
        filled = start if own else filled + 1
        place += length
    return filled


@compiled
def stat_names(handle: int, names: Any, buffer: Any, states: Any) -> None:
    """Fill mode, size, time and inode of the names in an open folder; 0 where it has none."""
    place = 0
    for row in range(len(states)):
        path = names.ctypes.data + place
        if _statx(handle, path, _NO_FOLLOW, _BASIC, buffer.ctypes.data) == 0:
            states[row, 0] = _number(buffer, _MODE, 2)
            states[row, 1] = _number(buffer, _SIZE, 8)
            seconds = _number(buffer, _SECONDS, 8)
            states[row, 2] = seconds * 1_000_000_000 + _number(buffer, _NANOSECONDS, 4)
            # Some systems use all 64 bits of an inode, a column of integers has one less.
            states[row, 3] = _number(buffer, _INODE, 8) & _POSITIVE
        while names[place] != 0:
            place += 1
        place += 1
