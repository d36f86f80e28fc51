"""The forest alone, and cross-validated by medkit in a process that never imports Keras."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from medkit.testing import write_dicom

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "src"))

from medkit_sklearn import ForestParams, ForestTrainer  # noqa: E402 - found by the line above
from medkit_sklearn.forest import ForestModel, collect_trees  # noqa: E402


@pytest.mark.parametrize("labels", [[0, 1, 2] * 20, [0, 2] * 30])
def test_the_arrays_predict_what_the_forest_does(labels: list[int], tmp_path: Path) -> None:
    from sklearn.ensemble import RandomForestClassifier

    random = np.random.default_rng(0)
    pixels = random.random((60, 9)).astype(np.float32) + np.array(labels)[:, None] / 4
    forest = RandomForestClassifier(20, max_depth=5, random_state=0).fit(pixels, labels)
    trees = collect_trees(forest, 3)
    ForestModel({"size": 3}, trees).save(tmp_path)
    loaded = ForestModel.load(tmp_path)
    expected = np.zeros((60, 3))
    expected[:, forest.classes_] = forest.predict_proba(pixels)
    np.testing.assert_allclose(loaded.trees.predict_proba(pixels), expected, atol=1e-12)
    assert loaded.view == {"size": 3}


def test_a_saved_forest_holds_no_pickle(tmp_path: Path) -> None:
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(2, random_state=0).fit(np.eye(4, dtype=np.float32), [0, 1] * 2)
    ForestModel({"size": 2}, collect_trees(forest, 2)).save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".npy"}


@pytest.mark.parametrize("wrong", [{"size": 0}, {"trees": 0}, {"depths": ()}, {"depths": (4, 0)}])
def test_options_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        ForestParams(**wrong)  # type: ignore[arg-type]


def test_the_module_that_is_named_is_light() -> None:
    script = (
        "import sys, medkit_sklearn\n"
        "print(sorted({'sklearn', 'numpy', 'keras', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    assert ForestTrainer.tasks == {"multiclass"}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which the distribution counts as installed."""
    about = tmp_path / "site" / "medkit_sklearn-0.1.0.dist-info"
    about.mkdir(parents=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    )
    (about / "entry_points.txt").write_text(points)
    found = [str(tmp_path / "site"), str(ROOT / "src"), *sys.path]
    return os.environ | {"PYTHONPATH": os.pathsep.join(found)}


def write_halves(folder: Path, persons: int = 12) -> None:
    """Write three noisy images a person, bright on the left or on the right."""
    random = np.random.default_rng(0)
    for person in range(persons):
        side = ("left", "right")[person % 2]
        for number in range(3):
            pixels = random.normal(1000, 300, (32, 32))
            pixels[:, 16 * (person % 2) :][:, :16] += 600
            path = folder / side / f"{person}-{number}.dcm"
            write_dicom(path, pixels.clip(0, 4095).astype(np.uint16), PatientID=f"P{person:03d}")


def test_medkit_cross_validates_it(tmp_path: Path, environment: dict[str, str]) -> None:
    write_halves(tmp_path / "images")

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "medkit", *arguments, "-w", str(tmp_path / "workspace")],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("catalog", str(tmp_path / "images"))
    run("label", "side", "--folder")
    run("normalise", "set", "--size", "32")
    train = ["train", "set", "--plugin", "forest", "--label", "side", "--folds", "2"]
    options = ["--name", "run", "-p", "trees=20", "-p", "depths=2,6", "--threads", "1", "--json"]
    (result,) = json.loads(run(*train, *options))["runs"]
    assert result["metrics"]["images"] == 36
    assert result["metrics"]["metrics"]["auc"]["value"] > 0.9
    assert [fold["number"] for fold in result["metrics"]["looks"]] == [2, 2]
    record = json.loads((tmp_path / "workspace" / "runs" / "run" / "run.json").read_text())
    assert record["params"] == {"size": 16, "window": "header", "trees": 20, "depths": [2, 6]}
