"""Multinomial logistic regression on features, solved to its optimum.

    minimise over W, b:   mean of  -ln softmax(W x + b)[label]   +   strength / 2 * |W|^2

for standardised features x; of two classes W is one row, the difference between them. The mean
makes a strength mean the same for a part of the data as for the whole.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medkit.errors import TrainingError, WorkspaceError
from medkit.statistics.metrics import log_loss
from medkit.workspace import hash_file, read_json, write_beside, write_json

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer[Any]]
Features = npt.NDArray[np.floating[Any]]

STRENGTHS = tuple(10.0**power for power in range(-4, 3))
# Largest part of the gradient at which lbfgs stops: to choose a strength, and for the result.
_ROUGH, _TIGHT = 1e-5, 1e-8
_ITERATIONS = 20_000
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
        parts = [
            _softmax(features[rows] @ self.weights.T + self.bias) for rows in _blocks(features)
        ]
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
    ordered = sorted(map(float, strengths), reverse=True)
    with threadpool_limits(1, user_api="blas"):
        standard, mean, scale = _standardise(features)
        small, restore = _project(standard)
        notes: list[str] = []
        losses = {}
        if inner is None:
            strength = ordered[len(ordered) // 2]
            notes.append(f"strength {strength:g} was not chosen by inner folds: too few persons")
        else:
            losses = _try_strengths(small, labels, weights, inner, classes_count, ordered, notes)
            strength = min(losses, key=lambda tried: losses[tried])
        fit = _solver(small.astype(np.float64), labels, weights, classes_count, _TIGHT, notes)
        solved, bias = fit(strength)
        unscaled = restore(solved) / scale
    return LinearHead(unscaled, bias - unscaled @ mean, strength, losses, tuple(notes))


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
    """Return standardised features in float32, and the means and scales, in float64."""
    mean: Floats = np.mean(features, axis=0, dtype=np.float64)
    square = np.zeros_like(mean)
    for rows in _blocks(features):
        square += ((features[rows] - mean) ** 2).sum(axis=0)
    scale = np.sqrt(square / len(features))
    # What is left of a constant in float32 is rounding, which must not be blown up to 1.
    constant = scale <= np.abs(mean) * np.finfo(np.float32).eps
    scale = np.where(constant, 1.0, scale)
    standard = np.empty(features.shape, dtype=np.float32)
    for rows in _blocks(features):
        standard[rows] = np.where(constant, 0.0, (features[rows] - mean) / scale)
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


def _try_strengths(
    features: Features,
    labels: Ints,
    weights: Floats,
    inner: Ints,
    classes_count: int,
    strengths: Sequence[float],
    notes: list[str],
) -> dict[float, float]:
    """Return the log loss over all inner folds of each strength, the strongest first."""
    predicted = np.empty((len(strengths), len(labels), classes_count))
    for fold in np.unique(inner):
        held = inner == fold
        fit = _solver(features[~held], labels[~held], weights[~held], classes_count, _ROUGH, notes)
        for number, strength in enumerate(strengths):
            solved, bias = fit(strength)
            predicted[number, held] = _softmax(features[held] @ solved.T + bias)
    return {
        strength: float(log_loss(labels, probabilities, weights))
        for strength, probabilities in zip(strengths, predicted, strict=True)
    }


def _solver(
    features: Features,
    labels: Ints,
    weights: Floats,
    classes_count: int,
    tolerance: float,
    notes: list[str],
) -> Callable[[float], tuple[Floats, Floats]]:
    """Return a function of the strength that solves; each call starts where the last one ended."""
    from sklearn.linear_model import LogisticRegression

    present = np.unique(labels)
    model = LogisticRegression(tol=tolerance, max_iter=_ITERATIONS, warm_start=True)

    def fit(strength: float) -> tuple[Floats, Floats]:
        bias = np.full(classes_count, -np.inf)
        solved = np.zeros((classes_count, features.shape[1]))
        if len(present) == 1:
            bias[present] = 0.0
            return solved, bias
        # scikit-learn weighs a sum of losses against the penalty, this module the mean.
        model.set_params(C=1 / (strength * weights.sum()))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(features, labels, sample_weight=weights)
        notes.extend(f"strength {strength:g}: {warning.message}" for warning in caught)
        # Of two classes there is one row, for the second against the first.
        first = [np.zeros_like(model.coef_[0])] if len(present) == 2 else []
        solved[present] = [*first, *model.coef_]
        bias[present] = [*np.zeros(len(first)), *model.intercept_]
        return solved, bias

    return fit


def _softmax(logits: Floats) -> Floats:
    odds: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    return odds


def _blocks(features: Features) -> Iterator[slice]:
    """Yield rows a few at a time: features may be a memory map larger than memory."""
    return (slice(start, start + _BLOCK) for start in range(0, len(features), _BLOCK))
