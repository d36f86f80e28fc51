"""A finished run on other images: locked, honest about persons it has seen, and repeatable."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from faketrainer import CENTROID, FEATURES, install, make_workspace, run_here

from medkit.errors import CohortError, TrainingError, UsageError
from medkit.testing import write_cohort
from medkit.training import prediction
from medkit.training import run as training
from medkit.workspace import Workspace, read_json


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with two runs on ``set``, and images of another hospital in ``other``."""
    site = tmp_path_factory.mktemp("site")
    install(site, "fake-centroid", CENTROID, names=("centroid",))
    install(site, "fake-pixels", FEATURES, names=("pixels",))
    folder = tmp_path_factory.mktemp("prepared")
    home = Workspace(make_workspace(folder))
    images = write_cohort(
        folder / "other", persons=6, per_person=2, size=32, seed=7, classes=("CT", "MR", "CT")
    )
    rows = [f"P{p:03d},elsewhere,{('zebra', 'yak', 'lynx')[p % 3]}\n" for p in range(5)]
    (folder / "other.csv").write_text("PatientID,source,animal\n" + "".join(rows))
    at = ["-w", str(home.root)]
    run_here(["catalog", str(images), "--source", "elsewhere", "--workers", "0", *at])
    run_here(["label", "animal", "--csv", str(folder / "other.csv"), *at])
    where = "source = 'elsewhere'"
    run_here(["normalise", "other", "--size", "32", "--workers", "0", "--where", where, *at])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("COUNTED", str(folder / "counted"))
        for plugin in ("centroid", "pixels"):
            training.train(
                home, "set", plugin, label="animal", folds=2, threads=1, device="cpu", name=plugin
            )
        yield home.root


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(trained, tmp_path / "workspace")
    return Workspace(tmp_path / "workspace")


def evaluate(home: Workspace, run: str = "centroid", on: str = "other", **changes: Any) -> Any:
    arguments = {"label": "animal", "threads": 1, "device": "cpu", "name": "e", **changes}
    return prediction.evaluate(home, run, on, **arguments)


@pytest.mark.parametrize("run", ["centroid", "pixels"])
def test_the_mean_of_the_folds_models_is_measured_on_the_other_set(
    run: str, home: Workspace
) -> None:
    done = evaluate(home, run)
    assert done.record["status"] == "done"
    assert done.record["dropped"] == {"unlabelled": 2, "class unknown to the run": 2}
    assert done.record["overlap"] == {"images": 0, "persons": 0}
    assert done.metrics["images"] == done.record["images"] == 8
    predictions = pd.read_parquet(done.folder / "predictions.parquet")
    assert sorted(set(predictions["label"])) == ["yak", "zebra"]
    models = [np.load(done.folder / f"{fold}.npy") for fold in range(2)]
    np.testing.assert_allclose(
        predictions[["p:yak", "p:zebra"]], np.mean(models, axis=0), atol=1e-12
    )


@pytest.mark.parametrize("run", ["centroid", "pixels"])
def test_a_loaded_model_predicts_what_it_did_in_its_run(run: str, home: Workspace) -> None:
    done = evaluate(home, run, on="set", allow_overlap=True)
    trained = pd.read_parquet(home.run(run) / "predictions.parquet")
    for fold in range(2):
        tested = trained["fold"] == fold
        np.testing.assert_allclose(
            np.load(done.folder / f"{fold}.npy")[tested],
            trained.loc[tested, ["p:yak", "p:zebra"]],
            atol=1e-9,
        )


def test_the_same_again_does_nothing_and_another_under_its_name_is_refused(
    home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = evaluate(home)
    monkeypatch.setattr(prediction, "follow_child", None)
    assert evaluate(home).repeated
    with pytest.raises(UsageError, match="run was 'centroid' and is now 'pixels'"):
        evaluate(home, "pixels")
    assert read_json(done.folder / "evaluation.json")["run"] == "centroid"


def test_persons_that_were_trained_on_are_counted_and_refused(home: Workspace) -> None:
    with pytest.raises(
        CohortError, match=r"trained on 8 persons of 'set' \(16 of 16 images\).*--allow-overlap"
    ):
        evaluate(home, on="set")
    done = evaluate(home, on="set", allow_overlap=True)
    assert done.record["overlap"] == {"images": 16, "persons": 8}


def test_a_picture_that_was_trained_on_is_known_under_another_person(home: Workspace) -> None:
    other = pd.read_parquet(home.set("other") / "images.parquet").set_index("PatientID")
    path = home.run("centroid") / "cohort.parquet"
    cohort = pd.read_parquet(path)
    cohort.loc[3, "source_sha256"] = other.loc["P000", "source_sha256"].iloc[0]
    cohort.to_parquet(path)
    with pytest.raises(CohortError, match=r"trained on 1 persons of 'other' \(1 of 8 images\)"):
        evaluate(home)
    # A blank picture is nobody's.
    cohort.loc[3, "constant"] = True
    cohort.to_parquet(path)
    assert evaluate(home).record["overlap"]["images"] == 0


def test_who_was_joined_later_with_whom_was_trained_on_is_known(home: Workspace) -> None:
    path = home.run("centroid") / "cohort.parquet"
    cohort = pd.read_parquet(path)
    images = pd.read_parquet(home.set("other") / "images.parquet")
    images["split_group"] = ["0" * 16] * 4 + images["split_group"].tolist()[4:]
    cohort.loc[0, "person"] = images.loc[0, "person"]
    cohort.to_parquet(path)
    assert images["person"].nunique() == 6
    assert prediction._count_overlap(path.parent, images) == {"images": 4, "persons": 1}


def test_predict_needs_no_label_and_counts_whom_it_knows(home: Workspace) -> None:
    done = prediction.predict(home, "pixels", "other", threads=1, device="cpu")
    predictions = pd.read_parquet(done.folder / "predictions.parquet")
    assert len(predictions) == 12
    assert "label" not in predictions
    assert done.metrics is None
    assert not (done.folder / "metrics.json").exists()
    again = prediction.predict(home, "pixels", "set", threads=1, device="cpu")
    assert again.record["overlap"] == {"images": 16, "persons": 8}


def test_a_model_that_changed_is_not_loaded(home: Workspace) -> None:
    with (home.run("centroid") / "fold-1" / "model" / "centroids.npy").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(TrainingError, match=r"fold-1 is damaged: model/centroids.npy changed"):
        evaluate(home)


def test_other_weights_than_the_model_was_trained_with_are_refused(
    home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WEIGHTS", "w2")
    with pytest.raises(TrainingError, match="its version or its weights have changed"):
        evaluate(home, "pixels")


def test_a_run_that_is_missing_or_unfinished_is_refused(home: Workspace) -> None:
    with pytest.raises(UsageError, match="no run 'nought' in this workspace; runs here: centroid"):
        evaluate(home, "nought")
    record = home.run("centroid") / "run.json"
    record.write_text(record.read_text().replace('"status": "done"', '"status": "failed"'))
    with pytest.raises(UsageError, match="not finished"):
        evaluate(home)
