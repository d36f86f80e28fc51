"""Archives that must be unpacked are; damaged ones are refused, or right."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
import zipfile
from pathlib import Path

import pytest
from hostile import (
    CONTENT,
    WRITERS,
    add_file,
    add_special,
    pack_zip,
    read_tree,
    write_tar,
    write_zip,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from medkit.errors import SourceError
from medkit.sources.splits import Joined
from medkit.sources.unpacking import detect_format, iterate_members, open_member, unpack


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


def test_a_refusal_names_archive_and_member_and_says_what_would_work(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "set.zip", {"good": b"", "a ": b""})
    with pytest.raises(SourceError, match=r"set\.zip is refused: its member 'a ' .* another tool"):
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


@pytest.mark.parametrize("kind", WRITERS)
def test_names_that_windows_keeps_for_devices_are_changed(kind: str, tmp_path: Path) -> None:
    names = {"a/CON": "a/CON_", "nul.dcm": "nul_.dcm", "COM¹": "COM¹_", "aux/b.dcm": "aux_/b.dcm"}
    path = WRITERS[kind](tmp_path / "archive", {name: name.encode() for name in names})
    unpack(path, tmp_path / "out")
    assert read_tree(tmp_path / "out") == {new: old.encode() for old, new in names.items()}
    with open_member(path, "nul_.dcm") as stream:
        assert stream.read() == b"nul.dcm"


def test_a_name_that_was_changed_takes_no_other_s_place(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "set.zip", {"con_": b"", "CON": b""})
    with pytest.raises(SourceError, match="takes the place of another"):
        unpack(path, tmp_path / "out")


# ---- Archives in archives, and in parts ----------------------------------------------------------


def cut(content: bytes, parts: int) -> list[bytes]:
    size = max(1, -(-len(content) // parts))
    return [content[start : start + size] for start in range(0, len(content), size)]


@pytest.mark.parametrize("kind", WRITERS)
def test_archives_in_an_archive_are_unpacked_as_deep_as_asked(kind: str, tmp_path: Path) -> None:
    deepest = pack_zip({"c.dcm": b"c"})
    middle = pack_zip({"b.dcm": b"b", "deepest.zip": deepest})
    path = WRITERS[kind](tmp_path / "archive", {"a.dcm": b"a", "x/middle.zip": middle})
    noted: dict[str, str] = {}
    files = unpack(
        path, tmp_path / "out", nested=1, note=lambda name, _, sha256: noted.update({name: sha256})
    )
    found = read_tree(tmp_path / "out")
    assert found == {
        "a.dcm": b"a",
        "x/middle/b.dcm": b"b",
        "x/middle/deepest.zip": deepest,
    }
    assert noted == {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}
    assert files == 3
    unpack(path, tmp_path / "all", nested=2)
    assert set(read_tree(tmp_path / "all")) == {"a.dcm", "x/middle/b.dcm", "x/middle/deepest/c.dcm"}


def test_what_is_a_zip_by_its_bytes_alone_stays_packed(tmp_path: Path) -> None:
    members = {"table.xlsx": pack_zip({"a": b"x"}), "set.npz": pack_zip({"b.npy": b"x"})}
    unpack(write_zip(tmp_path / "set.zip", members), tmp_path / "out", nested=2)
    assert read_tree(tmp_path / "out") == members


def test_an_archive_in_parts_within_an_archive_is_joined(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(5000)
    parts = cut(pack_zip({"a.dcm": content}), 3)
    members = {f"train.zip.{number:03}": part for number, part in enumerate(parts, 1)}
    unpack(write_zip(tmp_path / "set.zip", members), tmp_path / "out", nested=1)
    assert read_tree(tmp_path / "out") == {"train/a.dcm": content}


@given(
    st.binary(max_size=300),
    st.integers(1, 9),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 90))),
)
def test_joined_parts_read_as_the_file_that_they_were(
    tmp_path_factory: pytest.TempPathFactory,
    content: bytes,
    parts: int,
    reads: list[tuple[int, int]],
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    paths = []
    for number, part in enumerate(cut(content, parts) or [b""], 1):
        paths.append(folder / f"set.zip.{number:03}")
        paths[-1].write_bytes(part)
    joined = Joined("set.zip", paths)
    assert joined.stat().st_size == len(content)
    with joined.open("rb") as stream, io.BytesIO(content) as oracle:
        assert stream.read() == content
        for place, size in reads:
            assert stream.seek(place) == oracle.seek(place)
            assert stream.read(size) == oracle.read(size)


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
