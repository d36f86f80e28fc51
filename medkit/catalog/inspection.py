"""Looking into files: each becomes rows of the tables, whatever it is.

There are two roads. The quick one reads plain DICOM files and names what is no image; it runs in
threads. The slow one reads everything, file by file; it runs in processes that may die. Both say
the same of a file that both can read. What comes back are tables, small enough to be sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from medkit.catalog import triage
from medkit.catalog.dicomdir import check_dicomdir
from medkit.catalog.entries import Entries, make_key
from medkit.catalog.findings import Finding, UnreadableFileError, ignore
from medkit.catalog.headers import READER_VERSION, read_header
from medkit.catalog.identity import fill_uids
from medkit.catalog.pictures import read_picture
from medkit.catalog.readers import DICOM_KINDS, add_readers, inspect_plugged, name_own
from medkit.catalog.schema import READ_TABLES, RESOLVED
from medkit.errors import SourceError
from medkit.sources.streams import File
from medkit.sources.trees import is_remote, locate_file, open_file
from medkit.sources.unpacking import iterate_members

_ORDINARY = {"encapsulated": False, "has_modality_lut": False, "one_frame": False}

Tables = dict[str, pa.Table]
Rows = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class _Member:
    """A file in an archive."""

    name: str
    size: int
    finding: Finding


def name_reader(keep_identifiers: bool, readers: Sequence[str] = ()) -> str:
    """Return what rows must say of their reader to be taken over by a later scan."""
    own = f"{READER_VERSION} with identifiers" if keep_identifiers else READER_VERSION
    return add_readers(own, readers)


def inspect_quickly(
    entries: Entries, keep_identifiers: bool = False, readers: Sequence[str] = ()
) -> tuple[Tables, list[int]]:
    """Return the rows of those files that are plain, and the positions of those left over.

    With readers of plugins, whatever is not DICOM is left to them: their code runs in processes.
    """
    from medkit.catalog.heads import read_plain  # compiled code, which the slow road does without

    findings = {row: _tell_unread(entries, row) for row in _find_unread(entries)}
    rows = np.setdiff1d(np.arange(len(entries)), [*findings])
    pieces, told, left = read_plain(entries, rows, keep_identifiers)
    if readers:
        told, left = {}, sorted([*left, *told])
    reader = name_reader(keep_identifiers)
    plain = [_tabulate_files(entries, piece["files"], reader) for piece in pieces]
    others = inspect_findings(entries, findings | told, keep_identifiers, readers)
    tables = {"files": pa.concat_tables([*plain, others["files"]])}
    for name in ("instances", "frames"):
        tables[name] = pa.concat_tables([*(piece[name] for piece in pieces), others[name]])
    return {**tables, "problems": others["problems"]}, left


def inspect_slowly(
    entries: Entries, keep_identifiers: bool = False, readers: Sequence[str] = ()
) -> Tables:
    """Return the rows of some files, whatever they are."""
    rows = _make_rows()
    for row in range(len(entries)):
        finding, members = _open_and_look(entries, row, keep_identifiers, readers)
        _add(rows, entries, row, finding)
        for member in members:
            _add(rows, entries, row, member.finding, member)
    return _to_tables(rows, name_reader(keep_identifiers, readers))


def inspect_findings(
    entries: Entries,
    findings: dict[int, Finding],
    keep_identifiers: bool = False,
    readers: Sequence[str] = (),
) -> Tables:
    """Return the rows of files of which all is known, by their positions."""
    rows = _make_rows()
    for row, finding in sorted(findings.items()):
        _add(rows, entries, row, finding)
    return _to_tables(rows, name_reader(keep_identifiers, readers))


def report_death(entries: Entries, detail: str, code: str = "reader-died") -> Tables:
    """Return the rows of files whose reader was ended."""
    rows = _make_rows()
    for row in range(len(entries)):
        _add(rows, entries, row, UnreadableFileError(code, detail).to_finding())
    return _to_tables(rows, None)


def _find_unread(entries: Entries) -> list[int]:
    """Return the files that are not to be opened."""
    unfinished = []
    if f"{triage.UNFINISHED}\0" in "\0".join([*entries.paths, ""]):  # to ask each takes longer
        unfinished = [row for row, path in enumerate(entries.paths) if triage.is_unfinished(path)]
    return sorted({*entries.findings, *np.flatnonzero(entries.sizes == 0).tolist(), *unfinished})


def _tell_unread(entries: Entries, row: int) -> Finding:
    known = entries.findings.get(row)
    return known or ignore("empty" if entries.sizes[row] == 0 else "unfinished")


def _tabulate_files(entries: Entries, found: pa.Table, reader: str) -> pa.Table:
    """Return the table ``files`` of plain files."""
    rows = found["entry"].to_numpy()
    listed = rows.tolist()
    count = len(rows)
    columns = {
        "file": pa.array([entries.keys[row] for row in listed], pa.string()),
        "source": pa.repeat(pa.scalar(entries.source), count),
        "root": pa.repeat(pa.scalar(entries.root), count),
        "path": pa.array([entries.paths[row] for row in listed], pa.string()),
        "size": pa.array(entries.sizes[rows]),
        "mtime_ns": pa.array(entries.mtimes[rows]),
        "inode": pa.array(entries.inodes[rows]),
        "vanished": pa.repeat(pa.scalar(False), count),
        "reader": pa.repeat(pa.scalar(reader), count),
        **{name: found[name].combine_chunks() for name in ("kind", "reason", "detail")},
    }
    schema = READ_TABLES["files"]
    arrays = [columns.get(one.name, pa.nulls(count, one.type)) for one in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _make_rows() -> Rows:
    return {name: [] for name in READ_TABLES}


def _to_tables(rows: Rows, reader: str | None) -> Tables:
    own = reader and name_own(reader)
    for row in rows["files"]:
        # Readers of plugins are asked of nothing that is DICOM, but of what an archive holds.
        row["reader"] = own if row["kind"] in DICOM_KINDS else reader
    return {
        name: pa.Table.from_pylist(rows[name], schema=schema) if rows[name] else _make_empty(name)
        for name, schema in READ_TABLES.items()
    }


@cache
def _make_empty(name: str) -> pa.Table:
    # To make it takes as long as to read some hundred files.
    return READ_TABLES[name].empty_table()


def _open_and_look(
    entries: Entries, row: int, keep_identifiers: bool, readers: Sequence[str]
) -> tuple[Finding, list[_Member]]:
    if row in entries.findings:
        return entries.findings[row], []
    path = entries.paths[row]
    try:
        place = None if is_remote(entries.root) else Path(entries.root, path)
        with open_file(entries.root, path, int(entries.sizes[row])) as stream:
            plugged = inspect_plugged(stream, int(entries.sizes[row]), readers)
            if plugged is not None:
                return plugged[0], [_Member(*member) for member in plugged[1]]
            finding = _look(stream, int(entries.sizes[row]), path, keep_identifiers, place)
            if finding.reason == "dicomdir":
                finding = _check_directory(finding, stream, place and place.parent)
        if finding.kind != "archive":
            return finding, []
        # All of them or none: half an archive would be a problem and an archive at once.
        archive = locate_file(entries.root, path)
        return finding, list(_look_into_archive(archive, keep_identifiers, readers))
    except UnreadableFileError as error:
        return error.to_finding(), []
    except OSError as error:
        return UnreadableFileError("unreadable", str(error.strerror)).to_finding(), []
    except SourceError as error:
        return UnreadableFileError("archive-refused", str(error)).to_finding(), []


def _check_directory(finding: Finding, stream: BinaryIO, folder: Path | None) -> Finding:
    detail, problems = check_dicomdir(stream, folder)
    return replace(finding, detail=detail, problems=[*finding.problems, *problems])


def _look_into_archive(
    path: File, keep_identifiers: bool, readers: Sequence[str]
) -> Iterator[_Member]:
    for member in iterate_members(path):
        with member.open() as stream:
            try:
                plugged = inspect_plugged(stream, member.size, readers)
                finding = plugged and plugged[0]
                if finding is None:
                    finding = _look(stream, member.size, member.name, keep_identifiers)
            except UnreadableFileError as error:
                finding = error.to_finding()
        if finding.kind == "archive":
            finding = Finding("archive", "nested-archive", "an archive in one is not entered")
        yield _Member(member.name, member.size, finding)


def _look(
    stream: BinaryIO, size: int, name: str, keep_identifiers: bool, path: Path | None = None
) -> Finding:
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
    return read_picture(stream, form, path) if form else ignore(triage.explain(name))


def _add(
    rows: Rows, entries: Entries, row: int, finding: Finding, member: _Member | None = None
) -> None:
    path = entries.paths[row]
    container = entries.keys[row] if member else None
    if member:
        path = f"{path}!{member.name}"
    key = make_key(entries.root, path)
    rows["files"].append(
        {
            "file": key,
            "source": entries.source,
            "root": entries.root,
            "path": path,
            "container": container,
            "size": member.size if member else int(entries.sizes[row]),
            "mtime_ns": int(entries.mtimes[row]),
            "inode": int(entries.inodes[row]),
            "kind": finding.kind,
            "reason": finding.reason,
            "detail": finding.detail,
            "vanished": False,
        }
    )
    if finding.values is not None:
        instance = {**_ORDINARY, **finding.values}
        instance["synthetic_uid"] = fill_uids(instance, finding, entries.source, path)
        instance |= {"file": key, "source": entries.source}
        frames = [{"file": key, **frame} for frame in finding.frames]
        if _says_all(instance, frames):
            (frame,), frames = frames, []
            instance["ImagePositionPatient"] = frame.get("ImagePositionPatient")
            instance["one_frame"] = True
        rows["instances"].append(instance)
        rows["frames"].extend(frames)
    rows["problems"].extend(_describe_problems(key, finding.problems))


def _says_all(instance: dict[str, Any], frames: list[dict[str, Any]]) -> bool:
    """Tell whether there is one frame, and an instance says what it says."""
    return len(frames) == 1 and all(frames[0].get(name) == instance.get(name) for name in RESOLVED)


def _describe_problems(key: str, problems: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    # Equal lines, such as one for each frame, say no more than one.
    return [{"file": key, "code": code, "detail": detail} for code, detail in sorted(set(problems))]
