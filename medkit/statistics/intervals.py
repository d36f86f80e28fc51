"""Metrics of out-of-fold predictions, with intervals from resampling persons.

Images of one person resemble one another, so whole persons are drawn with replacement: an image
counts as often as its person was drawn (a cluster bootstrap: Field and Welsh, J. R. Stat. Soc. B
69, 2007), and the interval is between percentiles of the values over the resamples.

A resample without any image of some class has no value for a metric that needs the class. Such
resamples are left out and counted in the notes; where they are more than the interval itself
leaves out (5 %), there is no interval: it would speak of cohorts that happen to hold the class.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medkit.errors import UsageError
from medkit.statistics.metrics import Floats, Measured, check_predictions, confuse, measure

Ints = npt.NDArray[np.integer[Any]]

LEVEL = 0.95
# Weights are made a few resamples at a time, so that they stay in a processor's cache; but not so
# few that sorting the scores, which is done each time, takes longer than using them.
_CELLS, _ROWS = 200_000, 16
FEW_PERSONS = 30

COVERS = (
    "how much the value would vary if these same models were tested on other persons of the same "
    "kind. It does not cover training again on other persons (for the whole cross-validated "
    "procedure a person bootstrap was measured to cover about 78 to 86 %, not 95 %), nor another "
    "site, scanner or time."
)
_UNDEFINED = "not defined, as a class that it needs has no image"


class _Notes:
    """Reasons, each with what it is about."""

    def __init__(self) -> None:
        self._subjects: dict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, subject: str) -> None:
        if subject not in self._subjects[reason]:
            self._subjects[reason].append(subject)

    def sentences(self) -> list[str]:
        return [f"{', '.join(about)}: {reason}" for reason, about in self._subjects.items()]


def summarise(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    persons: npt.ArrayLike,
    folds: npt.ArrayLike,
    classes: Sequence[str],
    *,
    seed: int,
    resamples: int = 2000,
    positive: str | None = None,
    predicted: npt.ArrayLike | None = None,
) -> dict[str, Any]:
    """Return the content of ``metrics.json``.

    Parameters
    ----------
    labels : array_like of int, shape (n,)
        Indexes into ``classes``.
    probabilities : array_like, shape (n, c)
        Out-of-fold predictions, columns in the order of ``classes``.
    persons, folds : array_like, shape (n,)
        Person and fold of each image.
    classes : sequence of str
        Sorted.
    seed : int
        Of the resampling. The result depends on the persons drawn, not on the order of the rows.
    resamples : int
        How many.
    positive : str, optional
        Of two classes, the one that sensitivity, specificity and AUC are about; by default the
        second.
    predicted : array_like of int, shape (n,), optional
        The predicted classes; by default those of the largest probability.

    Returns
    -------
    dict
        Plain numbers, strings, lists and dicts. A value that does not exist is None, and
        ``"notes"`` has the reason.

    Raises
    ------
    TrainingError
        If the predictions cannot be measured (`check_predictions`).
    UsageError
        If ``positive`` is none of two classes.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    persons, folds = np.asarray(persons), np.asarray(folds)
    check_predictions(labels, probabilities)
    decided = probabilities.argmax(axis=1) if predicted is None else np.asarray(predicted)
    chosen = choose_positive(classes, positive)
    notes = _Notes()
    point = measure(labels, probabilities, positive=chosen, predicted=decided)
    drawn = bootstrap(
        labels, probabilities, persons, seed, resamples, positive=chosen, predicted=decided
    )
    people = len(np.unique(persons))
    if people < FEW_PERSONS:
        notes.add(f"with {people} persons, intervals tend to be too narrow", "intervals")
    return {
        "classes": list(classes),
        "positive": classes[chosen] if len(classes) == 2 else None,
        "images": len(labels),
        "persons": people,
        "headline": "balanced_accuracy",
        "metrics": {
            name: _entry(value, drawn.metrics[name], name, notes)
            for name, value in point.metrics.items()
        },
        "per_class": _describe_classes(labels, persons, classes, point, drawn, notes),
        "confusion": confuse(labels, decided, len(classes)).astype(int).tolist(),
        "folds": _describe_folds(labels, probabilities, decided, persons, folds, chosen, notes),
        "baselines": _describe_baselines(labels, classes, chosen, notes),
        "interval": {
            "level": LEVEL,
            "method": "person bootstrap, percentile",
            "resamples": resamples,
            "covers": COVERS,
        },
        "notes": notes.sentences(),
    }


def bootstrap(
    labels: npt.NDArray[Any],
    probabilities: npt.NDArray[Any],
    persons: npt.NDArray[Any],
    seed: int,
    resamples: int,
    *,
    positive: int = 1,
    predicted: Ints | None = None,
) -> Measured:
    """Return every metric of each resample of the persons: arrays (r,) and (r, c)."""
    parts = [
        measure(labels, probabilities, weights, positive=positive, predicted=predicted)
        for weights in resample_persons(persons, seed, resamples)
    ]
    return Measured(
        _join([part.metrics for part in parts]), _join([part.by_class for part in parts])
    )


