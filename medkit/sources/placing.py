"""Files put to a place far away: whole under their name, or not there.

What is under way is called ``NAME.part``, and goes on where it was; a file gets its name when it
has arrived and been compared there with its SHA-256. Over a slow wire each question costs as much
as a picture, so few are asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import shlex
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from threading import Semaphore

from medkit.errors import SourceError
from medkit.sources import uploads
from medkit.sources.drivers import connect, explain
from medkit.sources.trees import is_remote

_PIECE = 1 << 23
# Over SSH all share one wire, in which questions wait behind what is on its way. So it is never
# full, and two send while others ask: if all sent, all would end, and ask, at the same time.
_SENT_AT_ONCE = 1 << 21
_SENDERS = 2
_PART = ".part"
_TRIES = 2


class FarFolder:
    """A place that files are put to, by any number of threads.

    Parameters
    ----------
    root : str
        As `trees.normalise_root` writes it.
    folders : sequence of str
        Those below it that files go to; made where they are missing.

    Raises
    ------
    UsageError
        If its driver is not installed.
    OSError
        If it cannot be reached.
    """

    def __init__(self, root: str, folders: tuple[str, ...] = ()) -> None:
        self._root = root
        self._system, self._base = connect(root if is_remote(root) else Path(root).as_uri())
        # Some file systems show a file when it is whole, and cannot go on with one.
        module = type(self._system).__module__
        self._whole = module.startswith(("s3fs", "gcsfs", "adlfs"))
        self._by_parts = module.startswith("s3fs")
        self._turn = Semaphore(_SENDERS) if module.startswith("sshfs") else nullcontext()
        self._sizes: dict[str, int] = {}
        with explain():
            self._system.invalidate_cache()
            there = self._list("")
            lacking = [folder for folder in folders if not (there and self._list(folder))]
            self._make(lacking if there else ["", *lacking])

    def _list(self, folder: str) -> bool:
        """Note what files a folder has; False where it is not there."""
        try:
            found = self._system.ls(self._place(folder), detail=True)
        except FileNotFoundError:
            return False
        for one in found:
            if one["type"] == "directory":
                continue
            name = str(one["name"]).rstrip("/").rpartition("/")[2]
            self._sizes[f"{folder}/{name}".lstrip("/")] = int(one.get("size") or 0)
        return True

    def _make(self, folders: list[str]) -> None:
        """Make folders; ``makedirs`` asks of each above them, which most often is there."""
        for folder in folders:
            if not self._whole:
                with suppress(Exception):
                    self._system.mkdir(self._place(folder), create_parents=False)
                    continue
            self._system.makedirs(self._place(folder), exist_ok=True)

    def _place(self, path: str) -> str:
        return f"{self._base}/{path}".rstrip("/")

    def list_files(self) -> list[str]:
        """Return the paths of files that were there when this was opened."""
        return sorted(self._sizes)

    def size(self, path: str) -> int | None:
        """Return the bytes that a file had when this was opened; None where there was none."""
        return self._sizes.get(path)

    def read(self, path: str) -> bytes | None:
        """Return a small file that was there."""
        if path not in self._sizes:
            return None
        with explain():
            return bytes(self._system.cat_file(self._place(path)))

    def write(self, path: str, content: bytes) -> None:
        """Write a small file."""
        with explain():
            if self._whole:
                self._system.pipe_file(self._place(path), content)
                return
            with self._system.open(self._place(path), "wb") as sink:  # it makes no folders
                sink.write(content)

    def move(self, path: str, other: str) -> None:
        """Give a file another name, at which nothing is."""
        if path in self._sizes:
            self._sizes[other] = self._sizes.pop(path)
        with explain():
            self._system.mv(self._place(path), self._place(other))

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        self._sizes.pop(path, None)
        with explain(), suppress(FileNotFoundError):
            self._system.rm_file(self._place(path))

    def abandon(self) -> None:
        """Let go of uploads that were begun and will not be gone on with."""
        if self._by_parts:
            with explain():
                uploads.abandon(self._system, self._base)

    def has(self, path: str, source: Path, sha256: str) -> bool:
        """Say whether a file is there already, with its own name and its hash.

        Parameters
        ----------
        path, source, sha256
            As of `put`.
        """
        if self._sizes.get(path) != source.stat().st_size:
            return False
        with explain():
            return self._is_right(path, source, sha256)

    def put(self, path: str, source: Path, sha256: str, told: Callable[[int], None]) -> None:
        """Put a file, go on where it broke off, and compare it there.

        Parameters
        ----------
        path : str
            Where to.
        source : Path
            The file.
        sha256 : str
            What it has.
        told : callable
            Gets the bytes that have been sent, some at a time.

        Raises
        ------
        SourceError
            If it arrives as another file.
        OSError
            If it cannot be sent; the same call goes on where it was.
        """
        beside = path if self._whole else path + _PART
        for _ in range(_TRIES):
            there = 0 if self._whole else self._sizes.get(beside, 0)
            with explain():
                self._send(beside, source, there, told)
                arrived = self._is_right(beside, source, sha256)
            if arrived:
                break
            self.remove(beside)
        else:
            raise SourceError(
                f"{path} arrived at {self._root} as another file, twice; check the network and "
                "the disk there"
            )
        if not self._whole:
            if path in self._sizes:
                self.remove(path)
            self.move(beside, path)

    def _is_right(self, path: str, source: Path, sha256: str) -> bool:
        if self._by_parts and uploads.is_there(self._system, self._place(path), source):
            return True
        return self._hash(path) == sha256

    def _send(self, path: str, source: Path, there: int, told: Callable[[int], None]) -> None:
        if self._by_parts:
            uploads.upload(self._system, self._place(path), source, told)
            return
        told(there)
        mode = "ab" if there else "wb"
        with source.open("rb") as stream, self._system.open(self._place(path), mode) as sink:

            def write() -> None:
                part = stream.read(_SENT_AT_ONCE)
                sink.write(part)
                told(len(part))

            left = source.stat().st_size - there
            stream.seek(there)
            with self._turn:
                for _ in range(left // _SENT_AT_ONCE):
                    write()
            write()  # the next one sends while this is still on its way

    def _hash(self, path: str) -> str:
        """Return the SHA-256 of a file: counted there where the server can, else here."""
        place = self._place(path)
        if type(self._system).__module__.startswith("sshfs"):
            with suppress(Exception):  # of a server that gives files alone, or has no such program
                asked = self._system.client.run(f"sha256sum -- {shlex.quote(place)}", check=True)
                answer = asyncio.run_coroutine_threadsafe(asked, self._system.loop).result()
                if found := re.match(r"\\?([0-9a-f]{64}) ", str(answer.stdout)):
                    return found[1]
        digest = hashlib.sha256()
        with self._system.open(place, "rb") as stream:
            while part := stream.read(_PIECE):
                digest.update(part)
        return digest.hexdigest()
