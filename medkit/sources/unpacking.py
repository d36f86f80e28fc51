"""The one road into archives; every member passes `medkit.sources.gate`.

Zip (also ZIP64; stored or deflated, and the shards of `medkit pack`), tar, and tar in gzip. An
archive in an archive stays as it is, unless `unpack` is asked to go deeper: then all of them share
the bounds of the outermost.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast

import numpy as np

from medkit.engine import Progress, silent
from medkit.errors import SourceError
from medkit.sources import zstd
from medkit.sources.gate import DEFAULT_BOUNDS, Bounds, Entry, Gate, explain_errors, show_name
from medkit.sources.members import Member, Part, open_archive, open_zipped
from medkit.sources.splits import Joined, find_folder, group_parts, name_whole
from medkit.sources.streams import File

_CHUNK = 1 << 16
_MEGABYTE = 1 << 20
# No header of a tar is longer (names, attributes); tarfile reads each whole into memory.
_LONGEST_HEADER = _MEGABYTE
_ZIP_ENTRY = b"PK\x01\x02"
_LONGEST_DIRECTORY = 1 << 28
_ZIP_LOCAL_HEADER = 30  # bytes before the member's name (APPNOTE 4.3.7)

_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
_OTHER_ZIPS = {
    *(".npz", ".keras", ".whl", ".jar", ".apk", ".mrb", ".kmz", ".epub"),
    *(".docx", ".xlsx", ".pptx", ".odt", ".ods", ".odp"),
}
# Takes path, size and SHA-256 of a file that was unpacked.
Note = Callable[[str, int, str], None]

_SPECIAL = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def detect_format(path: File) -> str | None:
    """Return ``"zip"``, ``"tar"`` or ``"tar.gz"`` by the first bytes of a file, or None."""
    with path.open("rb") as handle:
        head = handle.read(tarfile.BLOCKSIZE)
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return "zip"
    if not head.startswith(b"\x1f\x8b"):
        return "tar" if _is_tar(head) else None
    try:
        with path.open("rb") as packed, gzip.open(packed) as stream:
            return "tar.gz" if _is_tar(stream.read(tarfile.BLOCKSIZE)) else None
    except (OSError, EOFError, zlib.error):
        return None


def iterate_members(path: File, *, bounds: Bounds = DEFAULT_BOUNDS) -> Iterator[Member]:
    """Yield the files of an archive, in its order, without unpacking any.

    Parameters
    ----------
    path : Path, or a file far away as of `trees.locate_file`
        A zip, a tar or a tar in gzip; its first bytes decide, not its suffix.
    bounds : Bounds
        What is refused above.

    Raises
    ------
    SourceError
        If it is no archive, is damaged, or has a member that the gate refuses. A zip is checked
        whole before its first member is yielded; a tar can only be checked on the way.
    """
    yield from _pass_gate(path, Gate(path, bounds))


@contextmanager
def open_member(path: File, name: str) -> Iterator[BinaryIO]:
    """Yield the bytes of one member of an archive; see `iterate_members`.

    The index of a zip or a tar is kept for the next member. A tar in gzip is read from its start
    each time: unpack one that is read from often.

    Raises
    ------
    SourceError
        Also if there is no such member.
    """
    with explain_errors(path):
        packed, state = detect_format(path) == "tar.gz", path.stat()
    # A name of its own keeps the walk, and with it the archive, open.
    walk = (member for member in iterate_members(path) if member.name == name)
    key = path, state.st_size, state.st_mtime_ns
    found = next(walk, None) if packed else _index(*key).get(name)
    if found is None:
        raise SourceError(f"{path.name} has no member {show_name(name)}")
    with found.open() as stream:
        yield stream


def is_packed(path: File, name: str) -> bool:
    """Tell whether a file that is called so is an archive to unpack, or a part of one.

    Some formats are zips with another meaning, such as npz and docx: these are not.
    """
    if PurePosixPath(name).suffix.lower() in _OTHER_ZIPS:
        return False
    return bool(name_whole(name)) or detect_format(path) is not None


def is_named_packed(name: str) -> bool:
    """Tell whether a file is called like an archive that can be read here."""
    return name.lower().endswith(_SUFFIXES)


def unpack(
    path: File,
    target: Path,
    *,
    bounds: Bounds = DEFAULT_BOUNDS,
    progress: Progress = silent,
    nested: int = 0,
    note: Note | None = None,
) -> int:
    """Unpack an archive into a new folder, whole or not at all.

    The members are written into a folder beside, which takes its final name when the last of
    them is in it. Empty folders are left out.

    Parameters
    ----------
    path : Path, or a file as of `streams.File`
        The archive.
    target : Path
        The folder, which does not exist.
    bounds : Bounds
        What is refused above; what is in archives within it counts too.
    progress : callable
        Told of files.
    nested : int
        How deep archives in it are unpacked, each into a folder of its name; deeper ones stay
        packed.
    note : callable, optional
        Told of each file: its path, its size and its SHA-256.

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
        room = shutil.disk_usage(beside).free
        writer = _Writer(beside, Gate(path, bounds, room), progress, note)
        writer.write(path, "", nested)
        beside.replace(target)
    finally:
        if beside.exists():
            shutil.rmtree(beside)
    return writer.files


