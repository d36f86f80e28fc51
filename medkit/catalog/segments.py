"""Segments: what was read of some files that lie next to each other in one tree.

A segment ends after a file whose key ends in `BOUNDARY`, so one more file, or one less, changes
one or two segments and no other. It is named by the hash of its inputs: the reader, the root, and
what walking the tree says of each file. So what was read once is found again, by the next scan
and by one that follows a kill. On disk it is a folder of Parquet files and ``segment.json``, which
has their hashes: it is written beside and moved into place whole, and it is trusted only where
the hashes fit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medkit.catalog.database import write_table
from medkit.catalog.entries import Entries, join_entries
from medkit.catalog.schema import READ_TABLES
from medkit.errors import CatalogError, WorkspaceError
from medkit.workspace import (
    dump_json,
    hash_file,
    hash_json,
    read_json,
    remove_folder,
    sync,
)

Tables = dict[str, pa.Table]
Counts = dict[str, dict[str, int]]

BOUNDARY = "000"  # of 4,096 keys, one ends so
KINDS = ("image", "other-dicom", "non-dicom", "archive", "ignored", "problem")
# What may go otherwise the next time, though the file is the same.
_TRANSIENT = ("unreadable", "reader-died", "reader-timeout")
_FORMAT = 2  # of what is written; another one is read again
_NAME = "segment.json"


@dataclass(frozen=True, eq=False)
class Rows:
    """Files that walking met, and such as it met before.

    Attributes
    ----------
    entries : Entries
        Both.
    gone : mapping of int to str
        By position, those that are no longer there, and which reader read them.
    """

    entries: Entries
    gone: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.entries)

    def slice(self, start: int, stop: int) -> Rows:
        """Return those from one position to before another."""
        gone = {row - start: what for row, what in self.gone.items() if start <= row < stop}
        return Rows(self.entries.slice(start, stop), gone)

    def hash(self, reader: str) -> str:
        """Return the name of what this reader says of these files."""
        entries = self.entries
        digest = hashlib.sha256(
            dump_json([_FORMAT, reader, entries.source, entries.root, len(entries)])
        )
        digest.update("\0".join(entries.paths).encode())
        for column in (entries.sizes, entries.mtimes, entries.inodes):
            digest.update(np.ascontiguousarray(column, "<i8").tobytes())
        found = [(row, asdict(what)) for row, what in sorted(entries.findings.items())]
        digest.update(dump_json([found, sorted(self.gone.items())]))
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Segment:
    """A segment that stands.

    Attributes
    ----------
    name : str
        Of its folder: its inputs, and where these do not tell all, a hash of its content too.
    inputs : str
        What `Rows.hash` says.
    source, root : str
        As of its files.
    last : str
        The last path.
    closed : bool
        Its last file ends it; otherwise the tree ended there.
    counts, members : dict
        Files that are there, and members of archives, by kind and reason (``""`` for none).
    vanished, transient, told : int
        Files that are no longer there, such that are to be read again, and such that walking
        told all of, so that they are never opened.
    tables : dict of str to dict
        ``sha256``, ``size`` and ``rows`` of each that has rows; others have no file.
    """

    name: str
    inputs: str
    source: str
    root: str
    last: str
    closed: bool
    counts: Counts
    members: Counts
    vanished: int
    transient: int
    told: int
    tables: dict[str, dict[str, Any]]

    @property
    def files(self) -> int:
        """How many files are there."""
        return count_all(self.counts)


def join_rows(pieces: Sequence[Rows]) -> Rows:
    """Return the files of some pieces, one after the other."""
    if len(pieces) == 1:
        return pieces[0]
    starts = np.cumsum([0, *map(len, pieces)]).tolist()
    gone = {
        start + row: reader
        for start, piece in zip(starts, pieces, strict=False)
        for row, reader in piece.gone.items()
    }
    return Rows(join_entries([piece.entries for piece in pieces]), gone)


def find_ends(rows: Rows) -> list[int]:
    """Return the positions after which a segment ends."""
    return [row + 1 for row, key in enumerate(rows.entries.keys) if key.endswith(BOUNDARY)]


def count_all(counts: Counts) -> int:
    """Return the sum of counts by kind and reason."""
    return sum(sum(reasons.values()) for reasons in counts.values())


def describe_file(path: Path, rows: int) -> dict[str, Any]:
    """Return how a table's file is known again."""
    return {"sha256": hash_file(path), "size": path.stat().st_size, "rows": rows}


