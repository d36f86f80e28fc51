"""Archives are looked into by the heads of their members: bytes are counted, not times."""

from __future__ import annotations

import io
import random
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medkit.catalog.archives import iterate_heads, list_stored
from medkit.catalog.headers import read_header
from medkit.errors import SourceError
from medkit.sources.unpacking import iterate_members, open_member
from medkit.testing import write_dicom

COUNT = 40
HEAD = 2**13
LISTING = 2**11  # bytes a member that finding it may cost


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Images of 200 KB, which do not compress."""
    path = tmp_path_factory.mktemp("image") / "image.dcm"
    noise = np.random.default_rng(0).integers(0, 2**16, (316, 316), np.uint16)
    write_dicom(path, noise)
    content = path.read_bytes()
    return {f"study/series {number // 9}/{number}.dcm": content for number in range(COUNT)}


def write_zip(path: Path, members: Mapping[str, bytes], method: int) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return path


def write_tar(path: Path, members: Mapping[str, bytes], mode: Any) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


WRITERS: dict[str, Callable[[Path, Mapping[str, bytes]], Path]] = {
    "stored": lambda path, members: write_zip(path, members, zipfile.ZIP_STORED),
    "deflated": lambda path, members: write_zip(path, members, zipfile.ZIP_DEFLATED),
    "tar": lambda path, members: write_tar(path, members, "w"),
    "tar.gz": lambda path, members: write_tar(path, members, "w:gz"),
}
IN_PLACE = ("stored", "tar")


class CountedFile(io.FileIO):
    """A file whose bytes are counted as they are read."""

    total = 0

    def readinto(self, buffer: Any, /) -> int:
        number = super().readinto(buffer) or 0
        CountedFile.total += number
        return number

    def read(self, size: int | None = -1, /) -> bytes:
        part: bytes = super().read(-1 if size is None else size) or b""
        CountedFile.total += len(part)
        return part

    def readall(self) -> bytes:
        return self.read()


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], int]:
    """Return how many bytes of files are read by a function."""

    def open_counted(path: Path, mode: str = "rb", buffering: int = -1) -> Any:
        raw = CountedFile(path, mode)
        size = io.DEFAULT_BUFFER_SIZE if buffering < 0 else buffering
        return raw if buffering == 0 else io.BufferedReader(raw, size)

    def count_bytes(work: Callable[[], object]) -> int:
        CountedFile.total = 0
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", open_counted)
            work()
        return CountedFile.total

    return count_bytes


Count = Callable[[Callable[[], object]], int]


def check_bytes(path: Path, read: int, each: int) -> None:
    if path.name == "tar.gz":  # once from front to back, and its beginning to tell what it is
        assert path.stat().st_size <= read <= path.stat().st_size + 2**18
    else:
        assert read <= COUNT * (each + LISTING) + 2**14


@pytest.mark.parametrize("kind", WRITERS)
def test_heads_alone_are_read(
    kind: str, members: dict[str, bytes], tmp_path: Path, count: Count
) -> None:
    path = WRITERS[kind](tmp_path / kind, members)
    found: list[tuple[str, int, bytes]] = []
    read = count(lambda: found.extend(iterate_heads(path, HEAD)))
    assert found == [(name, len(body), body[:HEAD]) for name, body in members.items()]
    check_bytes(path, read, HEAD + 2**12)


@pytest.mark.parametrize("kind", WRITERS)
def test_headers_read_heads_alone(
    kind: str, members: dict[str, bytes], tmp_path: Path, count: Count
) -> None:
    path = WRITERS[kind](tmp_path / kind, members)

    def read_headers() -> None:
        for member in iterate_members(path):
            with member.open() as stream:
                stream.read(1024)
                assert read_header(stream, member.size).kind == "image"

    check_bytes(path, count(read_headers), 2**14)


@pytest.mark.parametrize("kind", WRITERS)
def test_jumping_in_a_member_unpacks_it_once(
    kind: str, members: dict[str, bytes], tmp_path: Path, count: Count
) -> None:
    path = WRITERS[kind](tmp_path / kind, dict(list(members.items())[:3]))

    def jump() -> None:
        for member in iterate_members(path):
            body = members[member.name]
            with member.open() as stream:
                for place in (member.size - 9, 0, member.size // 2, 5, member.size - 4, 7) * 9:
                    assert stream.seek(place) == place
                    assert stream.read(9) == body[place : place + 9]

    read = count(jump)
    if list_stored(path) is None:
        assert read < 1.2 * path.stat().st_size + 2**16


def test_members_that_lie_there_as_they_are_are_found(
    members: dict[str, bytes], tmp_path: Path
) -> None:
    mixed = {"empty": b"", "folder/text": b"text", **members}
    for kind, write in WRITERS.items():
        path = write(tmp_path / kind, mixed)
        stored = list_stored(path)
        if kind not in IN_PLACE:
            assert stored is None
            continue
        assert stored is not None
        assert stored.names == list(mixed)
        with path.open("rb") as archive:
            for name, offset, size in zip(stored.names, stored.offsets, stored.sizes, strict=True):
                archive.seek(offset)
                assert archive.read(size) == mixed[name]


def test_fields_of_local_headers_move_no_offset(tmp_path: Path) -> None:
    """A zip may have fields in its local headers that its directory does not have."""
    path = tmp_path / "zip"
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("a", "w", force_zip64=True) as member:
            member.write(b"first")
        archive.writestr("\u00e4", b"second")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b", b"third")
    assert list(iterate_heads(path, 3)) == [
        ("a", 5, b"fir"),
        ("\u00e4", 6, b"sec"),
        ("b", 5, b"thi"),
    ]
    with open_member(path, "\u00e4") as stream:
        assert stream.read() == b"second"


def test_a_local_header_that_contradicts_the_directory_is_refused(tmp_path: Path) -> None:
    for place, what in ((0, b"XX"), (6, b"\1"), (26, b"\2"), (28, b"\xff\xff"), (30, b"c")):
        path = WRITERS["stored"](tmp_path / "zip", {"a": b"first", "b": b"second"})
        content = bytearray(path.read_bytes())
        content[place + 36 : place + 36 + len(what)] = what  # of the second, at byte 36
        path.write_bytes(content)
        with pytest.raises(SourceError, match="member 'b'"):
            list_stored(path)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_checksum_is_compared_where_all_is_read(kind: str, tmp_path: Path) -> None:
    body = random.Random(0).randbytes(50_000)
    path = WRITERS[kind](tmp_path / kind, {"a": body, "b": body})
    content = bytearray(path.read_bytes())
    content[40_000] ^= 1
    path.write_bytes(content)
    if kind != "tar.gz":
        assert [head for _, _, head in iterate_heads(path, 9)] == [body[:9]] * 2
    if kind != "tar":  # it has none
        with pytest.raises(SourceError):
            list(iterate_heads(path, len(body)))


def test_many_members_take_their_number_not_its_square(tmp_path: Path, count: Count) -> None:
    number = 3000
    for kind, write in WRITERS.items():
        path = write(tmp_path / kind, {f"{index}.dcm": b"x" * 600 for index in range(number)})
        read = count(lambda path=path: list(iterate_heads(path, 500)))  # type: ignore[misc]
        assert read < number * 4096


def test_a_directory_of_too_many_members_is_not_made_objects_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medkit.sources.gate import Bounds

    made: list[object] = []
    real = zipfile.ZipInfo.__init__
    path = WRITERS["stored"](tmp_path / "zip", {f"{index}": b"" for index in range(20)})

    def note(info: zipfile.ZipInfo, *arguments: Any) -> None:
        made.append(info)
        real(info, *arguments)

    monkeypatch.setattr(zipfile.ZipInfo, "__init__", note)
    with pytest.raises(SourceError, match="more than 10 members"):
        list(iterate_members(path, bounds=Bounds(members=10)))
    assert not made
