"""The child of the conformance kit: the host's worker, which notes what a trainer does in it.

``python -m medkit.testing.probe FOLDER STEP ...`` does what the worker does with the same
arguments. ``orders.json`` in the folder says what else: see `Orders`. What is seen goes to
``notes.jsonl``, a line each, so that a child that dies leaves what it saw until then.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from medkit.plugins import load_trainer
from medkit.testing import examination
from medkit.training import worker
from medkit.workspace import read_json, write_json

NOTES, ORDERS, PRINTED = "notes.jsonl", "orders.json", "stdout.txt"
_PATIENCE = 10.0  # seconds that the host has to say that it wants to stop


@dataclass(frozen=True)
class Orders:
    """What is done beside the worker's work.

    Attributes
    ----------
    cwd : str
        Where to stand.
    allowed : tuple of str
        Folders that may be written to at any time.
    kill_at, stop_at : int, optional
        The report of a fit, counted from 0, at which the process kills itself, or the host is
        asked to stop it.
    examine : str
        The name of what is done to a loaded model, or to features: one of `examination.TASKS`.
    """

    cwd: str
    allowed: tuple[str, ...] = ()
    kill_at: int | None = None
    stop_at: int | None = None
    examine: str = ""

    def write(self, folder: Path) -> None:
        """Leave them in a folder."""
        write_json(folder / ORDERS, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Orders:
        """Return those of a folder."""
        return cls(**read_json(folder / ORDERS))


class Witness:
    """Sees what the trainer's own code does, and takes notes.

    Parameters
    ----------
    folder : Path
        Where the notes go.
    orders : Orders
        What else to do.
    host : Host
        The worker's.
    """

    def __init__(self, folder: Path, orders: Orders, host: worker.Host) -> None:
        # Not through `open`: a killed process must leave every line, and the hook hears of none.
        self._notes = os.open(folder / NOTES, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.orders, self.host = orders, host
        self._everywhere = [os.path.realpath(place) for place in orders.allowed]
        self._allowed: list[str] | None = None  # None outside the trainer's code
        self._loading = False
        self._reports = 0
        self.fitted: Any = None

    def note(self, what: str, **facts: Any) -> None:
        """Write a line."""
        line = json.dumps({"note": what, **facts}, default=str) + "\n"
        os.write(self._notes, line.encode())

    @contextmanager
    def watch(self, *places: Path, loading: bool = False) -> Iterator[None]:
        """Watch what is written while the trainer's code runs, and may be to these places."""
        outside = self._allowed, self._loading
        self._allowed = [*self._everywhere, *map(os.path.realpath, places)]
        self._loading = loading
        try:
            yield
        finally:
            self._allowed, self._loading = outside

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take note of an audit event (PEP 578), if it is of interest."""
        if self._allowed is None:
            return
        if event == "pickle.find_class" and self._loading:
            self.note("unpickled", name=".".join(map(str, arguments)))
        elif find := _WRITES.get(event):
            for path in find(*arguments):
                self._judge(path)

    def _judge(self, path: Any) -> None:
        if isinstance(path, int) or path is None:
            return  # a file that was opened, and judged, before
        place = os.path.realpath(os.fsdecode(path))
        roots = self._allowed or ()
        inside = any(place == root or place.startswith(root + os.sep) for root in roots)
        # Bytecode and compiled functions lie beside their source, whoever imports it first.
        if not (inside or f"{os.sep}__pycache__" in place or place.startswith("/dev/")):
            self.note("stray", path=place)

    def listen(self, run: Any) -> Any:
        """Return the context of a fit, in which every report is noted."""
        told = {
            name: self._count(run, name, getattr(run, name))
            for name in ("progress", "facts", "looks")
        }
        return replace(run, stopping=self._count_asking(run.stopping), **told)

    def _count(self, run: Any, kind: str, tell: Callable[..., None]) -> Callable[..., None]:
        def report(*arguments: Any) -> None:
            tell(*arguments)
            self.report(kind, run, arguments)

        return report

    def _count_asking(self, ask: Callable[[], bool]) -> Callable[[], bool]:
        def stopping() -> bool:
            answer = ask()
            self.note("asked", answer=answer)
            return answer

        return stopping

    def report(self, kind: str, run: Any, arguments: tuple[Any, ...] = ()) -> None:
        """Note a report of a fit, and do what was ordered for it."""
        number, self._reports = self._reports, self._reports + 1
        kept = run.checkpoints.is_dir() and any(run.checkpoints.iterdir())
        facts = dict(arguments[0]) if arguments and isinstance(arguments[0], Mapping) else {}
        unit = facts.get("epoch", arguments[0] if kind == "progress" else None)
        fold = int(run.folder.name.rpartition("-")[2])
        self.note("report", kind=kind, number=number, fold=fold, kept=kept, unit=unit)
        if number == self.orders.kill_at:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        if number == self.orders.stop_at:
            self._wait_to_be_stopped()

    def _wait_to_be_stopped(self) -> None:
        self.note("stopped")
        self.host.send("stop-me")
        until = time.monotonic() + _PATIENCE
        while not self.host.stopping() and time.monotonic() < until:
            time.sleep(0.01)


def _opened(path: Any, _: Any, flags: int) -> list[Any]:
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
    return [path] if flags & writing else []


# Where an audit event says that something is written, made or removed.
_WRITES: Mapping[str, Callable[..., list[Any]]] = {
    "open": _opened,
    "os.mkdir": lambda path, *_: [path],
    "os.rename": lambda source, target, *_: [source, target],
    "os.remove": lambda path, *_: [path],
    "os.rmdir": lambda path, *_: [path],
    "os.link": lambda source, target, *_: [target],
    "os.symlink": lambda source, target, *_: [target],
    "os.truncate": lambda path, *_: [path],
    "os.chmod": lambda path, *_: [path],
    "sqlite3.connect": lambda path, *_: [path],
}


def watch_trainer(kind: type[Any], witness: Witness) -> type[Any]:
    """Return a class that does what a Trainer class does, and is seen doing it."""

    class Watched:
        def __init__(self, params: Any) -> None:
            with witness.watch():
                self._trainer = kind(params)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._trainer, name)

        def features(self, images: Any, run: Any) -> Any:
            seen = examination.fingerprint(images)
            with witness.watch(run.folder):
                found = self._trainer.features(images, run)
                if task := examination.TASKS["features"].get(witness.orders.examine):
                    task(lambda some: self._trainer.features(some, run), images, witness.note)
            _note_changes(witness, "features", seen, examination.fingerprint(images))
            return found

        def fit(self, train: Any, validation: Any, run: Any) -> Any:
            seen = [examination.fingerprint(part) for part in (train, validation)]
            with witness.watch(run.folder):
                model = self._trainer.fit(train, validation, witness.listen(run))
            for before, part in zip(seen, (train, validation), strict=True):
                _note_changes(witness, "fit", before, examination.fingerprint(part))
            witness.report("returned", run)
            witness.fitted = model
            return _WatchedModel(model, witness)

        def load(self, folder: Path) -> Any:
            with witness.watch(loading=True):
                return _WatchedModel(self._trainer.load(folder), witness)

    for name in ("Params", "tasks"):
        setattr(Watched, name, getattr(kind, name))
    return Watched


class _WatchedModel:
    def __init__(self, model: Any, witness: Witness) -> None:
        self._model, self._witness = model, witness

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def save(self, folder: Path) -> None:
        with self._witness.watch(folder):
            self._model.save(folder)

    def predict_proba(self, images: Any) -> Any:
        witness, seen = self._witness, examination.fingerprint(images)
        with witness.watch():
            values = self._model.predict_proba(images)
            if witness.fitted is not None:
                kept = witness.fitted.predict_proba(images)
                witness.note("reloaded", difference=examination.measure(kept, values))
                witness.fitted = None
            if task := examination.TASKS["model"].get(witness.orders.examine):
                task(self._model, images, witness.note)
        _note_changes(witness, "predict_proba", seen, examination.fingerprint(images))
        return values


def _note_changes(
    witness: Witness, during: str, before: Mapping[str, str], after: Mapping[str, str]
) -> None:
    for name in sorted(before):
        if before[name] != after[name]:
            witness.note("changed", during=during, part=name)


def main(arguments: list[str]) -> int:
    """Do the worker's work under watch, and return its exit code."""
    folder = Path(arguments[0])
    orders = Orders.read(folder)
    os.chdir(orders.cwd)
    host = worker.Host()
    witness = Witness(folder, orders, host)
    # The worker sends what is printed to the log; here it is kept apart, to be seen.
    os.dup2(os.open(folder / PRINTED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 1)
    sys.addaudithook(witness.hear)

    def load_watched(name: str) -> type[Any]:
        with witness.watch():
            kind = load_trainer(name)
        return watch_trainer(kind, witness)

    for name, watched in (("Host", lambda: host), ("load_trainer", load_watched)):
        setattr(worker, name, watched)
    code = worker.main(arguments)
    witness.note("ended", code=code)
    return code


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # as the worker ends
