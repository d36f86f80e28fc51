"""Promise: 2,000 person resamples of 10,000 images, all metrics, in 3 seconds.

The naive way repeats the rows of the drawn persons and calls scikit-learn for each resample, for
those metrics that it has; it is timed on a few resamples and scaled.

    python benchmarks/intervals.py [classes]
"""

from __future__ import annotations

import sys
import time

import numpy as np
from sklearn import metrics

from medkit.statistics.metrics import NAMES
from medkit.statistics.outcomes import Notes, Outcomes

IMAGES, PERSONS, RESAMPLES, NAIVE = 10_000, 2_000, 2_000, 20


def resample_naively(
    labels: np.ndarray, probabilities: np.ndarray, persons: np.ndarray, resamples: int
) -> None:
    """Compute eleven metrics of each resample with scikit-learn."""
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
        metrics.average_precision_score(truth if two else np.eye(given.shape[1])[truth], scores)
        metrics.f1_score(truth, predicted, average="binary" if two else "macro")
        metrics.matthews_corrcoef(truth, predicted)
        metrics.cohen_kappa_score(truth, predicted)
        metrics.log_loss(truth, given)
        metrics.brier_score_loss(truth, scores)


def main(classes: int = 2) -> None:
    """Print both times and their ratio."""
    random = np.random.default_rng(0)
    persons = random.integers(0, PERSONS, IMAGES)
    labels = random.integers(0, classes, IMAGES)
    probabilities = random.dirichlet(np.ones(classes), IMAGES)
    began = time.perf_counter()
    names = [f"c{number}" for number in range(classes)]
    found = Outcomes(labels, probabilities, persons, names).estimate(0, RESAMPLES).describe(Notes())
    own = time.perf_counter() - began
    began = time.perf_counter()
    resample_naively(labels, probabilities, persons, NAIVE)
    naive = (time.perf_counter() - began) * RESAMPLES / NAIVE
    assert tuple(found) == NAMES
    print(
        f"{RESAMPLES} resamples of {IMAGES} images of {PERSONS} persons, {classes} classes, "
        f"{len(found)} metrics with BCa intervals"
    )
    print(f"  medkit {own:.2f} s; naive {naive:.0f} s ({NAIVE} timed); ratio {naive / own:.0f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
