"""What a scan has to do: which segments of a tree stand already, and which are to be written."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from medkit.catalog.entries import Entries
from medkit.catalog.segments import (
    Rows,
    Segment,
    find_ends,
    find_segments,
    is_sound,
    join_rows,
    read_files,
)

_MOST = 65536  # files of an older segment that are compared at once; few are longer
_FEW = 4096  # files that are taken at once where there is nothing to compare


@dataclass(frozen=True, eq=False)
class Wanted:
    """A segment that is to be written.

    Attributes
    ----------
    rows : Rows
        Its files.
    inputs : str
        What `Rows.hash` says of them.
    older : list of Segment
        Those that may tell of files that did not change.
    """

    rows: Rows
    inputs: str
    older: list[Segment]


def plan(
    source: str,
    walked: Iterable[Entries],
    older: Sequence[Segment],
    folder: Path,
    reader: str,
    *,
    rebuild: bool = False,
) -> Iterator[Segment | Wanted]:
    """Yield the segments of a tree, in the order of their paths.

    Parameters
    ----------
    source : str
        Whose images these are.
    walked : iterable of Entries
        The files that are there, in the order of their paths.
    older : sequence of Segment
        Those of the last snapshot, in order. A file of theirs that is not there any more is
        still a row, so that the others stay in the segments where they are.
    folder : Path
        The catalog's.
    reader : str
        See `inspection.name_reader`.
    rebuild : bool
        No segment that stands is trusted.

    Yields
    ------
    Segment or Wanted
        One that stands and says the same of the same files, or one to be written.
    """
    cut = _Cut(folder, reader, rebuild)
    coming = _Coming(walked)
    for segment in () if rebuild else older:
        if not is_sound(folder, segment):
            continue  # what it said is read again, as the files between others are
        limit = None if segment is older[-1] and not segment.closed else segment.last
        known = _Known(folder, segment, source)
        rows, whole = coming.take(limit)
        if whole and cut.is_idle and known.says(rows, reader):
            yield segment
            continue
        yield from cut.add(known.merge(rows, whole), segment)
        while not whole:
            rows, whole = coming.take(limit)
            yield from cut.add(known.merge(rows, whole), segment)
    whole = False
    while not whole:
        rows, whole = coming.take(None, _FEW)
        yield from cut.add(rows, None)
    yield from cut.finish()


class _Coming:
    """What walking is about to meet."""

    def __init__(self, walked: Iterable[Entries]) -> None:
        self._pieces = iter(walked)
        self._piece: Entries | None = None

    def take(self, limit: str | None, most: int = _MOST) -> tuple[list[Rows], bool]:
        """Return the files up to a path, and whether these are all."""
        taken: list[Rows] = []
        while sum(map(len, taken)) < most:
            piece = self._piece or next(self._pieces, None)
            if piece is None:
                return taken, True
            stop = len(piece) if limit is None else bisect_right(piece.paths, limit)
            if stop:
                taken.append(Rows(piece.slice(0, stop)))
            self._piece = piece.slice(stop, len(piece)) if stop < len(piece) else None
            if self._piece is not None:
                return taken, True
        return taken, False


class _Known:
    """What an older segment says of files, those that are gone above all."""

    def __init__(self, folder: Path, segment: Segment, source: str) -> None:
        self._folder = folder
        self._segment = segment
        self._source = source
        self._start = 0  # rows before it were compared already

    @cached_property
    def _files(self) -> pa.Table:
        return read_files(self._folder, self._segment)

    @cached_property
    def _paths(self) -> list[str]:
        paths: list[str] = self._files["path"].to_pylist()
        return paths

    def says(self, pieces: list[Rows], reader: str) -> bool:
        """Tell whether it was made from these files, and those that are gone, and nothing else."""
        segment = self._segment
        if segment.transient or not (pieces or segment.vanished):
            return False
        if segment.vanished:
            pieces = self.merge(pieces, whole=True)
            self._start = 0
        return join_rows(pieces).hash(reader) == segment.inputs

    def merge(self, pieces: list[Rows], whole: bool) -> list[Rows]:
        """Return the files with those among them that are gone.

        Parameters
        ----------
        pieces : list of Rows
            What comes next.
        whole : bool
            What comes then lies behind this segment.
        """
        last = pieces[-1].entries.paths[-1] if pieces else ""
        stop = len(self._paths) if whole else bisect_right(self._paths, last)
        here = {path for piece in pieces for path in piece.entries.paths}
        gone = [row for row in range(self._start, stop) if self._paths[row] not in here]
        self._start = stop
        if not gone:
            return pieces
        return [_sort(join_rows([*pieces, self._list_gone(gone)]))]

    def _list_gone(self, rows: list[int]) -> Rows:
        files = self._files.take(rows)
        sizes, mtimes, inodes = (files[name].to_numpy() for name in ("size", "mtime_ns", "inode"))
        entries = Entries(
            self._source,
            self._segment.root,
            files["path"].to_pylist(),
            sizes,
            mtimes,
            inodes,
        )
        readers = files["reader"].to_pylist()
        return Rows(entries, {row: reader or "" for row, reader in enumerate(readers)})


class _Cut:
    """Cuts files into segments as they come."""

    def __init__(self, folder: Path, reader: str, rebuild: bool) -> None:
        self._folder = folder
        self._reader = reader
        self._rebuild = rebuild
        self._waiting: list[Rows] = []
        self._older: list[Segment] = []

    @property
    def is_idle(self) -> bool:
        """Whether the last segment was ended by the last file."""
        return not self._waiting

    def add(self, pieces: Sequence[Rows], older: Segment | None) -> Iterator[Segment | Wanted]:
        """Take files, and yield the segments that are ended by one of them."""
        own = [older] if older else []
        kept = [one for one in self._older if one is not older] if self._waiting else []
        self._older = [*kept, *own]
        for rows in pieces:
            start = 0
            for stop in find_ends(rows):
                self._waiting.append(rows.slice(start, stop))
                yield self._end()
                self._older = own
                start = stop
            if start < len(rows):
                self._waiting.append(rows.slice(start, len(rows)))

    def finish(self) -> Iterator[Segment | Wanted]:
        """Yield the last segment, which the end of the tree ends."""
        if self._waiting:
            yield self._end()

    def _end(self) -> Segment | Wanted:
        rows = join_rows(self._waiting)
        self._waiting = []
        inputs = rows.hash(self._reader)
        standing = [] if self._rebuild else find_segments(self._folder, inputs)
        whole = next((one for one in standing if not one.transient), None)
        return whole or Wanted(rows, inputs, [*self._older, *standing])


def _sort(rows: Rows) -> Rows:
    """Return the same files in the order of their paths."""
    entries = rows.entries
    order = sorted(range(len(rows)), key=entries.paths.__getitem__)
    places = np.argsort(order)
    gone = {int(places[row]): reader for row, reader in rows.gone.items()}
    return Rows(entries.take(order), gone)
