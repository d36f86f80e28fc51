"""What is held out: no run sees it, one command opens it, and every opening is written down."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from faketrainer import CENTROID, FEATURES, install, make_workspace, run_here
from sklearn.metrics import balanced_accuracy_score

from medkit.cohort.folds import Folds
from medkit.cohort.openings import Opening, find_openings, read_openings, record_opening
from medkit.cohort.split import Split
from medkit.errors import CohortError, ImageSetError, UsageError, WorkspaceError
from medkit.evaluation.evidence import find_concerns, read_evidence
from medkit.evaluation.report import write_report
from medkit.training import prediction
from medkit.training import run as training
from medkit.training.prediction import evaluate, open_held_out
from medkit.workspace import Workspace, read_json, write_json

SPLIT = Split(hold_out=0.3)


def make_opening(persons: str = "abc", **changes: Any) -> Opening:
    asked = {
        **{"held_out": "1" * 16, "set_name": "set", "set_id": "0" * 16, "label": "finding"},
        **{"folds_key": "2" * 16, "images": 6, "persons": tuple(persons), "rule": "argmax"},
        **{"runs": ({"run": "first", "models": "f" * 16},), "outside": False},
    }
    return Opening(**{**asked, **changes})


SECOND = ({"run": "second", "models": "e" * 16},)


def test_the_first_opening_is_written_down_and_a_second_takes_knowing(workspace: Workspace) -> None:
    first = record_opening(workspace, make_opening())
    assert first.number == 1 and first.opened.endswith("+00:00")
    refused = r"3 of the 3 held-out persons .* once, last on .* first; .*--again"
    with pytest.raises(UsageError, match=refused):
        record_opening(workspace, make_opening(runs=SECOND))
    again = record_opening(workspace, make_opening(runs=SECOND), again=True)
    assert again.number == 2
    with pytest.raises(UsageError, match=r"2 times, last on .* with second"):
        record_opening(workspace, make_opening(rule="youden"))
    assert read_openings(workspace) == [first, again]


def test_the_same_asked_again_is_the_same_opening(workspace: Workspace) -> None:
    """As after a kill, or when somebody wants to see the number again."""
    first = record_opening(workspace, make_opening())
    before = workspace.openings.read_bytes()
    assert record_opening(workspace, make_opening()) == first
    assert record_opening(workspace, make_opening(), again=True) == first
    assert workspace.openings.read_bytes() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"rule": "youden"},
        {"outside": True},
        {"runs": SECOND},
        {"runs": ({"run": "first", "models": "0" * 16},)},  # trained again
        {"persons": ("a", "b", "c", "d")},
        {"held_out": "3" * 16, "persons": ("a",)},  # made anew: some persons were seen
    ],
)
def test_whatever_is_asked_besides_is_another_opening(
    workspace: Workspace, changes: dict[str, Any]
) -> None:
    record_opening(workspace, make_opening())
    with pytest.raises(UsageError, match="looked at before"):
        record_opening(workspace, make_opening(**changes))


def test_several_runs_can_be_one_opening(workspace: Workspace) -> None:
    both = make_opening(runs=(*make_opening().runs, *SECOND))
    first = record_opening(workspace, both)
    assert record_opening(workspace, make_opening(runs=SECOND)) == first


def test_other_persons_are_opened_for_the_first_time(workspace: Workspace) -> None:
    record_opening(workspace, make_opening())
    other = record_opening(workspace, make_opening("xyz", held_out="4" * 16))
    assert other.number == 1
    assert find_openings(read_openings(workspace), "cx") == read_openings(workspace)
    assert find_openings(read_openings(workspace), "zq") == [other]


@pytest.mark.parametrize("damage", ["removed", "changed", "swapped", "added", "text"])
def test_a_ledger_that_was_changed_is_refused(workspace: Workspace, damage: str) -> None:
    for name in ("one", "two", "three"):
        runs = ({"run": name, "models": "f" * 16},)
        record_opening(workspace, make_opening(runs=runs), again=True)
    lines = workspace.openings.read_bytes().splitlines(keepends=True)
    changed = {
        "removed": lines[1:],
        "changed": [lines[0].replace(b"one", b"1ne"), *lines[1:]],
        "swapped": [lines[1], lines[0], lines[2]],
        "added": [*lines, lines[2]],
        "text": [*lines, b"opened once\n"],
    }[damage]
    workspace.openings.write_bytes(b"".join(changed))
    with pytest.raises(WorkspaceError, match=r"line \d of .*openings.jsonl is not what was"):
        record_opening(workspace, make_opening("xyz"))


def test_lines_are_json_and_never_rewritten(workspace: Workspace) -> None:
    record_opening(workspace, make_opening(command=("medkit", "open", "first")))
    before = workspace.openings.read_bytes()
    record_opening(workspace, make_opening(runs=SECOND), again=True)
    after = workspace.openings.read_bytes()
    assert after.startswith(before)
    told = [json.loads(line) for line in after.splitlines()]
    assert [one["number"] for one in told] == [1, 2]
    assert told[0]["command"] == ["medkit", "open", "first"]
    assert told[0]["persons"] == ["a", "b", "c"]


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The made-up trainers are installed while these tests run."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "fake-centroid", CENTROID, names=("centroid", "other"))
    install(folder, "fake-pixels", FEATURES, names=("pixels",))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("COUNTED", str(folder / "counted"))
        yield


def train(workspace: Workspace, plugin: str = "centroid", **changes: Any) -> training.Finished:
    arguments = {"label": "animal", "folds": 2, "threads": 1, "device": "cpu", "split": SPLIT}
    with workspace.lock():
        return training.train(workspace, "set", plugin, **{**arguments, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two runs that hold out the same, and one that holds nothing out."""
    workspace = Workspace(make_workspace(tmp_path_factory.mktemp("trained"), persons=14))
    train(workspace, name="run")
    train(workspace, "pixels", name="linear")
    train(workspace, name="whole", split=Split())
    return workspace


