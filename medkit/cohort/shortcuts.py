"""Can the label be told without looking at what the images show? Then a network may learn that.

Each field of `medkit.cohort.traits` is tried alone, and all together; so are the border of the
images and eight pixels by eight of them. Everything is predicted for persons that were not learned
from, and judged fold by fold: pooled over folds, a field that says nothing would score below
chance, as a class that is rarer in one part is more frequent in the rest.

An interval is as wide as all that were tried together need (Bonferroni). It is of the predictions,
from resampling persons; what learning again would change is not in it, which is why a field has to
stand out by `BOUND` before a word is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medkit.cohort.traits import VIEWS, Field, Glance, list_fields
from medkit.errors import WorkspaceError
from medkit.statistics.intervals import resample_persons
from medkit.statistics.logistic import solve
from medkit.statistics.metrics import auc
from medkit.workspace import read_json

if TYPE_CHECKING:
    from medkit.cohort.folds import Folds

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CHANCE = 0.5
# The low end of an interval must be above this, or chance and a little dirt would be called out.
BOUND = 0.55
_LEVEL = 0.95
_RESAMPLES = 200
# Persons that a value's class shares are pulled towards those of all by.
_PRIOR = 2.0
_STRENGTH = 0.1  # of the penalty, on standardised columns and the mean loss
_TOLERANCE, _STEPS = 1e-5, 500
_STRONGEST, _VALUES = 8, 3


def audit_shortcuts(folds: Folds, images: pd.DataFrame, glance: Glance) -> dict[str, Any]:
    """Measure how well the label is told by what is known without looking.

    Parameters
    ----------
    folds : Folds
        Persons that are held out take no part.
    images : DataFrame
        Rows of the set's table, one for each row of ``folds.table``, in that order.
    glance : Glance
        Of the same images.

    Returns
    -------
    dict
        As ``audits/KEY.json`` has it: label, images, persons, tried (how many intervals are
        corrected for), bound, fields, pixels, verdict. An ``auc`` is value, low and high. Of
        several labels an image ``by_label`` has these parts of each, where it is known, and
        ``verdict`` those that stand out.
    """
    fields = list_fields(images, glance.border)
    tried = len(fields) + len(VIEWS) + bool(fields)
    if not folds.several:
        labels = folds.table["label"].astype(str).to_numpy()
        task = _Task(folds.label, labels, folds.classes, folds.table)
        return _audit(task, fields, glance, tried)
    tried *= len(folds.classes)
    truth = folds.truth
    every = []
    for column, name in enumerate(folds.classes):
        rows = np.flatnonzero(truth[:, column] >= 0)
        classes = (f"no {name}", name)
        labels = np.array(classes, dtype=object)[truth[rows, column]]
        task = _Task(name, labels, classes, folds.table.iloc[rows])
        own = [replace(one, codes=one.codes[rows]) for one in fields]
        views = {view: seen[rows] for view, seen in glance.views.items()}
        every.append(_audit(task, own, replace(glance, views=views), tried))
    return {
        **{"label": folds.label, "images": len(folds.table)},
        **{"persons": int(folds.table["split_group"].nunique()), "tried": tried, "bound": BOUND},
        "by_label": every,
        "verdict": _conclude_all(every)
        or _CLEAR.format(label=f"one of {', '.join(folds.classes)}"),
    }


def _audit(task: _Task, fields: Sequence[Field], glance: Glance, tried: int) -> dict[str, Any]:
    """Return the same of one label."""
    alone = [
        {"field": one.name, "tells": one.tells, **task.judge(task.count(one), tried)}
        for one in fields
    ]
    order = sorted(range(len(fields)), key=lambda at: (-alone[at]["auc"]["value"], at))
    strongest = [
        alone[at] | {"values": _tell_values(fields[at], task)} for at in order[:_STRONGEST]
    ]
    together = task.judge(task.learn(_spread(fields)), tried) if fields else None
    pixels = [
        {"view": name, **task.judge(task.learn(view), tried)} for name, view in glance.views.items()
    ]
    return {
        "label": task.label,
        "images": len(task.labels),
        "persons": len(np.unique(task.persons)),
        "tried": tried,
        "bound": BOUND,
        "fields": together and {"chance": CHANCE, **together, "strongest": strongest},
        "pixels": pixels,
        "verdict": _conclude(task.label, together, strongest, pixels),
    }


def read_shortcuts(path: Path) -> dict[str, Any] | None:
    """Return what an audit of the same folds has found before, or None."""
    try:
        found = read_json(path)["shortcuts"] if path.exists() else None
    except (WorkspaceError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


class _Task:
    """A label that is to be told, person by person."""

    def __init__(
        self, label: str, values: npt.NDArray[Any], classes: Sequence[str], table: pd.DataFrame
    ) -> None:
        self.label, self.classes = label, classes
        places = {name: place for place, name in enumerate(classes)}
        self.labels = np.array([places[value] for value in values], dtype=np.int64)
        self.folds = table["fold"].to_numpy(np.int64)
        self.persons = table["split_group"].astype(str).to_numpy()
        # Each person counts once, however many images there are.
        sizes = table.groupby("split_group")["split_group"].transform("size")
        self.weights = 1 / sizes.to_numpy(np.float64)

    def count(self, field: Field) -> Floats:
        """Return for each image the share of each class among its value in the other folds."""
        shares = np.empty((len(self.labels), len(self.classes)))
        truth = np.eye(len(self.classes))[self.labels] * self.weights[:, None]
        for fold in np.unique(self.folds):
            train, test = self.folds != fold, self.folds == fold
            found = np.zeros((len(field.values), len(self.classes)))
            np.add.at(found, field.codes[train], truth[train])
            prior = found.sum(axis=0) / found.sum()
            pulled = (found + _PRIOR * prior) / (found.sum(axis=1, keepdims=True) + _PRIOR)
            shares[test] = pulled[field.codes[test]]
        return shares

    def learn(self, columns: npt.NDArray[Any]) -> Floats:
        """Return for each image what a logistic regression on the other folds makes of it."""
        standard = (columns - columns.mean(axis=0)) / (columns.std(axis=0) + 1e-9)
        standard = np.clip(standard, -5, 5).astype(np.float32)
        folds = np.unique(self.folds)
        parts = np.where(self.folds == folds[:, None], 0.0, self.weights)
        strengths = np.full(len(folds), _STRENGTH)
        points, _ = solve(
            standard,
            self.labels,
            len(self.classes),
            parts,
            strengths,
            tolerance=_TOLERANCE,
            most=_STEPS,
        )
        scores = np.empty((len(self.labels), points.shape[1]))
        for fold, point in zip(folds, points, strict=True):
            test = self.folds == fold
            scores[test] = standard[test] @ point[:, :-1].T + point[:, -1]
        return scores if scores.shape[1] > 1 else np.hstack([-scores, scores])

    def judge(self, scores: Floats, tried: int) -> dict[str, Any]:
        """Return the AUC of scores, its interval, and whether it is well above chance."""
        value = float(self._measure(scores, self.weights))
        drawn = np.concatenate(
            [
                self._measure(scores, self.weights * times)
                for times in resample_persons(self.persons, 0, _RESAMPLES)
            ]
        )
        spread = float(np.nanstd(drawn))
        low, high = _bound(value, spread, tried, len(np.unique(self.persons)))
        return {
            "auc": {"value": value, "low": low, "high": high},
            "above_chance": bool(low > BOUND),
        }

    def _measure(self, scores: Floats, weights: Floats) -> Floats:
        """Return the mean over folds and classes of the AUC of each class against the others."""
        chosen = range(1, 2) if len(self.classes) == 2 else range(len(self.classes))
        found = [
            auc(self.labels[rows] == one, scores[rows, one], weights[..., rows])
            for rows in (self.folds == fold for fold in np.unique(self.folds))
            for one in chosen
        ]
        known = np.stack(found, axis=-1)
        counts = np.isfinite(known).sum(axis=-1)
        means: Floats = np.where(counts, np.nansum(known, axis=-1) / np.maximum(counts, 1), np.nan)
        return means


def _bound(value: float, spread: float, tried: int, persons: int) -> tuple[float, float]:
    """Return an interval on the scale of log odds, which ends at 0 and 1."""
    width = NormalDist().inv_cdf(1 - (1 - _LEVEL) / (2 * tried))
    inside = min(max(value, 1 / persons), 1 - 1 / persons)
    # Without an error none is drawn either; then the rule of three stands in for the spread.
    slope = inside * (1 - inside)
    step = width * max(spread, slope / np.sqrt(persons)) / slope
    centre = np.log(inside / (1 - inside))
    low, high = (float(1 / (1 + np.exp(-end))) for end in (centre - step, centre + step))
    return min(low, value), max(high, value)


def _spread(fields: Sequence[Field]) -> npt.NDArray[np.float32]:
    """Return a column for each value of each field."""
    return np.hstack([np.eye(len(one.values), dtype=np.float32)[one.codes] for one in fields])


def _tell_values(field: Field, task: _Task) -> list[dict[str, Any]]:
    """Return the commonest values, with their images, and their share of each class."""
    counts = np.bincount(field.codes, minlength=len(field.values))
    told = []
    for at in np.argsort(-counts, kind="stable")[:_VALUES]:
        held = np.bincount(task.labels[field.codes == at], minlength=len(task.classes))
        shares = held / max(held.sum(), 1)
        told.append(
            {
                "value": field.values[at],
                "images": int(counts[at]),
                "shares": dict(zip(task.classes, shares.tolist(), strict=True)),
            }
        )
    return told


def _conclude(
    label: str,
    together: Mapping[str, Any] | None,
    strongest: Sequence[Mapping[str, Any]],
    pixels: Sequence[Mapping[str, Any]],
) -> str:
    """Return what a reader must know, in words; text from files may stand in it."""
    telling = [one for one in strongest if one["above_chance"]]
    sentences = []
    if telling or (together and together["above_chance"]):
        best = together if together and together["above_chance"] else telling[0]
        named = ", ".join(f"{one['field']} ({one['auc']['value']:.2f})" for one in telling[:3])
        what = list(dict.fromkeys(one["tells"] for one in telling[:3])) or ["how they were made"]
        sentences.append(
            f"Without a look at what the images show, {label} is told with an AUC of "
            f"{_spell(best)}{f', most of all {named}' if named else ''}: the images may be "
            f"teaching {' and '.join(what)}, and not {label}."
        )
    for one in pixels:
        if one["above_chance"]:
            sentences.append(_CONCLUSIONS[one["view"]].format(label=label, auc=_spell(one)))
    return " ".join(sentences) or _CLEAR.format(label=label)


def _conclude_all(every: Sequence[Mapping[str, Any]]) -> str:
    """Return the same of several labels, in a sentence for each way that tells one; or nothing."""
    told: dict[str, list[str]] = {}
    for found in every:
        fields = found["fields"]
        looks = [(one["view"], one) for one in found["pixels"]]
        looks += [("fields", one) for one in ((fields, *fields["strongest"]) if fields else ())]
        for view in ("fields", *VIEWS):
            areas = [
                one["auc"]["value"] for kind, one in looks if kind == view and one["above_chance"]
            ]
            if areas:
                told.setdefault(view, []).append(f"{found['label']} ({max(areas):.2f})")
    return " ".join(
        f"{_WAYS[view]} {', '.join(names)} well above chance (area under the ROC curve; chance is "
        "0.50)."
        for view, names in told.items()
    )


_WAYS = {
    "fields": "What is known without a look at the images tells",
    "border": "The border of the images alone tells",
    "small": f"{VIEWS['small']} by {VIEWS['small']} pixels of them tell",
}

_CLEAR = (
    "Neither what is known of the images nor their border or coarse look tells {label} well "
    f"above chance: no interval is above an AUC of {BOUND}."
)
_CONCLUSIONS = {
    "border": "The border of the images alone tells {label} with an AUC of {auc}: what lies there "
    "is seldom what they were taken for.",
    "small": f"{VIEWS['small']} by {VIEWS['small']} pixels of them tell {{label}} with an AUC of "
    "{auc}: brightness and coarse layout do, of which a network need not learn more.",
}


def _spell(one: Mapping[str, Any]) -> str:
    found = one["auc"]
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f}; chance is 0.50)"
