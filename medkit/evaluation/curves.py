"""The points of a report's curves, and bands around them from drawing persons anew.

A band is pointwise: at each place on the horizontal axis, the middle 95 % of the curves of other
draws of the same number of persons. It says nothing of the curve as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from medkit.statistics.intervals import LEVEL, resample_persons
from medkit.statistics.ranking import Ranking, divide, rank
from medkit.statistics.reliability import Bin, bin_probabilities, find_bins
from medkit.statistics.truth import read_truth

Floats = npt.NDArray[np.float64]
Truths = npt.NDArray[np.bool_]

GRID = np.linspace(0, 1, 101)
_DRAWS = 500
_FEWEST_DRAWS = 100
_CELLS = 10_000_000  # images times draws of a band: some seconds


@dataclass(frozen=True)
class Curve:
    """Points of a curve, left to right."""

    x: Floats
    y: Floats


@dataclass(frozen=True)
class Band:
    """Between what bounds a curve lies at each of some places; NaN where nothing is known."""

    x: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class ClassCurves:
    """The curve of one class on all predictions, one of each fold, and a band if there is one."""

    pooled: Curve
    folds: tuple[Curve, ...] = ()
    band: Band | None = None


@dataclass(frozen=True)
class Reliability:
    """Bins of equal width, the expected calibration error over them, and a band by bin."""

    bins: list[Bin]
    error: float
    band: Band | None = None


def trace_roc(truth: Truths, scores: Floats) -> Curve | None:
    """Return the ROC curve of one class against the rest; equal scores are one step.

    None where there are only positives or only negatives. Points on a straight line between their
    neighbours are left out.
    """
    if truth.all() or not truth.any():
        return None
    ranking = rank(truth, scores, np.ones(len(truth)))
    keep = _find_corners(ranking)
    return Curve(ranking.alarms[keep] / ranking.alarms[-1], ranking.found[keep] / ranking.found[-1])


def _find_corners(ranking: Ranking) -> Truths:
    rise, run = np.diff(ranking.found), np.diff(ranking.alarms)
    return np.concatenate([[True], rise[:-1] * run[1:] != rise[1:] * run[:-1], [True]])


def trace_precision(truth: Truths, scores: Floats) -> Curve | None:
    """Return precision over recall, at each distinct score; None where nothing is true."""
    if not truth.any():
        return None
    ranking = rank(truth, scores, np.ones(len(truth)))
    found, alarms = ranking.found[1:], ranking.alarms[1:]
    return Curve(found / found[-1], found / (found + alarms))


def band_roc(truth: Truths, scores: Floats, persons: npt.NDArray[np.str_], seed: int) -> Band:
    """Return between what bounds the sensitivity lies at each false positive rate of `GRID`."""
    return _band(lambda weights: _sense(rank(truth, scores, weights)), persons, seed)


def band_precision(truth: Truths, scores: Floats, persons: npt.NDArray[np.str_], seed: int) -> Band:
    """Return between what bounds the precision lies at each recall of `GRID`."""
    return _band(lambda weights: _find_precision(rank(truth, scores, weights)), persons, seed)


def _sense(ranking: Ranking) -> Floats:
    """Return the sensitivity at each false positive rate of the grid, shape (r, g)."""
    found, alarms = ranking
    rows = [np.searchsorted(row, GRID * row[-1] * (1 + 1e-12), side="right") - 1 for row in alarms]
    shares = divide(np.take_along_axis(found, np.array(rows), axis=-1), found[:, -1:])
    return np.where(alarms[:, -1:] > 0, shares, np.nan)


def _find_precision(ranking: Ranking) -> Floats:
    """Return the precision at the first threshold of each recall of the grid, shape (r, g)."""
    targets = np.maximum(GRID * ranking.found[:, -1:] * (1 - 1e-12), 1e-12)
    rows = [
        np.searchsorted(row, wanted) for row, wanted in zip(ranking.found, targets, strict=True)
    ]
    places = np.minimum(np.array(rows), ranking.found.shape[-1] - 1)
    true, false = (np.take_along_axis(one, places, axis=-1) for one in ranking)
    return divide(true, true + false)


def measure_reliability(stated: Floats, happened: Truths) -> Reliability:
    """Compare stated probabilities with what happened; bins are those of all of medkit."""
    bins = bin_probabilities(stated, happened)
    gaps = [
        one.images * abs(one.predicted - one.observed)
        for one in bins
        if one.predicted is not None and one.observed is not None
    ]
    return Reliability(bins, float(sum(gaps) / max(len(stated), 1)))


def band_reliability(
    stated: Floats, happened: Truths, persons: npt.NDArray[np.str_], seed: int
) -> Band:
    """Return between what bounds the observed share of each bin lies, at its mean probability."""
    bins = bin_probabilities(stated, happened)
    member = np.zeros((len(stated), len(bins)))
    member[np.arange(len(stated)), find_bins(stated, len(bins))] = 1.0
    true = member * happened[:, np.newaxis]
    band = _band(lambda weights: divide(weights @ true, weights @ member), persons, seed)
    centres = [np.nan if one.predicted is None else one.predicted for one in bins]
    return Band(np.array(centres), band.low, band.high)


def _band(draw: Callable[[Floats], Floats], persons: npt.NDArray[np.str_], seed: int) -> Band:
    draws = int(np.clip(_CELLS // len(persons), _FEWEST_DRAWS, _DRAWS))
    drawn = np.concatenate([draw(weights) for weights in resample_persons(persons, seed, draws)])
    low, high = _find_bounds(drawn)
    return Band(GRID, low, high)


def _find_bounds(drawn: Floats) -> tuple[Floats, Floats]:
    """Return the percentiles of each column; NaN where a resample in twenty has no value."""
    lost = np.isnan(drawn).mean(axis=0) > 1 - LEVEL
    levels = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    found = np.full((2, drawn.shape[1]), np.nan)
    found[:, ~lost] = np.nanquantile(drawn[:, ~lost], levels, axis=0)
    return found[0], found[1]


def trace_classes(
    predictions: pd.DataFrame,
    name: str,
    trace: Callable[[Truths, Floats], Curve | None],
    band: Callable[[Truths, Floats, npt.NDArray[np.str_], int], Band] | None,
    seed: int,
    several: bool = False,
) -> ClassCurves | None:
    """Return the curves of one class; None if there is none of all predictions.

    Parameters
    ----------
    predictions : DataFrame
        ``predictions.parquet`` of a run.
    name : str
        The class.
    trace, band : callable
        Such as `trace_roc` and `band_roc`; no band is drawn where that is None.
    seed : int
        Of the run.
    several : bool
        Whether an image has several labels; where this one is not known, it is left out.
    """
    truth, scores, persons = read_class(predictions, name, several)
    pooled = trace(truth, scores)
    if pooled is None:
        return None
    parts = (read_class(part, name, several) for _, part in predictions.groupby("fold"))
    folds = (trace(truth, scores) for truth, scores, _ in parts if len(truth))
    return ClassCurves(
        pooled,
        tuple(curve for curve in folds if curve),
        band and band(truth, scores, persons, seed),
    )


def read_class(
    part: pd.DataFrame, name: str, several: bool
) -> tuple[Truths, Floats, npt.NDArray[np.str_]]:
    """Return which images are of a class, its probabilities, and the persons.

    Of several labels an image only those are returned of which this one is known.
    """
    truth = (part["label"] == name).to_numpy(bool)
    if several:
        told = read_truth(part["label"], [name], several=True)[:, 0]
        part, truth = part[told >= 0], told[told >= 0] == 1
    return truth, part[f"p:{name}"].to_numpy(np.float64), part["person"].to_numpy(str)
