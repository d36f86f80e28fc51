"""Rows of the catalog's view ``images``: their values, and the bytes of the file they are of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from medkit.errors import PixelError, SourceError
from medkit.sources import trees
from medkit.sources.trees import is_remote, locate_file, stat_file
from medkit.sources.unpacking import open_member

Row = Mapping[str, Any]

PICTURES = ("png", "jpeg", "tiff", "bmp")


def read_column(row: Row, name: str, default: Any = None) -> Any:
    """Return a value of a row, or the default where it is missing or null."""
    value = row.get(name)
    missing = value is None or value is pd.NA or (isinstance(value, float) and value != value)
    return default if missing else value


def is_grey(row: Row) -> bool:
    """Say whether pixels are grey: one sample each, and not the index of a colour."""
    return read_column(row, "PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")


def is_picture(row: Row) -> bool:
    """Say whether a file is a picture, that is there to be looked at and measures nothing."""
    return row["format"] in PICTURES


@contextmanager
def open_file(row: Row) -> Iterator[BinaryIO]:
    """Yield the bytes that a row of ``images`` stands for, as a seekable stream.

    Parameters
    ----------
    row : mapping
        With ``root`` and ``path``, where ``archive.zip!folder/member`` is a member of an archive;
        ``size`` and ``mtime_ns``, where given, must still be the file's.

    Raises
    ------
    PixelError
        ``file-changed``: since it was catalogued, so that offsets may be wrong.
        ``file-unreadable``: it is gone or not readable, or its archive is damaged.
    """
    try:
        root = str(row["root"])
        file, member = find_file(row)
        size = None if member else read_column(row, "size")
        _check_unchanged(root, file, row, size)
        with _open(root, file, member, size) as stream:
            yield stream
    except OSError as error:
        raise PixelError("file-unreadable", str(error.strerror or type(error).__name__)) from None
    except SourceError as error:
        raise PixelError("file-unreadable", str(error)) from None


def _open(root: str, file: str, member: str, size: int | None) -> AbstractContextManager[BinaryIO]:
    if member:
        return open_member(locate_file(root, file), member)
    return trees.open_file(root, file, size)


def find_file(row: Row) -> tuple[str, str]:
    """Return the file of the tree, and the member of it or an empty text."""
    root, path = str(row["root"]), str(row["path"])
    parts = path.split("!")
    for count in range(1, len(parts)):
        archive = "!".join(parts[:count])
        if _exists(root, archive):
            return archive, "!".join(parts[count:])
    return path, ""  # also where "!" is but a letter of its name


def _exists(root: str, path: str) -> bool:
    if not is_remote(root):
        return Path(root, path).is_file()
    try:
        stat_file(root, path)
    except OSError:
        return False
    return True


def _check_unchanged(root: str, path: str, row: Row, size: int | None) -> None:
    found_size, found_time = stat_file(root, path)
    catalogued = read_column(row, "mtime_ns")
    if size not in (None, found_size) or catalogued not in (None, found_time):
        raise PixelError("file-changed", "the file is not as it was catalogued; scan it again")
