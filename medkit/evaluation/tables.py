"""The tables of a report: what `metrics.json` and the folds hold, arranged as rows and columns."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from medkit.evaluation.evidence import Evidence


class Measure(NamedTuple):
    """How a metric is shown: its title, in per cent or not, drawn on a scale from 0 to 1 or not."""

    title: str
    short: str
    as_share: bool
    drawn: bool


_MEASURES = {
    "balanced_accuracy": Measure("Balanced accuracy", "Balanced accuracy", True, True),
    "accuracy": Measure("Accuracy", "Accuracy", True, True),
    "sensitivity": Measure("Sensitivity", "Sensitivity", True, True),
    "specificity": Measure("Specificity", "Specificity", True, True),
    "auc": Measure("Area under the ROC curve", "AUC", False, True),
    "log_loss": Measure("Log loss (0 is best)", "Log loss", False, False),
    "brier": Measure("Brier score (0 is best)", "Brier score", False, False),
}


def arrange_number(evidence: Evidence, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headline and all measures, each beside its value for guessing."""
    measures = choose_measures(evidence)
    headline = metrics["headline"]
    return {
        "title": measures[headline].title,
        "headline": metrics["metrics"][headline],
        "guess": metrics["baselines"]["majority_class"][headline],
        "measures": measures,
        "values": metrics["metrics"],
        "by_class": metrics["per_class"],
        "folds": metrics["folds"],
        "fold_values": [fold["metrics"][headline] for fold in metrics["folds"]],
        "spread": _spread(measures, metrics["folds"]),
        "confusion": _share_rows(metrics["confusion"]),
        "looks": compare_looks(metrics),
        **{name: metrics[name] for name in ("images", "persons", "interval", "baselines", "notes")},
    }


def choose_measures(evidence: Evidence) -> dict[str, Measure]:
    """Return how each metric of a run is shown, in the order of the table."""
    two = len(evidence.classes) == 2
    of = f" for {evidence.positive}" if two else ", mean over classes"
    return {
        name: measure._replace(title=measure.title + of * (name in ("sensitivity", "specificity")))
        for name, measure in _MEASURES.items()
    }


def _spread(
    measures: Mapping[str, Measure], folds: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, float | None]]:
    values = {
        name: [fold["metrics"][name] for fold in folds if fold["metrics"][name] is not None]
        for name in measures
    }
    return {
        "Lowest": {name: min(known, default=None) for name, known in values.items()},
        "Highest": {name: max(known, default=None) for name, known in values.items()},
        "Standard deviation": {
            name: statistics.stdev(known) if len(known) > 1 else None
            for name, known in values.items()
        },
    }


def _share_rows(confusion: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    return [
        {"total": sum(row), "cells": [(count, count / max(sum(row), 1)) for count in row]}
        for row in confusion
    ]


def compare_looks(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Set the best look at each validation part beside the test part of that fold.

    What a look saw is the trainer's choice, higher is better. Nothing above 0 is taken for minus
    the log loss, anything else for the balanced accuracy.
    """
    looks = [look for look in metrics["looks"] if look["number"]]
    negative = all(look["best"] is None or look["best"] <= 0 for look in looks)
    name, sign = ("log_loss", -1) if negative else ("balanced_accuracy", 1)
    tests = {fold["fold"]: fold["metrics"][name] for fold in metrics["folds"]}
    rows = []
    for look in looks:
        test = None if tests[look["fold"]] is None else sign * tests[look["fold"]]
        known = None not in (test, look["best"])
        rows.append({**look, "test": test, "optimism": look["best"] - test if known else None})
    return {"compared": "minus the log loss" if negative else "balanced accuracy", "rows": rows}


def count_folds(folds: pd.DataFrame) -> dict[str, Any]:
    """Count images and persons by class and fold, with sums; a person may be in two classes.

    Parameters
    ----------
    folds : DataFrame
        ``split_group, label, fold``, a row an image.
    """
    parts = {f"Fold {number}": part for number, part in folds.groupby("fold")} | {"All": folds}
    return {
        "columns": list(parts),
        "rows": {
            name: [_count(part[part["label"] == name]) for part in parts.values()]
            for name in sorted(folds["label"].unique())
        },
        "sums": [_count(part) for part in parts.values()],
    }


def _count(part: pd.DataFrame) -> tuple[int, int]:
    return len(part), part["split_group"].nunique()
