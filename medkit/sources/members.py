"""The bytes of one member of an archive, read no further than they are asked for."""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from medkit.sources.gate import explain_errors
from medkit.sources.streams import File, Source, make_stream

_CHUNK = 1 << 16
_FIRST = 1 << 13  # most headers fit
_PACKED = 1 << 12
# What a packed member may take in memory to be read a second time; more goes to a temporary file.
_KEPT = 1 << 24


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    Attributes
    ----------
    archive : File
        What it is a member of.
    name : str
        Its path inside the archive, parts joined by ``/``; safe on every system.
    size : int
        Bytes, unpacked.
    offset : int or None
        Where its first byte lies in the archive; None of one that is packed.
    source : callable
        Returns its bytes to be read once, from first to last, for whoever wants all of them; of
        a member with an offset, also a `streams.SeekableSource`.
    """

    archive: File
    name: str
    size: int
    offset: int | None
    source: Callable[[], Any]

    def open(self) -> BinaryIO:
        """Return a seekable stream of its bytes; of a tar in gzip, until the next is taken.

        Only what is asked for is read, in small steps; what was unpacked is kept as long as the
        stream is open, so that no byte is unpacked twice. The checksum of a zip member is compared
        when it has been read from its first byte to its last; that of a gzip after the last member.

        Raises
        ------
        SourceError
            Where the archive is damaged; also when reading the stream.
        """
        explain = partial(explain_errors, self.archive, self.name)
        with explain():
            source = self.source()
        kept = source if self.offset is not None else _Kept(source)
        return make_stream(kept, self.size, explain, _FIRST)


def open_archive(path: File) -> BinaryIO:
    """Open an archive for readers that jump: a large buffer would be filled at each jump."""
    return path.open("rb", buffering=1 << 10)


class Part:
    """Some bytes of a file, in a stream of its own, which outlives the walk that found it."""

    def __init__(self, path: File, start: int, size: int) -> None:
        self._start, self._size = start, size
        self._left = size
        self._stream = path.open("rb", buffering=0)
        self._stream.seek(start)
        self.close = self._stream.close

    def read(self, size: int, /) -> bytes:
        """Return up to that many bytes; none at the end alone."""
        wanted = min(size, self._left)
        part = self._stream.read(wanted) or b""
        if wanted and not part:
            raise EOFError("unexpected end of data")
        self._left -= len(part)
        return part

    def seek(self, offset: int, /) -> None:
        """Go to that byte of the part."""
        self._left = self._size - offset
        self._stream.seek(self._start + offset)


class Inflated:
    """What a deflated source unpacks to; no further than asked for."""

    def __init__(self, packed: Source) -> None:
        self._packed = packed
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self.close = packed.close

    def read(self, size: int, /) -> bytes:
        """Return up to that many bytes; none at the end alone."""
        while not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._packed.read(_PACKED)
            part = self._inflater.decompress(packed, size)
            if part or not packed:
                return part
        return b""


class Checked:
    """A zip member, whose size and checksum are compared with what the directory says."""

    def __init__(self, source: Any, size: int, checksum: int) -> None:
        self._source = source
        self._size, self._checksum = size, checksum
        self._position = 0
        self._summed, self._sum = 0, 0
        self.close = source.close

    def read(self, size: int, /) -> bytes:
        """Return up to that many bytes; none at the end alone."""
        wanted = min(size, self._size - self._position)
        part: bytes = self._source.read(wanted) if wanted else b""
        if wanted and not part:
            raise EOFError("unexpected end of data")
        if self._position == self._summed:
            self._sum = zlib.crc32(part, self._sum)
            self._summed += len(part)
            if self._summed == self._size and self._sum != self._checksum:
                raise zipfile.BadZipFile("its checksum is another one")
        self._position += len(part)
        return part

    def seek(self, offset: int, /) -> None:
        """Go to that byte; only of a source that can."""
        self._source.seek(offset)
        self._position = offset


def open_zipped(
    path: File, start: int, packed: int, size: int, checksum: int, stored: bool
) -> Checked:
    """Open a member of a zip; ``packed`` bytes from ``start`` make ``size`` bytes."""
    part = Part(path, start, packed)
    return Checked(part if stored else Inflated(part), size, checksum)


class _Kept:
    """A source that is read onwards alone, made seekable: what was read of it is kept.

    To unpack it from its start for each step back would let a file of many such steps take hours.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        # Its errors are those of a full disk.
        self._kept = tempfile.SpooledTemporaryFile(_KEPT)  # noqa: SIM115 - closed by close()
        self._length = self._position = 0

    def read(self, size: int, /) -> bytes:
        while self._length < self._position:
            if not self._append(min(_CHUNK, self._position - self._length)):
                return b""
        if self._position == self._length:
            part = self._append(size)
        else:
            self._kept.seek(self._position)
            part = self._kept.read(min(size, self._length - self._position))
        self._position += len(part)
        return part

    def seek(self, offset: int, /) -> None:
        self._position = offset

    def close(self) -> None:
        self._kept.close()
        self._source.close()

    def _append(self, size: int) -> bytes:
        part = self._source.read(size)
        self._kept.seek(self._length)
        self._kept.write(part)
        self._length += len(part)
        return part
