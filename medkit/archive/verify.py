"""Verify an archive: every byte is read, and what is broken is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from medkit.archive.archive import INDEX, SHARDS, Archive, Shelf
from medkit.archive.index import BLOCK, Row
from medkit.engine import Died, Outcome, Progress, map_items, silent
from medkit.errors import SourceError
from medkit.workspace import hash_file, hash_json

_JOURNAL = ".verify.jsonl"


@dataclass(frozen=True)
class Fault:
    """What is broken.

    Attributes
    ----------
    shard : str
        In which file of the archive.
    path : str
        Which file of the tree cannot be had; empty where no file of it is lost.
    detail : str
        What is wrong.
    """

    shard: str
    path: str
    detail: str


@dataclass(frozen=True)
class _Check:
    folder: str
    name: str
    restore: bool


def verify(
    folder: Path,
    *,
    restore: bool = False,
    engine: str = "local",
    workers: int | None = None,
    progress: Progress = silent,
) -> list[Fault]:
    """Read every byte of an archive, and return what is broken.

    After a kill the same call goes on with the shards that are not checked yet, which are kept in
    ``.verify.jsonl`` in the archive, where it can be written.

    Parameters
    ----------
    folder : Path
        The archive.
    restore : bool
        Also restore every file and compare it with the SHA-256 of the original.
    engine, workers
        As of `medkit.engine.map_items`.
    progress : callable
        Told of shards.

    Raises
    ------
    SourceError
        If the archive is not complete, or its manifest or index is damaged.
    """
    archive = Archive.open(folder.resolve())
    journal = _Journal(archive, restore)
    faults = journal.read()
    todo = [name for name in archive.shards if name not in faults]
    checks = [_Check(str(archive.folder), name, restore) for name in todo]
    progress(len(faults), len(archive.shards), "shards")
    for outcome in map_items(_check_shard, checks, engine=engine, workers=workers):
        faults[outcome.item.name] = _take(outcome)
        journal.append(outcome.item.name, faults[outcome.item.name])
        progress(len(faults), len(archive.shards), "shards")
    journal.remove()
    return [fault for name in sorted(faults) for fault in faults[name]]


def _take(outcome: Outcome[_Check, list[Fault]]) -> list[Fault]:
    if isinstance(outcome.result, Died):
        return [Fault(outcome.item.name, "", f"its process died: {outcome.result.detail}")]
    return outcome.result


def _check_shard(check: _Check) -> list[Fault]:
    archive = Archive.open(Path(check.folder))
    path, about = archive.folder / check.name, archive.contents[check.name]
    if not path.is_file():
        return [*_name_lost(archive, check.name, "the shard is missing")]
    sound = path.stat().st_size == about["size"] and hash_file(path) == about["sha256"]
    if sound and not check.restore:
        return []
    faults = [*_check_members(archive, check.name, check.restore)]
    if sound or faults:
        return faults
    return [Fault(check.name, "", "it is damaged, and no file of the tree is lost by it")]


def _name_lost(archive: Archive, name: str, why: str) -> Iterator[Fault]:
    for row in _list_rows(archive, name):
        if row["kind"] != BLOCK:
            yield Fault(name, row["path"], why)


def _check_members(archive: Archive, name: str, restore: bool) -> Iterator[Fault]:
    shelf = Shelf(archive)
    for row in _list_rows(archive, name):
        if row["kind"] == BLOCK:
            continue
        try:
            if restore:
                _compare(shelf, row)
            else:
                shelf.check(row)
        except SourceError as error:
            yield Fault(name, row["path"], str(error))


def _compare(shelf: Shelf, row: Row) -> None:
    digest = hashlib.sha256()
    for piece in shelf.restore(row):
        digest.update(piece)
    if digest.hexdigest() != row["sha256"]:
        raise SourceError("it is not restored to what it was")


def _list_rows(archive: Archive, name: str) -> list[Row]:
    index = archive.index
    shard = name.removeprefix(f"{SHARDS}/")
    wanted = [one == shard for one in index["shard"].to_pylist()]
    rows: list[Row] = index.filter(pa.array(wanted, pa.bool_())).to_pylist()
    return rows


class _Journal:
    """Which shards of this very archive have been checked already."""

    def __init__(self, archive: Archive, restore: bool) -> None:
        self._path = archive.folder / _JOURNAL
        self._key = hash_json([archive.contents[INDEX], archive.contents, restore])

    def read(self) -> dict[str, list[Fault]]:
        """Return the faults of each shard that was found sound; the others are looked at again."""
        found = {}
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except OSError:
            return {}
        for line in lines:
            try:
                one = json.loads(line)
                if one["key"] == self._key and not one["faults"]:
                    found[one["shard"]] = list[Fault]()
            except (ValueError, KeyError, TypeError):  # a kill broke the line off
                continue
        return found

    def append(self, shard: str, faults: list[Fault]) -> None:
        """Write down what was found; where this cannot be written, nothing is remembered."""
        line = {"key": self._key, "shard": shard, "faults": [asdict(fault) for fault in faults]}
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(f"\n{json.dumps(line)}\n")
        except OSError:
            return

    def remove(self) -> None:
        """Forget it: the next call looks at all of it again."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError:
            return
