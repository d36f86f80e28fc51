"""Multinomial logistic regression on features, solved to its optimum.

    minimise over W, b:   mean of  -ln softmax(W x + b)[label]   +   strength / 2 * |W|^2

for standardised features x; of two classes W is one row, the difference between them. The mean
makes a strength mean the same for a part of the data as for the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medkit.errors import TrainingError, WorkspaceError
from medkit.statistics.logistic import softmax, solve
from medkit.statistics.metrics import log_loss
from medkit.workspace import hash_file, read_json, write_beside, write_json

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer[Any]]
Features = npt.NDArray[np.floating[Any]]

STRENGTHS = tuple(10.0 ** (step / 2) for step in range(-8, 4))
# How far, in mean loss, a solution may be from its optimum: to choose a strength (in float32), and
# the result (in float64).
_ROUGH, _TIGHT = 1e-6, 1e-13
_ITERATIONS = 20_000
_TOLD = 1e-5  # nats: no number that is shown would be another one for less
_BLOCK = 2048
_ARRAYS = ("weights", "bias")
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A solved multinomial logistic regression.

    Attributes
    ----------
    weights : ndarray, shape (c, d)
        For features as they come, not standardised.
    bias : ndarray, shape (c,)
        Minus infinity for a class without an image in training: its probability is 0.
    strength : float
        Of the regularisation, as chosen.
    losses : dict of float to float
        Log loss over the inner folds, in nats, of each strength that was tried.
    notes : tuple of str
        What a reader should know: no inner folds, no convergence.
    """

    weights: Floats
    bias: Floats
    strength: float
    losses: dict[float, float]
    notes: tuple[str, ...]

    def predict_proba(self, features: Features) -> Floats:
        """Return probabilities, shape (n, c), rows summing to 1; features have shape (n, d)."""
        if features.ndim != 2 or features.shape[1] != self.weights.shape[1]:
            raise TrainingError(
                f"this head takes features of shape (n, {self.weights.shape[1]}), "
                f"and was given {features.shape}"
            )
        parts = [softmax(features[rows] @ self.weights.T + self.bias) for rows in _blocks(features)]
        return np.concatenate(parts)

    def save(self, folder: Path) -> None:
        """Write ``head.json`` and ``.npy`` files; nothing is pickled."""
        for name in _ARRAYS:
            with write_beside(folder / f"{name}.npy") as beside, beside.open("wb") as handle:
                np.save(handle, getattr(self, name), allow_pickle=False)
        content = {
            "format": _FORMAT,
            "strength": self.strength,
            "losses": [[strength, loss] for strength, loss in self.losses.items()],
            "notes": list(self.notes),
            "sha256": {name: hash_file(folder / f"{name}.npy") for name in _ARRAYS},
        }
        write_json(folder / "head.json", content)

    @classmethod
    def load(cls, folder: Path) -> LinearHead:
        """Read what `save` wrote.

        Raises
        ------
        TrainingError
            If it is missing, or not what its hashes say.
        """
        try:
            content = read_json(folder / "head.json")
            for name in _ARRAYS:
                if hash_file(folder / f"{name}.npy") != content["sha256"][name]:
                    raise TrainingError(f"{folder / name}.npy is not what was saved")
            return cls(
                **{name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in _ARRAYS},
                strength=content["strength"],
                losses=dict(content["losses"]),
                notes=tuple(content["notes"]),
            )
        except (WorkspaceError, OSError, KeyError, TypeError, ValueError) as error:
            raise TrainingError(f"{folder} holds no linear head: {error}") from None


