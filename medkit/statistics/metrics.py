"""How good predictions are, under weights.

Every function takes weights of shape (n,) and gives numbers, or of shape (r, n) and gives r of
them: a bootstrap is then whole-number weights, and no loop over resamples. Where the weights
leave nothing to divide by (no image of a class), the result is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medkit.errors import TrainingError
from medkit.statistics.ranking import (
    Order,
    Ranking,
    average_precision,
    divide,
    follow,
    measure_area,
    mirror,
    order_scores,
    rank,
    sensitivity_at,
    specificity_at,
)
from medkit.statistics.reliability import calibration_error, spread_gaps, weigh_gaps

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer[Any]]

# The resolution of float32, in which networks predict: a probability of exactly 0 then costs
# 15.9 nats, and as much for a trainer that predicts in float64.
SMALLEST_PROBABILITY = float(np.finfo(np.float32).eps)

# Of `sensitivity_at_specificity`, and the reverse.
TARGET = 0.9

NAMES = (
    *("accuracy", "balanced_accuracy", "auc", "average_precision", "sensitivity", "specificity"),
    *("sensitivity_at_specificity", "specificity_at_sensitivity", "f1", "mcc", "kappa"),
    *("log_loss", "brier", "ece", "ece_classwise"),
)

# Of one class against the others.
OF_A_CLASS = (
    *("sensitivity", "specificity", "ppv", "npv", "f1", "auc", "average_precision"),
    *("sensitivity_at_specificity", "specificity_at_sensitivity", "ece_classwise"),
)


class Measured(NamedTuple):
    """All metrics of some predictions.

    Attributes
    ----------
    metrics : dict of str to ndarray, shape () or (r,)
        A value for each of `NAMES`.
    by_class : dict of str to ndarray, shape (c,) or (r, c)
        `OF_A_CLASS` of each class against the others, or of each label.
    """

    metrics: dict[str, Floats]
    by_class: dict[str, Floats]


# Takes weights of shape (n,) or (r, n).
Weighed = Callable[[Floats], Measured]


def measure(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    positive: int = 1,
    predicted: Ints | None = None,
) -> Measured:
    """Return every metric.

    Parameters
    ----------
    labels : array_like of int, shape (n,) or (n, c)
        True classes, 0 to c - 1. Of several labels an image: 1 where it has one, 0 where it has
        not, and less where that is not known, which leaves the image out for this label.
    probabilities : array_like, shape (n, c)
        The class with the largest is the predicted one; the first of them where they tie. A label
        is predicted above 0.5.
    weights : array_like, shape (n,) or (r, n), optional
        1 by default.
    positive : int
        Of two classes, the one that metrics of a class are about. Of more classes these are means
        over the classes that occur in ``labels``, as balanced accuracy always is. Of several
        labels every metric is the mean over those that some images have and others have not.
    predicted : ndarray of int, shape (n,) or (n, c), optional
        The predicted classes, where another rule than the largest probability decides; of several
        labels 1 where one is predicted.
    """
    labels = np.asarray(labels)
    weighed = prepare(labels, probabilities, positive=positive, predicted=predicted)
    return weighed(_weights(weights, len(labels)))


def prepare(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    *,
    positive: int = 1,
    predicted: Ints | None = None,
) -> Weighed:
    """Return what gives every metric under weights: all that they do not change is done before.

    The arguments are those of `measure`.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if labels.ndim == 2:
        return _prepare_labels(labels, probabilities, predicted)
    count = probabilities.shape[1]
    if predicted is None:
        predicted = probabilities.argmax(axis=1)
    cells = _order_cells(labels, predicted, count)
    of_classes = _prepare_classes(labels, probabilities)
    losses, errors = _find_losses(labels, probabilities), _find_errors(labels, probabilities)
    gaps = spread_gaps(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)
    occur = np.bincount(labels, minlength=count) > 0
    chosen = np.arange(count) == positive if count == 2 else occur

    def weigh(weights: Floats) -> Measured:
        confusion = _count_cells(cells, count, weights)
        by_class = of_classes(weights, confusion)
        metrics = {
            **{name: values[..., chosen].mean(axis=-1) for name, values in by_class.items()},
            "accuracy": accuracy(confusion),
            "balanced_accuracy": by_class["sensitivity"][..., occur].mean(axis=-1),
            "mcc": matthews(confusion),
            "kappa": kappa(confusion),
            "log_loss": _mean(losses, weights),
            "brier": _mean(errors, weights),
            "ece": weigh_gaps(gaps, weights),
        }
        return Measured({name: metrics[name] for name in NAMES}, by_class)

    return weigh


def _prepare_classes(
    labels: Ints, probabilities: Floats
) -> Callable[[Floats, Floats], dict[str, Floats]]:
    gaps = [spread_gaps(stated, labels == c) for c, stated in enumerate(probabilities.T)]
    columns = [1] if len(gaps) == 2 else range(len(gaps))
    orders = [order_scores(labels == c, probabilities[:, c]) for c in columns]

    def weigh(weights: Floats, confusion: Floats) -> dict[str, Floats]:
        errors = [weigh_gaps(one, weights) for one in gaps]
        return _measure_classes(_rank_classes(orders, weights), errors, confusion)

    return weigh


