"""Archives that no honest program wrote, and why each of them is refused."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from medkit.sources.gate import Bounds

SMALL = Bounds(members=50, size=4 << 20, ratio=200, small=1 << 16)
CONTENT = {"a.dcm": b"one", "folder/b.dcm": b"two" * 1000, "folder/deep/c": b""}


def write_zip(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return path


def write_tar(path: Path, members: Mapping[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            add_file(archive, name, content)
    return path


def add_file(archive: tarfile.TarFile, name: str, content: bytes = b"x") -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def add_special(archive: tarfile.TarFile, name: str, kind: bytes, link: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    archive.addfile(info)


def read_tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


WRITERS: dict[str, Callable[[Path, Mapping[str, bytes]], Path]] = {
    "zip": write_zip,
    "tar": write_tar,
    "tar.gz": lambda path, members: write_tar(path, members, "w:gz"),
}


# ---- The corpus: each writes one hostile archive. "outside" is a path beside the target. --------

NAMES = {
    "climbs": "../outside",
    "climbs-within": "a/../../outside",
    "absolute": "/outside",
    "drive": "C:/outside",
    "backslash": "..\\outside",
    "empty-part": "a//b",
    "dot-part": "a/./b",
    "trailing-dot": "a./b",
    "trailing-space": "a /b",
    "control": "a\x1b[2J",
    "stream": "a.dcm:hidden",
    "long-part": "x" * 256,
    "long": "x/" * 501 + "y",
}
PAIRS = {
    "duplicate": ("a/b", "a/b"),
    "case": ("A.dcm", "a.dcm"),
    "case-of-a-folder": ("A/x", "a/y"),
    "unicode-form": ("e\u0301.dcm", "\u00e9.dcm"),
    "file-as-folder": ("a", "a/b"),
    "folder-as-file": ("a/b", "a"),
}


def edit_zip(path: Path, old: bytes, new: bytes) -> Path:
    """Change bytes of a zip that zipfile would not write."""
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


def write_zip_with_mode(path: Path, mode: int) -> Path:
    info = zipfile.ZipInfo("link")
    info.external_attr = mode << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "../outside")
    return path


def write_encrypted(path: Path) -> Path:
    write_zip(path, {"a": b"x"}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    return path


def write_bad_checksum(path: Path) -> Path:
    return edit_zip(write_zip(path, {"a": b"right"}, zipfile.ZIP_STORED), b"right", b"wrong")


def write_size_lie(path: Path) -> Path:
    write_zip(path, {"a": b"x" * 1000}, zipfile.ZIP_DEFLATED)
    return edit_zip(path, struct.pack("<L", 1000), struct.pack("<L", 10))


def write_overlap(path: Path) -> Path:
    """Write a zip in which two members are the same bytes."""
    write_zip(path, {"a": b"x" * 99, "b": b"x" * 99}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    second = content.rindex(b"PK\1\2")
    content[second + 42 : second + 46] = bytes(4)  # the offset of its local header
    path.write_bytes(content)
    return path


def write_link_chain(path: Path) -> Path:
    """Write the archive of CVE-2025-4517: a chain of links longer than PATH_MAX, then a way out."""
    with tarfile.open(path, "w") as archive:
        step, here = "d" * 247, ""
        for letter in "abcdefghijklmnop":
            add_special(archive, f"{here}{step}", tarfile.DIRTYPE)
            add_special(archive, f"{here}{letter}", tarfile.SYMTYPE, step)
            here += f"{step}/"
        chain = "/".join("abcdefghijklmnop") + "/" + "l" * 254
        add_special(archive, chain, tarfile.SYMTYPE, "../" * 16)
        add_special(archive, "escape", tarfile.SYMTYPE, f"{chain}/../outside")
        add_file(archive, "escape", b"written")
    return path


def write_special(kind: bytes, link: str = "") -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        with tarfile.open(path, "w") as archive:
            add_special(archive, "member", kind, link)
        return path

    return write


def write_long_header(size: int) -> Callable[[Path], Path]:
    """Write a tar whose long-name header claims that many bytes."""

    def write(path: Path) -> Path:
        info = tarfile.TarInfo("././@LongLink")
        info.type, info.size = tarfile.GNUTYPE_LONGNAME, size
        path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
        return path

    return write


def write_cut_tar(path: Path) -> Path:
    """Cut a tar between two members: tarfile alone does not notice."""
    write_tar(path, CONTENT)
    path.write_bytes(path.read_bytes()[:1024])
    return path


def write_damaged_tar(path: Path) -> Path:
    """Damage the second header of a tar: tarfile alone takes it for the end."""
    content = bytearray(write_tar(path, CONTENT).read_bytes())
    content[1024] ^= 1
    path.write_bytes(content)
    return path


def write_hidden_tar(path: Path) -> Path:
    """Write a second tar behind the end of the first, which other readers go on to."""
    path.write_bytes(write_tar(path, {"a": b"x"}).read_bytes() * 2)
    return path


def write_bad_gzip(path: Path) -> Path:
    content = bytearray(write_tar(path, CONTENT, "w:gz").read_bytes())
    content[-6] ^= 1  # in the checksum
    path.write_bytes(content)
    return path


def write_cut_gzip(path: Path) -> Path:
    path.write_bytes(write_tar(path, {"a": bytes(range(256)) * 64}, "w:gz").read_bytes()[:-40])
    return path


def write_many(path: Path) -> Path:
    return write_zip(path, {f"{number}": b"" for number in range(51)}, zipfile.ZIP_STORED)


def write_deep_bomb(path: Path) -> Path:
    """Write a zip of 1000 : 1 in members that are each small enough to pass."""
    return write_zip(path, {f"{number}": bytes(1 << 16) for number in range(8)})


def write_pair(path: Path, first: str, second: str) -> Path:
    with tarfile.open(path, "w") as archive:
        add_file(archive, first)
        add_file(archive, second)
    return path


def pack_zip(members: Mapping[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return sink.getvalue()


def write_nested_bomb(path: Path) -> Path:
    """Write zips of zips: each is small, and what is in them is not (as 42.zip)."""
    inner = pack_zip({f"{n}": bytes(1 << 15) for n in range(64)})
    return write_zip(path, {f"{n}.zip": inner for n in range(4)})


def write_nested_collision(path: Path) -> Path:
    """Write an archive in an archive, beside a file of the folder it would be unpacked to."""
    return write_zip(path, {"set/a.dcm": b"x", "set.zip": pack_zip({"a.dcm": b"y"})})


def write_nested_slip(path: Path) -> Path:
    return write_zip(path, {"deep/set.zip": pack_zip({"../../../outside": b"x"})})


def write_nested_gap(path: Path) -> Path:
    """Write the first and the third part of an archive into an archive."""
    inner = pack_zip({"a.dcm": b"x" * 999})
    return write_zip(path, {"set.zip.001": inner[:50], "set.zip.003": inner[50:]})


CORPUS: dict[str, Callable[[Path], Path]] = {
    **{
        f"{kind}-{case}": lambda path, kind=kind, name=name: WRITERS[kind](path, {name: b"x"})
        for case, name in NAMES.items()
        for kind in ("zip", "tar")
    },
    **{
        f"tar-{case}": lambda path, pair=pair: write_pair(path, *pair)
        for case, pair in PAIRS.items()
    },
    "zip-case": lambda path: write_zip(path, {"A": b"", "a": b""}),
    "zip-duplicate": lambda path: edit_zip(write_zip(path, {"a": b"", "b": b""}), b"b", b"a"),
    "zip-nul": lambda path: edit_zip(write_zip(path, {"a.dcm~.exe": b""}), b"~", b"\0"),
    "zip-symbolic-link": lambda path: write_zip_with_mode(path, 0o120777),
    "zip-device": lambda path: write_zip_with_mode(path, 0o020666),
    "zip-encrypted": write_encrypted,
    "zip-bzip2": lambda path: write_zip(path, {"a": b"x"}, zipfile.ZIP_BZIP2),
    "zip-folder-with-content": lambda path: write_zip(path, {"a/": b"x"}),
    "zip-checksum": write_bad_checksum,
    "zip-size-lie": write_size_lie,
    "zip-overlap": write_overlap,
    "zip-cut": lambda path: path.write_bytes(write_zip(path, CONTENT).read_bytes()[:-30]) and path,
    "zip-bomb": lambda path: write_zip(path, {"a": bytes(1 << 20)}),
    "zip-bomb-of-many": write_deep_bomb,
    "zip-too-large": lambda path: write_zip(path, {"a": bytes(5 << 20)}, zipfile.ZIP_STORED),
    "zip-too-many": write_many,
    "tar-bomb": lambda path: write_tar(path, {"a": bytes(1 << 20)}, "w:gz"),
    "tar-symbolic-link": write_special(tarfile.SYMTYPE, "../outside"),
    "tar-hard-link": write_special(tarfile.LNKTYPE, "../outside"),
    "tar-device": write_special(tarfile.CHRTYPE),
    "tar-pipe": write_special(tarfile.FIFOTYPE),
    "tar-sparse": write_special(tarfile.GNUTYPE_SPARSE),
    "tar-link-chain": write_link_chain,
    "tar-long-header": write_long_header(1 << 30),
    "tar-negative-header": write_long_header(-512),
    "tar-cut": write_cut_tar,
    "tar-damaged": write_damaged_tar,
    "tar-hidden": write_hidden_tar,
    "tar-gz-checksum": write_bad_gzip,
    "tar-gz-cut": write_cut_gzip,
    "nested-bomb": write_nested_bomb,
    "nested-collision": write_nested_collision,
    "nested-slip": write_nested_slip,
    "nested-gap": write_nested_gap,
}

# By the end of a case's name: what the refusal says.
REASONS = {
    "climbs": "has an empty part, '.' or '..' in its name",
    "climbs-within": "has an empty part, '.' or '..' in its name",
    "absolute": "has an absolute name or a backslash in it",
    "drive": 'has one of <>:"',
    "backslash": "has an absolute name or a backslash in it",
    "empty-part": "has an empty part, '.' or '..' in its name",
    "dot-part": "has an empty part, '.' or '..' in its name",
    "trailing-dot": "ends with a space or a dot",
    "trailing-space": "ends with a space or a dot",
    "control": "has control characters",
    "stream": 'has one of <>:"',
    "long-part": "has a part of over 255 bytes",
    "long": "has a name of over 1,000 characters",
    "duplicate": "takes the place of another",
    "case": "takes the place of another",
    "case-of-a-folder": "takes the place of another",
    "unicode-form": "takes the place of another",
    "file-as-folder": "takes the place of another, or lies in a file",
    "folder-as-file": "takes the place of another",
    "nul": "has control characters",
    "symbolic-link": "is a (symbolic )?link",
    "hard-link": "is a link",
    "device": "is (a device|not a plain file)",
    "pipe": "is not a plain file",
    "sparse": "is not a plain file",
    "encrypted": "is encrypted",
    "bzip2": "is packed by method 12",
    "folder-with-content": "is a folder with content",
    "zip-checksum": "its checksum is another one",
    "size-lie": "its checksum is another one|unexpected end",
    "overlap": "members overlap at byte",
    "zip-cut": "not a zip file",
    "bomb": "unpacks to [0-9,]+ bytes from few|makes [0-9,]+ bytes out of few",
    "bomb-of-many": "makes [0-9,]+ bytes out of few",
    "too-large": "makes more than 4,194,304 bytes in all",
    "too-many": "there are more than 50 members",
    "link-chain": "is a link",
    "long-header": "a header claims a length of",
    "negative-header": "a header claims a length of",
    "tar-cut": "is cut short, or damaged at byte",
    "damaged": "is cut short, or damaged at byte",
    "hidden": "there are more bytes after its end",
    "gz-checksum": "CRC check failed",
    "gz-cut": "end-of-stream marker",
    "nested-bomb": "is one of more than 50 members|bytes out of few|more than 50 members",
    "nested-collision": "cannot be unpacked: 'set/' is there already",
    "nested-slip": "has an empty part, '.' or '..' in its name",
    "nested-gap": "there are the parts 1, 3; they must go on from 1",
}


def find_reason(case: str) -> str:
    """Return what the refusal of a case says: that of the longest end of its name."""
    return REASONS[max(filter(case.endswith, REASONS), key=len)]
