"""How good predictions are, under weights.

Every function takes weights of shape (n,) and gives numbers, or of shape (r, n) and gives r of
them: a bootstrap is then whole-number weights, and no loop over resamples. Where the weights
leave nothing to divide by (no image of a class), the result is NaN.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medkit.errors import TrainingError

Floats = npt.NDArray[np.float64]

# The resolution of float32, in which networks predict: a probability of exactly 0 then costs
# 15.9 nats, and as much for a trainer that predicts in float64.
SMALLEST_PROBABILITY = float(np.finfo(np.float32).eps)

NAMES = (
    "accuracy",
    "balanced_accuracy",
    "auc",
    "sensitivity",
    "specificity",
    "log_loss",
    "brier",
)


class Measured(NamedTuple):
    """All metrics of some predictions.

    Attributes
    ----------
    metrics : dict of str to ndarray, shape () or (r,)
        A value for each of `NAMES`.
    by_class : dict of str to ndarray, shape (c,) or (r, c)
        sensitivity, specificity and auc of each class against the others.
    """

    metrics: dict[str, Floats]
    by_class: dict[str, Floats]


def measure(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    positive: int = 1,
    predicted: npt.NDArray[np.integer[Any]] | None = None,
) -> Measured:
    """Return every metric.

    Parameters
    ----------
    labels : array_like of int, shape (n,)
        True classes, 0 to c - 1.
    probabilities : array_like, shape (n, c)
        The class with the largest is the predicted one; the first of them where they tie.
    weights : array_like, shape (n,) or (r, n), optional
        1 by default.
    positive : int
        Of two classes, the one that sensitivity, specificity and AUC are about. Of more classes
        these three are means over the classes that occur in ``labels``, as balanced accuracy
        always is.
    predicted : ndarray of int, shape (n,), optional
        The predicted classes, where another rule than the largest probability decides.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    count = probabilities.shape[1]
    weights = _weights(weights, len(labels))
    if predicted is None:
        predicted = probabilities.argmax(axis=1)
    confusion = confuse(labels, predicted, count, weights)
    by_class = {
        "sensitivity": sensitivity(confusion),
        "specificity": specificity(confusion),
        "auc": np.stack(
            [auc(labels == c, probabilities[:, c], weights) for c in range(count)], axis=-1
        ),
    }
    occur = np.bincount(labels, minlength=count) > 0
    chosen = np.arange(count) == positive if count == 2 else occur
    metrics = {
        "accuracy": accuracy(confusion),
        "balanced_accuracy": by_class["sensitivity"][..., occur].mean(axis=-1),
        **{name: values[..., chosen].mean(axis=-1) for name, values in by_class.items()},
        "log_loss": log_loss(labels, probabilities, weights),
        "brier": brier(labels, probabilities, weights),
    }
    return Measured({name: metrics[name] for name in NAMES}, by_class)


def check_predictions(labels: npt.NDArray[Any], probabilities: npt.NDArray[Any]) -> None:
    """Refuse what cannot be measured.

    Raises
    ------
    TrainingError
        If shapes do not fit, a label is no column, or a probability is not in 0 to 1.
    """
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise TrainingError(
            f"{len(labels)} labels need as many rows of probabilities, a column a class; "
            f"the array has the shape {probabilities.shape}"
        )
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise TrainingError(
            f"labels run from {labels.min()} to {labels.max()}, and there are "
            f"{probabilities.shape[1]} columns of probabilities"
        )
    wrong = ~((probabilities >= 0) & (probabilities <= 1)).all(axis=1)
    if wrong.any():
        raise TrainingError(
            f"{wrong.sum()} of {len(labels)} predictions have a probability that is not in 0 to 1, "
            f"such as row {wrong.argmax()}: {probabilities[wrong][0].tolist()}"
        )


