"""The linear head: solved to its optimum, chosen without a leak, kept without a pickle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from medkit.cohort.division import make_inner_folds
from medkit.errors import TrainingError
from medkit.statistics import linear, logistic
from medkit.statistics.linear import LinearHead, fit_linear
from medkit.statistics.logistic import solve


def draw(images: int, width: int, classes: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Features far from standardised, labels they tell of, persons of four images."""
    random = np.random.default_rng(seed)
    labels = np.arange(images) // 4 % classes
    signal = random.normal(size=(classes, width))[labels]
    features = 7 + 3 * (random.normal(size=(images, width)) + 0.3 * signal)
    return features.astype(np.float32), labels, np.arange(images) // 4


def fit(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, **options: object
) -> LinearHead:
    options.setdefault("inner", make_inner_folds(groups, labels, 0))
    return fit_linear(features, labels, groups, int(labels.max()) + 1, **options)  # type: ignore[arg-type]


def gradient(head: LinearHead, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of the objective in the module's first lines, written down anew, in float64."""
    features = features.astype(np.float64)
    scale = features.std(axis=0)
    standard = (features - features.mean(axis=0)) / scale
    classes = len(head.bias)
    residual = head.predict_proba(features) - np.eye(classes)[labels]
    weights = head.weights * scale
    if classes == 2:
        residual, weights = residual[:, 1:], weights[1:]
    by_weight = residual.T @ standard / len(labels) + head.strength * weights
    return np.column_stack([by_weight, residual.mean(axis=0)])


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("images", "width"), [(240, 20), (240, 300), (120, 900)])
def test_the_gradient_at_the_solution_is_nothing(images: int, width: int, classes: int) -> None:
    features, labels, groups = draw(images, width, classes)
    head = fit(features, labels, groups)
    assert head.notes == () and len(head.losses) == 12
    assert np.abs(gradient(head, features, labels)).max() < 1e-6


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("width", [20, 900])
def test_predictions_equal_those_of_scikit_learn(width: int, classes: int) -> None:
    features, labels, groups = draw(160, width, classes)
    head = fit(features, labels, groups, strengths=[0.01])
    wide = features.astype(np.float64)
    standard = (wide - wide.mean(axis=0)) / wide.std(axis=0)
    other = LogisticRegression(C=1 / (160 * 0.01), tol=1e-10, max_iter=10_000)
    expected = other.fit(standard, labels).predict_proba(standard)
    np.testing.assert_allclose(head.predict_proba(features), expected, atol=1e-6)


def lose(
    point: np.ndarray, features: np.ndarray, labels: np.ndarray, share: np.ndarray, strength: float
) -> float:
    """The objective in the module's first lines, written down anew, in float64."""
    logits = features @ point[:, :-1].T + point[:, -1]
    if len(point) == 1:
        logits = np.hstack([np.zeros_like(logits), logits])
    losses = logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]
    return float(losses @ share / share.sum() + strength / 2 * (point[:, :-1] ** 2).sum())


@settings(max_examples=10, deadline=None)
@given(
    images=st.integers(12, 60),
    width=st.integers(1, 40),
    classes=st.integers(2, 4),
    seed=st.integers(0, 99),
    separable=st.booleans(),
)
def test_problems_side_by_side_are_each_at_their_optimum(
    images: int, width: int, classes: int, seed: int, separable: bool
) -> None:
    random = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    features = random.normal(size=(images, width)) * random.exponential(size=width)
    features += separable * 4 * labels[:, np.newaxis]
    features = ((features - features.mean(axis=0)) / features.std(axis=0)).astype(np.float32)
    strengths = 10.0 ** random.uniform(-4, 1.5, 5)
    shares = random.integers(0, 3, (5, images)) + (np.arange(images) < classes)
    points, gaps = solve(features, labels, classes, shares, strengths, tolerance=1e-6, most=20_000)
    assert (gaps <= 1e-5).all()  # float32 may allow no less where classes are far apart
    wide = features.astype(float)
    better, _ = solve(wide, labels, classes, shares, strengths, tolerance=1e-9, most=5_000)
    for number, (share, strength) in enumerate(zip(shares, strengths, strict=True)):
        reached, least = (
            lose(found[number].astype(float), wide, labels, share, strength)
            for found in (points, better)
        )
        assert reached - least <= max(1e-6, gaps[number])


