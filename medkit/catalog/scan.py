"""Walking trees of files, and turning them into a snapshot of the catalog.

A scan is a pipeline: one thread walks, some read the files that changed since the last scan, and
what is not plain is read in processes. Each segment is written as soon as its files are read, so
memory is bounded, and a scan that was killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from medkit.catalog.entries import Entries
from medkit.catalog.inspection import name_reader
from medkit.catalog.journal import find_roots, read_journal
from medkit.catalog.planning import Wanted, plan
from medkit.catalog.rawvolumes import add_raw
from medkit.catalog.readers import remember_readers
from medkit.catalog.reading import Reader, Share
from medkit.catalog.roots import Root as Root  # what `scan` takes belongs to its face
from medkit.catalog.roots import find_absent_roots, forget_roots, remember_roots
from medkit.catalog.segments import (
    Counts,
    Segment,
    add_counts,
    count_all,
    is_sound,
    read_segment,
    sync_segment,
)
from medkit.catalog.snapshots import Built, make_snapshot
from medkit.catalog.store import Manifest, list_snapshots, read_current
from medkit.catalog.walking import walk
from medkit.engine import Progress, prefetch, silent
from medkit.errors import CatalogError
from medkit.workspace import remove_folder, sync

_AHEAD = 8  # pieces that are walked before they are needed
_WORDS = {
    "image": "images",
    "other-dicom": "other DICOM",
    "non-dicom": "non-DICOM",
    "archive": "archives",
    "ignored": "ignored",
    "problem": "problems",
}


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
    quick, slow : int
        Of those opened: read by the compiled reader, and by pydicom and the like.
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
    quick: int
    slow: int

    @property
    def sentence(self) -> str:
        """The sum that proves that no file was dropped."""
        parts = [f"{sum(self.counts[kind].values()):,} {words}" for kind, words in _WORDS.items()]
        slowly = f" ({self.slow:,}, {self.slow / self.read:.1%}, slowly)" if self.read else ""
        return (
            f"{self.walked:,} files = {' + '.join(parts)}; {self.read:,} read{slowly}, "
            f"{self.reused:,} unchanged, {self.vanished:,} vanished; {self.persons:,} persons"
        )

    @property
    def rows(self) -> list[tuple[str, str, int, int]]:
        """Kind, reason, files, members of archives."""
        return [
            (kind, reason, self.counts[kind].get(reason, 0), self.members[kind].get(reason, 0))
            for kind in self.counts
            for reason in sorted({*self.counts[kind], *self.members[kind]})
        ]

    def hide_warnings(self) -> Summary:
        """Return the same with how many warnings there are; they may name persons and places."""
        count = len(self.warnings)
        told = [f"warnings that are hidden, for they may name persons: {count}"] if count else []
        return replace(self, warnings=told)


def scan(
    catalog_folder: Path,
    roots: Sequence[Root],
    *,
    engine: str = "local",
    workers: int | None = None,
    progress: Progress = silent,
    keep_identifiers: bool = False,
    forget: Sequence[Path | str] = (),
    rebuild: bool = False,
    readers: Sequence[str] | None = None,
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
        Told of files that are done; of how many, as soon as all are walked.
    keep_identifiers : bool
        Keep the person's name and birth date as well.
    forget : sequence of Path or str
        Folders scanned before, such as one that moved, that are to leave the catalog.
    rebuild : bool
        Read every file of these folders again, and derive all from that and the journal. Files
        that are no longer there are then forgotten.
    readers : sequence of str, optional
        Plugins that read other formats; ``("none",)`` for none, and by default those that this
        catalog was scanned with before. What is not DICOM is read again where they, or their
        versions, are others.

    Raises
    ------
    UsageError
        If a folder is missing, lies in another one, or its person rule is no regular expression;
        or one to forget was never scanned; or no reader has that name.
    PluginError
        If a reader cannot be imported.
    CatalogError
        If what was read of another folder is damaged.
    """
    plugged = remember_readers(catalog_folder, readers)
    forget_roots(catalog_folder, forget)
    remember_roots(catalog_folder, roots)
    remove_folder(catalog_folder / "partial")
    older = _find_older(catalog_folder)
    known = find_roots(read_journal(catalog_folder))
    scanned = {root.place: root for root in roots}
    kept = [one for one in older if one.root in known and one.root not in scanned]
    _check(catalog_folder, kept)
    counter = _Counter(progress, sum(one.files for one in older if one.root in scanned))
    found: dict[int, Segment] = {}
    syncing = _Syncing(catalog_folder, older)

    def stands(position: int, segment: Segment) -> None:
        found[position] = segment
        syncing.add(segment)
        counter.count(segment.files)

    reader = Reader(
        catalog_folder,
        keep_identifiers=keep_identifiers,
        readers=plugged,
        engine=engine,
        workers=workers,
        stands=stands,
    )
    version = name_reader(keep_identifiers, plugged)
    plans = _plan(catalog_folder, list(scanned.values()), older, version, rebuild, counter)
    with closing(plans), syncing:
        reader.read(plans)
    counter.count(0)
    read = [found[position] for position in sorted(found)]
    # Roots in order; within one, the segments are in the order of its paths.
    segments = sorted([*kept, *read], key=lambda one: one.root)
    built = make_snapshot(
        catalog_folder,
        [segment.name for segment in segments],
        engine=engine,
        workers=workers,
        rebuild=rebuild,
    )
    remove_folder(catalog_folder / "partial")
    return _summarise(catalog_folder, built, read, reader.share, scanned)


