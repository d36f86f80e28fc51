"""Several labels an image: a logistic regression for each, by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medkit.statistics.linear import (
    STRENGTHS,
    Features,
    Floats,
    Ints,
    LinearHead,
    fit_linear,
)

_FOLDER = "label-{}"


@dataclass(frozen=True, eq=False)
class LabelHeads:
    """A solved logistic regression for each of several labels.

    Attributes
    ----------
    heads : tuple of LinearHead
        Of two classes each: without the label, and with it.
    """

    heads: tuple[LinearHead, ...]

    @property
    def weights(self) -> Floats:
        """For features as they come, shape (c, d): of the log-odds of each label."""
        return np.stack([head.weights[1] - head.weights[0] for head in self.heads])

    @property
    def bias(self) -> Floats:
        """Of the log-odds of each label, shape (c,)."""
        return np.array([head.bias[1] - head.bias[0] for head in self.heads])

    @property
    def losses(self) -> dict[float, float]:
        """Log loss over the inner folds of each strength, a mean over the labels; then of choice.

        The last one, under 0, is of the strengths that were chosen, each label its own.
        """
        tried = [head.losses for head in self.heads if head.losses]
        if not tried:
            return {}
        means = {
            strength: float(np.mean([losses[strength] for losses in tried]))
            for strength in tried[0]
        }
        return {**means, 0.0: float(np.mean([min(losses.values()) for losses in tried]))}

    def predict_proba(self, features: Features) -> Floats:
        """Return the probability of each label, shape (n, c); rows need not sum to 1."""
        return np.column_stack([head.predict_proba(features)[:, 1] for head in self.heads])

    def save(self, folder: Path) -> None:
        """Write a folder a label; nothing is pickled."""
        for number, head in enumerate(self.heads):
            place = folder / _FOLDER.format(number)
            place.mkdir(exist_ok=True)
            head.save(place)


def fit_labels(
    features: Features,
    labels: Ints,
    groups: npt.NDArray[Any],
    labels_count: int,
    *,
    inner: Ints | None,
    strengths: Sequence[float] = STRENGTHS,
) -> LabelHeads:
    """Solve each of several labels as a problem of its own (`fit_linear`).

    Parameters
    ----------
    labels : ndarray of int, shape (n, c)
        1 where an image has a label, 0 where it has not, less where that is not known: such an
        image takes no part in the problem of this label.
    labels_count : int
        c.

    The others are those of `fit_linear`; the inner folds are the same for all labels.
    """
    heads = []
    for column in range(labels_count):
        known = np.flatnonzero(labels[:, column] >= 0)
        whole = len(known) == len(labels)
        heads.append(
            fit_linear(
                features if whole else features[known],
                labels[known, column],
                groups[known],
                2,
                inner=None if inner is None else inner[known],
                strengths=strengths,
            )
        )
    return LabelHeads(tuple(heads))


def load_head(folder: Path) -> LinearHead | LabelHeads:
    """Read the head that was saved in a folder, of one label or of several.

    Raises
    ------
    TrainingError
        If it is missing, or not what its hashes say.
    """
    count = len(list(folder.glob(_FOLDER.format("*"))))
    if not count:
        return LinearHead.load(folder)
    places = (folder / _FOLDER.format(number) for number in range(count))
    return LabelHeads(tuple(map(LinearHead.load, places)))
