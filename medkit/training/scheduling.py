"""Which child fits which fold, where, and what is done when one dies.

A place has room for some children at a time: a GPU each, a worker of a cluster each, or one on the
processors, which then takes all the folds, so that the backend is imported once. The result does
not depend on how many there are: a fold is fitted by one child, from seeds of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import Protocol

from medkit.engine import open_cluster
from medkit.errors import TrainingError
from medkit.training.child import GRACE, Child, Event
from medkit.training.course import Course
from medkit.training.environment import Environment, choose_environment
from medkit.training.features import BATCH
from medkit.training.job import fold_folder
from medkit.training.shares import remove_shares, share_folder

_PATIENCE = 0.5  # seconds between two looks at whether a place has room


class Work(Protocol):
    """A child at its work, here or elsewhere."""

    @property
    def log(self) -> Path:
        """What it prints."""
        ...

    def events(self) -> Iterator[Event]:
        """Yield what it says, until it ends."""
        ...

    def close(self) -> str:
        """Wait for its end; return why it ended early, or nothing."""
        ...

    def ask_to_stop(self) -> None:
        """Tell it to leave at the next safe place."""
        ...

    def kill(self, grace: float = 0.0) -> None:
        """End it, after some seconds in which it may end by itself."""
        ...


class Place(Protocol):
    """Where children work.

    Attributes
    ----------
    engine : str
        What `medkit.engine.map_items` takes for the same place.
    environment : Environment
        Of the children, once it is chosen.
    """

    @property
    def engine(self) -> str: ...

    @property
    def environment(self) -> Environment: ...

    def choose(
        self, device: str, threads: int | None, backend: str | None, plugin: str | None = None
    ) -> Environment:
        """Return the environment of children there."""
        ...

    @property
    def apart(self) -> bool:
        """Whether every fold has a child of its own."""
        ...

    @property
    def room(self) -> int:
        """How many children can be at work."""
        ...

    def start(self, run: Path, steps: Sequence[int], folder: Path) -> Work | None:
        """Start a child for some steps, which logs into a folder; None where there is no room."""
        ...

    def leave(self, work: Work) -> bool:
        """Take note that a child has ended; True if its machine was lost and it had no fault."""
        ...


@contextmanager
def open_place(engine: str = "local", child_per_fold: bool = False) -> Iterator[Place]:
    """Yield where children work.

    Parameters
    ----------
    engine : str
        As `medkit.engine.open_cluster` takes it.
    child_per_fold : bool
        Whether every fold has a child of its own even where one after the other is fitted.
    """
    if engine == "local":
        yield Here(child_per_fold)
        return
    from medkit.training.remote import There

    with open_cluster(engine) as client:
        yield There(client)


@dataclass
class Here:
    """This machine: a child a GPU, or one on the processors.

    Parameters
    ----------
    child_per_fold : bool
        Whether every fold has a child of its own where one after the other is fitted, too.
    """

    child_per_fold: bool = False
    engine: str = "local"
    environment: Environment = field(init=False)
    _at_work: dict[int, Child] = field(default_factory=dict)

    def choose(
        self, device: str, threads: int | None, backend: str | None, plugin: str | None = None
    ) -> Environment:
        """Return the environment for what was asked, and keep it."""
        self.environment = choose_environment(device, threads, backend, plugin)
        return self.environment

    @property
    def apart(self) -> bool:
        """Whether every fold has a child of its own."""
        return self.child_per_fold or len(self.environment.gpus) > 1

    @property
    def room(self) -> int:
        """A child a GPU."""
        return max(1, len(self.environment.gpus))

    def start(self, run: Path, steps: Sequence[int], folder: Path) -> Child | None:
        """Start a child on a GPU that is free."""
        for slot in range(self.room):
            if slot not in self._at_work:
                variables, log = self.environment.variables(slot), folder / "log.txt"
                child = Child(run, steps, variables, log, self.environment.python)
                self._at_work[slot] = child
                return self._at_work[slot]
        return None

    def leave(self, work: Work) -> bool:
        """Free the GPU of a child that has ended."""
        self._at_work = {slot: one for slot, one in self._at_work.items() if one is not work}
        return False


@dataclass(frozen=True)
class _Task:
    """What a child is told, where it logs, and the folds that are settled by it."""

    steps: tuple[int, ...]
    folder: Path
    folds: tuple[int, ...] = ()


@dataclass
class _Shift:
    """A child at a task, the folds it has before it, and the one it is at."""

    task: _Task
    work: Work
    left: list[int]
    current: int | None = None
    begun: bool = False


def fit_folds(course: Course, place: Place) -> None:
    """Fit the folds that are left: a child that dies costs its fold alone.

    Raises
    ------
    TrainingError
        If a child did not come to its first fold: nor would the next one.
    KeyboardInterrupt
        After every child has been told to stop and has ended.
    """
    left = tuple(course.list_left())
    apart = [_Task((fold,), fold_folder(course.folder, fold), (fold,)) for fold in left]
    together = [_Task(left, course.folder, left)] if left else []
    _follow(_Schedule(course, place, apart if place.apart else together))


def compute_features(course: Course, place: Place, images: int) -> None:
    """Have the features of a run's images computed, by as many children as there is room for.

    Raises
    ------
    TrainingError, KeyboardInterrupt
        As `fit_folds`.
    """
    shares = min(place.room, -(-images // BATCH))
    remove_shares(course.folder, but=shares)
    if shares > 1:
        parts = [(number, shares) for number in range(shares)]
        tasks = [_Task(part, share_folder(course.folder, *part)) for part in parts]
        _follow(_Schedule(course, place, tasks, opened=True))
    _follow(_Schedule(course, place, [_Task((), course.folder / "features")]))


def _follow(schedule: _Schedule) -> None:
    try:
        schedule.run()
    except BaseException:  # also Ctrl-C: no child may outlive this function
        schedule.stop()
        raise


@dataclass
class _Schedule:
    course: Course
    place: Place
    waiting: list[_Task]
    opened: bool = False
    running: list[_Shift] = field(default_factory=list)
    inbox: Queue[tuple[_Shift, Event | str]] = field(default_factory=Queue)
    tried: set[tuple[int, ...]] = field(default_factory=set)
    counted: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def run(self) -> None:
        while self.waiting or self.running:
            self._start()
            with suppress(Empty):
                shift, news = self.inbox.get(timeout=_PATIENCE)
                if isinstance(news, str):
                    self._end(shift, news)
                else:
                    self._note(shift, news)

    def stop(self) -> None:
        for shift in self.running:
            shift.work.ask_to_stop()
        for shift in self.running:
            shift.work.kill(GRACE)
            shift.work.close()
            self._gather_log(shift.work)

    def _start(self) -> None:
        # The first child of a fit alone computes the features, if any: the others find them.
        while self.waiting and (self.opened or not self.running):
            task = self.waiting[0]
            task.folder.mkdir(parents=True, exist_ok=True)
            work = self.place.start(self.course.folder, task.steps, task.folder)
            if work is None:
                return
            shift = _Shift(self.waiting.pop(0), work, list(task.folds))
            self.running.append(shift)
            threading.Thread(target=_listen, args=(shift, self.inbox), daemon=True).start()

    def _note(self, shift: _Shift, event: Event) -> None:
        self.course.handle(self._add_up(shift.task, event))
        if event["event"] == "opened":
            self.opened = True
        elif event["event"] == "started":
            shift.current, shift.begun = event["fold"], True
        elif event["event"] == "finished":
            shift.left.remove(event["fold"])
            shift.current = None

    def _add_up(self, task: _Task, event: Event) -> Event:
        """Return an event in which the images of all children are counted."""
        if event["event"] != "progress" or event.get("fold") is not None:
            return event
        self.counted[task.folder] = (event["done"], event["total"])
        done, total = (sum(counts) for counts in zip(*self.counted.values(), strict=True))
        return {**event, "done": done, "total": total}

    def _end(self, shift: _Shift, ended: str) -> None:
        """Settle the fold that a child was at, and give what it did not come to to the next."""
        self.running.remove(shift)
        self._gather_log(shift.work)
        reason = self.course.errors.pop(shift.current, "") or ended
        lost = self.place.leave(shift.work) and bool(shift.left or not shift.task.folds)
        if lost and self._try_again(shift):
            return
        failed = shift.left[0] if lost and shift.left else shift.current
        if failed is not None:
            self.course.fail(failed, reason or "the child process left its work")
            shift.left.remove(failed)
        elif not shift.begun and (shift.left or reason):
            reason = reason or "the child process did nothing"
            raise TrainingError(f"{reason}; more is in {self.course.log}")
        if shift.left:
            self._put_back(shift)

    def _try_again(self, shift: _Shift) -> bool:
        """Give the task of a machine that was lost to another, once."""
        first = tuple(shift.left[:1]) or shift.task.steps
        if first in self.tried:
            return False
        self.tried.add(first)
        self._put_back(shift)
        return True

    def _put_back(self, shift: _Shift) -> None:
        left = tuple(shift.left)
        self.waiting.insert(0, _Task(left, shift.task.folder, left) if left else shift.task)

    def _gather_log(self, work: Work) -> None:
        """Add what a child of one fold printed to the run's log: lines of two are never mixed."""
        if work.log != self.course.log and work.log.exists():
            with self.course.log.open("ab") as whole:
                whole.write(work.log.read_bytes())
            work.log.unlink()


def _listen(shift: _Shift, inbox: Queue[tuple[_Shift, Event | str]]) -> None:
    """Put what a child says into the inbox, and at last why it ended."""
    try:
        for event in shift.work.events():
            inbox.put((shift, event))
        inbox.put((shift, shift.work.close()))
    except Exception as error:  # whatever it is: a schedule that is told nothing waits for ever
        inbox.put((shift, f"{type(error).__name__}: {error}"))
