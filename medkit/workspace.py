"""The workspace: where each artefact lies, one lock, atomic writes, provenance."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medkit.errors import DiskFullError, UsageError, WorkspaceError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# Windows keeps these for devices, with any suffix; what is written must survive a move there.
RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.IGNORECASE
)


@dataclass(frozen=True)
class Workspace:
    """A folder that holds everything medkit makes.

    Parameters
    ----------
    root : Path
        The folder. It is made when something is first written, not here.
    """

    root: Path

    @property
    def raw(self) -> Path:
        """What fetch brought, a folder a source."""
        return self.root / "raw"

    @property
    def catalog(self) -> Path:
        """Snapshots of the catalog and its journal."""
        return self.root / "catalog"

    @property
    def folds(self) -> Path:
        """Who is in which fold."""
        return self.root / "folds"

    @property
    def audits(self) -> Path:
        """What was found in those folds."""
        return self.root / "audits"

    @property
    def openings(self) -> Path:
        """The ledger of held-out sets that were opened."""
        return self.root / "openings.jsonl"

    @property
    def features(self) -> Path:
        """Content-addressed feature arrays; safe to delete."""
        return self.root / "features"

    def source(self, name: str) -> Path:
        """Return the folder of a fetched source."""
        return self.raw / check_name(name)

    def set(self, name: str) -> Path:
        """Return the folder of an ImageSet."""
        return self.root / "sets" / check_name(name)

    def run(self, name: str) -> Path:
        """Return the folder of a run."""
        return self.root / "runs" / check_name(name)

    def evaluation(self, name: str) -> Path:
        """Return the folder of a locked run on other images."""
        return self.root / "evaluations" / check_name(name)

    def report(self, name: str) -> Path:
        """Return the file of a page over several runs."""
        return self.root / "reports" / f"{check_name(name)}.html"

    def look(self, name: str) -> Path:
        """Return the folder of what was drawn of a set; safe to delete."""
        return self.root / "looks" / check_name(name)

    def names(self, kind: str) -> list[str]:
        """Return the names that stand under ``raw``, ``sets``, ``runs`` or ``evaluations``."""
        folder = self.root / kind
        if not folder.is_dir():
            return []
        # A name that starts with a dot is work that a kill left half done.
        return sorted(
            entry.name
            for entry in folder.iterdir()
            if entry.is_dir() and not entry.name.startswith(".")
        )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the workspace for writing.

        Raises
        ------
        WorkspaceError
            If another process holds it; the message names that process.
        DiskFullError
            If there is no room for what is written meanwhile.
        """
        with name_full_disk(self.root), self._hold():
            yield

    @contextmanager
    def _hold(self) -> Iterator[None]:
        import filelock

        self.root.mkdir(parents=True, exist_ok=True)
        holder = self.root / ".lock-holder"
        lock = filelock.FileLock(self.root / ".lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            who = holder.read_text() if holder.exists() else "an unknown process"
            raise WorkspaceError(
                f"the workspace {self.root} is in use by {who}; wait for it, or give another "
                "workspace with -w"
            ) from None
        try:
            holder.write_text(f"process {os.getpid()}")
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()


@contextmanager
def name_full_disk(folder: Path) -> Iterator[None]:
    """Raise a DiskFullError where the system says that a disk is full.

    Parameters
    ----------
    folder : Path
        Where it is written to.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        where = error.filename or folder
        raise DiskFullError(
            f"there is no room left for {where}; make room on its disk and give the same command "
            "again, which goes on from here"
        ) from error


def is_full(error: BaseException) -> bool:
    """Tell whether an error says that a disk, or a share of it, is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def check_name(name: str) -> str:
    """Return the name if it is a safe folder name on every system.

    Raises
    ------
    UsageError
        If it is not: names have letters, digits, ``.``, ``_`` and ``-``, 100 at most.
    """
    if not _NAME.fullmatch(name) or RESERVED.fullmatch(name) or name.endswith("."):
        raise UsageError(
            f"{name!r} cannot be a name: use letters, digits, '.', '_' and '-', at most 100, "
            "starting with a letter or digit"
        )
    return name


@contextmanager
def write_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is synced and takes its place.

    A reader sees the old content or the new, never a part. A kill leaves the old, and a part that
    the next write of the same file takes over: the lock lets only one process write it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    try:
        yield beside
        move_into_place(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def move_into_place(beside: Path, path: Path) -> None:
    """Sync a finished file, rename it to its final name, and sync the folder."""
    sync(beside)
    beside.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Return when a file's content, or the names in a folder, are on the disk."""
    folder = path.is_dir()
    if folder and os.name != "posix":  # Windows cannot open a folder to sync it
        return
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, keys sorted, so that equal content is equal bytes."""
    with write_beside(path) as beside:
        beside.write_bytes(dump_json(content))


def dump_json(content: Any) -> bytes:
    """Return the one way this project spells a value as a JSON file."""
    return (
        json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    ).encode()


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    WorkspaceError
        If it is missing or damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise WorkspaceError(f"{path} is missing") from None
    except (ValueError, RecursionError) as error:
        raise WorkspaceError(f"{path} is damaged: {error}") from None


def hash_json(content: Any, length: int = 16) -> str:
    """Return the first hexadecimal digits of the SHA-256 of a JSON value."""
    return hashlib.sha256(dump_json(content)).hexdigest()[:length]


def hash_file(path: Path, algorithm: str = "sha256") -> str:
    """Return the SHA-256, or another sum, of a file, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, algorithm).hexdigest()


def remove_folder(folder: Path) -> None:
    """Remove a folder as one step for whoever looks: rename it away first."""
    if folder.exists():
        grave = folder.with_name(f".{folder.name}.gone")
        if grave.exists():  # a kill came between the two steps
            shutil.rmtree(grave)
        folder.replace(grave)
        shutil.rmtree(grave)


def describe_versions(*distributions: str) -> dict[str, str]:
    """Return the versions that a result depends on: Python, platform, medkit and those named."""
    import platform
    from importlib import metadata

    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("medkit", *distributions):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
