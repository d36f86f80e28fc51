"""From images to series, studies and persons: one prediction of several, by a declared rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medkit.errors import UsageError
from medkit.statistics.metrics import SMALLEST_PROBABILITY, Floats, Ints
from medkit.statistics.outcomes import Outcomes, Rows, gather_rows


def aggregate(outcomes: Outcomes, units: npt.NDArray[Any], rule: str) -> tuple[Outcomes, int]:
    """Return the outcomes of larger units, in the order of their names.

    Parameters
    ----------
    outcomes : Outcomes
        Of images.
    units : ndarray, shape (n,)
        The unit that each image is of; a unit is of one person.
    rule : str
        One of `RULES`.

    Returns
    -------
    Outcomes
        A row a unit. Its label is that of its images. Where they differ, ``"max"`` takes the
        positive one, of several labels the one that some image has; any other rule leaves the
        unit out, of several labels for the label that differs.
    int
        Units whose images differ.
    """
    parts = list(gather_rows(units).values())
    first = np.array([rows[0] for rows in parts])
    join = RULES[rule]
    labels, mixed = _join_labels(outcomes, parts, rule)
    joined = Outcomes(
        labels,
        np.stack([join(outcomes, rows) for rows in parts]),
        outcomes.persons[first],
        outcomes.classes,
        outcomes.positive,
        None if outcomes.threshold is None else outcomes.threshold[first],
        outcomes.plugged,
    )
    known = labels >= 0 if labels.ndim == 1 else np.ones(len(parts), dtype=bool)
    return joined.take(np.flatnonzero(known)), mixed


def check_rule(rule: str, classes: Sequence[str], several: bool = False) -> None:
    """Raise if predictions cannot be joined so.

    Of several labels an image, each is a question of two classes.

    Raises
    ------
    UsageError
        If there is no such rule, or it is for two classes and there are more.
    """
    if rule not in RULES:
        raise UsageError(f"there is no rule {rule!r} to join predictions; use {', '.join(RULES)}")
    if rule == "max" and len(classes) != 2 and not several:
        raise UsageError(
            f"the largest probability of the positive class is for two classes, and there are "
            f"{len(classes)}; use mean, geometric, median or vote"
        )


def _join_labels(outcomes: Outcomes, parts: Sequence[Rows], rule: str) -> tuple[Ints, int]:
    """Return the label of each unit, less than 0 where its images differ."""
    labels = outcomes.labels
    low, high = (np.stack([f(labels[rows], axis=0) for rows in parts]) for f in (np.min, np.max))
    differ = low != high
    if rule != "max":
        joined = np.where(differ, -1, low)
    elif outcomes.multilabel:
        joined = high
    else:
        joined = np.where(differ, outcomes.positive, low)
    return joined, int(differ.reshape(len(parts), -1).any(axis=1).sum())


def _sum_to_one(outcomes: Outcomes, joined: Floats) -> Floats:
    return joined if outcomes.multilabel else joined / joined.sum()


def _take_mean(outcomes: Outcomes, rows: Rows) -> Floats:
    mean: Floats = outcomes.probabilities[rows].mean(axis=0)
    return mean


def _take_geometric(outcomes: Outcomes, rows: Rows) -> Floats:
    told = outcomes.probabilities[rows]

    def average(values: Floats) -> Floats:
        averaged: Floats = np.exp(np.log(np.maximum(values, SMALLEST_PROBABILITY)).mean(axis=0))
        return averaged

    if outcomes.multilabel:
        return average(told) / (average(told) + average(1 - told))
    return _sum_to_one(outcomes, average(told))


def _take_median(outcomes: Outcomes, rows: Rows) -> Floats:
    middle: Floats = np.median(outcomes.probabilities[rows], axis=0)
    # Of three classes or more all medians can be 0.
    return _sum_to_one(outcomes, middle) if middle.sum() else _take_mean(outcomes, rows)


def _take_votes(outcomes: Outcomes, rows: Rows) -> Floats:
    decided = outcomes.take(rows).decide()
    votes = decided if outcomes.multilabel else decided[:, None] == np.arange(len(outcomes.classes))
    share: Floats = votes.mean(axis=0)
    return share


def _take_largest(outcomes: Outcomes, rows: Rows) -> Floats:
    largest: Floats = outcomes.probabilities[rows].max(axis=0)
    if not outcomes.multilabel:
        largest[1 - outcomes.positive] = 1 - largest[outcomes.positive]
    return largest


RULES: dict[str, Callable[[Outcomes, Rows], Floats]] = {
    "mean": _take_mean,
    "geometric": _take_geometric,
    "median": _take_median,
    "vote": _take_votes,
    "max": _take_largest,
}
