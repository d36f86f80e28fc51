"""Zstandard in short frames, each behind a skippable frame that says how long it is.

So a reader holds one frame at a time, whatever a hostile file claims, and a stream is read as far
as its head alone; ``zstd -d`` reads it like any other (RFC 8878; the layout is that of pzstd).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import imagecodecs

from medkit.sources.streams import Source

FRAME = 1 << 20  # bytes before compression
_LENGTH = struct.Struct("<III")
_SKIPPABLE, _FOUR = 0x184D2A50, 4  # RFC 8878, 3.1.2
# An extra field of a zip member (APPNOTE 4.5), which says that its name has the suffix, and its
# content the frames, of a file of this size; no tool is troubled by a field that it does not know.
SUFFIX = ".zst"
_MARK, _MARKED = 0x6B6D, struct.Struct("<HHQ")


def compress(data: Any, level: int) -> bytes:
    """Return the frames of some bytes; none of no bytes."""
    parts = []
    for start in range(0, len(data), FRAME):
        frame = imagecodecs.zstd_encode(data[start : start + FRAME], level=level)
        parts += [_LENGTH.pack(_SKIPPABLE, _FOUR, len(frame)), frame]
    return b"".join(parts)


def iterate_frames(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Yield what each frame holds.

    Parameters
    ----------
    read : callable
        Returns up to that many bytes of the stream, none at its end.

    Raises
    ------
    EOFError
        If the stream ends within a frame.
    ValueError
        If it is none of this layout, or a frame cannot be decoded.
    """
    while head := _read_all(read, _LENGTH.size, start=True):
        magic, width, length = _LENGTH.unpack(head)
        if (magic, width) != (_SKIPPABLE, _FOUR) or not 0 < length <= 2 * FRAME:
            raise ValueError("it is not a Zstandard stream as medkit writes them")
        frame = _read_all(read, length)
        try:
            yield bytes(imagecodecs.zstd_decode(frame, out=bytearray(FRAME)))
        except RuntimeError as error:
            raise ValueError(str(error)) from None


def decompress(data: bytes, size: int) -> bytes:
    """Return what is in the frames: exactly ``size`` bytes, and no more is ever held.

    Raises
    ------
    EOFError, ValueError
        As of `iterate_frames`, or if it is more or less.
    """
    place = 0

    def read(length: int) -> bytes:
        nonlocal place
        part = data[place : place + length]
        place += len(part)
        return part

    found = bytearray()
    for part in iterate_frames(read):
        found += part
        if len(found) > size:
            break
    if len(found) != size:
        raise ValueError(f"it unpacks to other than {size:,} bytes")
    return bytes(found)


def write_mark(size: int) -> bytes:
    """Return the extra field of a zip member that holds a file of this size in frames."""
    return _MARKED.pack(_MARK, 8, size)


def read_mark(extra: bytes) -> int | None:
    """Return the size that a zip member's extra fields tell, or None where it is not marked."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == _MARK and length == 8 and len(extra) >= _MARKED.size:
            return int(_MARKED.unpack_from(extra)[2])
        extra = extra[4 + length :]
    return None


class Expanded:
    """What a source of frames unpacks to; no further than asked for, and never more than said."""

    def __init__(self, packed: Source, size: int) -> None:
        self._frames = iterate_frames(packed.read)
        self._held = b""
        self._left = size
        self.close = packed.close

    def read(self, size: int, /) -> bytes:
        """Return up to that many bytes; none at the end alone."""
        if not self._held:
            self._held = next(self._frames, b"")
            self._left -= len(self._held)
            if self._left < 0 or (self._left > 0 and not self._held):
                raise ValueError("it unpacks to another size than it says")
        part, self._held = self._held[:size], self._held[size:]
        return part


def _read_all(read: Callable[[int], bytes], length: int, start: bool = False) -> bytes:
    """Return so many bytes; none where the stream may end, and has ended."""
    found = b""
    while len(found) < length:
        part = read(length - len(found))
        if not part:
            if start and not found:
                return b""
            raise EOFError("unexpected end of data")
        found += part
    return found
