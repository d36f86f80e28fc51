"""What lies in a folder, and what the system tells of it.

On Linux both are asked for by compiled code, many files at once: each call through Python lets go
of its lock and takes it again, which is what threads that read meanwhile would wait for.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

_BUFFER = 2**18  # bytes of a folder that are read at once
_COLUMNS = 4  # mode, size, time, inode


@dataclass(frozen=True, eq=False)
class Listing:
    """What lies in a folder, in any order.

    Attributes
    ----------
    names : list of str
        As `os.listdir` spells them.
    states : (n, 4) int64 array
        Mode, size in bytes, time in nanoseconds and inode of each; links are not followed. A mode
        of 0 stands for what could not be asked for.
    """

    names: list[str]
    states: Integers


def list_folder(folder: str) -> Listing:
    """Return what lies in a folder.

    Raises
    ------
    OSError
        If it cannot be listed.
    """
    return _list_compiled(folder) if _IS_COMPILED else _list(folder)


def _list(folder: str) -> Listing:
    with os.scandir(folder) as listing:
        names = [item.name for item in listing]
    states = [_stat(f"{folder}/{name}") for name in names]
    return Listing(names, np.array(states, np.int64).reshape(len(names), _COLUMNS))


def _stat(path: str) -> tuple[int, int, int, int]:
    try:
        state = os.lstat(path)
    except OSError:
        return 0, 0, 0, 0
    # Some systems use all 64 bits of an inode, a column of integers has one less.
    return state.st_mode, state.st_size, state.st_mtime_ns, state.st_ino % 2**63


def _list_compiled(folder: str) -> Listing:
    from medkit.catalog import calls

    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        names = _read_names(calls, handle)
        joined = np.frombuffer(b"".join(names), np.uint8)
        text = joined.tobytes().decode("utf-8", "surrogateescape")
        found = text.split("\0")[:-1]
        states = np.zeros((len(found), _COLUMNS), np.int64)
        calls.stat_names(handle, joined, np.empty(256, np.uint8), states)
    finally:
        os.close(handle)
    return Listing(found, states)


def _read_names(calls: Any, handle: int) -> list[bytes]:
    """Return the names in a folder, each ended by a zero, in some pieces."""
    buffer, names = np.empty(_BUFFER, np.uint8), np.empty(_BUFFER, np.uint8)
    pieces = []
    while (got := calls.read_folder(handle, buffer)) > 0:
        pieces.append(names[: calls.pick_names(buffer, got, names)].tobytes())
    if got < 0:
        # Ask again, in a way that says what is wrong.
        os.listdir(handle)
        raise OSError("the folder cannot be listed")
    return pieces


_IS_COMPILED = sys.platform == "linux" and all(
    hasattr(ctypes.CDLL(None), name) for name in ("getdents64", "statx")
)
