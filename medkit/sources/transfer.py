"""Moving the items of a plan into a folder: several at once, each verified, none moved twice.

What comes is written to ``parts``. When it is whole and right it gets its final name below
``files``, or it is an archive: then it waits in ``archives`` until it is unpacked. What a kill cut
goes on where it ended: the `ledger` says what that was.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NoReturn
from urllib.parse import urlsplit

from medkit.engine import Progress
from medkit.errors import SourceError
from medkit.sources import local
from medkit.sources.addresses import hide_query
from medkit.sources.carrying import Errand, Open
from medkit.sources.gate import Names
from medkit.sources.ledger import Ledger, Line
from medkit.sources.pace import Meter, Pace, Stopped
from medkit.sources.plans import Item, Plan
from medkit.sources.retries import persist
from medkit.sources.splits import Joined, find_folder, group_parts, name_whole
from medkit.sources.streams import File
from medkit.sources.unpacking import is_named_packed, is_packed, unpack
from medkit.sources.verification import read_sums
from medkit.workspace import hash_file, remove_folder

_FAILURES = 10  # of so many objects, and the rest is not tried
_PATIENCE = 2.0  # seconds
NESTED = 2  # archives within archives that are unpacked too


def transfer(plan: Plan, work: Path, ledger: Ledger, pace: Pace, progress: Progress) -> None:
    """Bring all items of a plan that are not there yet.

    Parameters
    ----------
    plan : Plan
        What is brought.
    work : Path
        The folder; what was brought is below ``files`` in it at the end.
    ledger : Ledger
        Of that folder.
    pace : Pace
        How fast.
    progress : callable
        Told of bytes.

    Raises
    ------
    SourceError
        If some cannot be brought; all others are tried first, unless there are many.
    OSError
        Of the disk that it is written to.
    """
    mover = _Mover(plan, work, ledger, pace, progress)
    mover.recheck()
    items = mover.move_all()
    mover.join(items)


class _Mover:
    def __init__(
        self, plan: Plan, work: Path, ledger: Ledger, pace: Pace, progress: Progress
    ) -> None:
        self._plan, self._ledger, self._pace = plan, ledger, pace
        self._meter = Meter(pace.rate, plan.preflight.size, progress)
        self._files, self._archives = work / "files", work / "archives"
        self._parts = work / "parts"
        for folder in (self._files, self._archives, self._parts):
            folder.mkdir(exist_ok=True)
        self._lock = threading.Lock()
        self._failures: list[Exception] = []
        self._carriers: dict[str, Open] = {"file": local.carry, **plan.carriers}

    # ---- Several at once -------------------------------------------------------------------------

    def move_all(self) -> list[Item]:
        items: list[Item] = []
        queue = self._admit(items)
        workers = [
            threading.Thread(target=self._work, args=(queue,), daemon=True)
            for _ in range(self._pace.workers)
        ]
        try:
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        finally:  # also where the user has had enough, and is not to wait for a server that hangs
            self._meter.stop.set()
            for worker in workers:
                worker.join(_PATIENCE)
        self._meter.end()
        self._raise_failures(len(items))
        return items

    def _admit(self, items: list[Item]) -> Iterator[Item]:
        """Yield the items under names that are safe, and no other's."""
        names = Names()
        folders: set[str] = set()
        for item in self._plan.items():
            try:
                path = names.claim(item.path)
                folder = find_folder(path) if item.unpack else path
                if folder not in folders | {path}:
                    names.claim(folder)
                folders.add(folder)
            except ValueError as error:
                raise SourceError(f"{item.path!r}, of {self._plan.source.name}, {error}") from None
            items.append(item if path == item.path else replace(item, path=path))
            yield items[-1]

    def _work(self, queue: Iterator[Item]) -> None:
        while (item := self._take(queue)) is not None:
            try:
                self._bring(item)
            except Stopped:
                return
            except Exception as error:
                self._fail(error, last=not isinstance(error, SourceError))

    def _take(self, queue: Iterator[Item]) -> Item | None:
        with self._lock:
            if self._meter.stop.is_set():
                return None
            try:
                return next(queue, None)
            except Exception as error:  # of the listing: nothing more is known to bring
                failure = error
        self._fail(failure, last=True)
        return None

    def _fail(self, error: Exception, *, last: bool) -> None:
        with self._lock:
            self._failures.append(error)
            if last or len(self._failures) >= _FAILURES:
                self._meter.stop.set()

    def _raise_failures(self, number: int) -> None:
        if not self._failures:
            return
        for error in self._failures:
            if number < 2 or not isinstance(error, SourceError):
                raise error
        raise SourceError(
            f"{len(self._failures)} of {number:,} objects cannot be brought; what came is kept, "
            f"and the same command goes on from there. The first: {self._failures[0]}"
        )

    # ---- One object ------------------------------------------------------------------------------

    def _bring(self, item: Item) -> None:
        if self._is_here(item):
            return
        if urlsplit(item.url).scheme in self._plan.fillers:
            self._fill(item)
            return
        line = self._take_up(item) or self._carry(item)
        if line and not name_whole(item.path):
            self._unpack([item], self._locate(item), [line])

    def _is_here(self, item: Item) -> bool:
        """Tell whether an item is in place, or take the step to it that a kill left out."""
        ledger, path = self._ledger, item.path
        line = ledger.origins.get(path) or ledger.files.get(path)
        if line is None:
            return False
        is_folder = path in ledger.origins
        place = self._files / (find_folder(path) if is_folder and item.unpack else path)
        beside = self._beside(path, ".d" if is_folder else "")
        if beside.exists() and not place.exists():
            _rename(beside, place)
        if not place.exists():
            ledger.drop(path)
            return False
        self._meter.skip(line["size"])
        return True

    def _take_up(self, item: Item) -> Line | None:
        """Return what is known of an archive that came whole and is to be unpacked."""
        if urlsplit(item.url).scheme == "file" and item.unpack:
            path = local.locate(item.url)
            return local.describe(item, path) if is_packed(path, item.path) else None
        line = self._ledger.parts.get(item.path)
        if line is None:
            return None
        beside, archive = self._beside(item.path), self._archives / item.path
        if beside.exists() and not archive.exists():
            _rename(beside, archive)
        if not archive.exists():
            self._ledger.drop(item.path)
            return None
        self._meter.skip(line["size"])
        return line

    def _carry(self, item: Item) -> Line | None:
        """Bring an object and put it in place; return what is known of it if it is an archive."""
        beside = self._beside(item.path)
        carrier = self._carriers.get(urlsplit(item.url).scheme) or self._connect()
        line = Errand(item, beside, carrier, self._ledger, self._meter, self._pace).run()
        if item.unpack and is_packed(beside, item.path):
            self._ledger.keep(line)
            _rename(beside, self._archives / item.path)
            return line
        if item.unpack and is_named_packed(item.path):
            self._refuse(item, beside)
        self._ledger.place(line)
        _rename(beside, self._files / item.path)
        return None

    def _connect(self) -> Open:
        """Return the carrier of HTTP, and keep it for all other items."""
        with self._lock:
            if "https" not in self._carriers:
                from medkit.sources import https  # urllib3 is slow to import

                client = https.make_client(
                    self._plan, connections=self._pace.workers, patience=self._pace.patience
                )
                self._carriers.update(https=client.carry, http=client.carry)
        return self._carriers["https"]

    def _refuse(self, item: Item, beside: Path) -> NoReturn:
        with beside.open("rb") as handle:
            head = handle.read(24)
        beside.unlink()
        self._ledger.drop(item.path)
        raise SourceError(f"{hide_query(item.url)} is no archive: it begins with {head!r}")

    def _fill(self, item: Item) -> None:
        """Let a filler bring the files of an item."""
        beside = self._beside(item.path, ".d")
        told = 0
        refused: Sequence[str] = ()

        def move(size: int) -> None:
            nonlocal told
            self._meter.move(size - told)
            told = size

        def fill() -> None:
            nonlocal told, refused
            self._meter.skip(-told)
            told = 0
            remove_folder(beside)
            beside.mkdir()
            refused = self._plan.fillers[urlsplit(item.url).scheme](item, beside, move)

        persist(fill, hide_query(item.url), attempts=self._pace.attempts, stop=self._meter.stop)
        members = [*_list_members(beside, item.path)]
        size = sum(member["size"] for member in members)
        line = {"path": item.path, "size": size, "url": hide_query(item.url), "reference": "none"}
        line |= {"refused": [*refused]} if refused else {}
        self._ledger.place_all([line], members)
        _rename(beside, self._files / item.path)

    # ---- Archives --------------------------------------------------------------------------------

    def join(self, items: Sequence[Item]) -> None:
        """Unpack the archives that came in parts."""
        split = {item.path: item for item in items if item.unpack and name_whole(item.path)}
        for whole, paths in group_parts(split).items():
            parts = [split[path] for path in paths]
            if all(path in self._ledger.origins for path in paths):
                continue
            lines = [self._ledger.parts.get(one.path) or self._take_up(one) for one in parts]
            joined = Joined(PurePosixPath(whole).name, map(self._locate, parts))
            self._unpack(parts, joined, [line for line in lines if line])

    def _unpack(self, items: Sequence[Item], source: File, lines: Sequence[Line]) -> None:
        """Unpack an archive, compare its members with its list of sums, and put them in place."""
        first = items[0]
        beside, folder = self._beside(first.path, ".d"), find_folder(first.path)
        remove_folder(beside)
        members: list[Line] = []

        def note(name: str, size: int, sha256: str) -> None:
            members.append({"path": f"{folder}/{name}", "size": size, "sha256": sha256})

        try:
            unpack(source, beside, nested=NESTED, note=note)
            if first.sums:
                _compare(beside, folder, first.sums, members)
        except SourceError:
            for item in items:  # whole or not, it is not to be had from these bytes
                self._ledger.drop(item.path)
                (self._archives / item.path).unlink(missing_ok=True)
            raise
        self._ledger.place_all(lines, members)
        remove_folder(self._files / folder)  # of one that was forgotten since
        _rename(beside, self._files / folder)
        for item in items:
            (self._archives / item.path).unlink(missing_ok=True)

    def _locate(self, item: Item) -> Path:
        is_local = urlsplit(item.url).scheme == "file"
        return local.locate(item.url) if is_local else self._archives / item.path

    def _beside(self, path: str, suffix: str = "") -> Path:
        """Return where what is under way to a path lies meanwhile."""
        return self._parts / (hashlib.sha256(path.encode()).hexdigest()[:32] + suffix)

    # ---- After a kill ----------------------------------------------------------------------------

    def recheck(self) -> None:
        """Forget what is not as noted: the power may have gone before it was on the disk."""
        for path in sorted(self._ledger.unsynced):
            line = self._ledger.files.get(path) or self._ledger.parts.get(path)
            place = (self._files if path in self._ledger.files else self._archives) / path
            if line and place.exists() and hash_file(place) != line["sha256"]:
                self._ledger.drop(line.get("archive", path))
                place.unlink()
                if "archive" in line:
                    remove_folder(self._files / find_folder(line["archive"]))


