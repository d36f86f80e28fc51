"""Archives that must be unpacked are, and the hostile ones are refused with nothing outside."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medkit.errors import SourceError
from medkit.sources.gate import Bounds
from medkit.sources.unpacking import detect_format, iterate_members, open_member, unpack

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


@pytest.mark.parametrize("kind", WRITERS)
def test_an_archive_is_unpacked_whole(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path / "no-suffix-needed", CONTENT)
    assert detect_format(path) == kind
    assert unpack(path, tmp_path / "out") == 3
    assert read_tree(tmp_path / "out") == CONTENT
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


@pytest.mark.parametrize("kind", WRITERS)
def test_members_are_read_without_unpacking(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path / "archive", CONTENT)
    found = {}
    for member in iterate_members(path):
        with member.open() as stream:
            found[member.name] = stream.read()
            assert len(found[member.name]) == member.size
            stream.seek(1)
            assert stream.read(2) == CONTENT[member.name][1:3]
    assert found == CONTENT
    with open_member(path, "folder/b.dcm") as stream:
        assert stream.read() == CONTENT["folder/b.dcm"]
    with pytest.raises(SourceError, match="no member 'z'"), open_member(path, "z"):
        pass


def test_the_index_of_a_zip_is_read_once_while_it_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    real = zipfile.ZipFile

    def count(path: object) -> zipfile.ZipFile:
        opened.append(path)
        return real(path)  # type: ignore[arg-type]

    path = write_zip(tmp_path / "set.zip", CONTENT)
    monkeypatch.setattr(zipfile, "ZipFile", count)
    for _ in range(3):
        with open_member(path, "a.dcm") as stream:
            assert stream.read() == b"one"
    assert len(opened) == 1
    monkeypatch.undo()
    write_zip(path, {"a.dcm": b"other"})
    with open_member(path, "a.dcm") as stream:
        assert stream.read() == b"other"


def test_the_index_of_a_tar_is_read_once_while_it_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers: list[object] = []
    real = tarfile.TarFile.next

    def count(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
        headers.append(archive)
        return real(archive)

    path = write_tar(tmp_path / "set.tar", CONTENT)
    monkeypatch.setattr(tarfile.TarFile, "next", count)
    for _ in range(3):
        for name, content in CONTENT.items():
            with open_member(path, name) as stream:
                assert stream.seek(0, io.SEEK_END) == len(content)
                assert stream.seek(1) <= len(content)
                assert stream.read() == content[1:]
    assert len(set(map(id, headers))) == 1
    write_tar(path, {"a.dcm": b"others, and more " * 1000})
    with open_member(path, "a.dcm") as stream:
        assert stream.read(6) == b"others"


def test_members_that_are_passed_over_need_not_be_read(tmp_path: Path) -> None:
    for kind, write in WRITERS.items():
        path = write(tmp_path / f"archive.{kind}", CONTENT)
        assert [member.name for member in iterate_members(path)] == list(CONTENT)


def test_a_tree_packed_from_a_dot_and_a_zip64_are_unpacked(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "dot.tar", "w") as archive:
        add_special(archive, ".", tarfile.DIRTYPE)
        add_file(archive, "./a/b", b"x")
        add_special(archive, "./a", tarfile.DIRTYPE)
    assert unpack(tmp_path / "dot.tar", tmp_path / "dot") == 1
    assert read_tree(tmp_path / "dot") == {"a/b": b"x"}
    with zipfile.ZipFile(tmp_path / "64.zip", "w") as packed:
        with packed.open("a", "w", force_zip64=True) as member:
            member.write(b"x")
        packed.mkdir("empty")
    assert unpack(tmp_path / "64.zip", tmp_path / "64") == 1


def test_an_archive_in_an_archive_stays_packed(tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "inner.zip", {"a": b"x"}).read_bytes()
    unpack(write_zip(tmp_path / "outer.zip", {"inner.zip": inner}), tmp_path / "out")
    assert read_tree(tmp_path / "out") == {"inner.zip": inner}


@pytest.mark.parametrize(
    "content",
    [b"", b"text", bytes(2048), gzip.compress(b"not a tar"), b"\x1f\x8b damaged"],
    ids=["empty", "text", "zeros", "gzip-of-text", "half-a-gzip"],
)
def test_other_files_are_no_archives(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.zip"
    path.write_bytes(content)
    assert detect_format(path) is None
    with pytest.raises(SourceError, match=r"file\.zip is not an archive"):
        unpack(path, tmp_path / "out")


# ---- The corpus: each writes one hostile archive. "outside" is a path beside the target. --------

NAMES = {
    "climbs": "../outside",
    "climbs-within": "a/../../outside",
    "absolute": "/outside",
    "drive": "C:/outside",
    "backslash": "..\\outside",
    "empty-part": "a//b",
    "dot-part": "a/./b",
    "device": "a/CON",
    "device-with-suffix": "nul.dcm",
    "device-with-superscript": "COM¹",
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
}


def write_pair(path: Path, first: str, second: str) -> Path:
    with tarfile.open(path, "w") as archive:
        add_file(archive, first)
        add_file(archive, second)
    return path


@pytest.mark.parametrize("case", CORPUS)
def test_a_hostile_archive_is_refused_and_nothing_is_left(case: str, tmp_path: Path) -> None:
    house = tmp_path / "house"
    house.mkdir()
    path = CORPUS[case](tmp_path / "archive")
    with pytest.raises(SourceError, match="archive") as caught:
        unpack(path, house / "deep" / "target", bounds=SMALL)
    assert len(str(caught.value)) < 400
    assert "\x1b" not in str(caught.value)
    assert read_tree(tmp_path) == {"archive": path.read_bytes()}
    assert not (house / "deep" / "target").exists()
    with pytest.raises(SourceError):
        for member in iterate_members(path, bounds=SMALL):
            with member.open() as stream:
                stream.read()


def test_a_refusal_names_archive_and_member_and_says_what_would_work(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "set.zip", {"good": b"", "CON": b""})
    with pytest.raises(SourceError, match=r"set\.zip is refused: its member 'CON' .* another tool"):
        next(iter(iterate_members(path)))


def test_an_archive_larger_than_the_free_disk_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    path = write_zip(tmp_path / "set.zip", {"a": b"x" * 100})
    with pytest.raises(SourceError, match="unpacks to 100 bytes or more, and 10 are free"):
        unpack(path, tmp_path / "out")


def test_a_target_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    path = write_zip(tmp_path / "set.zip", CONTENT)
    with pytest.raises(SourceError, match="exists already"):
        unpack(path, tmp_path / "out")


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "half").write_bytes(b"x")
    unpack(write_zip(tmp_path / "set.zip", CONTENT), tmp_path / "out")
    assert read_tree(tmp_path / "out") == CONTENT
    assert not (tmp_path / ".out.part").exists()


PARTS = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.lists(PARTS, min_size=1, max_size=3).map("/".join), st.binary()))
def test_any_names_are_unpacked_as_they_are_or_refused(
    tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = write_tar(folder / "archive", members)
    try:
        unpack(path, folder / "out")
    except SourceError:
        assert read_tree(folder) == {"archive": path.read_bytes()}
    else:
        assert read_tree(folder / "out") == members


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(WRITERS)), st.integers(0), st.integers(1, 255))
def test_a_damaged_archive_is_refused_or_right(
    tmp_path_factory: pytest.TempPathFactory, kind: str, position: int, flip: int
) -> None:
    """One byte changed anywhere: a clear error, or each member's bytes as they were.

    Where a format keeps no checksum of it, a name can change (an empty file's to a folder's), and
    in a tar content too.
    """
    folder = tmp_path_factory.mktemp("damaged")
    path = WRITERS[kind](folder / "archive", CONTENT)
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= flip
    path.write_bytes(content)
    try:
        unpack(path, folder / "out")
    except SourceError:
        assert not (folder / "out").exists()
        return
    found, expected = (
        sorted(filter(None, tree.values())) for tree in (read_tree(folder / "out"), CONTENT)
    )
    assert [len(content) for content in found] == [len(content) for content in expected]
    if kind != "tar":
        assert found == expected
