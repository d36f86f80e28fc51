"""Folds on the workers of a Dask cluster, which share the file system with this machine.

A worker runs the child that would run here. Only folder names travel through the scheduler:

    fold-K/events.jsonl     what the child says, written by the worker and read here
    fold-K/lease            written here again and again: the fold is still ours, and still wanted
    fold-K/holder           which worker has a child in this folder

A worker whose lease is taken back, or is written no more because this machine died, ends its
child; the next one waits for that, so that no two children ever write one fold.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medkit.errors import MedkitError, TrainingError
from medkit.training.child import GRACE, Child, Event
from medkit.training.environment import Environment, choose_environment
from medkit.training.job import read_job
from medkit.workspace import write_beside

_POLL = 0.2  # seconds between two looks at a file
_RENEW = 2.0  # seconds between two writings of a lease, and two looks for the worker
STALE = 60.0  # seconds after which a lease that is not renewed has ended


@dataclass(frozen=True)
class Order:
    """What a worker is asked: steps of a run's job, the folder of the errand, and its lease."""

    run: str
    folder: str
    steps: tuple[int, ...]
    token: str


@dataclass
class There:
    """The workers of a cluster: a child each.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.
    """

    client: Any
    apart: bool = True
    environment: Environment = field(init=False)
    _at_work: dict[str, Errand] = field(default_factory=dict)

    @property
    def engine(self) -> str:
        """What `medkit.engine.map_items` takes for these workers."""
        return f"dask://{self.client.scheduler.address}"

    def choose(
        self, device: str, threads: int | None, backend: str | None, plugin: str | None = None
    ) -> Environment:
        """Return the environment of a worker; each worker sees that its own is equal."""
        asked = self.client.submit(choose_environment, device, threads, backend, plugin, pure=False)
        self.environment = asked.result()
        return self.environment

    @property
    def room(self) -> int:
        """A child a worker, also one whose job still waits in a queue."""
        planned = getattr(self.client.cluster, "worker_spec", ())
        return max(len(planned), len(self.client.nthreads()))

    def start(self, run: Path, steps: Sequence[int], folder: Path) -> Errand | None:
        """Start a child on a worker that has none."""
        for address in self.client.nthreads():
            if address not in self._at_work:
                self._at_work[address] = Errand(self.client, address, run, steps, folder)
                return self._at_work[address]
        return None

    def leave(self, work: Any) -> bool:
        """Free the worker; True if it is no more."""
        self._at_work = {where: one for where, one in self._at_work.items() if one is not work}
        return bool(work.lost)


class Errand:
    """A child on a worker, as this machine sees it."""

    def __init__(
        self, client: Any, address: str, run: Path, steps: Sequence[int], folder: Path
    ) -> None:
        self.log, self.lost = folder / "log.txt", False
        self._client, self._address = client, address
        self._events, self._lease = folder / "events.jsonl", folder / "lease"
        self._events.unlink(missing_ok=True)
        self._token, self._wanted = secrets.token_hex(8), threading.Event()
        self._wanted.set()
        self._renew(0)
        places = [str(place.absolute()) for place in (run, folder)]
        order = Order(places[0], places[1], tuple(steps), self._token)
        self._future = client.submit(run_errand, order, workers=[address], pure=False, retries=0)

    def events(self) -> Iterator[Event]:
        """Yield what the child says, until it ends or its worker is lost."""
        seen, renewed, count = 0, time.monotonic(), 0
        while True:
            over = self.lost or self._future.done() or not self._wanted.is_set()
            content = self._events.read_bytes() if self._events.exists() else b""
            whole = content.rfind(b"\n") + 1
            yield from map(json.loads, content[seen:whole].splitlines())
            seen = max(seen, whole)
            if over:
                return
            if time.monotonic() - renewed > _RENEW:
                renewed, count = time.monotonic(), count + 1
                self._renew(count)
                self._look_for_worker()
            time.sleep(_POLL)

    def close(self) -> str:
        """Return why the child ended early, or nothing; its files of the errand go."""
        try:
            ended: str = self._future.result() if not self.lost else ""
        except Exception as error:  # whatever a cluster may raise
            self.lost = self.lost or type(error).__name__ == "KilledWorker"
            ended = f"{type(error).__name__}: {error}"
        self._lease.unlink(missing_ok=True)
        self._events.unlink(missing_ok=True)
        return f"the worker {self._address} was lost" if self.lost else ended

    def ask_to_stop(self) -> None:
        """Take the lease back."""
        self._wanted.clear()
        self._lease.unlink(missing_ok=True)

    def kill(self, grace: float = 0.0) -> None:
        """Give the worker time to end its child, and leave it alone then."""
        until = time.monotonic() + grace + 2 * _POLL
        while not self._future.done() and time.monotonic() < until:
            time.sleep(_POLL)
        self._future.cancel()

    def _look_for_worker(self) -> None:
        # A task that is bound to a worker that is no more would wait for it for ever.
        self.lost = self._address not in self._client.nthreads()
        if self.lost:
            self._future.cancel()

    def _renew(self, count: int) -> None:
        if self._wanted.is_set():
            with write_beside(self._lease) as beside:
                beside.write_text(f"{self._token} {count}")


def run_errand(order: Order) -> str:
    """Run a child on this worker; return why it ended early, or nothing."""
    run, folder = Path(order.run), Path(order.folder)
    try:
        environment = _choose_as(run)
        with _hold(folder, order.token):
            variables, log = environment.variables(), folder / "log.txt"
            child = Child(run, order.steps, variables, log, environment.python)
            threading.Thread(target=_guard, args=(child, folder, order.token), daemon=True).start()
            for event in child.events():
                # Opened each time: another machine of a network file system sees what is closed.
                with (folder / "events.jsonl").open("ab") as file:
                    file.write(json.dumps(event).encode() + b"\n")
            return child.close()
    except MedkitError as error:
        return f"on the worker {socket.gethostname()}: {error}"


def _choose_as(run: Path) -> Environment:
    """Return this worker's environment, which has to be that of the run.

    Raises
    ------
    TrainingError
        If it is another: equal folds would not be equal.
    """
    job = read_job(run)[0]
    asked = job.environment
    found = choose_environment(asked["device"], asked["threads"], asked["backend"], job.plugin)
    here = found.describe()
    if different := [name for name in asked if here[name] != asked[name]]:
        told = "; ".join(f"{name} is {here[name]}, not {asked[name]}" for name in different)
        raise TrainingError(f"this environment is not the run's: {told}")
    return found


@contextmanager
def _hold(folder: Path, token: str) -> Iterator[None]:
    """Wait until no other child writes a folder, and say that one of this lease does."""
    holder, until = folder / "holder", time.monotonic() + GRACE + 5
    while holder.exists() and time.monotonic() < until:  # a worker that was killed leaves it
        time.sleep(_POLL)
    holder.write_text(token)
    try:
        yield
    finally:
        with suppress(OSError):
            if holder.read_text() == token:
                holder.unlink()


def _guard(child: Child, folder: Path, token: str) -> None:
    """End a child when its lease is gone, is another's, or is renewed no more."""
    last, since = "", time.monotonic()
    while child.alive and time.monotonic() - since < STALE:
        found = _read_lease(folder)
        if not found.startswith(token):
            break
        if found != last:
            last, since = found, time.monotonic()
        time.sleep(5 * _POLL)
    child.ask_to_stop()
    child.kill(GRACE)


def _read_lease(folder: Path) -> str:
    try:
        return (folder / "lease").read_text()
    except FileNotFoundError:
        return ""