def confuse(
    labels: npt.NDArray[np.integer[Any]],
    predicted: npt.NDArray[np.integer[Any]],
    count: int,
    weights: npt.ArrayLike | None = None,
) -> Floats:
    """Return the weight of each (true, predicted) pair, shape (c, c) or (r, c, c)."""
    weights = _weights(weights, len(labels))
    cells = labels * count + predicted
    order = np.argsort(cells, kind="stable")
    present, starts = np.unique(cells[order], return_index=True)
    confusion = np.zeros((*weights.shape[:-1], count * count))
    confusion[..., present] = np.add.reduceat(weights[..., order], starts, axis=-1)
    return confusion.reshape(*weights.shape[:-1], count, count)


def accuracy(confusion: Floats) -> Floats:
    """Return the share of images that are predicted right."""
    right = np.trace(confusion, axis1=-2, axis2=-1)
    return _ratio(right, confusion.sum(axis=(-2, -1)))


def sensitivity(confusion: Floats) -> Floats:
    """Return for each class the share of its images that are predicted as it."""
    return _ratio(_diagonal(confusion), confusion.sum(axis=-1))


def specificity(confusion: Floats) -> Floats:
    """Return for each class the share of the other images that are not predicted as it."""
    total = confusion.sum(axis=(-2, -1))[..., None]
    others = total - confusion.sum(axis=-1)
    wrongly = confusion.sum(axis=-2) - _diagonal(confusion)
    return _ratio(others - wrongly, others)


def auc(
    truth: npt.NDArray[np.bool_],
    scores: npt.NDArray[Any],
    weights: npt.ArrayLike | None = None,
) -> Floats:
    """Return the area under the ROC curve: how often a true image scores above a false one.

    A tie counts half, which is the trapezoidal area (Hanley and McNeil, Radiology 143, 1982).
    """
    weights = _weights(weights, len(truth))
    false = np.flatnonzero(~truth)
    false = false[np.argsort(scores[false], kind="stable")]
    below, upto = (
        np.searchsorted(scores[false], scores[truth], side) for side in ("left", "right")
    )
    passed = np.zeros((*weights.shape[:-1], len(false) + 1))
    np.cumsum(weights[..., false], axis=-1, out=passed[..., 1:])
    beaten = (passed[..., below] + passed[..., upto]) / 2
    true = weights[..., truth]
    return _ratio((true * beaten).sum(axis=-1), true.sum(axis=-1) * passed[..., -1])


def log_loss(
    labels: npt.NDArray[np.integer[Any]],
    probabilities: npt.NDArray[Any],
    weights: npt.ArrayLike | None = None,
) -> Floats:
    """Return the mean of -ln of the probability given to the true class, in nats.

    Probabilities below `SMALLEST_PROBABILITY` count as that; rows are not made to sum to 1.
    """
    given = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return _mean(-np.log(np.maximum(given, SMALLEST_PROBABILITY)), weights)


def brier(
    labels: npt.NDArray[np.integer[Any]],
    probabilities: npt.NDArray[Any],
    weights: npt.ArrayLike | None = None,
) -> Floats:
    """Return the mean squared error of the probabilities.

    Of two classes it is that of one class's probability, 0 to 1; of more it is summed over the
    classes, 0 to 2 (Brier, Monthly Weather Review 78, 1950). scikit-learn halves likewise.
    """
    count = probabilities.shape[1]
    error = probabilities - (labels[:, None] == np.arange(count))
    return _mean((error**2).sum(axis=1) / (2 if count == 2 else 1), weights)


def _weights(weights: npt.ArrayLike | None, count: int) -> Floats:
    return np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)


def _mean(values: Floats, weights: npt.ArrayLike | None) -> Floats:
    weights = _weights(weights, len(values))
    return _ratio(weights @ values, weights.sum(axis=-1))


def _diagonal(confusion: Floats) -> Floats:
    diagonal: Floats = np.diagonal(confusion, axis1=-2, axis2=-1)
    return diagonal


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Divide; NaN where the whole is nothing."""
    part, whole = np.asarray(part), np.asarray(whole)
    ratio: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio
