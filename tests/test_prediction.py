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
from medkit.statistics.calibration import apply_temperature, measure_calibration
from medkit.testing import write_cohort, write_dicom
from medkit.training import application, prediction
from medkit.training import run as training
from medkit.workspace import Workspace, read_json, write_json


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
        predictions[["raw:yak", "raw:zebra"]], np.mean(models, axis=0), atol=1e-12
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
    monkeypatch.setattr(application, "follow_child", None)
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


# A run's calibration and threshold.


def make_unsure(home: Workspace, run: str = "centroid") -> pd.DataFrame:
    """Give a run other out-of-fold predictions, some of them wrong, as if it came from before."""
    path = home.run(run) / "predictions.parquet"
    table = pd.read_parquet(path)
    random = np.random.default_rng(0)
    right = np.where(random.random(len(table)) < 0.2, 0.01, 0.99)
    zebra = np.where(table["label"] == "zebra", right, 1 - right) - random.random(len(table)) / 200
    table["p:zebra"], table["p:yak"] = zebra, 1 - zebra
    table.to_parquet(path)
    (home.run(run) / "calibration.json").unlink()
    (home.run(run) / "domain.json").unlink()
    return table


def test_a_run_ends_with_its_calibration_and_its_domain(home: Workspace) -> None:
    calibration = read_json(home.run("centroid") / "calibration.json")
    assert calibration["images"] == 16
    assert "out-of-fold predictions" in calibration["fitted_on"]
    assert len(calibration["cross_fitted"]["temperatures"]) == 2
    assert calibration["youden"]["sensitivity"] == 1
    domain = read_json(home.run("centroid") / "domain.json")
    assert domain["modality"] == {"CT": 8, "MR": 8}
    assert (domain["rows"], domain["spacing"]) == ([32, 32], [1, 1])


def test_new_predictions_are_calibrated_by_the_run_alone(home: Workspace) -> None:
    trained = make_unsure(home)
    done = evaluate(home)
    calibration = read_json(home.run("centroid") / "calibration.json")
    temperature = calibration["temperature"]
    assert temperature > 1.5
    predictions = pd.read_parquet(done.folder / "predictions.parquet")
    raw, calibrated = (predictions[[f"{kind}:yak", f"{kind}:zebra"]] for kind in ("raw", "p"))
    np.testing.assert_allclose(calibrated, apply_temperature(raw.to_numpy(), temperature))
    labels = (predictions["label"] == "zebra").to_numpy(int)
    assert done.metrics["calibration"] == {
        "temperature": temperature,
        "before": measure_calibration(labels, raw.to_numpy()),
        "after": measure_calibration(labels, calibrated.to_numpy()),
    }
    assert done.metrics["metrics"]["log_loss"]["value"] == pytest.approx(
        done.metrics["calibration"]["after"]["log_loss"]
    )
    # What the run claims of itself is not calibrated.
    left = pd.read_parquet(home.run("centroid") / "predictions.parquet")
    pd.testing.assert_frame_equal(left, trained)


@pytest.mark.parametrize(
    ("rule", "sensitivity"), [("1", 0), ("sensitivity=1", 1), ("youden", None)]
)
def test_the_threshold_is_locked_and_the_metrics_are_at_it(
    rule: str, sensitivity: float | None, home: Workspace
) -> None:
    make_unsure(home)
    done = evaluate(home, threshold=rule)
    decision, metrics, predictions = done.record["decision"], done.metrics, done.predictions
    assert metrics["decision"] == decision
    assert decision["rule"] == rule
    expected = np.where(predictions["p:zebra"] >= decision["threshold"], "zebra", "yak")
    assert predictions["predicted"].tolist() == expected.tolist()
    confusion = pd.crosstab(predictions["label"], predictions["predicted"])
    confusion = confusion.reindex(index=["yak", "zebra"], columns=["yak", "zebra"], fill_value=0)
    assert metrics["confusion"] == confusion.to_numpy().tolist()
    found = confusion.loc["zebra", "zebra"] / 4
    assert metrics["metrics"]["sensitivity"]["value"] == found
    assert found == (found if sensitivity is None else sensitivity)


def test_labels_of_the_other_set_move_no_threshold(home: Workspace) -> None:
    make_unsure(home)
    first = evaluate(home, threshold="youden").record["decision"]
    again = prediction.predict(home, "centroid", "other", threshold="youden", device="cpu")
    assert again.record["decision"] == first


