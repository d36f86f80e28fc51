"""From segments and the journal to a snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from medkit import __version__
from medkit.catalog.database import Database
from medkit.catalog.grouping import derive
from medkit.catalog.journal import JOURNAL, read_journal
from medkit.catalog.schema import DERIVED_TABLES, READ_TABLES
from medkit.catalog.segments import Segment, describe_file, read_segment, table_path
from medkit.catalog.store import MANIFEST, Manifest, list_snapshots, read_current
from medkit.errors import CatalogError
from medkit.workspace import hash_file, hash_json, remove_folder, sync, write_beside

_DERIVATION = 1  # what is derived changes with it, though its inputs are the same

# Hashes of pixels that the last snapshot has; they hold as long as the file is the same.
_HASHED = """
CREATE VIEW hashed AS
SELECT file, size, mtime_ns, inode, pixels_sha256
FROM old_marks JOIN old_files USING (file)
WHERE pixels_sha256 IS NOT NULL
"""


@dataclass(frozen=True)
class Built:
    """A snapshot that stands.

    Attributes
    ----------
    snapshot : str
        Its name.
    warnings : list of str
        What the user should know.
    """

    snapshot: str
    warnings: list[str]


def make_snapshot(
    folder: Path,
    segments: Sequence[str],
    *,
    engine: str = "local",
    workers: int | None = None,
    rebuild: bool = False,
) -> Built:
    """Derive what follows from all files and the journal, and make that the current snapshot.

    Nothing is derived where the current snapshot was made from the same.

    Parameters
    ----------
    folder : Path
        The catalog's.
    segments : sequence of str
        The names of segments that stand, in the order of their rows.
    engine, workers
        For hashing pixels where SOPInstanceUIDs collide.
    rebuild : bool
        Derive in any case, without what earlier snapshots know.

    Raises
    ------
    CatalogError
        If a segment is damaged.
    """
    standing = [_read(folder, name) for name in segments]
    made_from = _hash_inputs(folder, standing)
    current = None if rebuild else find_sound(folder)
    if current is not None and current.made_from == made_from:
        _remove_stale(folder, list_snapshots(folder))
        return Built(current.name, current.warnings)
    beside = folder / "partial" / "snapshot"
    remove_folder(beside)
    beside.mkdir(parents=True)
    # DuckDB has a memory of its own, which is to take the place of what reading files took.
    pa.default_memory_pool().release_unused()
    warnings: list[str] = []
    for memory in _choose_memory(standing):
        with suppress(MemoryError), _open_database(folder, standing, current, memory) as database:
            warnings = derive(
                database, read_journal(folder), beside, engine=engine, workers=workers
            )
            break
    else:
        raise CatalogError("there is not enough memory to group so many files")
    paths = {name: beside / f"{name}.parquet" for name in DERIVED_TABLES}
    tables = {
        name: describe_file(path, pq.read_metadata(path).num_rows) for name, path in paths.items()
    }
    listed = [{"name": one.name, "tables": one.tables} for one in standing]
    manifest = Manifest(listed, tables, made_from, warnings)
    _publish(folder, beside, manifest)
    remove_folder(folder / "partial")
    return Built(manifest.name, warnings)


def find_sound(folder: Path) -> Manifest | None:
    """Return the current snapshot's manifest, or None where there is none that is sound."""
    snapshot = read_current(folder)
    try:
        manifest = Manifest.read(folder, snapshot or "")
        manifest.check(folder)
    except CatalogError:
        return None
    return manifest


def _read(folder: Path, name: str) -> Segment:
    segment = read_segment(folder, name)
    if segment is None:
        raise CatalogError(f"{folder / 'segments' / name} is damaged; run 'medkit catalog' again")
    return segment


def _hash_inputs(folder: Path, segments: Sequence[Segment]) -> str:
    journal = hash_file(folder / JOURNAL) if (folder / JOURNAL).exists() else ""
    read = [[segment.name, segment.tables] for segment in segments]
    return hash_json([_DERIVATION, __version__, journal, read])


def _choose_memory(segments: Sequence[Segment]) -> list[str | None]:
    """Return how much DuckDB may use at first, and then: it cannot spill all that it needs."""
    tables = [one.tables.get(name) for one in segments for name in ("instances", "frames")]
    rows = sum(table["rows"] for table in tables if table)
    megabytes = 64 + rows // 20_000  # measured with up to a million, and half again
    return [f"{megabytes}MB", f"{4 * megabytes}MB", None]


def _open_database(
    folder: Path, segments: Sequence[Segment], before: Manifest | None, memory: str | None
) -> Database:
    tables = {
        name: [table_path(folder, one.name, name) for one in segments if name in one.tables]
        for name in READ_TABLES
    }
    tables["old_files"] = before.paths(folder, "files") if before else []
    tables["old_marks"] = before.paths(folder, "marks") if before else []
    # More threads were no faster, for what they find is taken by one; each has buffers of its own.
    spill = folder / "partial" / "spill"
    database = Database.open(tables, spill=spill, memory=memory, threads=1)
    database.execute(_HASHED)
    return database


def _publish(folder: Path, beside: Path, manifest: Manifest) -> None:
    """Move a snapshot into place, and make it the current one."""
    content = manifest.dump()
    target = folder / "snapshots" / manifest.name
    before = read_current(folder)
    if _is_sound(folder, manifest.name):  # made from something else, and still the same
        with write_beside(target / MANIFEST) as path:
            path.write_bytes(content)
    else:
        (beside / MANIFEST).write_bytes(content)
        sync(beside / MANIFEST)
        sync(beside)
        remove_folder(target)
        target.parent.mkdir(exist_ok=True)
        beside.replace(target)
        sync(target.parent)
    if before != manifest.name:
        with write_beside(folder / "CURRENT") as path:
            path.write_text(f"{manifest.name}\n")
        _remove_stale(folder, [manifest.name, before or ""])


def _is_sound(folder: Path, snapshot: str) -> bool:
    try:
        Manifest.read(folder, snapshot).check(folder)
    except CatalogError:
        return False
    return True


def _remove_stale(folder: Path, kept: Sequence[str]) -> None:
    """Remove all snapshots but some, and the segments that these do not name."""
    for snapshot in list_snapshots(folder):
        if snapshot not in kept:
            remove_folder(folder / "snapshots" / snapshot)
    named: set[str] = set()
    for snapshot in kept:
        with suppress(CatalogError):  # a damaged one names nothing
            named.update(one["name"] for one in Manifest.read(folder, snapshot).segments)
    place = folder / "segments"
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        if path.name not in named:
            remove_folder(path)
