"""Predictions beside the truth: what every number of `metrics.json` is computed from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medkit.errors import UsageError
from medkit.statistics.intervals import Draws, draw, find_interval
from medkit.statistics.metrics import Floats, Ints, Measured, Weighed, prepare
from medkit.statistics.plugged import Metric

Entry = dict[str, float | None]
Rows = npt.NDArray[np.intp]

_UNDEFINED = "not defined, as a class that it needs has no image, or was predicted for none"
# An error of calibration near 0 grows with every unevenness that drawing persons brings: by more
# than it varies, and then percentiles, corrected for bias or not, miss the value itself.
_ONE_SIDED = "no interval, as persons drawn anew give values almost all on one side of it"
_ROUNDING = 1e-12


class Notes:
    """Reasons, each with what it is about."""

    def __init__(self) -> None:
        self._subjects: dict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, subject: str) -> None:
        """Keep a reason, and one more thing that it is about."""
        if subject not in self._subjects[reason]:
            self._subjects[reason].append(subject)

    def sentences(self) -> list[str]:
        """Return a sentence a reason."""
        return [f"{', '.join(about)}: {reason}" for reason, about in self._subjects.items()]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Predictions of images, or of larger units, and what is true of them.

    Attributes
    ----------
    labels : ndarray of int, shape (n,) or (n, c)
        As `medkit.statistics.metrics.measure` takes them.
    probabilities : ndarray, shape (n, c)
        Columns in the order of ``classes``.
    persons : ndarray, shape (n,)
        Whose they are: an interval draws persons.
    classes : sequence of str
        Names.
    positive : int
        Of two classes, the one that metrics of a class are about.
    threshold : ndarray, shape (n,) or (n, c), or None
        From where on the positive class is predicted, of two classes, or each of several labels.
        By default the class of the largest probability is, and a label above 0.5.
    plugged : sequence of Metric
        Of plugins, measured beside medkit's own.
    """

    labels: Ints
    probabilities: Floats
    persons: npt.NDArray[Any]
    classes: Sequence[str]
    positive: int = 1
    threshold: Floats | None = None
    plugged: Sequence[Metric] = ()

    @property
    def multilabel(self) -> bool:
        """Whether each column is a question of its own."""
        return self.labels.ndim == 2

    @property
    def people(self) -> int:
        """How many persons there are."""
        return len(np.unique(self.persons))

    def decide(self) -> Ints:
        """Return the predicted class of each, shape (n,); of several labels 0 or 1, (n, c)."""
        if self.multilabel:
            above = self.probabilities > 0.5
            if self.threshold is not None:
                above = self.probabilities >= self.threshold
            return above.astype(np.int64)
        if self.threshold is None:
            return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)
        passed = self.probabilities[:, self.positive] >= self.threshold
        return np.where(passed, self.positive, 1 - self.positive)

    def cut_at(self, threshold: float | Sequence[float] | None) -> Outcomes:
        """Return the same, decided by a threshold of all rows; of several labels by one each."""
        if threshold is None:
            return replace(self, threshold=None)
        shape = self.labels.shape
        return replace(self, threshold=np.broadcast_to(np.asarray(threshold, np.float64), shape))

    def ask(self, column: int) -> tuple[Rows, Outcomes]:
        """Return one of several labels as a question of two classes, where its answer is known.

        Returns
        -------
        rows : ndarray of int
            Of those of which it is known.
        outcomes : Outcomes
            Of these: without the label, and with it, which is the positive one.
        """
        rows = np.flatnonzero(self.labels[:, column] >= 0)
        name, stated = self.classes[column], self.probabilities[rows, column]
        return rows, Outcomes(
            self.labels[rows, column],
            np.column_stack([1 - stated, stated]),
            self.persons[rows],
            (f"no {name}", name),
            1,
            None if self.threshold is None else self.threshold[rows, column],
        )

    def take(self, rows: npt.NDArray[Any]) -> Outcomes:
        """Return some of them."""
        return replace(
            self,
            labels=self.labels[rows],
            probabilities=self.probabilities[rows],
            persons=self.persons[rows],
            threshold=None if self.threshold is None else self.threshold[rows],
        )

    def measure(self, weights: Floats | None = None) -> Measured:
        """Return every metric, of one row of weights or of many."""
        return self.prepare()(np.ones(len(self.labels)) if weights is None else weights)

    def prepare(self) -> Weighed:
        """Return what gives every metric under weights (`medkit.statistics.metrics.prepare`)."""
        weighed = prepare(
            self.labels,
            self.probabilities,
            positive=self.positive,
            predicted=None if self.threshold is None else self.decide(),
        )

        def weigh(weights: Floats) -> Measured:
            found = weighed(weights)
            own = {one.name: one.weigh(self, weights) for one in self.plugged}
            return found._replace(metrics=found.metrics | own)

        return weigh

    def estimate(self, seed: int, resamples: int) -> Estimate:
        """Return every metric, and what its interval is made of."""
        return estimate(self.prepare(), self.persons, seed, resamples)


