"""Runs that predicted the same images, row by row, so that they can be scored together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from medkit.errors import UsageError
from medkit.evaluation.evidence import Evidence
from medkit.statistics import metrics, ranking
from medkit.statistics.metrics import Floats
from medkit.statistics.outcomes import Outcomes
from medkit.statistics.truth import read_truth

# Metrics that can be had alone: to compute all for each resample takes ten times as long.
_OF_CONFUSION: dict[str, Callable[[Floats], Floats]] = {
    **{"accuracy": metrics.accuracy, "mcc": metrics.matthews, "kappa": metrics.kappa},
}
_OF_CLASSES: dict[str, Callable[[Floats], Floats]] = {
    "balanced_accuracy": metrics.sensitivity,
    "sensitivity": metrics.sensitivity,
    "specificity": metrics.specificity,
}
_OF_RANKING: dict[str, Callable[[ranking.Ranking], Floats]] = {
    "auc": ranking.measure_area,
    "average_precision": ranking.average_precision,
    "sensitivity_at_specificity": lambda one: ranking.sensitivity_at(one, metrics.TARGET),
    "specificity_at_sensitivity": lambda one: ranking.specificity_at(one, metrics.TARGET),
}
_OF_PROBABILITIES = {
    **{"log_loss": metrics.log_loss, "brier": metrics.brier},
    "ece": metrics.expected_calibration_error,
}
# These ask how images are ordered, not what is said of each.
BY_RANK = tuple(_OF_RANKING)


def align_runs(runs: Sequence[Evidence]) -> list[Outcomes]:
    """Return what each run says of the images that all of them predicted, in one order.

    Raises
    ------
    UsageError
        If one is not finished, or they predicted other images, persons or labels.
    """
    unfinished = [one.name for one in runs if one.predictions is None]
    if unfinished:
        raise UsageError(f"these runs have no predictions yet: {', '.join(unfinished)}")
    tables = [
        one.predictions.sort_values("image").reset_index(drop=True)
        for one in runs
        if one.predictions is not None
    ]
    asked = ["image", "person", "label"]
    other = [
        one.name
        for one, table in zip(runs, tables, strict=True)
        if not table[asked].equals(tables[0][asked])
    ]
    if other:
        raise UsageError(
            f"{', '.join(other)} did not predict the same images, persons and labels as "
            f"{runs[0].name}; only runs that did can be compared"
        )
    return [_read(one, table) for one, table in zip(runs, tables, strict=True)]


def _read(run: Evidence, table: pd.DataFrame) -> Outcomes:
    return Outcomes(
        labels=read_truth(table["label"], run.classes, run.several),
        probabilities=table[[f"p:{name}" for name in run.classes]].to_numpy(np.float64),
        persons=table["person"].to_numpy(str),
        classes=run.classes,
        positive=run.classes.index(run.positive),
    )


def score(outcomes: Outcomes, metric: str, weights: Floats) -> Floats:
    """Return a metric, of a plugin or not, as `Outcomes.measure` gives it."""
    if outcomes.multilabel and metric in metrics.NAMES:
        asked = [outcomes.ask(column) for column in range(len(outcomes.classes))]
        told = [(rows, one) for rows, one in asked if len(np.unique(one.labels)) == 2]
        each = [score(one, metric, weights[..., rows]) for rows, one in told]
        return np.asarray(np.mean(each, axis=0) if each else np.full(weights.shape[:-1], np.nan))
    for plugged in outcomes.plugged:
        if plugged.name == metric:
            return plugged.weigh(outcomes, weights)
    labels, stated = outcomes.labels, outcomes.probabilities
    if metric in _OF_PROBABILITIES:
        return _OF_PROBABILITIES[metric](labels, stated, weights)
    if metric in _OF_CONFUSION | _OF_CLASSES:
        counts = metrics.confuse(labels, outcomes.decide(), stated.shape[1], weights)
        if metric in _OF_CONFUSION:
            return _OF_CONFUSION[metric](counts)
        values = _OF_CLASSES[metric](counts)[..., _list_classes(outcomes, metric)]
        return np.asarray(values.mean(axis=-1))
    if metric in _OF_RANKING:
        ranked = [
            _OF_RANKING[metric](ranking.rank(labels == column, stated[:, column], weights))
            for column in _list_classes(outcomes, metric)
        ]
        return np.asarray(np.mean(ranked, axis=0))
    return outcomes.measure(weights).metrics[metric]


def _list_classes(outcomes: Outcomes, metric: str) -> list[int]:
    """Return the columns that a metric is the mean over."""
    if len(outcomes.classes) == 2 and metric != "balanced_accuracy":
        return [outcomes.positive]
    return [int(column) for column in np.unique(outcomes.labels)]


def join(first: Outcomes, second: Outcomes) -> Outcomes:
    """Return the rows of both, one behind the other."""
    return replace(
        first,
        labels=np.concatenate([first.labels, second.labels]),
        probabilities=np.concatenate([first.probabilities, second.probabilities]),
        persons=np.concatenate([first.persons, second.persons]),
    )


def rank_scores(outcomes: Outcomes) -> Outcomes:
    """Return the same with mid-ranks, between 0 and 1, in place of probabilities.

    Scores of two models are on scales of their own; their ranks are on one (Bandos, Rockette and
    Gur, Stat. Med. 24, 2005).
    """
    from scipy.stats import rankdata

    stated = outcomes.probabilities
    return replace(outcomes, probabilities=rankdata(stated, axis=0) / (len(stated) + 1))
