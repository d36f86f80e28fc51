"""Operating points: from which probability on an image counts as positive, of two classes."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from medkit.errors import UsageError
from medkit.statistics.metrics import Floats

ARGMAX = "argmax"
_TARGET = re.compile(r"(sensitivity|specificity)=(.+)")


class OperatingPoint(NamedTuple):
    """A threshold, and what it does on the predictions that it was chosen on.

    Attributes
    ----------
    threshold : float
        An image is positive from this score on.
    sensitivity, specificity : float
        On those predictions: as they were chosen on, they flatter a little.
    """

    threshold: float
    sensitivity: float
    specificity: float


def check_rule(rule: str) -> None:
    """Raise if a text is no rule for a threshold.

    Raises
    ------
    UsageError
        If it is neither ``argmax`` nor ``youden``, a number from 0 to 1, nor such as
        ``sensitivity=0.95`` or ``specificity=0.9``.
    """
    _parse(rule)


def choose_point(truth: npt.NDArray[np.bool_], scores: Floats, rule: str) -> OperatingPoint:
    """Return the operating point that a rule chooses on predictions whose truth is known.

    Thresholds lie midway between neighbouring scores, where new images can come nearest to them
    from either side.

    Parameters
    ----------
    truth : ndarray of bool, shape (n,)
        Which images are positive; some are, and some are not.
    scores : ndarray, shape (n,)
        Probabilities of the positive class.
    rule : str
        ``"youden"``: the greatest sum of sensitivity and specificity (Youden, Cancer 3, 1950);
        of several the most sensitive. ``"sensitivity=X"``: the most specific of those that reach
        this sensitivity, and ``"specificity=X"`` the other way round. A number is the threshold
        itself.

    Raises
    ------
    UsageError
        If it is none of these.
    """
    kind, number = _parse(rule)
    thresholds = np.array([number]) if kind == "number" else _list_thresholds(scores)
    sensitivity, specificity = _rate(truth, scores, thresholds)
    if kind == "youden":
        # Equal sums differ by rounding: of those the first, which is the most sensitive.
        best = int((sensitivity + specificity).round(12).argmax())
    elif kind == "sensitivity":
        best = int(np.flatnonzero(sensitivity >= number)[-1])
    elif kind == "specificity":
        best = int(np.flatnonzero(specificity >= number)[0])
    else:
        best = 0
    return OperatingPoint(
        float(thresholds[best]), float(sensitivity[best]), float(specificity[best])
    )


def _parse(rule: str) -> tuple[str, float]:
    if rule in (ARGMAX, "youden"):
        return rule, 0.5
    found = _TARGET.fullmatch(rule)
    kind, text = found.groups() if found else ("number", rule)
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if not 0 <= number <= 1:
        raise UsageError(
            f"{rule!r} is no threshold; use argmax, youden, a probability such as 0.5, "
            "sensitivity=0.95 or specificity=0.9"
        )
    return kind, number


def _list_thresholds(scores: Floats) -> Floats:
    """Return a threshold below all scores, one between each two, and one above all."""
    known = np.unique(scores)
    between = known[:-1] + np.diff(known) / 2
    # Between two neighbouring doubles there is none: the upper one separates them as well.
    between = np.where(between > known[:-1], between, known[1:])
    return np.concatenate([[0.0], between, [np.nextafter(1.0, 2.0)]])


def _rate(
    truth: npt.NDArray[np.bool_], scores: Floats, thresholds: Floats
) -> tuple[Floats, Floats]:
    """Return sensitivity and specificity at each threshold.

    As quotients of whole numbers: 19 of 20 is then the same double as a target of 0.95.
    """
    below = [
        np.searchsorted(np.sort(scores[group]), thresholds, side="left")
        for group in (truth, ~truth)
    ]
    positives = int(truth.sum())
    return (positives - below[0]) / positives, below[1] / (len(truth) - positives)
