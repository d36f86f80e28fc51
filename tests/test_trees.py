"""Trees far away: listed in order, read by their heads, through the drivers that people use."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers import start_s3

from medkit.catalog.archives import iterate_heads
from medkit.catalog.headers import read_header
from medkit.errors import UsageError
from medkit.sources.trees import (
    is_folder,
    is_remote,
    list_remote,
    locate_file,
    normalise_root,
    open_file,
    read_heads,
    read_ranges,
    stat_file,
)
from medkit.sources.unpacking import open_member
from medkit.testing import write_dicom

SIZE = 1_000_000
BODY = bytes(range(250)) * (SIZE // 250)
# In the order of code points, in which "-" and "." come before "/", and these before letters.
PATHS = ["a-b/z", "a.dcm", "a/b/c", "a/b.dcm", "a/é", "b/1", "b/10", "b/2", "中/x"]
ORDER = sorted(PATHS)


@pytest.fixture
def memory() -> Iterator[str]:
    fsspec = pytest.importorskip("fsspec", reason="the extra 'remote' is not installed")
    system = fsspec.filesystem("memory")
    for path in PATHS:
        system.pipe_file(f"/tree/{path}", BODY)
    yield "memory://tree"
    system.rm("/tree", recursive=True)


@dataclass
class Counts:
    """What a driver asked a server for."""

    requests: Counter[str] = field(default_factory=Counter)
    bytes: int = 0

    def clear(self) -> None:
        self.requests.clear()
        self.bytes = 0


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counts]:
    """A bucket of a real server of S3, at s3://bucket/tree."""
    s3fs = pytest.importorskip("s3fs", reason="the driver of s3:// is not installed")
    import fsspec

    with start_s3() as endpoint:
        options = {
            "key": "key",
            "secret": "secret",
            "endpoint_url": endpoint,
            "client_kwargs": {"region_name": "us-east-1"},
        }
        monkeypatch.setitem(fsspec.config.conf, "s3", options)
        system = s3fs.S3FileSystem()
        system.call_s3("create_bucket", Bucket="bucket")
        for path in PATHS:
            system.pipe_file(f"bucket/tree/{path}", BODY)
        system.pipe_file("bucket/tree/a/", b"")
        system.pipe_file("bucket/treehouse", b"not below it")
        yield count_calls(s3fs.S3FileSystem, monkeypatch)
        s3fs.S3FileSystem.clear_instance_cache()


def count_calls(driver: Any, monkeypatch: pytest.MonkeyPatch) -> Counts:
    from fsspec.asyn import sync_wrapper

    counts = Counts()
    real = driver._call_s3

    async def count(self: Any, method: str, *lists: Any, **options: Any) -> Any:
        counts.requests[method] += 1
        if method == "list_objects_v2":
            options["MaxKeys"] = 3
        answer = await real(self, method, *lists, **options)
        if method == "get_object":
            counts.bytes += answer["ContentLength"]
        return answer

    monkeypatch.setattr(driver, "_call_s3", count)
    monkeypatch.setattr(driver, "call_s3", sync_wrapper(count))
    return counts


class Server:
    """An SSH server of this process, in a thread of its own."""

    def __init__(self, asyncssh: Any, folder: Path) -> None:
        self._asyncssh = asyncssh
        self._folder = folder
        self.counts = Counts()
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.listening = self.call(self._listen())
        self.port = self.listening.get_port()

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    async def _listen(self) -> Any:
        asyncssh, counts, folder = self._asyncssh, self.counts, self._folder

        class Files(asyncssh.SFTPServer):  # type: ignore[misc, name-defined]
            def __init__(self, channel: Any) -> None:
                super().__init__(channel, chroot=os.fsencode(folder))

            def read(self, file: Any, offset: int, size: int) -> bytes:
                part: bytes = super().read(file, offset, size)
                counts.requests["read"] += 1
                counts.bytes += len(part)
                return part

        class Door(asyncssh.SSHServer):  # type: ignore[misc, name-defined]
            def begin_auth(self, user: str) -> bool:
                return False

        return await asyncssh.listen(
            "127.0.0.1", 0, server_host_keys=[self.key], server_factory=Door, sftp_factory=Files
        )

    def stop(self) -> None:
        async def close() -> None:
            self.listening.close()
            await self.listening.wait_closed()

        self.call(close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(30)
        self.loop.close()


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Server]]:
    """A folder behind an SSH server, and its URL."""
    reason = "the driver of sftp:// is not installed"
    sshfs = pytest.importorskip("sshfs", reason=reason)
    asyncssh = pytest.importorskip("asyncssh", reason=reason)
    import fsspec

    for path in PATHS:
        place = tmp_path / "served" / "tree" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(BODY)
        os.utime(place, ns=(0, 1_600_000_000 * 10**9))
    server = Server(asyncssh, tmp_path / "served")
    known = f"[127.0.0.1]:{server.port} {server.key.export_public_key().decode()}"
    options = {"known_hosts": known.encode(), "client_keys": None, "config": None}
    monkeypatch.setitem(fsspec.config.conf, "sftp", options)
    yield f"sftp://me@127.0.0.1:{server.port}/tree", server
    sshfs.SSHFileSystem.clear_instance_cache()
    gc.collect()
    server.stop()