def _measure_classes(
    ranked: Sequence[Mapping[str, Floats]], errors: Sequence[Floats], confusion: Floats
) -> dict[str, Floats]:
    """Return `OF_A_CLASS`: of the confusion, of the ranking, and of the probabilities."""
    right, given = _diagonal(confusion), confusion.sum(axis=-2)
    had = confusion.sum(axis=-1)
    others = confusion.sum(axis=(-2, -1))[..., None]
    found = {
        "sensitivity": sensitivity(confusion),
        "specificity": specificity(confusion),
        "ppv": divide(right, given),
        "npv": divide(others - had - given + right, others - given),
        "f1": divide(2 * right, given + had),
        **{name: np.stack([one[name] for one in ranked], axis=-1) for name in ranked[0]},
        "ece_classwise": np.stack(errors, axis=-1),
    }
    return {name: found[name] for name in OF_A_CLASS}


def _rank_classes(orders: Sequence[Order], weights: Floats) -> list[dict[str, Floats]]:
    """Return for each class what follows from how its probabilities order the images.

    One order stands for two classes: it is that of the second.
    """
    if len(orders) != 1:
        return [_measure_ranking(follow(order, weights)) for order in orders]
    ranking = follow(orders[0], weights)
    second = _measure_ranking(ranking)
    # What is found of one class is what is left alone of the other.
    first = {
        "auc": second["auc"],
        "average_precision": average_precision(mirror(ranking)),
        "sensitivity_at_specificity": second["specificity_at_sensitivity"],
        "specificity_at_sensitivity": second["sensitivity_at_specificity"],
    }
    return [first, second]


def _measure_ranking(ranking: Ranking) -> dict[str, Floats]:
    return {
        "auc": measure_area(ranking),
        "average_precision": average_precision(ranking),
        "sensitivity_at_specificity": sensitivity_at(ranking, TARGET),
        "specificity_at_sensitivity": specificity_at(ranking, TARGET),
    }


def _prepare_labels(labels: Ints, probabilities: Floats, predicted: Ints | None) -> Weighed:
    """Return the same of several labels, each of them a question of two classes."""
    asked: list[tuple[npt.NDArray[np.bool_], Weighed | None]] = []
    decided = probabilities > 0.5 if predicted is None else predicted
    for label, scores, given in zip(labels.T, probabilities.T, decided.T, strict=True):
        known = label >= 0
        two = np.column_stack([1 - scores, scores])[known]
        truth, found = label[known], given[known].astype(np.int64)
        mixed = len(np.unique(truth)) == 2
        asked.append((known, prepare(truth, two, predicted=found) if mixed else None))

    def weigh(weights: Floats) -> Measured:
        answers = [weighed and weighed(weights[..., known]) for known, weighed in asked]
        told = [one for one in answers if one]
        nothing = np.full(weights.shape[:-1], np.nan)
        by_class = {
            name: np.stack([one.by_class[name][..., 1] if one else nothing for one in answers], -1)
            for name in OF_A_CLASS
        }
        metrics = {
            name: np.mean([one.metrics[name] for one in told], axis=0) if told else nothing
            for name in NAMES
        }
        return Measured(metrics, by_class)

    return weigh


def check_predictions(labels: npt.NDArray[Any], probabilities: npt.NDArray[Any]) -> None:
    """Refuse what cannot be measured.

    Raises
    ------
    TrainingError
        If shapes do not fit, a label is no column, or a probability is not in 0 to 1.
    """
    expected = probabilities.shape[: labels.ndim]
    if probabilities.ndim != 2 or labels.shape != expected or not len(labels):
        raise TrainingError(
            f"{len(labels)} labels need as many rows of probabilities, a column a class; "
            f"the array has the shape {probabilities.shape}, that of the labels {labels.shape}"
        )
    most = 2 if labels.ndim == 2 else probabilities.shape[1]
    if labels.max() >= most or (labels.ndim == 1 and labels.min() < 0):
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
    labels: Ints, predicted: Ints, count: int, weights: npt.ArrayLike | None = None
) -> Floats:
    """Return the weight of each (true, predicted) pair, shape (c, c) or (r, c, c)."""
    weights = _weights(weights, len(labels))
    return _count_cells(_order_cells(labels, predicted, count), count, weights)


def _order_cells(labels: Ints, predicted: Ints, count: int) -> tuple[Ints, Ints, Ints]:
    """Return images in the order of their (true, predicted) pairs, these, and where each begins."""
    cells = labels * count + predicted
    order = np.argsort(cells, kind="stable")
    present, starts = np.unique(cells[order], return_index=True)
    return order, present, starts