class _Writer:
    """Writes the members of an archive, and of archives in it, through one gate."""

    def __init__(self, folder: Path, gate: Gate, progress: Progress, note: Note | None) -> None:
        self._folder, self._gate = folder, gate
        self._progress, self._note = progress, note
        self.files = 0

    def write(self, path: File, below: str, nested: int) -> None:
        """Write the members of an archive below a folder."""
        parts: list[str] = []
        for member in _pass_gate(path, self._gate.below(path, below)):
            name = below + member.name
            with explain_errors(path, member.name):
                sha256 = self._write_member(member, self._folder / name)
            if nested and name_whole(name):
                parts.append(name)
            elif not (nested and is_named_packed(name) and self._enter([name], nested)):
                self._take(name, member.size, sha256)
        for whole in group_parts(parts).values():
            self._enter(whole, nested)

    def _write_member(self, member: Member, place: Path) -> str:
        place.parent.mkdir(parents=True, exist_ok=True)
        sum_so_far = hashlib.sha256()
        with closing(member.source()) as source, place.open("xb") as sink:
            while part := source.read(_CHUNK):
                if self._note:
                    sum_so_far.update(part)
                sink.write(part)
        return sum_so_far.hexdigest()

    def _take(self, name: str, size: int, sha256: str) -> None:
        self.files += 1
        self._progress(self.files, None, "files")
        if self._note:
            self._note(name, size, sha256)

    def _enter(self, names: Sequence[str], nested: int) -> bool:
        """Unpack an archive that was unpacked, and remove it; False if it is none."""
        paths = [self._folder / name for name in names]
        inner: File = paths[0] if len(paths) == 1 else Joined(find_folder(names[0]), paths)
        if detect_format(inner) is None:
            return False
        self.write(inner, f"{find_folder(names[0])}/", nested - 1)
        for path in paths:
            path.unlink()
        return True


def _pass_gate(path: File, gate: Gate) -> Iterator[Member]:
    with explain_errors(path):
        kind = detect_format(path)
        if kind is None:
            raise SourceError(f"{path.name} is not an archive; zip, tar and tar.gz are read")
        yield from _READERS[kind](path, gate)


@lru_cache(maxsize=4)
def _index(path: File, size: int, mtime_ns: int) -> dict[str, Member]:
    """Return the members of a zip or a tar by name.

    Reading the index anew for each of its members would take the square of their number. Size
    and time are there to tell one file from another of the same path.
    """
    return {member.name: member for member in iterate_members(path)}


def _read_zip(path: File, gate: Gate) -> Iterator[Member]:
    with open_archive(path) as handle:
        with zipfile.ZipFile(_CarefulDirectory(handle, gate.bounds.members)) as archive:
            infos, end = archive.infolist(), archive.start_dir
        del archive
        # Names and no members: these are made one by one, for there may be a million.
        names = [gate.admit(_describe_zip(info)) for info in infos]
        _refuse_overlaps(path, infos, end)
        for name, info in zip(names, infos, strict=True):
            if _describe_zip(info).kind == "file":
                with explain_errors(path, name):
                    start = _find_data(handle, info, end)
                yield _make_zipped(path, name, info, start)


def _describe_zip(info: zipfile.ZipInfo) -> Entry:
    # Not .filename: zipfile has cut it at the first NUL and turned separators around.
    name = info.orig_filename
    mode = stat.S_IFMT(info.external_attr >> 16)
    kind = "folder" if name.endswith("/") or mode == stat.S_IFDIR else "file"
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        kind = _SPECIAL.get(mode, "not a plain file")
    if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
        kind = "damaged: stored, and of two sizes"
    if info.flag_bits & 0x41:  # bit 0 encrypted, bit 6 strong encryption (APPNOTE 4.4.4)
        kind = "encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        kind = f"packed by method {info.compress_type}, where only stored and deflated are read"
    if _ZIP_ENTRY in info.comment + info.extra:
        # zipfile counts no members: one lost length, and the next is part of this one's comment.
        kind = "damaged: another member lies in its comment"
    size = _find_mark(info)
    if size is not None:
        return Entry(name.removesuffix(zstd.SUFFIX), kind, size, info.compress_size)
    return Entry(name, kind, info.file_size, info.compress_size)


def _find_mark(info: zipfile.ZipInfo) -> int | None:
    """Return the size of a file that `medkit pack` compressed by itself; None of all others."""
    return zstd.read_mark(info.extra) if info.orig_filename.endswith(zstd.SUFFIX) else None