@pytest.mark.parametrize("classes", [2, 3])
def test_how_many_problems_fit_in_memory_at_a_time_does_not_matter(
    classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels, groups = draw(160, 30, classes)
    whole = fit(features, labels, groups)
    monkeypatch.setattr(logistic, "_ROOM", 1)
    monkeypatch.setattr(logistic, "_BLOCK", 50)
    parts = fit(features, labels, groups)
    assert parts.strength == whole.strength
    np.testing.assert_allclose(parts.weights, whole.weights, atol=1e-5)
    np.testing.assert_allclose(list(parts.losses.values()), list(whole.losses.values()), rtol=1e-2)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_losses_over_inner_folds_are_those_of_scikit_learn(classes: int) -> None:
    features, labels, groups = draw(160, 30, classes)
    inner = make_inner_folds(groups, labels, 0)
    assert inner is not None
    head = fit(features, labels, groups, inner=inner)
    wide = features.astype(np.float64)
    standard = (wide - wide.mean(axis=0)) / wide.std(axis=0)
    for strength in (1e-2, 1e-1, 10):
        chances = np.empty(160)
        for fold in np.unique(inner):
            rest, held = inner != fold, inner == fold
            model = LogisticRegression(C=1 / (rest.sum() * strength), tol=1e-8, max_iter=10_000)
            probabilities = model.fit(standard[rest], labels[rest]).predict_proba(standard[held])
            chances[held] = probabilities[np.arange(held.sum()), labels[held]]
        nearest = min(head.losses, key=lambda tried: abs(tried - strength))
        assert head.losses[nearest] == pytest.approx(-np.log(chances).mean(), abs=2e-3)


def test_few_images_of_many_features_are_solved_the_same_without_the_projection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, labels, groups = draw(100, 700, 3)
    projected = fit(features, labels, groups)
    monkeypatch.setattr(linear, "_project", lambda standard: (standard, lambda solved: solved))
    plain = fit(features, labels, groups)
    assert projected.strength == plain.strength
    np.testing.assert_allclose(projected.weights, plain.weights, atol=1e-5)


def test_the_strength_with_the_least_loss_over_inner_folds_is_chosen() -> None:
    features, labels, groups = draw(240, 40, 2)
    head = fit(features, labels, groups)
    assert head.losses[head.strength] == min(head.losses.values())
    assert head.losses[max(head.losses)] == pytest.approx(np.log(2), abs=0.05)  # about prevalence


def test_noise_is_met_with_the_strongest() -> None:
    features, labels, groups = draw(240, 40, 2)
    noise = np.random.default_rng(5).normal(size=features.shape)
    head = fit(noise, labels, groups)
    assert head.strength >= 1


def test_equal_input_gives_equal_bits() -> None:
    features, labels, groups = draw(120, 60, 3)
    first, second = fit(features, labels, groups), fit(features, labels, groups)
    assert first.weights.tobytes() == second.weights.tobytes()
    assert first.bias.tobytes() == second.bias.tobytes()


def test_a_feature_that_does_not_vary_weighs_nothing() -> None:
    features, labels, groups = draw(120, 10, 2)
    features[:, 3] = 0.1  # its mean is not 0.1 in float64, so that its scale is not quite 0
    features[:, 4] = 0
    head = fit(features, labels, groups)
    assert not head.weights[:, [3, 4]].any()
    elsewhere = features.copy()
    elsewhere[:, 3] = 1e6
    np.testing.assert_array_equal(head.predict_proba(elsewhere), head.predict_proba(features))


def test_a_class_without_training_images_gets_no_probability() -> None:
    features, labels, groups = draw(120, 10, 2)
    head = fit_linear(features, 2 * labels, groups, 4, inner=make_inner_folds(groups, labels, 0))
    probabilities = head.predict_proba(features)
    assert not probabilities[:, [1, 3]].any()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_a_single_class_is_certain() -> None:
    features, labels, groups = draw(40, 5, 2)
    head = fit_linear(features, np.ones_like(labels), groups, 2, inner=None)
    np.testing.assert_array_equal(head.predict_proba(features), [[0.0, 1.0]] * 40)


def test_without_inner_folds_the_strength_is_the_middle_one_and_said_to_be() -> None:
    features, labels, groups = draw(40, 5, 2)
    head = fit(features, labels, groups, inner=None)
    assert head.strength == pytest.approx(10**-1.5) and head.losses == {}
    assert "not chosen" in head.notes[0]


def test_a_weight_of_two_is_the_image_twice() -> None:
    features, labels, groups = draw(120, 10, 3)
    times = 1 + groups % 2
    wide = features.astype(np.float64)
    standard = (wide - wide.mean(axis=0)) / wide.std(axis=0)
    weighted = fit(standard, labels, groups, strengths=[0.1], weights=times)
    model = LogisticRegression(C=1 / (0.1 * times.sum()), tol=1e-10, max_iter=10_000)
    model.fit(np.repeat(standard, times, axis=0), np.repeat(labels, times))
    expected = model.predict_proba(standard)
    np.testing.assert_allclose(weighted.predict_proba(standard), expected, atol=1e-5)


def test_no_convergence_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels, groups = draw(120, 10, 3)
    monkeypatch.setattr(linear, "_ITERATIONS", 1)
    head = fit(features, labels, groups, strengths=[0.001])
    assert any("strength 0.001" in note and "converge" in note for note in head.notes)


def test_inner_folds_that_part_a_person_are_refused() -> None:
    features, labels, groups = draw(40, 5, 2)
    with pytest.raises(TrainingError, match="two inner folds"):
        fit(features, labels, groups, inner=np.arange(40) % 2)


def test_features_that_are_not_finite_are_refused() -> None:
    features, labels, groups = draw(40, 5, 2)
    features[3, 2], features[5, 1] = np.nan, np.inf
    with pytest.raises(TrainingError, match="2 of 40 images are not finite"):
        fit(features, labels, groups)


def test_shapes_that_do_not_fit_are_refused() -> None:
    features, labels, groups = draw(40, 5, 2)
    with pytest.raises(TrainingError, match=r"shape \(39, 5\)"):
        fit(features[:39], labels, groups)
    with pytest.raises(TrainingError, match=r"takes features of shape \(n, 5\)"):
        fit(features, labels, groups).predict_proba(features[:, :4])


def test_a_saved_head_predicts_the_same(tmp_path: Path) -> None:
    features, labels, groups = draw(120, 10, 3)
    head = fit_linear(features, labels, groups, 4, inner=make_inner_folds(groups, labels, 0))
    head.save(tmp_path)
    read = LinearHead.load(tmp_path)
    np.testing.assert_array_equal(read.predict_proba(features), head.predict_proba(features))
    assert (read.strength, read.losses, read.notes) == (head.strength, head.losses, head.notes)


@pytest.mark.parametrize("file", ["head.json", "weights.npy", "bias.npy"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"\x80\x04K\x01."])
def test_a_damaged_head_is_refused(tmp_path: Path, file: str, content: bytes | None) -> None:
    features, labels, groups = draw(40, 5, 2)
    fit(features, labels, groups).save(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(TrainingError, match=r"linear head|not what was saved"):
        LinearHead.load(tmp_path)
