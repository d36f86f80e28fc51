"""Runs whose procedure has its own interval, and what is printed of any run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from faketrainer import CENTROID, FEATURES, install, make_workspace, run_here

from medkit.errors import TrainingError, UsageError
from medkit.training import refits
from medkit.training import run as training
from medkit.training.measurement import list_groups, permute_labels, read_metrics
from medkit.training.refits import list_fits, tell_cost
from medkit.workspace import Workspace, read_json

FITS = 3 + (3 + 3)  # pairs of three folds, and a second division with its own folds


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The made-up trainers are installed while these tests run."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "fake-centroid", CENTROID, names=("centroid",))
    install(folder, "fake-pixels", FEATURES, names=("pixels",))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("COUNTED", str(folder / "counted"))
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("prepared"), persons=12)


@pytest.fixture(scope="module")
def linear(prepared: Path) -> Path:
    """A run of the host's linear head with refits that nothing disturbed."""
    return train(Workspace(prepared), "pixels", name="linear").folder


@pytest.fixture
def copied(linear: Path, prepared: Path, tmp_path: Path) -> Workspace:
    """A workspace of its own with that run, to be changed."""
    return Workspace(shutil.copytree(prepared, tmp_path / "copied"))


def train(workspace: Workspace, plugin: str, **changes: Any) -> training.Finished:
    arguments = {"label": "animal", "folds": 3, "threads": 1, "device": "cpu", "refits": 2}
    with workspace.lock():
        return training.train(workspace, "set", plugin, **{**arguments, **changes})


def test_a_run_can_have_the_interval_of_its_procedure(linear: Path) -> None:
    metrics = read_json(linear / "metrics.json")
    found = metrics["procedure"]
    assert (found["repeats"], found["fits"]) == (2, FITS)
    assert found["metric"] == metrics["headline"]
    assert 1 <= found["factor"] <= np.sqrt(3)
    assert metrics["headline_interval"]["shows"] == "procedure"
    assert read_json(linear / "run.json")["refits"] == 2


def test_a_pair_is_predicted_by_what_saw_neither(linear: Path) -> None:
    folds = pd.read_parquet(linear / "predictions.parquet")["fold"].to_numpy()
    told = np.load(linear / "refits" / "0" / "told.npy")
    assert told.shape == (3, 24, 2)
    for one, out in zip(told, list_fits(3, 0), strict=True):
        assert (np.isfinite(one[:, 0]) == np.isin(folds, out)).all()
    again = np.load(linear / "refits" / "1" / "told.npy")
    known = np.isfinite(again[:3, :, 0])  # its own three folds: each image once
    assert (known.sum(axis=0) == 1).all()
    assert not (known == [folds == fold for fold in range(3)]).all()
    left = sorted(path.name for path in (linear / "refits" / "0").iterdir())
    assert left == ["feature-rows.npy", "images.npy", "job.json", "run.json", "told.npy"]


