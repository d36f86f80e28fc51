# ruff: noqa: F811 - fixtures of another module
"""Archives go to other places and back: resumed, verified, and not by mistake."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_trees import Counts, bucket, memory, ssh  # noqa: F401 - fixtures

from medkit.archive import pack as packing
from medkit.archive import relay
from medkit.archive.archive import MANIFEST, Archive
from medkit.archive.instances import list_tree
from medkit.archive.pack import pack
from medkit.archive.push import count_identified, pull, push
from medkit.archive.relay import push_tree
from medkit.archive.unpack import unpack
from medkit.archive.verify import verify
from medkit.errors import DiskFullError, SourceError, UsageError
from medkit.sources import placing, uploads
from medkit.testing import write_dicom
from medkit.workspace import dump_json, hash_file

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
    begun = dump_json(Archive.open(archive).facts)
    (tmp_path / "there" / f"{MANIFEST}.part").write_bytes(begun)
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
    assert count_identified(Archive.open(archive).index) == (20, 20)
    with pytest.raises(UsageError, match=r"20 files .* --identified"):
        push(archive, f"{memory}/archive")
    push(archive, str(tmp_path / "here"))  # no other machine


def test_folders_are_made_with_few_questions(
    ssh: tuple[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sshfs = pytest.importorskip("sshfs")
    asked: list[str] = []
    for name in ("mkdir", "makedirs"):
        right = getattr(sshfs.SSHFileSystem, name)

        def count(*rest: Any, name: str = name, right: Any = right, **more: Any) -> None:
            asked.append(name)
            right(*rest, **more)

        monkeypatch.setattr(sshfs.SSHFileSystem, name, count)
    for there, expected in (
        (f"{ssh[0]}/new", ["mkdir", "mkdir"]),
        (f"{ssh[0]}/new", []),
        (f"{ssh[0]}/very/new", ["mkdir", "makedirs", "mkdir"]),
    ):
        asked.clear()
        placing.FarFolder(there, ("shards",))
        assert asked == expected
    placing.FarFolder(f"{ssh[0]}/very/new", ("shards",)).write("shards/a", b"a")
    assert (tmp_path / "served" / "tree" / "very" / "new" / "shards" / "a").read_bytes() == b"a"


# ---- S3, by parts --------------------------------------------------------------------------------


def list_uploads() -> list[str]:
    import s3fs

    system = s3fs.S3FileSystem()
    found = system.call_s3("list_multipart_uploads", Bucket="bucket")
    return [one["Key"] for one in found.get("Uploads", [])]


def test_an_archive_goes_to_s3_and_back(archive: Path, bucket: Counts, tmp_path: Path) -> None:
    check_travel(archive, "s3://bucket/archive", tmp_path / "back")


def test_an_upload_to_s3_goes_on_after_its_last_part(
    archive: Path, bucket: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    # S3 wants parts of 5 MiB; the server of this test is told that small ones will do.
    monkeypatch.setattr(uploads, "_PART", 1 << 20)
    monkeypatch.setenv("S3_UPLOAD_PART_MIN_SIZE", "1024")
    monkeypatch.setattr("moto.settings.S3_UPLOAD_PART_MIN_SIZE", 1024, raising=False)
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1024, raising=False)
    parts = -(-(archive / SHARD).stat().st_size // (1 << 20))
    assert parts == 4
    right = placing.FarFolder._send

    def break_off(far: Any, path: str, source: Path, there: int, told: Any) -> None:
        sent: list[int] = []

        def stop(size: int) -> None:
            sent.append(size)
            if len(sent) == 2 and path == SHARD:
                raise ConnectionResetError("broken off")
            told(size)

        right(far, path, source, there, stop)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="broken off"):
        patch.setattr(placing.FarFolder, "_send", break_off)
        push(archive, "s3://bucket/broken", identified=True, streams=1)
    assert list_uploads() == [f"broken/{SHARD}"]
    bucket.clear()
    push(archive, "s3://bucket/broken", identified=True)
    assert bucket.requests["upload_part"] == parts - 2
    assert bucket.requests["create_multipart_upload"] == 0
    assert bucket.bytes < 10_000  # compared by what S3 says, and not read back
    assert list_uploads() == []


def test_an_upload_that_is_given_up_is_ended(archive: Path, bucket: Counts, tmp_path: Path) -> None:
    import s3fs

    system = s3fs.S3FileSystem()
    system.call_s3("create_multipart_upload", Bucket="bucket", Key="given-up/shards/00009.zip")
    system.call_s3("create_multipart_upload", Bucket="bucket", Key="given-up-by-others/x.zip")
    system.pipe_file("bucket/given-up/shards/00007.zip", b"of an archive that was longer")
    push(archive, "s3://bucket/given-up", identified=True)
    assert list_uploads() == ["given-up-by-others/x.zip"]
    system.invalidate_cache()
    assert not system.exists("bucket/given-up/shards/00007.zip")
    assert system.exists(f"bucket/given-up/{SHARD}")


# ---- a tree, packed on its way -------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long") / "tree"
    noise = np.random.default_rng(1)
    for number in range(40):
        write_dicom(folder / f"{number:02d}.dcm", noise.integers(0, 2**16, (400, 400), np.uint16))
    return folder


def push_small(tree: Path, target: str, work: Path, **more: Any) -> Any:
    return push_tree(tree, target, work, shard_size=1 << 20, workers=0, identified=True, **more)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medkit.archive.plan._PIECE_FILES", 2)


def check_pushed(tree: Path, target: str, tmp_path: Path) -> None:
    pack(tree, tmp_path / "expected", shard_size=1 << 20, workers=0)
    pull(target, tmp_path / "pulled")
    assert hash_files(tmp_path / "pulled") == hash_files(tmp_path / "expected")


def test_a_tree_goes_by_sftp_while_it_is_packed(
    tree: Path, ssh: tuple[str, Any], tmp_path: Path
) -> None:
    found = push_small(tree, f"{ssh[0]}/archive", tmp_path / "work")
    assert found.files > 10
    assert found.identified == 40
    assert not (tmp_path / "work" / "archive").exists()
    check_pushed(tree, f"{ssh[0]}/archive", tmp_path)
    again = push_small(tree, f"{ssh[0]}/archive", tmp_path / "work")
    assert (again.files, again.skipped, again.identified) == (0, found.files, 40)
    assert not (tmp_path / "work" / "archive").exists()


def test_packing_begins_before_the_connection_is_made(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, waited = threading.Event(), []
    batch, begin = packing.pack_batch, relay._begin

    def wait(*args: Any) -> Any:
        waited.append(packed.wait(60))
        return begin(*args)

    monkeypatch.setattr(packing, "pack_batch", lambda one: [batch(one), packed.set()][0])
    monkeypatch.setattr(relay, "_begin", wait)
    assert push_small(tree, str(tmp_path / "there"), tmp_path / "work").files > 10
    assert waited == [True]


def test_a_place_that_is_not_there_is_told_before_all_is_packed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[int] = []
    batch, failed = packing.pack_batch, threading.Event()

    def refuse(*_: Any) -> Any:
        failed.set()
        raise ConnectionRefusedError("nobody listens")

    def count(one: Any) -> int:
        failed.wait(60)
        numbers.append(one.number)
        return batch(one)

    monkeypatch.setattr(packing, "pack_batch", count)
    monkeypatch.setattr(relay, "_begin", refuse)
    with pytest.raises(OSError, match="nobody listens"):
        push_small(tree, str(tmp_path / "there"), tmp_path / "work")
    assert len(numbers) <= 2


def test_few_shards_are_here_at_a_time(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most: list[int] = []
    right = placing.FarFolder.put

    def count(far: Any, path: str, *rest: Any) -> None:
        most.append(len([*(tmp_path / "work" / "archive" / "shards").glob("*.zip")]))
        right(far, path, *rest)

    monkeypatch.setattr(placing.FarFolder, "put", count)
    found = push_small(tree, str(tmp_path / "there"), tmp_path / "work", streams=2)
    assert found.files > 10
    assert max(most) <= 5  # two on their way, one that waits, one that is made, one just done
    check_pushed(tree, str(tmp_path / "there"), tmp_path)


@pytest.mark.parametrize("at", [1, 5, 12])
def test_a_tree_that_broke_off_goes_on_and_sends_no_shard_twice(
    at: int, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    right = placing.FarFolder.put

    def break_off(far: Any, path: str, *rest: Any) -> None:
        if len(sent) == at:
            raise ConnectionResetError("broken off")
        right(far, path, *rest)
        sent.append(path)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="broken off"):
        patch.setattr(placing.FarFolder, "put", break_off)
        push_small(tree, str(tmp_path / "there"), tmp_path / "work", streams=1)
    packed: list[int] = []
    batch = packing.pack_batch
    monkeypatch.setattr(packing, "pack_batch", lambda one: packed.append(one.number) or batch(one))
    found = push_small(tree, str(tmp_path / "there"), tmp_path / "work")
    check_pushed(tree, str(tmp_path / "there"), tmp_path)
    assert found.files == len(Archive.open(tmp_path / "there").contents) - at
    assert len(packed) < 20 + 20  # the second pack above included


def test_a_tree_that_changed_sends_what_is_new_and_removes_what_is_not(
    tree: Path, tmp_path: Path
) -> None:
    there, copy = tmp_path / "there", tmp_path / "copy"
    first = push_small(tree, str(there), tmp_path / "work")
    copy.mkdir()
    for path in sorted(tree.iterdir())[:30]:  # the shards of the first files are the same
        (copy / path.name).write_bytes(path.read_bytes())
        state = path.stat()
        os.utime(copy / path.name, ns=(state.st_atime_ns, state.st_mtime_ns))
    found = push_small(copy, str(there), tmp_path / "work")
    assert found.skipped > 5
    assert found.files < first.files
    check_pushed(copy, str(there), tmp_path)


def test_the_archive_is_kept_where_that_is_asked(tree: Path, tmp_path: Path) -> None:
    for skipped in (0, 1):
        found = push_small(tree, str(tmp_path / "there"), tmp_path / "work", keep=tmp_path / "here")
        assert (found.skipped > 0) == bool(skipped)
        assert found.files + found.skipped == len(Archive.open(tmp_path / "here").contents)
    assert hash_files(tmp_path / "here") == hash_files(tmp_path / "there")
    assert verify(tmp_path / "here", workers=0) == []


def test_an_identified_tree_does_not_leave_unasked(
    tree: Path, memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"40 files .* --identified"):
        push_tree(tree, f"{memory}/archive", tmp_path / "work", workers=0)
    assert placing.FarFolder(f"{memory}/archive", ("shards",)).list_files() == []
    # Nor where a file changes after its header was read.
    monkeypatch.setattr("medkit.archive.relay.list_tree", lambda *_: list_tree(tmp_path))
    with pytest.raises(UsageError, match="--identified"):
        push_tree(tree, f"{memory}/archive", tmp_path / "work", workers=0)
    there = placing.FarFolder(f"{memory}/archive", ("shards",)).list_files()
    assert there == [f"{MANIFEST}.part"]


def test_receipts_are_of_one_place(tree: Path, tmp_path: Path) -> None:
    """What was deleted here is packed anew when it is gone over there."""
    there = tmp_path / "there"
    push_small(tree, str(there), tmp_path / "work")
    shutil.rmtree(there)
    push_small(tree, str(there), tmp_path / "work")
    check_pushed(tree, str(there), tmp_path)


def test_a_full_disk_is_a_clear_error_and_the_same_call_goes_on(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, back = tmp_path / "there", tmp_path / "back"

    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(DiskFullError, match="no room left"):
        patch.setattr("medkit.archive.relay.write_receipt", fill)
        push_small(tree, str(there), tmp_path / "work")
    push_small(tree, str(there), tmp_path / "work")
    check_pushed(tree, str(there), tmp_path)
    with monkeypatch.context() as patch, pytest.raises(DiskFullError, match="no room left"):
        patch.setattr("medkit.archive.push._fetch", fill)
        pull(str(there), back)
    pull(str(there), back)
    with monkeypatch.context() as patch, pytest.raises(DiskFullError, match="no room left"):
        patch.setattr("medkit.archive.unpack._write_file", fill)
        unpack(back, tmp_path / "files", workers=0)
    unpack(back, tmp_path / "files", workers=0)
    assert hash_files(tmp_path / "files") == hash_files(tree)
