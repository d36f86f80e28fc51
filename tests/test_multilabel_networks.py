"""Several labels an image in networks: trained by the host, measured and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from findingsets import NAMES, make_findings
from sklearn.metrics import roc_auc_score
from test_export_model import list_snippets, see

from medkit.statistics.calibration import apply_temperature
from medkit.statistics.truth import read_truth
from medkit.training import run as training
from medkit.training.exports import runtimes
from medkit.training.exports.export import export_model
from medkit.workspace import Workspace, read_json

pytest.importorskip("keras")

CNN = {
    **{"size": "32", "blocks": "8,16", "dense": "0", "flatten": "true", "dropout": "0"},
    **{"epochs": "10", "batch_size": "8", "learning_rate": "0.01"},
}
MINIBATCH = {"solver": "minibatch", "size": "16", "epochs": "12", "batch_size": "16"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a run of each, on labels of which one is here and there not known."""
    made = Workspace(make_findings(tmp_path_factory.mktemp("made")))
    with made.lock():
        train(made, "cnn", "cnn", CNN)
        train(made, "softmax", "minibatch", MINIBATCH)
        train(made, "softmax", "exact", {"size": "16"})
    return made


def train(home: Workspace, plugin: str, name: str, options: dict[str, str]) -> training.Finished:
    asked = {"label": ",".join(NAMES), "folds": 2, "threads": 1, "device": "cpu"}
    return training.train(home, "set", plugin, name=name, options=options, **asked)


def read_run(home: Workspace, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what is true of the images of a run, what it predicts, and their folds."""
    table = pd.read_parquet(home.run(name) / "predictions.parquet")
    stated = table[[f"p:{one}" for one in NAMES]].to_numpy()
    return read_truth(table["label"], NAMES, True), stated, table["fold"].to_numpy()


@pytest.mark.parametrize(("name", "least"), [("cnn", 0.9), ("minibatch", 0.8)])
def test_each_label_is_learned_and_predicted_by_itself(
    home: Workspace, name: str, least: float
) -> None:
    truth, stated, _ = read_run(home, name)
    assert stated.shape == truth.shape == (80, 3)
    assert not np.allclose(stated.sum(axis=1), 1)
    metrics = read_json(home.run(name) / "metrics.json")
    for column, label in enumerate(NAMES):
        known = truth[:, column] >= 0
        area = roc_auc_score(truth[known, column], stated[known, column])
        assert metrics["per_class"][label]["auc"]["value"] == pytest.approx(area)
        assert area > least
    calibration = read_json(home.run(name) / "calibration.json")
    assert len(calibration["temperature"]) == 3


@pytest.mark.parametrize(("name", "form"), [("cnn", "onnx"), ("exact", "litert")])
def test_an_exported_model_gives_each_label_its_own(
    home: Workspace, tmp_path: Path, name: str, form: str
) -> None:
    pytest.importorskip("tensorflow")
    done = export_model(home, name, tmp_path / "model", form, fold=1, threads=1)
    assert (done.record["task"], done.record["classes"]) == ("multilabel", list(NAMES))
    run = runtimes.FORMS[form].open(tmp_path / "model" / runtimes.FORMS[form].file, 1)
    _, stated, folds = read_run(home, name)
    tested = folds == 1
    probabilities = run(see(home, done.record))
    np.testing.assert_allclose(probabilities[tested], stated[tested], atol=1e-4)
    assert done.record["parity"]["largest_difference"] <= 1e-4
    page = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "shape (n, 3), each of a label by itself" in page
    names: dict[str, Any] = {"np": np, "probabilities": probabilities}
    exec(list_snippets(page)["Calibration"], names)
    temperature = read_json(home.run(name) / "calibration.json")["temperature"]
    expected = apply_temperature(probabilities.astype(np.float64), temperature)
    np.testing.assert_allclose(names["calibrated"], expected, atol=1e-9)
    again = export_model(home, name, tmp_path / "model", form, fold=1, threads=1)
    assert not again.built
