"""The standard error of an AUC without resampling, for images that are grouped in persons.

DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988) for independent images; Obuchowski
(Biometrics 53, 1997) for clusters, of which theirs is the case of one image each.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Area(NamedTuple):
    """An area under the ROC curve and its standard error."""

    value: float
    standard_error: float


def estimate_area(
    truth: npt.NDArray[np.bool_], scores: Floats, groups: npt.NDArray[Any] | None = None
) -> Area | None:
    """Return the AUC and its standard error.

    Parameters
    ----------
    truth : ndarray of bool, shape (n,)
        Which images are true.
    scores : ndarray, shape (n,)
        Higher is truer; a tie counts half.
    groups : ndarray, shape (n,), optional
        Persons, whose images may resemble one another. By default every image is on its own.

    Returns
    -------
    Area or None
        None with fewer than two groups that hold a true image, or a false one.
    """
    groups = np.arange(len(truth)) if groups is None else groups
    names, index = np.unique(groups, return_inverse=True)
    if any(len(np.unique(index[side])) < 2 for side in (truth, ~truth)):
        return None
    beaten = _share_below(scores[truth], scores[~truth])
    beating = 1 - _share_below(scores[~truth], scores[truth])
    sides = [(index[truth], beaten), (index[~truth], beating)]
    value = float(beaten.mean())
    excess = [np.bincount(where, shares - value, len(names)) for where, shares in sides]
    spread = 0.0
    for (where, _), one in zip(sides, excess, strict=True):
        clusters = len(np.unique(where))
        spread += clusters / (clusters - 1) * float(one @ one) / len(where) ** 2
    both = len(names) / (len(names) - 1) * float(excess[0] @ excess[1])
    spread += 2 * both / (len(beaten) * len(beating))
    return Area(value, float(np.sqrt(max(spread, 0.0))))


def _share_below(scores: Floats, others: Floats) -> Floats:
    """Return for each score the share of the others below it, a tie counting half."""
    ordered = np.sort(others)
    below, upto = (np.searchsorted(ordered, scores, side) for side in ("left", "right"))
    share: Floats = (below + upto) / (2 * len(ordered))
    return share
