"""Functions that are compiled, by Numba, when they are first called; this is its one user.

The result is kept on disk. They run without Python's lock, so that threads share the processors.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba import types

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Return the function, compiled for the types that it is called with."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return cast("Function", numba.njit(cache=True, **options)(function))
    except RuntimeError:  # there is no folder to keep it in: each process compiles it anew
        return cast("Function", numba.njit(**options)(function))


OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)

if os.name == "posix":
    # Of the C library: a call through Python would hold its lock, and threads wait for it.
    open_file: Any = types.ExternalFunction(
        "openat", types.int32(types.int32, types.uintp, types.int32)
    )
    read_part: Any = types.ExternalFunction(
        "pread", types.intp(types.int32, types.uintp, types.uintp, types.int64)
    )
    close_file: Any = types.ExternalFunction("close", types.int32(types.int32))

if sys.platform == "linux":
    read_entries: Any = types.ExternalFunction(
        "getdents64", types.intp(types.int32, types.uintp, types.uintp)
    )
    stat_file: Any = types.ExternalFunction(
        "statx", types.int32(types.int32, types.uintp, types.int32, types.uint32, types.uintp)
    )