def check_tree(root: str) -> None:
    """What holds for every tree far away."""
    listed = list(list_remote(root))
    assert [path for path, _, _ in listed] == ORDER
    assert {size for _, size, _ in listed} == {SIZE}
    assert all(time > 10**18 for _, _, time in listed)
    assert [stat_file(root, path) for path in ORDER] == [tuple(facts) for _, *facts in listed]
    with pytest.raises(FileNotFoundError):
        stat_file(root, "lost")
    assert is_folder(root)
    assert not is_folder(f"{root}/nothing")
    below = [path.removeprefix("a/") for path in ORDER if path.startswith("a/")]
    assert [path for path, _, _ in list_remote(f"{root}/a")] == below
    with pytest.raises(OSError) as caught:
        list(list_remote(f"{root}/nothing") if "s3" not in root else list_remote("s3://nothing"))
    assert caught.value.strerror
    first, lost, last = read_ranges(root, ["a.dcm", "lost", "b/1"], [0, 0, SIZE - 5], [9, 9, 9])
    assert (first, last) == (BODY[:9], BODY[-5:])
    assert isinstance(lost, FileNotFoundError)
    assert lost.strerror
    assert read_heads(root, [], 9) == []
    with open_file(root, "a/é") as stream:
        assert stream.seek(0, os.SEEK_END) == SIZE
        assert stream.seek(-7, os.SEEK_CUR) == SIZE - 7
        assert stream.read() == BODY[-7:]
        stream.seek(300_001)
        assert stream.read(400_000) == BODY[300_001:700_001]
        assert stream.read(3) == BODY[700_001:700_004]
    with pytest.raises(FileNotFoundError), open_file(root, "lost") as stream:
        stream.read(1)
    with pytest.raises(OSError), open_file(root, "a.dcm", size=SIZE + 10) as stream:
        stream.read()


def test_a_tree_in_memory(memory: str) -> None:
    check_tree(memory)


def test_a_tree_in_a_bucket(bucket: Counts) -> None:
    check_tree("s3://bucket/tree")
    bucket.clear()
    assert len(list(list_remote("s3://bucket"))) == len(PATHS) + 1
    assert bucket.requests == {"list_objects_v2": 4}  # pages of three


def test_a_tree_behind_ssh(ssh: tuple[str, Server]) -> None:
    check_tree(ssh[0])


def test_links_and_folders_that_cannot_be_listed_are_told_apart(
    ssh: tuple[str, Server], tmp_path: Path
) -> None:
    tree = tmp_path / "served" / "tree"
    (tree / "link").symlink_to("a.dcm")
    (tree / "loop").symlink_to(".")
    listed = {path: size for path, size, _ in list_remote(ssh[0])}
    assert listed.pop("link") == listed.pop("loop") == -1
    assert sorted(listed) == ORDER


