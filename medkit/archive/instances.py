"""Instances of a tree or an archive, to be sent one by one: found, described, and handed out."""

from __future__ import annotations

import filecmp
import mmap
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from medkit.archive.anatomy import dissect
from medkit.archive.archive import Archive, Shelf
from medkit.archive.index import FILE, Row
from medkit.archive.plan import Found, to_path, walk
from medkit.catalog.headers import read_header
from medkit.errors import MedkitError, SourceError
from medkit.sources.matching import Series, is_uid

_NAMELESS = "odd-header"  # of a header that was not read to its end nobody knows whom it names


@dataclass(frozen=True)
class Instance:
    """A DICOM object of a source.

    Attributes
    ----------
    path, uid : str
        Where it is in the source, and its SOPInstanceUID.
    series : Series
        That it is of.
    size : int
        Bytes of its file.
    stamp : str
        Another one where its content may be another one.
    """

    path: str
    uid: str
    series: Series
    size: int
    stamp: str


@dataclass
class Stock:
    """What a source has.

    Attributes
    ----------
    instances : list of Instance
        Of each UID the first.
    left_out : Counter
        How many files are not sent, by reason.
    identified, burned_in : int
        Instances with direct identifiers, and images that may have text in their pixels.
    unsent : list of (str, str)
        Path of each DICOM file that cannot be sent, and why.
    open : callable
        Returns the path of a file with an instance; takes a folder where one may be written.
    same : callable
        Says whether two files, by their paths in the source, have equal bytes.
    """

    open: Callable[[Instance, Path], Path]
    same: Callable[[str, str], bool]
    instances: list[Instance] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    unsent: list[tuple[str, str]] = field(default_factory=list)
    identified: int = 0
    burned_in: int = 0
    _paths: dict[str, str] = field(default_factory=dict)

    def add(self, row: Row, stamp: str) -> None:
        """Take a file of which a row of an index tells."""
        path = row["path"]
        uids = [str(row.get(name) or "") for name in _UIDS]
        if row["reason"] == "not-dicom":
            self.left_out["not-dicom"] += 1
            return
        if not all(map(is_uid, uids)):
            self.unsent.append((path, "it lacks the UID of a study, a series or an instance"))
            return
        if first := self._paths.get(uids[0]):
            if self.same(first, path):
                self.left_out["twin"] += 1
            else:
                self.unsent.append((path, f"another file has its SOPInstanceUID: {first}"))
            return
        self._paths[uids[0]] = path
        series = Series(uids[1], uids[2], str(row.get("Modality") or ""))
        self.instances.append(Instance(path, uids[0], series, row["size"], stamp))
        self.identified += is_identified(row)
        self.burned_in += is_burned_in(row)


_UIDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


def is_identified(row: Row) -> bool:
    """Say whether an object names a person or a case, or may do."""
    return bool(row["identified"]) or row["reason"] == _NAMELESS


def is_burned_in(row: Row) -> bool:
    """Say whether an image may have text in its pixels."""
    return row["burned_in"] is not None and row["burned_in"] != "NO"


def list_tree(tree: Path, only: Collection[str] | None = None) -> Stock:
    """Return what a tree has; headers are read, and nothing else.

    Parameters
    ----------
    tree : Path
        A folder, which is only read.
    only : collection of str, optional
        As of `plan.walk`.

    Raises
    ------
    UsageError
        As of `plan.walk`.
    """
    places: dict[str, Path] = {}
    stock = Stock(
        open=lambda instance, folder: places[instance.path],
        same=lambda one, other: filecmp.cmp(places[one], places[other], shallow=False),
    )
    for one in walk(tree, only):
        if one.kind == FILE:
            places[one.name] = to_path(tree, one.path)
            stock.add(describe(tree, one), f"{one.size}-{one.mtime_ns}")
        elif one.reason:
            stock.left_out[one.reason] += 1
    return stock


def describe(tree: Path, one: Found) -> Row:
    """Return what an index would say of a file, as far as its header tells."""
    row: Row = {"path": one.name, "size": one.size, "reason": "not-dicom"}
    row |= {"identified": False, "burned_in": None}
    if one.size < 132:
        return row
    with to_path(tree, one.path).open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            return row
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            anatomy = dissect(data)
        if not anatomy.identity.keys() >= {*_UIDS}:  # a deflated data set, or an odd one
            anatomy.reason, anatomy.identity = _NAMELESS, _read_identity(stream, one.size)
    told = {"identified": anatomy.identified, "burned_in": anatomy.burned_in}
    return row | anatomy.identity | told | {"reason": anatomy.reason}


def _read_identity(stream: BinaryIO, size: int) -> dict[str, str]:
    """Return the UIDs of an object that is not laid out plainly, as far as it has some."""
    try:
        values = read_header(stream, size).values or {}
    except MedkitError:
        return {}
    return {name: str(values.get(name) or "") for name in (*_UIDS, "Modality")}


def list_archive(archive: Archive, where: str | None = None, *, packed: bool = False) -> Stock:
    """Return what an archive has.

    Parameters
    ----------
    archive : Archive
        Whose files are restored as they are handed out.
    where : str, optional
        As of `Archive.select`.
    packed : bool
        Hand out recompressed files as they are in the archive.

    Raises
    ------
    UsageError
        As of `Archive.select`.
    """
    rows = [row for row in archive.select(where).to_pylist() if row["kind"] == FILE]
    known = {row["path"]: row for row in rows}
    shelf, lock = Shelf(archive), threading.Lock()

    def restore(instance: Instance, folder: Path) -> Path:
        row = known[instance.path]
        path = folder / f"{instance.uid}.dcm"
        as_packed = packed and row["outside"] is not None
        with lock, path.open("wb") as sink:
            for piece in _check(shelf, row, as_packed):
                sink.write(piece)
        return path

    stock = Stock(
        open=restore,
        same=lambda one, other: known[one]["sha256"] == known[other]["sha256"],
    )
    for row in rows:
        as_packed = packed and row["outside"] is not None
        stock.add(row, row["packed_sha256" if as_packed else "sha256"])
    return stock


def _check(shelf: Shelf, row: Row, as_packed: bool) -> Iterator[memoryview]:
    """Yield the pieces of a file, and raise if it is not what it was."""
    import hashlib

    if as_packed:
        yield shelf.read(row)
        return
    digest = hashlib.sha256()
    for piece in shelf.restore(row):
        digest.update(piece)
        yield piece
    if digest.hexdigest() != row["sha256"]:
        raise SourceError(f"{row['path']!r} is not restored to what it was")
