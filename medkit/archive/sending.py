"""Send instances to a server of images, ask for them back, and compare their pixels.

WORKSPACE/pushes/KEY/ledger.jsonl    a line an instance, with what became of it
WORKSPACE/pushes/KEY/return/         what came back, until it has been compared
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any

from medkit.archive.instances import Instance, Stock
from medkit.archive.likeness import compare, find_plain, write_plain
from medkit.engine import Progress, map_threads, silent
from medkit.errors import SourceError, UsageError
from medkit.sources.associations import SCHEME, MuteError
from medkit.sources.deposits import Outgoing, Refusal, Server, read_outgoing, rewrap
from medkit.sources.matching import Series
from medkit.sources.storage import Peer
from medkit.sources.stow import WebServer
from medkit.workspace import Workspace

CHECKS = ("pixels", "listed")
# What became of an instance, from the best to the worst.
VERIFIED, LISTED, ACCEPTED = "verified", "listed", "accepted"
REFUSED, DIFFERS, MISSING, UNSENT = "refused", "differs", "missing", "unsent"
_DONE = (VERIFIED, LISTED, ACCEPTED)
_AT_ONCE = 1 << 28  # bytes of a series that are out and back at a time
_WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds: some servers list a little later than they answer
_LEDGER, _RETURN = "ledger.jsonl", "return"


@dataclass(frozen=True)
class Trouble:
    """An instance that is not at the server as it should be.

    Attributes
    ----------
    path, uid : str
        Where it is in the source, and its SOPInstanceUID.
    state, reason : str
        What became of it, and why.
    """

    path: str
    uid: str
    state: str
    reason: str


@dataclass(frozen=True)
class Sent:
    """What came of it; every instance of the source is counted once among the states.

    Attributes
    ----------
    instances, size : int
        Of the source, and their bytes.
    sent : int
        That went over the wire this time.
    states : dict of str to int
        How many are at the server and came back with the same pixels (``verified``), are listed
        there (``listed``), were taken by a server that answers no query (``accepted``); or were
        ``refused``, ``differ``, or are ``missing`` though they were taken.
    troubles : list of Trouble
        Each that is not there as it should be, and each DICOM file that cannot be sent.
    left_out : dict of str to int
        Files of the source that are no instance to be sent, by reason.
    identified, burned_in : int
        As of `instances.Stock`.
    """

    instances: int
    size: int
    sent: int
    states: dict[str, int]
    troubles: list[Trouble]
    left_out: dict[str, int]
    identified: int
    burned_in: int


def open_server(address: str, *, plain: bool = False, streams: int | None = None) -> Server:
    """Return the server that an address names.

    Parameters
    ----------
    address : str
        ``dicomweb+https://host/dicom-web``, or ``dimse://AET@host:port``.
    plain : bool
        Whether http without s will do where it is not this machine.
    streams : int, optional
        Associations at a time, of the latter.

    Raises
    ------
    UsageError
        If it is no address, or pynetdicom is not installed.
    """
    if address.partition("://")[0] == SCHEME:
        return Peer(address, **({"streams": streams} if streams else {}))
    return WebServer(address, plain=plain)


def send(
    stock: Stock,
    server: Server,
    work: Path,
    *,
    check: str = "pixels",
    streams: int | None = None,
    progress: Progress = silent,
) -> Sent:
    """Bring a server to have all instances of a source.

    It is asked first what it has. After a break the same call goes on; what was found right
    before is not sent or brought back again.

    Parameters
    ----------
    stock : Stock
        Of the source.
    server : Server
        Where to.
    work : Path
        A folder for the ledger of this push.
    check : str
        ``"pixels"``: each instance is brought back, and its pixels compared; ``"listed"``: the
        server is asked whether it has it.
    streams : int, optional
        Parts on the way at a time; by default what is polite.
    progress : callable
        Told of instances.

    Raises
    ------
    UsageError
        If there is no such check.
    SourceError
        If the server cannot be spoken to, or the source is damaged.
    DiskFullError
        If there is no room for what comes back.
    """
    if check not in CHECKS:
        raise UsageError(f"there is no check {check!r}; there are {' and '.join(CHECKS)}")
    with Workspace(work).lock():
        shutil.rmtree(work / _RETURN, ignore_errors=True)
        (work / _RETURN).mkdir(parents=True)
        ledger = _Ledger(work / _LEDGER)
        try:
            run = _Run(stock, server, ledger, work / _RETURN, check, progress)
            for _ in map_threads(run.send, _cut(stock.instances), streams or server.streams):
                pass
        finally:
            ledger.close()
            shutil.rmtree(work / _RETURN, ignore_errors=True)
    return run.conclude()


def _cut(instances: list[Instance]) -> Iterator[list[Instance]]:
    """Yield the instances of a series, or as many of them as have some bytes."""
    ordered = sorted(instances, key=lambda one: one.series.key)
    for _, found in groupby(ordered, key=lambda one: one.series.key):
        batch: list[Instance] = []
        for one in found:
            if batch and sum(other.size for other in batch) + one.size > _AT_ONCE:
                yield batch
                batch = []
            batch.append(one)
        yield batch


@dataclass
class _Run:
    """One push; its batches are sent by several threads."""

    stock: Stock
    server: Server
    ledger: _Ledger
    folder: Path
    check: str
    progress: Progress
    sent: int = 0
    done: int = 0
    states: dict[str, tuple[str, str]] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)
    silent: set[str] = field(default_factory=set)

    def send(self, batch: list[Instance]) -> None:
        """Bring the server to have some instances of one series."""
        series = batch[0].series
        there = self._list(series)
        due = [one for one in batch if not self._is_done(one, there)]
        if due:
            with tempfile.TemporaryDirectory(dir=self.folder) as name:
                self._send_due(due, there, series, Path(name))
        with self.lock:
            self.done += len(batch)
            self.progress(self.done, len(self.stock.instances), "instances")

    def conclude(self) -> Sent:
        """Return what came of all."""
        instances = self.stock.instances
        troubles = [
            Trouble(one.path, one.uid, *self.states[one.uid])
            for one in instances
            if self.states[one.uid][0] not in _DONE
        ]
        return Sent(
            len(instances),
            sum(one.size for one in instances),
            self.sent,
            dict(Counter(state for state, _ in self.states.values())),
            troubles + [Trouble(path, "", UNSENT, why) for path, why in self.stock.unsent],
            dict(self.stock.left_out),
            self.stock.identified,
            self.stock.burned_in,
        )

    def _is_done(self, one: Instance, there: set[str] | None) -> bool:
        state = self.ledger.find(one)
        right = state == VERIFIED or (state == LISTED and self.check == "listed")
        if not (right and there and one.uid in there) and not (state == ACCEPTED and there is None):
            return False
        self.states[one.uid] = (state, "")
        return True

    def _send_due(
        self, due: list[Instance], there: set[str] | None, series: Series, folder: Path
    ) -> None:
        files = self._open(due, folder)
        going = [file for uid, file in files.items() if uid not in (there or ())]
        refused = self._store(going, folder) if going else {}
        taken = {file.uid for file in going} - {*refused}
        with self.lock:
            self.sent += len(taken)
        for one in due:
            if one.uid in refused:
                self._note(one, REFUSED, refused[one.uid].text)
            elif one.uid in taken and there is None:
                self._note(one, ACCEPTED)
        if there is None:
            return
        found = self._wait_for(series, taken) if taken else there
        left = [one for one in due if one.uid in files and one.uid not in refused]
        for one in left:
            if one.uid not in found:
                self._note(one, MISSING, "the server took it, and does not list it")
        self._check(series, [one for one in left if one.uid in found], files, found, folder)

    def _open(self, due: list[Instance], folder: Path) -> dict[str, Outgoing]:
        """Return the files of instances; what is none is noted."""
        (folder / "out").mkdir()
        files = {}
        for one in due:
            try:
                file = read_outgoing(self.stock.open(one, folder / "out"))
                if file.uid != one.uid:  # the data set counts; the rest is a wrapper
                    file = rewrap(file, one.uid, folder / "out" / f"{one.uid}.wrapped")
                files[one.uid] = file
            except SourceError as error:
                self._note(one, REFUSED, f"not sent: {error}")
        return files

    def _store(self, going: list[Outgoing], folder: Path) -> dict[str, Refusal]:
        """Send files; what is refused for its transfer syntax, in a plainer one."""
        refused: dict[str, Refusal] = {}
        offered = going
        for turn in range(3):
            said = self.server.store(offered)
            refused |= said
            offered, first = [], offered
            for file in first:
                if file.uid not in said:
                    refused.pop(file.uid, None)
                elif said[file.uid].syntax and (syntax := find_plain(file.syntax)):
                    offered += self._make_plain(file, syntax, folder / f"plain-{turn}", refused)
            if not offered:
                break
        return refused

    def _make_plain(
        self, file: Outgoing, syntax: str, folder: Path, refused: dict[str, Refusal]
    ) -> list[Outgoing]:
        folder.mkdir(exist_ok=True)
        path = folder / f"{file.uid}.dcm"
        try:
            write_plain(file.path, path, syntax)
            return [read_outgoing(path)]
        except SourceError as error:
            path.unlink(missing_ok=True)
            refused[file.uid] = Refusal(f"{refused[file.uid].text}; {error}")
            return []

    def _list(self, series: Series) -> set[str] | None:
        """Return what the server has of a series; None if it does not answer such questions."""
        if "list" in self.silent:
            return None
        try:
            return self.server.list_instances(series)
        except MuteError:
            self.silent.add("list")
            return None

    def _wait_for(self, series: Series, taken: set[str]) -> set[str]:
        found = self._list(series) or set()
        for pause in _WAITS:
            if taken <= found:
                break
            time.sleep(pause)
            found = self._list(series) or set()
        return found

    def _check(
        self,
        series: Series,
        there: list[Instance],
        files: Mapping[str, Outgoing],
        listed: set[str],
        folder: Path,
    ) -> None:
        """Compare what the server has with what it should have."""
        back = {} if self.check == "listed" else self._bring(series, there, listed, folder)
        for one in there:
            if one.uid not in back:
                self._note(one, LISTED)
            elif why := compare(files[one.uid].path, back[one.uid]):
                self._note(one, DIFFERS, f"what the server has under its UID: {why}")
            else:
                self._note(one, VERIFIED)

    def _bring(
        self, series: Series, there: list[Instance], listed: set[str], folder: Path
    ) -> Mapping[str, Path]:
        if "bring" in self.silent or not there:
            return {}
        uids = {one.uid for one in there}
        (folder / "back").mkdir()
        try:
            return self.server.bring(series, uids, folder / "back", uids == listed)
        except MuteError:
            self.silent.add("bring")
            return {}

    def _note(self, one: Instance, state: str, reason: str = "") -> None:
        self.states[one.uid] = (state, reason)
        self.ledger.note(one, state, reason)


class _Ledger:
    """What became of each instance so far, a line each; the last one counts."""

    def __init__(self, path: Path) -> None:
        self._states: dict[tuple[str, str], str] = {}
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for line in whole.splitlines():
            try:
                found: dict[str, Any] = json.loads(line)
                self._states[found["uid"], found["stamp"]] = found["state"]
            except (ValueError, KeyError, TypeError):  # what a loss of power made of it
                continue
        self._handle = path.open("r+b" if path.exists() else "wb", buffering=0)
        self._handle.truncate(len(whole))
        self._handle.seek(0, 2)
        self._lock = Lock()
        self.close = self._handle.close

    def find(self, one: Instance) -> str:
        """Return what became of an instance; nothing if nothing did."""
        return self._states.get((one.uid, one.stamp), "")

    def note(self, one: Instance, state: str, reason: str) -> None:
        """Append what became of an instance."""
        line = {"uid": one.uid, "path": one.path, "stamp": one.stamp, "state": state}
        line |= {"reason": reason} if reason else {}
        with self._lock:
            self._handle.write(f"{json.dumps(line)}\n".encode())
