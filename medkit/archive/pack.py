"""Pack a tree: plan, pack in processes, prove, and put the pieces into shards.

OUT/archive.json      what it is, and the SHA-256 of all else; written last, so it is the decision
OUT/index.parquet     a row a file
OUT/shards/*.zip      standard DICOM files under their own names
OUT/.work/            pieces that are not in a shard yet, while it is made
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from medkit.archive.archive import FORMAT, INDEX, MANIFEST, SHARDS, Archive
from medkit.archive.batches import Batch, pack_batch
from medkit.archive.codecs import check_effort, find_codec
from medkit.archive.index import BLOCK, FILE, FOLDER, LEFT_OUT, SCHEMA, read_index, write_index
from medkit.archive.plan import Found, cut, hash_plan, walk
from medkit.archive.shards import ShardWriter, read_own_index
from medkit.engine import Died, Progress, map_items, silent
from medkit.errors import MedkitError, SourceError, UsageError
from medkit.workspace import (
    Workspace,
    hash_file,
    read_json,
    remove_folder,
    write_json,
)

if TYPE_CHECKING:
    from medkit.archive.deidentification import Rules

SHARD_SIZE = 1 << 30
_SMALLEST_SHARD = 1 << 20
_WORK, _PLAN, _RECEIPT = ".work", "plan.json", ".sent.json"


class Courier(Protocol):
    """Takes shards away as they are made; it may delete one that it has a receipt for."""

    def take(self, shard: Path, index: pa.Table) -> None:
        """Take a shard; waits while enough of them are on their way."""

    def conclude(self, index: Path) -> None:
        """Take the index, which is the last file, and return when all have arrived."""


@dataclass(frozen=True)
class Summary:
    """What became of a tree.

    Attributes
    ----------
    files : int
        In the archive.
    size, packed : int
        Bytes of these files, and of the archive.
    forms : dict of str to int
        How many files are in which form.
    reasons : dict of str to int
        Of those that were not recompressed: how many for which reason.
    left_out : dict of str to int
        How many are not in the archive, by reason.
    made : bool
        False where the same archive was there already.
    """

    files: int
    size: int
    packed: int
    forms: dict[str, int]
    reasons: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    made: bool = True


def pack(
    tree: Path,
    out: Path,
    *,
    codec: str = "jpeg-ls",
    effort: str = "normal",
    shard_size: int = SHARD_SIZE,
    only: Collection[str] | None = None,
    originals: Mapping[str, bytes] | None = None,
    replace_other: bool = False,
    courier: Courier | None = None,
    rules: Rules | None = None,
    engine: str = "local",
    workers: int | None = None,
    progress: Progress = silent,
) -> Summary:
    """Write an archive of a tree, which is never touched.

    After a kill the same call goes on where it was, and the archive has the same bytes.

    Parameters
    ----------
    tree : Path
        A folder.
    out : Path
        A folder that is new, empty, or an archive that was begun.
    codec, effort : str
        As of `codecs`.
    shard_size : int
        Bytes that a shard has at most, unless one file has more.
    only : collection of str, optional
        Take these files alone, by their path in the tree.
    originals : mapping of str to bytes, optional
        What `names.read_names` returns for a tree that was unpacked with portable names: the
        archive has the original ones again.
    replace_other : bool
        Remove another archive that stands in ``out``.
    courier : Courier, optional
        Who gets each shard while the next is packed.
    rules : Rules, optional
        De-identify each file; only images are packed, and they return as they were packed.
    engine, workers
        As of `medkit.engine.map_items`.
    progress : callable
        Told of files.

    Raises
    ------
    UsageError
        If the folders or options cannot be used.
    SourceError
        If the tree changes meanwhile.
    DiskFullError
        If there is no room; the same call goes on.
    """
    tree, out = tree.resolve(), out.resolve()
    if out == tree or tree in out.parents:
        raise UsageError(f"{out} lies in the tree that is to be packed; give another folder")
    if shard_size < _SMALLEST_SHARD:
        raise UsageError(f"a shard has at least {_SMALLEST_SHARD:,} bytes, not {shard_size:,}")
    found = walk(tree, only, originals)
    facts = make_facts(found, codec, effort, shard_size)
    if rules:
        found = [one for one in found if one.kind != FOLDER]
        facts = rules.sign(facts)
    if standing := _find_standing(out, facts, replace_other):
        return summarise(standing, made=False)
    job = _Job(tree, out, facts, found, courier, rules)
    with Workspace(out / _WORK).lock():
        job.begin()
        job.run(engine, workers, progress)
    shutil.rmtree(out / _WORK)
    return summarise(Archive.open(out))


def make_facts(found: list[Found], codec: str, effort: str, shard_size: int) -> dict[str, Any]:
    """Return what an archive follows from: equal facts are equal bytes.

    Parameters
    ----------
    found : list of Found
        As of `plan.walk`.
    codec, effort, shard_size
        As of `pack`.
    """
    return {
        "format": FORMAT,
        "codec": find_codec(codec).name,
        "effort": check_effort(effort),
        "shard_size": shard_size,
        "plan": hash_plan(found),
    }


def summarise(archive: Archive, made: bool = True) -> Summary:
    """Return what is in an archive, in numbers."""
    forms, reasons = Counter[str](), Counter[str]()
    files = size = 0
    for row in archive.index.select(["kind", "form", "reason", "size"]).to_pylist():
        if row["kind"] == FILE:
            files, size = files + 1, size + row["size"]
            forms[row["form"]] += 1
            if row["reason"]:
                reasons[row["reason"]] += 1
    left_out = count_left_out(archive.index)
    return Summary(files, size, archive.size, dict(forms), dict(reasons), left_out, made)


def count_left_out(index: pa.Table) -> dict[str, int]:
    """Return how many are not in an archive, by reason."""
    rows = index.select(["kind", "reason"]).to_pylist()
    return dict(Counter(row["reason"] for row in rows if row["kind"] == LEFT_OUT))


def _find_standing(out: Path, facts: dict[str, Any], replace_other: bool) -> Archive | None:
    """Return the same archive where it stands already; make room where another is to go."""
    half = {f".{name}.part" for name in (MANIFEST, INDEX)}  # a kill left it, and it is made again
    known = {MANIFEST, INDEX, SHARDS, _WORK, *half}
    foreign = sorted({path.name for path in out.iterdir()} - known) if out.is_dir() else []
    if foreign or (out.exists() and not out.is_dir()):
        raise UsageError(f"{out} holds something else, such as {foreign[:1]}; give a new folder")
    if not (out / MANIFEST).exists():
        return None
    try:
        archive: Archive | None = Archive.open(out)
    except MedkitError:
        archive = None
    if archive is not None and archive.facts == facts:
        return archive
    if not replace_other:
        raise UsageError(
            f"{out} holds an archive of other files, or with other options; make it anew with "
            "--replace, or give another folder"
        )
    (out / MANIFEST).unlink()
    return None


class _Job:
    """One archive that is being made."""

    def __init__(
        self,
        tree: Path,
        out: Path,
        facts: dict[str, Any],
        found: list[Found],
        courier: Courier | None,
        rules: Rules | None,
    ) -> None:
        self.tree, self.out, self.facts, self.found = tree, out, facts, found
        self.work = out / _WORK
        self.courier, self.rules = courier, rules
        self.tables: list[pa.Table] = []

    def begin(self) -> None:
        """Keep what an earlier run of the same plan has done; remove that of another."""
        plan = self.work / _PLAN
        try:
            same = read_json(plan) == self.facts
        except MedkitError:
            same = False
        if not same:
            plan.unlink(missing_ok=True)
            remove_folder(self.out / SHARDS)
            (self.out / INDEX).unlink(missing_ok=True)
            made = ("*.piece", "*.parquet", f"*{_RECEIPT}")
            for piece in (path for pattern in made for path in self.work.glob(pattern)):
                piece.unlink()
            if self.rules:
                self.rules.map.begin()
            write_json(plan, self.facts)

    def run(self, engine: str, workers: int | None, progress: Progress) -> None:
        """Pack, and write the manifest."""
        batches = [
            Batch(str(self.tree), str(self.work), number, self.facts["codec"],
                  self.facts["effort"], found, rules=self.rules)
            for number, found in enumerate(cut(self.found))
        ]  # fmt: skip
        done = self._count_shelved(batches)
        files = sum(len(batch.found) for batch in batches[:done])
        progress(files, len(self.found), "files")
        shelf = _Shelf(self.out / SHARDS, self.facts["shard_size"], self.tables, self.courier)
        # Closed, and so its processes ended, before anybody removes what these write.
        with closing(self._pack_in_order(batches[done:], engine, workers)) as packed:
            for batch in packed:
                shelf.put(batch)
                files += len(batch.found)
                progress(files, len(self.found), "files")
        shelf.close()
        self._conclude()

    def _count_shelved(self, batches: list[Batch]) -> int:
        """Take over the shards that stand, and return how many batches are in them."""
        for name in _list_shards(self.out):
            path, gone = self.out / SHARDS / name, self.work / f"{name}.parquet"
            self.tables.append(read_own_index(path) if path.exists() else read_index(gone))
            if self.courier and path.exists():
                self.courier.take(path, self.tables[-1])
        rows = sum(_count_found(table) for table in self.tables)
        done = 0
        while rows > 0:  # a shard ends with a batch
            rows -= len(batches[done].found)
            done += 1
        return done

    def _pack_in_order(
        self, batches: list[Batch], engine: str, workers: int | None
    ) -> Generator[Batch, None, None]:
        """Pack, and yield the batches by their number, each when its piece is there."""
        waiting = {batch.number: batch for batch in batches}
        ready = {number for number, batch in waiting.items() if batch.rows.exists()}
        due = iter(sorted(waiting))
        number = next(due, None)
        todo = [batch for batch in batches if batch.number not in ready]
        for outcome in map_items(pack_batch, todo, engine=engine, workers=workers):
            if isinstance(outcome.result, Died):
                pack_batch(replace(outcome.item, cautious=True))
            ready.add(outcome.item.number)
            while number is not None and number in ready:
                yield waiting[number]
                number = next(due, None)
        while number is not None:
            yield waiting[number]
            number = next(due, None)

    def _conclude(self) -> None:
        index = pa.concat_tables(self.tables) if self.tables else SCHEMA.empty_table()
        _check_unchanged(index)
        write_index(self.out / INDEX, index)
        if self.courier:
            self.courier.conclude(self.out / INDEX)
        if self.rules:
            self.rules.map.conclude()
        names = [INDEX, *(f"{SHARDS}/{name}" for name in _list_shards(self.out))]
        write_json(
            self.out / MANIFEST,
            self.facts
            | {
                "contents": {name: self._describe(name) for name in names},
            },
        )

    def _describe(self, name: str) -> dict[str, Any]:
        path = self.out / name
        receipt = self.work / f"{path.name}{_RECEIPT}"
        return read_json(receipt) if receipt.exists() else describe_file(path)


def describe_file(path: Path) -> dict[str, Any]:
    """Return what a manifest says of a file."""
    return {"sha256": hash_file(path), "size": path.stat().st_size}


def write_receipt(shard: Path, about: dict[str, Any], index: pa.Table) -> None:
    """Note in an archive that is being made what its shard was, which may then be deleted.

    Parameters
    ----------
    shard : Path
        The shard.
    about : dict
        As of `describe_file`.
    index : Table
        That it carries.
    """
    work = shard.parents[1] / _WORK
    write_index(work / f"{shard.name}.parquet", index)
    write_json(work / f"{shard.name}{_RECEIPT}", about)


class _Shelf:
    """Puts pieces into shards, in order."""

    def __init__(
        self, folder: Path, limit: int, tables: list[pa.Table], courier: Courier | None
    ) -> None:
        self._folder, self._limit, self._tables = folder, limit, tables
        self._courier = courier
        self._writer: ShardWriter | None = None
        self._used: list[Batch] = []

    def put(self, batch: Batch) -> None:
        """Append a piece to the shard that is open, or to a new one."""
        size = batch.piece.stat().st_size
        if self._writer and self._writer.size + size > self._limit:
            self.close()
        if self._writer is None:
            number = len(self._tables) + 1
            self._writer = ShardWriter(self._folder / f"{number:05d}.zip")
        self._writer.append(batch.piece, read_index(batch.rows).to_pylist())
        self._used.append(batch)

    def close(self) -> None:
        """Finish the shard that is open; then its pieces are not needed any more."""
        if self._writer is None:
            return
        self._tables.append(self._writer.finish())
        for batch in self._used:
            batch.rows.unlink()
            batch.piece.unlink()
        shard, self._writer, self._used = self._writer.path, None, []
        if self._courier:
            self._courier.take(shard, self._tables[-1])


def _list_shards(out: Path) -> list[str]:
    """Return the names of shards that stand, or that a courier has a receipt for."""
    receipts = (out / _WORK).glob(f"*.zip{_RECEIPT}")
    gone = (path.name.removesuffix(_RECEIPT) for path in receipts)
    return sorted({*(path.name for path in (out / SHARDS).glob("*.zip")), *gone})


def _count_found(table: pa.Table) -> int:
    """Return how many rows of an index are of the tree."""
    return sum(kind != BLOCK for kind in table["kind"].to_pylist())


def _check_unchanged(index: pa.Table) -> None:
    changed = [
        row["path"]
        for row in index.select(["path", "reason"]).to_pylist()
        if row["reason"] == "changed-meanwhile"
    ]
    if changed:
        raise SourceError(
            f"{len(changed)} files changed while they were packed, such as {changed[0]!r}; pack "
            "again when nothing writes to the tree"
        )
