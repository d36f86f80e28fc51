"""Reading the files of segments that are to be written: quickly here, slowly in processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa

from medkit.catalog.entries import Entries
from medkit.catalog.inspection import inspect_quickly, inspect_slowly, name_reader, report_death
from medkit.catalog.planning import Wanted
from medkit.catalog.segments import Segment, Tables, carry_over, write_segment
from medkit.engine import Died, Outcome, count_workers, map_items, map_threads

_PIECE = 4096  # files that are read quickly at once
_BATCH = 64  # files that are read slowly at once
_PARTS = 16  # that a batch is split into when it ended its reader
# An unbounded archive takes long and is no fault; what is slower than this hangs.
_SECONDS = 60
_BYTES_A_SECOND = 1 << 20


_Read = tuple[Tables, int]  # and how many files were found to need the slow road


@dataclass
class Share:
    """How many files were read by what.

    Attributes
    ----------
    quick, slow : int
        By the compiled reader; by pydicom and the like.
    reused : int
        By an earlier scan: they did not change.
    """

    quick: int = 0
    slow: int = 0
    reused: int = 0


@dataclass(eq=False)
class _Order:
    """A segment under way: what is known of its files, and what is still to be read."""

    position: int
    wanted: Segment | Wanted
    segment: Segment | None = None  # once it stands
    pieces: list[Tables] = field(default_factory=list)
    left: list[Entries] = field(default_factory=list)  # batches to be read slowly
    under_way: int = 0  # batches that were handed out
    opened: int = 0
    slow: int = 0


class Reader:
    """Reads the files of segments, and writes these.

    Parameters
    ----------
    folder : Path
        The catalog's.
    keep_identifiers : bool
        Names and birth dates too.
    readers : sequence of str
        Of plugins.
    engine, workers
        Where to read slowly; see `medkit.engine.map_items`. Quickly read is here, in as many
        threads; Dask workers get whole segments and do both.
    stands : callable
        Told of each segment, with its position in the plan, when it stands; they come in any
        order.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep_identifiers: bool,
        readers: Sequence[str] = (),
        engine: str,
        workers: int | None,
        stands: Callable[[int, Segment], None],
    ) -> None:
        self.share = Share()
        self._folder = folder
        self._keep = keep_identifiers
        self._readers = tuple(readers)
        self._engine = engine
        self._workers = workers
        self._look = partial(
            _read_slowly if engine == "local" else _read_both,
            keep=keep_identifiers,
            readers=self._readers,
        )
        self._stands = stands
        self._orders: dict[Entries, _Order] = {}  # of batches that were handed out

    def read(self, plans: Iterable[Segment | Wanted]) -> None:
        """Read and write what a plan wants.

        Parameters
        ----------
        plans : iterable of Segment or Wanted
            Taken as they are needed.
        """
        for outcome in self._map(self._batches(plans)):
            order = self._orders.pop(outcome.item)
            for tables, slow in self._settle(outcome):
                order.pieces.append(tables)
                order.slow += slow
            order.under_way -= 1
            if not order.under_way:
                self._write(order)
                self._finish(order)

    def _map(self, batches: Iterable[Entries]) -> Iterator[Outcome[Entries, _Read]]:
        return map_items(
            self._look, batches, engine=self._engine, workers=self._workers, limit=_allow_seconds
        )

    def _settle(self, outcome: Outcome[Entries, _Read]) -> Iterator[_Read]:
        """Yield what was read of a batch; one that ended its reader is split, and read again."""
        entries, result = outcome.item, outcome.result
        if not isinstance(result, Died):
            yield result
        elif len(entries) == 1:
            code = "reader-timeout" if result.late else "reader-died"
            yield report_death(entries, result.detail, code), int(self._engine != "local")
        else:
            length = -(-len(entries) // _PARTS)
            parts = [
                entries.slice(start, start + length) for start in range(0, len(entries), length)
            ]
            for part in self._map(parts):
                yield from self._settle(part)

    def _finish(self, order: _Order) -> None:
        assert order.segment is not None
        self.share.slow += order.slow
        self.share.quick += order.opened - order.slow
        self.share.reused += order.segment.files - order.segment.told - order.opened
        self._stands(order.position, order.segment)

    def _batches(self, plans: Iterable[Segment | Wanted]) -> Iterator[Entries]:
        """Yield what is to be read slowly, and write what needs none of this.

        Batches are taken only as there are workers for them, so few orders are in memory.
        """
        numbered = enumerate(plans)
        threads = 0 if self._workers == 0 else count_workers(self._workers)
        for order in map_threads(self._begin, numbered, threads):
            if order.left:
                order.under_way = len(order.left)
                self._orders.update(dict.fromkeys(order.left, order))
                yield from order.left
                order.left.clear()
            else:
                self._finish(order)

    def _begin(self, numbered: tuple[int, Segment | Wanted]) -> _Order:
        """Take over what did not change, and read what can be read quickly."""
        position, wanted = numbered
        if isinstance(wanted, Segment):
            return _Order(position, wanted, wanted)
        order = _Order(position, wanted)
        rows = wanted.rows
        reader = name_reader(self._keep, self._readers)
        order.pieces, missing = carry_over(self._folder, rows, wanted.older, reader)
        entries = rows.entries.take(missing) if len(missing) < len(rows) else rows.entries
        order.opened = len(entries) - len(entries.findings)
        if self._engine != "local":
            order.left = [entries] if len(entries) else []
        else:
            for start in range(0, len(entries), _PIECE):
                self._read_piece(order, entries.slice(start, start + _PIECE))
        if not order.left:
            self._write(order)
        return order

    def _read_piece(self, order: _Order, entries: Entries) -> None:
        tables, left = inspect_quickly(entries, self._keep, self._readers)
        order.pieces.append(tables)
        order.slow += len(left)
        order.left.extend(
            entries.take(left[start : start + _BATCH]) for start in range(0, len(left), _BATCH)
        )

    def _write(self, order: _Order) -> None:
        assert isinstance(order.wanted, Wanted)
        rows, inputs = order.wanted.rows, order.wanted.inputs
        order.segment = write_segment(self._folder, rows, inputs, order.pieces)
        order.pieces = []


def _read_slowly(entries: Entries, keep: bool, readers: Sequence[str]) -> _Read:
    return inspect_slowly(entries, keep, readers), 0


def _read_both(entries: Entries, keep: bool, readers: Sequence[str]) -> _Read:
    """Return what a Dask worker makes of a segment, and how many files it read slowly."""
    tables, left = inspect_quickly(entries, keep, readers)
    slow = inspect_slowly(entries.take(left), keep, readers)
    return {name: pa.concat_tables([tables[name], slow[name]]) for name in tables}, len(left)


def _allow_seconds(entries: Entries) -> float:
    return _SECONDS + int(entries.sizes.sum()) / _BYTES_A_SECOND
