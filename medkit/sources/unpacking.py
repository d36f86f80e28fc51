"""The one road into archives; every member passes `medkit.sources.gate`.

Zip (also ZIP64; stored or deflated), tar, and tar in gzip. An archive in an archive stays as it
is.
"""

from __future__ import annotations

import gzip
import io
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any, BinaryIO

from medkit.engine import Progress, silent
from medkit.errors import SourceError
from medkit.sources.gate import DEFAULT_BOUNDS, Bounds, Entry, Gate, explain_errors, show_name

_CHUNK = 1 << 16
# No header of a tar is longer (names, attributes); tarfile reads each whole into memory.
_LONGEST_HEADER = 1 << 20
_ZIP_ENTRY = b"PK\x01\x02"
_ZIP_LOCAL_HEADER = 30  # bytes before the member's name (APPNOTE 4.3.7)

_SPECIAL = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes
    ----------
    name : str
        Its path inside the archive, parts joined by ``/``; safe on every system.
    size : int
        Bytes, unpacked.
    open : callable
        Returns a readable, seekable stream of its bytes, valid until the next member is taken.
        Reading raises `SourceError` where the archive is damaged. The checksum of a zip member is
        compared when its last byte is read; that of a gzip after the last member.
    """

    name: str
    size: int
    open: Callable[[], BinaryIO]


def detect_format(path: Path) -> str | None:
    """Return ``"zip"``, ``"tar"`` or ``"tar.gz"`` by the first bytes of a file, or None."""
    with path.open("rb") as handle:
        head = handle.read(tarfile.BLOCKSIZE)
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return "zip"
    if not head.startswith(b"\x1f\x8b"):
        return "tar" if _is_tar(head) else None
    try:
        with gzip.open(path) as stream:
            return "tar.gz" if _is_tar(stream.read(tarfile.BLOCKSIZE)) else None
    except (OSError, EOFError, zlib.error):
        return None


def iterate_members(path: Path, *, bounds: Bounds = DEFAULT_BOUNDS) -> Iterator[Member]:
    """Yield the files of an archive, in its order, without unpacking any.

    Parameters
    ----------
    path : Path
        A zip, a tar or a tar in gzip; its first bytes decide, not its suffix.
    bounds : Bounds
        What is refused above.

    Raises
    ------
    SourceError
        If it is no archive, is damaged, or has a member that the gate refuses. A zip is checked
        whole before its first member is yielded; a tar can only be checked on the way.
    """
    yield from _pass_gate(path, bounds, None)


@contextmanager
def open_member(path: Path, name: str) -> Iterator[BinaryIO]:
    """Yield the bytes of one member of an archive; see `iterate_members`.

    The index of a zip or a tar is kept for the next member. A tar in gzip is read from its start
    each time: unpack one that is read from often.

    Raises
    ------
    SourceError
        Also if there is no such member.
    """
    with explain_errors(path):
        index, state = _INDEXES.get(detect_format(path)), path.stat()
    # A name of its own keeps the walk, and with it the archive, open.
    walk = (member for member in iterate_members(path) if member.name == name)
    if index is not None:
        found = index(path, state.st_size, state.st_mtime_ns).get(name)
    else:
        found = next(walk, None)
    if found is None:
        raise SourceError(f"{path.name} has no member {show_name(name)}")
    with found.open() as stream:
        yield stream


def unpack(
    path: Path,
    target: Path,
    *,
    bounds: Bounds = DEFAULT_BOUNDS,
    progress: Progress = silent,
) -> int:
    """Unpack an archive into a new folder, whole or not at all.

    The members are written into a folder beside, which takes its final name when the last of
    them is in it. Empty folders are left out.

    Returns
    -------
    int
        The number of files.

    Raises
    ------
    SourceError
        As of `iterate_members`; or if the target exists, or cannot be written.
    """
    if target.exists():
        raise SourceError(f"{target} exists already; an archive is unpacked into a new folder")
    beside = target.with_name(f".{target.name}.part")
    with explain_errors(path):
        if beside.exists():  # of a process that was killed
            shutil.rmtree(beside)
        beside.mkdir(parents=True)
    try:
        files = _write_members(path, beside, bounds, progress)
        beside.replace(target)
    finally:
        if beside.exists():
            shutil.rmtree(beside)
    return files


def _write_members(path: Path, folder: Path, bounds: Bounds, progress: Progress) -> int:
    files = 0
    for member in _pass_gate(path, bounds, shutil.disk_usage(folder).free):
        place = folder / member.name
        with explain_errors(path, member.name):
            place.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as source, place.open("xb") as sink:
                shutil.copyfileobj(source, sink, _CHUNK)
        files += 1
        progress(files, None, "files")
    return files


def _pass_gate(path: Path, bounds: Bounds, room: int | None) -> Iterator[Member]:
    with explain_errors(path):
        kind = detect_format(path)
        if kind is None:
            raise SourceError(f"{path.name} is not an archive; zip, tar and tar.gz are read")
        yield from _READERS[kind](path, Gate(path, bounds, room))


def _read_zip(path: Path, gate: Gate) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        yield from _list_zip(path, archive, gate)


@lru_cache(maxsize=4)
def _index_zip(path: Path, size: int, mtime_ns: int) -> dict[str, Member]:
    """Return the members of a zip by name; it stays open as long as they are kept.

    Reading the index anew for each of its members would take the square of their number. Size
    and time are there to tell one file from another of the same path.
    """
    with explain_errors(path):
        archive = zipfile.ZipFile(path)
        members = _list_zip(path, archive, Gate(path, DEFAULT_BOUNDS))
    return {member.name: member for member in members}


@lru_cache(maxsize=4)
def _index_tar(path: Path, size: int, mtime_ns: int) -> dict[str, Member]:
    """Return the members of a tar by name; see `_index_zip`."""
    return {member.name: member for member in iterate_members(path)}


def _list_zip(path: Path, archive: zipfile.ZipFile, gate: Gate) -> list[Member]:
    infos = archive.infolist()
    entries = [_describe_zip(archive, info) for info in infos]
    names = [gate.admit(entry) for entry in entries]
    _refuse_overlaps(path, infos, archive.start_dir)
    return [
        _offer(path, name, entry)
        for name, entry in zip(names, entries, strict=True)
        if entry.kind == "file"
    ]


def _describe_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Entry:
    # Not .filename: zipfile has cut it at the first NUL and turned separators around.
    name = info.orig_filename
    mode = stat.S_IFMT(info.external_attr >> 16)
    kind = "folder" if name.endswith("/") or mode == stat.S_IFDIR else "file"
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        kind = _SPECIAL.get(mode, "not a plain file")
    if info.flag_bits & 0x41:  # bit 0 encrypted, bit 6 strong encryption (APPNOTE 4.4.4)
        kind = "encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        kind = f"packed by method {info.compress_type}, where only stored and deflated are read"
    if _ZIP_ENTRY in info.comment + info.extra:
        # zipfile counts no members: one lost length, and the next is part of this one's comment.
        kind = "damaged: another member lies in its comment"
    opener = partial(archive.open, info)
    return Entry(name, kind, info.file_size, info.compress_size, opener)


def _refuse_overlaps(path: Path, infos: Sequence[zipfile.ZipInfo], end: int) -> None:
    """Refuse members that share bytes: small zips that unpack to petabytes are made that way."""
    starts = sorted((info.header_offset, info.compress_size) for info in infos)
    for (start, size), (following, _) in zip(starts, [*starts[1:], (end, 0)], strict=False):
        if start + _ZIP_LOCAL_HEADER + size > following:
            raise SourceError(f"{path.name} is refused: members overlap at byte {start:,}")


def _read_tar(path: Path, gate: Gate) -> Iterator[Member]:
    with path.open("rb") as stream:
        yield from _read_tar_stream(path, gate, stream, packed=False)


def _read_tar_gz(path: Path, gate: Gate) -> Iterator[Member]:
    with gzip.open(path) as stream:
        yield from _read_tar_stream(path, gate, stream, packed=True)


def _read_tar_stream(path: Path, gate: Gate, stream: Any, *, packed: bool) -> Iterator[Member]:
    careful: Any = _CarefulStream(stream)
    with tarfile.open(fileobj=careful, mode="r:") as archive:
        while (info := archive.next()) is not None:
            # A list of a million members would fill memory.
            archive.members.clear()  # type: ignore[attr-defined]
            part = partial(_Part, path, info.offset_data, info.size)
            entry = _describe_tar(info, partial(_extract, archive, info) if packed else part)
            name = gate.admit(entry)
            if entry.kind == "file":
                yield _offer(path, name, entry)
        _check_end(path, careful, archive.offset)


def _describe_tar(info: tarfile.TarInfo, opener: Callable[[], Any]) -> Entry:
    kind = "folder" if info.isdir() else "file"
    if info.issym() or info.islnk():
        kind = "a link"
    elif not (info.isreg() or info.isdir()) or info.issparse():
        kind = "not a plain file"
    return Entry(info.name, kind, info.size, None, opener)


def _extract(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(info)
    if stream is None:
        raise SourceError(f"{show_name(info.name)} is not a plain file")
    return stream


def _check_end(path: Path, stream: _CarefulStream, offset: int) -> None:
    """Check that a tar ends where tarfile stopped.

    tarfile takes a damaged header, or the end of the file, for the end of the archive; only the
    block of zeros that ends one tells them apart. Reading on to the end of the file makes gzip
    compare its checksum.
    """
    stream.seek(offset)
    rest = stream.read(_LONGEST_HEADER)
    if len(rest) < tarfile.BLOCKSIZE or any(rest[: tarfile.BLOCKSIZE]):
        raise SourceError(f"{path.name} is cut short, or damaged at byte {offset:,}")
    if len(rest) == _LONGEST_HEADER or any(rest):
        raise SourceError(f"{path.name} is refused: there are more bytes after its end")


class _CarefulStream:
    """What tarfile reads from: a header that claims to be long is refused, not read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.tell = stream.tell
        self.seek = stream.seek
        self.seekable = stream.seekable

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header claims a length of {size:,} bytes")
        return self._stream.read(size)


