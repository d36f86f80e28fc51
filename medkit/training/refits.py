"""Fits that leave out two folds each, from which the procedure's own interval is found.

    runs/NAME/refits/R/run.json, job.json, fold-J/      the R-th division into folds; fit J
    runs/NAME/refits/R/told.npy       (fits, images, classes): all there is to know; then the
                                      models are removed

The first division is that of the run, whose own models left out one fold each; of any other these
are fitted too. What the interval is: `medkit.statistics.procedure`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.cohort.division import make_folds
from medkit.errors import TrainingError, UsageError
from medkit.statistics.procedure import Refits
from medkit.statistics.truth import asks_several, list_findings
from medkit.training.course import Course, wait
from medkit.training.head import is_linear, solve_folds
from medkit.training.job import Job, derive_seed, fold_folder, read_array
from medkit.training.partition import Labelled
from medkit.training.result import is_sealed, read_probabilities
from medkit.training.scheduling import Place, fit_folds
from medkit.workspace import Workspace, remove_folder, write_beside

if TYPE_CHECKING:
    from medkit.cohort.preparation import Prepared

Floats = npt.NDArray[np.float64]
Fits = Sequence[tuple[int, ...]]  # the folds that each leaves out


def check_repeats(repeats: int, k: int) -> None:
    """Raise UsageError if there are no pairs of folds to leave out."""
    if repeats and k < 3:
        raise UsageError(
            f"the procedure's interval leaves out two folds at a time, and of {k} none is left to "
            "train on; use 3 folds or more, or leave --procedure-interval out"
        )


def list_fits(k: int, repeat: int) -> Fits:
    """Return which folds each fit of a division leaves out."""
    singles: Fits = [] if repeat == 0 else [(fold,) for fold in range(k)]
    return [*singles, *combinations(range(k), 2)]


def tell_cost(k: int, repeats: int) -> str:
    """Return what the interval costs, in words; nothing where it is not asked for."""
    fits = [out for repeat in range(repeats) for out in list_fits(k, repeat)]
    if not fits:
        return ""
    times = sum(k - len(out) for out in fits) / (k * (k - 1))
    return (
        f"the procedure's own interval takes {len(fits)} more fits, about {times:.1f} times as "
        f"long as the {k} folds themselves"
    )


def refit(
    course: Course, trainer: Any, prepared: Prepared, place: Place, outer: Floats
) -> list[Refits]:
    """Fit what is left to fit, and return what all of it predicts.

    Parameters
    ----------
    course : Course
        The run, its folds done; ``record["refits"]`` says how many divisions are asked for.
    trainer, prepared, place
        Of the run.
    outer : ndarray, shape (n, c)
        Out-of-fold predictions of the run, images ascending.

    Raises
    ------
    TrainingError
        If a fit failed.
    """
    labelled = Labelled.read(prepared.folds)
    found = []
    for number in range(course.record["refits"]):
        divided = labelled if number == 0 else _divide(labelled, course.record, number)
        division = _Division(course, trainer, prepared, place, divided, number)
        told = dict(zip(division.fits, division.predict(), strict=True))
        if number:
            outer = np.empty_like(outer)
            for fold in range(course.record["k"]):
                rows = divided.folds == fold
                outer[rows] = told[fold,][rows]
        pairs = {(out[0], out[1]): one for out, one in told.items() if len(out) == 2}
        found.append(Refits(divided.folds, outer, pairs))
    return found


def _divide(labelled: Labelled, record: dict[str, Any], number: int) -> Labelled:
    """Return the same images in other folds."""
    import pandas as pd

    labels = list_findings(labelled.labels)
    table = pd.DataFrame(
        {"image": labelled.images, "split_group": labelled.persons, "label": labels}
    )
    seed = derive_seed(record["seed"], "refits", number)
    return replace(labelled, folds=make_folds(table, record["k"], seed))


@dataclass(frozen=True, eq=False)
class _Division:
    """One division of a run's images into folds, and what is fitted for it."""

    run: Course
    trainer: Any
    prepared: Prepared
    place: Place
    labelled: Labelled
    number: int

    @property
    def folder(self) -> Path:
        return self.run.folder / "refits" / str(self.number)

    @property
    def fits(self) -> Fits:
        return list_fits(self.run.record["k"], self.number)

    def predict(self) -> Floats:
        """Return what the fits predict, shape (fits, n, c); NaN of images that they saw."""
        path = self.folder / "told.npy"
        if not path.exists():
            self._fit(self._open())
            told = _gather(self.folder, self.fits, self.labelled, self.run.record)
            with write_beside(path) as beside, beside.open("wb") as handle:
                np.save(handle, told, allow_pickle=False)
        for number in range(len(self.fits)):
            remove_folder(fold_folder(self.folder, number))
        found: Floats = read_array(path)
        return found

    def _open(self) -> Course:
        """Return the course of the fits, those that are done left alone."""
        folders = [fold_folder(self.folder, number) for number in range(len(self.fits))]
        record = {
            **self.run.record,
            "k": len(folders),
            "seed": derive_seed(self.run.record["seed"], "refits", self.number),
            "status": "running",
            "folds": [
                {**wait(number), "status": "done" if is_sealed(folder) else "waiting"}
                for number, folder in enumerate(folders)
            ],
        }

        def progress(done: int, total: int | None, unit: str) -> None:
            self.run.progress(done, total, "refits" if unit == "folds" else unit)

        return Course(self.folder, record, progress)

    def _fit(self, course: Course) -> None:
        self._write_inputs(course)
        if not is_linear(self.trainer):
            fit_folds(course, self.place)
        elif course.list_left():
            solve_folds(course, course.record["threads"], self.place.engine)
        failed = [fit for fit in course.record["folds"] if fit["status"] == "failed"]
        if failed:
            raise TrainingError(
                f"{len(failed)} of {len(self.fits)} fits for the procedure's interval failed, the "
                f"first: {failed[0]['error']}. The folds are kept, and the same command tries "
                f"again; more is in {course.log}"
            )

    def _write_inputs(self, course: Course) -> None:
        task = "features" if is_linear(self.trainer) else "fit"
        workspace = Workspace(self.run.folder.parents[1])
        image_set, environment = self.prepared.image_set, self.place.environment
        job = Job.plan(task, course.record, image_set, workspace, environment)
        job.write(course.folder, self.labelled.images)
        course.write()
        if is_linear(self.trainer):  # the features of the run are those of its refits
            rows = read_array(self.run.folder / "feature-rows.npy")
            np.save(course.folder / "feature-rows.npy", rows)
        for number in course.list_left():
            tested = np.isin(self.labelled.folds, self.fits[number])
            seed = derive_seed(course.record["seed"], "validation", number)
            folder, share = fold_folder(course.folder, number), course.record["validation_share"]
            self.labelled.write(folder, tested, share, seed)


def _gather(folder: Path, fits: Fits, labelled: Labelled, record: Mapping[str, Any]) -> Floats:
    classes, several = len(record["classes"]), asks_several(record)
    told = np.full((len(fits), len(labelled.images), classes), np.nan)
    for number, out in enumerate(fits):
        rows = np.flatnonzero(np.isin(labelled.folds, out))
        path = fold_folder(folder, number) / "predictions.npy"
        told[number, rows] = read_probabilities(path, len(rows), classes, several)
    return told
