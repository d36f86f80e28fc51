"""The child process: what it needs to work, what it says, and when it ends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from faketrainer import CENTROID, install, make_workspace

from medkit.training import child as child_module
from medkit.training import run as training
from medkit.training.environment import Environment
from medkit.training.job import read_job
from medkit.workspace import Workspace


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run, in a process that sees its trainer."""
    site = tmp_path_factory.mktemp("site")
    install(site, "fake-centroid", CENTROID, names=("centroid",))
    workspace = Workspace(make_workspace(tmp_path_factory.mktemp("prepared")))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        yield training.train(
            workspace, "set", "centroid", label="animal", folds=2, threads=1, device="cpu"
        ).folder


@pytest.fixture
def alone(whole: Path, tmp_path: Path) -> Path:
    """What the child was asked, in a place that has neither catalog nor folds nor results."""
    job, numbers = read_job(whole)
    shutil.copytree(job.set_folder, tmp_path / "set")
    folder = tmp_path / "job"
    replace(job, set_folder=str(tmp_path / "set")).write(folder, numbers)
    for fold in range(2):
        parts = Path(f"fold-{fold}") / "parts"
        shutil.copytree(whole / parts, folder / parts)
    return folder


def start(folder: Path, *steps: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "medkit.training.worker", str(folder), *steps],
        env=Environment("cpu", 1, "none").variables(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_it_needs_images_and_training_labels_alone_and_sends_events_alone(
    alone: Path, whole: Path
) -> None:
    with start(alone, "1", "0") as child:
        lines = (child.stdout or pytest.fail()).read().splitlines()
        noise = (child.stderr or pytest.fail()).read()
    assert child.returncode == 0
    events = [json.loads(line) for line in lines]
    inside = [event for event in events if event["event"] in ("progress", "status")]
    assert {event["fold"] for event in inside} == {0, 1}
    told = [(event["event"], event["fold"]) for event in events if event not in inside]
    assert told == [
        ("opened", None),
        *(("started", 1), ("finished", 1), ("started", 0), ("finished", 0)),
    ]
    assert b"noise on standard output" in noise
    for fold in range(2):
        name = Path(f"fold-{fold}") / "predictions.npy"
        np.testing.assert_array_equal(np.load(alone / name), np.load(whole / name))


def test_it_ends_when_the_host_does(alone: Path) -> None:
    job, numbers = read_job(alone)
    replace(job, params={**job.params, "pause": 60.0}).write(alone, numbers)
    with start(alone, "0") as child:
        assert b"opened" in (child.stdout or pytest.fail()).readline()
        (child.stdin or pytest.fail()).close()
        assert child.wait(30) == 1


def test_a_child_that_does_not_want_to_stop_is_killed(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, numbers = read_job(alone)
    replace(job, params={**job.params, "pause": 60.0}).write(alone, numbers)
    monkeypatch.setattr(child_module, "GRACE", 0.3)
    begun: list[psutil.Process] = []

    def interrupt(event: dict[str, object]) -> None:
        if event["event"] == "started":
            every = psutil.Process().children()
            begun.extend(one for one in every if "medkit.training.worker" in one.cmdline())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        child_module.follow_child(
            alone, ["0"], Environment("cpu", 1, "none").variables(), interrupt
        )
    assert len(begun) == 1
    assert not begun[0].is_running()


def test_what_goes_wrong_is_an_event_and_the_traceback_is_in_the_log(alone: Path) -> None:
    job, numbers = read_job(alone)
    replace(job, params={"colour": 3}).write(alone, numbers)
    with start(alone, "0") as child:
        (event,) = map(json.loads, (child.stdout or pytest.fail()).read().splitlines())
        noise = (child.stderr or pytest.fail()).read()
    assert child.returncode == 1
    assert event["event"] == "failed"
    assert "colour" in event["error"]
    assert b"Traceback" in noise


def test_seeds_differ_by_fold_and_trainer_and_follow_from_the_run() -> None:
    from medkit.training.job import derive_seed

    seeds = [derive_seed(seed, plugin, fold) for seed in (0, 1) for plugin in "ab" for fold in "01"]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derive_seed(0, "a", 1) == derive_seed(0, "a", "1")