def table_path(folder: Path, segment: str, table: str) -> Path:
    """Return where a table of a segment lies."""
    return folder / "segments" / segment / f"{table}.parquet"


def write_segment(folder: Path, rows: Rows, inputs: str, pieces: Sequence[Tables]) -> Segment:
    """Write what was read; nothing is synced yet, see `sync_segment`.

    Parameters
    ----------
    folder : Path
        The catalog's.
    rows : Rows
        The files.
    inputs : str
        What `Rows.hash` says of them.
    pieces : sequence of dict of str to pyarrow.Table
        Their rows of `schema.READ_TABLES`, in any order.
    """
    tables = _disown(_order(pieces), rows.entries)
    beside = folder / "partial" / inputs
    remove_folder(beside)
    beside.mkdir(parents=True)
    files = {}
    for name, table in tables.items():
        if len(table):
            path = beside / f"{name}.parquet"
            written = write_table([table], path, READ_TABLES[name], synced=False)
            files[name] = describe_file(path, written)
    segment = _describe(rows, inputs, tables["files"], files)
    return _settle(folder, beside, segment)


def read_segment(folder: Path, name: str) -> Segment | None:
    """Return a segment, or None where there is none whose description can be trusted."""
    try:
        content = read_json(folder / "segments" / name / _NAME)
        checksum = content.pop("checksum")
        if checksum != hash_json(content) or content.pop("format") != _FORMAT:
            return None
        return Segment(**content)
    except (WorkspaceError, OSError, TypeError, AttributeError, KeyError):
        return None


def find_segments(folder: Path, inputs: str) -> list[Segment]:
    """Return the segments of these inputs whose files are as they were written."""
    names = [inputs, *sorted(path.name for path in (folder / "segments").glob(f"{inputs}-*"))]
    found = [read_segment(folder, name) for name in names]
    return [one for one in found if one and one.inputs == inputs and is_sound(folder, one)]


def is_sound(folder: Path, segment: Segment) -> bool:
    """Tell whether the files of a segment are as they were written."""
    return all(
        is_same_file(table_path(folder, segment.name, name), about)
        for name, about in segment.tables.items()
    )


def is_same_file(path: Path, about: Mapping[str, Any]) -> bool:
    """Tell whether a file is what `describe_file` said."""
    try:
        return bool(path.stat().st_size == about["size"] and hash_file(path) == about["sha256"])
    except OSError:
        return False


def sync_segment(folder: Path, name: str) -> None:
    """Return when a segment is on the disk."""
    place = folder / "segments" / name
    for path in (*sorted(place.iterdir()), place):
        sync(path)


def read_files(folder: Path, segment: Segment) -> pa.Table:
    """Return what tells whether the files of a segment changed; members are left out."""
    columns = ["file", "container", "path", "size", "mtime_ns", "inode"]
    columns += ["kind", "reason", "reader", "source"]
    files = _read(table_path(folder, segment.name, "files"), columns)
    return files.filter(pc.is_null(files["container"]))


