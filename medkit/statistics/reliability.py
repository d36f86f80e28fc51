"""Reliability: do images that are predicted with 0.8 turn out so in 8 of 10 cases.

The bins are the same wherever calibration is measured or drawn: `BINS` of equal width, closed at
their upper ends, the first at both, each weighted by its images (Guo, Pleiss, Sun and Weinberger,
"On calibration of modern neural networks", ICML 2017, equation 3).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BINS = 15  # as in the paper


class Bin(NamedTuple):
    """Predictions of nearly equal probability.

    Attributes
    ----------
    low, high : float
        Edges; the first bin includes its lower edge, every bin its upper one.
    images : int
    predicted, observed : float or None
        Mean probability, and the share for which the event came true; None without an image.
    """

    low: float
    high: float
    images: int
    predicted: float | None
    observed: float | None


def calibration_error(
    stated: Floats,
    happened: npt.NDArray[np.bool_],
    weights: Floats,
    bins: int = BINS,
) -> Floats:
    """Return how far probabilities and what happened are apart, 0 to 1, over the bins.

    Of few images it is too large even for perfect predictions: log loss and Brier score say more.

    Parameters
    ----------
    stated : ndarray, shape (n,)
        Probabilities of an event. With those of the predicted class, and whether it was right, the
        result is the paper's ECE; with those of one class, and whether it is the true one, that
        class's share of the classwise error (Kull et al., NeurIPS 2019, arXiv:1910.12656).
    happened : ndarray of bool, shape (n,)
        Whether it came true.
    weights : ndarray, shape (n,) or (r, n)
        Of the images.

    Returns
    -------
    ndarray, shape () or (r,)
        NaN where there is no weight.
    """
    return weigh_gaps(spread_gaps(stated, happened, bins), weights)


def spread_gaps(stated: Floats, happened: npt.NDArray[np.bool_], bins: int = BINS) -> Floats:
    """Return what happened less what was stated, in the column of its bin, shape (n, bins)."""
    gaps = np.zeros((len(stated), bins))
    gaps[np.arange(len(stated)), find_bins(stated, bins)] = happened - stated
    return gaps


def weigh_gaps(gaps: Floats, weights: Floats) -> Floats:
    """Return the calibration error of such gaps, under weights of shape (n,) or (r, n)."""
    total = weights.sum(axis=-1)
    error = np.abs(weights @ gaps).sum(axis=-1)
    known: Floats = np.divide(error, total, out=np.full(error.shape, np.nan), where=total > 0)
    return known


def bin_probabilities(
    stated: Floats, happened: npt.NDArray[np.bool_], bins: int = BINS
) -> list[Bin]:
    """Return the points of a reliability diagram; see `calibration_error` for its arguments."""
    where = find_bins(stated, bins)
    counts = np.bincount(where, minlength=bins).tolist()
    sums = [
        np.bincount(where, weights=values, minlength=bins).tolist() for values in (stated, happened)
    ]
    edges = np.linspace(0, 1, bins + 1).tolist()
    return [
        Bin(low, high, count, *(one[number] / count if count else None for one in sums))
        for number, (low, high, count) in enumerate(zip(edges, edges[1:], counts, strict=False))
    ]


def find_bins(stated: Floats, bins: int = BINS) -> npt.NDArray[np.int64]:
    """Return the bin of each probability, 0 to ``bins`` - 1, shape (n,)."""
    return np.clip(np.ceil(stated * bins).astype(np.int64) - 1, 0, bins - 1).astype(np.int64)
