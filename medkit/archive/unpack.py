"""Unpack an archive: the tree as it was, byte for byte, or the packed files as they are."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import pyarrow as pa

from medkit.archive.archive import INDEX, Archive, Shelf
from medkit.archive.index import FILE, FOLDER, LEFT_OUT, Row
from medkit.archive.names import write_names
from medkit.archive.plan import cut_sizes
from medkit.delivery import name_work
from medkit.engine import Died, Progress, map_items, silent
from medkit.errors import SourceError, UsageError
from medkit.sources.gate import DEFAULT_BOUNDS, Bounds, Entry, Gate
from medkit.sources.trees import FarFile
from medkit.workspace import Workspace, hash_file, sync

NAMES = ("original", "portable")
_CONTENT, _PARTS = "content", "parts"
_SHOWN = 3
_PERMISSIONS = 0o777  # no set-user-ID and the like


@dataclass(frozen=True)
class Unpacked:
    """What came of it.

    Attributes
    ----------
    files, size : int
        That are in the target, and their bytes.
    renamed : int
        How many have another name than the original.
    faults : list of (str, str)
        Path of each file that is not, and why.
    left_out : int
        How many files of the tree were not in the archive to begin with.
    """

    files: int
    size: int
    renamed: int
    faults: list[tuple[str, str]]
    left_out: int


@dataclass(frozen=True)
class _Part:
    """Some rows for one process."""

    archive: str
    index: str  # its hash: another archive may take the place of one
    work: str
    where: str | None
    rows: tuple[int, ...]
    packed: bool
    names: str


def unpack(
    folder: Path,
    target: Path,
    *,
    where: str | None = None,
    packed: bool = False,
    names: str | None = None,
    partial: bool = False,
    bounds: Bounds = DEFAULT_BOUNDS,
    engine: str = "local",
    workers: int | None = None,
    progress: Progress = silent,
) -> Unpacked:
    """Write the files of an archive into a new folder, which appears when it is whole.

    Every file is compared with the SHA-256 of the original before it gets its name. After a kill
    the same call goes on where it was.

    Parameters
    ----------
    folder : Path
        The archive.
    target : Path
        A folder that is not there yet.
    where : str, optional
        As of `Archive.select`.
    packed : bool
        Write recompressed files as they are in the archive.
    names : str, optional
        ``"original"``, or ``"portable"`` for names that every system takes; by default what this
        system needs. Where names differ, ``TARGET.names.json`` says from what.
    partial : bool
        Let the folder appear also if some files are damaged.
    bounds : Bounds
        What is refused above.
    engine, workers
        As of `medkit.engine.map_items`.
    progress : callable
        Told of files.

    Raises
    ------
    UsageError
        If the target is there, or the condition fits nothing.
    SourceError
        If the archive is damaged or refused; the message names files.
    DiskFullError
        If there is no room.
    """
    if target.exists():
        raise UsageError(f"{target} exists already; an archive is unpacked into a new folder")
    chosen = names or ("portable" if os.name == "nt" else "original")
    if chosen not in NAMES:
        raise UsageError(f"unknown names {chosen!r}; use {' or '.join(NAMES)}")
    archive = Archive.open(folder.resolve())
    rows = archive.select(where)
    _check_rows(archive, rows, bounds, target)
    work = name_work(target.resolve())
    with Workspace(work).lock():
        faults = _write_all(archive, rows, work, where, packed, chosen, engine, workers, progress)
        if faults and not partial:
            raise SourceError(_describe_faults(archive, faults))
        renamed = _finish(rows, work / _CONTENT, target, chosen)
        (work / _CONTENT).replace(target)
        sync(target.parent)
    shutil.rmtree(work)
    bad = {path for path, _ in faults}
    kinds = rows.select(["path", "kind", "size"]).to_pylist()
    whole = [row["size"] for row in kinds if row["kind"] == FILE and row["path"] not in bad]
    left_out = sum(row["kind"] == LEFT_OUT for row in kinds)
    return Unpacked(len(whole), sum(whole), renamed, faults, left_out)


def _write_all(
    archive: Archive,
    rows: pa.Table,
    work: Path,
    where: str | None,
    packed: bool,
    names: str,
    engine: str,
    workers: int | None,
    progress: Progress,
) -> list[tuple[str, str]]:
    for name in (_CONTENT, _PARTS):
        (work / name).mkdir(parents=True, exist_ok=True)
    kinds, sizes = rows["kind"].to_pylist(), rows["size"].to_pylist()
    files = [number for number, kind in enumerate(kinds) if kind == FILE]
    parts = (
        _Part(
            str(archive.folder),
            archive.contents[INDEX]["sha256"],
            str(work),
            where,
            numbers,
            packed,
            names,
        )
        for numbers in cut_sizes(files, sizes)
    )
    faults: list[tuple[str, str]] = []
    done = 0
    for outcome in map_items(_write_part, parts, engine=engine, workers=workers):
        result = outcome.result
        if isinstance(result, Died):
            paths = rows["path"].take(list(outcome.item.rows)).to_pylist()
            result = [(path, f"its process died: {result.detail}") for path in paths]
        faults += result
        done += len(outcome.item.rows)
        progress(done, len(files), "files")
    return sorted(faults)


def _write_part(part: _Part) -> list[tuple[str, str]]:
    """Write some files, and return those that are damaged."""
    shelf, rows = _open(part.archive, part.index, part.where)
    faults = []
    for number in part.rows:
        row = rows.slice(number, 1).to_pylist()[0]
        try:
            _write_file(shelf, row, Path(part.work), number, part.packed, part.names)
        except SourceError as error:
            faults.append((row["path"], str(error)))
    return faults


@lru_cache(maxsize=1)
def _open(folder: str, index: str, where: str | None) -> tuple[Shelf, pa.Table]:
    archive = Archive.open(Path(folder))
    return Shelf(archive), archive.select(where)


def _write_file(shelf: Shelf, row: Row, work: Path, number: int, packed: bool, names: str) -> None:
    as_packed = packed and row["outside"] is not None
    wanted = row["packed_sha256" if as_packed else "sha256"]
    path = _place(work / _CONTENT, row, names)
    if path.is_file() and hash_file(path) == wanted:  # before a kill
        return
    pieces: Iterator[memoryview] = iter([shelf.read(row)]) if as_packed else shelf.restore(row)
    beside = work / _PARTS / str(number)
    digest = hashlib.sha256()
    with beside.open("wb") as sink:
        for piece in pieces:
            digest.update(piece)
            sink.write(piece)
    if digest.hexdigest() != wanted:
        raise SourceError("it is not restored to what it was")
    with suppress(OSError):  # a file system without permissions
        beside.chmod(row["mode"] & _PERMISSIONS)
    os.utime(beside, ns=(row["mtime_ns"], row["mtime_ns"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside.replace(path)


def _place(content: Path, row: Row, names: str) -> Path:
    path = row["path"]
    if names == "original" and row["original"] is not None:
        path = os.fsdecode(row["original"])
    place = content / path
    # Windows takes paths of over 260 characters only in this form.
    return Path(f"\\\\?\\{place}") if os.name == "nt" else place


def _finish(rows: pa.Table, content: Path, target: Path, names: str) -> int:
    """Make the folders what they were, last, and write down which names are others."""
    folders = [row for row in rows.to_pylist() if row["kind"] == FOLDER]
    for row in folders:
        _place(content, row, names).mkdir(parents=True, exist_ok=True)
    for row in reversed(folders):
        place = _place(content, row, names)
        with suppress(OSError):
            place.chmod(row["mode"] & _PERMISSIONS)
        os.utime(place, ns=(row["mtime_ns"], row["mtime_ns"]))
    if names == "original":
        return 0
    renamed = {
        row["path"]: row["original"]
        for row in rows.select(["path", "original", "kind"]).to_pylist()
        if row["original"] is not None and row["kind"] != LEFT_OUT
    }
    if renamed:
        write_names(target.with_name(f"{target.name}.names.json"), renamed)
    return len(renamed)


def _check_rows(archive: Archive, rows: pa.Table, bounds: Bounds, target: Path) -> None:
    """Let every name and size through the gate, before a byte is written."""
    nearest = next(place for place in target.resolve().parents if place.exists())
    room = shutil.disk_usage(nearest).free
    gate = Gate(FarFile("", archive.folder.name, archive.size, 0), bounds, room)
    originals = set()
    for row in rows.to_pylist():
        if row["kind"] == LEFT_OUT:
            continue
        entry = Entry(row["path"], row["kind"], row["size"], row["packed_size"])
        original = row["original"]
        if gate.admit(entry) != row["path"] or (original is not None and not _is_safe(original)):
            raise SourceError(f"{archive.folder} is refused: {row['path']!r} has an unsafe name")
        originals.add(os.fsencode(row["path"]) if original is None else original)
    if len(originals) != len(rows) - rows["kind"].to_pylist().count(LEFT_OUT):
        raise SourceError(f"{archive.folder} is refused: two of its files have one original name")


def _is_safe(original: bytes) -> bool:
    """Say whether an original name stays in its folder."""
    parts = original.split(b"/")
    return (
        b"\0" not in original
        and not {b"", b".", b".."} & {*parts}
        and (os.name != "nt" or not PurePosixPath(os.fsdecode(original)).is_absolute())
    )


def _describe_faults(archive: Archive, faults: list[tuple[str, str]]) -> str:
    shown = "; ".join(f"{path!r}: {why}" for path, why in faults[:_SHOWN])
    more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return (
        f"{len(faults)} files of {archive.folder} cannot be restored: {shown}{more}; "
        "'medkit verify' names them all, and --partial unpacks the others"
    )
