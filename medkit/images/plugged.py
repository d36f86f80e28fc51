"""From a file that a plugin reads to the stored values of one frame.

The last file stays open, so that frames that follow one another cost no more than they hold.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from medkit.catalog import triage
from medkit.catalog.readers import OpenedFile, explain_failure, find_reader, load_reader
from medkit.errors import CodedError, PixelError, PluginError, UsageError
from medkit.images import decoding
from medkit.images.decoding import Decoded
from medkit.images.rows import PICTURES, Row, find_file, open_file, read_column
from medkit.images.stacks import FORMATS
from medkit.plugins import find_plugin


class _Open(NamedTuple):
    file: OpenedFile
    closing: ExitStack


# The last file of this process. Whoever reads on takes it away for the while, so that two threads
# never share one.
_LAST: dict[tuple[Any, ...], _Open] = {}


def is_plugged(row: Row) -> bool:
    """Say whether a plugin that is installed reads this file."""
    form = read_column(row, "format", "")
    return form not in ("dicom", *PICTURES, *FORMATS) and _is_installed(form)


@lru_cache(maxsize=16)
def _is_installed(name: str) -> bool:
    try:
        find_plugin("reader", name)
    except (UsageError, PluginError):
        return False
    return True


def decode_image(row: Row) -> Decoded:
    """Return the stored values of one frame.

    Parameters
    ----------
    row : mapping
        Its row of ``images``.

    Raises
    ------
    PixelError
        As `decoding.read_module`; ``reader-failed``: the plugin did, or gave values of another
        shape or type than it said; ``file-changed`` and ``file-unreadable`` as of
        `rows.open_file`.
    """
    module = decoding.read_module(row)
    opened, name, key = _take(row)
    try:
        values = np.asarray(opened.file.read(name, int(row["frame"])))
    except Exception as error:  # whatever a plugin raises is the plugin's fault
        opened.closing.close()
        raise _refuse(row, error) from None
    _keep(key, opened)
    shape = (module.rows, module.columns) + ((3,) if module.samples == 3 else ())
    if values.shape != shape or values.dtype.newbyteorder("=") != module.dtype:
        told = f"{values.dtype} of the shape {values.shape}, not {module.dtype} of {shape}"
        raise PixelError("reader-failed", f"the reader {row['format']!r} gave {told}")
    return Decoded(np.ascontiguousarray(values, module.dtype), module.photometric)


def _take(row: Row) -> tuple[_Open, str, tuple[Any, ...]]:
    """Return the file of a row, opened, the image's name in it, and what it is kept under."""
    path = str(row["path"])
    places = dict.fromkeys([find_file(row), (path, "")])  # with images in it, or one image
    keys = {(*_name(row), file): (file, inside) for file, inside in places}
    for key in keys:
        if (opened := _LAST.pop(key, None)) is not None:
            return opened, keys[key][1], key
    for key, (file, inside) in keys.items():
        if not inside or _holds_images(row, file):
            whole = {**row, "path": file} | ({"size": None} if inside else {})
            return _open(whole), inside, key
    raise AssertionError("a path always names itself")


def _name(row: Row) -> tuple[Any, ...]:
    return row["format"], row["root"], read_column(row, "mtime_ns")


def _holds_images(row: Row, file: str) -> bool:
    """Say whether a file is one that the reader opens, as when it was catalogued."""
    with open_file({"root": row["root"], "path": file}) as stream:
        head = stream.read(triage.HEAD)
        try:
            found = find_reader([str(row["format"])], head, stream.seek(0, os.SEEK_END))
        except CodedError as error:
            raise PixelError(error.code, error.detail) from None
        return found is not None


def _open(row: Row) -> _Open:
    with ExitStack() as closing:
        stream: BinaryIO = closing.enter_context(open_file(row))
        try:
            file = load_reader(str(row["format"])).open(stream)
        except Exception as error:
            raise _refuse(row, error) from None
        return _Open(file, closing.pop_all())


def _keep(key: tuple[Any, ...], opened: _Open) -> None:
    for other in [*_LAST]:
        if (last := _LAST.pop(other, None)) is not None:
            last.closing.close()
    _LAST[key] = opened


def _refuse(row: Row, error: Exception) -> PixelError:
    failed = explain_failure(str(row["format"]), error)
    return PixelError(failed.code, failed.detail)
