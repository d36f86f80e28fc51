# ruff: noqa: F811 - fixtures of another module
"""Archives go to other places and back: resumed, verified, and not by mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_trees import memory, ssh  # noqa: F401 - fixtures

from medkit.archive.archive import MANIFEST, Archive
from medkit.archive.pack import pack
from medkit.archive.push import count_identified, pull, push
from medkit.archive.verify import verify
from medkit.errors import SourceError, UsageError
from medkit.sources import placing
from medkit.testing import write_dicom
from medkit.workspace import hash_file

SHARD = "shards/00001.zip"


def hash_files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".sha256"
    }


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree") / "tree"
    noise = np.random.default_rng(0)
    for number in range(20):
        write_dicom(tree / f"{number}.dcm", noise.integers(0, 2**16, (300, 300), np.uint16))
    clean = {"PatientName": "", "PatientID": "", "BurnedInAnnotation": "NO"}
    write_dicom(tree / "clean.dcm", noise.integers(0, 99, (30, 30), np.uint16), **clean)
    folder = tmp_path_factory.mktemp("archive") / "archive"
    pack(tree, folder, workers=0)
    return folder


class Sent:
    """Adds up the bytes that are told of."""

    done = 0

    def __call__(self, done: int, total: int | None, unit: str) -> None:
        self.done = done


def check_travel(archive: Path, target: str, folder: Path) -> None:
    found = push(archive, target, identified=True)
    assert found.files == len(Archive.open(archive).contents)
    again = push(archive, target, identified=True)
    assert (again.files, again.size, again.skipped) == (0, 0, found.files)
    pulled = pull(target, folder)
    assert hash_files(pulled.folder) == hash_files(archive)
    assert verify(folder, workers=0, restore=True) == []


def test_an_archive_goes_to_a_folder_and_back(archive: Path, tmp_path: Path) -> None:
    check_travel(archive, str(tmp_path / "there"), tmp_path / "back")
    assert hash_files(tmp_path / "there") == hash_files(archive)


def test_an_archive_goes_into_memory_and_back(
    archive: Path,
    memory: str,
    tmp_path: Path,
) -> None:
    check_travel(archive, f"{memory}/archive", tmp_path / "back")


def test_an_archive_goes_by_sftp_and_back(
    archive: Path,
    ssh: tuple[str, Any],
    tmp_path: Path,
) -> None:
    check_travel(archive, f"{ssh[0]}/archive", tmp_path / "back")


@pytest.mark.parametrize("flipped", [False, True])
def test_a_shard_goes_on_in_its_middle(
    flipped: bool, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray((archive / SHARD).read_bytes())
    half = len(content) // 2
    if flipped:
        content[100] ^= 1
    part = tmp_path / "there" / f"{SHARD}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content[:half])
    (tmp_path / "there" / f"{MANIFEST}.part").write_bytes((archive / MANIFEST).read_bytes())
    sent: list[int] = []
    right = placing.FarFolder._send

    def count(far: Any, path: str, source: Path, there: int, told: Any) -> None:
        right(far, path, source, there, told)
        if path == f"{SHARD}.part":
            sent.append(source.stat().st_size - there)

    monkeypatch.setattr(placing.FarFolder, "_send", count)
    push(archive, str(tmp_path / "there"))
    whole = (archive / SHARD).stat().st_size
    assert sent == ([whole - half, whole] if flipped else [whole - half])
    assert not part.exists()
    pull(str(tmp_path / "there"), tmp_path / "back")


def test_a_place_that_alters_files_is_found_out(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing.FarFolder, "_hash", lambda far, path: "0" * 64)
    with pytest.raises(SourceError, match=r"arrived .* as another file"):
        push(archive, str(tmp_path / "there"))
    assert not (tmp_path / "there" / MANIFEST).exists()


def test_another_archive_takes_the_place_of_one(archive: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_dicom(tmp_path / "tree" / "a.dcm", np.zeros((9, 9), np.uint16))
    pack(tmp_path / "tree", other, workers=0)
    there = tmp_path / "there"
    push(other, str(there))
    (there / f"{SHARD}.part").write_bytes(b"of the other")
    push(archive, str(there))
    assert hash_files(there) == hash_files(archive)


def test_a_pull_goes_on_and_refuses_what_is_damaged(archive: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    push(archive, str(there))
    with pytest.raises(SourceError, match="no archive"):
        pull(str(tmp_path), back)
    part = back / "shards" / ".00001.zip.part"
    part.parent.mkdir(parents=True)
    part.write_bytes((archive / SHARD).read_bytes()[:1000])
    assert pull(str(there), back).folder == back
    content = bytearray((there / SHARD).read_bytes())
    content[1000] ^= 1
    (there / SHARD).write_bytes(content)
    with pytest.raises(SourceError, match=r"00001\.zip .* another file"):
        pull(str(there), tmp_path / "second")
    assert not (tmp_path / "second" / MANIFEST).exists()


def test_identified_files_do_not_leave_unasked(
    archive: Path,
    memory: str,
    tmp_path: Path,
) -> None:
    assert count_identified(Archive.open(archive)) == (20, 20)
    with pytest.raises(UsageError, match=r"20 files .* --identified"):
        push(archive, f"{memory}/archive")
    push(archive, str(tmp_path / "here"))  # no other machine
