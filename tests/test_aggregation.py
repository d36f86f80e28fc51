"""From images to larger units: by the rule that was declared."""

from __future__ import annotations

import numpy as np
import pytest

from medkit.errors import UsageError
from medkit.statistics.aggregation import RULES, aggregate, check_rule
from medkit.statistics.outcomes import Outcomes

UNITS = np.array(["b", "a", "b", "a", "b"])
TOLD = np.array([0.9, 0.2, 0.6, 0.4, 0.3])


def make(labels: list[int]) -> Outcomes:
    persons = np.array(["q", "p", "q", "p", "q"])
    return Outcomes(np.array(labels), np.column_stack([1 - TOLD, TOLD]), persons, ["no", "yes"])


@pytest.mark.parametrize(
    ("rule", "a", "b"),
    [
        ("mean", 0.3, 0.6),
        ("median", 0.3, 0.6),
        ("max", 0.4, 0.9),
        ("vote", 0.0, 2 / 3),
        (
            "geometric",
            np.sqrt(0.08) / (np.sqrt(0.08) + np.sqrt(0.48)),
            np.cbrt(0.162) / (np.cbrt(0.162) + np.cbrt(0.028)),
        ),
    ],
)
def test_each_rule(rule: str, a: float, b: float) -> None:
    joined, mixed = aggregate(make([1, 0, 1, 0, 1]), UNITS, rule)
    assert joined.labels.tolist() == [0, 1]
    assert joined.persons.tolist() == ["p", "q"]
    np.testing.assert_allclose(joined.probabilities, [[1 - a, a], [1 - b, b]])
    assert mixed == 0


def test_a_unit_whose_images_differ_is_left_out_or_positive() -> None:
    outcomes = make([1, 0, 0, 0, 1])
    joined, mixed = aggregate(outcomes, UNITS, "mean")
    assert (joined.labels.tolist(), joined.persons.tolist(), mixed) == ([0], ["p"], 1)
    joined, mixed = aggregate(outcomes, UNITS, "max")
    assert (joined.labels.tolist(), mixed) == ([0, 1], 1)


def test_several_labels_are_joined_one_by_one() -> None:
    labels = np.array([[1, 0], [0, 0], [1, 1], [0, 0], [1, -1]])
    told = np.column_stack([TOLD, TOLD[::-1]])
    outcomes = Outcomes(labels, told, UNITS, ["x", "y"])
    joined, mixed = aggregate(outcomes, UNITS, "mean")
    assert joined.labels.tolist() == [[0, 0], [1, -1]]
    assert mixed == 1
    np.testing.assert_allclose(joined.probabilities, [[0.3, 0.3], [0.6, 0.6]])
    assert aggregate(outcomes, UNITS, "max")[0].labels.tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "max"])
def test_probabilities_of_three_classes_still_sum_to_one(rule: str) -> None:
    random = np.random.default_rng(0)
    units = random.integers(0, 10, 60)
    told = random.dirichlet([0.1, 0.1, 0.1], 60)
    outcomes = Outcomes(units % 3, told, units, ["a", "b", "c"])
    joined, _ = aggregate(outcomes, units, rule)
    np.testing.assert_allclose(joined.probabilities.sum(axis=1), 1)
    assert joined.labels.tolist() == (np.unique(units) % 3).tolist()


def test_what_is_no_rule_is_refused() -> None:
    with pytest.raises(UsageError, match="no rule 'best'"):
        check_rule("best", ["a", "b"])
    with pytest.raises(UsageError, match="two classes, and there are 3"):
        check_rule("max", ["a", "b", "c"])
