"""NIfTI, MetaImage and NRRD volumes: what their headers say, as DICOM would say it.

The headers are read here and not through ITK, which multiplies NIfTI's slope into the voxels, so
that stored values are lost, goes by a file's suffix, needs a path, which members of archives have
not, and believes a header that promises more than the file holds. Tests compare with it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from medkit.catalog.findings import Finding
from medkit.catalog.metaimage import read_metaimage
from medkit.catalog.nifti import read_nifti
from medkit.catalog.nrrd import read_nrrd
from medkit.catalog.stacks import NOT_READ, Stack, VoxelsNotReadError, describe_stack

_READERS: dict[str, Callable[[BinaryIO, str], Stack]] = {
    "nifti": read_nifti,
    "metaimage": read_metaimage,
    "nrrd": read_nrrd,
}
FORMATS = tuple(_READERS)


def read_stack(stream: BinaryIO, form: str, name: str) -> Stack:
    """Return what the header of a volume says.

    Parameters
    ----------
    stream : binary file
        Seekable, at any position.
    form : str
        Of `FORMATS`.
    name : str
        Of the file: half of a NIfTI pair tells by its own name where the other half is.

    Raises
    ------
    VoxelsNotReadError
        If its voxels are of a type that is not read, or not in one file beside it.
    ValueError, KeyError, struct.error, zlib.error
        If the header is damaged or cut.
    """
    stream.seek(0)
    with np.errstate(all="ignore"):  # a header may say anything; `describe_stack` looks at it
        return _READERS[form](stream, name)


def read_volume(stream: BinaryIO, form: str, path: Path | None) -> Finding:
    """Return what is known of a volume: columns, frames, and what is wrong with it.

    Parameters
    ----------
    stream, form
        As of `read_stack`.
    path : Path or None
        Where the file is, if it is a file of this machine: a volume in two files is looked for
        nowhere else.

    Raises
    ------
    ValueError, KeyError, OverflowError, struct.error, zlib.error
        If the header is damaged or cut.
    """
    try:
        stack = read_stack(stream, form, path.name if path else "")
        if not stack.data:
            return describe_stack(stack, form, stream.seek(0, os.SEEK_END))
        return describe_stack(stack, form, _measure(path, stack.data))
    except VoxelsNotReadError as error:
        return Finding("non-dicom", values={"format": form}, problems=[(NOT_READ, error.detail)])


def _measure(path: Path | None, name: str) -> int:
    """Return the size of a file beside another one.

    Raises
    ------
    VoxelsNotReadError
        If it is not there, or is a link: that could lead out of the tree.
    """
    if path is None:
        raise VoxelsNotReadError(
            "its voxels lie in another file, which is not looked for in archives and remote trees"
        )
    try:
        found = path.with_name(name).lstat()
    except OSError as error:
        raise VoxelsNotReadError(f"the file {name!r} of its voxels: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise VoxelsNotReadError(f"{name!r}, which should have its voxels, is no plain file")
    return found.st_size
