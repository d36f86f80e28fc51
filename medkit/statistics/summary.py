"""The content of ``metrics.json``: arrays in, plain numbers and sentences out.

docs/metrics.md says what each part is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from medkit.statistics import procedure
from medkit.statistics.aggregation import aggregate, check_rule
from medkit.statistics.delong import estimate_area
from medkit.statistics.intervals import FEW_PERSONS, LEVEL, find_quantile
from medkit.statistics.metrics import Floats, check_predictions, confuse
from medkit.statistics.operation import describe_points
from medkit.statistics.outcomes import (
    Entry,
    Estimate,
    Notes,
    Outcomes,
    Rows,
    choose_positive,
    gather_rows,
    spell_number,
)
from medkit.statistics.plugged import Metric, describe_plugged
from medkit.statistics.truth import MULTICLASS, MULTILABEL

Column = npt.NDArray[Any]

HEADLINE = "balanced_accuracy"
METHOD = "person bootstrap, BCa, widened by Student's t"
COVERS = (
    "how much the value would vary if these same models were tested on other persons of the same "
    "kind. It does not cover training again on other persons (of the whole cross-validated "
    "procedure it was measured to cover 87 to 94 %, not 95 %: see procedure), nor another site, "
    "scanner or time."
)
# Of a subgroup with fewer persons no interval is given.
FEW_OF_A_GROUP = 10
_GROUPS = 12  # of one column, the largest


def summarise(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    persons: npt.ArrayLike,
    folds: npt.ArrayLike,
    classes: Sequence[str],
    *,
    seed: int,
    resamples: int = 2000,
    positive: str | None = None,
    threshold: float | Sequence[float] | None = None,
    rule: str = "mean",
    units: Mapping[str, Column] | None = None,
    groups: Mapping[str, Column] | None = None,
    refits: Sequence[procedure.Refits] = (),
    plugged: Sequence[Metric] = (),
) -> dict[str, Any]:
    """Return the content of ``metrics.json``.

    Parameters
    ----------
    labels : array_like of int, shape (n,) or (n, c)
        Indexes into ``classes``. Of several labels an image: 1 where it has one, 0 where it has
        not, less where that is not known.
    probabilities : array_like, shape (n, c)
        Out-of-fold predictions, columns in the order of ``classes``.
    persons, folds : array_like, shape (n,)
        Person and fold of each image.
    classes : sequence of str
        Sorted.
    seed : int
        Of the resampling. The result depends on the persons drawn, not on the order of the rows.
    resamples : int
        How many.
    positive : str, optional
        Of two classes, the one that metrics of a class are about; by default the second.
    threshold : float or sequence of float, optional
        From where on the positive class is predicted; by default the more probable one is. Of
        several labels one each, by default what is above 0.5.
    rule : str
        How predictions of a unit's images are joined: one of `medkit.statistics.aggregation.RULES`.
    units : mapping of str to ndarray, shape (n,), optional
        The ``series`` and the ``study`` of each image, as text; empty where it is not known.
    groups : mapping of str to ndarray, shape (n,), optional
        Columns whose values are subgroups.
    refits : sequence of Refits, optional
        Fits on pairs of folds, of the same images, for the procedure's own interval.
    plugged : sequence of Metric, optional
        Of plugins; those that are not for such classes are noted.

    Returns
    -------
    dict
        Plain numbers, strings, lists and dicts. A value that does not exist is None, and
        ``"notes"`` has the reason.

    Raises
    ------
    TrainingError
        If the predictions cannot be measured (`check_predictions`).
    UsageError
        If ``positive`` is none of two classes, or there is no such rule.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    persons, folds = np.asarray(persons), np.asarray(folds)
    check_predictions(labels, probabilities)
    check_rule(rule, classes, several=labels.ndim == 2)
    outcomes = Outcomes(
        labels,
        probabilities,
        persons,
        classes,
        choose_positive(classes, positive),
    ).cut_at(threshold)
    fitting = tuple(one for one in plugged if one.fits(outcomes))
    outcomes = replace(outcomes, plugged=fitting)
    task = _Task(outcomes, folds, seed, resamples, rule, Notes())
    for one in {*plugged} - {*fitting}:
        task.notes.add("not measured, as it is for two classes", one.name)
    every = {**(units or {}), "person": persons}
    with threadpool_limits(1, user_api="blas"):  # the order of a sum follows from the threads
        return _compose(task, every, groups or {}, refits)


class _Task(NamedTuple):
    """What is to be measured, and how; reasons are noted."""

    outcomes: Outcomes
    folds: Column
    seed: int
    resamples: int
    rule: str
    notes: Notes