def _count_cells(cells: tuple[Ints, Ints, Ints], count: int, weights: Floats) -> Floats:
    order, present, starts = cells
    confusion = np.zeros((*weights.shape[:-1], count * count))
    confusion[..., present] = np.add.reduceat(weights[..., order], starts, axis=-1)
    return confusion.reshape(*weights.shape[:-1], count, count)


def accuracy(confusion: Floats) -> Floats:
    """Return the share of images that are predicted right."""
    right = np.trace(confusion, axis1=-2, axis2=-1)
    return divide(right, confusion.sum(axis=(-2, -1)))


def sensitivity(confusion: Floats) -> Floats:
    """Return for each class the share of its images that are predicted as it."""
    return divide(_diagonal(confusion), confusion.sum(axis=-1))


def specificity(confusion: Floats) -> Floats:
    """Return for each class the share of the other images that are not predicted as it."""
    total = confusion.sum(axis=(-2, -1))[..., None]
    others = total - confusion.sum(axis=-1)
    wrongly = confusion.sum(axis=-2) - _diagonal(confusion)
    return divide(others - wrongly, others)


def matthews(confusion: Floats) -> Floats:
    """Return the correlation of true and predicted classes, -1 to 1.

    Of more than two classes it is R_K (Gorodkin, Comput. Biol. Chem. 28, 2004). Where all images
    are of one class, or are predicted as one, it is 0, its limit (Chicco and Jurman, BMC Genomics
    21, 2020).
    """
    total = confusion.sum(axis=(-2, -1))
    had, given = confusion.sum(axis=-1), confusion.sum(axis=-2)
    right = np.trace(confusion, axis1=-2, axis2=-1)
    shared = right * total - (had * given).sum(axis=-1)
    spread = [np.maximum(total**2 - (one**2).sum(axis=-1), 0) for one in (had, given)]
    scale = np.sqrt(spread[0]) * np.sqrt(spread[1])
    # What is left of a spread of nothing is rounding.
    some = scale > total**2 * np.finfo(np.float64).eps * 8
    found: Floats = np.divide(shared, scale, out=np.zeros(np.shape(total)), where=some)
    return np.where(total > 0, found, np.nan)


def kappa(confusion: Floats) -> Floats:
    """Return how much true and predicted classes agree beyond chance, 1 at most.

    Without weights for how far classes are apart (Cohen, Educ. Psychol. Meas. 20, 1960).
    """
    total = confusion.sum(axis=(-2, -1))
    chance = (confusion.sum(axis=-1) * confusion.sum(axis=-2)).sum(axis=-1)
    right = np.trace(confusion, axis1=-2, axis2=-1)
    return divide(right * total - chance, total**2 - chance)


def auc(
    truth: npt.NDArray[np.bool_],
    scores: npt.NDArray[Any],
    weights: npt.ArrayLike | None = None,
) -> Floats:
    """Return the area under the ROC curve; see `medkit.statistics.ranking.measure_area`."""
    return measure_area(rank(truth, scores, _weights(weights, len(truth))))


def log_loss(labels: Ints, probabilities: Floats, weights: npt.ArrayLike | None = None) -> Floats:
    """Return the mean of -ln of the probability given to the true class, in nats.

    Probabilities below `SMALLEST_PROBABILITY` count as that; rows are not made to sum to 1.
    """
    return _mean(_find_losses(labels, probabilities), weights)


def _find_losses(labels: Ints, probabilities: Floats) -> Floats:
    given = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    losses: Floats = -np.log(np.maximum(given, SMALLEST_PROBABILITY))
    return losses


def brier(labels: Ints, probabilities: Floats, weights: npt.ArrayLike | None = None) -> Floats:
    """Return the mean squared error of the probabilities.

    Of two classes it is that of one class's probability, 0 to 1; of more it is summed over the
    classes, 0 to 2 (Brier, Monthly Weather Review 78, 1950). scikit-learn halves likewise.
    """
    return _mean(_find_errors(labels, probabilities), weights)


def _find_errors(labels: Ints, probabilities: Floats) -> Floats:
    count = probabilities.shape[1]
    error = probabilities - (labels[:, None] == np.arange(count))
    errors: Floats = (error**2).sum(axis=1) / (2 if count == 2 else 1)
    return errors


def expected_calibration_error(
    labels: Ints, probabilities: Floats, weights: npt.ArrayLike | None = None
) -> Floats:
    """Return how far the probability of the predicted class is from how often it is right.

    See `medkit.statistics.reliability`.
    """
    right = probabilities.argmax(axis=1) == labels
    weights = _weights(weights, len(labels))
    return calibration_error(probabilities.max(axis=1), right, weights)


def _weights(weights: npt.ArrayLike | None, count: int) -> Floats:
    return np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)


def _mean(values: Floats, weights: npt.ArrayLike | None) -> Floats:
    weights = _weights(weights, len(values))
    return divide(weights @ values, weights.sum(axis=-1))


def _diagonal(confusion: Floats) -> Floats:
    diagonal: Floats = np.diagonal(confusion, axis1=-2, axis2=-1)
    return diagonal
