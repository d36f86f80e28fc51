"""Batches of files that were read: what a scan that was killed finds again.

A part is one file: the Arrow streams of `schema.READ_TABLES`, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from medkit.catalog import schema
from medkit.catalog.inspection import Entry, Tables
from medkit.workspace import hash_json, write_beside

# What may go otherwise the next time, though the file is the same.
_TRANSIENT = {"unreadable", "reader-died"}


def write_part(folder: Path, tables: Tables) -> None:
    """Keep the rows of one batch."""
    name = hash_json(tables["files"]["file"].to_pylist())
    with write_beside(folder / f"{name}.arrow") as beside, beside.open("wb") as sink:
        for table in schema.READ_TABLES:
            with pa.ipc.new_stream(sink, tables[table].schema) as writer:
                writer.write_table(tables[table])


def read_parts(folder: Path) -> Iterator[Tables]:
    """Yield what was kept, a batch at a time; a part that is damaged was not kept."""
    for path in sorted(folder.glob("*.arrow")):
        try:
            with path.open("rb") as source:
                yield {name: pa.ipc.open_stream(source).read_all() for name in schema.READ_TABLES}
        except pa.ArrowInvalid:
            continue


def take_unchanged(tables: Tables, missing: dict[str, Entry], reader: str) -> Tables:
    """Take the files that did not change, and the members of archives, out of older tables.

    Parameters
    ----------
    tables : dict of str to pyarrow.Table
        Of an earlier scan, or of a part.
    missing : dict of str to Entry
        What is looked for, by file key; what is found is removed from it.
    reader : str
        Rows that another reader made are not taken.
    """
    files = tables["files"].filter(pc.equal(tables["files"]["reader"], reader))
    names = ("file", "container", "reason", "source", "size", "mtime_ns", "inode")
    found = set()
    for key, container, reason, *state in zip(
        *(files[name].to_pylist() for name in names), strict=True
    ):
        entry = missing.get(key)
        if entry is None or container is not None or reason in _TRANSIENT:
            continue
        if state == [entry.source, entry.size, entry.mtime_ns, entry.inode]:
            found.add(key)
            del missing[key]
    return select_files(tables, found, vanished=False)


def select_files(tables: Tables, keys: Iterable[str], *, vanished: bool) -> Tables:
    """Return the rows of some files of a tree and of the members in them, all marked alike."""
    files = tables["files"]
    wanted = pa.array(sorted(keys), pa.string())
    inside = pc.or_(pc.is_in(files["file"], wanted), pc.is_in(files["container"], wanted))
    files = files.filter(inside)
    marks = pa.array([vanished] * len(files), pa.bool_())
    files = files.set_column(files.schema.get_field_index("vanished"), "vanished", marks)
    others = {
        name: table.filter(pc.is_in(table["file"], files["file"].combine_chunks()))
        for name, table in tables.items()
        if name != "files"
    }
    return {"files": files, **others}
