"""What the trials of a trainer show: asked for by the checks, refused where there is nothing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from medkit.statistics.metrics import auc
from medkit.testing.material import CLASSES
from medkit.testing.trials import OTHER, SEVERAL, WHOLE, Trial, Trials

Values = npt.NDArray[Any]

# What an image may differ by where others are predicted beside it, in units of the spread of all:
# libraries add up in an order that depends on how many there are.
ROUNDING = 1e-3
SUM = 1e-3  # as the host allows: float16 and bfloat16 are off by less
_WAYS = {
    "alone": "an image alone",
    "half": "every second image",
    "backwards": "all images in the opposite order",
}


class Broken(Exception):  # noqa: N818 - it is no error: it is what a check is there to find
    """A promise is not kept; the message says what was found."""


class Unasked(Exception):  # noqa: N818 - likewise
    """There was nothing to check; the message says why."""


def introduce(trials: Trials) -> dict[str, Any]:
    """Return what is known of the trainer once it is loaded and has options."""
    if "error" in trials.about:
        raise Unasked("it does not load")
    return trials.about


def make(trials: Trials, name: str) -> Trial:
    """Return a trial, if the trainer gets that far."""
    if "linear" not in introduce(trials):
        raise Unasked("its options cannot be read")
    trial: Trial = getattr(trials, name)
    return trial


def fitted(trials: Trials) -> Trial:
    """Return the trial of whole folds, if these two were finished."""
    trial = make(trials, "whole")
    if {None, WHOLE, OTHER} & set(trial.errors):
        raise Unasked("its fit failed, which 'fitting' tells of")
    return trial


def expect_done(trial: Trial, when: str, *folds: int) -> None:
    """Refuse a trial in which a fold, by default any, was not finished."""
    for fold, error in trial.errors.items():
        if fold is None or not folds or fold in folds:
            raise Broken(f"{when}it fails: {error}")


def list_predictions(trials: Trials) -> Iterator[tuple[Values, int]]:
    """Yield what was predicted of each fold, and how many images it has."""
    trial = fitted(trials)
    for fold in (WHOLE, OTHER):
        yield trial.predictions(fold), len(trials.divide(fold)["test"]["images"])


def expect_shape(values: Values, rows: int) -> Values:
    """Return probabilities that are of the right shape."""
    if values.shape != (rows, len(CLASSES)) or values.dtype.kind != "f":
        raise Broken(
            f"predict_proba gave shape {values.shape} of {values.dtype} for {rows} images and "
            f"{len(CLASSES)} classes; it must give floating-point numbers of shape "
            f"{(rows, len(CLASSES))}"
        )
    return values


def expect_finite(values: Values) -> None:
    """Refuse NaN and infinity."""
    wrong = int((~np.isfinite(values)).any(axis=1).sum()) if values.dtype.kind == "f" else 0
    if wrong:
        raise Broken(f"predict_proba gave NaN or infinity for {wrong} of {len(values)} images")


def expect_probabilities(values: Values, several: bool) -> None:
    """Refuse what are no probabilities; what is not finite is another check's."""
    values = values[np.isfinite(values).all(axis=1)].astype(np.float64)
    if values.size and (values.min() < -SUM or values.max() > 1 + SUM):
        raise Broken(
            f"predict_proba gave values from {values.min():g} to {values.max():g}; "
            "probabilities lie between 0 and 1"
        )
    sums = values.sum(axis=1)
    if not several and np.abs(sums - 1).max(initial=0) > SUM:
        raise Broken(
            f"predict_proba gave rows that sum to between {sums.min():g} and {sums.max():g}; "
            "the probabilities of an image sum to 1"
        )


def expect_fold(trials: Trials, when: str, fold: int, name: str = "whole") -> None:
    """Refuse a special fold whose probabilities are not what they have to be."""
    fitted(trials)
    trial = make(trials, name)
    expect_done(trial, when, fold)
    try:
        values = expect_shape(trial.predictions(fold), len(trials.divide(fold)["test"]["images"]))
        expect_finite(values)
        expect_probabilities(values, trials.several or fold == SEVERAL)
    except Broken as found:
        raise Broken(f"{when}{found}") from None


def find_asked(trials: Trials, of: str, how: str) -> dict[str, Any]:
    """Return how rows of predictions or of features differed when they were asked for otherwise."""
    fitted(trials)
    trial = make(trials, "reread")
    for note in trial.find("error", of=of, how=how):
        raise Broken(f"asked for {_WAYS[how]}, it fails: {note['error']}")
    notes = trial.find("asked-otherwise", of=of, how=how)
    if not notes:
        expect_done(trial, f"asked for {_WAYS[how]}, ")
        raise Unasked(f"no {of} were asked for")
    return notes[0]


def expect_same(trials: Trials, of: str, how: str) -> None:
    """Refuse rows that depend on what else is asked for."""
    note = find_asked(trials, of, how)
    if note["difference"] is None:
        raise Broken(
            f"asked for {_WAYS[how]} it gave {of} of shape {tuple(note['shape'])} for "
            f"{note['rows']} image(s), and of all images {tuple(note['whole'])}"
        )
    # Written so that NaN, which is another check's, is no difference.
    if note["difference"] > ROUNDING * note["spread"] + 1e-7:
        raise Broken(
            f"{of} of an image depend on which others it comes with: asked for {_WAYS[how]} they "
            f"differ by {note['difference']:.2g} where their spread is {note['spread']:.2g}"
        )


def measure_gap(first: Values, second: Values) -> float:
    """Return the largest difference between predictions; where both are NaN there is none."""
    if first.shape != second.shape:
        raise Broken(f"shapes differ: {first.shape} and {second.shape}")
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    gaps = np.abs(first.astype(np.float64) - second.astype(np.float64))[~same]
    return float(np.nan_to_num(gaps, nan=np.inf).max(initial=0.0))


def find_order(values: Values, labels: Values) -> tuple[tuple[int, ...], dict[Any, float]]:
    """Return the order of classes that probabilities fit best, and how well they fit each order.

    Parameters
    ----------
    values : ndarray, shape (n, classes)
    labels : ndarray of int64, shape (n,)

    Returns
    -------
    tuple of int
        The class of each column.
    dict
        The mean area under the curve of the columns, by order.
    """
    kinds = range(values.shape[1])
    areas = np.array([[auc(labels == kind, column) for kind in kinds] for column in values.T])
    ranks = {
        order: float(areas[np.arange(len(order)), order].mean()) for order in permutations(kinds)
    }
    return max(ranks, key=lambda order: ranks[order]), ranks


def count_work(trial: Trial) -> int:
    """Return how often the fit of the first fold told how far it is."""
    reports = trial.find("report", fold=WHOLE)
    return len([note for note in reports if note["kind"] != "returned"])


def count_units_after_stop(trial: Trial) -> int:
    """Return how many epochs or steps a fit told of after it knew that it was to stop.

    It knows once it has asked, or, if it never does, from the moment of the stop.
    """
    stops = [at for at, note in enumerate(trial.notes) if note["note"] == "stopped"]
    rest = trial.notes[stops[0] :] if stops else []
    knew = [at for at, note in enumerate(rest) if note["note"] == "asked" and note["answer"]]
    told = rest[knew[0] :] if knew else rest
    units = {
        kind: {note["unit"] for note in told if note.get("kind") == kind} - {None}
        for kind in ("facts", "progress", "looks")
    }
    return max(map(len, units.values()))
