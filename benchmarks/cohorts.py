"""Cohorts made up for the simulations beside, of intervals and permutations, and models of them."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np

from medkit.statistics.logistic import softmax, solve
from medkit.statistics.outcomes import Outcomes
from medkit.statistics.procedure import Refits

IMAGES = 5  # of a person
ALIKE = 0.5  # correlation of two images of a person, within a class
K = 5
CLASSES = ["no", "yes"]


class Cohort(NamedTuple):
    """Features (n, d), and label and person of each image."""

    features: np.ndarray
    labels: np.ndarray
    persons: np.ndarray


def draw_cohort(
    random: np.random.Generator, persons: int, width: int, apart: float, *, shuffled: bool = False
) -> Cohort:
    """Return a cohort, half of it of each class, whose means lie so far apart in one feature.

    Parameters
    ----------
    apart : float
        In standard deviations.
    shuffled : bool
        Deal the labels out anew, so that they mean nothing.
    """
    labels = np.arange(persons) % 2
    own = random.normal(size=(persons, 1, width)) * np.sqrt(ALIKE)
    features = own + random.normal(size=(persons, IMAGES, width)) * np.sqrt(1 - ALIKE)
    features[..., 0] += apart * (labels - 0.5)[:, None]
    if shuffled:
        labels = random.permutation(labels)
    person = np.repeat(np.arange(persons), IMAGES)
    return Cohort(features.reshape(-1, width), labels[person], person)


def cut_folds(random: np.random.Generator, cohort: Cohort) -> np.ndarray:
    """Return folds by person, even by label."""
    _, first = np.unique(cohort.persons, return_index=True)
    labels = cohort.labels[first]
    folds = np.empty(len(first), dtype=np.int64)
    for label in (0, 1):
        which = random.permutation(np.flatnonzero(labels == label))
        folds[which] = np.arange(len(which)) % K
    return folds[cohort.persons]


def fit(
    cohort: Cohort, folds: np.ndarray, strength: float, pairs: bool = False
) -> tuple[Refits, np.ndarray]:
    """Cross-validate logistic regression; with ``pairs`` also leave out two folds each time.

    Returns
    -------
    Refits
        What the models predict.
    ndarray, shape (K, d + 1)
        Those of the folds: weights and bias.
    """
    left_out = [(fold,) for fold in range(K)] + list(combinations(range(K), 2)) * pairs
    weights = np.array([~np.isin(folds, out) for out in left_out], dtype=np.float64)
    points, _ = solve(
        cohort.features,
        cohort.labels,
        2,
        weights,
        np.full(len(weights), strength),
        tolerance=1e-7,
        most=500,
    )
    models = points[:, 0]
    logits = cohort.features @ models[:, :-1].T + models[:, -1]
    told = softmax(np.stack([np.zeros_like(logits), logits], axis=-1))
    outer = told[np.arange(len(folds)), folds]
    by_pair = {out: told[:, number] for number, out in enumerate(left_out) if len(out) == 2}
    return Refits(folds, outer, by_pair), models[:K]


def tell(cohort: Cohort, probabilities: np.ndarray) -> Outcomes:
    """Return predictions of a cohort beside its truth."""
    return Outcomes(cohort.labels, probabilities, cohort.persons, CLASSES)
