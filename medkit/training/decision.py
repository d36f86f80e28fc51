"""What a run fixes when it ends: its temperature, and from where on an image counts as positive.

Both come from its out-of-fold predictions, and never from the labels of other images.

    runs/NAME/calibration.json      what was fitted, and how good it is, cross-fitted
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medkit.errors import UsageError
from medkit.statistics.calibration import (
    apply_temperature,
    cross_fit,
    fit_labels,
    fit_temperature,
    measure_calibration,
)
from medkit.statistics.outcomes import choose_positive
from medkit.statistics.thresholds import ARGMAX, OperatingPoint, check_rule, choose_point
from medkit.statistics.truth import asks_several, read_truth
from medkit.workspace import read_json, write_json

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CALIBRATION = "calibration.json"

_FITTED_ON = (
    "out-of-fold predictions, each by the one model that was not trained on the image. New images "
    "are predicted by the mean of all models, which is less sure than one of them, so that this "
    "temperature can leave it less sure than it could be (Rahaman and Thiery 2021)."
)


@dataclass(frozen=True)
class Decision:
    """How probabilities of a run's models become calibrated ones, and these a class.

    Attributes
    ----------
    temperature : float or list of float
        Of `medkit.statistics.calibration`; of several labels one each.
    rule : str
        ``"argmax"``, or what `medkit.statistics.thresholds.choose_point` was asked for.
    positive : int
        Of two classes, the column that the threshold is about.
    points : tuple of OperatingPoint
        On the calibrated probability of that class, or of each of several labels; none where the
        most probable class is it, and a label is where it is more probable than not.
    several : bool
        Whether an image has several labels.
    """

    temperature: float | list[float]
    rule: str
    positive: int
    points: tuple[OperatingPoint, ...] = ()
    several: bool = False

    @property
    def threshold(self) -> float | list[float] | None:
        """From where on the class counts as positive, or each label as there."""
        found = [point.threshold for point in self.points]
        return (found if self.several else found[0]) if found else None

    def calibrate(self, probabilities: Floats) -> Floats:
        """Return calibrated probabilities, shape (n, c)."""
        return apply_temperature(probabilities, self.temperature)

    def decide(self, probabilities: Floats) -> Ints:
        """Return the column of each image's class, from probabilities as the models gave them.

        Of several labels 1 where one is there and 0 where not, shape (n, c).
        """
        if self.several:
            stated = self.calibrate(probabilities) if self.points else probabilities
            cuts = np.array([point.threshold for point in self.points])
            return (stated >= cuts if self.points else stated > 0.5).astype(np.int64)
        if not self.points:
            return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)
        passed = self.calibrate(probabilities)[:, self.positive] >= self.points[0].threshold
        return np.where(passed, self.positive, 1 - self.positive).astype(np.int64)

    def describe(self) -> dict[str, Any]:
        """Return the decision as JSON has it."""
        every = [point._asdict() for point in self.points]
        point: dict[str, Any] = {"threshold": None}
        if every:
            point = {name: [one[name] for one in every] for name in OperatingPoint._fields}
        if every and not self.several:
            point = every[0]
        return {"temperature": self.temperature, "rule": self.rule, **point}


def calibrate_run(
    folder: Path,
    labels: npt.ArrayLike,
    probabilities: Floats,
    folds: npt.ArrayLike,
    classes: Sequence[str],
    positive: str | None,
) -> None:
    """Write ``calibration.json``: what is fixed now that a run ends.

    Parameters
    ----------
    folder : Path
        Of the run.
    labels, folds : array_like of int, shape (n,)
        Columns of the true classes, and the fold that each image was tested in. Of several labels
        an image, shape (n, c).
    probabilities : ndarray, shape (n, c)
        Out-of-fold.
    classes, positive
        As of ``run.json``.
    """
    labels, folds = np.asarray(labels), np.asarray(folds)
    several = labels.ndim == 2
    temperature, note = _fit(labels, probabilities, classes)
    crossed, temperatures = cross_fit(labels, probabilities, folds)
    calibrated = apply_temperature(probabilities, temperature)
    points = []
    if several or len(classes) == 2:
        column = choose_positive(classes, positive)
        points = [one._asdict() for one in _choose(labels, calibrated, column, "youden")]
    content = {
        "method": "temperature scaling (Guo et al. 2017), least log loss",
        "temperature": temperature,
        "note": note,
        "images": len(labels),
        "fitted_on": _FITTED_ON,
        "cross_fitted": {
            "temperatures": temperatures,
            "before": measure_calibration(labels, probabilities),
            "after": measure_calibration(labels, crossed),
        },
        "youden": points if several else next(iter(points), None),
    }
    write_json(folder / CALIBRATION, content)


def _fit(
    labels: Ints, probabilities: Floats, classes: Sequence[str]
) -> tuple[float | list[float], str]:
    """Return the temperature, of several labels one each, and why it is not the best one."""
    if labels.ndim == 1:
        return fit_temperature(labels, probabilities)
    fitted = fit_labels(labels, probabilities)
    notes = [f"{name}: {one.note}" for name, one in zip(classes, fitted, strict=True) if one.note]
    return [one.value for one in fitted], "; ".join(notes)


def _choose(labels: Ints, stated: Floats, positive: int, rule: str) -> list[OperatingPoint]:
    """Return the operating point of the positive class, or that of each of several labels."""
    if labels.ndim == 1:
        return [choose_point(labels == positive, stated[:, positive], rule)]
    found = []
    for label, scores in zip(labels.T, stated.T, strict=True):
        known = label >= 0
        found.append(choose_point(label[known] == 1, scores[known], rule))
    return found


def make_decision(folder: Path, run: Mapping[str, Any], rule: str = ARGMAX) -> Decision:
    """Return how a run decides, by its own out-of-fold predictions alone.

    Parameters
    ----------
    folder : Path
        Of a finished run. One from before there was ``calibration.json`` is given it.
    run : mapping
        Content of ``run.json``.
    rule : str
        ``"argmax"``: the most probable class. For two classes also one of
        `medkit.statistics.thresholds.choose_point`.

    Raises
    ------
    UsageError
        If there is no such rule, or not for these classes.
    """
    check_rule(rule)
    classes, several = run["classes"], asks_several(run)
    if rule != ARGMAX and len(classes) != 2 and not several:
        raise UsageError(
            f"the threshold {rule!r} is for two classes, and the run {folder.name!r} knows "
            f"{len(classes)}: {', '.join(classes)}; leave --threshold out"
        )
    table = pd.read_parquet(folder / "predictions.parquet")
    labels = read_truth(table["label"], classes, several)
    probabilities = table[[f"p:{name}" for name in classes]].to_numpy(np.float64)
    if not (folder / CALIBRATION).exists():
        folds = table["fold"].to_numpy()
        calibrate_run(folder, labels, probabilities, folds, classes, run["positive"])
    temperature = read_json(folder / CALIBRATION)["temperature"]
    column = choose_positive(classes, run["positive"])
    points: list[OperatingPoint] = []
    if rule != ARGMAX:
        points = _choose(labels, apply_temperature(probabilities, temperature), column, rule)
    return Decision(temperature, rule, column, tuple(points), several)
