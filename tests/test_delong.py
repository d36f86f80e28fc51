"""The AUC's standard error against its definition, pair by pair."""

from __future__ import annotations

import numpy as np
import pytest

from medkit.statistics.delong import estimate_area


def define(truth: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Obuchowski 1997, section 3, with every pair compared; groups of one: DeLong 1988."""
    true, false = scores[truth], scores[~truth]
    wins = (true[:, None] > false) + 0.5 * (true[:, None] == false)
    area = wins.mean()
    names = np.unique(groups)
    sums = [
        np.array([(part[side == name] - area).sum() for name in names])
        for part, side in (
            (wins.mean(axis=1), groups[truth]),
            (wins.mean(axis=0), groups[~truth]),
        )
    ]
    m, n = len(true), len(false)
    held = [len(np.unique(groups[side])) for side in (truth, ~truth)]
    squares = [
        count / ((count - 1) * size) * (part**2).sum()
        for count, size, part in zip(held, (m, n), sums, strict=True)
    ]
    shared = len(names) / (len(names) - 1) * (sums[0] * sums[1]).sum()
    variance = squares[0] / m + squares[1] / n + 2 * shared / (m * n)
    return float(area), float(np.sqrt(variance))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("images", [1, 4])
def test_it_equals_the_definition(seed: int, images: int) -> None:
    random = np.random.default_rng(seed)
    truth = random.random(120) < 0.4
    scores = (random.normal(size=120) + truth).round(1)  # many ties
    groups = np.arange(120) // images
    found = estimate_area(truth, scores, groups)
    assert found is not None
    assert found == pytest.approx(define(truth, scores, groups), abs=1e-9)


def test_without_groups_it_is_delongs() -> None:
    """The variance by DeLong's own formula: of both placements, each by its number."""
    random = np.random.default_rng(3)
    truth, scores = random.random(90) < 0.5, random.random(90)
    wins = scores[truth][:, None] > scores[~truth]
    parts = [wins.mean(axis=axis) for axis in (1, 0)]
    variance = sum(part.var(ddof=1) / len(part) for part in parts)
    found = estimate_area(truth, scores)
    assert found is not None
    assert found.standard_error == pytest.approx(np.sqrt(variance), abs=1e-9)


def test_copies_of_an_image_add_nothing_where_they_are_one_persons() -> None:
    random = np.random.default_rng(4)
    truth, scores = random.random(60) < 0.5, random.random(60)
    copied = [np.repeat(values, 5) for values in (truth, scores, np.arange(60))]
    alone, together = estimate_area(truth, scores), estimate_area(*copied)
    assert alone is not None
    assert together is not None
    assert together == pytest.approx(alone)
    apart = estimate_area(*copied[:2])
    assert apart is not None
    assert apart.standard_error < alone.standard_error / 2


@pytest.mark.parametrize("truth", [[True] * 4, [False] * 4, [True, True, False, False]])
def test_too_few_persons_have_none(truth: list[bool]) -> None:
    assert estimate_area(np.array(truth), np.arange(4.0), np.array([0, 0, 1, 1])) is None
