"""Trainers that give features and leave the rest to the host: ``head = "linear"``.

The host solves a multinomial logistic regression for every fold, each in a process of its own
with one BLAS thread, so that the result does not depend on how many run at a time.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.cohort.division import make_inner_folds
from medkit.engine import Died, map_items
from medkit.errors import TrainingError
from medkit.statistics.labelwise import LabelHeads, fit_labels, load_head
from medkit.statistics.linear import LinearHead, fit_linear
from medkit.training.course import Course
from medkit.training.features import open_features
from medkit.training.job import derive_seed, fold_folder, read_array, read_job, read_part
from medkit.training.result import make_model_folder, open_looks
from medkit.workspace import write_json

if TYPE_CHECKING:
    from medkit.images.reader import Images

    Floats = npt.NDArray[np.floating[Any]]

# Memory a fold takes while it is solved, at most, for each feature of each image.
_BYTES = 28


@dataclass(frozen=True)
class FoldTask:
    """A fold to solve; its features have been computed.

    Attributes
    ----------
    run : Path
        The run's folder.
    fold : int
        Which one.
    feature_key : str
        Of its features.
    feature_spec : dict
        What they are.
    """

    run: Path
    fold: int
    feature_key: str
    feature_spec: dict[str, Any]


@dataclass(frozen=True)
class Solved:
    """How long a fold took, and why it failed if it did."""

    seconds: float
    error: str = ""


@dataclass(frozen=True)
class LinearModel:
    """What the host makes of a trainer with ``head = "linear"``."""

    head: LinearHead | LabelHeads

    def predict_proba(self, images: Images) -> npt.NDArray[np.float64]:
        """Return probabilities of images that have their features, shape (n, classes).

        Rows sum to 1 unless an image has several labels.
        """
        return self.head.predict_proba(np.asarray(images.features))

    @classmethod
    def load(cls, folder: Path) -> LinearModel:
        """Read the head that was saved in a folder."""
        return cls(load_head(folder))


def is_linear(trainer: Any) -> bool:
    """Tell whether a trainer, an instance, leaves ``fit`` and ``load`` to the host."""
    return getattr(trainer, "head", "") == "linear"


def read_spec(trainer: Any) -> dict[str, Any] | None:
    """Return what a trainer, an instance, says of its features; None where it has none."""
    spec = trainer.feature_spec() if hasattr(trainer, "feature_spec") else None
    return None if spec is None else dict(spec)


def solve_folds(course: Course, workers: int, engine: str = "local") -> None:
    """Solve the folds of a run that are left, several at a time.

    Raises
    ------
    TrainingError
        If the memory of this machine does not hold what one fold needs.
    """
    features = course.record["features"]
    tasks = [
        FoldTask(course.folder, fold, features["key"], features["spec"])
        for fold in course.list_left()
    ]
    if tasks and engine == "local":
        workers = _share_memory(tasks[0], workers)
    for outcome in map_items(solve_fold, tasks, workers=workers, engine=engine):
        fold, solved = outcome.item.fold, outcome.result
        if isinstance(solved, Died):
            course.fail(fold, f"the process that solved it died: {solved.detail}", 0.0)
        elif solved.error:
            course.fail(fold, solved.error, solved.seconds)
        else:
            course.finish(fold, solved.seconds)


def _share_memory(task: FoldTask, workers: int) -> int:
    """Return how many folds fit into memory at a time; the result does not depend on it."""
    job, numbers = read_job(task.run)
    width = open_features(Path(job.feature_store), task.feature_key).shape[1]
    needed, there = _BYTES * len(numbers) * int(width), count_memory()
    if there is None:
        return workers
    if needed > there:
        raise TrainingError(
            f"to solve a fold of {len(numbers)} images with {width:,} features each takes "
            f"{needed / 1e9:.1f} GB of memory, and this machine has {there / 1e9:.1f}; a smaller "
            "-p size, a layer with fewer maps, or -p solver=minibatch of softmax would work"
        )
    return min(workers, there // needed)


def count_memory() -> int | None:
    """Return the bytes of memory of this machine; None where the system does not say."""
    try:
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return None


def solve_fold(task: FoldTask) -> Solved:
    """Solve one fold: choose the strength by inner folds, save the head, predict the test part."""
    began = time.monotonic()
    try:
        _solve(task, fold_folder(task.run, task.fold))
    except Exception as error:  # whatever it is, it is this fold's, and the others go on
        return Solved(time.monotonic() - began, error=f"{type(error).__name__}: {error}")
    return Solved(time.monotonic() - began)


def list_notes(course: Course) -> list[str]:
    """Return what a reader should know of the heads of a finished run, by fold."""
    return [
        f"fold {fold}: {note}"
        for fold in range(course.record["k"])
        for note in _name_notes(
            load_head(fold_folder(course.folder, fold) / "model"), course.record["classes"]
        )
    ]


def _name_notes(head: LinearHead | LabelHeads, classes: Sequence[str]) -> list[str]:
    if isinstance(head, LinearHead):
        return list(head.notes)
    heads = zip(classes, head.heads, strict=True)
    return [f"{name}: {note}" for name, one in heads for note in one.notes]


def _solve(task: FoldTask, folder: Path) -> None:
    job, numbers = read_job(task.run)
    every = open_features(Path(job.feature_store), task.feature_key)
    rows = read_array(task.run / "feature-rows.npy")

    def gather(part: str) -> Floats:
        return every[rows[np.searchsorted(numbers, read_part(folder, part))]]

    labels, persons = (read_part(folder, "train", column) for column in ("labels", "persons"))
    inner = make_inner_folds(persons, labels, derive_seed(job.seed, "inner", task.fold))
    fit = fit_labels if labels.ndim == 2 else fit_linear
    head = fit(gather("train"), labels, persons, len(job.classes), inner=inner)
    head.save(make_model_folder(folder))
    write_json(folder / "trainer.json", job.describe_trainer(task.feature_spec))
    _record_looks(folder, head)
    loaded = load_head(folder / "model")
    np.save(folder / "predictions.npy", loaded.predict_proba(gather("test")))


def _record_looks(folder: Path, head: LinearHead | LabelHeads) -> None:
    """Every strength that was tried is a look, at the inner folds.

    Of several labels it is one at all of them, and the choice for each is one more.
    """
    record, least = open_looks(folder), math.inf
    for number, loss in enumerate(head.losses.values()):
        record({"epoch": number, "value": -loss, "chosen": loss < least})
        least = min(least, loss)