@pytest.fixture
def home(trained: Workspace, tmp_path: Path) -> Workspace:
    shutil.copytree(trained.root, tmp_path / "workspace")
    return Workspace(tmp_path / "workspace")


def load_folds(workspace: Workspace, run: str = "run") -> Folds:
    key = read_json(workspace.run(run) / "run.json")["folds_key"]
    return Folds.load(workspace.folds / f"{key}.parquet")


@pytest.mark.parametrize("run", ["run", "linear"])
def test_no_file_of_a_run_names_an_image_that_is_held_out(trained: Workspace, run: str) -> None:
    held = set(load_folds(trained).held_out["image"])
    assert len(held) == 8
    folder = trained.run(run)
    arrays = [
        np.load(path)
        for path in folder.rglob("*.npy")
        if path.name in ("images.npy", "train.npy", "validation.npy", "test.npy")
    ]
    assert len(arrays) >= 7
    assert not any(held & set(array.tolist()) for array in arrays)
    for name in ("cohort.parquet", "predictions.parquet"):
        assert not held & set(pd.read_parquet(folder / name)["image"])
    record = read_json(folder / "run.json")
    assert record["held_out"]["images"] == 8 and record["split"]["hold_out"] == 0.3


def test_opening_measures_the_ensemble_of_all_folds(home: Workspace) -> None:
    opening, (done,) = open_held_out(home, ["run"], device="cpu", threads=1)
    held = load_folds(home).held_out
    predictions = done.predictions
    assert sorted(predictions["image"]) == sorted(held["image"])
    assert not set(predictions["person"]) & set(load_folds(home).table["split_group"])
    every = [np.load(done.folder / f"{fold}.npy") for fold in range(2)]
    raw = predictions.sort_values("image")[["raw:yak", "raw:zebra"]]
    np.testing.assert_allclose(np.mean(every, axis=0), raw, atol=1e-6)
    assert done.metrics is not None
    found = done.metrics["metrics"]["balanced_accuracy"]["value"]
    assert found == pytest.approx(
        balanced_accuracy_score(predictions["label"], predictions["predicted"])
    )
    assert done.record["overlap"] == {"images": 0, "persons": 0}
    assert done.record["held_out"] == opening.held_out == load_folds(home).held_out_id


