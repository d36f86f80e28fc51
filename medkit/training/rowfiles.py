"""Rows of float32 by name, in a file that only grows.

    BASE.npy       the rows; new ones come behind the last
    BASE.journal   a line a finished batch: its first row, a SHA-256, the name of each of its rows

What holds at any moment, after kill -9 and after a power cut too:

- A row is there if a whole line of the journal names it and the line's hash is that of its bytes
  and names. Whatever else the files hold is not looked at, and is written over.
- Rows that are there never move or change. Those of a batch that was found damaged are out of the
  journal, and so computed again, behind the others.
- ``BASE.npy`` is an ordinary .npy. Its header is written in place, in the room that NumPy leaves
  there for a number of rows that grows, and after the rows that it counts.

One process writes at a time. Nothing is synced to the disk: what a power cut takes away does not
fit its hash.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medkit.errors import TrainingError
from medkit.workspace import write_beside

Floats = npt.NDArray[np.float32]

ARRAY, JOURNAL = ".npy", ".journal"
_LINE = re.compile(r"(\d{1,15}) ([0-9a-f]{64}) (\w+(?: \w+)*)\n", re.ASCII)
_DTYPE = np.dtype("<f4")


@dataclass(frozen=True)
class _Batch:
    """A line of the journal."""

    start: int
    digest: str
    names: tuple[str, ...]

    @property
    def stop(self) -> int:
        return self.start + len(self.names)

    def spell(self) -> str:
        return f"{self.start} {self.digest} {' '.join(self.names)}\n"


class RowFile:
    """The rows of one array.

    Parameters
    ----------
    base : Path
        Of the files, without their suffixes; they need not be there.

    Attributes
    ----------
    width : int or None
        Columns; None before the first batch.
    """

    def __init__(self, base: Path) -> None:
        self._array, self._journal = base.with_suffix(ARRAY), base.with_suffix(JOURNAL)
        counted, self.width = _read_shape(self._array)
        lines = _read_lines(self._journal)
        whole = [batch for line in lines if (batch := _parse_line(line))]
        self._batches = [batch for batch in whole if self._has_room(batch)]
        self._sound: set[_Batch] = set()  # those whose bytes were looked at
        if len(self._batches) < len(lines):
            self._write_journal()
        if self.width is not None and counted != self._count:  # a kill came before the header
            self._write_header()

    @property
    def _count(self) -> int:
        return max((batch.stop for batch in self._batches), default=0)

    def find(self, names: Iterable[str]) -> dict[str, int]:
        """Return the row of each of these names that is there.

        Every batch that holds one of them is read and compared with its hash, and no other.
        """
        wanted = set(names)
        while True:
            places = {name: batch for batch in self._batches for name in batch.names}
            used = {batch for name, batch in places.items() if name in wanted} - self._sound
            damaged = {batch for batch in used if not self._is_sound(batch)}
            self._sound |= used - damaged
            if not damaged:
                break
            self._batches = [batch for batch in self._batches if batch not in damaged]
            self._write_journal()
        rows = {name: row for batch in self._batches for name, row in _number(batch)}
        return {name: rows[name] for name in wanted if name in rows}

    def append(self, names: Sequence[str], values: Floats) -> dict[str, int]:
        """Add a batch and return the row of each name.

        Raises
        ------
        TrainingError
            If the values have another width than those before.
        """
        if self.width is None or (values.shape[1] != self.width and not self._sound):
            self._start(values.shape[1])
        if values.shape[1] != self.width:
            raise TrainingError(
                f"'features' gave {self.width} numbers an image, then {values.shape[1]}; "
                "every image has as many"
            )
        content = values.astype(_DTYPE).tobytes()
        batch = _Batch(self._count, _hash(content, names), tuple(names))
        with self._array.open("r+b") as array:
            array.seek(self._find_byte(batch.start))
            array.write(content)
        with self._journal.open("a", encoding="ascii", newline="\n") as journal:
            journal.write(batch.spell())
        self._batches.append(batch)
        self._sound.add(batch)
        self._write_header()
        return dict(_number(batch))

    def _start(self, width: int) -> None:
        self._batches, self.width = [], width
        self._write_journal()
        with write_beside(self._array) as beside:
            beside.write_bytes(_spell_header(0, width))

    def _is_sound(self, batch: _Batch) -> bool:
        with self._array.open("rb") as array:
            array.seek(self._find_byte(batch.start))
            content = array.read(self._find_byte(batch.stop) - array.tell())
        return _hash(content, batch.names) == batch.digest

    def _has_room(self, batch: _Batch) -> bool:
        """Tell whether the array is long enough for a batch."""
        if self.width is None:
            return False
        return self._find_byte(batch.stop) <= self._array.stat().st_size

    def _find_byte(self, row: int) -> int:
        width = self.width or 0
        return len(_spell_header(0, width)) + row * width * _DTYPE.itemsize

    def _write_journal(self) -> None:
        with write_beside(self._journal) as beside:
            beside.write_bytes("".join(batch.spell() for batch in self._batches).encode())

    def _write_header(self) -> None:
        with self._array.open("r+b") as array:
            array.write(_spell_header(self._count, self.width or 0))


def count_rows(base: Path) -> int:
    """Return how many rows the journal names; the rows are not looked at."""
    lines = _read_lines(base.with_suffix(JOURNAL))
    return sum(len(batch.names) for line in lines if (batch := _parse_line(line)))


def open_rows(base: Path) -> Floats:
    """Return the rows as a memory map."""
    mapped: Floats = np.load(base.with_suffix(ARRAY), mmap_mode="r", allow_pickle=False)
    return mapped


def _read_shape(array: Path) -> tuple[int, int | None]:
    """Return rows and columns by the header; no columns where there is no such file."""
    try:
        with array.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            rows, width = shape
            if file.tell() == len(_spell_header(0, width)) and dtype == _DTYPE and not fortran:
                return int(rows), int(width)
    except (OSError, ValueError):
        pass
    return 0, None


def _read_lines(journal: Path) -> list[str]:
    try:
        # A page that was lost is no ASCII or no line; what was cut off has no end.
        text = journal.read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    return text.splitlines(keepends=True)


def _parse_line(line: str) -> _Batch | None:
    found = _LINE.fullmatch(line)
    return _Batch(int(found[1]), found[2], tuple(found[3].split(" "))) if found else None


def _number(batch: _Batch) -> zip[tuple[str, int]]:
    return zip(batch.names, range(batch.start, batch.stop), strict=True)


def _hash(content: bytes, names: Sequence[str]) -> str:
    digest = hashlib.sha256(content)
    digest.update(" ".join(names).encode())
    return digest.hexdigest()


def _spell_header(rows: int, width: int) -> bytes:
    header = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue()
