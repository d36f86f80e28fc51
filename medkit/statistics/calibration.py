"""Calibration: are images that are predicted with 0.8 right in 8 of 10 cases, and if not, why not.

Temperature scaling (Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks",
ICML 2017, arXiv:1706.04599) divides the logits by one number T, fitted by log loss. Above 1 it
makes predictions less sure; it changes no order of the classes of an image, so no decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from medkit.statistics.metrics import SMALLEST_PROBABILITY, Floats, Ints, measure

# Beyond these a temperature says only that the probabilities are of no use as such.
LEAST, MOST = 0.05, 20.0
_STEPS = 200  # of bisection: more than there are digits in a double


class Temperature(NamedTuple):
    """A fitted temperature.

    Attributes
    ----------
    value : float
        `LEAST` to `MOST`.
    note : str
        Why it is not the one that minimises the log loss; empty where it is.
    """

    value: float
    note: str = ""


def fit_temperature(labels: Ints, probabilities: Floats) -> Temperature:
    """Return the temperature of the least log loss.

    The log loss is convex in 1/T, so that the one place where its slope is 0 is found by
    bisection, to the last digit, the same on every machine but for rounding.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
        True classes.
    probabilities : ndarray, shape (n, c)
        Predictions for images that were not trained on.

    Returns
    -------
    Temperature
        1 where every image is predicted right: the log loss then falls for ever as T goes to 0,
        and nothing says how sure is too sure. The nearest bound where the least is beyond it.
    """
    logits = _find_logits(probabilities)
    given = logits[np.arange(len(labels)), labels]
    if (given >= logits.max(axis=1)).all():
        return Temperature(1.0, "every prediction is right, so there is nothing to fit it to")
    low, high = 1 / MOST, 1 / LEAST  # of 1/T
    for bound in (low, high):
        if (_find_slope(logits, given, bound) > 0) == (bound == low):
            return Temperature(1 / bound, "the least log loss lies beyond this bound")
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _find_slope(logits, given, middle) < 0:
            low = middle
        else:
            high = middle
    return Temperature(1 / high)


def fit_labels(labels: Ints, probabilities: Floats) -> list[Temperature]:
    """Return a temperature for each of several labels: each is a question of two classes.

    Parameters
    ----------
    labels : ndarray of int, shape (n, c)
        1, 0, or less where it is not known.
    probabilities : ndarray, shape (n, c)
    """
    found = []
    for label, stated in zip(labels.T, probabilities.T, strict=True):
        known = label >= 0
        if known.any():
            found.append(fit_temperature(label[known], _spell_out(stated[known])))
        else:
            found.append(Temperature(1.0, "there is nothing to fit it to"))
    return found


def apply_temperature(probabilities: Floats, temperature: float | Sequence[float]) -> Floats:
    """Return calibrated probabilities, shape (n, c), rows summing to 1.

    Those of temperature 1 are returned as they are; else what is below `SMALLEST_PROBABILITY`
    counts as that, as in the log loss. Of several labels an image each has a temperature of its
    own, and rows sum to anything.
    """
    if not isinstance(temperature, int | float):
        return np.column_stack(
            [
                apply_temperature(_spell_out(stated), heat)[:, 1]
                for stated, heat in zip(probabilities.T, temperature, strict=True)
            ]
        )
    if temperature == 1 or not len(probabilities):
        return probabilities
    return _soften(_find_logits(probabilities), 1 / temperature)


def cross_fit(labels: Ints, probabilities: Floats, folds: Ints) -> tuple[Floats, list[Any]]:
    """Return probabilities that are calibrated by the temperature of the other folds.

    To fit a temperature and to measure it on the same predictions would flatter.

    Returns
    -------
    ndarray, shape (n, c)
        Calibrated predictions.
    list of float, or of list of float
        The temperature that each fold met, in the order of the folds; of several labels a list of
        them.
    """
    calibrated = np.empty_like(probabilities, dtype=np.float64)
    temperatures: list[Any] = []
    for fold in np.unique(folds):
        held = folds == fold
        if labels.ndim == 2:
            every = fit_labels(labels[~held], probabilities[~held])
            fitted: float | list[float] = [one.value for one in every]
        else:
            fitted = fit_temperature(labels[~held], probabilities[~held]).value
        calibrated[held] = apply_temperature(probabilities[held], fitted)
        temperatures.append(fitted)
    return calibrated, temperatures


def measure_calibration(labels: Ints, probabilities: Floats) -> dict[str, float]:
    """Return log loss in nats, Brier score, and both expected calibration errors."""
    metrics = measure(labels, probabilities).metrics
    return {name: float(metrics[name]) for name in ("log_loss", "brier", "ece", "ece_classwise")}


def _spell_out(stated: Floats) -> Floats:
    """Return the probabilities of a label as those of two classes, without it and with it."""
    return np.column_stack([1 - stated, stated])


def _find_logits(probabilities: Floats) -> Floats:
    logits: Floats = np.log(np.maximum(probabilities, SMALLEST_PROBABILITY))
    return logits


def _soften(logits: Floats, factor: float) -> Floats:
    scaled = logits * factor
    odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    softened: Floats = odds / odds.sum(axis=1, keepdims=True)
    return softened


def _find_slope(logits: Floats, given: Floats, factor: float) -> float:
    """Return the derivative of the log loss by 1/T: expected minus given logits, on average."""
    return float(((_soften(logits, factor) * logits).sum(axis=1) - given).mean())