def _compose(
    task: _Task,
    units: Mapping[str, Column],
    groups: Mapping[str, Column],
    refits: Sequence[procedure.Refits],
) -> dict[str, Any]:
    outcomes, notes = task.outcomes, task.notes
    if outcomes.people < FEW_PERSONS:
        notes.add(f"with {outcomes.people} persons, intervals tend to be too narrow", "intervals")
    found = outcomes.estimate(task.seed, task.resamples)
    metrics = found.describe(notes)
    parts = {
        "task": MULTILABEL if outcomes.multilabel else MULTICLASS,
        "classes": list(outcomes.classes),
        "positive": outcomes.classes[outcomes.positive] if _is_binary(outcomes) else None,
        "images": len(outcomes.labels),
        "persons": outcomes.people,
        "headline": HEADLINE,
        "metrics": metrics,
        "plugged": describe_plugged(outcomes.plugged),
        "per_class": _describe_classes(outcomes, found, notes),
        "confusion": _count_confusion(outcomes),
        "folds": _describe_folds(outcomes, task.folds, notes),
        "baselines": _describe_baselines(outcomes, notes),
        "interval": {
            **{"level": LEVEL, "method": METHOD},
            **{"resamples": task.resamples, "covers": COVERS},
        },
        "delong": _describe_area(outcomes),
        "aggregation": {"method": task.rule, "declared": "before the run"},
        "levels": _describe_levels(task, units, metrics),
        "subgroups": [
            group for by, column in groups.items() for group in _describe_groups(task, by, column)
        ],
        "operating_points": describe_points(outcomes, task.folds, task.seed, task.resamples, notes),
        "procedure": _describe_procedure(task, metrics, find_errors(found), refits),
        "permutation": None,
        "optimism": None,
    }
    return {**parts, "headline_interval": choose_interval(parts), "notes": notes.sentences()}


def find_errors(found: Estimate) -> dict[str, float]:
    """Return the standard error of each metric for these models on other persons."""
    if found.draws is None or found.people < 2:
        return {}
    grown = math.sqrt(found.people / (found.people - 1))
    usable = {name: one[np.isfinite(one)] for name, one in found.draws.drawn.metrics.items()}
    return {name: float(one.std() * grown) if len(one) else 0.0 for name, one in usable.items()}


