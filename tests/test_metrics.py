"""Metrics against scikit-learn, and what weights mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference

from medkit.errors import TrainingError
from medkit.statistics.metrics import (
    NAMES,
    OF_A_CLASS,
    SMALLEST_PROBABILITY,
    auc,
    brier,
    check_predictions,
    confuse,
    log_loss,
    measure,
)


def draw(classes: int, seed: int, images: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of two digits, so that many scores tie."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(images) % classes)
    odds = random.dirichlet(np.ones(classes), images).round(2) + 0.01
    return labels, odds / odds.sum(axis=1, keepdims=True)


def refer(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None
) -> dict[str, float]:
    """Every metric by scikit-learn, or by its definition where that has none."""
    classes, predicted = probabilities.shape[1], probabilities.argmax(axis=1)
    chosen = [1] if classes == 2 else range(classes)
    given = {"sample_weight": weights}

    def average(score: Callable[[int], float]) -> float:
        return float(np.mean([score(c) for c in chosen]))

    return {
        "accuracy": reference.accuracy_score(labels, predicted, **given),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted, **given),
        "auc": average(
            lambda c: reference.roc_auc_score(labels == c, probabilities[:, c], **given)
        ),
        "average_precision": average(
            lambda c: reference.average_precision_score(labels == c, probabilities[:, c], **given)
        ),
        "sensitivity": average(
            lambda c: reference.recall_score(labels == c, predicted == c, **given)
        ),
        "specificity": average(
            lambda c: reference.recall_score(labels != c, predicted != c, **given)
        ),
        "sensitivity_at_specificity": average(
            lambda c: find_point(labels == c, probabilities[:, c], weights)[0]
        ),
        "specificity_at_sensitivity": average(
            lambda c: find_point(labels == c, probabilities[:, c], weights)[1]
        ),
        "f1": average(lambda c: reference.f1_score(labels == c, predicted == c, **given)),
        "mcc": reference.matthews_corrcoef(labels, predicted, **given),
        "kappa": reference.cohen_kappa_score(labels, predicted, **given),
        "log_loss": reference.log_loss(labels, probabilities, **given),
        "brier": reference.brier_score_loss(
            labels, probabilities[:, 1] if classes == 2 else probabilities, **given
        ),
        "ece": bin_slowly(probabilities.max(axis=1), predicted == labels, weights),
        "ece_classwise": average(lambda c: bin_slowly(probabilities[:, c], labels == c, weights)),
    }


def find_point(truth: np.ndarray, scores: np.ndarray, weights: Any) -> tuple[float, float]:
    """Sensitivity at a specificity of 0.9, and the reverse, from scikit-learn's ROC curve."""
    alarms, found, _ = reference.roc_curve(
        truth, scores, sample_weight=weights, drop_intermediate=False
    )
    return found[alarms <= 0.1 + 1e-9].max(), 1 - alarms[found >= 0.9 - 1e-9].min()


def bin_slowly(stated: np.ndarray, happened: np.ndarray, weights: Any) -> float:
    """Guo et al. 2017, equation 3, bin by bin."""
    weights = np.ones(len(stated)) if weights is None else weights
    error = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        rows = (stated > low) & (stated <= high) | (stated == 0) & (number == 0)
        if weights[rows].sum():
            gap = np.average(happened[rows], weights=weights[rows]) - np.average(
                stated[rows], weights=weights[rows]
            )
            error += weights[rows].sum() / weights.sum() * abs(gap)
    return error