def fit_linear(
    features: Features,
    labels: Ints,
    groups: npt.NDArray[Any],
    classes_count: int,
    *,
    inner: Ints | None,
    strengths: Sequence[float] = STRENGTHS,
    weights: npt.ArrayLike | None = None,
) -> LinearHead:
    """Standardise, choose the strength by inner folds, and solve.

    Deterministic, with one BLAS thread. The inner folds choose the strength and nothing else,
    and share the standardisation of the whole training part, which knows no label.

    Parameters
    ----------
    features : ndarray, shape (n, d)
        Of the training part alone. One that does not vary gets the weight 0.
    labels : ndarray of int, shape (n,)
        0 to ``classes_count`` - 1.
    groups : ndarray, shape (n,)
        Persons.
    classes_count : int
        Columns of the predictions.
    inner : ndarray of int, shape (n,), or None
        Inner fold of each image, as `medkit.cohort.folds.make_inner_folds` makes them. None
        where a class has too few persons for two of them: then the middle one of ``strengths``
        is used untried, and the head's notes say so.
    strengths : sequence of float
        To choose from by log loss; the stronger one where they tie.
    weights : array_like, shape (n,), optional
        Of the images, 1 by default.

    Raises
    ------
    TrainingError
        If features are not finite, shapes do not fit, or a person is in two inner folds.
    """
    from threadpoolctl import threadpool_limits

    labels = np.asarray(labels)
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    _check(features, labels, groups, inner)
    ordered = np.array(sorted(map(float, strengths), reverse=True))
    present, inside = np.unique(labels, return_inverse=True)
    bias = np.full(classes_count, -np.inf)
    solved = np.zeros((classes_count, features.shape[1]))
    if len(present) == 1:
        bias[present] = 0.0
        note = "there is one class only, and nothing to tell it from"
        return LinearHead(solved, bias, float(ordered[0]), {}, (note,))
    with threadpool_limits(1, user_api="blas"):
        standard, mean, scale = _standardise(features)
        small, restore = _project(standard)
        choice = _choose(small, inside, weights, inner, len(present), ordered)
        start = None if choice.point is None else choice.point[np.newaxis]
        (point,), gaps = solve(
            small.astype(np.float64),
            inside,
            len(present),
            weights[np.newaxis],
            np.array([choice.strength]),
            tolerance=_TIGHT,
            most=_ITERATIONS,
            start=start,
        )
        solved[present] = _fill_rows(restore(point[:, :-1]) / scale)
    bias[present] = _fill_rows(point[:, -1:])[:, 0] - solved[present] @ mean
    notes = (*choice.notes, *_note_gaps([choice.strength], gaps))
    return LinearHead(solved, bias, choice.strength, choice.losses, notes)


def _check(features: Features, labels: Ints, groups: npt.NDArray[Any], inner: Ints | None) -> None:
    if features.ndim != 2 or not len(labels) == len(groups) == len(features) > 0:
        raise TrainingError(
            f"{len(labels)} labels and {len(groups)} persons need as many rows of features; "
            f"the array has the shape {features.shape}"
        )
    broken = sum(
        int((~np.isfinite(features[rows])).any(axis=1).sum()) for rows in _blocks(features)
    )
    if broken:
        raise TrainingError(f"the features of {broken} of {len(features)} images are not finite")
    if inner is not None:
        pairs = np.unique(np.stack([np.unique(groups, return_inverse=True)[1], inner]), axis=1)
        if pairs.shape[1] > len(np.unique(groups)):
            raise TrainingError("a person is in two inner folds, so a choice by them would leak")


def _standardise(features: Features) -> tuple[npt.NDArray[np.float32], Floats, Floats]:
    """Return standardised features in float32, and the means and scales, in float64.

    The scale of a constant is infinite: it becomes 0, and so does its weight.
    """
    mean: Floats = np.mean(features, axis=0, dtype=np.float64)
    square = np.zeros_like(mean)
    for rows in _blocks(features):
        square += ((features[rows] - mean) ** 2).sum(axis=0)
    scale = np.sqrt(square / len(features))
    # What is left of a constant in float32 is rounding, which must not be blown up to 1.
    constant = scale <= np.abs(mean) * np.finfo(np.float32).eps
    scale = np.where(constant, np.inf, scale)
    standard = np.empty(features.shape, dtype=np.float32)
    for rows in _blocks(features):
        standard[rows] = (features[rows] - mean) / scale
    return standard, mean, scale


