"""Push a tree: pack it, and send each shard while the next is packed.

WORKSPACE/pushes/KEY/archive/    the archive, of which only few shards are here at a time
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore
from typing import Any

import pyarrow as pa

from medkit.archive.archive import SHARDS, Archive
from medkit.archive.instances import is_burned_in, is_identified, list_tree
from medkit.archive.pack import describe_file, make_facts, pack, write_receipt
from medkit.archive.plan import Found, walk
from medkit.archive.push import (
    STREAMS,
    FarArchive,
    Pushed,
    check_unidentified,
    count_identified,
)
from medkit.engine import Progress, silent
from medkit.sources.trees import is_remote, normalise_root
from medkit.workspace import Workspace, remove_folder

_SMALLEST, _LARGEST = 1 << 23, 1 << 30
_SHARDS = 64  # that a tree makes about
_ARCHIVE = "archive"


def push_tree(
    tree: Path,
    target: str,
    work: Path,
    *,
    codec: str = "jpeg-ls",
    effort: str = "normal",
    shard_size: int | None = None,
    only: Collection[str] | None = None,
    keep: Path | None = None,
    identified: bool = False,
    streams: int = STREAMS,
    engine: str = "local",
    workers: int | None = None,
    progress: Progress = silent,
) -> Pushed:
    """Bring the archive of a tree to a place, without room for all of it here.

    Shards wait here until they have arrived and been compared, as many as there are streams and
    one more. After a break the same call goes on.

    Parameters
    ----------
    tree, codec, effort, only, engine, workers, progress
        As of `pack.pack`.
    target, identified, streams
        As of `push.push`.
    work : Path
        A folder for what is under way.
    shard_size : int, optional
        As of `pack.pack`; by default so that there is something to send soon.
    keep : Path, optional
        Make the archive in this folder, and keep it.

    Raises
    ------
    UsageError, SourceError, DiskFullError, OSError
        As of `pack.pack` and `push.push`.
    """
    root, tree = normalise_root(target), tree.resolve()
    found = walk(tree, only)
    size = shard_size or _choose_size(found)
    far = FarArchive(root, make_facts(found, codec, effort, size))
    if keep is None and (files := far.find_standing()):
        stock = list_tree(tree, only)
        return Pushed(0, 0, files, stock.identified, stock.burned_in)
    closed = is_remote(root) and not identified
    if closed:
        stock = list_tree(tree, only)
        check_unidentified(tree, stock.identified, stock.burned_in)
    out = keep or work / _ARCHIVE
    with Workspace(work).lock():
        if not far.begin() and not keep:
            remove_folder(out)  # receipts of what is not there any more
        with _Courier(far, streams, tree if closed else None, keep is not None) as courier:
            pack(
                tree, out, codec=codec, effort=effort, shard_size=size, only=only,
                courier=courier, engine=engine, workers=workers, progress=progress,
            )  # fmt: skip
        archive = Archive.open(out)
        far.finish(archive, streams, lambda _: None)
        named, burned = count_identified(archive)
        if not keep:
            remove_folder(out)
    return Pushed(*far.count(), named, burned)


def _choose_size(found: list[Found]) -> int:
    """Return a size of shards: a large tree makes some dozens, a small one has small ones."""
    wanted = sum(one.size for one in found) // _SHARDS
    return min(max(-(-wanted // _SMALLEST) * _SMALLEST, _SMALLEST), _LARGEST)


class _Courier:
    """Sends shards in threads of its own, and deletes those that have arrived."""

    def __init__(self, far: FarArchive, streams: int, closed: Path | None, keep: bool) -> None:
        self._far, self._closed, self._keep = far, closed, keep
        self._pool = ThreadPoolExecutor(streams)
        self._room = Semaphore(streams + 1)
        self._sending: list[Future[None]] = []

    def __enter__(self) -> _Courier:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self, shard: Path, index: pa.Table) -> None:
        """Send a shard; waits while enough of them are on their way."""
        if self._closed:  # a file may have changed since its header was read
            rows = index.select(["identified", "burned_in", "reason"]).to_pylist()
            counts = (sum(map(test, rows)) for test in (is_identified, is_burned_in))
            check_unidentified(self._closed, *counts)
        self._room.acquire()
        self._collect(lambda future: future.done())
        self._sending.append(self._pool.submit(self._send, shard, index))

    def wait(self) -> None:
        """Return when all have arrived."""
        self._collect(lambda _: True)

    def _collect(self, ready: Callable[[Future[None]], bool]) -> None:
        """Raise what went wrong with those that are ready."""
        left = []
        for future in self._sending:
            if ready(future):
                future.result()
            else:
                left.append(future)
        self._sending = left

    def _send(self, shard: Path, index: pa.Table) -> None:
        try:
            about: dict[str, Any] = describe_file(shard)
            name = f"{SHARDS}/{shard.name}"
            self._far.put(name, shard, about["sha256"], lambda _: None)
            if not self._keep:
                write_receipt(shard, about, index)
                shard.unlink()
        finally:
            self._room.release()
