"""Runs on the same folds side by side, and which of them are better, paired by person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from medkit.errors import UsageError
from medkit.evaluation.evidence import Evidence
from medkit.evaluation.pairing import BY_RANK, align_runs, join, rank_scores, score
from medkit.evaluation.repeats import group_repeats
from medkit.evaluation.tables import choose_measures
from medkit.statistics.intervals import LEVEL
from medkit.statistics.metrics import NAMES, Floats, Measured
from medkit.statistics.outcomes import Entry, Notes, Outcomes, estimate
from medkit.statistics.plugged import Metric, load_metrics
from medkit.statistics.summary import METHOD as INTERVAL

_DRAWS = 2000
# Of a pair; of many pairs as many more as its smallest corrected p needs to be far from the limit.
_PERMUTATIONS, _PERMUTATIONS_A_PAIR = 2000, 100
# Differences as large as the one that was found, but for rounding, count as such.
_ROUNDING = 1e-12
_SMALLER_IS_BETTER = {"log_loss", "brier", "ece", "ece_classwise"}

HEADLINE = "balanced_accuracy"
FAMILIES = (
    "Each is a family of {repeats} cross-validations of the same persons with other folds, which "
    "the others have too; its value is the mean over them. "
)
METHOD = (
    "Differences are first minus second, with a {level:.0%} interval ({interval}) in which both "
    "runs are scored on the same {draws} resamples; it is of this one pair. p is of a permutation "
    "test: for each person, whose predictions are whose is tossed {tosses} times{ranks}. "
    "p_corrected is by Holm (Scand. J. Stat. 6, 1979) over {pairs}; below {limit:.2f} a pair is "
    "separable. Runs of an upper tier are separable from all of every lower tier. Both tests are "
    "about these models on other persons, not about training anew."
)


def require_same_folds(runs: Sequence[Evidence]) -> None:
    """Raise UsageError if numbers of runs differ by more than the trainer.

    On different folds they differ by the images, and sensitivities by the class they are about.
    """
    keys = {evidence.run["folds_key"] for evidence in runs}
    if len(keys) > 1:
        found = ", ".join(f"{one.name} on {one.run['folds_key']}" for one in runs)
        raise UsageError(
            f"runs can stand side by side only on the same folds, these are not: {found}; train "
            "them with the same set, label, number of folds and seed"
        )
    if len({evidence.positive for evidence in runs}) > 1:
        found = ", ".join(f"{one.name} is for {one.positive!r}" for one in runs)
        raise UsageError(
            f"the sensitivities of these runs are about different classes: {found}; train them "
            "with the same --positive"
        )


def compare_runs(runs: Sequence[Evidence]) -> dict[str, Any] | None:
    """Return runs and guessing side by side; None for one run, or where no run has a number.

    ``contrast`` is what `contrast_runs` says of those that have predictions.
    """
    measured = [evidence for evidence in runs if evidence.metrics]
    if len(runs) < 2 or not measured:
        return None
    first = measured[0]
    metrics = first.metrics or {}
    ready = [evidence for evidence in measured if evidence.predictions is not None]
    contrast = contrast_runs(ready) if len(ready) > 1 else None
    return {
        "measures": choose_measures(first),
        "headline": metrics["headline"],
        "guess": metrics["baselines"]["majority_class"][metrics["headline"]],
        "level": LEVEL,
        "first": first.name,
        "rows": [_describe_row(evidence, first, contrast) for evidence in runs],
        "baselines": metrics["baselines"],
        "contrast": contrast,
    }


def _describe_row(
    evidence: Evidence, first: Evidence, contrast: dict[str, Any] | None
) -> dict[str, Any]:
    return {
        "name": evidence.name,
        "trainer": evidence.run["plugin"],
        "values": (evidence.metrics or {}).get("metrics", {}),
        "difference": _find_difference(evidence.name, first.name, contrast),
    }


def _find_difference(
    name: str, first: str, contrast: dict[str, Any] | None
) -> dict[str, float | None] | None:
    """Return how much a run has above the first; None without numbers."""
    for pair in (contrast or {"pairs": []})["pairs"]:
        if (pair["first"], pair["second"]) == (first, name):
            low, high = pair["low"], pair["high"]
            bounds = {"low": _negate(high), "high": _negate(low)}
            return {"value": _negate(pair["difference"]), **bounds}
    return None


def _negate(value: float | None) -> float | None:
    return None if value is None else 0.0 - value


def contrast_runs(
    runs: Sequence[Evidence],
    metric: str = HEADLINE,
    *,
    draws: int = _DRAWS,
    permutations: int | None = None,
) -> dict[str, Any]:
    """Return which of some runs are better, and by how much, as JSON has it.

    Parameters
    ----------
    runs : sequence of Evidence
        Two or more finished runs on the same folds; or families of them: cross-validations that
        differ in nothing but the seed, each family with the folds that the others have.
    metric : str
        One of `medkit.statistics.metrics.NAMES`, or of a plugin that all runs were measured with.
    draws, permutations : int
        Resamples of the persons, and tosses of a pair; by default enough for so many pairs.

    Returns
    -------
    dict
        ``runs``, ``metric``, ``rows`` (run, value, low, high), ``pairs`` (first, second,
        difference, low, high, p, p_corrected, separable), ``ranking`` (tiers of runs, best
        first) and ``method``, a sentence on each of these.

    Raises
    ------
    UsageError
        If there is no such metric, or the runs are fewer than two, named alike, unfinished or on
        different folds.
    """
    plugged, families = _check_asked(runs, metric), _gather(runs)
    aligned = [replace(one, plugged=plugged) for one in align_runs(runs)]
    told = dict(zip((run.name for run in runs), aligned, strict=True))
    outcomes = [[told[run.name] for run in family] for family in families.values()]
    names, seed = list(families), min(int(run.run["seed"]) for run in runs)
    couples = list(combinations(range(len(names)), 2))
    tosses = permutations or max(_PERMUTATIONS, _PERMUTATIONS_A_PAIR * len(couples))
    values, differences = _estimate(outcomes, couples, metric, seed, draws)
    ps = [permute(outcomes[a], outcomes[b], metric, seed, tosses) for a, b in couples]
    pairs = [
        {
            **{"first": names[a], "second": names[b], "difference": found["value"]},
            **{"low": found["low"], "high": found["high"]},
            **{"p": p, "p_corrected": corrected},
            "separable": corrected is not None and corrected < 1 - LEVEL,
        }
        for (a, b), found, p, corrected in zip(couples, differences, ps, correct(ps), strict=True)
    ]
    return {
        "runs": names,
        "metric": metric,
        "rows": [{"run": name, **found} for name, found in zip(names, values, strict=True)],
        "pairs": pairs,
        "ranking": rank_runs(
            names,
            [found["value"] for found in values],
            pairs,
            lower=metric in _SMALLER_IS_BETTER or any(one.better == "lower" for one in plugged),
        ),
        "method": (FAMILIES.format(repeats=len(outcomes[0])) if len(outcomes[0]) > 1 else "")
        + METHOD.format(
            interval=INTERVAL,
            level=LEVEL,
            draws=draws,
            tosses=tosses,
            pairs="1 pair" if len(couples) == 1 else f"{len(couples)} pairs",
            limit=1 - LEVEL,
            ranks=", by the ranks that a run gives its images" if metric in BY_RANK else "",
        ),
    }


def _check_asked(runs: Sequence[Evidence], metric: str) -> tuple[Metric, ...]:
    """Return the metric where it is of a plugin, which is imported then, and nothing otherwise."""
    every = [set((one.metrics or {}).get("plugged", ())) for one in runs]
    own = sorted(set.intersection(*every)) if every else []
    if metric not in NAMES and metric not in own:
        raise UsageError(f"there is no metric {metric!r}; there are: {', '.join([*NAMES, *own])}")
    if len(runs) < 2 or len({run.name for run in runs}) < len(runs):
        raise UsageError("to compare takes two runs or more, each of them once")
    if metric in NAMES:
        return ()
    return tuple(one for one in load_metrics(runs[0].run["metric_plugins"]) if one.name == metric)


def _gather(runs: Sequence[Evidence]) -> dict[str, list[Evidence]]:
    """Return the runs under the names of their families; of one cross-validation, its own.

    Raises
    ------
    UsageError
        If they are on different folds, and are no families that have the same ones.
    """
    if len({run.run["folds_key"] for run in runs}) > 1:
        found = group_repeats(runs)
        folds = [sorted(run.run["folds_key"] for run in family) for family in found.values()]
        if len(found) > 1 and all(one == folds[0] for one in folds):
            for beside in zip(*found.values(), strict=True):
                require_same_folds(beside)
            return found
    require_same_folds(runs)
    return {run.name: [run] for run in runs}


def _estimate(
    outcomes: Sequence[Sequence[Outcomes]],
    couples: Sequence[tuple[int, int]],
    metric: str,
    seed: int,
    draws: int,
) -> tuple[list[Entry], list[Entry]]:
    """Return each run's value and each pair's difference, with intervals.

    All runs are scored on the same resamples of the persons.
    """

    def measured(weights: Floats) -> Measured:
        every = [_average(family, metric, weights) for family in outcomes]
        apart = {f"{a} {b}": every[a] - every[b] for a, b in couples}
        return Measured({str(place): value for place, value in enumerate(every)} | apart, {})

    found = estimate(measured, outcomes[0][0].persons, seed, draws).describe(Notes())
    return [found[str(a)] for a in range(len(outcomes))], [found[f"{a} {b}"] for a, b in couples]


def _average(family: Sequence[Outcomes], metric: str, weights: Floats) -> Floats:
    """Return the mean over the cross-validations of a family."""
    return np.asarray(np.mean([score(one, metric, weights) for one in family], axis=0))


def permute(
    first: Sequence[Outcomes], second: Sequence[Outcomes], metric: str, seed: int, tosses: int
) -> float | None:
    """Return how often chance alone would part two runs as much: the p of both sides.

    For each person it is tossed which run's predictions of all of that person's images are taken
    for the first's, as if both runs were the same.

    Parameters
    ----------
    first, second : sequence of Outcomes
        Of the same images in one order: one each, or as many cross-validations.
    metric : str
    seed, tosses : int

    Returns
    -------
    float or None
        None where the metric does not exist.
    """
    if metric in BY_RANK:
        first, second = ([rank_scores(one) for one in family] for family in (first, second))
    both = [join(a, b) for a, b in zip(first, second, strict=True)]

    def part(weights: Floats) -> Floats:
        swapped = np.concatenate([1 - weights, weights], axis=-1)
        return _average(both, metric, swapped) - _average(both, metric, 1 - swapped)

    found = abs(float(part(np.zeros(len(first[0].labels)))))
    if not np.isfinite(found):
        return None
    # A toss that leaves a class out cannot be: both runs predict the same images.
    as_large = sum(
        int((np.abs(part(weights)) >= found - _ROUNDING).sum())
        for weights in _toss(first[0].persons, seed, tosses)
    )
    return (1 + as_large) / (1 + tosses)


def _toss(persons: npt.NDArray[Any], seed: int, tosses: int) -> Iterator[Floats]:
    """Yield 0 or 1 for each image, shape (some, n): the same for all of a person."""
    names, index = np.unique(persons, return_inverse=True)
    random = np.random.default_rng([seed, 1])  # unlike the resamples
    at_once = max(1, 200_000 // len(persons))
    for start in range(0, tosses, at_once):
        rows = min(at_once, tosses - start)
        tossed = random.integers(2, size=(rows, len(names)))
        yield tossed[:, index].astype(np.float64)


def correct(ps: Sequence[float | None]) -> list[float | None]:
    """Return p values corrected for their number, by Holm's steps; None stays None."""
    known = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    largest = 0.0
    for passed, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - passed) * p))
        corrected[place] = largest
    return corrected


def rank_runs(
    names: Sequence[str],
    values: Sequence[float | None],
    pairs: Sequence[dict[str, Any]],
    *,
    lower: bool = False,
) -> list[list[str]]:
    """Return tiers of runs, best first: each is separable from every run of the tiers below.

    One tier says that no run was shown to be better than all others.
    """
    sign = 1 if lower else -1
    keys = [np.inf if value is None else sign * value for value in values]
    order = [names[place] for place in np.argsort(keys, kind="stable")]
    apart = {frozenset((pair["first"], pair["second"])) for pair in pairs if pair["separable"]}
    tiers = [[order[0]]]
    for place in range(1, len(order)):
        above, below = order[:place], order[place:]
        if all(frozenset((a, b)) in apart for a in above for b in below):
            tiers.append([])
        tiers[-1].append(order[place])
    return tiers
