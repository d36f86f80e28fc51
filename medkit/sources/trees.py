"""Trees of files, on this machine or far away: listed, and read by parts.

What is far away is named by a URL, such as ``s3://bucket/folder`` or ``sftp://host/folder``, and
reached through fsspec and the driver of its scheme. Keys, endpoints and the like are where these
look for them (their own files, the environment, ``FSSPEC_S3_ANON=true``, fsspec's configuration),
never in a URL: it is stored and shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

from medkit.errors import UsageError
from medkit.sources.drivers import (
    Listed,
    Ranges,
    connect,
    describe_object,
    explain,
    list_files,
    read_many,
    to_os_error,
)
from medkit.sources.streams import make_stream

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)  # one letter is a drive
_LOCAL = ("file", "local")
_WITH_USER = ("sftp", "ssh")  # there a name is part of the address
_FIRST = 1 << 14  # a request costs more than the bytes of a header


def is_remote(root: str) -> bool:
    """Say whether a root is the URL of something far away."""
    found = _SCHEME.match(root)
    return found is not None and found[1].lower() not in _LOCAL


def normalise_root(root: str | Path) -> str:
    """Return the one way to write a root.

    Parameters
    ----------
    root : str or Path
        A folder, or a URL. A Path is a folder whatever it looks like: it turns ``//`` into ``/``.

    Returns
    -------
    str
        The absolute path of a folder, links resolved; a URL without a slash at its end.

    Raises
    ------
    UsageError
        If a URL names no place, has credentials in it, or climbs.
    """
    text = str(root)
    if isinstance(root, Path) or not is_remote(text):
        path = url2pathname(urlsplit(text).path) if _SCHEME.match(text) else text
        return str(Path(path).resolve())
    scheme, _, place = text.partition("://")
    scheme, place = scheme.lower(), place.rstrip("/")
    user, at, _ = place.partition("/")[0].rpartition("@")
    shown = f"{scheme}://{place.removeprefix(user + at)}"
    if at and (":" in user or scheme not in _WITH_USER):
        raise UsageError(
            f"{shown} was given with credentials in the URL, where they would be stored and shown; "
            "put them where the driver looks for them, as its configuration or the environment"
        )
    if not place or not place.isprintable() or set(place) & set("?#\\"):
        shown = re.split(r"[?#\\]", shown)[0]  # what follows may be a signature
        raise UsageError(f"{shown!r}... is no place of files; give one as s3://bucket/folder is")
    if {".", ".."} & {*place.split("/")}:
        raise UsageError(f"{shown} has a part '.' or '..'; give the place itself")
    return f"{scheme}://{place}"


def is_folder(root: str) -> bool:
    """Say whether a root, as `normalise_root` returns it, is there and can be listed.

    Raises
    ------
    UsageError
        If the driver of its scheme is not installed.
    """
    if not is_remote(root):
        return Path(root).is_dir()
    system, base = connect(root)
    try:
        with explain():
            system.invalidate_cache()
            return bool(system.isdir(base or "/"))
    except OSError:
        return False


def list_remote(root: str) -> Iterator[Listed]:
    """Yield the path, size and time of each file below a remote root, sorted by path.

    Not more than a page of the listing, or the folders on the way to one file, is in memory.

    Parameters
    ----------
    root : str
        As `normalise_root` returns it.

    Yields
    ------
    path : str
        Relative to the root, in the order of code points.
    size : int
        Bytes; -1 of what is no plain file (a link, a device), and of a folder that cannot be
        listed, whose path ends in ``/``.
    mtime_ns : int
        Nanoseconds; 0 where it is unknown.

    Raises
    ------
    UsageError
        If the driver of the scheme is not installed.
    OSError
        If the root cannot be listed to its end.
    """
    system, base = connect(root)
    yield from list_files(system, base)


@dataclass(frozen=True)
class FarFile:
    """A remote file with the face of a Path, as far as readers of archives need one."""

    root: str
    path: str
    st_size: int
    st_mtime_ns: int

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    def open(self, mode: Literal["rb"] = "rb", buffering: int = -1) -> BinaryIO:
        """Open it; see `open_file`."""
        return open_file(self.root, self.path, self.st_size)

    def stat(self) -> FarFile:
        """Return what was known of it when it was located."""
        return self


def locate_file(root: str, path: str) -> Path | FarFile:
    """Return what readers of archives take: the path of a file, or one that is far away.

    Raises
    ------
    UsageError
        If the driver of the scheme is not installed.
    OSError
        If a remote file is not there.
    """
    if not is_remote(root):
        return Path(root, path)
    return FarFile(root, path, *stat_file(root, path))


def stat_file(root: str, path: str) -> tuple[int, int]:
    """Return the size in bytes and the time in nanoseconds of a file, as walking finds them.

    Raises
    ------
    UsageError
        If the driver of the scheme is not installed.
    OSError
        If it is not there, or cannot be asked for.
    """
    if not is_remote(root):
        state = Path(root, path).stat()
        return state.st_size, state.st_mtime_ns
    return describe_file(root, path)[:2]


def describe_file(root: str, path: str) -> tuple[int, int, dict[str, str]]:
    """Return size, time and the hashes that a far file system states of a file.

    Parameters
    ----------
    root : str
        As `normalise_root` returns it.
    path : str
        Relative to it, with ``/``; empty if the root is the file itself.

    Returns
    -------
    size, mtime_ns : int
        As `stat_file`.
    hashes : dict of str to str
        By algorithm, as `plans.Item` has them.

    Raises
    ------
    UsageError
        If the driver of the scheme is not installed.
    OSError
        If it is not there, or cannot be asked for.
    """
    system, base = connect(root)
    with explain():
        return describe_object(system, f"{base}/{path}".rstrip("/"))


def open_file(root: str, path: str, size: int | None = None) -> BinaryIO:
    """Open a file of a tree; of a remote one, only what is read is fetched.

    Parameters
    ----------
    root : str
        As `normalise_root` returns it.
    path : str
        Relative to it, with ``/``.
    size : int, optional
        Of a remote file, where it is known; it saves a request.

    Returns
    -------
    binary file
        Seekable.

    Raises
    ------
    UsageError
        If the driver of the scheme is not installed.
    OSError
        If it cannot be opened; also when reading it later. It always has a ``strerror``.
    """
    if not is_remote(root):
        return Path(root, path).open("rb")
    system, base = connect(root)
    place = f"{base}/{path}".rstrip("/")
    with explain():
        length = system.size(place) if size is None else size
        if length is None:
            raise OSError("its size is unknown")
        return make_stream(Ranges(system, place, length), length, explain, _FIRST)


def read_heads(root: str, paths: Sequence[str], length: int) -> list[bytes | OSError]:
    """Return the first bytes of some files, or why they cannot be read; see `read_ranges`."""
    return read_ranges(root, paths, [0] * len(paths), [length] * len(paths))


def read_ranges(
    root: str, paths: Sequence[str], offsets: Sequence[int], widths: Sequence[int]
) -> list[bytes | OSError]:
    """Return a part of each of some files, read many at a time.

    Parameters
    ----------
    root : str
        As `normalise_root` returns it.
    paths : sequence of str
        Relative to it, with ``/``.
    offsets, widths : sequence of int
        Where each part begins, and how long it is; it is shorter where the file ends before.

    Returns
    -------
    list of bytes or OSError
        An error has a ``strerror``.
    """
    if is_remote(root):
        system, base = connect(root)
        found = read_many(system, [f"{base}/{path}" for path in paths], offsets, widths)
    else:
        found = [*map(partial(_read_here, root), paths, offsets, widths)]
    return [
        to_os_error(part) if isinstance(part, Exception) else part[:width]
        for part, width in zip(found, widths, strict=True)
    ]


def _read_here(root: str, path: str, offset: int, width: int) -> bytes | OSError:
    try:
        with Path(root, path).open("rb", buffering=0) as stream:
            stream.seek(offset)
            return stream.read(width) or b""
    except OSError as error:
        return error
