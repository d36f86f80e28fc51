"""Archives that were cut into parts, ``set.zip.001`` and so on: read as the one that they were."""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

from medkit.errors import SourceError
from medkit.sources.addresses import stem_of

_SPLIT = re.compile(r"(?P<whole>.*\.(zip|tar|tar\.gz|tgz))\.(?P<number>\d{3,4})", re.IGNORECASE)


def name_whole(path: str) -> str:
    """Return the path of the archive that a file is a part of; nothing if it is none."""
    found = _SPLIT.fullmatch(path)
    return found["whole"] if found else ""


def find_folder(path: str) -> str:
    """Return where the members of an archive, or of one that a part is of, are unpacked to."""
    whole = PurePosixPath(name_whole(path) or path)
    return str(whole.with_name(stem_of(whole.name)))


def group_parts(paths: Iterable[str]) -> dict[str, list[str]]:
    """Return the parts of each archive among some files, in order, by the archive's own path.

    Raises
    ------
    SourceError
        If the parts are not all there, or are numbered twice.
    """
    groups: dict[str, list[str]] = {}
    for path in paths:
        if whole := name_whole(path):
            groups.setdefault(whole, []).append(path)
    for whole, parts in groups.items():
        parts.sort(key=_number)
        numbers = [*map(_number, parts)]
        if numbers not in ([*range(1, len(parts) + 1)], [*range(len(parts))]):
            raise SourceError(
                f"of {whole} there are the parts {', '.join(map(str, numbers))}; they must go on "
                "from 1 without a gap"
            )
    return groups


def find_siblings(first: Path) -> list[Path]:
    """Return all parts that lie beside a part, in order."""
    whole = name_whole(first.name)
    names = [path.name for path in first.parent.iterdir() if name_whole(path.name) == whole]
    return [first.with_name(name) for name in group_parts(names)[whole]]


def _number(path: str) -> int:
    return int(path.rpartition(".")[2])


@dataclass(frozen=True)
class _State:
    st_size: int
    st_mtime_ns: int


class Joined:
    """The parts of an archive as one file: a `streams.File`; nothing is copied.

    Parameters
    ----------
    name : str
        Of the archive, for messages.
    parts : sequence of Path
        In order.
    """

    def __init__(self, name: str, parts: Iterable[Path]) -> None:
        self.name = name
        self._parts = tuple(parts)

    def open(self, mode: Literal["rb"], buffering: int = -1) -> BinaryIO:
        """Open all of it; unbuffered where ``buffering`` is 0."""
        raw: Any = _Chain(self._parts)
        return raw if not buffering else io.BufferedReader(raw, max(buffering, 1 << 13))

    def stat(self) -> _State:
        """Return the size of all, and the time of the youngest."""
        states = [part.stat() for part in self._parts]
        return _State(sum(s.st_size for s in states), max(s.st_mtime_ns for s in states))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Joined) and self._parts == other._parts

    def __hash__(self) -> int:
        return hash(self._parts)


class _Chain(io.RawIOBase):
    def __init__(self, parts: tuple[Path, ...]) -> None:
        sizes = [part.stat().st_size for part in parts]
        self._starts = [0, *accumulate(sizes)]
        self._streams = [part.open("rb", buffering=0) for part in parts]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._position >= self._starts[-1]:
            return 0
        index = bisect_right(self._starts, self._position) - 1
        stream = self._streams[index]
        stream.seek(self._position - self._starts[index])
        got = stream.readinto(buffer) or 0
        self._position += got
        return got

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(0, (0, self._position, self._starts[-1])[whence] + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        for stream in self._streams:
            stream.close()
        super().close()