class _Part:
    """A member of a plain tar, in a stream of its own, which outlives the walk that found it."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        self._start, self._size = start, size
        self._stream = path.open("rb")
        self._stream.seek(start)
        self.close = self._stream.close

    def read(self, size: int) -> bytes:
        wanted = min(size, self._start + self._size - self._stream.tell())
        part = self._stream.read(wanted)
        if len(part) < wanted:
            raise tarfile.ReadError("unexpected end of data")
        return part

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self._stream.tell() - self._start, self._size)[whence]
        place = min(max(base + offset, 0), self._size)
        self._stream.seek(self._start + place)
        return place


class _MemberStream(io.RawIOBase):
    """The bytes of a member; whatever goes wrong is the archive's fault, and is said so."""

    def __init__(self, source: IO[bytes], path: Path, name: str) -> None:
        self._source = source
        self._explain = partial(explain_errors, path, name)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._explain():
            part = self._source.read(min(len(buffer), _CHUNK))
        buffer[: len(part)] = part
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with self._explain():
            return self._source.seek(offset, whence)

    def close(self) -> None:
        self._source.close()
        super().close()


def _offer(path: Path, name: str, entry: Entry) -> Member:
    def open_stream() -> BinaryIO:
        with explain_errors(path, name):
            source = entry.open()
        return io.BufferedReader(_MemberStream(source, path, name), _CHUNK)

    return Member(name, entry.size, open_stream)


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


_READERS: dict[str, Callable[[Path, Gate], Iterator[Member]]] = {
    "zip": _read_zip,
    "tar": _read_tar,
    "tar.gz": _read_tar_gz,
}
_INDEXES: dict[str | None, Callable[[Path, int, int], dict[str, Member]]] = {
    "zip": _index_zip,
    "tar": _index_tar,
}
