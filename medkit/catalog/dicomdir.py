"""The directory of a medium (DICOMDIR, PS3.3 Annex F): a hint of what its files are, checked.

Nothing is looked for because a directory lists it, and no file is left out because one does not:
walking the tree finds the files. What a directory says of them is compared, and none is opened
that does not lie below the directory's folder (CVE-2026-32711).
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pydicom import dcmread
from pydicom.filereader import read_partial

from medkit.catalog.findings import Problem
from medkit.sources.gate import show_name

if TYPE_CHECKING:
    from pydicom import Dataset

_LONGEST = 2**24  # bytes of a directory: some 30,000 records, which take 20 times that in memory
_COMPARED = 2**13  # files that are opened
_COUNTED = 2**17  # files below the folder
_LISTED = 20  # problems of a kind that are rows

_SOP_INSTANCE = 0x00080018
# On a medium, a name may end with a dot and a version (ISO 9660, 7.5); systems show it or not.
_VERSION = re.compile(r"\.?(;\d+)?$")


@dataclass(frozen=True)
class Reference:
    """A file that a directory lists.

    Attributes
    ----------
    parts : tuple of str
        Of its ReferencedFileID, as it stands there.
    uid : str
        ReferencedSOPInstanceUIDInFile; empty where there is none.
    """

    parts: tuple[str, ...]
    uid: str

    @property
    def escapes(self) -> bool:
        """Whether it is no path below the directory's folder, on one system or another."""
        return any(
            part in ("", ".", "..") or not part.isprintable() or set(part) & set("/\\:")
            for part in self.parts
        )

    @property
    def name(self) -> str:
        """The path for a message."""
        return show_name("/".join(self.parts))


def check_dicomdir(stream: BinaryIO, folder: Path | None) -> tuple[str, list[Problem]]:
    """Compare a directory with the files below its folder.

    Parameters
    ----------
    stream : binary file
        The directory; seekable.
    folder : Path, optional
        Where it lies. Without one, as in an archive, only the paths are checked.

    Returns
    -------
    detail : str
        What it lists, in numbers.
    problems : list of (code, detail)
        ``dicomdir-escape``: a path that leaves the folder, and is not followed.
        ``dicomdir-missing``: a file that is not there. Letter case and the versions of ISO 9660
        make no difference; a link is no file. ``dicomdir-mismatch``: a file with another
        SOPInstanceUID. ``bad-value``: the records cannot be read. Of each code, no more than 20,
        and one that counts the rest.
    """
    if stream.seek(0, os.SEEK_END) > _LONGEST:
        return f"not checked: it is longer than {_LONGEST:,} bytes", []
    stream.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            references = list(_read_references(stream))
    except Exception as error:  # hostile bytes bring pydicom to raise almost anything
        what = f"its records cannot be read: {type(error).__name__}: {error}"
        return "not checked", [("bad-value", what[:300])]
    return _check(references, folder)


def _read_references(stream: BinaryIO) -> Iterator[Reference]:
    """Yield what the records refer to, whatever their type (PS3.3 F.3.2.2)."""
    for record in dcmread(stream, force=True).get("DirectoryRecordSequence") or []:
        name = record.get("ReferencedFileID")
        if not name or record.get("RecordInUseFlag") == 0:
            continue
        values = [name] if isinstance(name, str) else [str(value) for value in name]
        # Some write a path into one value, which is against PS3.10 8.2.
        parts = "/".join(values).rstrip("/").split("/")
        yield Reference(tuple(parts), _read_uid(record, "ReferencedSOPInstanceUIDInFile"))


def _check(references: Sequence[Reference], folder: Path | None) -> tuple[str, list[Problem]]:
    inside = [reference for reference in references if not reference.escapes]
    escaping = [reference.name for reference in references if reference.escapes]
    detail = f"files listed: {len(references):,}"
    problems = _list_problems("dicomdir-escape", "leaves the folder", escaping)
    if folder is None:
        return detail, problems
    medium = _Medium(folder)
    found = [(reference, medium.find(reference.parts)) for reference in inside]
    missing = [reference.name for reference, path in found if path is None]
    problems += _list_problems("dicomdir-missing", "is not there", missing)
    there = [(reference, path) for reference, path in found if path is not None]
    problems += _list_problems("dicomdir-mismatch", "has another UID", _find_mismatches(there))
    if len(there) > _COMPARED:
        detail += f", the first {_COMPARED:,} compared"
    listed = {path for _, path in there}
    return f"{detail}; others below it: {_count_others(folder, listed)}", problems


def _list_problems(code: str, what: str, names: Sequence[str]) -> list[Problem]:
    listed = [(code, f"{name} {what}") for name in names[:_LISTED]]
    rest = len(names) - len(listed)
    return [*listed, (code, f"{what}: {rest:,} more")] if rest else listed


def _find_mismatches(there: Sequence[tuple[Reference, Path]]) -> list[str]:
    return [
        reference.name
        for reference, path in there[:_COMPARED]
        if reference.uid and _read_own_uid(path) not in ("", reference.uid)
    ]


def _read_own_uid(path: Path) -> str:
    """Return the SOPInstanceUID of a file; empty if it has none, or cannot be read."""
    try:
        with warnings.catch_warnings(), path.open("rb") as stream:
            warnings.simplefilter("ignore")
            header = read_partial(stream, stop_when=_is_past_uid)
            return _read_uid(header, "SOPInstanceUID")
    except Exception:  # of pydicom, almost any; the scan says of the file itself what is wrong
        return ""


def _is_past_uid(tag: int, vr: str | None, length: int) -> bool:
    return tag > _SOP_INSTANCE


def _read_uid(data: Dataset, keyword: str) -> str:
    return str(data.get(keyword) or "").strip(" \0")


class _Medium:
    """The files below a folder, by names as a medium has them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listings: dict[Path, dict[str, os.DirEntry[str]]] = {}

    def find(self, parts: Sequence[str]) -> Path | None:
        """Return the path of a plain file; links are not followed on the way."""
        place = self._folder
        for depth, part in enumerate(parts, start=1):
            entry = self._list(place).get(_fold(part))
            last = depth == len(parts)
            if entry is None or not _is_kind(entry, folder=not last):
                return None
            place = Path(entry.path)
        return place

    def _list(self, folder: Path) -> dict[str, os.DirEntry[str]]:
        if folder not in self._listings:
            entries = sorted(_scan(folder), key=lambda entry: entry.name, reverse=True)
            self._listings[folder] = {_fold(entry.name): entry for entry in entries}
        return self._listings[folder]


def _count_others(folder: Path, listed: set[Path]) -> str:
    """Return how many files lie below a folder that are not listed, its directory aside."""
    count = sum(1 for _ in islice(_iterate_files(folder), _COUNTED))
    if count == _COUNTED:
        return f"{_COUNTED - len(listed):,} or more"
    return f"{max(count - len(listed) - 1, 0):,}"


def _iterate_files(folder: Path) -> Iterator[os.DirEntry[str]]:
    waiting = [folder]
    while waiting:
        for entry in _scan(waiting.pop()):
            if _is_kind(entry, folder=True):
                waiting.append(Path(entry.path))
            elif _is_kind(entry, folder=False):
                yield entry


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as listing:
            return list(listing)
    except OSError:
        return []


def _is_kind(entry: os.DirEntry[str], *, folder: bool) -> bool:
    try:
        look = entry.is_dir if folder else entry.is_file
        return look(follow_symlinks=False)
    except OSError:
        return False


def _fold(name: str) -> str:
    return _VERSION.sub("", name).casefold()
