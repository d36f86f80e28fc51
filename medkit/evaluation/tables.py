"""The tables of a report: what `metrics.json` and the folds hold, arranged as rows and columns."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from medkit.evaluation.evidence import Evidence
from medkit.statistics.truth import find_class, list_classes


class Measure(NamedTuple):
    """How a metric is shown.

    Attributes
    ----------
    title, short : str
    as_share : bool
        In per cent.
    drawn : bool
        On a scale from 0 to 1.
    main : bool
        In every table, and not only in that of all measures.
    """

    title: str
    short: str
    as_share: bool = False
    drawn: bool = True
    main: bool = False


_MEASURES = {
    "balanced_accuracy": Measure("Balanced accuracy", "Balanced accuracy", True, True, True),
    "accuracy": Measure("Accuracy", "Accuracy", True, True, True),
    "sensitivity": Measure("Sensitivity", "Sensitivity", True, True, True),
    "specificity": Measure("Specificity", "Specificity", True, True, True),
    "sensitivity_at_specificity": Measure(
        "Sensitivity where specificity is 90\u202f%", "Sens. at spec. 90\u202f%", True
    ),
    "specificity_at_sensitivity": Measure(
        "Specificity where sensitivity is 90\u202f%", "Spec. at sens. 90\u202f%", True
    ),
    "auc": Measure("Area under the ROC curve", "AUC", main=True),
    "average_precision": Measure("Average precision", "Average precision"),
    "f1": Measure("F1", "F1"),
    "mcc": Measure("Matthews correlation", "MCC"),
    "kappa": Measure("Cohen's kappa", "Kappa"),
    "log_loss": Measure("Log loss (0 is best)", "Log loss", drawn=False, main=True),
    "brier": Measure("Brier score (0 is best)", "Brier score", drawn=False, main=True),
    "ece": Measure("Calibration error (0 is best)", "ECE", drawn=False),
    "ece_classwise": Measure(
        "Calibration error by class (0 is best)", "Classwise ECE", drawn=False
    ),
}
# Of one class: with two, of the positive one.
_OF_A_CLASS = {
    *("sensitivity", "specificity", "sensitivity_at_specificity", "specificity_at_sensitivity"),
    *("average_precision", "f1"),
}


def arrange_number(evidence: Evidence, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headline and all measures, each beside its value for guessing."""
    measures = choose_measures(evidence)
    headline = metrics["headline"]
    shown = metrics.get("headline_interval") or {
        "shows": "persons",
        "covers": metrics["interval"]["covers"],
        **metrics["metrics"][headline],
    }
    return {
        "title": measures[headline].title,
        "headline": shown,
        "metric": headline,
        "guess": metrics["baselines"]["majority_class"][headline],
        "measures": measures,
        "main": {name: one for name, one in measures.items() if one.main},
        "values": metrics["metrics"],
        "by_class": metrics["per_class"],
        "folds": metrics["folds"],
        "fold_values": [fold["metrics"][headline] for fold in metrics["folds"]],
        "fold_names": evidence.run.get("fold_names") or [],
        "spread": _spread(measures, metrics["folds"]),
        "confusion": [] if evidence.several else _share_rows(metrics["confusion"]),
        "counts": _list_counts(evidence.classes, metrics) if evidence.several else [],
        "looks": compare_looks(metrics),
        "levels": _list_levels(metrics),
        "subgroups": _list_subgroups(metrics),
        "points": metrics.get("operating_points") or [],
        **{
            name: metrics.get(name)
            for name in ("procedure", "permutation", "optimism", "aggregation")
        },
        **{name: metrics[name] for name in ("images", "persons", "interval", "baselines", "notes")},
    }


def choose_measures(evidence: Evidence) -> dict[str, Measure]:
    """Return how each metric that a run has is shown, in the order of the table."""
    two = len(evidence.classes) == 2
    of = f" for {evidence.positive}" if two else ", mean over classes"
    if evidence.several:
        of = ", mean over labels"
    known = (evidence.metrics or {}).get("metrics", _MEASURES)
    plugged = {
        name: Measure(one["title"], one["title"], drawn=one["range"] == [0, 1])
        for name, one in (evidence.metrics or {}).get("plugged", {}).items()
    }
    own = {
        name: measure._replace(title=measure.title + of * (evidence.several or name in _OF_A_CLASS))
        for name, measure in _MEASURES.items()
        if name in known
    }
    return own | plugged


