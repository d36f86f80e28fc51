"""Multinomial logistic regressions on the same images, solved side by side to their optima.

    minimise over W, b:   sum of  weight * -ln softmax(W x + b)[label]   +   strength / 2 * |W|^2

with weights that sum to 1. Of two classes W is one row, the difference between them.

They differ in their weights (0 leaves an image out) and in their strengths. What they share is how
the features vary together, and that is what makes such a problem slow to solve: a few directions
vary a hundred times as much as others. So each is solved in coordinates in which the strongest
directions (Halko, Martinsson and Tropp 2011, SIAM Review 53:217) vary like the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from medkit.statistics.descent import minimise

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
Rows = npt.NDArray[np.intp]

_DIRECTIONS = 32
_PASSES = 3
# About how much the loss curves along a variance of 1: a fourth at most (Böhning 1992, Ann. Inst.
# Stat. Math. 44:197), and less the surer the predictions are.
_CURVATURE = 0.1
# Images at a time, and numbers in the memory of the solver at a time.
_BLOCK = 4096
_ROOM = 2**25


def solve(
    features: Floats,
    labels: Ints,
    classes_count: int,
    weights: Floats,
    strengths: Floats,
    *,
    tolerance: float,
    most: int,
    start: Floats | None = None,
) -> tuple[Floats, Floats]:
    """Solve several problems on the same images.

    Parameters
    ----------
    features : ndarray, shape (n, d)
        Standardised; float32 or float64, and so is all that is computed but sums.
    labels : ndarray of int, shape (n,)
        0 to ``classes_count`` - 1, of two classes or more.
    weights : ndarray, shape (p, n)
        Of the images in each problem; they are divided by their sum.
    strengths : ndarray, shape (p,)
        Positive.
    tolerance : float
        How far, in mean loss, each may be from its optimum: |gradient|² / (2 strength) is a bound
        on that, as the penalty makes the objective curve so much in every direction but that of
        the bias, of which it is estimated.
    most : int
        Steps at most.
    start : ndarray, shape (p, rows, d + 1), optional
        Where to begin, 0 by default.

    Returns
    -------
    points : ndarray, shape (p, rows, d + 1)
        A row a class, of two classes one; the last column is the bias.
    gaps : ndarray, shape (p,)
        The bounds that were reached.
    """
    rows = 1 if classes_count == 2 else classes_count
    shape = (len(strengths), rows, features.shape[1] + 1)
    points = np.zeros(shape, features.dtype) if start is None else start.astype(features.dtype)
    gaps = np.empty(len(points))
    ones = np.ones((len(features), 1), features.dtype)
    table, metric = np.hstack([features, ones]), _find_metric(features)
    share = max(1, _ROOM // (rows * shape[2] * 20))
    for first in range(0, len(points), share):
        part = slice(first, first + share)
        problems = _Problems(
            table, labels, weights[part].astype(features.dtype), strengths[part], rows, metric
        )
        points[part], gaps[part] = problems.solve(points[part], tolerance, most)
    return points, gaps


def softmax(logits: Floats) -> Floats:
    """Return probabilities; classes are the last axis."""
    odds: Floats = np.exp(logits - logits.max(axis=-1, keepdims=True))
    odds /= odds.sum(axis=-1, keepdims=True)
    return odds


@dataclass(frozen=True, eq=False)
class _Metric:
    """The strongest directions of features, and how much they vary along these and elsewhere."""

    directions: Floats  # (d, k), orthonormal
    variances: Floats  # (k,)
    rest: float

    def scale(self, points: Floats, strengths: Floats, power: float) -> Floats:
        """Multiply points (p, rows, d + 1) by a power of about the curvature of their problems."""
        penalty = strengths[:, np.newaxis, np.newaxis].astype(points.dtype)
        base = (_CURVATURE * self.rest + penalty) ** power
        extra = (_CURVATURE * self.variances + penalty) ** power - base
        inner = points[..., :-1]
        scaled = np.empty_like(points)
        scaled[..., :-1] = base * inner
        scaled[..., :-1] += (extra * (inner @ self.directions)) @ self.directions.T
        scaled[..., -1] = _CURVATURE**power * points[..., -1]
        return scaled


def _find_metric(features: Floats) -> _Metric:
    count, width = features.shape
    rank = min(_DIRECTIONS, count, width)
    random = np.random.default_rng(0)
    found = random.normal(size=(width, rank)).astype(features.dtype)
    for _ in range(_PASSES):
        found = np.linalg.qr(features.T @ (features @ found))[0]
    seen = features @ found
    variances, turn = np.linalg.eigh(seen.T @ seen / count)
    total = float(np.einsum("nd,nd->", features, features, dtype=np.float64)) / count
    left = max(total - float(variances.sum()), 0.0) / max(min(count, width) - rank, 1)
    return _Metric(found @ turn, np.maximum(variances, 0), left)


@dataclass(frozen=True, eq=False)
class _Problems:
    """Several problems, as `minimise` asks for them: a point a problem, in scaled coordinates."""

    table: Floats  # (n, d + 1), the last column 1
    labels: Ints
    weights: Floats
    strengths: Floats
    rows: int
    metric: _Metric

    def solve(self, start: Floats, tolerance: float, most: int) -> tuple[Floats, Floats]:
        scaled = self.metric.scale(start, self.strengths, 0.5).reshape(len(start), -1)
        found, gaps = minimise(self.evaluate, scaled, tolerance=tolerance, most=most)
        return self._restore(found, np.arange(len(start))), gaps

    def evaluate(self, scaled: Floats, which: Rows) -> tuple[Floats, Floats, Floats]:
        points, strengths = self._restore(scaled, which), self.strengths[which]
        penalised = points[..., :-1].astype(np.float64)
        penalties = strengths / 2 * np.einsum("prd,prd->p", penalised, penalised)
        values = np.zeros(len(which))
        gradients = strengths[:, np.newaxis, np.newaxis].astype(points.dtype) * points
        gradients[..., -1] = 0
        # A row a class and problem: so classes are apart, and problems beside each other.
        flat = points.swapaxes(0, 1).reshape(-1, points.shape[-1])
        for first in range(0, len(self.table), _BLOCK):
            rows = slice(first, first + _BLOCK)
            logits = (self.table[rows] @ flat.T).reshape(-1, self.rows, len(which))
            losses, residuals = _compare(logits, self.labels[rows])
            shares = self._shares[rows, which]
            values += np.einsum("np,np->p", losses, shares, dtype=np.float64)
            residuals *= shares[:, np.newaxis]
            found = residuals.reshape(len(shares), -1).T @ self.table[rows]
            gradients += found.reshape(self.rows, len(which), -1).swapaxes(0, 1)
        gaps = _bound(gradients, strengths, values)
        values += penalties
        return values, self.metric.scale(gradients, strengths, -0.5).reshape(scaled.shape), gaps

    @cached_property
    def _shares(self) -> Floats:
        shares: Floats = (self.weights / self.weights.sum(axis=1, keepdims=True)).T
        return np.ascontiguousarray(shares)

    def _restore(self, scaled: Floats, which: Rows) -> Floats:
        points = scaled.reshape(len(scaled), self.rows, -1)
        return self.metric.scale(points, self.strengths[which], -0.5)


def _bound(gradients: Floats, strengths: Floats, losses: Floats) -> Floats:
    """Return how far the problems may be from their optima.

    The bias has no penalty, but the loss curves along it: by p (1 - p) an image, which is about
    the loss where that is little.
    """
    squares = gradients.astype(np.float64) ** 2
    inner, bias = squares[..., :-1].sum(axis=(1, 2)), squares[..., -1].sum(axis=1)
    curvature = np.minimum(strengths, np.maximum(losses / 4, np.finfo(np.float64).tiny))
    bound: Floats = inner / strengths + bias / curvature  # twice that, as the two act together
    return bound


def _compare(logits: Floats, labels: Ints) -> tuple[Floats, Floats]:
    """Return losses (n, p) and probabilities less what they should be, (n, rows, p)."""
    if logits.shape[1] == 1:
        return _compare_two(logits, labels)
    logits -= logits.max(axis=1, keepdims=True)
    images = np.arange(len(labels))
    given = logits[images, labels]
    odds = np.exp(logits, out=logits)
    total = odds.sum(axis=1)
    odds /= total[:, np.newaxis]
    odds[images, labels] -= 1
    return np.log(total) - given, odds


def _compare_two(logits: Floats, labels: Ints) -> tuple[Floats, Floats]:
    signs = (1 - 2 * labels).astype(logits.dtype)[:, np.newaxis, np.newaxis]
    wrong = logits * signs  # positive where the other class is more probable
    odds = np.exp(-np.abs(wrong))
    losses = np.log1p(odds) + np.maximum(wrong, 0)
    chances = np.where(wrong > 0, 1, odds) / (1 + odds)
    return losses[:, 0], chances * signs
