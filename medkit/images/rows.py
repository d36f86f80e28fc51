"""Rows of the catalog's view ``images``: their values, and the bytes of the file they are of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from medkit.errors import PixelError, SourceError
from medkit.sources.unpacking import open_member

Row = Mapping[str, Any]


def read_column(row: Row, name: str, default: Any = None) -> Any:
    """Return a value of a row, or the default where it is missing or null."""
    value = row.get(name)
    if value is None or (np.ndim(value) == 0 and pd.isna(value)):
        return default
    return value


def is_grey(row: Row) -> bool:
    """Say whether pixels are grey: one sample each, and not the index of a colour."""
    return read_column(row, "PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")


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
        file, member = _find_file(Path(row["root"]), str(row["path"]))
        _check_unchanged(file, row, None if member else read_column(row, "size"))
        with open_member(file, member) if member else file.open("rb") as stream:
            yield stream
    except OSError as error:
        raise PixelError("file-unreadable", str(error.strerror or type(error).__name__)) from None
    except SourceError as error:
        raise PixelError("file-unreadable", str(error)) from None


def _find_file(root: Path, path: str) -> tuple[Path, str]:
    """Return the file on disk, and the member of it or an empty text."""
    parts = path.split("!")
    for count in range(1, len(parts)):
        archive = root / "!".join(parts[:count])
        if archive.is_file():
            return archive, "!".join(parts[count:])
    return root / path, ""  # also where "!" is but a letter of its name


def _check_unchanged(file: Path, row: Row, size: int | None) -> None:
    found = file.stat()
    catalogued = read_column(row, "mtime_ns")
    if size not in (None, found.st_size) or catalogued not in (None, found.st_mtime_ns):
        raise PixelError("file-changed", "the file is not as it was catalogued; scan it again")
