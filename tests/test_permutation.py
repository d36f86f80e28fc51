"""The permutation test: what it deals out, and what it calls luck."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkit.statistics.outcomes import Outcomes
from medkit.statistics.permutation import _deal, permute, score


def make(labels: np.ndarray, persons: np.ndarray, seed: int = 0, skill: float = 0.0) -> Outcomes:
    """Predictions that know so much of the labels."""
    random = np.random.default_rng(seed)
    chance = 1 / (1 + np.exp(-random.normal(size=len(labels)) - skill * (2 * labels - 1)))
    return Outcomes(labels, np.column_stack([1 - chance, chance]), persons, ["no", "yes"])


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=3), min_size=1, max_size=8))
def test_whole_persons_exchange_their_labels(held: list[list[int]]) -> None:
    persons = np.repeat(np.arange(len(held)), [len(labels) for labels in held])
    labels = np.concatenate(held)
    rows = np.concatenate(list(_deal(labels, persons, 20, np.random.default_rng(0))))
    for dealt in rows:
        assert describe(dealt, persons) == describe(labels, persons)
        assert is_single(dealt, persons) == is_single(labels, persons)


def is_single(labels: np.ndarray, persons: np.ndarray) -> list[bool]:
    return [len(set(labels[persons == person])) == 1 for person in np.unique(persons)]


def describe(labels: np.ndarray, persons: np.ndarray) -> list[list[int]]:
    """What persons hold, whoever holds it: one label, or several in order."""
    held = [labels[persons == person].tolist() for person in np.unique(persons)]
    return sorted(one[:1] if len(set(one)) == 1 else one for one in held)


def test_scores_are_the_metrics_of_the_labels_that_are_dealt() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 60)
    told = random.dirichlet(np.ones(3), 60).round(2)
    outcomes = Outcomes(labels, told, np.arange(60), ["a", "b", "c"])
    rows = np.stack([labels, random.permutation(labels)])
    found = score(outcomes, np.arange(3), rows)
    for number, dealt in enumerate(rows):
        expected = Outcomes(dealt, told, np.arange(60), ["a", "b", "c"]).measure().metrics
        for name, values in found.items():
            assert values[number] == pytest.approx(expected[name], abs=1e-12)


def test_skill_is_told_from_luck() -> None:
    persons = np.repeat(np.arange(60), 3)
    labels, folds = persons % 2, persons % 5
    skilled = permute(make(labels, persons, skill=1.0), folds, 499, 0, "auc")
    assert skilled["p"] == pytest.approx(1 / 500)
    assert skilled["null"]["mean"] == pytest.approx(0.5, abs=0.02)
    assert skilled["value"] > skilled["null"]["high"]
    lucky = permute(make(labels, persons), folds, 499, 0, "auc")
    assert lucky["p"] > 0.05


def test_images_of_a_person_that_are_alike_are_no_skill() -> None:
    """Scores that are one for a person: dealing labels of images would call many of them skill."""
    persons = np.repeat(np.arange(40), 10)
    called = {"person": 0, "image": 0}
    for seed in range(60):
        random = np.random.default_rng(seed)
        chance = random.random(40)[persons]
        labels = random.permutation(np.arange(40) % 2)[persons]
        for unit, names in (("person", persons), ("image", np.arange(400))):
            told = Outcomes(labels, np.column_stack([1 - chance, chance]), names, ["no", "yes"])
            found = permute(told, np.zeros(400), 99, seed, "auc", spread=1.0)
            called[unit] += found["p"] <= 0.05
    assert called["person"] <= 8  # of 60 in 5 %: more in less than 1 of 100 cases
    assert called["image"] >= 15


def test_the_same_seed_gives_the_same_whatever_the_order_of_the_rows() -> None:
    persons = np.repeat([f"p{number:02}" for number in range(20)], 2)
    labels = np.repeat(np.arange(20) % 2, 2)
    outcomes, folds = make(labels, persons, skill=0.3), np.repeat(np.arange(20) % 4, 2)
    order = np.lexsort((np.arange(40), np.random.default_rng(0).permutation(20).repeat(2)))
    first = permute(outcomes, folds, 50, 1, "auc")
    second = permute(outcomes.take(order), folds[order], 50, 1, "auc")
    assert first["p"] == second["p"]
    assert first["value"] == pytest.approx(second["value"], abs=1e-12)
