"""Walking trees of files, and turning them into a snapshot of the catalog.

A scan looks at every file and opens those that changed since the last one. Each batch of files
that was read is kept in ``partial/`` until the snapshot stands, so a scan that was killed goes
on where it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from medkit.catalog import schema
from medkit.catalog.building import Built, build
from medkit.catalog.inspection import Entry, Tables, inspect_batch, name_reader, report_death
from medkit.catalog.journal import find_roots, read_journal
from medkit.catalog.parts import read_parts, select_files, take_unchanged, write_part
from medkit.catalog.roots import Root as Root  # what `scan` takes belongs to its face
from medkit.catalog.roots import find_absent_roots, forget_roots, remember_roots
from medkit.catalog.store import Catalog
from medkit.catalog.walking import walk
from medkit.engine import Died, Progress, map_items, silent
from medkit.errors import CatalogError
from medkit.workspace import remove_folder

_BATCH = 128
_WORDS = {
    "image": "images",
    "other-dicom": "other DICOM",
    "non-dicom": "non-DICOM",
    "archive": "archives",
    "ignored": "ignored",
    "problem": "problems",
}
Counts = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Summary:
    """What a scan found.

    Attributes
    ----------
    snapshot : str
        The catalog's state.
    walked : int
        Files of the trees that were scanned; the sum of ``counts``.
    counts, members : dict
        Files, and members of archives, by kind and reason (``""`` where there is none).
    read, reused, vanished : int
        Files that were opened, that had not changed, and that are no longer there.
    persons : int
        In the whole catalog.
    warnings : list of str
        What the user should know.
    """

    snapshot: str
    walked: int
    counts: Counts
    members: Counts
    read: int
    reused: int
    vanished: int
    persons: int
    warnings: list[str]

    @property
    def sentence(self) -> str:
        """The sum that proves that no file was dropped."""
        parts = [f"{sum(self.counts[kind].values()):,} {words}" for kind, words in _WORDS.items()]
        return (
            f"{self.walked:,} files = {' + '.join(parts)}; {self.read:,} read, {self.reused:,} "
            f"unchanged, {self.vanished:,} vanished; {self.persons:,} persons"
        )

    @property
    def rows(self) -> list[tuple[str, str, int, int]]:
        """Kind, reason, files, members of archives."""
        return [
            (kind, reason, self.counts[kind].get(reason, 0), self.members[kind].get(reason, 0))
            for kind in self.counts
            for reason in sorted({*self.counts[kind], *self.members[kind]})
        ]


def scan(
    catalog_folder: Path,
    roots: Sequence[Root],
    *,
    engine: str = "local",
    workers: int | None = None,
    progress: Progress = silent,
    keep_identifiers: bool = False,
    forget: Sequence[Path] = (),
) -> Summary:
    """Scan some folders, and make a new snapshot of the catalog.

    Files of other folders, scanned before, stay as they were. What is no longer there is marked
    as vanished, and kept.

    Parameters
    ----------
    catalog_folder : Path
        The catalog's.
    roots : sequence of Root
        None may lie in another, nor in one scanned before.
    engine, workers
        Where to read; see `medkit.engine.map_items`. The tables do not depend on it.
    progress : callable
        Told of files read.
    keep_identifiers : bool
        Keep the person's name and birth date as well.
    forget : sequence of Path
        Folders scanned before, such as one that moved, that are to leave the catalog.

    Raises
    ------
    UsageError
        If a folder is missing, lies in another one, or its person rule is no regular expression;
        or one to forget was never scanned.
    """
    forget_roots(catalog_folder, forget)
    remember_roots(catalog_folder, roots)
    wanted = {entry.key: entry for root in roots for entry in walk(root, catalog_folder)}
    missing = {key: entry for key, entry in wanted.items() if entry.finding is None}
    files = len(missing)
    kept = catalog_folder / "partial"
    previous = _read_previous(catalog_folder)
    reader = name_reader(keep_identifiers)
    older = chain(read_parts(kept), [previous])
    pieces = [take_unchanged(tables, missing, reader) for tables in older]
    for tables in _read(list(missing.values()), keep_identifiers, engine, workers, progress):
        write_part(kept, tables)
        pieces.append(tables)
    pieces.append(inspect_batch([entry for entry in wanted.values() if entry.finding]))
    folders = {str(root.folder.resolve()) for root in roots}
    known = find_roots(read_journal(catalog_folder)).keys()
    pieces.extend(_keep_absent(previous, wanted, folders, known))
    joined = {name: pa.concat_tables([piece[name] for piece in pieces]) for name in previous}
    built = build(catalog_folder, joined, engine=engine, workers=workers)
    remove_folder(kept)
    return _summarise(catalog_folder, built, folders, len(missing), files - len(missing))


def _summarise(
    catalog_folder: Path, built: Built, folders: set[str], read: int, reused: int
) -> Summary:
    files = built.tables["files"].select(["root", "container", "kind", "reason", "vanished"])
    rows = [row for row in files.to_pylist() if row["root"] in folders]
    top = [row for row in rows if row["container"] is None]
    here = [row for row in top if not row["vanished"]]
    return Summary(
        snapshot=built.snapshot,
        walked=len(here),
        counts=_count(here),
        members=_count(row for row in rows if row["container"] and not row["vanished"]),
        read=read,
        reused=reused,
        vanished=len(top) - len(here),
        persons=len(built.tables["persons"]),
        warnings=[*find_absent_roots(catalog_folder), *built.warnings],
    )


def _read_previous(catalog_folder: Path) -> Tables:
    try:
        catalog = Catalog.open(catalog_folder)
        return {name: catalog.arrow_table(name) for name in schema.READ_TABLES}
    except CatalogError:  # none yet, or damaged: all is read again
        return inspect_batch([])


def _read(
    entries: list[Entry],
    keep_identifiers: bool,
    engine: str,
    workers: int | None,
    progress: Progress,
) -> Iterator[Tables]:
    """Yield the rows of all files, a batch at a time; a batch that kills its reader is split."""
    look = partial(inspect_batch, keep_identifiers=keep_identifiers)
    batches = [entries[start : start + _BATCH] for start in range(0, len(entries), _BATCH)]
    done = 0
    suspects: list[Entry] = []
    for outcome in map_items(look, batches, engine=engine, workers=workers):
        if isinstance(outcome.result, Died):
            suspects.extend(outcome.item)
            continue
        done += len(outcome.item)
        progress(done, len(entries), "files")
        yield outcome.result
    for single in map_items(look, [[entry] for entry in suspects], engine=engine, workers=workers):
        if isinstance(single.result, Died):
            yield report_death(single.item[0], single.result.detail)
        else:
            yield single.result
        done += 1
        progress(done, len(entries), "files")


def _keep_absent(
    previous: Tables, wanted: Mapping[str, Entry], scanned: set[str], known: Set[str]
) -> Iterator[Tables]:
    """Yield the rows of files that this scan did not meet: of other roots, and vanished ones."""
    files = previous["files"].select(["file", "container", "root", "vanished"]).to_pylist()
    top = [
        row
        for row in files
        if row["container"] is None and row["root"] in known and row["file"] not in wanted
    ]
    for vanished in (False, True):
        keys = [
            row["file"] for row in top if (row["vanished"] or row["root"] in scanned) is vanished
        ]
        yield select_files(previous, keys, vanished=vanished)


def _count(rows: Iterable[Mapping[str, Any]]) -> Counts:
    counts: Counts = {kind: {} for kind in _WORDS}
    for (kind, reason), number in sorted(
        Counter((row["kind"], row["reason"] or "") for row in rows).items()
    ):
        counts[kind][reason] = number
    return counts