def test_it_is_opened_once_for_all_runs_and_again_only_knowingly(home: Workspace) -> None:
    opening, _ = open_held_out(home, ["run"], device="cpu", threads=1)
    _, (repeated,) = open_held_out(home, ["run"], device="cpu", threads=1)
    assert repeated.repeated and read_openings(home) == [opening]
    with pytest.raises(UsageError, match=r"looked at before, once, last on .* with run"):
        open_held_out(home, ["linear"], device="cpu", threads=1)
    assert not any("linear" in name for name in home.names("evaluations"))
    second, (done,) = open_held_out(home, ["linear"], again=True, device="cpu", threads=1)
    assert second.number == 2 and done.metrics
    assert [one.number for one in read_openings(home)] == [1, 2]
    texts = [one.text for one in find_concerns(read_evidence(home.run("run"), home))]
    assert any("held-out persons were looked at 2 times" in text for text in texts)


def test_the_report_says_whether_what_is_held_out_was_opened(home: Workspace) -> None:
    def read_page() -> str:
        return write_report(home.run("run"), home).read_text(encoding="utf-8")

    assert "Not opened yet" in read_page()
    opening, _ = open_held_out(home, ["run"], device="cpu", threads=1)
    assert f"Opened on {opening.opened[:10]} with <bdi>run</bdi>" in read_page()


def test_two_runs_are_one_opening(home: Workspace) -> None:
    opening, measured = open_held_out(home, ["run", "linear"], device="cpu", threads=1)
    assert [one["run"] for one in opening.runs] == ["run", "linear"]
    assert len(measured) == 2 and len(read_openings(home)) == 1


