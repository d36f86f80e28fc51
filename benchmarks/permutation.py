"""Promise: a result on labels that mean nothing is seldom taken for one that means something.

Labels are dealt to persons at random, and logistic regression is cross-validated by person. The
share of cohorts in which a test at 5 % calls its balanced accuracy more than luck, for

- the permutation test by person, as `medkit metrics RUN --permutations N` makes it;
- the same without regard to the persons that the folds' models share;
- the same with the labels of single images dealt, as is usual;

and for the protocol of the 2019 notebook: a softmax head, trained by Adam for 4,000 steps of 256
images, is looked at every 10 steps on one validation set, and the best of 401 looks is the result.
It is called more than luck where so many of as many independent images would be right in less than
5 % of cases.

    python benchmarks/permutation.py [cohorts]
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
from cohorts import Cohort, cut_folds, draw_cohort, fit, tell

from medkit.statistics.outcomes import Outcomes
from medkit.statistics.permutation import SPREAD, permute

PERSONS, WIDTH, STRENGTH, PERMUTATIONS = 60, 20, 0.1, 499
STEPS, BATCH, EVERY, RATE = 4000, 256, 10, 1e-3


def test(outcomes: Outcomes, folds: np.ndarray, seed: int, spread: float = SPREAD) -> bool:
    """Tell whether balanced accuracy is called more than luck."""
    found = permute(outcomes, folds, PERMUTATIONS, seed, "balanced_accuracy", spread=spread)
    return bool(found["p"] <= 0.05)


def follow_notebook(random: np.random.Generator, cohort: Cohort, folds: np.ndarray) -> float:
    """Return the best of 401 accuracies on the validation part, the first fold."""
    train = np.flatnonzero(folds != 0)
    held = folds == 0
    by_class = [train[cohort.labels[train] == label] for label in (0, 1)]
    weights = np.zeros(cohort.features.shape[1] + 1)
    table = np.column_stack([cohort.features, np.ones(len(folds))])
    first, second, best = np.zeros_like(weights), np.zeros_like(weights), 0.0
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            right = (table[held] @ weights > 0) == cohort.labels[held]
            best = max(best, float(right.mean()))
        rows = np.concatenate([random.choice(rows, BATCH // 2) for rows in by_class])
        chances = 1 / (1 + np.exp(-table[rows] @ weights))
        slope = table[rows].T @ (chances - cohort.labels[rows]) / BATCH
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        moved = first / (1 - 0.9 ** (step + 1))
        weights -= RATE * moved / (np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8)
    return best


def is_called_luck(accuracy: float, images: int) -> bool:
    """Tell whether so many independent coins would fall right in 5 % of cases or more."""
    right = round(accuracy * images)
    ways = sum(math.comb(images, number) for number in range(right, images + 1))
    return ways / 2**images >= 0.05


def main(cohorts: int = 200) -> None:
    """Print the share of cohorts in which each way sees more than luck."""
    called = dict.fromkeys(("by person", "by person, folds as if apart", "by image"), 0)
    best: dict[str, list[float]] = {"by person": [], "by image": []}
    taken = dict.fromkeys(best, 0)
    for number in range(cohorts):
        random = np.random.default_rng([7, number])
        cohort = draw_cohort(random, PERSONS, WIDTH, 0.0, shuffled=True)
        folds = cut_folds(random, cohort)
        outcomes = tell(cohort, fit(cohort, folds, STRENGTH)[0].outer)
        alone = replace(outcomes, persons=np.arange(len(folds)))
        called["by person"] += test(outcomes, folds, number)
        called["by person, folds as if apart"] += test(outcomes, folds, number, spread=1)
        called["by image"] += test(alone, folds, number)
        for name, parts in (("by person", folds), ("by image", random.permutation(folds))):
            best[name].append(follow_notebook(random, cohort, parts))
            taken[name] += not is_called_luck(best[name][-1], int((parts == 0).sum()))
    print(f"{cohorts} cohorts of {PERSONS} persons with labels that mean nothing, tested at 5 %")
    for name, count in called.items():
        print(f"  permutation {name}: {100 * count / cohorts:.1f} % called more than luck")
    for name, count in taken.items():
        print(
            f"  best of 401 looks, validation cut {name}: {100 * count / cohorts:.1f} % called "
            f"more than luck; {100 * np.mean(best[name]):.1f} % right on average, 50 % is luck"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
