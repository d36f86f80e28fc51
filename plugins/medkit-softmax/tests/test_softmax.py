"""The softmax trainer: pixels through a view, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from medkit_softmax import SoftmaxParams, SoftmaxTrainer

from medkit.errors import UsageError
from medkit.training.params import list_options, parse_options


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


def test_options_are_documented_and_refused_out_of_range():
    assert all(option.help for option in list_options(SoftmaxParams))
    for name, text in {"size": "0", "channels": "2"}.items():
        with pytest.raises(UsageError, match=f"{name}={text}"):
            parse_options(SoftmaxParams, {name: text})


def test_the_host_trains_it(train_on_study):
    finished = train_on_study("softmax", size="8")
    # The stripes begin anywhere, so that no pixel tells the classes apart.
    assert finished.metrics["images"] == 36
    assert finished.metrics["metrics"]["auc"]["value"] < 0.8
    assert finished.record["weights"] is None