def carry_over(
    folder: Path, rows: Rows, older: Sequence[Segment], reader: str
) -> tuple[list[Tables], npt.NDArray[np.intp]]:
    """Return what older segments say of files that did not change, and the positions of others.

    Parameters
    ----------
    folder : Path
        The catalog's.
    rows : Rows
        The files that are looked for.
    older : sequence of Segment
        Where to look; of two that say something of one file, the last counts.
    reader : str
        What another reader said is taken only of files that are gone.
    """
    missing = np.ones(len(rows), bool)
    carried = []
    for segment in reversed(older):
        files = read_files(folder, segment)
        places = _find_places(rows.entries.paths, files["path"].to_pylist())
        same = _are_same(rows, files, places, reader)
        gone = np.zeros(len(rows), bool)
        gone[[*rows.gone]] = True
        gone &= places >= 0
        for chosen, vanished in ((same & ~gone & missing, False), (gone & missing, True)):
            if chosen.any():
                keys = files["file"].combine_chunks().take(places[chosen])
                tables = _read_tables(folder, segment)
                carried.append(select_files(tables, keys, vanished=vanished))
        missing &= ~(same | gone)
    return carried, np.flatnonzero(missing)


def select_files(tables: Tables, keys: pa.Array, *, vanished: bool) -> Tables:
    """Return the rows of some files of a tree and of the members in them, all marked alike."""
    files = tables["files"]
    inside = pc.or_(pc.is_in(files["file"], keys), pc.is_in(files["container"], keys))
    files = files.filter(inside)
    marks = pa.array(np.full(len(files), vanished))
    files = files.set_column(files.schema.get_field_index("vanished"), "vanished", marks)
    chosen = files["file"].combine_chunks()
    others = {
        name: table.filter(pc.is_in(table["file"], chosen))
        for name, table in tables.items()
        if name != "files"
    }
    return {"files": files, **others}


def _find_places(paths: Sequence[str], older: Sequence[str]) -> npt.NDArray[np.intp]:
    """Return where each path is among the older ones, -1 for nowhere."""
    places = {path: place for place, path in enumerate(older)}
    return np.fromiter((places.get(path, -1) for path in paths), np.intp, len(paths))


def _are_same(
    rows: Rows, files: pa.Table, places: npt.NDArray[np.intp], reader: str
) -> npt.NDArray[np.bool_]:
    """Tell which files are as they were when this reader read them."""
    # Brings pydicom, which whoever only opens a catalog has no use for.
    from medkit.catalog.readers import is_current

    same = places >= 0
    if not len(files):
        return same
    entries = rows.entries
    for name, column in (
        ("size", entries.sizes),
        ("mtime_ns", entries.mtimes),
        ("inode", entries.inodes),
    ):
        same &= files[name].to_numpy()[places] == column
    lasting = pc.and_(
        pc.and_(is_current(files, reader), pc.equal(files["source"], entries.source)),
        pc.invert(pc.is_in(files["reason"], pa.array(_TRANSIENT))),
    ).fill_null(False)
    same &= lasting.to_numpy()[places]
    same[[*entries.findings]] = False  # told by walking, without being read
    return same


def _order(pieces: Sequence[Tables]) -> Tables:
    """Return the rows of some pieces in the order of the paths."""
    tables = {
        name: pa.concat_tables([piece[name] for piece in pieces]) if pieces else one.empty_table()
        for name, one in READ_TABLES.items()
    }
    files = tables["files"]
    paths = files["path"].combine_chunks()
    if not pc.all(pc.less_equal(paths[:-1], paths[1:])).as_py():
        files = files.take(pc.sort_indices(paths))
    return {"files": files, **_order_others(tables, files)}


def _disown(tables: Tables, entries: Entries) -> Tables:
    """Return the tables without a reader for files that walking told all of.

    It tells them anew each time; when it does not, they are to be read.
    """
    if not entries.findings:
        return tables
    files = tables["files"]
    told = pc.is_in(files["file"], pa.array(entries.take(sorted(entries.findings)).keys))
    readers = pc.if_else(told, pa.scalar(None, pa.string()), files["reader"])
    place = files.schema.get_field_index("reader")
    return {**tables, "files": files.set_column(place, "reader", readers)}


