"""Walking a tree of files: each file is met once, whatever lies there."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from medkit.catalog.findings import Finding, UnreadableFileError, ignore
from medkit.catalog.inspection import Entry
from medkit.catalog.roots import Root
from medkit.workspace import Workspace


def walk(root: Root, catalog_folder: Path) -> Iterator[Entry]:
    """Yield every file under a folder, and what else lies there, in an order that is always same.

    Links are not followed. What medkit itself wrote into a workspace is not part of the tree.
    """
    base = str(root.folder.resolve())
    start = len(str(Path(base, "x"))) - 1  # where relative paths begin
    make = partial(Entry, root.source, base)
    own = _find_own(catalog_folder)
    waiting = [base]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as listing:
                found = sorted(listing, key=lambda item: item.name)
        except OSError as error:
            yield make(_spell(folder[start:]), finding=_refuse(error))
            continue
        for item in found:
            if item.path in own:
                continue
            entry = _look_at(item, make, _spell(item.path[start:]))
            if entry is None:
                waiting.append(item.path)
            else:
                yield entry


def _look_at(item: os.DirEntry[str], make: Callable[..., Entry], path: str) -> Entry | None:
    """Return the entry of anything but a folder."""
    if not _is_text(item.name):
        bad = UnreadableFileError("name-not-text", "the name is not UTF-8; rename it")
        return make(path, finding=bad.to_finding())
    try:
        state = item.stat(follow_symlinks=False)
    except OSError as error:
        return make(path, finding=_refuse(error))
    if stat.S_ISDIR(state.st_mode):
        return None
    inode = state.st_ino % 2**63  # some systems use all 64 bits, a column of integers has one less
    return make(path, state.st_size, state.st_mtime_ns, inode, _classify(state.st_mode))


def _refuse(error: OSError) -> Finding:
    return UnreadableFileError("unreadable", str(error.strerror)).to_finding()


def _spell(path: str) -> str:
    """Return a relative path with '/', as text: bytes that are none are shown as such."""
    return os.fsencode(path.replace(os.sep, "/")).decode("utf-8", "backslashreplace")


def _classify(mode: int) -> Finding | None:
    if stat.S_ISLNK(mode):
        return ignore("symlink", "links are not followed")
    return None if stat.S_ISREG(mode) else ignore("not-a-file")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8 come as lone surrogates
        return False
    return True


def _find_own(catalog_folder: Path) -> set[str]:
    """Return what medkit writes beside its catalog, apart from what was fetched."""
    root = catalog_folder.resolve().parent
    workspace = Workspace(root)
    named = (workspace.catalog, workspace.folds, workspace.audits, workspace.features)
    others = ("sets", "runs", "evaluations", "reports", ".lock", ".lock-holder")
    return {str(path) for path in (*named, *(root / name for name in others))}
