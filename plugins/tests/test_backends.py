"""The same predictions on every backend of Keras, of the same folds of the same images."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from medkit.training.prediction import predict
from medkit.workspace import Workspace

EVERY = ("tensorflow", "jax", "torch")
INSTALLED = [name for name in EVERY if find_spec(name)]
TOLERANCE = 1e-4

pytestmark = [
    pytest.mark.backends,
    pytest.mark.skipif(
        len(INSTALLED) < 2,
        reason=f"one of {', '.join(EVERY)} is nothing to compare with: make backends installs all",
    ),
]


@pytest.fixture
def on_each(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, npt.NDArray[np.float64]]]:
    """Return what a call that returns the folder of predictions predicts on each backend."""

    def collect(call: Callable[[], Path]) -> dict[str, npt.NDArray[np.float64]]:
        found = {}
        for backend in INSTALLED:
            monkeypatch.setenv("KERAS_BACKEND", backend)
            table = pd.read_parquet(call() / "predictions.parquet").sort_values("image")
            found[backend] = table.filter(regex="^p:").to_numpy()
        return found

    return collect


def assert_alike(found: dict[str, npt.NDArray[np.float64]]) -> None:
    assert set(found) == set(INSTALLED)
    for one, other in combinations(found, 2):
        largest = np.abs(found[one] - found[other]).max()
        print(f"{one} and {other}: predictions differ by {largest:.2g} at most")
        assert largest <= TOLERANCE, f"{one} and {other} differ by {largest:.2g}"
    spread = next(iter(found.values())).std(axis=0)
    assert spread.min() > 0.01, "predictions that are all alike say nothing"


def test_frozen_inception(train_on_study: Callable[..., Any], on_each: Callable[..., Any]) -> None:
    options = {"weights": "none", "size": "75", "batch_size": "4"}
    assert_alike(on_each(lambda: train_on_study("inception", **options).folder))


@pytest.mark.parametrize(
    "options",
    [{}, {"activation": "noisy-relu", "norm": "layer", "pool": "avg"}],
    ids=["defaults", "other layers"],
)
def test_a_cnn_that_one_backend_trained(
    options: dict[str, str],
    study: Workspace,
    train_on_study: Callable[..., Any],
    on_each: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", INSTALLED[0])
    quick = {"size": "32", "epochs": "10", "batch_size": "4", "learning_rate": "0.003"}
    run = train_on_study("cnn", **quick, **options)

    def apply() -> Path:
        with study.lock():
            return predict(study, run.name, "stripes", device="cpu", threads=1).folder

    assert_alike(on_each(apply))