def choose_interval(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the interval to print beside the number: the procedure's own where there is one."""
    stretched = parts["procedure"]
    if stretched and stretched["low"] is not None:
        shown, name = stretched, "procedure"
        covers = stretched["covers"]
    else:
        shown, name = parts["metrics"][parts["headline"]], "persons"
        covers = parts["interval"]["covers"]
    return {
        "shows": name,
        **{part: shown[part] for part in ("value", "low", "high")},
        "covers": covers,
    }


def _is_binary(outcomes: Outcomes) -> bool:
    return len(outcomes.classes) == 2 and not outcomes.multilabel


def _describe_procedure(
    task: _Task,
    metrics: Mapping[str, Entry],
    errors: Mapping[str, float],
    refits: Sequence[procedure.Refits],
) -> dict[str, Any] | None:
    k = len(np.unique(task.folds))
    if k < 2 or not errors:
        return None
    if refits:
        factors = procedure.nest(task.outcomes, refits, errors, task.seed)
        way = "nested cross-validation (Bates, Hastie and Tibshirani 2024)"
    else:
        factors = dict.fromkeys(errors, procedure.correct(k))
        way = "the factor for folds that share training persons (Nadeau and Bengio 2003)"
    facts = {
        "method": f"{METHOD}, stretched about the value by {way}",
        "factor": factors[HEADLINE],
        "repeats": len(refits),
        "fits": sum(len(one.pairs) for one in refits) + k * max(len(refits) - 1, 0),
    }
    ranges = {one.name: (one.low, one.high) for one in task.outcomes.plugged}
    return procedure.describe(HEADLINE, metrics, errors, factors, facts, ranges)


def _describe_area(outcomes: Outcomes) -> dict[str, Any] | None:
    """Return the interval of the AUC without resampling; None but for two classes."""
    if not _is_binary(outcomes):
        return None
    truth = outcomes.labels == outcomes.positive
    scores = outcomes.probabilities[:, outcomes.positive]
    area = estimate_area(truth, scores, outcomes.persons)
    if area is None:
        return None
    margin = find_quantile(max(outcomes.people - 1, 1)) * area.standard_error
    return {
        "value": area.value,
        "low": max(area.value - margin, 0.0),
        "high": min(area.value + margin, 1.0),
        "standard_error": area.standard_error,
        "method": "DeLong, clustered by person (Obuchowski 1997)",
    }


def _describe_classes(outcomes: Outcomes, found: Estimate, notes: Notes) -> dict[str, Any]:
    described = {}
    for column, name in enumerate(outcomes.classes):
        labels = outcomes.labels
        held = labels[:, column] == 1 if outcomes.multilabel else labels == column
        known = int((labels[:, column] >= 0).sum()) if outcomes.multilabel else len(labels)
        described[name] = {
            "images": int(held.sum()),
            "persons": len(np.unique(outcomes.persons[held])),
            "prevalence": float(held.sum() / max(known, 1)),
            **found.describe_class(column, name, notes),
        }
    return described


def _count_confusion(outcomes: Outcomes) -> list[Any]:
    """Return images by true and predicted class; of several labels a table of two a label."""
    decided, labels = outcomes.decide(), outcomes.labels
    if not outcomes.multilabel:
        counted: list[Any] = confuse(labels, decided, len(outcomes.classes)).astype(int).tolist()
        return counted
    known = labels >= 0
    return [
        confuse(labels[rows, column], decided[rows, column], 2).astype(int).tolist()
        for column, rows in enumerate(known.T)
    ]


def _describe_folds(outcomes: Outcomes, folds: Column, notes: Notes) -> list[dict[str, Any]]:
    described = []
    for fold in np.unique(folds).tolist():
        part = outcomes.take(np.flatnonzero(folds == fold))
        described.append(
            {
                "fold": fold,
                "images": len(part.labels),
                "persons": part.people,
                "metrics": {
                    name: spell_number(value, f"{name} of fold {fold}", notes)
                    for name, value in part.measure().metrics.items()
                },
            }
        )
    return described


def _describe_baselines(outcomes: Outcomes, notes: Notes) -> dict[str, Any]:
    """Return the metrics of knowing nothing but how frequent the classes are.

    They are frequent as in all images together: counted by training part, they would be rarer
    in it where they are more frequent in its test part, and guessing would score below guessing.
    """
    labels = outcomes.labels
    if outcomes.multilabel:
        shares = (labels == 1).sum(axis=0) / np.maximum((labels >= 0).sum(axis=0), 1)
        commonest, constant = None, (shares > 0.5).astype(float)
    else:
        shares = np.bincount(labels, minlength=len(outcomes.classes)) / len(labels)
        commonest = outcomes.classes[int(shares.argmax())]
        constant = np.eye(len(outcomes.classes))[int(shares.argmax())]
    notes.add("none, as it gives no probabilities", "log_loss of majority_class")
    return {
        "majority_class": {
            "class": commonest,
            **_measure_constant(outcomes, constant, notes),
            "log_loss": None,
        },
        "prevalence": _measure_constant(outcomes, shares, notes),
    }


def _measure_constant(
    outcomes: Outcomes, probabilities: Floats, notes: Notes
) -> dict[str, float | None]:
    """Measure predictions that are the same for all images."""
    every = np.broadcast_to(probabilities, outcomes.probabilities.shape)
    constant = Outcomes(
        outcomes.labels, every, outcomes.persons, outcomes.classes, outcomes.positive
    )
    constant = replace(constant, plugged=outcomes.plugged)
    return {
        name: spell_number(value, f"{name} of the baselines", notes)
        for name, value in constant.measure().metrics.items()
    }


def _describe_levels(
    task: _Task, units: Mapping[str, Column], metrics: Mapping[str, Entry]
) -> dict[str, Any]:
    """Return the metrics of images, and of each larger unit."""
    outcomes = task.outcomes
    image = {"n": len(outcomes.labels), "persons": outcomes.people, "mixed": 0}
    levels: dict[str, Any] = {"series": None, "study": None}
    for name, column in units.items():
        if name != "person" and (column == "").any():
            task.notes.add("not measured, as it is not known of every image", f"level {name}")
        elif len(np.unique(column)) == len(column):
            levels[name] = {**image, "metrics": metrics, "note": f"every {name} has one image"}
        else:
            levels[name] = _describe_level(task, name, column)
    return {"image": {**image, "metrics": metrics, "note": ""}, **levels}


def _describe_level(task: _Task, name: str, column: Column) -> dict[str, Any] | None:
    joined, mixed = aggregate(task.outcomes, column, task.rule)
    if not len(joined.labels):
        task.notes.add("not measured, as the labels of each one's images differ", f"level {name}")
        return None
    notes = Notes()
    described = joined.estimate(task.seed, task.resamples).describe(notes)
    return {
        "n": len(joined.labels),
        "persons": joined.people,
        "mixed": mixed,
        "metrics": described,
        "note": "; ".join(notes.sentences()),
    }


def _describe_groups(task: _Task, by: str, column: Column) -> list[dict[str, Any]]:
    """Return the metrics of each value of a column; nothing where there is but one."""
    parts = sorted(gather_rows(column).items(), key=lambda part: (-len(part[1]), part[0]))
    if len(parts) < 2:
        return []
    rest = parts[_GROUPS:]
    if rest:
        joined = np.sort(np.concatenate([rows for _, rows in rest]))
        parts = [*parts[:_GROUPS], (f"{len(rest)} others", joined)]
    return [{"by": by, "value": value, **_describe_group(task, rows)} for value, rows in parts]


def _describe_group(task: _Task, rows: Rows) -> dict[str, Any]:
    part, notes, resamples = task.outcomes.take(rows), Notes(), task.resamples // 2
    if part.people < FEW_OF_A_GROUP:
        notes.add(f"no interval of fewer than {FEW_OF_A_GROUP} persons", f"{part.people} persons")
        resamples = 0
    held = part.labels == 1 if part.multilabel else part.labels[:, None] == range(len(part.classes))
    return {
        "images": len(part.labels),
        "persons": part.people,
        "classes": dict(zip(part.classes, held.sum(axis=0).tolist(), strict=True)),
        "metrics": part.estimate(task.seed, resamples).describe(notes),
        "note": "; ".join(notes.sentences()),
    }
