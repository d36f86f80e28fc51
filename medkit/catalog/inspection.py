"""Looking into files: each becomes rows of the tables, whatever it is.

This runs in the workers of a scan. What comes back are tables, small enough to be sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from medkit.catalog import schema, triage
from medkit.catalog.findings import Finding, UnreadableFileError, ignore
from medkit.catalog.headers import READER_VERSION, read_header
from medkit.catalog.identity import fill_uids
from medkit.catalog.pictures import read_picture
from medkit.errors import SourceError
from medkit.sources.unpacking import iterate_members

Tables = dict[str, pa.Table]
Rows = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Entry:
    """A file of a tree, as walking it found it.

    Attributes
    ----------
    source, root, path : str
        As in the table ``files``.
    size, mtime_ns, inode : int
        Of the file; of a thing that is no file, 0.
    finding : Finding, optional
        What walking already knows; such a file is not opened.
    """

    source: str
    root: str
    path: str
    size: int = 0
    mtime_ns: int = 0
    inode: int = 0
    finding: Finding | None = None

    @property
    def key(self) -> str:
        """The file's key in the tables."""
        return make_key(self.root, self.path)


@dataclass(frozen=True)
class _Member:
    """A file in an archive."""

    name: str
    size: int
    finding: Finding


def name_reader(keep_identifiers: bool) -> str:
    """Return what rows must say of their reader to be taken over by a later scan."""
    return f"{READER_VERSION} with identifiers" if keep_identifiers else READER_VERSION


def make_key(root: str, path: str) -> str:
    """Return the key of a file: 16 hexadecimal digits."""
    return hashlib.sha256(f"{root}\0{path}".encode()).hexdigest()[:16]


def inspect_batch(entries: Sequence[Entry], keep_identifiers: bool = False) -> Tables:
    """Return the rows of `schema.READ_TABLES` for some files, and for the members of archives."""
    rows: Rows = {name: [] for name in schema.READ_TABLES}
    for entry in entries:
        finding, members = _open_and_look(entry, keep_identifiers)
        _add(rows, entry, finding)
        for member in members:
            _add(rows, entry, member.finding, member)
    return _to_tables(rows, name_reader(keep_identifiers))


def report_death(entry: Entry, detail: str) -> Tables:
    """Return the rows of a file whose reader was ended by the system."""
    rows: Rows = {name: [] for name in schema.READ_TABLES}
    _add(rows, entry, UnreadableFileError("reader-died", detail).to_finding())
    return _to_tables(rows, None)


def _to_tables(rows: Rows, reader: str | None) -> Tables:
    for row in rows["files"]:
        row["reader"] = reader
    return {
        name: pa.Table.from_pylist(rows[name], schema=schema.TABLES[name][0])
        for name in schema.READ_TABLES
    }


def _open_and_look(entry: Entry, keep_identifiers: bool) -> tuple[Finding, list[_Member]]:
    if entry.finding is not None:
        return entry.finding, []
    path = Path(entry.root, entry.path)
    try:
        with path.open("rb") as stream:
            finding = _look(stream, entry.size, entry.path, keep_identifiers)
        archive = finding.kind == "archive"
        # All of them or none: half an archive would be a problem and an archive at once.
        return finding, list(_look_into_archive(path, keep_identifiers)) if archive else []
    except UnreadableFileError as error:
        return error.to_finding(), []
    except OSError as error:
        return UnreadableFileError("unreadable", str(error.strerror)).to_finding(), []
    except SourceError as error:
        return UnreadableFileError("archive-refused", str(error)).to_finding(), []


def _look_into_archive(path: Path, keep_identifiers: bool) -> Iterator[_Member]:
    for member in iterate_members(path):
        with member.open() as stream:
            try:
                finding = _look(stream, member.size, member.name, keep_identifiers)
            except UnreadableFileError as error:
                finding = error.to_finding()
        if finding.kind == "archive":
            finding = Finding("archive", "nested-archive", "an archive in one is not entered")
        yield _Member(member.name, member.size, finding)


def _look(stream: BinaryIO, size: int, name: str, keep_identifiers: bool) -> Finding:
    if size == 0:
        return ignore("empty")
    if triage.is_unfinished(name):
        return ignore("unfinished")
    head = stream.read(triage.HEAD)
    form = triage.recognise(head, size)
    if form in ("dicom", "bare-dicom"):
        start = 132 if form == "dicom" else 0
        return read_header(stream, size, start=start, keep_identifiers=keep_identifiers)
    if form in ("zip", "tar"):
        return Finding("archive")
    if form == "unsupported-archive":
        return ignore(form)
    return read_picture(stream, form) if form else ignore(triage.explain(name))


def _add(rows: Rows, entry: Entry, finding: Finding, member: _Member | None = None) -> None:
    path = f"{entry.path}!{member.name}" if member else entry.path
    key = make_key(entry.root, path)
    rows["files"].append(
        {
            "file": key,
            "source": entry.source,
            "root": entry.root,
            "path": path,
            "container": entry.key if member else None,
            "size": member.size if member else entry.size,
            "mtime_ns": entry.mtime_ns,
            "inode": entry.inode,
            "kind": finding.kind,
            "reason": finding.reason,
            "detail": finding.detail,
            "vanished": False,
        }
    )
    if finding.values is not None:
        instance = {"encapsulated": False, "has_modality_lut": False, **finding.values}
        instance["synthetic_uid"] = fill_uids(instance, finding, entry.source, path)
        rows["instances"].append({"file": key, "source": entry.source, **instance})
    rows["frames"].extend({"file": key, **frame} for frame in finding.frames)
    rows["problems"].extend(_describe_problems(key, finding.problems))


def _describe_problems(key: str, problems: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    # Equal lines, such as one for each frame, say no more than one.
    return [{"file": key, "code": code, "detail": detail} for code, detail in sorted(set(problems))]