def _project(
    standard: npt.NDArray[np.float32],
) -> tuple[Features, Callable[[Floats], Floats]]:
    """Return equivalent features, fewer if the images are few, and the way back for weights.

    The optimum lies in the span of the images, as any part of W across it would only add to the
    penalty. In an orthonormal basis of that span the problem is the same, with n columns
    instead of d.
    """
    count, width = standard.shape
    if 2 * count > width:
        return standard, lambda solved: solved
    gram = np.zeros((count, count))
    for start in range(0, width, _BLOCK):
        block = standard[:, start : start + _BLOCK].astype(np.float64)
        gram += block @ block.T
    values, vectors = np.linalg.eigh(gram)
    kept = values > values[-1] * count * np.finfo(np.float64).eps
    lengths = np.sqrt(values[kept])
    vectors = vectors[:, kept]

    def restore(solved: Floats) -> Floats:
        by_image = (solved / lengths) @ vectors.T
        parts = [
            by_image @ standard[:, start : start + _BLOCK].astype(np.float64)
            for start in range(0, width, _BLOCK)
        ]
        return np.concatenate(parts, axis=1)

    return vectors * lengths, restore


@dataclass(frozen=True)
class _Choice:
    """The strength that the inner folds chose, and how each did."""

    strength: float
    losses: dict[float, float]
    notes: tuple[str, ...]
    point: Features | None  # the mean solution over the inner folds


def _choose(
    features: Features,
    labels: Ints,
    weights: Floats,
    inner: Ints | None,
    classes_count: int,
    strengths: Floats,
) -> _Choice:
    """Solve every strength on every inner fold, side by side, and take that of the least loss."""
    if inner is None:
        strength = float(strengths[len(strengths) // 2])
        note = f"strength {strength:g} was not chosen by inner folds: too few persons"
        return _Choice(strength, {}, (note,), None)
    folds = np.unique(inner)
    parts = np.where(inner == folds[:, np.newaxis], 0.0, weights)
    found, gaps = solve(
        features,
        labels,
        classes_count,
        np.repeat(parts, len(strengths), axis=0),
        np.tile(strengths, len(folds)),
        tolerance=_ROUGH,
        most=_ITERATIONS,
    )
    points = found.reshape(len(folds), len(strengths), *found.shape[1:])
    predicted = np.empty((len(strengths), len(labels), classes_count))
    for number, fold in enumerate(folds):
        held = inner == fold
        predicted[:, held] = _predict(features[held], points[number])
    losses = [float(log_loss(labels, probabilities, weights)) for probabilities in predicted]
    best = int(np.argmin(losses))  # the first, and so the strongest, where they tie
    notes = _note_gaps(strengths, gaps.reshape(len(folds), -1).max(axis=0))
    by_strength = dict(zip(strengths.tolist(), losses, strict=True))
    return _Choice(float(strengths[best]), by_strength, notes, points[:, best].mean(axis=0))


def _predict(features: Features, points: Features) -> Features:
    """Return the probabilities (p, n, classes) by solutions (p, rows, d + 1)."""
    logits = features @ points[..., :-1].swapaxes(1, 2) + points[:, np.newaxis, :, -1]
    return softmax(_fill_rows(logits.swapaxes(1, 2)).swapaxes(1, 2))


def _fill_rows(rows: Features) -> Features:
    """Return a row a class (second last axis): of two classes, the first one is 0."""
    return rows if rows.shape[-2] > 1 else np.concatenate([np.zeros_like(rows), rows], axis=-2)


def _note_gaps(strengths: Iterable[float], gaps: Iterable[float]) -> tuple[str, ...]:
    return tuple(
        f"strength {strength:g} did not converge: it may be {gap:.1g} nats from its optimum"
        for strength, gap in zip(strengths, gaps, strict=True)
        if gap > _TOLD
    )


def _blocks(features: Features) -> Iterator[slice]:
    """Yield rows a few at a time: features may be a memory map larger than memory."""
    return (slice(start, start + _BLOCK) for start in range(0, len(features), _BLOCK))