def _order_others(tables: Tables, files: pa.Table) -> Tables:
    """Return the other tables in the order of the files; rows of one file keep theirs."""
    keys = files["file"].combine_chunks()
    ordered = {}
    for name, table in tables.items():
        if name != "files":
            ranks = pc.index_in(table["file"], keys).to_numpy()
            rising = bool((np.diff(ranks) >= 0).all())
            ordered[name] = table if rising else table.take(np.argsort(ranks, kind="stable"))
    return ordered


def _describe(
    rows: Rows, inputs: str, files: pa.Table, tables: dict[str, dict[str, Any]]
) -> Segment:
    top, counts, members = pc.is_null(files["container"]), _no_counts(), _no_counts()
    here = pc.invert(files["vanished"])
    told = files.select(["kind", "reason"])
    _count(told.filter(pc.and_(top, here)), counts)
    _count(told.filter(pc.and_(pc.invert(top), here)), members)
    transient = sum(counts["problem"].get(reason, 0) for reason in _TRANSIENT)
    transient -= sum(what.reason in _TRANSIENT for what in rows.entries.findings.values())
    # Such files may read otherwise the next time: what was found is then part of the name.
    ending = f"-{hash_json(tables, 8)}" if transient else ""
    last = len(rows) - 1
    return Segment(
        name=inputs + ending,
        inputs=inputs,
        source=rows.entries.source,
        root=rows.entries.root,
        last=rows.entries.paths[last],
        closed=rows.entries.slice(last, last + 1).keys[0].endswith(BOUNDARY),
        counts=counts,
        members=members,
        vanished=len(rows.gone),
        transient=transient,
        told=len(rows.entries.findings),
        tables=tables,
    )


def _no_counts() -> Counts:
    return {kind: {} for kind in KINDS}


def _count(files: pa.Table, counts: Counts) -> None:
    grouped = files.group_by(["kind", "reason"]).aggregate([([], "count_all")])
    for row in sorted(grouped.to_pylist(), key=lambda row: row["reason"] or ""):
        counts[row["kind"]][row["reason"] or ""] = row["count_all"]


def add_counts(several: Iterable[Counts]) -> Counts:
    """Return the sum of counts by kind and reason, in order."""
    total = _no_counts()
    for counts in several:
        for kind, reasons in counts.items():
            for reason, number in reasons.items():
                total[kind][reason] = total[kind].get(reason, 0) + number
    return {kind: dict(sorted(reasons.items())) for kind, reasons in total.items()}


def _settle(folder: Path, beside: Path, segment: Segment) -> Segment:
    """Move a segment into place; where it stands already, that one stays."""
    other = read_segment(folder, segment.name)
    if other and is_sound(folder, other):
        if other.tables == segment.tables:
            remove_folder(beside)
            return other
        # Another version of medkit read the same files otherwise, and a snapshot may name it.
        ending = f"-{hash_json(segment.tables, 8)}"
        return _settle(folder, beside, Segment(**{**vars(segment), "name": segment.name + ending}))
    content = {**asdict(segment), "format": _FORMAT}
    (beside / _NAME).write_bytes(dump_json({**content, "checksum": hash_json(content)}))
    target = folder / "segments" / segment.name
    target.parent.mkdir(exist_ok=True)
    remove_folder(target)
    beside.replace(target)
    return segment


def _read_tables(folder: Path, segment: Segment) -> Tables:
    return {
        name: _read(table_path(folder, segment.name, name), one.names)
        if name in segment.tables
        else one.empty_table()
        for name, one in READ_TABLES.items()
    }


def _read(path: Path, columns: Sequence[str]) -> pa.Table:
    try:
        return pq.ParquetFile(path).read([*columns])
    except (OSError, pa.ArrowException) as error:
        raise CatalogError(f"{path} is damaged: {error}") from None