def test_another_threshold_is_another_evaluation(home: Workspace) -> None:
    make_unsure(home)
    evaluate(home)
    with pytest.raises(UsageError, match=r"e' was made with other arguments: decision was"):
        evaluate(home, threshold="youden")


# New images.


@pytest.fixture(scope="module")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of a site that no catalog knows, with what else lies about."""
    inbox = tmp_path_factory.mktemp("site") / "inbox"
    folder = write_cohort(inbox, persons=4, per_person=1, size=32, seed=11)
    (folder / "P000" / "0.dcm").rename(folder / "=cmd.dcm")
    (folder / "notes.txt").write_text("hello")
    broken = folder / "broken.dcm"
    broken.write_bytes((folder / "P001" / "0.dcm").read_bytes()[:200])
    cut = folder / "cut.dcm"
    cut.write_bytes((folder / "P002" / "0.dcm").read_bytes()[:-500])
    write_dicom(
        folder / "scout.dcm",
        np.ones((32, 32), np.uint16),
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )
    write_dicom(folder / "us.dcm", np.arange(1024, dtype=np.uint16).reshape(32, 32), Modality="US")
    return folder


def predict_paths(home: Workspace, *paths: Path, **changes: Any) -> Any:
    arguments = {"threads": 1, "device": "cpu", "workers": 0, **changes}
    return prediction.predict_paths(home, "centroid", paths, **arguments)


@pytest.fixture(scope="module")
def predicted(trained: Path, inbox: Path) -> Any:
    """What becomes of them."""
    before = sorted((trained / "catalog").rglob("*"))
    done = predict_paths(Workspace(trained), inbox)
    assert sorted((trained / "catalog").rglob("*")) == before
    return done


def test_new_images_are_predicted_and_all_that_was_found_is_accounted_for(
    predicted: Any, inbox: Path
) -> None:
    done, predictions = predicted, predicted.predictions
    assert predictions["path"].tolist() == sorted(
        str(path) for path in (inbox / "=cmd.dcm", *inbox.glob("P*/0.dcm"))
    )
    by_path = predictions.set_index("path")["predicted"]
    assert by_path[str(inbox / "P001" / "0.dcm")] == "yak"
    assert by_path[str(inbox / "P002" / "0.dcm")] == "zebra"
    refused = done.refused.set_index("path")
    assert set(refused.index) == {str(inbox / f"{n}.dcm") for n in ("broken", "cut", "us")}
    assert refused.loc[str(inbox / "us.dcm"), "detail"] == "modality: US (trained on CT, MR)"
    counts = done.record["counts"]
    assert counts["set_aside"] == {"localizer": 1, "text": 1}
    assert counts["predicted"] == 4
    assert counts["found"] == sum(path.is_file() for path in inbox.rglob("*")) == 9
    assert counts["found"] == 4 + sum(counts["refused"].values()) + 2


def test_they_are_normalised_by_the_recipe_of_the_run(predicted: Any, trained: Path) -> None:
    run = read_json(Workspace(trained).run("centroid") / "run.json")
    made = read_json(predicted.folder / "intake" / "set" / "set.json")
    assert made["recipe"] == run["recipe"]
    assert made["recipe"]["size"] == [32, 32]


def test_the_same_image_is_predicted_alike_in_a_set_and_as_a_file(home: Workspace) -> None:
    of_set = prediction.predict(home, "centroid", "other", threads=1, device="cpu").predictions
    of_files = predict_paths(home, *map(Path, of_set["path"])).predictions
    columns = ["path", "SOPInstanceUID", "p:yak", "raw:yak", "predicted"]
    pd.testing.assert_frame_equal(
        of_set[columns].sort_values("path", ignore_index=True),
        of_files[columns].sort_values("path", ignore_index=True),
    )


def test_persons_that_were_trained_on_are_known_again(home: Workspace) -> None:
    trained = pd.read_parquet(home.set("set") / "images.parquet")
    done = predict_paths(home, Path(trained["root"][0], trained["path"][0]))
    assert done.record["overlap"] == {"images": 1, "persons": 1}


def test_only_what_changed_is_predicted_again(
    predicted: Any, home: Workspace, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(application, "follow_child", None)
        again = predict_paths(home, inbox)
    assert again.repeated
    assert again.record == predicted.record
    write_cohort(inbox / "more", persons=1, per_person=1, size=32, seed=12)
    grown = predict_paths(home, inbox)
    assert grown.folder.name == predicted.folder.name
    assert not grown.repeated
    assert len(grown.predictions) == 5
    shutil.rmtree(inbox / "more")
    pd.testing.assert_frame_equal(predict_paths(home, inbox).predictions, predicted.predictions)


def test_a_break_anywhere_changes_nothing(
    predicted: Any, home: Workspace, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    for broken in ("judge", "follow_child", "write_table"):
        with monkeypatch.context() as patch:
            patch.setattr(application, broken, stop)
            with pytest.raises(KeyboardInterrupt):
                predict_paths(home, inbox, name="broken")
    done = predict_paths(home, inbox, name="broken")
    pd.testing.assert_frame_equal(done.predictions, predicted.predictions)
    pd.testing.assert_frame_equal(done.refused, predicted.refused)
    assert done.record["content"] == predicted.record["content"]


def test_outside_the_domain_is_predicted_if_asked_for(home: Workspace, inbox: Path) -> None:
    done = predict_paths(home, inbox, outside_domain=True)
    assert done.record["outside_domain"]
    assert done.record["counts"]["predicted"] == 5
    warnings = done.predictions.set_index("path")["warnings"]
    assert warnings[str(inbox / "us.dcm")] == "modality: US (trained on CT, MR)"
    assert done.record["warnings"] == {"modality": 1}


def test_if_all_lie_outside_the_domain_there_is_an_answer_without_predictions(
    home: Workspace, inbox: Path
) -> None:
    done = predict_paths(home, inbox / "us.dcm")
    assert done.record["counts"] == {
        **{"found": 1, "predicted": 0},
        **{"refused": {"outside-domain": 1}, "set_aside": {}},
    }
    assert done.predictions.empty


def test_evaluate_sets_aside_nothing_silently(home: Workspace) -> None:
    domain = read_json(home.run("centroid") / "domain.json")
    write_json(home.run("centroid") / "domain.json", domain | {"modality": {"CT": 16}})
    done = evaluate(home)
    counts = done.record["counts"]
    assert counts["refused"] == {"outside-domain": 4}
    assert counts["found"] == 12
    assert counts["predicted"] == done.metrics["images"] == 4
    assert evaluate(home, outside_domain=True, name="all").metrics["images"] == 8
    write_json(home.run("centroid") / "domain.json", domain | {"modality": {"XA": 16}})
    with pytest.raises(CohortError, match="every image lies outside"):
        evaluate(home, name="none")


def test_a_run_of_before_is_given_its_domain_if_its_set_is_as_it_was(home: Workspace) -> None:
    expected = read_json(home.run("centroid") / "domain.json")
    make_unsure(home)
    evaluate(home)
    assert read_json(home.run("centroid") / "domain.json") == expected
    (home.run("centroid") / "domain.json").unlink()
    shutil.rmtree(home.set("set"))
    done = evaluate(home, name="later")
    assert "not known what the run was trained on" in done.record["notes"][0]


def test_pictures_are_predicted_too(home: Workspace, tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (40, 30), dtype=np.uint8)
    for name in ("a.png", "b.jpg", "c.tif"):
        Image.fromarray(pixels).save(tmp_path / name)
    files = [tmp_path / name for name in ("a.png", "b.jpg", "c.tif")]
    refused = predict_paths(home, *files)
    assert set(refused.refused["detail"]) == {"modality: unknown (trained on CT, MR)"}
    done = predict_paths(home, *files, outside_domain=True)
    assert done.predictions["path"].tolist() == [str(file) for file in files]


def test_what_cannot_be_predicted_at_all_is_said(home: Workspace, inbox: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing can be predicted.*broken\.dcm: "):
        predict_paths(home, inbox / "broken.dcm")
    with pytest.raises(UsageError, match="there is no file or folder"):
        predict_paths(home, inbox / "nought")
    with pytest.raises(UsageError, match="holds the workspace"):
        predict_paths(home, home.root.parent)
    with pytest.raises(UsageError, match="no threshold"):
        predict_paths(home, inbox, threshold="high")
    assert not (home.root / "evaluations" / "nought").exists()


def test_a_file_within_a_folder_that_is_given_too_is_one_image(
    home: Workspace, inbox: Path
) -> None:
    file = inbox / "P001" / "0.dcm"
    done = predict_paths(home, file, inbox / "P001", file)
    assert done.predictions["path"].tolist() == [str(file)]
