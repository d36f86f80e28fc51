"""Push a tree: pack it, and send each shard while the next is packed.

WORKSPACE/pushes/KEY/archive/    the archive, of which only few shards are here at a time
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Semaphore
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from medkit.archive.archive import INDEX, SHARDS, Archive
from medkit.archive.instances import list_tree
from medkit.archive.pack import count_left_out, describe_file, make_facts, pack, write_receipt
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
from medkit.workspace import Workspace, hash_file, remove_folder

if TYPE_CHECKING:
    from medkit.archive.deidentification import Rules

_SMALLEST, _LARGEST = 1 << 23, 1 << 30
_SHARDS = 64  # that a tree makes about
ARCHIVE = "archive"


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
    rules: Rules | None = None,
    identified: bool = False,
    streams: int = STREAMS,
    engine: str = "local",
    workers: int | None = None,
    progress: Progress = silent,
) -> Pushed:
    """Bring the archive of a tree to a place, without room for all of it here.

    Packing begins while the connection is made. Shards wait here until they have arrived and been
    compared, as many as there are streams and one more. After a break the same call goes on.

    Parameters
    ----------
    tree, codec, effort, only, rules, engine, workers, progress
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
    facts = make_facts(found, codec, effort, size)
    facts = rules.sign(facts) if rules else facts
    closed = is_remote(root) and not identified
    if closed and not rules:
        stock = list_tree(tree, only)
        check_unidentified(tree, stock.identified, stock.burned_in)
    out = keep or work / ARCHIVE
    begin = partial(_begin, root, facts, keep)
    with (
        Workspace(work).lock(),
        _Courier(begin, streams, tree if closed else None, keep) as courier,
    ):
        try:
            if not keep and out.exists() and not courier.goes_on():
                remove_folder(out)  # receipts of what is not there any more
            pack(
                tree, out, codec=codec, effort=effort, shard_size=size, only=only, rules=rules,
                courier=courier, engine=engine, workers=workers, progress=courier.watch(progress),
            )  # fmt: skip
            pushed = courier.finish(Archive.open(out))
        except _StandsError as error:
            pushed = error.pushed
            if rules:
                rules.map.begin()
        if not keep:
            remove_folder(out)
    return pushed


class _StandsError(Exception):
    """All of it is over there already, so that nothing is to be packed."""

    def __init__(self, pushed: Pushed) -> None:
        self.pushed = pushed


def _begin(root: str, facts: dict[str, Any], keep: Path | None) -> tuple[FarArchive, bool]:
    """Return the archive over there, and whether it was begun before."""
    far = FarArchive(root, facts)
    files = far.find_standing()
    if files and keep is None:
        raise _StandsError(_describe((0, 0, files), far.read_index()))
    return far, files > 0 or far.begin()


def _describe(counts: tuple[int, int, int], index: pa.Table) -> Pushed:
    return Pushed(*counts, *count_identified(index), count_left_out(index))


def _choose_size(found: list[Found]) -> int:
    """Return a size of shards: a large tree makes some dozens, a small one has small ones."""
    wanted = sum(one.size for one in found) // _SHARDS
    return min(max(-(-wanted // _SMALLEST) * _SMALLEST, _SMALLEST), _LARGEST)


class _Courier:
    """Connects, sends shards in threads of its own, and deletes those that have arrived."""

    def __init__(
        self,
        begin: Callable[[], tuple[FarArchive, bool]],
        streams: int,
        closed: Path | None,
        keep: Path | None,
    ) -> None:
        self._closed, self._keep, self._streams = closed, keep, streams
        self._pool = ThreadPoolExecutor(streams)
        self._begun = self._pool.submit(begin)
        self._room = Semaphore(streams + 1)
        self._sending: list[Future[None]] = []

    def __enter__(self) -> _Courier:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def _far(self) -> FarArchive:
        return self._begun.result()[0]

    def goes_on(self) -> bool:
        """Say whether what comes was begun before; waits for the connection."""
        return self._begun.result()[1]

    def watch(self, progress: Progress) -> Progress:
        """Return the same progress, which raises what went wrong on the way meanwhile."""

        def tell(done: int, total: int | None, unit: str) -> None:
            if self._begun.done():
                self._begun.result()
            self._collect(lambda future: future.done())
            progress(done, total, unit)

        return tell

    def take(self, shard: Path, index: pa.Table) -> None:
        """Send a shard; waits while enough of them are on their way."""
        if self._closed:  # a file may have changed since its header was read
            check_unidentified(self._closed, *count_identified(index))
        self._room.acquire()
        self._collect(lambda future: future.done())
        self._sending.append(self._pool.submit(self._send, shard, index))

    def conclude(self, index: Path) -> None:
        """Send the index beside the last shards, and return when all have arrived."""
        sha256 = hash_file(index)
        put = self._pool.submit(lambda: self._far.put(INDEX, index, sha256, lambda _: None))
        self._sending.append(put)
        self._collect(lambda _: True)

    def finish(self, archive: Archive) -> Pushed:
        """Let the archive be complete over there."""
        self._far.finish(archive, self._streams, lambda _: None)
        return _describe(self._far.count(), archive.index)

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
