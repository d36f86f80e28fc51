"""Promise: 2,000 person resamples of 10,000 images, all metrics, in seconds.

The naive way repeats the rows of the drawn persons and calls scikit-learn for each resample; it
is timed on a few resamples and scaled.

    python benchmarks/intervals.py [classes]
"""

from __future__ import annotations

import sys
import time

import numpy as np
from sklearn import metrics

from medkit.statistics.intervals import bootstrap

IMAGES, PERSONS, RESAMPLES, NAIVE = 10_000, 2_000, 2_000, 20


def resample_naively(
    labels: np.ndarray, probabilities: np.ndarray, persons: np.ndarray, resamples: int
) -> None:
    """Compute six metrics of each resample with scikit-learn."""
    random = np.random.default_rng(0)
    rows_of = [np.flatnonzero(persons == person) for person in range(PERSONS)]
    two = probabilities.shape[1] == 2
    for _ in range(resamples):
        rows = np.concatenate(
            [rows_of[person] for person in random.integers(PERSONS, size=PERSONS)]
        )
        truth, given = labels[rows], probabilities[rows]
        predicted, scores = given.argmax(axis=1), given[:, 1] if two else given
        metrics.accuracy_score(truth, predicted)
        metrics.balanced_accuracy_score(truth, predicted)
        metrics.confusion_matrix(truth, predicted)  # sensitivity and specificity
        metrics.roc_auc_score(truth, scores, multi_class="ovr")
        metrics.log_loss(truth, given)
        metrics.brier_score_loss(truth, scores)


def main(classes: int = 2) -> None:
    """Print both times and their ratio."""
    random = np.random.default_rng(0)
    persons = random.integers(0, PERSONS, IMAGES)
    labels = random.integers(0, classes, IMAGES)
    probabilities = random.dirichlet(np.ones(classes), IMAGES)
    began = time.perf_counter()
    bootstrap(labels, probabilities, persons, seed=0, resamples=RESAMPLES)
    own = time.perf_counter() - began
    began = time.perf_counter()
    resample_naively(labels, probabilities, persons, NAIVE)
    naive = (time.perf_counter() - began) * RESAMPLES / NAIVE
    print(f"{RESAMPLES} resamples of {IMAGES} images of {PERSONS} persons, {classes} classes")
    print(f"  medkit {own:.2f} s; naive {naive:.0f} s ({NAIVE} timed); ratio {naive / own:.0f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
