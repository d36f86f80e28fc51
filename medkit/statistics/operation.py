"""Operating points that do not flatter: each fold is decided by a threshold of the other folds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medkit.statistics.metrics import Floats, Measured, confuse, sensitivity, specificity
from medkit.statistics.outcomes import Notes, Outcomes, estimate
from medkit.statistics.ranking import divide
from medkit.statistics.thresholds import choose_point

RULES = ("youden", "sensitivity=0.9", "sensitivity=0.95", "specificity=0.9", "specificity=0.95")


def describe_points(
    outcomes: Outcomes, folds: npt.NDArray[Any], seed: int, resamples: int, notes: Notes
) -> list[dict[str, Any]]:
    """Return what each of `RULES` comes to; nothing but for two classes and two folds or more.

    Of several labels each is a question of two classes, and its points say under ``label`` which.
    The models of the other folds were trained on this fold's persons. That their predictions
    know of these is a second-order effect; none of this fold's own predictions has a say.
    """
    if outcomes.multilabel:
        asked = [outcomes.ask(column) for column in range(len(outcomes.classes))]
        return [
            {"label": one.classes[1], **point}
            for rows, one in asked
            for point in describe_points(one, folds[rows], seed, resamples, notes)
        ]
    if len(outcomes.classes) != 2:
        return []
    numbers = np.unique(folds)
    truth = outcomes.labels == outcomes.positive
    if len(numbers) < 2 or any(len(np.unique(truth[folds != fold])) < 2 for fold in numbers):
        notes.add("not found, as they need two folds with both classes", "operating points")
        return []
    return [_describe_point(outcomes, truth, folds, rule, seed, resamples) for rule in RULES]


def _describe_point(
    outcomes: Outcomes,
    truth: npt.NDArray[np.bool_],
    folds: npt.NDArray[Any],
    rule: str,
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    numbers, index = np.unique(folds, return_inverse=True)
    scores = outcomes.probabilities[:, outcomes.positive]
    thresholds = [
        choose_point(truth[folds != fold], scores[folds != fold], rule).threshold
        for fold in numbers
    ]
    decided = replace(outcomes, threshold=np.array(thresholds)[index]).decide()
    positive = outcomes.positive

    def measured(weights: Floats) -> Measured:
        confusion = confuse(outcomes.labels, decided, 2, weights)
        right = confusion[..., [0, 1], [0, 1]]
        shares = divide(right, confusion.sum(axis=-2))
        return Measured(
            {
                "sensitivity": sensitivity(confusion)[..., positive],
                "specificity": specificity(confusion)[..., positive],
                "ppv": shares[..., positive],
                "npv": shares[..., 1 - positive],
            },
            {},
        )

    found = estimate(measured, outcomes.persons, seed, resamples)
    own = Notes()
    described = found.describe(own)
    return {"rule": rule, "thresholds": thresholds, **described, "note": "; ".join(own.sentences())}
