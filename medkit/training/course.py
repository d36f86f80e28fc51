"""How far a run is: kept in ``run.json``, moved on by the events of the child."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medkit.engine import Progress
from medkit.errors import TrainingError
from medkit.training.child import Event
from medkit.training.job import fold_folder, read_part
from medkit.training.result import read_probabilities, seal_fold
from medkit.workspace import write_json


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
        Is told of the progress inside a fold.
    current : int or None
        The fold that the child works on.
    error : str
        What the child last said went wrong.
    began : float
        When the current fold did.
    """

    folder: Path
    record: dict[str, Any]
    progress: Progress
    current: int | None = None
    error: str = ""
    began: float = 0.0

    @property
    def log(self) -> Path:
        """Where what the child printed is."""
        return self.folder / "log.txt"

    def write(self) -> None:
        """Write ``run.json``."""
        write_json(self.folder / "run.json", self.record)

    def list_left(self) -> list[int]:
        """Return the folds that are neither done nor failed."""
        return [fold["fold"] for fold in self.record["folds"] if fold["status"] == "waiting"]

    def handle(self, event: Event) -> None:
        """Take note of an event of the child."""
        _HANDLERS[event["event"]](self, event)

    def start(self, fold: int) -> None:
        """Note that the child has begun a fold."""
        self.current, self.began = fold, time.monotonic()

    def finish(self, fold: int, seconds: float | None = None) -> None:
        """Check what a fold left and seal it; what does not pass makes the fold a failed one."""
        folder = fold_folder(self.folder, fold)
        try:
            rows = len(read_part(folder, "test"))
            read_probabilities(folder / "predictions.npy", rows, len(self.record["classes"]))
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
            seconds = time.monotonic() - self.began
        self.record["folds"][fold] = {
            "fold": fold,
            "status": status,
            "seconds": round(seconds, 3),
            "error": error or None,
        }
        self.current, self.error = None, ""
        self.write()
        total = len(self.record["folds"])
        self.progress(total - len(self.list_left()), total, "folds")

    def note_opening(self, event: Event) -> None:
        """Keep which weights the trainer starts from, and where its features are."""
        self.record["weights"], self.record["features"] = event["weights"], event["features"]
        self.write()

    def note_error(self, event: Event) -> None:
        """Keep what the child said last before it ended."""
        self.error = event["error"]


def wait(fold: int) -> dict[str, Any]:
    """Return how a fold stands before it has begun."""
    return {"fold": fold, "status": "waiting", "seconds": None, "error": None}


_HANDLERS: dict[str, Callable[[Course, Event], None]] = {
    "opened": Course.note_opening,
    "started": lambda course, event: course.start(event["fold"]),
    "finished": lambda course, event: course.finish(event["fold"]),
    "failed": Course.note_error,
    "progress": lambda course, event: course.progress(event["done"], event["total"], event["unit"]),
}