def resample_persons(persons: npt.NDArray[Any], seed: int, resamples: int) -> Iterator[Floats]:
    """Yield weights of the images, shape (some, n): how often each one's person was drawn."""
    names, index = np.unique(persons, return_inverse=True)
    count = len(names)
    random = np.random.default_rng(seed)
    at_once = max(_ROWS, _CELLS // len(persons))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = random.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        yield times[:, index].astype(np.float64)


def _join(parts: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def choose_positive(classes: Sequence[str], positive: str | None) -> int:
    """Return the column of the positive class: the second unless another is named.

    Raises
    ------
    UsageError
        If the one named is none of two classes.
    """
    if positive is None:
        return 1
    if len(classes) != 2 or positive not in classes:
        raise UsageError(
            f"{positive!r} cannot be the positive class; the classes are "
            f"{', '.join(map(repr, classes))}, and one of two can be chosen"
        )
    return list(classes).index(positive)


def find_interval(drawn: Floats) -> tuple[float, float] | None:
    """Return the percentiles of resampled values; None where too many resamples have none."""
    usable = drawn[np.isfinite(drawn)]
    if len(usable) < LEVEL * len(drawn):
        return None
    low, high = np.quantile(usable, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return low, high


def _entry(value: Any, drawn: Floats, subject: str, notes: _Notes) -> dict[str, float | None]:
    """Return a value and its interval; what does not exist is None."""
    number = _number(value, subject, notes)
    interval = None if number is None else find_interval(drawn)
    low, high = interval or (None, None)
    lost = int((~np.isfinite(drawn)).sum())
    if interval and lost:
        notes.add(f"{lost} of {len(drawn)} resamples hold no image of a class", subject)
    elif number is not None and not interval:
        notes.add(
            f"no interval, as {lost} of {len(drawn)} resamples hold no image of a class that it "
            "needs; more persons of the class would give one",
            subject,
        )
    return {"value": number, "low": low, "high": high}


def _number(value: Any, subject: str, notes: _Notes) -> float | None:
    if np.isfinite(value):
        return float(value)
    notes.add(_UNDEFINED, subject)
    return None


def _describe_classes(
    labels: Ints,
    persons: npt.NDArray[Any],
    classes: Sequence[str],
    point: Measured,
    drawn: Measured,
    notes: _Notes,
) -> dict[str, Any]:
    return {
        name: {
            "images": int((labels == c).sum()),
            "persons": len(np.unique(persons[labels == c])),
            "prevalence": float((labels == c).mean()),
            **{
                metric: _entry(
                    values[c], drawn.by_class[metric][:, c], f"{metric} of {name}", notes
                )
                for metric, values in point.by_class.items()
            },
        }
        for c, name in enumerate(classes)
    }


def _describe_folds(
    labels: Ints,
    probabilities: Floats,
    decided: Ints,
    persons: npt.NDArray[Any],
    folds: npt.NDArray[Any],
    positive: int,
    notes: _Notes,
) -> list[dict[str, Any]]:
    described = []
    for fold in np.unique(folds).tolist():
        rows = folds == fold
        measured = measure(
            labels[rows], probabilities[rows], positive=positive, predicted=decided[rows]
        )
        described.append(
            {
                "fold": fold,
                "images": int(rows.sum()),
                "persons": len(np.unique(persons[rows])),
                "metrics": {
                    name: _number(value, f"{name} of fold {fold}", notes)
                    for name, value in measured.metrics.items()
                },
            }
        )
    return described


def _describe_baselines(
    labels: Ints, classes: Sequence[str], positive: int, notes: _Notes
) -> dict[str, Any]:
    """Return the metrics of knowing nothing but how frequent the classes are.

    They are frequent as in all images together: counted by training part, they would be rarer
    in it where they are more frequent in its test part, and guessing would score below guessing.
    """
    shares = np.bincount(labels, minlength=len(classes)) / len(labels)
    commonest = int(shares.argmax())
    notes.add("none, as it gives no probabilities", "log_loss of majority_class")
    return {
        "majority_class": {
            "class": classes[commonest],
            **_measure_constant(labels, np.eye(len(classes))[commonest], positive, notes),
            "log_loss": None,
        },
        "prevalence": _measure_constant(labels, shares, positive, notes),
    }


def _measure_constant(
    labels: Ints, probabilities: Floats, positive: int, notes: _Notes
) -> dict[str, float | None]:
    """Measure predictions that are the same for all images."""
    every = np.broadcast_to(probabilities, (len(labels), len(probabilities)))
    return {
        name: _number(value, f"{name} of the baselines", notes)
        for name, value in measure(labels, every, positive=positive).metrics.items()
    }
