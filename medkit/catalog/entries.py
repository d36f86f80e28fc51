"""Files of a tree, as walking it found them: the unit that a scan reads, keeps and sends."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from medkit.catalog.findings import Finding

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Entries:
    """Some files of one tree, ordered by their paths.

    Columns rather than objects: a tree has millions of files.

    Attributes
    ----------
    source, root : str
        As in the table ``files``: whose images these are, and the folder or URL.
    paths : sequence of str
        Relative to the root, with ``/``, in the order of their code points.
    sizes, mtimes, inodes : (n,) int64 arrays
        Bytes, nanoseconds, and what the system calls the file; 0 where there is none.
    findings : mapping of int to Finding
        What walking already knows, by position; such a file is not opened.
    """

    source: str
    root: str
    paths: Sequence[str]
    sizes: Integers
    mtimes: Integers
    inodes: Integers
    findings: Mapping[int, Finding] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def keys(self) -> list[str]:
        """The files' keys in the tables."""
        begin = hashlib.sha256(f"{self.root}\0".encode()).copy
        found = []
        for path in self.paths:  # a function for each of millions would take as long again
            digest = begin()
            digest.update(path.encode())
            found.append(digest.hexdigest()[:16])
        return found

    def take(self, positions: Iterable[int]) -> Entries:
        """Return some of them, in the order of the positions given."""
        chosen = [*positions]
        rows = np.array(chosen, np.intp)
        return Entries(
            self.source,
            self.root,
            [self.paths[row] for row in chosen],
            self.sizes[rows],
            self.mtimes[rows],
            self.inodes[rows],
            {new: self.findings[old] for new, old in enumerate(chosen) if old in self.findings},
        )

    def slice(self, start: int, stop: int) -> Entries:
        """Return those from one position to before another."""
        found = Entries(
            self.source,
            self.root,
            self.paths[start:stop],
            self.sizes[start:stop],
            self.mtimes[start:stop],
            self.inodes[start:stop],
            {row - start: what for row, what in self.findings.items() if start <= row < stop},
        )
        if "keys" in self.__dict__:  # hashed once is enough
            found.__dict__["keys"] = self.keys[start:stop]
        return found


def join_entries(pieces: Sequence[Entries]) -> Entries:
    """Return the files of some pieces of one tree, one after the other."""
    if len(pieces) == 1:
        return pieces[0]
    starts = np.cumsum([0, *map(len, pieces)]).tolist()
    joined = Entries(
        pieces[0].source,
        pieces[0].root,
        [path for piece in pieces for path in piece.paths],
        np.concatenate([piece.sizes for piece in pieces]),
        np.concatenate([piece.mtimes for piece in pieces]),
        np.concatenate([piece.inodes for piece in pieces]),
        {
            start + row: finding
            for start, piece in zip(starts, pieces, strict=False)
            for row, finding in piece.findings.items()
        },
    )
    if all("keys" in piece.__dict__ for piece in pieces):
        joined.__dict__["keys"] = [key for piece in pieces for key in piece.keys]
    return joined


def make_key(root: str, path: str) -> str:
    """Return the key of a file: 16 hexadecimal digits of the SHA-256 of root, NUL and path."""
    return hashlib.sha256(f"{root}\0{path}".encode()).hexdigest()[:16]
