"""The trees alone, by medkit's conformance kit, and cross-validated in a process without Keras."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from medkit.cli import main
from medkit.errors import UsageError
from medkit.testing import TrainerConformance, write_dicom
from medkit.training.params import list_options, parse_options

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "src"))

from medkit_sklearn import Options  # noqa: E402 - found by the line above
from medkit_sklearn.boosting import collect_model, load_model  # noqa: E402
from medkit_sklearn.features import describe_brightness, describe_outlines  # noqa: E402

SEEN = [[0, 1, 2] * 20, [0, 2] * 30, [1, 2] * 30]


@pytest.mark.usefixtures("installed")
class TestConformance(TrainerConformance):
    plugin = "boosting"
    params: ClassVar[dict[str, str]] = {"trees": "30"}


@pytest.mark.parametrize("labels", SEEN, ids=["all", "no b", "no a"])
@pytest.mark.parametrize("stages", [0, 7, 20])
def test_the_arrays_predict_what_scikit_learn_does(
    labels: list[int], stages: int, tmp_path: Path
) -> None:
    from sklearn.ensemble import GradientBoostingClassifier

    random = np.random.default_rng(0)
    rows = random.random((60, 9)).astype(np.float32) + np.array(labels)[:, None] / 4
    booster = GradientBoostingClassifier(n_estimators=20, random_state=0).fit(rows, labels)
    expected = np.zeros((60, 3))
    expected[:, booster.classes_] = [booster.init_.class_prior_] * 60
    if stages:
        expected[:, booster.classes_] = list(booster.staged_predict_proba(rows))[stages - 1]
    collect_model(booster, 3, stages).save(tmp_path)
    np.testing.assert_allclose(load_model(tmp_path).predict(rows), expected, atol=1e-7)


def test_a_saved_model_is_plain_arrays(tmp_path: Path) -> None:
    from sklearn.ensemble import GradientBoostingClassifier

    booster = GradientBoostingClassifier(n_estimators=2).fit(np.eye(4), [0, 1] * 2)
    collect_model(booster, 2, 2).save(tmp_path)
    (file,) = tmp_path.iterdir()
    with np.load(file, allow_pickle=False) as arrays:
        assert {arrays[name].dtype.kind for name in arrays.files} == {"f", "i"}


def test_outlines_do_not_depend_on_contrast_and_brightness_does() -> None:
    pixels = np.random.default_rng(0).random((3, 30, 40, 1)).astype(np.float32)
    faint = pixels / 4 + np.float32(0.5)
    np.testing.assert_allclose(describe_outlines(pixels), describe_outlines(faint), atol=1e-3)
    assert not np.allclose(describe_brightness(pixels), describe_brightness(faint))


def test_an_outline_falls_where_it_runs() -> None:
    """A gradient along a row is of the first orientation, one along a column of the middle."""
    ramp = np.linspace(0, 1, 36, dtype=np.float32)
    across = np.broadcast_to(ramp[None, None, :, None], (1, 36, 36, 1))
    down = np.broadcast_to(ramp[None, :, None, None], (1, 36, 36, 1))
    kinds = [describe_outlines(image).reshape(-1, 9).sum(axis=0) for image in (across, down)]
    assert kinds[0].argmax() == 0
    assert sorted(np.argsort(kinds[1])[-2:]) == [4, 5]  # a right angle lies between the two


def test_brightness_is_shares_of_all_pixels() -> None:
    pixels = np.random.default_rng(0).random((5, 8, 8, 3)).astype(np.float32)
    shares = describe_brightness(pixels).reshape(5, -1, 3)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("size", "0", "12 or more"),
        ("trees", "0", "1 or more"),
        ("depth", "0", "1 or more"),
        ("learning_rate", "0", "above 0"),
        ("subsample", "2", "1 or less"),
    ],
)
def test_options_out_of_range_are_refused(name: str, text: str, allowed: str) -> None:
    assert all(one.help for one in list_options(Options))
    with pytest.raises(UsageError, match=f"^-p {name}={text}: .*{allowed}"):
        parse_options(Options, {name: text})


def write_halves(folder: Path, persons: int = 12) -> None:
    """Write three images a person, bright on the left or on the right, and plainly so."""
    random = np.random.default_rng(0)
    for person in range(persons):
        side = ("left", "right")[person % 2]
        for number in range(3):
            pixels = random.normal(1000, 100, (32, 32))
            pixels[:, 16 * (person % 2) :][:, :16] += 600
            path = folder / side / f"{person}-{number}.dcm"
            write_dicom(path, pixels.clip(0, 4095).astype(np.uint16), PatientID=f"P{person:03d}")


def test_medkit_cross_validates_it(
    tmp_path: Path, installed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_halves(tmp_path / "images")

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as end:
            main([*arguments, "-w", str(tmp_path / "workspace")])
        printed = capsys.readouterr()
        assert not end.value.code, printed.err
        return printed.out

    run("catalog", str(tmp_path / "images"))
    run("label", "side", "--folder")
    run("normalise", "set", "--size", "32")
    train = ["train", "set", "--plugin", "boosting", "--label", "side", "--folds", "2"]
    options = ["--name", "run", "-p", "trees=20", "-p", "depth=2", "--threads", "1", "--json"]
    (result,) = json.loads(run(*train, *options))["runs"]
    assert result["metrics"]["images"] == 36
    assert result["metrics"]["metrics"]["auc"]["value"] > 0.9
    assert [fold["number"] for fold in result["metrics"]["looks"]] == [2, 2]
    record = json.loads((tmp_path / "workspace" / "runs" / "run" / "run.json").read_text())
    assert {"trees": 20, "depth": 2}.items() <= record["params"].items()
