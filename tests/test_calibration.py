"""Calibration and thresholds: against a fine grid, and against every other threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkit.errors import UsageError
from medkit.statistics.calibration import (
    LEAST,
    MOST,
    apply_temperature,
    cross_fit,
    fit_temperature,
    measure_calibration,
)
from medkit.statistics.metrics import expected_calibration_error, log_loss
from medkit.statistics.reliability import BINS, bin_probabilities, calibration_error
from medkit.statistics.thresholds import check_rule, choose_point

seeds = st.integers(0, 2**32 - 1)


def draw(seed: int, images: int = 400, classes: int = 3, sharpness: float = 1.0) -> tuple[Any, Any]:
    """Return labels drawn from probabilities, and these made sharper by a power."""
    random = np.random.default_rng(seed)
    honest = random.dirichlet(np.ones(classes), images)
    labels = (honest.cumsum(axis=1) < random.random((images, 1))).sum(axis=1)
    told = honest**sharpness
    return np.minimum(labels, classes - 1), told / told.sum(axis=1, keepdims=True)


@given(seeds, st.floats(0.4, 3), st.integers(2, 5))
def test_no_temperature_of_a_fine_grid_has_less_log_loss(
    seed: int, sharpness: float, classes: int
) -> None:
    labels, told = draw(seed, classes=classes, sharpness=sharpness)
    found = fit_temperature(labels, told)
    assert not found.note
    best = float(log_loss(labels, apply_temperature(told, found.value)))
    for factor in np.geomspace(1 / MOST, 1 / LEAST, 100):
        assert best <= float(log_loss(labels, apply_temperature(told, 1 / factor))) + 1e-9


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.0])
def test_the_temperature_undoes_what_made_predictions_too_sure(sharpness: float) -> None:
    labels, told = draw(0, images=40_000, sharpness=sharpness)
    found = fit_temperature(labels, told).value
    assert found == pytest.approx(sharpness, rel=0.03)
    before, after = (
        measure_calibration(labels, some) for some in (told, apply_temperature(told, found))
    )
    if sharpness != 1:
        assert after["ece"] < before["ece"] / 3
        assert after["log_loss"] < before["log_loss"]
        assert after["brier"] < before["brier"]


@given(seeds, st.floats(LEAST, MOST), st.integers(2, 5))
def test_calibration_changes_no_order_and_keeps_sums(
    seed: int, temperature: float, classes: int
) -> None:
    _, told = draw(seed, classes=classes)
    calibrated = apply_temperature(told, temperature)
    np.testing.assert_allclose(calibrated.sum(axis=1), 1)
    chosen = calibrated[np.arange(len(told)), told.argmax(axis=1)]
    np.testing.assert_allclose(chosen, calibrated.max(axis=1))
    assert (apply_temperature(told, 1.0) == told).all()


def test_there_is_no_temperature_without_a_wrong_prediction() -> None:
    found = fit_temperature(np.array([0, 1]), np.array([[0.6, 0.4], [0.1, 0.9]]))
    assert found.value == 1
    assert "nothing to fit" in found.note


def test_what_is_worse_than_guessing_meets_the_bound() -> None:
    found = fit_temperature(np.array([1, 0, 0]), np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]))
    assert found.value == MOST
    assert "beyond" in found.note


def test_a_fold_meets_the_temperature_of_the_others() -> None:
    labels, told = draw(3, sharpness=2)
    folds = np.arange(400) % 4
    calibrated, temperatures = cross_fit(labels, told, folds)
    for fold in range(4):
        expected = fit_temperature(labels[folds != fold], told[folds != fold]).value
        assert temperatures[fold] == expected
        np.testing.assert_array_equal(
            calibrated[folds == fold], apply_temperature(told[folds == fold], expected)
        )


def test_the_calibration_error_is_that_of_the_paper() -> None:
    told = np.array([[0.95, 0.05], [0.95, 0.05], [0.6, 0.4], [0.3, 0.7]])
    labels = np.array([0, 1, 0, 1])
    # In the bin of 0.95 half are right, in those of 0.6 and 0.7 all.
    expected = (2 * 0.45 + 0.4 + 0.3) / 4
    assert expected_calibration_error(labels, told) == pytest.approx(expected)
    assert expected_calibration_error(np.array([0]), np.array([[1.0, 0.0]])) == 0


def test_of_two_classes_the_classwise_error_is_that_of_either() -> None:
    labels, told = draw(1, classes=2, sharpness=2.0)
    one, other = (
        calibration_error(told[:, column], labels == column, np.ones(400)) for column in (0, 1)
    )
    assert one == pytest.approx(other, abs=1e-9)
    assert measure_calibration(labels, told)["ece_classwise"] == pytest.approx(other, abs=1e-9)


@given(seeds)
def test_a_diagram_shows_the_error_that_is_stated(seed: int) -> None:
    labels, told = draw(seed, images=60)
    right = told.argmax(axis=1) == labels
    bins = bin_probabilities(told.max(axis=1), right)
    assert len(bins) == BINS
    assert sum(one.images for one in bins) == 60
    gaps = [one.images * abs(one.observed - one.predicted) for one in bins if one.images]
    assert expected_calibration_error(labels, told) == pytest.approx(sum(gaps) / 60, abs=1e-12)
    for one in bins:
        assert (one.predicted is None) == (one.images == 0)
        assert one.predicted is None or one.low - 1e-12 <= one.predicted <= one.high + 1e-12


def test_a_probability_at_an_edge_is_in_the_bin_below() -> None:
    edges = np.array([0.0, 1 / 15, 2 / 15, 1.0])
    bins = bin_probabilities(edges, np.zeros(4, dtype=bool))
    assert [number for number, one in enumerate(bins) if one.images] == [0, 1, 14]
    assert bins[0].images == 2


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([0.0, 0.2, 0.25, 0.5, 0.8, 1.0])), min_size=2
    ).filter(lambda rows: len({true for true, _ in rows}) == 2),
    st.sampled_from([0.0, 0.5, 0.75, 0.95, 1.0]),
)
def test_no_other_threshold_serves_a_rule_better(rows: Any, target: float) -> None:
    truth, scores = (np.array(column) for column in zip(*rows, strict=True))
    every = []
    for threshold in [0, *np.unique(scores), 2]:
        positive = scores >= threshold
        every.append((positive[truth].mean(), 1 - positive[~truth].mean()))
    youden = choose_point(truth, scores, "youden")
    assert youden.sensitivity + youden.specificity == pytest.approx(max(map(sum, every)))
    sensitive = choose_point(truth, scores, f"sensitivity={target}")
    assert sensitive.sensitivity >= target
    assert sensitive.specificity == pytest.approx(
        max(specific for sensitivity, specific in every if sensitivity >= target)
    )
    specific = choose_point(truth, scores, f"specificity={target}")
    assert specific.specificity >= target
    assert specific.sensitivity == pytest.approx(
        max(sensitivity for sensitivity, other in every if other >= target - 1e-12)
    )
    for point in (youden, sensitive, specific):
        positive = scores >= point.threshold
        assert point.sensitivity == pytest.approx(positive[truth].mean())
        assert point.specificity == pytest.approx(1 - positive[~truth].mean())


def test_nineteen_of_twenty_is_a_sensitivity_of_95_percent() -> None:
    truth = np.array([True] * 20 + [False])
    scores = np.r_[0.1, np.full(19, 0.9), 0.2]
    point = choose_point(truth, scores, "sensitivity=0.95")
    assert (point.sensitivity, point.specificity) == (0.95, 1.0)
    assert point.threshold == pytest.approx(0.55)


def test_a_number_is_the_threshold_itself() -> None:
    point = choose_point(np.array([True, False]), np.array([0.3, 0.2]), "0.3")
    assert point == (0.3, 1.0, 1.0)


@pytest.mark.parametrize("rule", ["yuoden", "1.5", "-0.1", "sensitivity=95", "nan", "recall=1", ""])
def test_what_is_no_rule_is_refused(rule: str) -> None:
    with pytest.raises(UsageError, match="is no threshold; use argmax, youden"):
        check_rule(rule)
