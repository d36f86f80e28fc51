"""Push an archive to files far away, and pull it back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa

from medkit.archive.archive import FORMAT, INDEX, MANIFEST, SHARDS, Archive
from medkit.archive.index import read_index
from medkit.archive.instances import is_burned_in, is_identified
from medkit.engine import Progress, silent
from medkit.errors import MedkitError, SourceError, UsageError
from medkit.sources.placing import FarFolder
from medkit.sources.trees import is_remote, normalise_root, open_file
from medkit.workspace import dump_json, hash_file, move_into_place, name_full_disk, read_json

STREAMS = 6
_PIECE = 1 << 22
_BEGUN = f"{MANIFEST}.part"


@dataclass(frozen=True)
class Pushed:
    """What came of it.

    Attributes
    ----------
    files, size : int
        That were sent, and their bytes; shards and the index.
    skipped : int
        Files that were there already.
    identified, burned_in : int
        Members with direct identifiers, and images that may have text in their pixels.
    left_out : dict of str to int
        Of a tree: how many are not in its archive, by reason.
    """

    files: int
    size: int
    skipped: int
    identified: int
    burned_in: int
    left_out: dict[str, int] = field(default_factory=dict)


def push(
    folder: Path,
    target: str,
    *,
    identified: bool = False,
    streams: int = STREAMS,
    progress: Progress = silent,
) -> Pushed:
    """Copy an archive to a place; it is complete there when its manifest is.

    After a break the same call goes on in the middle of a shard.

    Parameters
    ----------
    folder : Path
        The archive.
    target : str
        A folder, or a URL of what fsspec reaches.
    identified : bool
        Send it away even if members say whom they are of.
    streams : int
        Files on the way at a time.
    progress : callable
        Told of bytes.

    Raises
    ------
    UsageError
        If members have identifiers and the target is remote, or the target cannot be used.
    SourceError
        If the archive is not complete, or a file arrives as another one.
    OSError
        If the network fails.
    """
    archive = Archive.open(folder.resolve())
    root = normalise_root(target)
    named, burned = count_identified(archive.index)
    if is_remote(root) and not identified:
        check_unidentified(folder, named, burned)
    far = FarArchive(root, archive.facts)
    if not far.is_complete(archive):
        far.begin()
    teller = _Teller(archive.size, progress)
    far.finish(archive, streams, teller.add)
    return Pushed(*far.count(), named, burned)


def check_unidentified(source: Path, named: int, burned: int) -> None:
    """Raise a UsageError if a source says whom it is of, or may show it."""
    if named or burned:
        raise UsageError(
            f"{named:,} files of {source} have names, numbers or dates of persons in their "
            f"headers, and {burned:,} images may have text in their pixels; --identified sends "
            "them all the same"
        )


class FarArchive:
    """An archive that is put together far away.

    Until its manifest stands there, a file beside says whose parts these are. What has its name
    has been compared; whether it is of this archive, its hash says.

    Parameters
    ----------
    root : str
        As `trees.normalise_root` writes it.
    facts : dict
        What the archive follows from.
    """

    def __init__(self, root: str, facts: dict[str, Any]) -> None:
        self.root, self._facts = root, facts
        self._far = FarFolder(root, (SHARDS,))
        self._manifest = self._far.read(MANIFEST)
        self._arrived: dict[str, int] = {}  # bytes that were sent, by name
        self._stood: set[str] = set()

    def is_complete(self, archive: Archive) -> bool:
        """Say whether all of an archive is there already, under the same manifest."""
        return self._manifest == (archive.folder / MANIFEST).read_bytes() and all(
            self._far.size(name) == about["size"] for name, about in archive.contents.items()
        )

    def find_standing(self) -> int:
        """Return how many files an archive has that follows from the same and is complete there."""
        try:
            found = json.loads(self._manifest or b"{}")
            contents = found["contents"]
            right = self._facts.items() <= found.items() and all(
                self._far.size(name) == about["size"] for name, about in contents.items()
            )
            return len(contents) if right else 0
        except (ValueError, KeyError, TypeError, AttributeError):
            return 0

    def read_index(self) -> pa.Table:
        """Return the index of an archive that is complete there."""
        return read_index(pa.BufferReader(self._far.read(INDEX) or b""))

    def begin(self) -> bool:
        """Say whose files come from now on; return whether they did before.

        Parts of another archive's are not gone on with.
        """
        begun = dump_json(self._facts)
        if self._far.read(_BEGUN) == begun:
            return True
        if self._manifest is not None:
            self._far.remove(MANIFEST)
            self._manifest = None
        for name in self._far.list_files():
            if name.endswith(".part"):
                self._far.remove(name)
        self._far.abandon()
        self._far.write(_BEGUN, begun)
        return False

    def put(self, name: str, path: Path, sha256: str, told: Callable[[int], None]) -> None:
        """Bring a file there, unless it is."""
        size = path.stat().st_size
        if name in self._arrived or name in self._stood:
            return
        if self._far.has(name, path, sha256):
            self._stood.add(name)
            told(size)
        else:
            self._far.put(name, path, sha256, told)
            self._arrived[name] = size

    def has_size(self, name: str, size: int) -> bool:
        """Say whether a file is there that was compared at another time."""
        return name in self._arrived or self._far.size(name) == size

    def finish(self, archive: Archive, streams: int, told: Callable[[int], None]) -> None:
        """Bring what is missing, and let the archive be complete.

        Raises
        ------
        SourceError
            If a file arrives as another one.
        """
        if self.is_complete(archive):
            self._stood = {*archive.contents}
            told(archive.size)
            return

        def put(name: str) -> None:
            path, about = archive.folder / name, archive.contents[name]
            if path.exists() or not self.has_size(name, about["size"]):
                self.put(name, path, about["sha256"], told)

        with ThreadPoolExecutor(max(1, streams)) as pool:
            list(pool.map(put, archive.contents))
        for name in self._far.list_files():  # of an archive that stood here before
            if name.startswith(f"{SHARDS}/") and name not in archive.contents:
                self._far.remove(name)
        self._far.write(_BEGUN, (archive.folder / MANIFEST).read_bytes())
        self._far.move(_BEGUN, MANIFEST)

    def count(self) -> tuple[int, int, int]:
        """Return how many files were sent, their bytes, and how many were there."""
        return len(self._arrived), sum(self._arrived.values()), len(self._stood)


def count_identified(index: pa.Table) -> tuple[int, int]:
    """Return how many members have direct identifiers, and how many images may show text."""
    rows = index.select(["identified", "burned_in", "reason"]).to_pylist()
    return sum(map(is_identified, rows)), sum(map(is_burned_in, rows))


def pull(source: str, folder: Path, *, progress: Progress = silent) -> Archive:
    """Copy an archive from a place, and compare every file with its SHA-256.

    After a break the same call goes on in the middle of a shard.

    Parameters
    ----------
    source : str
        As ``target`` of `push`.
    folder : Path
        Where to; new, or begun.
    progress : callable
        Told of bytes.

    Raises
    ------
    SourceError
        If there is no archive, or a file of it arrives as another one.
    DiskFullError
        If there is no room; the same call goes on.
    OSError
        If the network fails.
    """
    root = normalise_root(source)
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{MANIFEST}.part"
    try:
        with open_file(root, MANIFEST) as stream:
            beside.write_bytes(stream.read())
    except FileNotFoundError:
        raise SourceError(f"there is no archive of medkit in {source}") from None
    try:
        found = read_json(beside)
        contents = {name: dict(about) for name, about in found["contents"].items()}
        if found["format"] != FORMAT:
            raise ValueError("another format")
    except (MedkitError, ValueError, KeyError, TypeError, AttributeError):
        raise SourceError(f"the manifest of {source} is damaged") from None
    teller = _Teller(sum(about["size"] for about in contents.values()), progress)
    with name_full_disk(folder):
        for name in sorted(contents):
            parts = name.split("/")
            if {"", ".", ".."} & {*parts} or len(parts) > 2 or "\\" in name or ":" in name:
                raise SourceError(f"{source} is refused: {name!r} is no name of a shard")
            _fetch(root, name, contents[name], folder / name, teller)
        move_into_place(beside, folder / MANIFEST)
    return Archive.open(folder)


def _fetch(root: str, name: str, about: dict[str, Any], path: Path, teller: _Teller) -> None:
    if path.is_file() and hash_file(path) == about["sha256"]:
        teller.add(about["size"])
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    for _ in range(2):
        with beside.open("ab") as sink:
            here = sink.tell()
            teller.add(here)
            for part in _read_from(root, name, here, about["size"]):
                sink.write(part)
                teller.add(len(part))
        if hash_file(beside) == about["sha256"]:
            move_into_place(beside, path)
            return
        beside.unlink()
    raise SourceError(f"{name} of {root} arrives as another file than its manifest says")


def _read_from(root: str, name: str, start: int, size: int) -> Iterator[bytes]:
    if start >= size:
        return
    with open_file(root, name, size if is_remote(root) else None) as stream:
        stream.seek(start)
        left = size - start
        while left and (part := stream.read(min(_PIECE, left))):
            left -= len(part)
            yield part


class _Teller:
    """Adds up what several threads have done."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total, self._progress = total, progress
        self._done, self._lock = 0, Lock()

    def add(self, size: int) -> None:
        """Tell of some more bytes."""
        with self._lock:
            self._done = min(self._done + size, self._total)
            self._progress(self._done, self._total, "bytes")
