"""Intervals from resampling persons.

Images of one person resemble one another, so whole persons are drawn with replacement: an image
counts as often as its person was drawn (a cluster bootstrap: Field and Welsh, J. R. Stat. Soc. B
69, 2007).

A resample without any image of some class has no value for a metric that needs the class. Such
resamples are left out; where they are more than the interval itself leaves out (5 %), there is no
interval: it would speak of cohorts that happen to hold the class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medkit.statistics.metrics import Floats, Measured

LEVEL = 0.95
# Weights are made a few resamples at a time, so that they stay in a processor's cache; but not so
# few that sorting the scores, which is done each time, takes longer than using them.
_CELLS, _ROWS = 400_000, 16
FEW_PERSONS = 30
# Parts of the persons that are left out in turn, to see how skew a metric is.
_PARTS = 200


class Draws(NamedTuple):
    """Metrics of persons drawn anew, and of persons left out.

    Attributes
    ----------
    drawn : Measured
        Of each resample: arrays (r,) and (r, c).
    left_out : Measured
        With each of at most 200 parts of the persons left out, by which `find_interval` sees how
        skew a metric is.
    """

    drawn: Measured
    left_out: Measured


def draw(
    measured: Callable[[Floats], Measured], persons: npt.NDArray[Any], seed: int, resamples: int
) -> Draws:
    """Return what intervals are made of.

    Parameters
    ----------
    measured : callable
        Gives metrics for weights of shape (r, n).
    persons : ndarray, shape (n,)
        Whose images these are.
    seed, resamples : int
        Of the drawing.
    """

    def collect(rows: Iterable[Floats]) -> Measured:
        parts = [measured(weights) for weights in rows]
        return Measured(
            _join([part.metrics for part in parts]), _join([part.by_class for part in parts])
        )

    return Draws(
        collect(resample_persons(persons, seed, resamples)),
        collect(_leave_out_persons(persons, seed)),
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


def _leave_out_persons(persons: npt.NDArray[Any], seed: int) -> Iterator[Floats]:
    """Yield weights (some, n) that leave out one person in turn, or one of 200 parts of many."""
    names, index = np.unique(persons, return_inverse=True)
    parts = min(len(names), _PARTS)
    part = np.random.default_rng(seed).permutation(np.arange(len(names)) % parts)[index]
    at_once = max(_ROWS, _CELLS // len(persons))
    for start in range(0, parts, at_once):
        numbers = np.arange(start, min(start + at_once, parts))
        yield (part != numbers[:, np.newaxis]).astype(np.float64)


def _join(parts: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def find_interval(
    drawn: Floats,
    value: float | None = None,
    left_out: Floats | None = None,
    units: int | None = None,
) -> tuple[float, float] | None:
    """Return an interval from resampled values; None where too many resamples have none.

    Parameters
    ----------
    drawn : ndarray, shape (r,)
        Values of the resamples.
    value : float, optional
        That of everybody. Without it the interval is between percentiles.
    left_out : ndarray, shape (p,), optional
        Values without a part of the persons each. With it and ``value``, the percentiles are
        corrected for bias and skewness (BCa: Efron, J. Am. Stat. Assoc. 82, 1987).
    units : int, optional
        How many persons were drawn. With it the percentiles lie as much further out as Student's t
        lies beyond the normal distribution (Hesterberg, Am. Stat. 69, 2015, section 4.3): of few
        persons a bootstrap is too narrow.
    """
    usable = drawn[np.isfinite(drawn)]
    if len(usable) < LEVEL * len(drawn):
        return None
    margin = NormalDist().inv_cdf((1 + LEVEL) / 2)
    if units is not None and units > 1:
        margin = find_quantile(units - 1) * math.sqrt(units / (units - 1))
    levels = [NormalDist().cdf(one) for one in (-margin, margin)]
    if value is not None and left_out is not None:
        levels = _correct(margin, usable, value, left_out) or levels
    low, high = np.quantile(usable, levels).tolist()
    return low, high


def find_quantile(freedom: int) -> float:
    """Return the quantile of Student's t that leaves out what `LEVEL` does, on both sides."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


def _correct(margin: float, drawn: Floats, value: float, left_out: Floats) -> list[float] | None:
    """Return the percentiles of a BCa interval; None where it does not exist."""
    normal = NormalDist()
    below = float(((drawn < value).sum() + (drawn == value).sum() / 2) / len(drawn))
    if not 0 < below < 1 or not np.isfinite(left_out).all():
        return None
    excess = left_out.mean() - left_out
    square = float((excess**2).sum())
    skew = float((excess**3).sum()) / (6 * square**1.5) if square > 0 else 0.0
    bias = normal.inv_cdf(below)
    shifted = [bias - margin, bias + margin]
    if any(skew * one >= 1 for one in shifted):
        return None
    return [normal.cdf(bias + one / (1 - skew * one)) for one in shifted]
