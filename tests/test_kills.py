"""kill -9 at a random moment, then the same command: the same result as an unbroken run.

Three kills a stage here, and one a network in an epoch; ``make soak`` sets ``MEDKIT_KILLS`` to
more, and then each fold of a network is killed in five epochs.
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


# By what a trainer decides is found after the last fold, and no part of what is compared.
TRAIN = ["train", "set", "--label", "modality", "--threads", "1", "--name", "run", "-p", "size=32"]
TRAIN += ["--no-saliency"]

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
EPOCHS, EPOCH_KILLS = (8, 5) if "MEDKIT_KILLS" in os.environ else (4, 1)
SMALL = ["--folds", "2", "-p", f"epochs={EPOCHS}", "-p", f"patience={EPOCHS}"]
FINETUNE = ["finetune=1", "weights=none", "size=75", "head_epochs=2", "layer=mixed2"]
NETWORKS = {
    "cnn": [*TRAIN, "--plugin", "cnn", *SMALL, "-p", "blocks=8,8", "-p", "rotate=10"],
    "inception": [
        *[word for word in TRAIN if word not in ("-p", "size=32")],
        *("--plugin", "inception", *SMALL),
        *(word for option in FINETUNE for word in ("-p", option)),
    ],
}
MADE = ["folds/*", "runs/run/predictions.parquet", "runs/run/metrics.json"]
WEIGHTS = [*MADE, "runs/run/fold-*/model/**/*", "runs/run/fold-*/looks.jsonl"]
SOAK = [
    pytest.mark.soak,
    pytest.mark.skipif("MEDKIT_KILLS" not in os.environ, reason="minutes; run 'make soak'"),
]


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


@pytest.mark.parametrize("network", ["cnn", pytest.param("inception", marks=SOAK)])
def test_a_network_that_is_killed_in_an_epoch_goes_on_to_the_same_weights(
    network: str, stages: Callable[[str], Path], tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for workspace in (whole, broken):
        shutil.copytree(stages("train"), workspace)
    finish(whole, NETWORKS[network])
    expected = hash_tree(whole, *WEIGHTS)
    assert any(name.endswith(".weights.h5") for name in expected), expected
    chosen = random.Random(network)
    command, killed = NETWORKS[network], 0
    for fold in range(2) if EPOCH_KILLS > 1 else [1]:
        for epoch in sorted(chosen.sample(range(EPOCHS - 2), EPOCH_KILLS)):
            killed += kill_in_epoch(broken, command, fold, epoch)
            command = ["train", "--resume", "run", "--no-saliency"]
    finish(broken, command)
    assert hash_tree(broken, *WEIGHTS) == expected
    if not killed:
        pytest.skip("the network was quicker than every kill")


@pytest.mark.soak
@pytest.mark.skipif("MEDKIT_KILLS" not in os.environ, reason="minutes; run 'make soak'")
def test_a_network_that_is_killed_at_any_moment_goes_on_to_the_same_weights(
    stages: Callable[[str], Path], tmp_path: Path
) -> None:
    check_kills(stages("train"), NETWORKS["cnn"], WEIGHTS, tmp_path, "cnn")


def kill_in_epoch(workspace: Path, command: list[str], fold: int, epoch: int) -> bool:
    """Start a command, kill it once a fold has looked at an epoch; False if it came too late."""
    folder = workspace / "runs" / "run" / f"fold-{fold}"
    with start(workspace, command) as process:
        while process.poll() is None:
            looks = folder / "looks.jsonl"
            done = (folder / "done.json").exists()
            if not done and looks.exists() and looks.read_bytes().count(b"\n") > epoch:
                process.kill()
                return True
            time.sleep(0.01)
        assert process.returncode == 0
    return False
