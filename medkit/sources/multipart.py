"""The parts of a multipart answer (RFC 2046, section 5.1), as they come in."""

from __future__ import annotations

from collections.abc import Iterator
from email.message import Message

from medkit.sources.plans import Unsteady

_LONGEST = 1 << 16  # bytes of a line, or of the headers of a part


def find_boundary(content_type: str) -> str:
    """Return the boundary that a Content-Type names, quoted or not; nothing if it names none."""
    message = Message()
    message["Content-Type"] = content_type
    found = message.get_param("boundary", "")
    return found if isinstance(found, str) else ""


def split_parts(chunks: Iterator[bytes], boundary: str) -> Iterator[Iterator[bytes]]:
    """Yield the body of each part, to be read before the next is asked for.

    Servers differ: a boundary may come with the dashes that belong before it, lines may end in a
    line feed alone, and a part may have no headers.

    Parameters
    ----------
    chunks : iterator of bytes
        The answer.
    boundary : str
        As `find_boundary` returns it; empty if the first line of the body is to be believed.

    Raises
    ------
    Unsteady
        If the answer ends before its last boundary: it was cut.
    """
    stream = _Stream(chunks)
    delimiter = _find_delimiter(stream, boundary.encode("latin-1", "replace"))
    while not stream.starts_with(b"--"):
        end = b"\r\n" if stream.skip_line().endswith(b"\r\n") else b"\n"
        while stream.skip_line().strip():
            pass  # headers of the part
        body = stream.read_until(end + delimiter)
        yield body
        for _ in body:
            pass  # what the caller left


def _find_delimiter(stream: _Stream, boundary: bytes) -> bytes:
    """Return the first line that is a boundary, and leave the stream after it, before its end."""
    known = {b"--" + boundary, boundary} if boundary else set()
    while True:
        line = stream.peek_line().rstrip()
        bare = line.removesuffix(b"--") if line not in known else line
        if line.startswith(b"--") and (not known or bare in known):
            stream.skip(len(bare))
            return bare
        stream.skip_line()


class _Stream:
    """Chunks as one run of bytes, of which little is in memory."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = bytearray()

    def starts_with(self, mark: bytes) -> bool:
        while len(self._buffer) < len(mark):
            self._fill()
        return self._buffer.startswith(mark)

    def peek_line(self) -> bytes:
        """Return a line with its end."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _LONGEST:
                raise Unsteady("its answer is not in parts")
            self._fill()
        return bytes(self._buffer[: end + 1])

    def skip_line(self) -> bytes:
        line = self.peek_line()
        self.skip(len(line))
        return line

    def skip(self, count: int) -> None:
        del self._buffer[:count]

    def read_until(self, mark: bytes) -> Iterator[bytes]:
        """Yield what comes before a mark, and leave the stream after it."""
        kept = len(mark) - 1  # may be the beginning of the mark
        while (at := self._buffer.find(mark)) < 0:
            if len(self._buffer) > kept:
                yield bytes(self._buffer[:-kept])
                self.skip(len(self._buffer) - kept)
            self._fill()
        yield bytes(self._buffer[:at])
        self.skip(at + len(mark))

    def _fill(self) -> None:
        chunk = next(self._chunks, b"")
        if not chunk:
            raise Unsteady("its answer ends in the middle of a part")
        self._buffer += chunk
