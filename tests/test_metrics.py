"""Metrics against scikit-learn, and what weights mean."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from medkit.errors import TrainingError
from medkit.statistics.metrics import (
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


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 6])
def test_metrics_equal_those_of_scikit_learn(classes: int, weighted: bool) -> None:
    labels, probabilities = draw(classes, classes)
    weights = np.random.default_rng(9).integers(0, 5, len(labels)) if weighted else None
    found = measure(labels, probabilities, weights).metrics
    predicted = probabilities.argmax(axis=1)
    two = classes == 2
    scores = probabilities[:, 1] if two else probabilities
    expected = {
        "accuracy": reference.accuracy_score(labels, predicted, sample_weight=weights),
        "balanced_accuracy": reference.balanced_accuracy_score(
            labels, predicted, sample_weight=weights
        ),
        "auc": reference.roc_auc_score(labels, scores, sample_weight=weights, multi_class="ovr"),
        "sensitivity": reference.recall_score(
            labels, predicted, sample_weight=weights, average="binary" if two else "macro"
        ),
        "log_loss": reference.log_loss(labels, probabilities, sample_weight=weights),
        "brier": reference.brier_score_loss(labels, scores, sample_weight=weights),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    specificities = [
        reference.recall_score(labels != c, predicted != c, sample_weight=weights)
        for c in range(classes)
    ]
    expected_specificity = specificities[1] if two else np.mean(specificities)
    assert found["specificity"] == pytest.approx(expected_specificity, abs=1e-12)


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
