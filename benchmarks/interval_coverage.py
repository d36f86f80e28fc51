"""Promise: an interval of 95 % holds what it says it holds, in about 95 % of cohorts.

Five images a person, whose correlation is 0.5. How many cohorts' intervals hold the truth:

fixed      one model, which is given, on other persons of the kind: accuracy and AUC; by medkit
           (persons), by drawing images, and by DeLong with images as if independent;
procedure  logistic regression, cross-validated by person, each cohort trained anew; what is to be
           held is what it scores on average over cohorts: (a) the interval for its models on
           other persons, (b) the interval for the procedure, without refits and with them.

    python benchmarks/interval_coverage.py fixed [cohorts] [persons]
    python benchmarks/interval_coverage.py procedure [cohorts persons features apart strength]
"""

from __future__ import annotations

import sys
from collections import defaultdict

import numpy as np
from cohorts import CLASSES, cut_folds, draw_cohort, fit, tell
from scipy.stats import norm

from medkit.statistics import procedure
from medkit.statistics.delong import estimate_area
from medkit.statistics.outcomes import Entry, Notes, Outcomes
from medkit.statistics.summary import HEADLINE, find_errors

RESAMPLES, REPEATS = 1000, 2


def cover_fixed(cohorts: int = 500, persons: int = 100, apart: float = 1.5) -> None:
    """Print coverage for a model that is given: the one feature is its score."""
    truth = {"accuracy": norm.cdf(apart / 2), "auc": norm.cdf(apart / np.sqrt(2))}
    held: dict[tuple[str, str], int] = defaultdict(int)
    for number in range(cohorts):
        cohort = draw_cohort(np.random.default_rng([1, number]), persons, 1, apart)
        chance = 1 / (1 + np.exp(-apart * cohort.features[:, 0]))
        told = np.column_stack([1 - chance, chance])
        for unit, names in (("persons", cohort.persons), ("images", np.arange(len(chance)))):
            outcomes = Outcomes(cohort.labels, told, names, CLASSES)
            found = outcomes.estimate(number, RESAMPLES).describe(Notes())
            for name, value in truth.items():
                held[name, f"bootstrap by {unit}"] += holds(found[name], value)
            area = estimate_area(cohort.labels == 1, chance, names)
            assert area is not None
            margin = norm.ppf(0.975) * area.standard_error
            held["auc", f"DeLong by {unit}"] += abs(area.value - truth["auc"]) <= margin
    print(f"fixed model: {cohorts} cohorts of {persons} persons")
    for (name, way), count in sorted(held.items()):
        print(f"  {name:9} {way:22} {100 * count / cohorts:.1f} %")


def cover_procedure(
    cohorts: int = 200,
    persons: int = 60,
    width: int = 20,
    apart: float = 1.5,
    strength: float = 0.1,
) -> None:
    """Print coverage for a procedure, trained anew on every cohort."""
    found: dict[str, list[Entry]] = defaultdict(list)
    scores = []
    for number in range(cohorts):
        random = np.random.default_rng([2, number])
        cohort = draw_cohort(random, persons, width, apart)
        refits, models = zip(
            *(fit(cohort, cut_folds(random, cohort), strength, True) for _ in range(REPEATS)),
            strict=True,
        )
        scores.append(score_truly(models[0], apart))
        outcomes = tell(cohort, refits[0].outer)
        estimate = outcomes.estimate(number, RESAMPLES)
        own, error = estimate.describe(Notes())[HEADLINE], find_errors(estimate)
        found["(a) these models on other persons"].append(own)
        factors = {"(b) without refits": procedure.correct(refits[0].k)}
        for repeats in range(1, REPEATS + 1):
            factors[f"(b) nested, {repeats} x 10 refits"] = procedure.nest(
                outcomes, refits[:repeats], {HEADLINE: error[HEADLINE]}, number
            )[HEADLINE]
        for name, factor in factors.items():
            found[name].append(procedure.stretch(HEADLINE, own, factor))
    truth = float(np.mean(scores))
    print(
        f"procedure: {cohorts} cohorts of {persons} persons, {width} features; balanced accuracy "
        f"is {truth:.3f} on average"
    )
    for name, entries in found.items():
        share = np.mean([holds(entry, truth) for entry in entries])
        wide = np.mean([entry["high"] - entry["low"] for entry in entries if entry["low"]])
        print(f"  {name:36} {100 * share:.1f} %, {wide:.3f} wide on average")


def score_truly(models: np.ndarray, apart: float) -> float:
    """Return the mean balanced accuracy of linear models on the whole population."""
    length = np.linalg.norm(models[:, :-1], axis=1)
    shift, bias = models[:, 0] * apart / 2, models[:, -1]
    both = norm.cdf((shift + bias) / length) + norm.cdf((shift - bias) / length)
    return float(both.mean() / 2)


def holds(entry: Entry, value: float) -> bool:
    """Tell whether there is an interval that holds a value."""
    low, high = entry["low"], entry["high"]
    return low is not None and high is not None and bool(low <= value <= high)


if __name__ == "__main__":
    what, *numbers = sys.argv[1:] or ["fixed"]
    given = [float(number) if "." in number else int(number) for number in numbers]
    {"fixed": cover_fixed, "procedure": cover_procedure}[what](*given)
