"""Many smooth convex problems of one shape, minimised side by side.

L-BFGS (Liu and Nocedal 1989, Math. Program. 45:503) with a backtracking line search, a step of
all problems at a time: what they share is then read once a step for all of them, and products of
a matrix and many vectors become one product of matrices.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Rows = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]
# Takes points (p, d) and which problems they are of; returns the values (p,) in float64, the
# gradients (p, d), and how far each may be from its optimum (p,).
Evaluate = Callable[[Floats, Rows], tuple[Floats, Floats, Floats]]

_MEMORY = 10
_HALVINGS = 30
_DECREASE = 1e-4
_CROWD = 0.75


@dataclass(frozen=True)
class _State:
    """Problems under way: where they are, and their last steps."""

    which: Rows
    points: Floats
    values: Floats
    gradients: Floats
    gaps: Floats
    steps: deque[tuple[Floats, Floats, Floats]] = field(
        default_factory=lambda: deque(maxlen=_MEMORY)
    )

    def take(self, kept: Any) -> _State:
        steps = deque([(s[kept], y[kept], rho[kept]) for s, y, rho in self.steps], _MEMORY)
        return _State(
            self.which[kept],
            self.points[kept],
            self.values[kept],
            self.gradients[kept],
            self.gaps[kept],
            steps,
        )


def minimise(
    evaluate: Evaluate, start: Floats, *, tolerance: float, most: int
) -> tuple[Floats, Floats]:
    """Minimise convex functions, each by itself.

    Parameters
    ----------
    evaluate : callable
        Takes points (p, d) and which problems they are of; returns values (p,) in float64,
        gradients (p, d), and how far each may be from its optimum (p,).
    start : ndarray, shape (problems, d)
    tolerance : float
        Problems that are no further than this from their optimum are finished.
    most : int
        Steps at most.

    Returns
    -------
    points : ndarray, shape (problems, d)
    gaps : ndarray, shape (problems,)
        How far each may be from its optimum; beyond the tolerance where it did not converge.
    """
    points, gaps = start.copy(), np.empty(len(start))
    every = np.arange(len(start))
    state = _State(every, start, *evaluate(start, every))
    for _ in range(most):
        moving = state.gaps > tolerance
        if not moving.any():
            break
        ahead = _step(evaluate, state, moving)
        # One that is not finished and does not move is where its last bits allow no more.
        moving &= (ahead.points != state.points).any(axis=1)
        state = ahead
        # The others stay a while where they are: to leave them out copies those that move.
        if moving.mean() < _CROWD:
            points[state.which], gaps[state.which] = state.points, state.gaps
            state = state.take(moving)
    points[state.which], gaps[state.which] = state.points, state.gaps
    return points, gaps


def _step(evaluate: Evaluate, state: _State, moving: Mask) -> _State:
    ahead = _search(evaluate, state, _choose_directions(state), moving)
    step, change = ahead.points - state.points, ahead.gradients - state.gradients
    curvature = _dot(step, change)
    # A step without curvature says nothing of the function; a weight of 0 leaves it out.
    rho = np.divide(1, curvature, where=curvature > 0, out=np.zeros_like(curvature))
    ahead.steps.append((step, change, rho))
    return ahead


def _choose_directions(state: _State) -> Floats:
    """Return minus the gradients, times what the last steps tell of the inverse curvature."""
    turned, shares = state.gradients.copy(), []
    for step, change, rho in reversed(state.steps):
        shares.append(rho * _dot(step, turned))
        turned -= shares[-1][:, np.newaxis] * change
    if state.steps:
        _, change, rho = state.steps[-1]
        size = rho * _dot(change, change)
        turned *= np.divide(1, size, where=size > 0, out=np.ones_like(size))[:, np.newaxis]
    for (step, change, rho), share in zip(state.steps, reversed(shares), strict=True):
        turned += (share - rho * _dot(change, turned))[:, np.newaxis] * step
    uphill = _dot(turned, state.gradients) <= 0
    turned[uphill] = state.gradients[uphill]
    return -turned


def _search(evaluate: Evaluate, state: _State, directions: Floats, moving: Mask) -> _State:
    """Return the problems after a step each, halved until the value falls enough."""
    ahead = replace(
        state,
        **{name: getattr(state, name).copy() for name in ("points", "values", "gradients", "gaps")},
    )
    slopes = _dot(directions, state.gradients)
    # By how much a value can be wrong in its last bits.
    blur = np.finfo(state.points.dtype).eps * np.abs(state.values)
    left, size = np.flatnonzero(moving), 1.0
    for _ in range(_HALVINGS):
        points = state.points[left] + size * directions[left]
        values, gradients, gaps = evaluate(points, state.which[left])
        fits = values <= state.values[left] + _DECREASE * size * slopes[left] + blur[left]
        taken = left[fits]
        ahead.points[taken], ahead.values[taken] = points[fits], values[fits]
        ahead.gradients[taken], ahead.gaps[taken] = gradients[fits], gaps[fits]
        left, size = left[~fits], size / 2
        if not len(left):
            break
    return ahead


def _dot(first: Floats, second: Floats) -> Floats:
    product: Floats = np.einsum("pd,pd->p", first, second)
    return product
