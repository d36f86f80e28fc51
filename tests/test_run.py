"""Runs: cross-validated, checked, resumed after any end, and never shown a test label."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from faketrainer import CENTROID, FEATURES, install, make_workspace

from medkit.cohort.leaks import Finding, Leaks
from medkit.engine import silent
from medkit.errors import CohortError, TrainingError, UsageError
from medkit.statistics.linear import LinearHead
from medkit.training import run as training
from medkit.training import scheduling
from medkit.training.child import Event
from medkit.training.course import Course
from medkit.training.head import list_notes
from medkit.training.job import read_job
from medkit.workspace import Workspace, read_json

RESULTS = ("predictions.parquet", "metrics.json")


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The made-up trainers are installed while these tests run."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "fake-centroid", CENTROID, names=("centroid",))
    install(folder, "fake-pixels", FEATURES, names=("pixels",))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def unbroken(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the centroid trainer that nothing disturbed."""
    workspace = Workspace(tmp_path_factory.mktemp("unbroken") / "workspace")
    shutil.copytree(prepared, workspace.root)
    return train(workspace).folder


@pytest.fixture
def home(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace of its own."""
    monkeypatch.setenv("COUNTED", str(tmp_path / "counted"))
    shutil.copytree(prepared, tmp_path / "workspace")
    return Workspace(tmp_path / "workspace")


def train(workspace: Workspace, plugin: str = "centroid", **changes: Any) -> training.Finished:
    arguments = {"label": "animal", "folds": 2, "threads": 1, "device": "cpu", "name": "run"}
    with workspace.lock():
        return training.train(workspace, "set", plugin, **{**arguments, **changes})


def results(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in RESULTS}


def describe_folds(folder: Path) -> list[tuple[str, str | None]]:
    return [(fold["status"], fold["error"]) for fold in read_json(folder / "run.json")["folds"]]


def test_every_image_is_predicted_once_by_a_model_that_never_saw_its_person(
    unbroken: Path,
) -> None:
    predictions = pd.read_parquet(unbroken / "predictions.parquet")
    assert predictions["image"].tolist() == list(range(16))
    np.testing.assert_allclose(predictions[["p:yak", "p:zebra"]].sum(axis=1), 1)
    for fold in range(2):
        parts = {
            part: set(np.load(unbroken / f"fold-{fold}" / "parts" / f"{part}-persons.npy"))
            for part in ("train", "validation")
        }
        tested = set(predictions.loc[predictions["fold"] == fold, "person"])
        assert not parts["train"] & parts["validation"]
        assert not tested & (parts["train"] | parts["validation"])
        assert tested | parts["train"] | parts["validation"] == set(predictions["person"])


def test_the_record_says_with_what(unbroken: Path) -> None:
    record = read_json(unbroken / "run.json")
    assert record["status"] == "done"
    assert (record["distribution"], record["version"]) == ("fake-centroid", "1.2.3")
    assert record["params"] == {"size": 32, "epochs": 3, "pause": 0.0}
    assert record["classes"] == ["yak", "zebra"]
    assert record["leaks"]["ok"]
    assert [fold["status"] for fold in record["folds"]] == ["done", "done"]
    assert record["weights"] is None
    metrics = read_json(unbroken / "metrics.json")
    assert metrics["images"] == 16
    assert metrics["metrics"]["auc"]["value"] > 0.9
    assert metrics["looks"] == [
        {"fold": fold, "number": 3, "best": -1 / 3, "chosen": -1 / 3} for fold in range(2)
    ]


def test_what_a_trainer_prints_is_in_the_log(unbroken: Path) -> None:
    assert (unbroken / "log.txt").read_text().count("noise on standard output") == 2


def test_no_file_of_a_fold_holds_a_label_of_its_test_part(unbroken: Path) -> None:
    for fold in range(2):
        folder = unbroken / f"fold-{fold}" / "parts"
        assert sorted(path.name for path in folder.iterdir()) == [
            *("test.npy", "train-labels.npy", "train-persons.npy", "train.npy"),
            *("validation-labels.npy", "validation-persons.npy", "validation.npy"),
        ]
        labelled = [np.load(folder / f"{part}.npy") for part in ("train", "validation")]
        assert not set(np.load(folder / "test.npy")) & set(np.concatenate(labelled))
        for part, images in zip(("train", "validation"), labelled, strict=True):
            assert len(np.load(folder / f"{part}-labels.npy")) == len(images)
    # The label came from a CSV: neither the set nor the job tells which image has which.
    job, _ = read_job(unbroken)
    table = pd.read_parquet(Path(job.set_folder) / "images.parquet")
    assert not table.isin(["yak", "zebra"]).any().any()


def test_a_trainer_is_not_told_where_an_image_comes_from(unbroken: Path) -> None:
    """A folder's name or a tag can be the label."""
    log = (unbroken / "log.txt").read_text()
    told = next(line for line in log.splitlines() if line.startswith("columns ")).split()
    assert "pixels_sha256" in told
    assert not {"path", "root", "file", "PatientID", "Modality", "split_group"} & {*told}


def test_the_same_command_again_does_nothing(unbroken: Path) -> None:
    workspace = Workspace(unbroken.parent.parent)
    before = {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduling, "Child", None)
        again = train(workspace)
    assert again.repeated
    assert {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")} == before


def test_the_same_name_with_other_arguments_is_refused(unbroken: Path) -> None:
    workspace = Workspace(unbroken.parent.parent)
    with pytest.raises(UsageError, match="seed was 0 and is now 1"):
        train(workspace, seed=1)
    with pytest.raises(UsageError, match=r"params was .*'size': 32.* is now .*'size': 4"):
        train(workspace, options={"size": "4"})


def test_an_equal_run_elsewhere_has_equal_bytes_and_a_name_of_its_own(
    unbroken: Path, home: Workspace
) -> None:
    again = train(home, name=None)
    assert results(again.folder) == results(unbroken)
    assert again.name.startswith("set-animal-centroid-")


FAULTS = {
    "raise": "RuntimeError: the loss is lost",
    "exit": "ended with exit code 7; its last words: .*last words",
    "kill": "was ended by SIGKILL",
    "nan": "NaN or infinity for",
    "shape": "it must give floating-point numbers of shape",
    "sums": "rows that sum to between 0.5 and 0.5",
    "range": "probabilities lie between 0 and 1",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fold_that_fails_is_named_and_the_others_are_kept(
    fault: str, unbroken: Path, home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "kill" and os.name != "posix":
        pytest.skip("ends a process by a POSIX signal")
    monkeypatch.setenv("FAKE_FAULT", f"{fault}:0")
    with pytest.raises(TrainingError, match=f"1 of 2 folds .* fold 0: .*{FAULTS[fault]}"):
        train(home)
    folder = home.run("run")
    assert read_json(folder / "run.json")["status"] == "failed"
    assert [status for status, _ in describe_folds(folder)] == ["failed", "done"]
    assert not (folder / "metrics.json").exists()
    if fault in ("kill", "nan"):
        kept = (folder / "fold-1" / "done.json").stat().st_mtime_ns
        monkeypatch.delenv("FAKE_FAULT")
        train(home)
        assert (folder / "fold-1" / "done.json").stat().st_mtime_ns == kept
        assert describe_folds(folder) == [("done", None), ("done", None)]
        assert results(folder) == results(unbroken)


@pytest.mark.skipif(os.name != "posix", reason="ends a process by a POSIX signal")
def test_a_run_is_resumed_from_its_record_and_no_finished_fold_is_run_again(
    unbroken: Path, home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAULT", "kill:1")
    asked = {"options": {"pause": "0.01"}, "seed": 0, "validation_share": 0.15}
    with pytest.raises(TrainingError, match="1 of 2 folds"):
        train(home, **asked)
    monkeypatch.delenv("FAKE_FAULT")
    events: list[Event] = []
    done = training.resume(home, "run", watch=events.append)
    assert results(done.folder) == results(unbroken)
    assert done.record["params"]["pause"] == 0.01
    assert [event["fold"] for event in events if event["event"] == "started"] == [1]
    # The checkpoint of fold 1 had one epoch of three.
    progress = [event["done"] for event in events if event["event"] == "progress"]
    assert progress[0] > 1
    log = (done.folder / "log.txt").read_text()
    assert log.count("noise on standard output") == 3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", None)
        again = training.resume(home, "run")
    assert (again.repeated, again.metrics) == (True, done.metrics)


def test_a_run_that_is_not_there_cannot_be_resumed_and_those_that_can_are_listed(
    unbroken: Path, home: Workspace
) -> None:
    for name, status in (("half", "failed"), ("cut", "running"), ("whole", "done")):
        home.run(name).mkdir(parents=True)
        (home.run(name) / "run.json").write_text(json.dumps({"status": status}))
    with pytest.raises(UsageError, match=r"no run 'lost' .* gone on with: cut, half$"):
        training.resume(home, "lost")


def test_a_child_that_comes_to_no_fold_ends_the_run(
    home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAULT", "import:")
    with pytest.raises(TrainingError, match=r"fake-centroid 1\.2\.3.*no GPU.*more is in .*log.txt"):
        train(home)
    assert read_json(home.run("run") / "run.json")["status"] == "failed"


@pytest.fixture
def started(home: Workspace) -> Iterator[subprocess.Popen[bytes]]:
    """The command line, training slowly in a process of its own, inside its first fold."""
    command = ["train", "set", "--plugin", "centroid", "--label", "animal", "--folds", "2"]
    options = ["--threads", "1", "--device", "cpu", "--name", "run", "-p", "pause=0.2"]
    host = subprocess.Popen(
        [sys.executable, "-m", "medkit", *command, *options, "-w", str(home.root)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Whoever was started in the background ignores Ctrl-C, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    checkpoint = home.run("run") / "fold-0" / "checkpoints" / "epoch.json"
    wait_for(checkpoint.exists)
    yield host
    host.kill()
    host.wait()


def wait_for(condition: Any, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.02)


@pytest.mark.skipif(os.name != "posix", reason="kills a process by a POSIX signal")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_host_that_is_ended_takes_its_child_with_it_and_the_run_goes_on(
    how: signal.Signals, started: subprocess.Popen[bytes], unbroken: Path, home: Workspace
) -> None:
    (child,) = psutil.Process(started.pid).children()
    started.send_signal(how)
    started.wait(30)
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running()
    assert read_json(home.run("run") / "run.json")["status"] == "running"
    done = train(home, options={"pause": "0.2"})
    assert results(done.folder) == results(unbroken)
    log = (done.folder / "log.txt").read_text()
    assert ("stopped in epoch" in log) == (how == signal.SIGINT)
    assert [look["number"] for look in done.metrics["looks"]] == [3, 3]


def test_a_linear_head_is_solved_by_the_host_on_features_computed_once(home: Workspace) -> None:
    done = train(home, "pixels", threads=2)
    assert done.metrics["metrics"]["auc"]["value"] > 0.9
    assert counted() == 16
    assert done.record["weights"]["name"] == "none"
    assert done.record["validation_share"] == 0
    assert len(np.load(done.folder / "fold-0" / "parts" / "validation.npy")) == 0
    assert {path.name for path in (done.folder / "fold-1" / "model").iterdir()} == {
        *("head.json", "weights.npy", "bias.npy"),
    }
    # Each strength that was tried is a look at the inner folds.
    assert all(look["number"] > 1 for look in done.metrics["looks"])
    again = train(home, "pixels", threads=2, name="again", seed=3)
    assert counted() == 16
    assert again.metrics["metrics"]["auc"]["value"] > 0.9


def test_features_that_are_no_numbers_end_the_run_and_name_the_images(
    home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAULT", "nan")
    with pytest.raises(TrainingError, match="NaN or infinity for image"):
        train(home, "pixels")
    assert read_json(home.run("run") / "run.json")["status"] == "failed"


def counted() -> int:
    return sum(map(int, Path(os.environ["COUNTED"]).read_text().split()))


def test_leaks_are_refused_unless_allowed(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = Finding("source_sha256", "the same picture", 1, 2, ({"paths": ["a/b.dcm"]},))

    def prepare(*arguments: Any) -> Any:
        prepared = prepare_folds(*arguments)
        return prepared._replace(leaks=Leaks(prepared.folds.key, 16, [finding], []))

    prepare_folds = training.prepare_folds
    monkeypatch.setattr(training, "prepare_folds", prepare)
    with pytest.raises(CohortError, match="the same picture"):
        train(home)
    assert not home.run("run").exists()
    done = train(home, allow_leaks=True)
    assert not done.record["leaks"]["ok"]


def test_a_trainer_of_another_task_is_refused(home: Workspace, tmp_path: Path) -> None:
    install(
        tmp_path / "other",
        "fake-other",
        CENTROID.replace('frozenset({"multiclass"})', 'frozenset({"multilabel"})'),
        names=("other",),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path / "other"))
        with pytest.raises(UsageError, match="'other' does multilabel"):
            train(home, "other")


def test_a_positive_class_that_is_none_is_refused_before_training(home: Workspace) -> None:
    with pytest.raises(UsageError, match="'lynx' cannot be the positive class"):
        train(home, positive="lynx")
    assert not home.run("run").exists()


def test_a_damaged_fold_is_fitted_again(unbroken: Path, home: Workspace) -> None:
    folder = home.run("run")
    shutil.copytree(unbroken, folder)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "status": "running"}))
    (folder / "fold-1" / "model" / "centroids.npy").write_bytes(b"")
    (folder / "metrics.json").unlink()
    train(home)
    assert results(folder) == results(unbroken)
    assert (folder / "log.txt").read_text().count("noise on standard output") == 3


def test_what_heads_say_stands_in_the_order_of_the_folds(tmp_path: Path) -> None:
    for fold in (1, 0):
        model = tmp_path / f"fold-{fold}" / "model"
        model.mkdir(parents=True)
        LinearHead(np.eye(2), np.zeros(2), 1.0, {}, (f"note {fold}", "more")).save(model)
    course = Course(tmp_path, {"k": 2, "classes": ["no", "yes"]}, silent)
    assert list_notes(course) == [
        "fold 0: note 0",
        "fold 0: more",
        "fold 1: note 1",
        "fold 1: more",
    ]
