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
    fit_temperature,
    measure_calibration,
)
from medkit.statistics.outcomes import choose_positive
from medkit.statistics.thresholds import ARGMAX, OperatingPoint, check_rule, choose_point
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
    temperature : float
        Of `medkit.statistics.calibration`.
    rule : str
        ``"argmax"``, or what `medkit.statistics.thresholds.choose_point` was asked for.
    positive : int
        Of two classes, the column that the threshold is about.
    point : OperatingPoint or None
        On the calibrated probability of that class; None where the most probable class is it.
    """

    temperature: float
    rule: str
    positive: int
    point: OperatingPoint | None

    def calibrate(self, probabilities: Floats) -> Floats:
        """Return calibrated probabilities, shape (n, c)."""
        return apply_temperature(probabilities, self.temperature)

    def decide(self, probabilities: Floats) -> Ints:
        """Return the column of each image's class, from probabilities as the models gave them."""
        if self.point is None:
            return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)
        passed = self.calibrate(probabilities)[:, self.positive] >= self.point.threshold
        return np.where(passed, self.positive, 1 - self.positive).astype(np.int64)

    def describe(self) -> dict[str, Any]:
        """Return the decision as JSON has it."""
        point = self.point._asdict() if self.point else {"threshold": None}
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
        Columns of the true classes, and the fold that each image was tested in.
    probabilities : ndarray, shape (n, c)
        Out-of-fold.
    classes, positive
        As of ``run.json``.
    """
    labels, folds = np.asarray(labels), np.asarray(folds)
    fitted = fit_temperature(labels, probabilities)
    crossed, temperatures = cross_fit(labels, probabilities, folds)
    calibrated = apply_temperature(probabilities, fitted.value)
    point = None
    if len(classes) == 2:
        column = choose_positive(classes, positive)
        point = choose_point(labels == column, calibrated[:, column], "youden")._asdict()
    content = {
        "method": "temperature scaling (Guo et al. 2017), least log loss",
        "temperature": fitted.value,
        "note": fitted.note,
        "images": len(labels),
        "fitted_on": _FITTED_ON,
        "cross_fitted": {
            "temperatures": temperatures,
            "before": measure_calibration(labels, probabilities),
            "after": measure_calibration(labels, crossed),
        },
        "youden": point,
    }
    write_json(folder / CALIBRATION, content)


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
    classes = run["classes"]
    if rule != ARGMAX and len(classes) != 2:
        raise UsageError(
            f"the threshold {rule!r} is for two classes, and the run {folder.name!r} knows "
            f"{len(classes)}: {', '.join(classes)}; leave --threshold out"
        )
    table = pd.read_parquet(folder / "predictions.parquet")
    labels = np.searchsorted(classes, table["label"].to_numpy(str))
    probabilities = table[[f"p:{name}" for name in classes]].to_numpy(np.float64)
    if not (folder / CALIBRATION).exists():
        folds = table["fold"].to_numpy()
        calibrate_run(folder, labels, probabilities, folds, classes, run["positive"])
    temperature = float(read_json(folder / CALIBRATION)["temperature"])
    column = choose_positive(classes, run["positive"])
    point = None
    if rule != ARGMAX:
        calibrated = apply_temperature(probabilities, temperature)
        point = choose_point(labels == column, calibrated[:, column], rule)
    return Decision(temperature, rule, column, point)