def _plan(
    folder: Path,
    roots: Sequence[Root],
    older: Sequence[Segment],
    reader: str,
    rebuild: bool,
    counter: _Counter,
) -> Generator[Segment | Wanted, None, None]:
    """Yield what is to be done for all trees, one after the other."""
    for root in sorted(roots, key=lambda root: root.place):
        own = [segment for segment in older if segment.root == root.place]
        met = walk(root.source, root.place, folder)
        walked = prefetch((add_raw(entries, root.raw) for entries in met), _AHEAD)
        with closing(walked):
            yield from plan(
                root.source, counter.watch(walked), own, folder, reader, rebuild=rebuild
            )
    counter.finish()


class _Counter:
    """Tells how many files are done, of how many."""

    def __init__(self, progress: Progress, before: int) -> None:
        self._progress = progress
        self._before = before  # what there was at the last scan is a good guess
        self._done = 0
        self._walked = 0
        self._finished = False

    def watch(self, walked: Iterable[Entries]) -> Iterator[Entries]:
        """Yield the same, and count."""
        for entries in walked:
            self._walked += len(entries)
            yield entries

    def finish(self) -> None:
        """Say that all is walked."""
        self._finished = True

    def count(self, files: int) -> None:
        """Say that so many more files are done."""
        self._done += files
        guess = self._before if self._before > self._walked else None
        self._progress(self._done, self._walked if self._finished else guess, "files")


class _Syncing:
    """Brings segments to the disk while others are read: waiting for it takes no processor."""

    def __init__(self, folder: Path, older: Iterable[Segment]) -> None:
        self._folder = folder
        self._synced = {segment.name for segment in older}
        self._pool = ThreadPoolExecutor(1)
        self._pending: list[Future[None]] = []

    def __enter__(self) -> _Syncing:
        return self

    def add(self, segment: Segment) -> None:
        """Take a segment that stands."""
        if segment.name not in self._synced:
            self._synced.add(segment.name)
            self._pending.append(self._pool.submit(sync_segment, self._folder, segment.name))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=error is not None)
        if error is None:
            for future in self._pending:
                future.result()
            if self._pending:
                sync(self._folder / "segments")


def _find_older(folder: Path) -> list[Segment]:
    """Return the segments of the last snapshot that can be read; what is lost is read again."""
    for snapshot in (read_current(folder), *reversed(list_snapshots(folder))):
        try:
            named = Manifest.read(folder, snapshot or "").segments
        except CatalogError:
            continue
        found = [read_segment(folder, one["name"]) for one in named]
        return [segment for segment in found if segment]
    return []


def _check(folder: Path, segments: Iterable[Segment]) -> None:
    for segment in segments:
        if not is_sound(folder, segment):
            raise CatalogError(
                f"what was read of {segment.root} is damaged; scan that folder too, or drop it "
                "with --forget"
            )


def _summarise(
    folder: Path,
    built: Built,
    segments: Sequence[Segment],
    share: Share,
    scanned: Collection[str],
) -> Summary:
    counts = add_counts(segment.counts for segment in segments)
    persons = Manifest.read(folder, built.snapshot).tables["persons"]["rows"]
    return Summary(
        snapshot=built.snapshot,
        walked=count_all(counts),
        counts=counts,
        members=add_counts(segment.members for segment in segments),
        read=share.quick + share.slow,
        reused=share.reused,
        vanished=sum(segment.vanished for segment in segments),
        persons=persons,
        warnings=[*find_absent_roots(folder, scanned), *built.warnings],
        quick=share.quick,
        slow=share.slow,
    )
