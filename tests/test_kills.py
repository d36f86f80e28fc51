"""kill -9 at a random moment, then the same command: the same result as an unbroken run.

Three kills a stage here; ``make soak`` sets ``MEDKIT_KILLS`` to more.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from medkit.errors import ImageSetError
from medkit.images.imageset import ImageSet, verify
from medkit.testing import write_cohort

KILLS = int(os.environ.get("MEDKIT_KILLS", "3"))

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills a process by a POSIX signal")


def hash_tree(folder: Path, *patterns: str) -> dict[str, str]:
    """Return the SHA-256 of every file that fits a pattern, by relative path."""
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(found)
    }


def start(workspace: Path, command: list[str]) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-m", "medkit", *command, "-w", str(workspace)]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(workspace: Path, command: list[str]) -> float:
    """Run a command to its end and return the seconds it took."""
    began = time.monotonic()
    with start(workspace, command) as process:
        _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()
    return time.monotonic() - began


def kill_at(workspace: Path, command: list[str], seconds: float) -> bool:
    """Start a command, kill it after some seconds, and tell whether it was still running."""
    with start(workspace, command) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return True
    return False


TRAIN = ["train", "set", "--label", "modality", "--threads", "1", "--name", "run", "-p", "size=32"]

STAGES = {
    "catalog": (
        ["catalog", "{images}"],
        ["catalog/CURRENT", "catalog/snapshots/**/*", "catalog/segments/**/*"],
    ),
    "normalise": (["normalise", "set", "--size", "128"], ["sets/set/**/*"]),
    "append": (["normalise", "set", "--size", "128", "--append"], ["sets/set/**/*"]),
    "train": (
        [*TRAIN, "--plugin", "softmax", "--folds", "3"],
        ["folds/*", "features/*.npy", "runs/run/predictions.parquet", "runs/run/metrics.json"],
    ),
}
CNN = (
    [*TRAIN, "--plugin", "cnn", "--folds", "2", "-p", "blocks=8,8", "-p", "epochs=4"],
    ["folds/*", "runs/run/predictions.parquet", "runs/run/metrics.json"],
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("images"), persons=40, per_person=8, size=128)


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the catalog has more when the set is to grow."""
    folder = tmp_path_factory.mktemp("more")
    return write_cohort(folder, persons=30, per_person=8, size=128, seed=1)


@pytest.fixture(scope="module")
def stages(
    images: Path, more: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Return the workspace as it is before a stage; the stages before it have run unbroken."""
    road = {
        "normalise": [["catalog", str(images)], ["label", "modality", "--tag", "Modality"]],
        "append": [STAGES["normalise"][0], ["catalog", str(more)]],
        "train": [STAGES["normalise"][0]],
    }
    earlier = {"normalise": "catalog", "append": "normalise", "train": "normalise"}
    made: dict[str, Path] = {"catalog": tmp_path_factory.mktemp("catalog")}

    def before(stage: str) -> Path:
        if stage not in made:
            made[stage] = tmp_path_factory.mktemp(stage) / "workspace"
            shutil.copytree(before(earlier[stage]), made[stage])
            for command in road[stage]:
                finish(made[stage], command)
        return made[stage]

    return before


def check_set(before: Path, broken: Path, whole: Path) -> None:
    """See that a set that was to grow is as it was, or has grown, or says that it is incomplete."""
    sets = [workspace / "sets" / "set" for workspace in (before, whole, broken)]
    old, new = (ImageSet.open(folder).id for folder in sets[:2])
    try:
        assert ImageSet.open(sets[2]).id in (old, new)
        faults = verify(sets[2])
        assert all("incomplete" in fault.detail for fault in faults)
    except ImageSetError as error:
        assert "incomplete" in str(error)


def check_kills(
    before: Path, command: list[str], results: list[str], folder: Path, name: str
) -> None:
    whole = folder / "whole"
    shutil.copytree(before, whole)
    seconds = finish(whole, command)
    expected = hash_tree(whole, *results)
    assert expected
    moments = random.Random(name)
    killed = 0
    while killed < KILLS:
        broken = folder / "broken"
        shutil.copytree(before, broken)
        moment = moments.uniform(0, seconds)
        if kill_at(broken, command, moment):
            killed += 1
        else:  # the first run was slower, from a cold disk
            seconds = moment
        if name == "append":
            check_set(before, broken, whole)
        finish(broken, command)
        assert hash_tree(broken, *results) == expected
        shutil.rmtree(broken)


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_goes_on_to_the_same_result(
    stage: str, stages: Callable[[str], Path], images: Path, tmp_path: Path
) -> None:
    command, results = STAGES[stage]
    command = [part.format(images=images) for part in command]
    check_kills(stages(stage), command, results, tmp_path, stage)


@pytest.mark.soak
@pytest.mark.skipif("MEDKIT_KILLS" not in os.environ, reason="minutes; run 'make soak'")
def test_a_killed_network_goes_on_to_the_same_result(
    stages: Callable[[str], Path], tmp_path: Path
) -> None:
    command, results = CNN
    check_kills(stages("train"), command, results, tmp_path, "cnn")