@dataclass(frozen=True, eq=False)
class Estimate:
    """Metrics with what their intervals are made of.

    Attributes
    ----------
    point : Measured
        Of everybody.
    draws : Draws or None
        Of persons drawn anew; None where there are too few for an interval.
    people : int
        How many persons there are.
    """

    point: Measured
    draws: Draws | None
    people: int

    def describe(self, notes: Notes) -> dict[str, Entry]:
        """Return each metric with its interval; what does not exist is None, and noted."""
        return {
            name: self._enter(name, notes, lambda part: part.metrics, name)
            for name in self.point.metrics
        }

    def describe_class(self, column: int, subject: str, notes: Notes) -> dict[str, Entry]:
        """Return the metrics of one class, or of one label, likewise."""

        def pick(part: Measured) -> dict[str, Floats]:
            return {name: values[..., column] for name, values in part.by_class.items()}

        return {
            name: self._enter(f"{name} of {subject}", notes, pick, name)
            for name in self.point.by_class
        }

    def _enter(
        self,
        subject: str,
        notes: Notes,
        pick: Callable[[Measured], dict[str, Floats]],
        name: str,
    ) -> Entry:
        number = spell_number(pick(self.point)[name], subject, notes)
        if number is None or self.draws is None:
            return {"value": number, "low": None, "high": None}
        drawn, left_out = (pick(part)[name] for part in self.draws)
        found = find_interval(drawn, number, left_out, self.people)
        lost = int((~np.isfinite(drawn)).sum())
        lacking = f"{lost} of {len(drawn)} resamples hold no image of a class"
        if found is None:
            notes.add(
                f"no interval, as {lacking} that it needs; more persons of the class would give "
                "one",
                subject,
            )
        elif not found[0] - _ROUNDING <= number <= found[1] + _ROUNDING:
            found = None
            notes.add(_ONE_SIDED, subject)
        elif lost:
            notes.add(lacking, subject)
        low, high = found or (None, None)
        return {"value": number, "low": low, "high": high}


def estimate(
    measured: Callable[[Floats], Measured], persons: npt.NDArray[Any], seed: int, resamples: int
) -> Estimate:
    """Return metrics, as a function of weights gives them, and what their intervals are made of.

    Parameters
    ----------
    measured : callable
        Takes weights of shape (n,) or (r, n).
    persons : ndarray, shape (n,)
        Whose images these are.
    seed, resamples : int
        Of the drawing; without resamples there will be no interval.
    """
    return Estimate(
        measured(np.ones(len(persons))),
        draw(measured, persons, seed, resamples) if resamples else None,
        len(np.unique(persons)),
    )


def spell_number(value: Any, subject: str, notes: Notes) -> float | None:
    """Return a value as JSON has it; None, with a note, where it does not exist."""
    if np.isfinite(value):
        return float(value)
    notes.add(_UNDEFINED, subject)
    return None


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


def gather_rows(values: npt.NDArray[Any]) -> dict[Any, Rows]:
    """Return the rows of each value, ascending, in the order of the values."""
    names, index = np.unique(values, return_inverse=True)
    ends = np.cumsum(np.bincount(index))
    parts = np.split(np.argsort(index, kind="stable"), ends[:-1])
    return dict(zip(names.tolist(), parts, strict=True))