def test_it_is_written_down_before_anything_is_measured(
    home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who stops it when the first number is shown has looked."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prediction, "apply", stop)
        with pytest.raises(KeyboardInterrupt):
            open_held_out(home, ["run"], device="cpu", threads=1)
    (opening,) = read_openings(home)
    again, (done,) = open_held_out(home, ["run"], device="cpu", threads=1)
    assert again == opening and done.metrics


@pytest.mark.skipif(os.name != "posix", reason="kills a process by a POSIX signal")
@pytest.mark.parametrize("when", ["written", "predicting"])
def test_an_opening_that_was_killed_goes_on_as_the_same_one(home: Workspace, when: str) -> None:
    """After kill -9 the ledger has it once, and the numbers are those of an unbroken one."""
    evaluations = home.root / "evaluations"
    process = subprocess.Popen(
        [sys.executable, "-m", "medkit", "open", "run", "--device", "cpu", "--threads", "1"],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(sys.path), "MEDKIT_WORKSPACE": str(home.root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 120
    while not (
        home.openings.exists() if when == "written" else any(evaluations.glob("*/job.json"))
    ):
        assert time.monotonic() < until and process.poll() is None, "nothing happened"
        time.sleep(0.005)
    process.kill()
    process.wait()
    (before,) = read_openings(home)
    opening, (done,) = open_held_out(home, ["run"], device="cpu", threads=1)
    assert opening == before and opening.number == 1
    assert read_openings(home) == [before]
    assert not list(home.root.glob(".*.part"))
    shutil.rmtree(done.folder)
    _, (unbroken,) = open_held_out(home, ["run"], device="cpu", threads=1)
    assert unbroken.metrics == done.metrics
    assert unbroken.predictions.equals(done.predictions)


def test_runs_that_hold_out_nothing_or_something_else_are_refused(home: Workspace) -> None:
    with pytest.raises(UsageError, match="'whole' holds nothing out"):
        open_held_out(home, ["run", "whole"])
    record = read_json(home.run("linear") / "run.json")
    write_json(home.run("linear") / "run.json", record | {"held_out": {"id": "other"}})
    with pytest.raises(UsageError, match=r"do not hold out the same images: run .*, linear other"):
        open_held_out(home, ["run", "linear"])
    assert not home.openings.exists()


def test_evaluate_does_not_go_round_the_ledger(home: Workspace) -> None:
    with pytest.raises(CohortError, match=r"holds out 4 of these persons \(8 images\).*open run"):
        evaluate(home, "run", "set", label="animal", allow_overlap=True)


def test_a_set_that_changed_since_is_refused(
    home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folds = load_folds(home)
    monkeypatch.setattr(prediction.Folds, "load", lambda path: replace(folds, set_id="f" * 16))
    with pytest.raises(ImageSetError, match="made anew, or has grown"):
        open_held_out(home, ["run"])
    assert not home.openings.exists()


def test_a_run_with_something_held_out_is_gone_on_with(home: Workspace) -> None:
    """The record alone says how persons were split."""
    path = home.run("run") / "run.json"
    record = read_json(path)
    write_json(path, record | {"status": "running"})
    with home.lock():
        done = training.resume(home, "run")
    assert done.record["folds_key"] == record["folds_key"] and done.record["status"] == "done"


def test_repeats_hold_out_the_same_and_have_one_summary(home: Workspace) -> None:
    arguments = ["train", "set", "--plugin", "centroid", "--label", "animal", "--folds", "2"]
    more = ["--hold-out", "0.3", "--repeats", "3", "--name", "often", "--threads", "1"]
    run_here([*arguments, *more, "--device", "cpu", "-w", str(home.root)])
    runs = [read_json(home.run(f"often-r{n}") / "run.json") for n in (1, 2, 3)]
    assert [run["seed"] for run in runs] == [0, 1, 2]
    assert len({run["folds_key"] for run in runs}) == 3
    assert len({run["held_out"]["id"] for run in runs}) == 1
    (path,) = (home.root / "reports").glob("repeats-*.json")
    summary = read_json(path)
    values = [
        read_json(home.run(f"often-r{n}") / "metrics.json")["metrics"]["auc"]["value"]
        for n in (1, 2, 3)
    ]
    assert summary["metrics"]["auc"]["values"] == pytest.approx(values)
    assert summary["metrics"]["auc"]["value"] == pytest.approx(np.mean(values))
    assert summary["metrics"]["auc"]["deviation"] == pytest.approx(np.std(values, ddof=1))
    assert summary["seeds"] == [0, 1, 2]


def test_sites_are_left_out_one_by_one(home: Workspace, tmp_path: Path) -> None:
    rows = [f"P{n:03d},{['north', 'south', 'west'][n // 2 % 3]}" for n in range(14)]
    (tmp_path / "site.csv").write_text("PatientID,site\n" + "\n".join(rows) + "\n")
    run_here(["label", "site", "--csv", str(tmp_path / "site.csv"), "-w", str(home.root)])
    done = train(home, name="sites", split=Split(by="site"))
    assert done.record["fold_names"] == ["north", "south", "west"]
    assert len(done.metrics["folds"]) == 3
    predictions = pd.read_parquet(done.folder / "predictions.parquet")
    assert predictions.groupby("fold")["person"].nunique().tolist() == [6, 4, 4]


def test_the_command_opens_and_says_how_often(
    home: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--device", "cpu", "--threads", "1", "-w", str(home.root)]
    run_here(["open", "run", *where])
    assert "opened for the first time" in "".join(capsys.readouterr())
    with pytest.raises(SystemExit) as end:
        run_here(["open", "linear", *where])
    assert end.value.code == 2 and "--again" in capsys.readouterr().err
    run_here(["open", "linear", "--again", "--json", *where])
    told = json.loads(capsys.readouterr().out)
    assert told["opening"]["number"] == 2
    assert told["evaluations"][0]["evaluation"]["run"] == "linear"
