"""From predictions of a set's images to ``metrics.json``: which units and subgroups there are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medkit.errors import UsageError
from medkit.statistics.outcomes import Outcomes, choose_positive
from medkit.statistics.permutation import SPREAD, permute
from medkit.statistics.plugged import load_metrics
from medkit.statistics.procedure import Refits
from medkit.statistics.summary import summarise
from medkit.statistics.truth import asks_several, read_truth
from medkit.training.job import derive_seed
from medkit.workspace import Workspace, read_json, write_json

Floats = npt.NDArray[np.float64]

METRICS = "metrics.json"

UNITS = {"series": "SeriesInstanceUID", "study": "StudyInstanceUID"}
GROUPS = ("PatientSex", "PatientAge", "Manufacturer", "source")
# Columns of the set's table that `measure` makes use of.
COLUMNS = [*UNITS.values(), *GROUPS]

NOT_KNOWN = "not known"
_BANDS = {18: "0 to 17 years", 40: "18 to 39", 60: "40 to 59", 80: "60 to 79", 999: "80 and over"}
_AGE = re.compile(r"\s*(\d{1,3})\s*([DWMY]?)\s*", re.IGNORECASE)
_A_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0, "": 1.0}


def measure(
    table: pd.DataFrame,
    probabilities: Floats,
    record: Mapping[str, Any],
    *,
    threshold: float | Sequence[float] | None = None,
    refits: Sequence[Refits] = (),
) -> dict[str, Any]:
    """Return the content of ``metrics.json``.

    Parameters
    ----------
    table : DataFrame
        Columns label, split_group, those of `COLUMNS` that the set has, and fold unless one model
        predicted all; a row an image.
    probabilities : ndarray, shape (n, c)
        Of the same images.
    record : mapping
        Content of ``run.json``: classes, positive, task, seed, aggregate and metric_plugins.
    threshold, refits
        As of `summarise`.
    """
    outcomes = read_outcomes(table, probabilities, record)
    return summarise(
        outcomes.labels,
        probabilities,
        outcomes.persons,
        read_folds(table),
        record["classes"],
        seed=record["seed"],
        positive=record["positive"],
        threshold=threshold,
        rule=record.get("aggregate", "mean"),
        units={name: list_units(table, column) for name, column in UNITS.items()},
        refits=refits,
        groups={name: list_groups(table, name) for name in GROUPS if name in table},
        plugged=load_metrics(record.get("metric_plugins", ())),
    )


def read_outcomes(
    table: pd.DataFrame, probabilities: Floats, record: Mapping[str, Any]
) -> Outcomes:
    """Return predictions beside the truth, classes as of a record."""
    classes: Sequence[str] = record["classes"]
    return Outcomes(
        read_truth(table["label"], classes, asks_several(record)),
        probabilities,
        table["split_group"].to_numpy(str),
        classes,
        choose_positive(classes, record["positive"]),
    )


def read_folds(table: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return the fold of each image; 0 where one model predicted all."""
    if "fold" not in table:
        return np.zeros(len(table), dtype=np.int64)
    return table["fold"].to_numpy(np.int64)


def read_metrics(workspace: Workspace, name: str) -> dict[str, Any]:
    """Return ``metrics.json`` of a finished run, or of an evaluation.

    Raises
    ------
    UsageError
        If there is none of that name, or it has no metrics.
    """
    found: dict[str, Any] = read_json(_find_folder(workspace, name) / METRICS)
    return found


def permute_labels(workspace: Workspace, name: str, permutations: int) -> dict[str, Any]:
    """Add a permutation test to ``metrics.json``, and return its content.

    Parameters
    ----------
    workspace : Workspace
        Locked by the caller.
    name : str
        Of a finished run, or of an evaluation: its one model has persons of its own to be tested
        on, so that values of chance need no spreading.
    permutations : int
        As of `medkit.statistics.permutation.permute`.

    Raises
    ------
    UsageError
        As `read_metrics`.
    """
    folder = _find_folder(workspace, name)
    metrics: dict[str, Any] = read_json(folder / METRICS)
    table = pd.read_parquet(folder / "predictions.parquet")
    table = table.rename(columns={"person": "split_group"})
    columns = [f"p:{one}" for one in metrics["classes"]]
    outcomes = read_outcomes(table, table[columns].to_numpy(np.float64), metrics)
    if (threshold := metrics.get("decision", {}).get("threshold")) is not None:
        outcomes = outcomes.cut_at(threshold)
    record = read_json(folder / ("run.json" if "fold" in table else "evaluation.json"))
    spread = SPREAD if "fold" in table else 1.0
    metrics["permutation"] = permute(
        outcomes,
        read_folds(table),
        permutations,
        derive_seed(record["seed"], "permutations"),
        metrics["headline"],
        spread=spread,
    )
    write_json(folder / METRICS, metrics)
    return metrics


def _find_folder(workspace: Workspace, name: str) -> Path:
    for folder in (workspace.run(name), workspace.evaluation(name)):
        if (folder / METRICS).exists():
            return folder
    known = ", ".join(workspace.names("runs")) or "none"
    raise UsageError(
        f"there are no metrics of {name!r} in this workspace; runs here: {known}. A run has them "
        "when it is finished, an evaluation when there are labels"
    )


def list_units(table: pd.DataFrame, column: str) -> npt.NDArray[Any]:
    """Return the unit of each image, empty where it is not known."""
    if column not in table:
        return np.full(len(table), "")
    return table[column].fillna("").astype(str).to_numpy(str)


def list_groups(table: pd.DataFrame, column: str) -> npt.NDArray[Any]:
    """Return the subgroup of each image, ages in bands."""
    values = table[column].fillna("").astype(str).str.strip()
    if column == "PatientAge":
        values = values.map(_find_band)
    return values.replace("", NOT_KNOWN).to_numpy(str)


def _find_band(age: str) -> str:
    """Return the band of an age as DICOM spells it (PS3.5, 6.2: AS), such as 045Y or 006M."""
    found = _AGE.fullmatch(age)
    if not found:
        return NOT_KNOWN
    years = int(found[1]) / _A_YEAR[found[2].upper()]
    return next(name for limit, name in _BANDS.items() if years < limit)
