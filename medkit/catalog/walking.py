"""Walking a tree of files: each file is met once, whatever lies there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from medkit.catalog.entries import Entries, Integers, join_entries
from medkit.catalog.findings import Finding, UnreadableFileError, ignore
from medkit.catalog.folders import list_folder
from medkit.sources.trees import is_remote, list_remote
from medkit.workspace import Workspace

_PIECE = 4096  # files that are handed on at once
_TYPE = 0o170000  # the bits of a mode that tell what a thing is
_NO_TEXT = UnreadableFileError("name-not-text", "the name is not UTF-8; rename it").to_finding()
_LINK = ignore("symlink", "links are not followed")

# Of what there is no telling of: mode, size, time, inode.
_NOTHING = np.array([[stat.S_IFREG, 0, 0, 0]], np.int64)


@dataclass(frozen=True)
class _Walk:
    """What holds for all of a walk: of whom, from where, and which names to pass over."""

    source: str
    root: str
    own: Mapping[str, set[str]]  # names of medkit's, by folder

    def start(self, folder: str) -> Iterator[str | Entries]:
        """Yield what lies in a folder, in the order of the paths: folders' paths, and files."""
        try:
            names, states, known = _list_folder(f"{self.root}/{folder}"[: -1 if folder else None])
        except OSError as error:
            yield self.make([folder], {0: _refuse(error)}, _NOTHING)
            return
        own = self.own.get(folder, set())
        start = 0
        for stop in [*(row for row, name in enumerate(names) if name[-1] == "/"), len(names)]:
            for first in range(start, stop, _PIECE):
                last = min(stop, first + _PIECE)
                chosen = [row for row in range(first, last) if names[row] not in own]
                yield self.look_at(folder, [names[row] for row in chosen], states[chosen], known)
            if stop < len(names) and names[stop] not in own:
                yield folder + names[stop]
            start = stop + 1

    def look_at(
        self, folder: str, names: Sequence[str], states: Integers, known: Mapping[str, Finding]
    ) -> Entries:
        """Return some files of a folder."""
        findings = {row: known[name] for row, name in enumerate(names) if name in known}
        for row in np.flatnonzero(states[:, 0] == 0).tolist():
            states[row] = _NOTHING
            findings.setdefault(row, _ask_again(f"{self.root}/{folder}{names[row]}"))
        return self.make([folder + name for name in names], findings, states)

    def make(self, paths: list[str], findings: dict[int, Finding], states: Integers) -> Entries:
        """Return entries with what the system tells of them."""
        modes, sizes, mtimes, inodes = states.T
        for row in np.flatnonzero(modes & _TYPE != stat.S_IFREG).tolist():
            link = stat.S_ISLNK(int(modes[row]))
            findings.setdefault(row, _LINK if link else ignore("not-a-file"))
        return Entries(
            self.source,
            self.root,
            paths,
            np.ascontiguousarray(sizes),
            np.ascontiguousarray(mtimes),
            np.ascontiguousarray(inodes),
            findings,
        )


def walk(source: str, root: str, catalog_folder: Path) -> Iterator[Entries]:
    """Yield every file of a tree, and what else lies there, in the order of their paths.

    Links are not followed. What medkit itself wrote into a workspace is not part of the tree. A
    folder that cannot be listed stands for what is in it; its path ends in ``/``.

    Parameters
    ----------
    source : str
        Whose images these are.
    root : str
        As `medkit.sources.trees.normalise_root` returns it.
    catalog_folder : Path
        The catalog's, in its workspace.
    """
    if is_remote(root):
        yield from _walk_remote(source, root)
        return
    step = _Walk(source, root.rstrip("/"), _find_own(root, catalog_folder))
    yield from _gather(_descend(step), root)


def _descend(walk: _Walk) -> Iterator[Entries]:
    """Yield the files of all folders; a stack, for folders may be nested deeper than calls."""
    stack = [walk.start("")]
    while stack:
        step = next(stack[-1], None)
        if step is None:
            stack.pop()
        elif isinstance(step, str):
            stack.append(walk.start(step))
        elif len(step):
            yield step


def _gather(pieces: Iterable[Entries], root: str) -> Iterator[Entries]:
    """Yield the same files, many at once: a tree may have millions of small folders."""
    waiting: list[Entries] = []
    count = 0
    for piece in pieces:
        waiting.append(piece)
        count += len(piece)
        if count >= _PIECE:
            yield replace(join_entries(waiting), root=root)
            waiting, count = [], 0
    if waiting:
        yield replace(join_entries(waiting), root=root)


def _walk_remote(source: str, root: str) -> Iterator[Entries]:
    listing = iter(list_remote(root))
    while rows := list(islice(listing, _PIECE)):
        paths, sizes, mtimes = zip(*rows, strict=True)
        findings = {row: _tell_odd(path) for row, (path, size, _) in enumerate(rows) if size < 0}
        yield Entries(
            source,
            root,
            list(paths),
            np.maximum(np.array(sizes, np.int64), 0),
            np.array(mtimes, np.int64),
            np.zeros(len(rows), np.int64),
            findings,
        )


def _tell_odd(path: str) -> Finding:
    """Return what a path stands for that has no size."""
    if path.endswith("/"):
        return UnreadableFileError("unreadable", "the folder cannot be listed").to_finding()
    return ignore("not-a-file")


def _list_folder(folder: str) -> tuple[list[str], Integers, dict[str, Finding]]:
    """Return what lies in a folder, sorted; names of folders end in '/', as in longer paths."""
    listing = list_folder(folder)
    names, states = listing.names, listing.states
    for row in np.flatnonzero(states[:, 0] & _TYPE == stat.S_IFDIR).tolist():
        names[row] += "/"
    findings: dict[str, Finding] = {}
    try:
        "".join(names).encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8 come as lone surrogates
        names = _spell(names, findings)
    order = sorted(range(len(names)), key=names.__getitem__)
    return [names[row] for row in order], states[order], findings


def _spell(names: Iterable[str], findings: dict[str, Finding]) -> list[str]:
    """Return names as text: bytes that are none are shown as such, and are findings."""
    taken = set(names)
    spelled = []
    for name in names:
        shown = os.fsencode(name).decode("utf-8", "backslashreplace")
        if shown != name:
            shown = shown.rstrip("/")
            while shown in taken:  # another file may have this very name
                shown += "\\"
            taken.add(shown)
            findings[shown] = _NO_TEXT
        spelled.append(shown)
    return spelled


def _ask_again(path: str) -> Finding:
    """Return why there is no telling of a file: it is gone since its folder was listed, say."""
    try:
        os.lstat(path)
    except OSError as error:
        return _refuse(error)
    return UnreadableFileError("unreadable", "it was changed meanwhile").to_finding()


def _refuse(error: OSError) -> Finding:
    return UnreadableFileError("unreadable", str(error.strerror)).to_finding()


def _find_own(root: str, catalog_folder: Path) -> dict[str, set[str]]:
    """Return the names of what medkit writes beside its catalog, apart from what was fetched.

    They are told by the folder that they lie in, relative to the root; none lie elsewhere.
    """
    home = catalog_folder.resolve().parent
    workspace = Workspace(home)
    if not home.is_relative_to(root):
        return {}
    named = (workspace.catalog, workspace.folds, workspace.audits, workspace.features)
    folders = {f"{name}/" for name in ("sets", "runs", "evaluations", "reports")}
    folder = home.relative_to(root).as_posix()
    return {
        "" if folder == "." else f"{folder}/": {
            *(f"{path.name}/" for path in named),
            *folders,
            ".lock",
            ".lock-holder",
        }
    }