def test_a_break_between_refits_changes_nothing(
    linear: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(prepared, tmp_path / "workspace", ignore=shutil.ignore_patterns("runs"))
    home = Workspace(tmp_path / "workspace")
    gather, calls = refits._gather, []

    def fail_at_second(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise TrainingError("the power failed")
        return gather(*arguments)

    monkeypatch.setattr(refits, "_gather", fail_at_second)
    with pytest.raises(TrainingError, match="the power failed"):
        train(home, "pixels", name="linear")
    assert not (home.run("linear") / "metrics.json").exists()
    with home.lock():
        done = training.resume(home, "linear")
    for name in ("metrics.json", "predictions.parquet", "refits/0/told.npy", "refits/1/told.npy"):
        assert (done.folder / name).read_bytes() == (linear / name).read_bytes(), name


def test_networks_are_fitted_again_by_their_own_trainer(prepared: Path) -> None:
    events: list[dict[str, Any]] = []
    done = train(Workspace(prepared), "centroid", refits=1, name="network", watch=events.append)
    assert done.metrics["procedure"]["fits"] == 3
    begun = next(event for event in events if event["event"] == "begun")
    assert "3 more fits, about 0.5 times as long as the 3 folds" in begun["note"]
    optimism = done.metrics["optimism"]
    assert (optimism["looks"], optimism["metric"]) == (9, "minus log_loss")
    assert optimism["optimism"] == pytest.approx(optimism["best"] - optimism["test"])
    tested = [-fold["metrics"]["log_loss"] for fold in done.metrics["folds"]]
    assert optimism["test"] == pytest.approx(np.mean(tested))


def test_two_folds_leave_nothing_to_train_on(prepared: Path) -> None:
    with pytest.raises(UsageError, match="of 2 none is left"):
        train(Workspace(prepared), "pixels", folds=2)


@pytest.mark.parametrize(("k", "repeats", "fits"), [(5, 1, 10), (5, 2, 25), (3, 2, 9), (5, 0, 0)])
def test_the_cost_is_said_before(k: int, repeats: int, fits: int) -> None:
    assert sum(len(list_fits(k, repeat)) for repeat in range(repeats)) == fits
    assert (f"{fits} more fits" in tell_cost(k, repeats)) == (fits > 0)


def test_the_rule_for_persons_is_declared_with_the_run(linear: Path, prepared: Path) -> None:
    assert read_json(linear / "run.json")["aggregate"] == "mean"
    with pytest.raises(UsageError, match="aggregate was 'mean' and is now 'max'"):
        train(Workspace(prepared), "pixels", name="linear", aggregate="max")
    with pytest.raises(UsageError, match="no rule 'best'"):
        train(Workspace(prepared), "pixels", aggregate="best")
    metrics = read_json(linear / "metrics.json")
    assert metrics["levels"]["person"]["n"] == 12
    assert metrics["levels"]["series"]["n"] <= 24


def test_the_command_passes_on_what_was_declared(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {}

    def take(*_: Any, **arguments: Any) -> None:
        asked.update(arguments)
        raise UsageError("seen")

    monkeypatch.setattr(training, "train", take)
    command = ["train", "set", "--plugin", "pixels", "--label", "animal", "-w", str(prepared)]
    with pytest.raises(SystemExit):
        run_here([*command, "--aggregate", "max", "--procedure-interval", "3"])
    assert (asked["aggregate"], asked["refits"]) == ("max", 3)


def test_permutations_are_added_to_what_was_measured(copied: Workspace) -> None:
    before = read_metrics(copied, "linear")
    assert before["permutation"] is None
    first, second = (permute_labels(copied, "linear", 200) for _ in range(2))
    assert first == second == read_metrics(copied, "linear")
    assert {**first, "permutation": None} == before
    assert first["permutation"]["metric"] == "balanced_accuracy"
    assert 0 < first["permutation"]["p"] <= 1
    with pytest.raises(UsageError, match="no metrics of 'other'"):
        read_metrics(copied, "other")


def test_all_of_it_is_printed(copied: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["metrics", "linear", "-w", str(copied.root)]
    run_here([*arguments, "--permutations", "50"])
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        *("balanced accuracy", "average precision", "By level", "Operating points", "p = "),
        *("the procedure's interval", "looks at validation parts", "Obuchowski"),
    ):
        assert words in shown
    run_here([*arguments, "--json"])
    assert json.loads(capsys.readouterr().out) == read_metrics(copied, "linear")


def test_ages_fall_into_bands() -> None:
    ages = ["045Y", "006M", "17", "080Y", "", None, "??", "120Y"]
    found = list_groups(pd.DataFrame({"PatientAge": ages}), "PatientAge").tolist()
    assert found == [
        *("40 to 59", "0 to 17 years", "0 to 17 years", "80 and over"),
        *("not known", "not known", "not known", "80 and over"),
    ]
