"""One object on its way: written as it comes, taken up again where it was cut, compared at its end.

Nobody can tell from a body without a stated length that it was cut; so one that has neither length
nor hash is not taken, unless it is a zip that has its end.
"""

from __future__ import annotations

import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NoReturn

from medkit.errors import SourceError
from medkit.sources.addresses import hide_query
from medkit.sources.ledger import Begun, Ledger, Line
from medkit.sources.pace import Meter, Pace, Stopped
from medkit.sources.plans import Delivery, Item, Unsteady
from medkit.sources.retries import DiskError, persist
from medkit.sources.verification import Sums

_CHUNK = 1 << 18
_MIB = 1 << 20
_WORTH = 1 << 16  # bytes; what is smaller is asked for anew rather than taken up
_RESERVE = 1 << 28  # bytes of the disk that an object of unknown size leaves free
_ROOM_EVERY = 1 << 26
_LARGE = 1 << 25  # bytes from which on an object is hashed by a thread of its own
_RATIO = 200  # what a body may unpack to, as of the archives
_PAGES = ("text/html", "application/xhtml+xml")

Open = Callable[[Item, int, str], AbstractContextManager[Delivery]]


class Errand:
    """Brings one object into a file.

    Parameters
    ----------
    item : Item
        The object.
    part : Path
        The file; what stands there is gone on with if the ledger says what it is.
    open_item : callable
        The `plans.Carrier` of its scheme.
    ledger : Ledger
        Told of it before the first byte is written.
    meter : Meter
        Counts its bytes.
    pace : Pace
        How patiently.
    """

    def __init__(
        self, item: Item, part: Path, open_item: Open, ledger: Ledger, meter: Meter, pace: Pace
    ) -> None:
        self._item, self._part, self._open = item, part, open_item
        self._ledger, self._meter, self._pace = ledger, meter, pace
        self._shown = hide_query(item.url)
        self._counted = self._best = self._faults = 0

    def run(self) -> Line:
        """Return what the record says of the object when it is there, whole and right.

        Raises
        ------
        SourceError
            If it is not to be had so.
        OSError
            Of the disk that it is written to.
        """
        return persist(
            self._attempt,
            self._shown,
            attempts=self._pace.attempts,
            progress=lambda: self._best // _MIB,
            stop=self._meter.stop,
        )

    def _attempt(self) -> Line:
        if self._meter.stop.is_set():
            raise Stopped
        begun = self._ledger.begun.get(self._item.path, Begun())
        have = self._part.stat().st_size if begun.validator and self._part.exists() else 0
        if have and have == begun.size:  # the kill came when all was there
            self._count(have)
            return self._conclude(self._sum(begun, have), have)
        try:
            with self._open(self._item, have, begun.validator) as delivery:
                return self._take(delivery)
        except Unsteady as error:
            if error.fresh:
                self._forget()
            raise

    def _take(self, delivery: Delivery) -> Line:
        self._check_sizes(delivery)
        hashes = dict(self._item.hashes or delivery.hashes)
        if part := delivery.hashes.get("s3-part"):
            hashes["s3-part"] = part
        begun = Begun(delivery.size, "" if delivery.coding else delivery.validator, hashes)
        if not delivery.offset:
            self._begin(begun)
        sums = self._sum(begun, delivery.offset)
        self._count(delivery.offset)
        got = self._pour(delivery, sums)
        if delivery.size is not None and got < delivery.size:
            raise Unsteady(f"was cut at byte {got:,} of {delivery.size:,}")
        if delivery.coding:
            sums, got = self._unwrap(delivery, hashes, sums, got)
        self._check_end(delivery, sums)
        return self._conclude(sums, got, delivery.kind)

    def _begin(self, begun: Begun) -> None:
        """Note what the bytes to come are of, or that nobody can say what those before were of."""
        if begun.validator and (begun.size or _MIB) > _WORTH:
            self._ledger.begin(self._item.path, begun)
        elif self._item.path in self._ledger.begun:
            self._ledger.drop(self._item.path)

    def _check_sizes(self, delivery: Delivery) -> None:
        size, stated = self._item.size, delivery.size
        if not delivery.coding and None not in (size, stated) and size != stated:
            raise SourceError(f"{self._shown} has {stated:,} bytes, not the {size:,} stated for it")
        largest = self._pace.largest
        if largest is not None and (stated or size or 0) > largest:
            raise SourceError(f"{self._shown} has {stated or size:,} bytes, above {largest:,}")
        if stated and stated >= _LARGE:
            self._check_space(stated - delivery.offset)
        is_page = self._part_suffix() not in (".html", ".htm", ".xhtml")
        if delivery.kind in _PAGES and is_page and not self._item.hashes:
            raise SourceError(
                f"{self._shown} sends a web page where a file was expected; open the address in "
                "a browser: it may want a login, or a click"
            )

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self._part.parent).free
        if needed > free:
            raise SourceError(
                f"{self._shown} has {needed:,} bytes to come, and {free:,} are free in "
                f"{self._part.parent}; make room, or use a workspace on another disk"
            )

    def _part_suffix(self) -> str:
        return PurePosixPath(self._item.path).suffix.lower()

    def _sum(self, begun: Begun, have: int) -> Sums:
        """Return sums that have taken in the bytes that are there."""
        sums = Sums(begun.hashes, begun.size)
        if have:
            with self._part.open("rb") as handle:
                while part := handle.read(min(_MIB, have)):
                    sums.update(part)
                    have -= len(part)
        return sums

    def _pour(self, delivery: Delivery, sums: Sums) -> int:
        """Write what comes behind what is there; return where it ends."""
        got, limit = delivery.offset, self._find_limit(delivery)
        clock = _Clock(self._pace)
        large = (limit or _LARGE) >= _LARGE
        with (
            _open_part(self._part, delivery.offset) as handle,
            sums.apart() if large else nullcontext(sums.update) as update,
        ):
            for part in clock.watch(delivery.chunks):
                got += len(part)
                if limit is not None and got > limit:
                    self._refuse_length(limit)
                update(part)
                _write(handle, part, self._part)
                self._counted += len(part)
                self._best = max(self._best, got)
                self._meter.move(len(part))
                if limit is None and got % _ROOM_EVERY < len(part):
                    self._check_room(got)
        return got

    def _find_limit(self, delivery: Delivery) -> int | None:
        size = delivery.size if delivery.coding else self._item.size or delivery.size
        return size or self._pace.largest

    def _refuse_length(self, limit: int) -> NoReturn:
        self._part.unlink()
        raise SourceError(f"{self._shown} sends more than the {limit:,} bytes it may have")

    def _check_room(self, got: int) -> None:
        if shutil.disk_usage(self._part.parent).free < _RESERVE:
            self._part.unlink()
            raise SourceError(
                f"{self._shown} has sent {got:,} bytes, has stated no size, and fills the disk"
            )

    def _unwrap(
        self, delivery: Delivery, hashes: dict[str, str], sums: Sums, got: int
    ) -> tuple[Sums, int]:
        """Take off what the server packed the object in, unless it is what was meant.

        Some servers call a .gz that lies there as it is a packed form of something else.
        """
        is_meant = sums.reference != "none" and not sums.find_fault()
        if is_meant or (sums.reference == "none" and self._part_suffix() in (".gz", ".tgz")):
            return sums, got
        beside = self._part.with_suffix(".plain")
        plain = Sums(hashes, self._item.size)
        limit = self._item.size or max(_RATIO * got, _MIB)
        with _naming(self._shown), self._part.open("rb") as packed, beside.open("wb") as sink:
            size = _inflate(packed, sink, plain, limit)
        beside.replace(self._part)
        return plain, size

    def _check_end(self, delivery: Delivery, sums: Sums) -> None:
        if delivery.ends or sums.reference != "none":
            return
        if self._item.unpack and zipfile.is_zipfile(self._part):
            return
        self._part.unlink()
        raise SourceError(
            f"{self._shown} comes without a length, and there is no hash to compare it with: "
            "nobody can tell whether it was cut; give the hash that its publisher states"
        )

    def _conclude(self, sums: Sums, got: int, kind: str = "") -> Line:
        fault = sums.find_fault()
        if not fault and self._item.size not in (None, got):
            fault = f"it has {got:,} bytes, not the {self._item.size:,} stated for it"
        if fault:
            self._forget()
            self._faults += 1
            if self._faults == 1:  # bytes that fell on their way; twice, and they lie there so
                raise Unsteady(fault)
            page = "; it sends a web page" if kind in _PAGES else ""
            raise SourceError(f"{self._shown} is not what was meant: {fault}{page}")
        return {
            "path": self._item.path,
            "size": got,
            "sha256": sums.sha256,
            "url": self._shown,
            "reference": sums.reference,
        }

    def _forget(self) -> None:
        self._part.unlink(missing_ok=True)
        self._ledger.drop(self._item.path)
        self._count(0)

    def _count(self, size: int) -> None:
        """Let the meter show so many bytes of this object."""
        self._meter.skip(size - self._counted)
        self._counted = size