@pytest.mark.parametrize("weighted", ["", "whole", "real"])
@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_those_of_scikit_learn(classes: int, weighted: str, seed: int) -> None:
    labels, probabilities = draw(classes, seed)
    random = np.random.default_rng(9)
    weights = random.integers(0, 5, len(labels)) if weighted else None
    if weighted == "real":
        weights = weights * random.random(len(labels))
    found = measure(labels, probabilities, weights).metrics
    expected = refer(labels, probabilities, weights)
    assert tuple(found) == NAMES == tuple(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("classes", [2, 4])
def test_metrics_of_a_class_equal_those_of_scikit_learn(classes: int) -> None:
    labels, probabilities = draw(classes, 6)
    predicted, found = probabilities.argmax(axis=1), measure(labels, probabilities).by_class
    assert tuple(found) == OF_A_CLASS
    for c in range(classes):
        one, other = (labels == c, predicted == c), (labels != c, predicted != c)
        scores = probabilities[:, c]
        expected = {
            "ppv": reference.precision_score(*one),
            "npv": reference.precision_score(*other),
            "sensitivity": reference.recall_score(*one),
            "specificity": reference.recall_score(*other),
            "f1": reference.f1_score(*one),
            "auc": reference.roc_auc_score(labels == c, scores),
            "average_precision": reference.average_precision_score(labels == c, scores),
            "sensitivity_at_specificity": find_point(labels == c, scores, None)[0],
            "specificity_at_sensitivity": find_point(labels == c, scores, None)[1],
            "ece_classwise": bin_slowly(scores, labels == c, None),
        }
        for name, value in expected.items():
            assert found[name][c] == pytest.approx(value, abs=1e-9), name


def test_several_labels_an_image_are_questions_of_two_classes() -> None:
    random = np.random.default_rng(0)
    labels, told = random.integers(0, 2, (200, 3)), random.random((200, 3)).round(2)
    found = measure(labels, told)
    assert found.metrics["auc"] == pytest.approx(
        reference.roc_auc_score(labels, told, average="macro"), abs=1e-9
    )
    assert found.metrics["average_precision"] == pytest.approx(
        reference.average_precision_score(labels, told, average="macro"), abs=1e-9
    )
    assert found.metrics["accuracy"] == pytest.approx(
        1 - reference.hamming_loss(labels, told > 0.5), abs=1e-9
    )
    assert found.metrics["f1"] == pytest.approx(
        reference.f1_score(labels, told > 0.5, average="macro"), abs=1e-9
    )
    for column in range(3):
        expected = reference.recall_score(labels[:, column], told[:, column] > 0.5)
        assert found.by_class["sensitivity"][column] == pytest.approx(expected, abs=1e-9)


def test_a_label_that_is_not_known_leaves_the_image_out_for_it() -> None:
    random = np.random.default_rng(1)
    labels, told = random.integers(0, 2, (100, 2)), random.random((100, 2))
    hidden = labels.copy()
    hidden[:40, 1] = -1
    found = measure(hidden, told).by_class["auc"]
    assert found[0] == pytest.approx(reference.roc_auc_score(labels[:, 0], told[:, 0]))
    assert found[1] == pytest.approx(reference.roc_auc_score(labels[40:, 1], told[40:, 1]))


def test_a_label_that_every_image_has_is_left_out_of_means() -> None:
    random = np.random.default_rng(2)
    labels, told = random.integers(0, 2, (50, 2)), random.random((50, 2))
    labels[:, 1] = 1
    found = measure(labels, told)
    assert found.metrics["auc"] == pytest.approx(found.by_class["auc"][0])
    assert np.isnan(found.by_class["auc"][1])


def test_a_prediction_that_never_changes_agrees_with_nothing() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    found = measure(labels, np.tile([0.2, 0.8], (5, 1))).metrics
    assert (found["mcc"], found["kappa"], found["auc"]) == (0, 0, 0.5)
    assert found["average_precision"] == pytest.approx(0.6)  # the prevalence
    assert (found["sensitivity_at_specificity"], found["specificity_at_sensitivity"]) == (0, 0)


def test_confusion_equals_that_of_scikit_learn() -> None:
    labels, probabilities = draw(4, 0)
    weights = np.random.default_rng(1).random(len(labels))
    predicted = probabilities.argmax(axis=1)
    expected = reference.confusion_matrix(labels, predicted, sample_weight=weights)
    np.testing.assert_allclose(confuse(labels, predicted, 4, weights), expected)


@pytest.mark.parametrize("classes", [2, 4])
def test_rows_of_weights_give_what_each_gives_alone(classes: int) -> None:
    labels, probabilities = draw(classes, 1)
    weights = np.random.default_rng(2).integers(0, 3, (7, len(labels)))
    together = measure(labels, probabilities, weights)
    for number, row in enumerate(weights):
        alone = measure(labels, probabilities, row)
        for name, value in alone.metrics.items():
            assert together.metrics[name][number] == pytest.approx(value, abs=1e-12), name
        for name, values in alone.by_class.items():
            np.testing.assert_allclose(together.by_class[name][number], values, atol=1e-12)


def test_a_weight_of_two_is_the_image_twice() -> None:
    labels, probabilities = draw(3, 5)
    times = np.random.default_rng(3).integers(1, 4, len(labels))
    weighted = measure(labels, probabilities, times).metrics
    repeated = measure(np.repeat(labels, times), np.repeat(probabilities, times, axis=0)).metrics
    for name, value in repeated.items():
        assert weighted[name] == pytest.approx(value, abs=1e-12), name


def test_scores_that_all_tie_rank_nobody() -> None:
    assert auc(np.array([True, False, True]), np.full(3, 0.4)) == 0.5


def test_the_positive_class_is_the_one_that_was_named() -> None:
    labels, probabilities = draw(2, 8)
    first, second = (measure(labels, probabilities, positive=p).metrics for p in (0, 1))
    assert first["sensitivity"] == second["specificity"] != second["sensitivity"]


def test_a_class_without_weight_leaves_no_value_where_it_is_needed() -> None:
    labels, probabilities = draw(3, 2)
    found = measure(labels, probabilities, (labels != 1).astype(float))
    assert np.isnan(found.metrics["balanced_accuracy"]) and np.isnan(found.metrics["auc"])
    assert np.isfinite(found.metrics["accuracy"]) and np.isfinite(found.metrics["brier"])
    assert np.isnan(found.by_class["sensitivity"]).tolist() == [False, True, False]


def test_a_class_that_never_occurs_is_left_out_of_means() -> None:
    labels, probabilities = draw(2, 4)
    wide = np.hstack([probabilities, np.zeros((len(labels), 1))])
    found = measure(labels, wide).metrics
    expected = reference.balanced_accuracy_score(labels, wide.argmax(axis=1))
    assert found["balanced_accuracy"] == pytest.approx(expected)


def test_a_probability_of_nothing_costs_what_float32_can_tell_from_nothing() -> None:
    labels = np.array([0, 1])
    certain = np.array([[0.0, 1.0], [0.0, 1.0]])
    assert log_loss(labels, certain) == pytest.approx(-np.log(SMALLEST_PROBABILITY) / 2)
    assert log_loss(labels, certain.astype(np.float32)) == log_loss(labels, certain)


def test_brier_runs_to_one_for_two_classes_and_to_two_for_more() -> None:
    assert brier(np.array([0]), np.array([[0.0, 1.0]])) == 1
    assert brier(np.array([0]), np.array([[0.0, 1.0, 0.0]])) == 2


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 1], [[0.5, 0.5]], "as many rows"),
        ([], np.empty((0, 2)), "as many rows"),
        ([0, 2], [[0.5, 0.5]] * 2, "run from 0 to 2"),
        ([0, 1], [[0.5, 0.5], [np.nan, 0.5]], "1 of 2 predictions .* row 1"),
        ([0, 1], [[1.5, -0.5], [0.5, 0.5]], "row 0"),
    ],
)
def test_predictions_that_cannot_be_measured_are_refused(
    labels: list[int], probabilities: list[list[float]], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        check_predictions(np.array(labels), np.array(probabilities))