def _list_levels(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the levels that add to that of images, and it; nothing where there is no other."""
    levels = {name: one for name, one in (metrics.get("levels") or {}).items() if one}
    return [{"name": name, **one} for name, one in levels.items()] if len(levels) > 1 else []


def _list_subgroups(metrics: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Return subgroups under what they are by."""
    by: dict[str, list[Mapping[str, Any]]] = {}
    for group in metrics.get("subgroups") or []:
        by.setdefault(group["by"], []).append(group)
    return by


def count_of_hundred(evidence: Evidence, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return for each class how many of 100 of its images are recognised, with the interval."""
    found = []
    for name, one in metrics["per_class"].items():
        entry = one["sensitivity"]
        if entry["value"] is not None:
            rounded = {part: _round(entry[part]) for part in ("value", "low", "high")}
            found.append({"class": name, **rounded, "positive": name == evidence.positive})
    return found


def _round(share: float | None) -> int | None:
    return None if share is None else round(100 * share)


def describe_calibration(calibration: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what one temperature does, with what it was fitted on left out of the measure."""
    if not calibration or not calibration.get("cross_fitted"):
        return None
    fitted = calibration["cross_fitted"]
    titles = {
        "log_loss": "Log loss",
        "brier": "Brier score",
        "ece": "Calibration error",
        "ece_classwise": "Calibration error by class",
    }
    rows = [
        (title, fitted["before"][name], fitted["after"][name])
        for name, title in titles.items()
        if name in fitted["before"]
    ]
    return {
        "rows": rows,
        "temperature": calibration["temperature"],
        "several": isinstance(calibration["temperature"], list),
        "note": calibration.get("note") or "",
    }


def _spread(
    measures: Mapping[str, Measure], folds: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, float | None]]:
    values = {
        name: [one for fold in folds if (one := fold["metrics"].get(name)) is not None]
        for name, measure in measures.items()
        if measure.main
    }
    return {
        "Lowest": {name: min(known, default=None) for name, known in values.items()},
        "Highest": {name: max(known, default=None) for name, known in values.items()},
        "Standard deviation": {
            name: statistics.stdev(known) if len(known) > 1 else None
            for name, known in values.items()
        },
    }


def _list_counts(classes: Sequence[str], metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return for each label what was found, missed, taken for it, and left alone."""
    return [
        {"label": name, "found": has[1], "missed": has[0], "alarms": lacks[1], "left": lacks[0]}
        for name, (lacks, has) in zip(classes, metrics["confusion"], strict=True)
    ]


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


def count_folds(
    folds: pd.DataFrame, names: Sequence[str] = (), several: bool = False
) -> dict[str, Any]:
    """Count images and persons by class and fold, with sums; a person may be in two classes.

    Parameters
    ----------
    folds : DataFrame
        ``split_group, label, fold``, a row an image.
    names : sequence of str
        Of the folds; their numbers by default.
    several : bool
        Whether an image has several labels.
    """
    titled = {
        number: name_fold(number, names) if number >= 0 else "Held out" for number in folds["fold"]
    }
    parts = {titled[number]: part for number, part in folds.groupby("fold")} | {"All": folds}
    return {
        "columns": list(parts),
        "rows": {
            name: [
                _count(part[find_class(part["label"], name, several)]) for part in parts.values()
            ]
            for name in list_classes(folds["label"].unique(), several)
        },
        "sums": [_count(part) for part in parts.values()],
    }


def name_fold(number: int, names: Sequence[str]) -> str:
    """Return what a fold is called: by its name, such as a site, where somebody gave it one."""
    name = names[number] if number < len(names) else str(number)
    return f"Fold {number}" if name == str(number) else f"Fold {number}: {name}"


def _count(part: pd.DataFrame) -> tuple[int, int]:
    return len(part), part["split_group"].nunique()
