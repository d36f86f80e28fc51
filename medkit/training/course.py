"""How far a run is: kept in ``run.json``, moved on by the events of its children."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medkit.engine import Progress
from medkit.errors import TrainingError
from medkit.statistics.truth import asks_several
from medkit.training.child import Event
from medkit.training.job import fold_folder, read_part
from medkit.training.result import read_probabilities, seal_fold
from medkit.workspace import write_json

# Is told of every event of a run: those of its children, and one when a fold is settled.
Watcher = Callable[[Event], None]


@dataclass
class Course:
    """A run that is under way.

    Attributes
    ----------
    folder : Path
        Of the run.
    record : dict
        Content of ``run.json``; written whenever it changes.
    progress : callable
        Is told how many folds are done, and of the progress of what comes before them.
    watchers : sequence of callable
        Are told of every event; see `medkit.training.monitoring`.
    errors : dict
        What a child last said went wrong, by the fold it was at, or None.
    began : dict
        When each fold did.
    """

    folder: Path
    record: dict[str, Any]
    progress: Progress
    watchers: Sequence[Watcher] = ()
    errors: dict[int | None, str] = field(default_factory=dict)
    began: dict[int, float] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """Where what the children printed is."""
        return self.folder / "log.txt"

    def write(self) -> None:
        """Write ``run.json``."""
        write_json(self.folder / "run.json", self.record)

    def list_left(self) -> list[int]:
        """Return the folds that are neither done nor failed."""
        return [fold["fold"] for fold in self.record["folds"] if fold["status"] == "waiting"]

    def tell(self, event: Event) -> None:
        """Tell the watchers of an event."""
        for watcher in self.watchers:
            watcher(event)

    def handle(self, event: Event) -> None:
        """Take note of an event of a child."""
        self.tell(event)
        if handler := _HANDLERS.get(event["event"]):
            handler(self, event)

    def start(self, fold: int) -> None:
        """Note that a fold has begun."""
        self.began[fold] = time.monotonic()

    def finish(self, fold: int, seconds: float | None = None) -> None:
        """Check what a fold left and seal it; what does not pass makes the fold a failed one."""
        folder = fold_folder(self.folder, fold)
        try:
            rows = len(read_part(folder, "test"))
            classes, several = len(self.record["classes"]), asks_several(self.record)
            read_probabilities(folder / "predictions.npy", rows, classes, several)
            seal_fold(folder)
        except TrainingError as error:
            self.fail(fold, str(error), seconds)
        else:
            self._settle(fold, "done", "", seconds)

    def fail(self, fold: int, error: str, seconds: float | None = None) -> None:
        """Note that a fold failed, and why."""
        self._settle(fold, "failed", error, seconds)

    def _settle(self, fold: int, status: str, error: str, seconds: float | None) -> None:
        if seconds is None:
            seconds = time.monotonic() - self.began.get(fold, time.monotonic())
        self.record["folds"][fold] = {
            "fold": fold,
            "status": status,
            "seconds": round(seconds, 3),
            "error": error or None,
        }
        self.write()
        self.tell({"event": "settled", **self.record["folds"][fold]})
        total = len(self.record["folds"])
        self.progress(total - len(self.list_left()), total, "folds")

    def note_opening(self, event: Event) -> None:
        """Keep which weights the trainer starts from, and where its features are."""
        self.record["weights"], self.record["features"] = event["weights"], event["features"]
        self.write()

    def note_progress(self, event: Event) -> None:
        """Pass progress on; that inside a fold is the watchers'."""
        if event.get("fold") is None:
            self.progress(event["done"], event["total"], event["unit"])


def wait(fold: int) -> dict[str, Any]:
    """Return how a fold stands before it has begun."""
    return {"fold": fold, "status": "waiting", "seconds": None, "error": None}


_HANDLERS: dict[str, Callable[[Course, Event], None]] = {
    "opened": Course.note_opening,
    "started": lambda course, event: course.start(event["fold"]),
    "finished": lambda course, event: course.finish(event["fold"]),
    "failed": lambda course, event: course.errors.update({event["fold"]: event["error"]}),
    "progress": Course.note_progress,
}
