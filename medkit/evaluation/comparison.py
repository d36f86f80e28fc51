"""Runs on the same folds side by side, and their differences, paired by person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medkit.errors import UsageError
from medkit.evaluation.evidence import Evidence
from medkit.evaluation.tables import choose_measures
from medkit.statistics.intervals import LEVEL, Ints, find_interval, resample_persons
from medkit.statistics.metrics import Floats, confuse, sensitivity

_DRAWS = 2000


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
    """Return runs and guessing side by side; None for one run, or where no run has a number."""
    measured = [evidence for evidence in runs if evidence.metrics]
    if len(runs) < 2 or not measured:
        return None
    first = measured[0]
    metrics = first.metrics or {}
    return {
        "measures": choose_measures(first),
        "headline": metrics["headline"],
        "guess": metrics["baselines"]["majority_class"][metrics["headline"]],
        "level": LEVEL,
        "first": first.name,
        "rows": [_describe_row(evidence, first) for evidence in runs],
        "baselines": metrics["baselines"],
    }


def _describe_row(evidence: Evidence, first: Evidence) -> dict[str, Any]:
    return {
        "name": evidence.name,
        "trainer": evidence.run["plugin"],
        "values": (evidence.metrics or {}).get("metrics", {}),
        "difference": None if evidence is first else _subtract(evidence, first),
    }


def _subtract(evidence: Evidence, first: Evidence) -> dict[str, float | None] | None:
    """Return how much balanced accuracy a run has above the first; None without numbers.

    Each resample of the persons is scored for both runs, so that what is hard for both falls out
    of the difference.
    """
    if evidence.predictions is None or first.predictions is None:
        return None
    names = ["image", "predicted"]
    table = first.predictions.merge(evidence.predictions[names], on="image", validate="1:1")
    labels, one, other = (
        np.searchsorted(first.classes, table[column].to_numpy(str))
        for column in ("label", "predicted_x", "predicted_y")
    )

    def score(predicted: Ints, weights: Floats) -> Floats:
        confusion = confuse(labels, predicted, len(first.classes), weights)
        return np.asarray(sensitivity(confusion).mean(axis=-1))

    drawn = [
        score(other, weights) - score(one, weights)
        for weights in resample_persons(table["person"].to_numpy(str), first.run["seed"], _DRAWS)
    ]
    everybody = np.ones(len(table))
    value = float(score(other, everybody) - score(one, everybody))
    low, high = find_interval(np.concatenate(drawn)) or (None, None)
    return {"value": value, "low": low, "high": high}
