"""Streams that read no further than they are asked to, from sources where each byte costs."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, Literal, Protocol

BUFFER = 1 << 16


class State(Protocol):
    """What is known of a file."""

    @property
    def st_size(self) -> int:
        """Bytes."""

    @property
    def st_mtime_ns(self) -> int:
        """Nanoseconds."""


class Source(Protocol):
    """Bytes that are read onwards."""

    def read(self, size: int, /) -> bytes:
        """Return up to that many bytes; none at the end alone."""

    def close(self) -> None:
        """Let go of what they are read from."""


class File(Protocol):
    """What a reader of archives needs of a file: a Path, or one far away."""

    @property
    def name(self) -> str:
        """The last part of its path."""

    def open(self, mode: Literal["rb"], buffering: int = -1) -> BinaryIO:
        """Open it."""

    def stat(self) -> State:
        """Return what is known of it."""

    def __hash__(self) -> int: ...


class SeekableSource(Source, Protocol):
    """Bytes that are read from anywhere."""

    def seek(self, offset: int, /) -> object:
        """Go to that byte."""


def make_stream(
    source: SeekableSource,
    size: int,
    explain: Callable[[], AbstractContextManager[None]],
    first: int,
) -> BinaryIO:
    """Return a buffered stream that fills its buffer in growing steps.

    Parameters
    ----------
    source : SeekableSource
        It is closed with the stream.
    size : int
        Of the source, in bytes.
    explain : callable
        Returns what turns errors of the source into one that says what they mean.
    first : int
        Bytes that are read to begin with, and after each jump; then twice as many each time. Who
        asks for more than a buffer at once gets that in one piece.
    """
    return _Buffered(_Stream(source, size, explain, first), BUFFER)


class _Stream(io.RawIOBase):
    def __init__(
        self,
        source: SeekableSource,
        size: int,
        explain: Callable[[], AbstractContextManager[None]],
        first: int,
    ) -> None:
        self._source, self._size = source, size
        self._explain = explain
        self._first = self._step = first
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = len(buffer)
        if wanted <= BUFFER:
            wanted = min(wanted, self._step)
            self._step = min(2 * self._step, BUFFER)
        with self._explain():
            part = self._source.read(wanted)
        self._position += len(part)
        buffer[: len(part)] = part
        return len(part)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = (0, self._position, self._size)[whence]
        place = min(max(base + offset, 0), self._size)
        if place != self._position:
            with self._explain():
                self._source.seek(place)
            self._position, self._step = place, self._first
        return place

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


class _Buffered(io.BufferedReader):
    """A buffer that does not fill the buffer of another one around it to the brim."""

    def readinto(self, buffer: Any) -> int:
        return self.readinto1(buffer)
