"""What has been brought so far: one line a fact, appended, so that a kill loses none of them.

A line is written before the step that it speaks of is visible: bytes of an object follow the line
that says which object it is; a file gets its name after the line that has its hash. Nothing is
synced for each file; a line says up to where everything was.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SYNC_SECONDS = 60.0

Line = dict[str, Any]


@dataclass(frozen=True)
class Begun:
    """An object of which some bytes may be here."""

    size: int | None = None
    validator: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)


class Ledger:
    """The record of one fetch under way; several threads may write it.

    Parameters
    ----------
    path : Path
        A file of JSON lines. What stands there is read; a last line that was cut is dropped.

    Attributes
    ----------
    files : dict of str to dict
        By path: the files in place, with size, sha256 and where they are from.
    origins : dict of str to dict
        By path: the archives that were unpacked.
    parts : dict of str to dict
        By path: what has come whole, and is not in place yet.
    begun : dict of str to Begun
        By path: what some bytes have come of.
    unsynced : set of str
        Paths whose bytes a loss of power may have taken, though a kill did not.
    """

    def __init__(self, path: Path) -> None:
        self.files: dict[str, Line] = {}
        self.origins: dict[str, Line] = {}
        self.parts: dict[str, Line] = {}
        self.begun: dict[str, Begun] = {}
        self.unsynced: set[str] = set()
        self._members: dict[str, list[Line]] = {}
        self._lock = threading.Lock()
        self._read(path)
        self._handle = path.open("ab", buffering=0)
        self._synced = time.monotonic()
        self.close = self._handle.close

    def begin(self, path: str, begun: Begun) -> None:
        """Note which object the bytes are of that are about to be written."""
        stated = {"size": begun.size, "validator": begun.validator, "hashes": {**begun.hashes}}
        self._append([{"begun": path, **stated}])

    def keep(self, line: Line) -> None:
        """Note that an object has come whole and right; the line has its ``path``."""
        self._append([{**line, "part": line["path"]}])

    def place(self, line: Line) -> None:
        """Note a file, just before it gets its name."""
        self._append([line])

    def place_all(self, origins: Sequence[Line], members: Iterable[Line]) -> None:
        """Note the members of an archive, and it or its parts, before their folder gets its name.

        All of it is one step: members whose archive is not noted count for nothing.
        """
        first = origins[0]["path"]
        noted = [*({**member, "archive": first} for member in members)]
        self._append([*noted, *({**origin, "origin": origin["path"]} for origin in origins[::-1])])

    def drop(self, path: str) -> None:
        """Note that what came of an object is gone."""
        self._append([{"dropped": path}])

    def _append(self, lines: list[Line]) -> None:
        with self._lock:
            if lines:
                self._handle.write("".join(f"{json.dumps(line)}\n" for line in lines).encode())
            for line in lines:
                self._take(line)
            if time.monotonic() - self._synced > _SYNC_SECONDS and hasattr(os, "sync"):
                os.sync()
                self._handle.write(b'{"synced": true}\n')
                self._synced = time.monotonic()

    def _read(self, path: Path) -> None:
        if not path.exists():
            return
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
        for text in content[:whole].splitlines():
            try:
                self._take(json.loads(text))
            except (ValueError, KeyError):  # what a loss of power made of it
                continue

    def _take(self, line: Line) -> None:
        for key, take in _TAKERS.items():
            if key in line:
                take(self, line)
                return

    def _take_begun(self, line: Line) -> None:
        self.begun[line["begun"]] = Begun(line["size"], line["validator"], line["hashes"])

    def _take_part(self, line: Line) -> None:
        path = line.pop("part")
        self.parts[path] = line
        self.begun.pop(path, None)
        self.unsynced.add(path)

    def _take_origin(self, line: Line) -> None:
        path = line.pop("origin")
        self.origins[path] = line
        self.parts.pop(path, None)
        for member in self._members.pop(path, ()):
            self.files[member["path"]] = member
            self.unsynced.add(member["path"])

    def _take_member(self, line: Line) -> None:
        self._members.setdefault(line["archive"], []).append(line)

    def _take_file(self, line: Line) -> None:
        self.files[line["path"]] = line
        self.parts.pop(line["path"], None)
        self.begun.pop(line["path"], None)
        self.unsynced.add(line["path"])

    def _take_drop(self, line: Line) -> None:
        for known in (self.files, self.origins, self.parts, self.begun, self._members):
            known.pop(line["dropped"], None)

    def _take_sync(self, line: Line) -> None:
        self.unsynced.clear()


_TAKERS: dict[str, Callable[[Ledger, Line], None]] = {
    "begun": Ledger._take_begun,
    "part": Ledger._take_part,
    "origin": Ledger._take_origin,
    "dropped": Ledger._take_drop,
    "synced": Ledger._take_sync,
    "archive": Ledger._take_member,
    "path": Ledger._take_file,
}
