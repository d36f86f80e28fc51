"""From the bytes of a NIfTI, MetaImage, NRRD or raw volume to the stored values of one slice.

A slice comes as it is stored: not flipped, not turned, and without the rescale of its header. Where
voxels lie as they are, only those of the slice are read. Packed ones can only be unpacked from
their start; so the last volume stays open, unpacked as far as it was read, and slices that follow
one another cost no more than they hold.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from medkit.catalog.stacks import Stack, VoxelsNotReadError
from medkit.catalog.volumefiles import FORMATS as HEADED
from medkit.catalog.volumefiles import read_stack
from medkit.errors import PixelError
from medkit.images import decoding
from medkit.images.decoding import Decoded
from medkit.images.rows import Row, open_file, read_column

FORMATS = (*HEADED, "raw")

_BLOCK = 2**18
_ANY, _GZIP = 47, 31  # of zlib's window: whichever of zlib and gzip it is; gzip


def decode_slice(stream: BinaryIO, row: Row) -> Decoded:
    """Return the stored values of one slice.

    Parameters
    ----------
    stream : binary file
        The whole file, or that of the header.
    row : mapping
        Its row of ``images``; slices of later moments follow those of the first.

    Raises
    ------
    PixelError
        As `decoding.read_module` and `decoding.decode_frame`, or ``codestream``: what is packed
        cannot be unpacked; ``file-unreadable``: the file with the voxels is not there.
    """
    module, frame = decoding.read_module(row), int(row["frame"])
    stack = _read_stack(stream, row)
    if stack is None:
        return decoding.decode_frame(stream, module, frame)
    with _open_voxels(stream, row, stack.data) as (voxels, path):
        if stack.packed_from is None:
            return decoding.decode_frame(voxels, module, frame)
        length = module.length // module.frames
        key = (row["root"], path, read_column(row, "size"), read_column(row, "mtime_ns"))
        data = _unpack(voxels, key, stack.packed_from, module.offset + frame * length, length)
    alone = dataclasses.replace(module, frames=1, offset=0, length=length)
    return decoding.decode_frame(io.BytesIO(data), alone, 0)


def _read_stack(stream: BinaryIO, row: Row) -> Stack | None:
    """Return what the header says of where the voxels are; None where there is no header."""
    if row["format"] == "raw":
        return None
    name = str(row["path"]).rpartition("/")[2]
    try:
        return read_stack(stream, row["format"], name)
    except (VoxelsNotReadError, ValueError, KeyError, struct.error, zlib.error) as error:
        # It was read when it was catalogued, so it is another one.
        raise PixelError("file-changed", f"its header is damaged: {type(error).__name__}") from None


@contextmanager
def _open_voxels(stream: BinaryIO, row: Row, name: str) -> Iterator[tuple[BinaryIO, str]]:
    """Yield the file that holds the voxels, and its path; a name is that of a file beside."""
    path = str(row["path"])
    if not name:
        yield stream, path
        return
    folder, slash, _ = path.rpartition("/")
    beside = f"{folder}{slash}{name}"
    with open_file({"root": row["root"], "path": beside}) as voxels:
        yield voxels, beside


# ---- Packed voxels -------------------------------------------------------------------------------


class _Unpacker:
    """A packed stream, unpacked as far as it was read.

    It holds no file open: each read is given the file anew.
    """

    def __init__(self, start: int) -> None:
        self._start = start
        self._rewind()

    def _rewind(self) -> None:
        self._taken, self._given = self._start, 0  # position in the file, and in what came of it
        self._engine: Any = zlib.decompressobj(_ANY)

    def read(self, stream: BinaryIO, offset: int, count: int) -> bytes:
        """Return some of the unpacked bytes, fewer where the stream ends before."""
        if offset < self._given:
            self._rewind()
        stream.seek(self._taken)
        while self._given < offset and self._step(stream, min(_BLOCK, offset - self._given)):
            pass
        parts = []
        while count and (part := self._step(stream, min(_BLOCK, count))):
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _step(self, stream: BinaryIO, most: int) -> bytes:
        """Return the next bytes, at most some; none at the end."""
        while True:
            if self._engine.eof:
                rest = self._engine.unused_data or self._take(stream)
                if not rest:
                    return b""
                self._engine = zlib.decompressobj(_GZIP)  # gzip's members follow one another
            else:
                rest = self._engine.unconsumed_tail or self._take(stream)
            part: bytes = self._engine.decompress(rest, most)
            self._given += len(part)
            if part or (not rest and not self._engine.eof):
                return part

    def _take(self, stream: BinaryIO) -> bytes:
        block = stream.read(_BLOCK)
        self._taken += len(block)
        return block


# The last packed volume of this process. Whoever reads on takes it away for the while, so that
# two threads never share one.
_LAST: dict[tuple[Any, ...], _Unpacker] = {}


def _unpack(stream: BinaryIO, key: tuple[Any, ...], start: int, offset: int, count: int) -> bytes:
    unpacker = _LAST.pop(key, None) or _Unpacker(start)
    try:
        data = unpacker.read(stream, offset, count)
    except zlib.error as error:
        raise PixelError("codestream", f"the voxels do not unpack: {error}") from None
    _LAST.clear()
    _LAST[key] = unpacker
    return data
