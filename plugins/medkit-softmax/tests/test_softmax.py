"""The softmax trainer: pixels through a view, solved by the host or in mini-batches."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from medkit_softmax import SoftmaxParams, SoftmaxTrainer
from medkit_softmax.minibatch import measure_pixels
from sklearn.linear_model import LogisticRegression

from medkit.errors import TrainingError, UsageError
from medkit.images.reader import View
from medkit.statistics.linear import fit_linear
from medkit.testing import TrainerConformance
from medkit.training.contract import LabelledImages
from medkit.training.params import list_options, parse_options

# Keras reads TensorFlow's variables in a way that NumPy 2 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
TORCH = os.environ.get("KERAS_BACKEND") == "torch"

# How far above the optimum the mini-batch solver may end, in nats of the penalised mean log loss.
TOLERANCE = 1e-3


def make_minibatch(**options):
    return SoftmaxTrainer(SoftmaxParams(**{"solver": "minibatch", "size": 8} | options))


def test_loading_the_plugin_imports_nothing_heavy(list_heavy):
    assert list_heavy("medkit_softmax") == []


def test_features_are_the_pixels_of_the_view(make_images, make_run):
    images = make_images(np.array([0, 1, 1]))
    found = SoftmaxTrainer(SoftmaxParams(size=8, channels=3)).features(images, make_run())
    expected = images.with_view(size=8, channels=3)[:]
    assert found.dtype == np.float32
    assert np.array_equal(found, expected.reshape(3, 8 * 8 * 3))


def test_features_of_a_subset_are_the_subset_of_features(make_images, make_run):
    trainer, images = SoftmaxTrainer(SoftmaxParams(size=8)), make_images(np.arange(300) % 2)
    whole = trainer.features(images, make_run())
    some = trainer.features(images.take([299, 3]), make_run())
    assert np.array_equal(whole[[299, 3]], some)


def test_spec_names_all_that_the_features_depend_on():
    specs = [
        SoftmaxTrainer(params).feature_spec()
        for params in (
            SoftmaxParams(),
            SoftmaxParams(size=16),
            SoftmaxParams(window="full"),
            SoftmaxParams(channels=3),
        )
    ]
    assert all(specs.count(spec) == 1 for spec in specs)


def test_options_are_documented_and_refused_with_what_would_work():
    assert all(option.help for option in list_options(SoftmaxParams))
    refused = {
        "size=0": "give an integer, 1 or more",
        "channels=2": "give one of 1, 3",
        "window=foggy": "'foggy' is not a window",
        "solver=best": "give one of exact, minibatch",
        "learning_rate=0": "give a number, above 0",
        "epochs=3": "give it with -p solver=minibatch",
    }
    for text, advice in refused.items():
        with pytest.raises(UsageError, match=f"-p {text}: .*{advice}"):
            parse_options(SoftmaxParams, dict([text.split("=")]))


def test_the_solver_decides_who_solves_it():
    exact, other = SoftmaxTrainer(SoftmaxParams()), make_minibatch()
    assert (exact.head, other.head) == ("linear", "")
    assert exact.feature_spec()["view"] == exact.view
    assert other.feature_spec() is None


@pytest.mark.parametrize("classes", [2, 3])
def test_mini_batches_come_near_the_optimum(make_images, make_run, classes):
    pytest.importorskip("keras")
    labels = np.arange(120) % classes
    part = label(make_images(labels % 2, size=8), labels)
    trainer = make_minibatch(strength=0.1, epochs=60, batch_size=30, learning_rate=0.03)
    model = trainer.fit(part, part.take(np.arange(0)), make_run())
    rows = part.images.with_view(**trainer.view)[:].reshape(len(part), -1)
    head = fit_linear(rows, labels, part.persons, classes, inner=None, strengths=[0.1])
    solved = head.weights * rows.std(axis=0)
    reached = np.asarray(model.network.get_layer("probabilities").kernel).T
    if classes == 2:  # the exact solver's penalty is of one row, the difference between the two
        solved, reached = (np.diff(weights, axis=0) for weights in (solved, reached))
    optimum = penalise(head.predict_proba(rows), labels, solved, 0.1)
    gap = penalise(model.predict_proba(part.images), labels, reached, 0.1) - optimum
    print(f"{gap:.2g} nats above the optimum")
    assert -1e-6 < gap < TOLERANCE


def fit_findings(part, make_run, name):
    """Return the rows of each image, standardised, and the model after many epochs."""
    trainer = make_minibatch(strength=0.1, epochs=80, batch_size=30, learning_rate=0.03)
    model = trainer.fit(part, part.take(np.arange(0)), make_run(name))
    rows = part.images.with_view(**trainer.view)[:].reshape(len(part), -1).astype(np.float64)
    return (rows - rows.mean(axis=0)) / rows.std(axis=0), model


def test_each_label_comes_near_the_optimum_that_it_has_alone(make_findings, make_run):
    pytest.importorskip("keras")
    part = make_findings(120, size=8)
    rows, model = fit_findings(part, make_run, "told")
    stated, kernel = model.predict_proba(part.images), read_kernel(model)
    for column, known in enumerate((part.labels >= 0).T):
        truth = part.labels[known, column]
        alone = LogisticRegression(C=1 / (0.1 * known.sum()), tol=1e-10, max_iter=10_000)
        alone.fit(rows[known], truth)
        optimum = penalise(alone.predict_proba(rows[known]), truth, alone.coef_, 0.1)
        mine = np.column_stack([1 - stated[known, column], stated[known, column]])
        gap = penalise(mine, truth, kernel[:, column], 0.1) - optimum
        print(f"label {column}: {gap:.2g} nats above the optimum")
        assert -1e-6 < gap < TOLERANCE
    assert not np.allclose(stated.sum(axis=1), 1)


def test_what_is_not_known_of_one_label_is_nothing_to_the_others(make_findings, make_run):
    pytest.importorskip("keras")
    part = make_findings(60, size=8)
    hidden = part.labels.copy()
    hidden[::2, 1] = -1
    told, other = (
        fit_findings(replace(part, labels=labels), make_run, name)[1]
        for name, labels in (("told", part.labels), ("hidden", hidden))
    )
    before, after = read_kernel(told), read_kernel(other)
    assert after[:, [0, 2]] == pytest.approx(before[:, [0, 2]], abs=1e-6)
    assert np.abs(after[:, 1] - before[:, 1]).max() > 0.01


def test_several_labels_are_saved_and_read_back(make_findings, make_run, tmp_path):
    pytest.importorskip("keras")
    part = make_findings(20, size=8)
    model = make_minibatch(epochs=2).fit(part, part, make_run())
    model.save(tmp_path)
    loaded = make_minibatch().load(tmp_path)
    assert np.array_equal(loaded.predict_proba(part.images), model.predict_proba(part.images))


def read_kernel(model):
    return np.asarray(model.network.get_layer("probabilities").get_weights()[0], np.float64)


def label(images, labels):
    persons = np.array([f"person {number}" for number in range(len(labels))])
    classes = tuple("abc"[: labels.max() + 1])
    return LabelledImages(images, labels, persons, classes, np.ones(len(labels), np.float32))


def penalise(probabilities, labels, weights, strength):
    loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    return loss + strength / 2 * (np.asarray(weights, np.float64) ** 2).sum()


@given(
    counts=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    level=st.floats(-1000, 1000),
    seed=st.integers(0, 2**31),
)
def test_one_pass_measures_what_two_would(counts, level, seed):
    random = np.random.default_rng(seed)
    batches = [
        (level + random.normal(size=(count, 2, 3, 1))).astype(np.float32) for count in counts
    ]
    for batch in batches:
        batch[:, 0, 0, 0] = np.float32(level)
    mean, scale = measure_pixels(Batches(batches))
    every = np.concatenate(batches).reshape(-1, 6).astype(np.float64)
    expected = every.std(axis=0)
    expected[0] = 1.0
    if len(every) == 1:
        expected[:] = 1.0
    assert np.allclose(mean, every.mean(axis=0), rtol=1e-12, atol=1e-12)
    assert np.allclose(scale, expected, rtol=1e-9)


class Batches:
    """Images that come in the batches given."""

    shape = (None, 2, 3, 1)

    def __init__(self, batches):
        self._batches = batches

    def batches(self, size):
        return iter(self._batches)


def test_a_killed_fit_goes_on_and_a_saved_model_predicts_as_before(make_part, make_run, tmp_path):
    pytest.importorskip("keras")
    part, judge = make_part(40, size=8), make_part(12, seed=1, size=8)
    whole = make_minibatch(epochs=3).fit(part, judge, make_run("whole"))
    calls = iter([False, False])
    with pytest.raises(TrainingError, match="stopped in epoch 3"):
        make_minibatch(epochs=3).fit(
            part, judge, make_run("cut", stopping=lambda: next(calls, True))
        )
    model = make_minibatch(epochs=3).fit(part, judge, make_run("cut"))
    model.save(tmp_path)
    loaded = make_minibatch().load(tmp_path)
    expected = whole.predict_proba(judge.images)
    assert np.array_equal(model.predict_proba(judge.images), expected)
    assert np.array_equal(loaded.predict_proba(judge.images), expected)
    assert View(**loaded.view) == View(**model.view)


def test_the_features_come_out_of_a_network_too(make_images, make_run):
    pytest.importorskip("keras")
    trainer = SoftmaxTrainer(SoftmaxParams(size=8, channels=3))
    images = make_images(np.array([0, 1, 1]))
    pixels = images.with_view(**trainer.feature_spec()["view"])[:]
    found = trainer.feature_network().predict_on_batch(pixels)
    assert np.array_equal(found, trainer.features(images, make_run()))


def test_the_host_trains_it(train_on_study):
    finished = train_on_study("softmax", size="8")
    # The stripes begin anywhere, so that no pixel tells the classes apart.
    assert finished.metrics["images"] == 36
    assert finished.metrics["metrics"]["auc"]["value"] < 0.8
    assert finished.record["weights"] is None


def test_the_host_trains_it_in_mini_batches(train_on_study):
    pytest.importorskip("keras")
    finished = train_on_study("softmax", size="8", solver="minibatch", epochs="2")
    assert finished.metrics["images"] == 36
    assert finished.record["features"] is None


class TestConformance(TrainerConformance):
    plugin = "softmax"
    params: ClassVar = {"size": "16"}


@pytest.mark.soak
@pytest.mark.skipif("MEDKIT_KILLS" not in os.environ, reason="minutes; run 'make soak'")
@pytest.mark.skipif(TORCH, reason="after a restart PyTorch rounds otherwise")
class TestConformanceInMiniBatches(TrainerConformance):
    plugin = "softmax"
    params: ClassVar = {"size": "16", "solver": "minibatch", "epochs": "6"}