def test_a_folder_that_cannot_be_listed_stands_for_its_files(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    real = MemoryFileSystem.ls

    def refuse(self: Any, path: str, **options: Any) -> Any:
        if path.endswith("/a"):
            raise PermissionError("no")
        return real(self, path, **options)

    monkeypatch.setattr(MemoryFileSystem, "ls", refuse)
    listed = list(list_remote(memory))
    assert [path for path, size, _ in listed if size < 0] == ["a/"]
    assert [path for path, _, _ in listed] == sorted(
        {path if not path.startswith("a/") else "a/" for path in PATHS}
    )


def test_a_server_that_is_not_known_is_refused(
    ssh: tuple[str, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    options = fsspec.config.conf["sftp"] | {"known_hosts": b""}
    monkeypatch.setitem(fsspec.config.conf, "sftp", options)
    with pytest.raises(OSError, match="not trusted"):
        next(list_remote(ssh[0]))


def check_headers(root: str, paths: list[str], counts: Counts) -> None:
    """Read the headers of 1 MB files by both roads, and count what was asked for."""
    counts.clear()
    heads = read_heads(root, paths, HEAD)
    assert [head[128:132] for head in heads if isinstance(head, bytes)] == [b"DICM"] * len(paths)
    assert counts.bytes == HEAD * len(paths)
    assert counts.requests.total() == len(paths)
    counts.clear()
    for path in paths:
        with open_file(root, path, size=SIZE_OF_IMAGE[root.partition("://")[0]]) as stream:
            assert read_header(stream, stream.seek(0, os.SEEK_END)).kind == "image"
    assert counts.bytes <= 2**14 * len(paths)
    assert counts.requests.total() == len(paths)


HEAD = 2**13
SIZE_OF_IMAGE: dict[str, int] = {}


def write_image(path: Path) -> bytes:
    write_dicom(path, np.zeros((700, 700), np.uint16))
    return path.read_bytes()


def test_headers_in_a_bucket_cost_a_request_each(bucket: Counts, tmp_path: Path) -> None:
    import fsspec

    content = write_image(tmp_path / "image")
    SIZE_OF_IMAGE["s3"] = len(content)
    paths = [f"{number}.dcm" for number in range(20)]
    for path in paths:
        fsspec.filesystem("s3").pipe_file(f"bucket/images/{path}", content)
    check_headers("s3://bucket/images", paths, bucket)


def test_headers_behind_ssh_cost_a_read_each(ssh: tuple[str, Server], tmp_path: Path) -> None:
    content = write_image(tmp_path / "image")
    SIZE_OF_IMAGE["sftp"] = len(content)
    paths = [f"{number}.dcm" for number in range(20)]
    for path in paths:
        (tmp_path / "served" / "tree" / path).write_bytes(content)
    check_headers(ssh[0], paths, ssh[1].counts)


def test_archives_in_a_bucket_are_read_by_their_heads(bucket: Counts, tmp_path: Path) -> None:
    import fsspec

    members = {f"{number}.dcm": BODY for number in range(5)}
    write_archives(tmp_path, members)
    for name in ARCHIVES:
        fsspec.filesystem("s3").put_file(str(tmp_path / name), f"bucket/tree/{name}")
        bucket.clear()
        far = locate_file("s3://bucket/tree", name)
        heads = list(iterate_heads(far, HEAD))
        assert heads == [(member, SIZE, BODY[:HEAD]) for member in members]
        if name == "tar.gz":
            assert bucket.bytes <= far.stat().st_size + 2**17
        else:
            assert bucket.bytes <= len(members) * 2**16
        with open_member(far, "3.dcm") as stream:
            stream.seek(SIZE - 9)
            assert stream.read() == BODY[-9:]


ARCHIVES = ("zip", "tar", "tar.gz")


def write_archives(folder: Path, members: dict[str, bytes]) -> None:
    with (
        zipfile.ZipFile(folder / "zip", "w") as zipped,
        tarfile.open(folder / "tar", "w") as plain,
        tarfile.open(folder / "tar.gz", "w:gz") as packed,
    ):
        for name, content in members.items():
            zipped.writestr(name, content)
            for archive in (plain, packed):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def test_a_folder_of_this_machine_has_the_same_face(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(BODY)
    root = normalise_root(tmp_path / "a" / ".." / "a")
    assert root == normalise_root(root) == normalise_root(f"file://{tmp_path}/a")
    assert is_folder(root)
    assert not is_folder(f"{root}/b")
    state = (tmp_path / "a" / "b").stat()
    assert stat_file(root, "b") == (SIZE, state.st_mtime_ns)
    with open_file(root, "b") as stream:
        assert stream.read() == BODY
    head, lost = read_heads(root, ["b", "c"], 5)
    assert head == BODY[:5]
    assert isinstance(lost, FileNotFoundError)


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("s3://bucket/folder/", "s3://bucket/folder"),
        ("S3://Bucket", "s3://Bucket"),
        ("sftp://me@host:22/a//b", "sftp://me@host:22/a//b"),
        ("memory://a", "memory://a"),
    ],
)
def test_a_url_is_written_one_way(given: str, normal: str) -> None:
    assert is_remote(given)
    assert normalise_root(given) == normal == normalise_root(normal)


@pytest.mark.parametrize("given", ["/a/b", "a", "C:/a", "C://a", "file:///a", ".", "a://b"])
def test_other_roots_are_folders(given: str) -> None:
    assert not is_remote(given)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("s3://key:secret@bucket/a", "credentials"),
        ("s3://key@bucket/a", "credentials"),
        ("sftp://me:secret@host/a", "credentials"),
        ("s3://", "no place"),
        ("s3:///", "no place"),
        ("s3://bucket/a?X-Amz-Signature=1", "no place"),
        ("s3://bucket/a\n", "no place"),
        ("sftp://host/../a", "'..'"),
    ],
)
def test_urls_that_must_not_be_stored_are_refused(given: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        normalise_root(given)
    assert "secret" not in str(caught.value)
    assert "Signature" not in str(caught.value)


def test_a_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec", reason="the extra 'remote' is not installed")

    def lack(scheme: str) -> None:
        raise ImportError("no such module")

    monkeypatch.setattr(fsspec, "get_filesystem_class", lack)
    with pytest.raises(UsageError, match="pip install s3fs"):
        open_file("s3://bucket", "a")
    with pytest.raises(UsageError, match="no such module"):
        next(list_remote("other://bucket"))
    monkeypatch.undo()
    with pytest.raises(UsageError, match="unheard:// is not known"):
        is_folder("unheard://of")
