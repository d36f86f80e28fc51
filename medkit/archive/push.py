"""Push an archive to a place far away, and pull it back."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from medkit.archive.archive import FORMAT, MANIFEST, SHARDS, Archive
from medkit.engine import Progress, silent
from medkit.errors import MedkitError, SourceError, UsageError
from medkit.sources.placing import FarFolder
from medkit.sources.trees import is_remote, normalise_root, open_file
from medkit.workspace import hash_file, move_into_place, read_json

STREAMS = 4
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
    """

    files: int
    size: int
    skipped: int
    identified: int
    burned_in: int


def push(
    folder: Path,
    target: str,
    *,
    identified: bool = False,
    streams: int = STREAMS,
    progress: Progress = silent,
) -> Pushed:
    """Copy an archive to a place; it is complete there when its manifest is.

    After a break the same call goes on in the middle of a shard (from the shard's start in S3).

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
    named, burned = count_identified(archive)
    if is_remote(root) and not identified and (named or burned):
        raise UsageError(
            f"{named:,} files of {folder} have names, numbers or dates of persons in their "
            f"headers, and {burned:,} images may have text in their pixels; --identified sends "
            "them all the same"
        )
    far = FarFolder(root, (SHARDS,))
    manifest = (archive.folder / MANIFEST).read_bytes()
    whole = far.read(MANIFEST) == manifest
    # What has its name has been compared; by which archive it was sent, the manifest says.
    ours = whole or far.read(_BEGUN) == manifest
    if not ours:
        _begin(far, archive, manifest)
    due = [
        name
        for name, about in archive.contents.items()
        if not ours or far.size(name) != about["size"]
    ]
    teller = _Teller(sum(archive.contents[name]["size"] for name in due), progress)

    def put(name: str) -> None:
        far.put(name, archive.folder / name, archive.contents[name]["sha256"], teller.add)

    with ThreadPoolExecutor(max(1, streams)) as pool:
        list(pool.map(put, due))
    if not whole:
        far.move(_BEGUN, MANIFEST)
    size = sum(archive.contents[name]["size"] for name in due)
    return Pushed(len(due), size, len(archive.contents) - len(due), named, burned)


def _begin(far: FarFolder, archive: Archive, manifest: bytes) -> None:
    """Say whose files come from now on; parts of another archive's are not gone on with."""
    far.remove(MANIFEST)
    for name in archive.contents:
        if far.size(f"{name}.part") is not None:
            far.remove(f"{name}.part")
    far.write(_BEGUN, manifest)


def count_identified(archive: Archive) -> tuple[int, int]:
    """Return how many members have direct identifiers, and how many images may show text."""
    rows = archive.index.select(["identified", "burned_in"]).to_pylist()
    return (
        sum(bool(row["identified"]) for row in rows),
        sum(row["burned_in"] is not None and row["burned_in"] != "NO" for row in rows),
    )


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