def _rename(path: Path, place: Path) -> None:
    try:
        path.replace(place)
    except FileNotFoundError:  # the first of its folder
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)


def _list_members(folder: Path, path: str) -> Iterator[Line]:
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.is_symlink():
            name = file.relative_to(folder).as_posix()
            size, sha256 = file.stat().st_size, hash_file(file)
            yield {"path": f"{path}/{name}", "size": size, "sha256": sha256}


def _compare(beside: Path, folder: str, sums: str, members: list[Line]) -> None:
    """Compare the members of an archive with a list of their MD5s among them, and remove that.

    Raises
    ------
    SourceError
        If one is another, is missing, or the list is.
    """
    if not (beside / sums).is_file():
        raise SourceError(f"{folder}.zip has no {sums}, which its members are compared with")
    stated = read_sums((beside / sums).read_text("utf-8", "replace").splitlines())
    (beside / sums).unlink()
    members[:] = [member for member in members if member["path"] != f"{folder}/{sums}"]
    for member in members:
        name = member["path"].removeprefix(f"{folder}/")
        expected = stated.pop(name, "")
        if expected:
            found = hash_file(beside / name, "md5")
            if found != expected:
                raise SourceError(f"{name} has the MD5 {found}, not the {expected} of {sums}")
            member["reference"] = "md5"
    if stated:
        raise SourceError(f"{len(stated)} files of {sums} are missing, the first {min(stated)!r}")