class _Clock:
    """Ends what comes too slowly; only the time spent waiting counts."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace

    def watch(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        waited, came = 0.0, 0
        since = time.monotonic()
        for part in chunks:
            waited += time.monotonic() - since
            came += len(part)
            if waited > self._pace.patience:
                if came < waited * self._pace.slowest:
                    raise Unsteady(f"it sends {came / waited:,.0f} bytes a second")
                waited, came = 0.0, 0
            yield part
            since = time.monotonic()


@contextmanager
def _open_part(path: Path, offset: int) -> Iterator[BinaryIO]:
    with path.open("r+b" if offset else "wb") as handle:
        handle.seek(offset)
        yield handle


def _write(handle: BinaryIO, part: bytes, path: Path) -> None:
    try:
        handle.write(part)
    except OSError as error:
        raise DiskError(error.errno, error.strerror, str(path)) from error


@contextmanager
def _naming(shown: str) -> Iterator[None]:
    try:
        yield
    except (zlib.error, EOFError) as error:
        raise Unsteady(f"what it packed on the way is damaged: {error}") from error


def _inflate(packed: BinaryIO, sink: BinaryIO, sums: Sums, limit: int) -> int:
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, as its head says
    size = 0
    while not inflater.eof:
        source = inflater.unconsumed_tail or packed.read(_CHUNK)
        part = inflater.decompress(source, _CHUNK)
        if not part and not source:
            raise EOFError("it ends too early")
        size += len(part)
        if size > limit:
            raise SourceError(f"a body unpacks to more than {limit:,} bytes")
        sums.update(part)
        sink.write(part)
    return size
