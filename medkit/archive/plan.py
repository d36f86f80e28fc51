"""What is packed, in which order, and in which pieces: known before a byte of content is read."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from medkit.archive.index import FILE, FOLDER, LEFT_OUT
from medkit.archive.names import LONG, PortableNames
from medkit.errors import UsageError

# A piece: enough that neighbours help to compress each other's headers, little enough that many
# processes have work.
_PIECE_BYTES = 1 << 23
_PIECE_FILES = 128

_SPECIAL = ((stat.S_ISLNK, "link"), (stat.S_ISREG, ""), (lambda mode: True, "no-plain-file"))


@dataclass(frozen=True)
class Found:
    """A file or a folder of the tree.

    Attributes
    ----------
    path : bytes
        Relative to the tree, as the system has it, with ``/`` between parts.
    name : str
        What it is called in the archive.
    kind : str
        ``file``, ``folder``, or ``left-out`` of what is neither, or cannot be looked into.
    size, mtime_ns, mode : int
        As the system says.
    original : bytes
        What the path was before it was unpacked on a system that did not take it; else the path.
    reason : str
        Why it is left out.
    """

    path: bytes
    name: str
    kind: str
    size: int
    mtime_ns: int
    mode: int
    original: bytes
    reason: str = ""


def walk(
    root: Path,
    only: Collection[str] | None = None,
    originals: Mapping[str, bytes] | None = None,
) -> list[Found]:
    """Return what is in a tree; each folder before what is in it, by the bytes of names.

    Parameters
    ----------
    root : Path
        A folder.
    only : collection of str, optional
        Files to take, by their path with ``/``; folders on the way to them are taken too.
    originals : mapping of str to bytes, optional
        As of `names.read_names`: the paths that have other originals.

    Raises
    ------
    UsageError
        If it is no folder, or some of ``only`` are not there.
    """
    if not root.is_dir():
        raise UsageError(f"{root} is no folder; give the folder that holds the files")
    names, known = PortableNames(), originals or {}
    found = [
        _describe(path, state, names, known)
        for path, state in _list(os.fsencode(root), b"")
        if not (known and _is_made(path, state, known))
    ]
    if only is None:
        return found
    wanted = {os.fsencode(path) for path in only}
    lacking = wanted - {one.path for one in found if one.kind == FILE}
    if lacking:
        example = os.fsdecode(min(lacking))
        raise UsageError(
            f"{len(lacking)} of the files that are asked for are not in {root}, such as "
            f"{example!r}; scan it again, or give the folder that was scanned"
        )
    needed = wanted | {folder for path in wanted for folder in _list_folders(path)}
    return [one for one in found if one.path in needed]


def to_path(root: str | Path, path: bytes) -> Path:
    """Return where a file of a tree lies."""
    return Path(root, os.fsdecode(path))


def cut(found: list[Found]) -> Iterator[tuple[Found, ...]]:
    """Yield what makes a piece each: neighbours, up to some files or bytes."""
    sizes = [one.size for one in found]
    for numbers in cut_sizes(range(len(found)), sizes):
        yield tuple(found[number] for number in numbers)


def cut_sizes(numbers: Iterable[int], sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield numbers in groups: up to some files, or as many as have some bytes."""
    group: list[int] = []
    size = 0
    for number in numbers:
        group.append(number)
        size += sizes[number]
        if size >= _PIECE_BYTES or len(group) == _PIECE_FILES:
            yield tuple(group)
            group, size = [], 0
    if group:
        yield tuple(group)


def hash_plan(found: list[Found]) -> str:
    """Return a hash of what is planned: of names, sizes and times."""
    digest = hashlib.sha256()
    for one in found:
        digest.update(repr(astuple(one)).encode())
    return digest.hexdigest()


def _list(root: bytes, folder: bytes) -> Iterator[tuple[bytes, os.stat_result | None]]:
    """Yield path and state of all below a folder; no state of what cannot be asked for."""
    try:
        names = sorted(os.listdir(os.path.join(root, folder)))  # noqa: PTH118, PTH208 - bytes
    except OSError:
        yield folder, None
        return
    for name in names:
        path = folder + b"/" + name if folder else name
        try:
            state = os.lstat(os.path.join(root, path))  # noqa: PTH118 - bytes
        except OSError:
            yield path, None
            continue
        yield path, state
        if stat.S_ISDIR(state.st_mode):
            yield from _list(root, path)


def _describe(
    path: bytes, state: os.stat_result | None, names: PortableNames, originals: Mapping[str, bytes]
) -> Found:
    path = path.replace(os.fsencode(os.sep), b"/")
    original = originals.get(os.fsdecode(path), path)
    name = names.give(original)
    if state is None:
        return Found(path, name, LEFT_OUT, 0, 0, 0, original, "unreadable")
    mode, time = stat.S_IMODE(state.st_mode), state.st_mtime_ns
    if stat.S_ISDIR(state.st_mode):
        return Found(path, name, FOLDER, 0, time, mode, original)
    reason = next(reason for fits, reason in _SPECIAL if fits(state.st_mode))
    size = 0 if reason else state.st_size
    return Found(path, name, LEFT_OUT if reason else FILE, size, time, mode, original, reason)


def _is_made(path: bytes, state: os.stat_result | None, originals: Mapping[str, bytes]) -> bool:
    """Say whether a folder is there only because others lay too deep for some system."""
    folder = state is not None and stat.S_ISDIR(state.st_mode)
    return folder and path.split(b"/")[0] == LONG.encode() and os.fsdecode(path) not in originals


def _list_folders(path: bytes) -> Iterator[bytes]:
    while b"/" in path:
        path = path.rpartition(b"/")[0]
        yield path
