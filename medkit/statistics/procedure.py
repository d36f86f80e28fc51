"""An interval for the whole cross-validated procedure: other persons, and training on them.

The folds' models are trained on overlapping persons, so their results go up and down together,
and the interval of these models on other persons is too narrow for the procedure. It is stretched
about the value, by one of two factors:

`correct` needs nothing but the number of folds: the variance is 1/k + 1/(k - 1) in place of 1/k
(Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52, 2003).

`nest` needs k (k - 1) / 2 more fits: nested cross-validation (Bates, Hastie and Tibshirani,
"Cross-validation: what does it estimate and how well does it do it?", J. Am. Stat. Assoc. 119,
2024, arXiv:2104.00673) asks how far the estimate that the other folds give lies from what the
fold that was left out says. Like theirs, the factor is 1 at least and √k at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medkit.statistics.intervals import draw
from medkit.statistics.metrics import Floats, Ints
from medkit.statistics.outcomes import Entry, Outcomes

_DRAWS = 200  # for the variance of one fold

# The least and the largest value of a metric, where they are not 0 and 1.
_RANGES = {
    "log_loss": (0.0, math.inf),
    "brier": (0.0, 2.0),
    "mcc": (-1.0, 1.0),
    "kappa": (-1.0, 1.0),
}

COVERS = (
    "what this way of training, repeated on as many other persons of the same kind, would score "
    "on average. It does not cover another site, scanner or time."
)


@dataclass(frozen=True, eq=False)
class Refits:
    """Predictions of one division of the persons into folds, and of pairs of folds.

    Attributes
    ----------
    folds : ndarray of int, shape (n,)
        0 to k - 1.
    outer : ndarray, shape (n, c)
        Predictions of the model that was trained on the other folds.
    pairs : mapping of (int, int) to ndarray, shape (n, c)
        Predictions of the model that was trained on all but two folds, the smaller one first; only
        rows of these two are used.
    """

    folds: Ints
    outer: Floats
    pairs: Mapping[tuple[int, int], Floats]

    @property
    def k(self) -> int:
        """How many folds there are."""
        return int(self.folds.max()) + 1

    def predict_inner(self, left_out: int) -> Floats:
        """Return what cross-validation without one fold predicts; its own rows mean nothing."""
        predicted = self.outer.copy()
        for other in set(range(self.k)) - {left_out}:
            low, high = sorted((left_out, other))
            rows = self.folds == other
            predicted[rows] = self.pairs[low, high][rows]
        return predicted


def correct(k: int) -> float:
    """Return by how much to stretch an interval of k folds' models, without any more fits."""
    return math.sqrt(1 + k / (k - 1))


def nest(
    outcomes: Outcomes, refits: Sequence[Refits], errors: Mapping[str, float], seed: int
) -> dict[str, float]:
    """Return by how much to stretch the interval of each metric, from fits on pairs of folds.

    Parameters
    ----------
    outcomes : Outcomes
        The truth; its probabilities are not used.
    refits : sequence of Refits
        Of different divisions into folds, each with as many.
    errors : mapping of str to float
        The standard error of each metric for these models on other persons.
    seed : int
        Of drawing the persons of a fold.
    """
    names = list(errors)
    every = [_compare(outcomes, one, fold, names, seed) for one in refits for fold in range(one.k)]
    k, excess = refits[0].k, np.array(every)
    known = np.isfinite(excess)
    square = np.where(known, excess, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    wide = np.sqrt(np.maximum(square, 0) * (k - 1) / k)
    return {
        name: float(np.clip(wide[number] / errors[name], 1, math.sqrt(k)))
        if known[:, number].any() and errors[name] > 0
        else correct(k)
        for number, name in enumerate(names)
    }


def _compare(
    outcomes: Outcomes, refits: Refits, fold: int, names: Sequence[str], seed: int
) -> list[float]:
    """Return how far one fold lies from what the others say of it, beyond its own variance.

    In squares, a number a metric; NaN where the fold has no value.
    """
    held, rest = (np.flatnonzero(side) for side in (refits.folds == fold, refits.folds != fold))
    inner = replace(outcomes, probabilities=refits.predict_inner(fold)).take(rest)
    outer = replace(outcomes, probabilities=refits.outer).take(held)
    drawn = draw(outer.prepare(), outer.persons, seed, _DRAWS).drawn.metrics
    seen, said = (part.measure().metrics for part in (inner, outer))
    return [float(seen[name] - said[name]) ** 2 - _spread(drawn[name]) for name in names]


def _spread(drawn: Floats) -> float:
    usable = drawn[np.isfinite(drawn)]
    return float(usable.var()) if len(usable) else math.nan


def stretch(
    name: str, entry: Entry, factor: float, ranges: Mapping[str, tuple[float, float]] = _RANGES
) -> Entry:
    """Return a metric with its interval stretched about the value, within what it can be."""
    value, low, high = entry["value"], entry["low"], entry["high"]
    if value is None or low is None or high is None:
        return entry
    least, most = ranges.get(name, (0.0, 1.0))
    return {
        "value": value,
        "low": max(least, value - factor * (value - low)),
        "high": min(most, value + factor * (high - value)),
    }


def describe(
    headline: str,
    metrics: Mapping[str, Entry],
    errors: Mapping[str, float],
    factors: Mapping[str, float],
    facts: Mapping[str, Any],
    ranges: Mapping[str, tuple[float, float]] = {},
) -> dict[str, Any]:
    """Return the part ``procedure`` of ``metrics.json``.

    Parameters
    ----------
    headline : str
        The metric that stands for all.
    metrics, errors, factors : mapping
        Of each metric its entry and standard error for these models on other persons, and by how
        much to stretch.
    facts : mapping
        ``method``, ``repeats`` and ``fits``.
    ranges : mapping of str to (float, float), optional
        What metrics of plugins can be.
    """
    stretched = {
        name: {
            **stretch(name, metrics[name], factor, {**_RANGES, **ranges}),
            "standard_error": errors[name] * factor if metrics[name]["low"] is not None else None,
        }
        for name, factor in factors.items()
    }
    return {
        "metric": headline,
        **stretched[headline],
        **facts,
        "covers": COVERS,
        "metrics": stretched,
    }
