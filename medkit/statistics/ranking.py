"""How well scores put true images before false ones, under weights: what ROC and PR curves show.

A `Ranking` is both curves: the weight of true and of false images from each distinct score on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# A target of 0.9 is met by 9 of 10, whatever the last digit of the weights' sum.
_ROUNDING = 1e-9


class Ranking(NamedTuple):
    """What is found, and what is taken for it, from each threshold on; from the strictest on.

    Attributes
    ----------
    found, alarms : ndarray, shape (t + 1,) or (r, t + 1)
        Weight of the true, and of the false images that score the threshold or more. Of the first
        threshold, above all scores, both are 0; of the last one they are all there is.
    """

    found: Floats
    alarms: Floats


class Order(NamedTuple):
    """What of a ranking does not depend on weights.

    Attributes
    ----------
    true, false : ndarray of int
        Rows of the true and of the false images, the highest score first.
    found, alarms : ndarray of int, shape (t + 1,)
        How many of them score each threshold or more, from above all scores on.
    """

    true: npt.NDArray[Any]
    false: npt.NDArray[Any]
    found: npt.NDArray[Any]
    alarms: npt.NDArray[Any]


def order_scores(truth: npt.NDArray[np.bool_], scores: npt.NDArray[Any]) -> Order:
    """Return the order of images by their scores; see `rank`."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true = truth[order]
    upto = np.cumsum(true)[last]  # how many true images there are up to each threshold
    return Order(order[true], order[~true], np.append(0, upto), np.append(0, last + 1 - upto))


def rank(truth: npt.NDArray[np.bool_], scores: npt.NDArray[Any], weights: Floats) -> Ranking:
    """Return the ranking of images by their scores; equal scores are one threshold.

    Parameters
    ----------
    truth : ndarray of bool, shape (n,)
        Which images are true.
    scores : ndarray, shape (n,)
        Higher is truer.
    weights : ndarray, shape (n,) or (r, n)
        Of the images.
    """
    return follow(order_scores(truth, scores), weights)


def follow(order: Order, weights: Floats) -> Ranking:
    """Return the ranking of images that were put in order before, under weights."""
    return Ranking(
        _cumulate(weights, order.true, order.found), _cumulate(weights, order.false, order.alarms)
    )


def _cumulate(weights: Floats, chosen: npt.NDArray[Any], upto: npt.NDArray[Any]) -> Floats:
    sums = np.zeros((*weights.shape[:-1], len(chosen) + 1))
    np.cumsum(weights[..., chosen], axis=-1, out=sums[..., 1:])
    cumulated: Floats = sums[..., upto]
    return cumulated


def mirror(ranking: Ranking) -> Ranking:
    """Return the ranking that has what is false for true, and the opposite scores."""
    found, alarms = (one[..., -1:] - one[..., ::-1] for one in ranking)
    return Ranking(alarms, found)


def measure_area(ranking: Ranking) -> Floats:
    """Return the area under the ROC curve: how often a true image scores above a false one.

    A tie counts half, which is the trapezoidal area (Hanley and McNeil, Radiology 143, 1982).
    """
    found, alarms = ranking
    steps = np.diff(alarms, axis=-1)
    area = sum(
        np.einsum("...t,...t->...", steps, side) for side in (found[..., 1:], found[..., :-1])
    )
    return divide(area, 2 * found[..., -1] * alarms[..., -1])


def average_precision(ranking: Ranking) -> Floats:
    """Return the sum over thresholds of precision times the gain in recall.

    No line is drawn between points of the curve, which would flatter (Davis and Goadrich, ICML
    2006); scikit-learn defines it likewise.
    """
    found, alarms = ranking
    precision = found[..., 1:] + alarms[..., 1:]
    np.maximum(precision, np.finfo(np.float64).tiny, out=precision)
    np.divide(found[..., 1:], precision, out=precision)
    gains = np.diff(found, axis=-1)
    return divide(np.einsum("...t,...t->...", gains, precision), found[..., -1])


def sensitivity_at(ranking: Ranking, specificity: float) -> Floats:
    """Return the largest sensitivity of a threshold that has this specificity or more."""
    found, alarms = ranking
    allowed = (1 - specificity + _ROUNDING) * alarms[..., -1:]
    return _at(found, (alarms <= allowed).sum(axis=-1) - 1, alarms[..., -1])


def specificity_at(ranking: Ranking, sensitivity: float) -> Floats:
    """Return the largest specificity of a threshold that has this sensitivity or more."""
    found, alarms = ranking
    needed = (sensitivity - _ROUNDING) * found[..., -1:]
    return 1 - _at(alarms, (found < needed).sum(axis=-1), found[..., -1])


def _at(values: Floats, position: npt.NDArray[Any], others: Floats) -> Floats:
    """Return the share that is reached at a position; NaN where no image decides on it."""
    reached = np.take_along_axis(values, np.asarray(position)[..., np.newaxis], axis=-1)[..., 0]
    share = divide(reached, values[..., -1])
    known: Floats = np.where(others > 0, share, np.nan)
    return known


def divide(part: npt.ArrayLike, whole: npt.ArrayLike) -> Floats:
    """Divide; NaN where the whole is nothing."""
    part, whole = np.asarray(part), np.asarray(whole)
    ratio: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio
