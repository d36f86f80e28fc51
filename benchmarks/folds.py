"""Promise: folds are never empty, hold every class, and are spread no worse than scikit-learn's.

Draws cohorts (2 to 10 folds, 2 to 6 classes, up to 400 persons of uneven sizes, some with several
labels; every class with as many persons as folds), and compares with StratifiedGroupKFold on:

- spread: its own measure, the standard deviation over the folds of the share of each class, mean
  over classes. This one is promised to be no larger on every single cohort: the exit code is 1
  where it is.
- size: the deviation over the folds of the share of all images
- worst: the largest deviation of a class's prevalence in a fold from that in the cohort

The same cohorts are then given a site each person, some of which see one class more often, and
folds that are even in label and site are compared with StratifiedGroupKFold on both joined, which
is how it is told of a second stratum: the spread of labels, that of sites, and their sum.

    python benchmarks/folds.py [cohorts]
"""

from __future__ import annotations

import sys
import time
import warnings

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from medkit.cohort.division import make_folds
from medkit.errors import CohortError

MEASURES = ("spread", "size", "worst")
SITED = ("labels", "sites", "both")


def draw_counts(random: np.random.Generator) -> tuple[np.ndarray, int]:
    """Return images by person and class, and a number of folds."""
    while True:
        k, classes = int(random.integers(2, 11)), int(random.integers(2, 7))
        persons = int(np.exp(random.uniform(np.log(3 * k), np.log(400))))
        prevalence = random.dirichlet(np.ones(classes))
        sizes = random.geometric(1 / random.uniform(1, 12), persons)
        if random.random() < 0.5:
            sizes = np.maximum(1, np.exp(random.normal(1, 1, persons)).astype(int))
        counts = np.zeros((persons, classes), dtype=int)
        counts[np.arange(persons), random.choice(classes, persons, p=prevalence)] = sizes
        for person in np.flatnonzero(random.random(persons) < random.choice([0, 0.1, 0.5])):
            counts[person] = random.multinomial(sizes[person], prevalence)
        if ((counts > 0).sum(axis=0) >= k).all():
            return counts, k


def make_table(counts: np.ndarray) -> pd.DataFrame:
    """Return a row an image."""
    persons, classes = np.nonzero(counts)
    times = counts[persons, classes]
    table = pd.DataFrame({"split_group": np.char.add("p", persons.astype(str)), "label": classes})
    return table.loc[table.index.repeat(times)].assign(image=range(times.sum()))


def fold_like_scikit_learn(table: pd.DataFrame, k: int, seed: int) -> np.ndarray:
    """Return the fold of each image by StratifiedGroupKFold."""
    fold = np.empty(len(table), dtype=int)
    splitter = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    parts = splitter.split(table, table["label"], groups=table["split_group"])
    for number, (_, test) in enumerate(parts):
        fold[test] = number
    return fold


def judge(table: pd.DataFrame, fold: np.ndarray, k: int) -> tuple[dict[str, float], int, int]:
    """Return the measures, the empty folds, and the classes missing from a fold."""
    counts = pd.crosstab(fold, table["label"]).reindex(range(k), fill_value=0).to_numpy()
    sizes, totals = counts.sum(axis=1), counts.sum(axis=0)
    prevalence = counts / np.maximum(sizes, 1)[:, None]
    measures = {
        "spread": float((counts / totals).std(axis=0).mean()),
        "size": float((sizes / sizes.sum()).std()),
        "worst": float(np.abs(prevalence - totals / totals.sum()).max()),
    }
    return measures, int((sizes == 0).sum()), int((counts == 0).sum())


def add_sites(table: pd.DataFrame, random: np.random.Generator) -> pd.DataFrame:
    """Return the table with a site of each person: up to five, of which the first sees most."""
    persons = table.groupby("split_group")["label"].agg(lambda own: own.mode()[0])
    sites = int(random.integers(2, 6))
    shares = random.dirichlet(np.arange(sites, 0, -1), table["label"].max() + 1)
    drawn = [int(random.choice(sites, p=shares[label])) for label in persons]
    named = pd.Series(drawn, index=persons.index).map("site {}".format)
    return table.assign(**{"stratum:site": table["split_group"].map(named)})


def compare_sited(table: pd.DataFrame, k: int, seed: int) -> list[dict[str, float]]:
    """Return how evenly labels and sites are spread, by medkit and by scikit-learn."""
    joined = table["label"].astype(str) + table["stratum:site"]
    folds = (
        make_folds(table, k, seed),
        fold_like_scikit_learn(table.assign(label=joined), k, seed),
    )
    found = []
    for fold in folds:
        labels = judge(table, fold, k)[0]["spread"]
        sites = judge(table.assign(label=table["stratum:site"]), fold, k)[0]["spread"]
        found.append({"labels": labels, "sites": sites, "both": labels + sites})
    return found


def note(outcomes: dict[str, np.ndarray], found: list[dict[str, float]]) -> None:
    """Count who was better, from the smaller of each measure."""
    for name, counts in outcomes.items():
        difference = found[0][name] - found[1][name]
        counts[1 + int(np.sign(difference)) * (abs(difference) > 1e-12)] += 1


def main(cohorts: int = 1000) -> int:
    """Compare on random cohorts, then time one of 100,000 persons; return how many are worse."""
    outcomes = {name: np.zeros(3, dtype=int) for name in MEASURES}
    sited = {name: np.zeros(3, dtype=int) for name in SITED}
    seconds, empty, missing, refused = np.zeros(2), np.zeros(2, int), np.zeros(2, int), 0
    for seed in range(cohorts):
        counts, k = draw_counts(np.random.default_rng(seed))
        table = make_table(counts)
        began = time.perf_counter()
        try:
            own = make_folds(table, k, seed)
        except CohortError:
            refused += 1
            continue
        between = time.perf_counter()
        other = fold_like_scikit_learn(table, k, seed)
        seconds += between - began, time.perf_counter() - between
        judged = [judge(table, fold, k) for fold in (own, other)]
        note(outcomes, [each[0] for each in judged])
        note(sited, compare_sited(add_sites(table, np.random.default_rng(seed)), k, seed))
        empty += [each[1] for each in judged]
        missing += [each[2] for each in judged]
    print(f"{cohorts} cohorts, {refused} refused; medkit against scikit-learn:")
    for name, (better, equal, worse) in outcomes.items():
        print(f"  {name}: better {better}, equal {equal}, worse {worse}")
    print("and with a site, even beside the label:")
    for name, (better, equal, worse) in sited.items():
        print(f"  {name}: better {better}, equal {equal}, worse {worse}")
    print("of labels alone:")
    print(f"  empty folds {empty[0]} against {empty[1]}")
    print(f"  classes missing from a fold {missing[0]} against {missing[1]}")
    print(f"  seconds {seconds[0]:.1f} against {seconds[1]:.1f}")
    time_many_persons()
    return int(outcomes["spread"][2])


def time_many_persons() -> None:
    """Print the seconds that folds of 100,000 persons take."""
    random = np.random.default_rng(0)
    counts = np.zeros((100_000, 4), dtype=int)
    counts[np.arange(100_000), random.integers(0, 4, 100_000)] = random.geometric(0.2, 100_000)
    table = make_table(counts)
    began = time.perf_counter()
    make_folds(table, 5, 0)
    print(f"100,000 persons, {len(table):,} images: {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scikit-learn, of classes with few images
        sys.exit(bool(main(*map(int, sys.argv[1:2]))))