def _refuse_overlaps(path: File, infos: Sequence[zipfile.ZipInfo], end: int) -> None:
    """Refuse members that share bytes: small zips that unpack to petabytes are made that way."""
    starts = np.array([info.header_offset for info in infos] + [end])
    sizes = np.array([info.compress_size for info in infos] + [0])
    order = np.lexsort((sizes, starts))
    starts, ends = starts[order], starts[order] + sizes[order] + _ZIP_LOCAL_HEADER
    if (wrong := np.flatnonzero(ends[:-1] > starts[1:])).size:
        raise SourceError(f"{path.name} is refused: members overlap at byte {starts[wrong[0]]:,}")


def _find_data(handle: BinaryIO, info: zipfile.ZipInfo, end: int) -> int:
    """Return where a member's bytes begin, which its local header alone tells (APPNOTE 4.3.7)."""
    encoding = "utf-8" if info.flag_bits & 0x800 else "cp437"  # APPNOTE 4.4.4, bit 11
    name = info.orig_filename.encode(encoding)
    handle.seek(info.header_offset)
    head = handle.read(_ZIP_LOCAL_HEADER + len(name))
    signature, flags, length, extra = struct.unpack_from("<4s2xH18xHH", head)
    start = info.header_offset + _ZIP_LOCAL_HEADER + length + extra
    if signature != b"PK\3\4" or head[_ZIP_LOCAL_HEADER:] != name or length != len(name):
        raise zipfile.BadZipFile("its header is not what the directory says")
    if flags & 0x41 or start + info.compress_size > end:
        raise zipfile.BadZipFile("its header says that it is encrypted, or ends elsewhere")
    return int(start)


def _make_zipped(path: File, name: str, info: zipfile.ZipInfo, start: int) -> Member:
    stored = info.compress_type == zipfile.ZIP_STORED
    size = info.file_size
    source = partial(open_zipped, path, start, info.compress_size, size, info.CRC, stored)
    if (marked := _find_mark(info)) is not None:
        return Member(path, name, marked, None, lambda: zstd.Expanded(source(), marked))
    return Member(path, name, size, start if stored else None, source)


class _CarefulDirectory:
    """What zipfile reads from: a directory of too many members is refused, not made objects of."""

    def __init__(self, stream: BinaryIO, members: int) -> None:
        self._stream = stream
        self._members = members
        self.tell = stream.tell
        self.seek = stream.seek
        self.seekable = stream.seekable

    def read(self, size: int = -1) -> bytes:
        if size > _LONGEST_DIRECTORY:
            raise zipfile.BadZipFile(f"the directory claims a length of {size:,} bytes")
        part = self._stream.read(size)
        if part.count(_ZIP_ENTRY) > self._members:
            raise zipfile.BadZipFile(f"there are more than {self._members:,} members")
        return part


def _read_tar(path: File, gate: Gate) -> Iterator[Member]:
    with open_archive(path) as stream:
        yield from _read_tar_stream(path, gate, stream, packed=False)


def _read_tar_gz(path: File, gate: Gate) -> Iterator[Member]:
    with (
        path.open("rb") as handle,
        # All of it is wanted, and what is far away is better read by the megabyte.
        io.BufferedReader(cast("io.RawIOBase", handle), _MEGABYTE) as packed,
        gzip.open(packed) as stream,
    ):
        yield from _read_tar_stream(path, gate, stream, packed=True)


def _read_tar_stream(path: File, gate: Gate, stream: Any, *, packed: bool) -> Iterator[Member]:
    careful: Any = _CarefulStream(stream)
    with tarfile.open(fileobj=careful, mode="r:") as archive:
        while (info := archive.next()) is not None:
            # A list of a million members would fill memory.
            archive.members.clear()  # type: ignore[attr-defined]
            entry = _describe_tar(info)
            name = gate.admit(entry)
            if entry.kind == "file" and packed:
                yield Member(path, name, info.size, None, partial(_extract, archive, info))
            elif entry.kind == "file":
                start = info.offset_data
                part = partial(Part, path, start, info.size)
                yield Member(path, name, info.size, start, part)
        _check_end(path, careful, archive.offset)


def _describe_tar(info: tarfile.TarInfo) -> Entry:
    kind = "folder" if info.isdir() else "file"
    if info.issym() or info.islnk():
        kind = "a link"
    elif not (info.isreg() or info.isdir()) or info.issparse():
        kind = "not a plain file"
    return Entry(info.name, kind, info.size, None)


def _extract(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(info)
    if stream is None:
        raise SourceError(f"{show_name(info.name)} is not a plain file")
    return stream


def _check_end(path: File, stream: _CarefulStream, offset: int) -> None:
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


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


_READERS: dict[str, Callable[[File, Gate], Iterator[Member]]] = {
    "zip": _read_zip,
    "tar": _read_tar,
    "tar.gz": _read_tar_gz,
}
