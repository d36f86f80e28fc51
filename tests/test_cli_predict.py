"""``medkit predict`` and ``evaluate``, as a user types them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from faketrainer import CENTROID, install, make_workspace

from medkit.cli import main
from medkit.errors import UsageError
from medkit.testing import write_cohort, write_dicom
from medkit.training.answers import write_predictions
from medkit.training.application import Applied

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def cli(root: Path, tmp_path_factory: pytest.TempPathFactory, call_cli: Cli) -> Cli:
    """The command line in this workspace, with a finished run named ``run``."""
    site = tmp_path_factory.mktemp("site")
    install(site, "fake-centroid", CENTROID, names=("centroid",))
    path = os.pathsep.join([str(site), *sys.path])

    def run(*arguments: object, **environment: str) -> Any:
        return call_cli(*arguments, "-w", root, PYTHONPATH=path, **environment)

    there = ("--plugin", "centroid", "--name", "run", "--device", "cpu", "--threads", "1")
    done = run("train", "set", "--label", "animal", "--folds", "2", "--no-saliency", *there)
    assert done.exit_code == 0, done.stderr
    run.path = path  # type: ignore[attr-defined]
    return run


HERE = ("--device", "cpu", "--threads", "1", "--workers", "0")


def test_new_files_are_predicted_and_what_is_not_is_told(cli: Cli, tmp_path: Path) -> None:
    inbox = write_cohort(tmp_path / "inbox", persons=2, per_person=2, size=32, seed=3)
    (inbox / "broken.dcm").write_bytes((inbox / "P000" / "0.dcm").read_bytes()[:200])
    write_dicom(inbox / "us.dcm", np.arange(1024, dtype=np.uint16).reshape(32, 32), Modality="US")
    output = tmp_path / "out" / "result.csv"
    done = cli("predict", "run", inbox, *HERE, "--output", output)
    assert done.exit_code == 0, done.stderr
    assert "4 of 6 predicted" in done.stdout
    assert "2 refused" in done.stdout
    assert "outside-domain" in done.stdout
    rows = list(csv.DictReader(output.read_text(encoding="utf-8").splitlines()))
    assert list(rows[0]) == [
        *("path", "frame", "SOPInstanceUID", "predicted"),
        *("p:yak", "p:zebra", "raw:yak", "raw:zebra", "warnings"),
    ]
    assert [row["predicted"] for row in rows] == ["zebra", "zebra", "yak", "yak"]
    assert [Path(row["path"]).is_file() for row in rows] == [True] * 4

    again = cli("predict", "run", inbox, *HERE, "--json")
    told = json.loads(again.stdout)
    assert told["repeated"]
    assert told["classes"] == {"yak": 2, "zebra": 2}
    assert [Path(one["path"]).name for one in told["refused"]] == ["broken.dcm", "us.dcm"]
    assert "Synthetic" not in output.read_text() + again.stdout + done.stdout


def test_a_name_that_is_both_is_asked_about(
    cli: Cli, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_cohort(tmp_path / "set", persons=1, per_person=1, size=32, seed=3)
    done = cli("predict", "run", "set", *HERE)
    assert done.exit_code == 2
    assert "is the name of a set, and of a file or folder here; give ./set" in done.stderr
    of_folder = cli("predict", "run", "./set", *HERE, "--json")
    assert json.loads(of_folder.stdout)["evaluation"]["counts"]["predicted"] == 1
    of_set = cli("predict", "run", root / "sets" / "set", *HERE, "--json")
    assert json.loads(of_set.stdout)["evaluation"]["set"] == "set"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nought",), "there is no set, file or folder 'nought'; sets here: set"),
        (("set", "--threshold", "high"), "is no threshold"),
        (("set", "--output", "result.xlsx"), "use a name that ends in .csv, .json, .parquet"),
        (("set", "other"), "there is no file or folder"),
    ],
)
def test_what_cannot_be_is_said_on_one_line(
    arguments: tuple[str, ...],
    message: str,
    root: Path,
    cli: Cli,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["predict", "run", *arguments, *HERE, "-w", str(root)])
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_evaluate_tells_threshold_and_calibration(cli: Cli) -> None:
    done = cli(
        *("evaluate", "run", "set", "--label", "animal", "--allow-overlap"),
        *("--threshold", "youden", "--device", "cpu", "--threads", "1"),
    )
    assert done.exit_code == 0, done.stderr
    assert "decided by: zebra from a probability of 0." in done.stdout
    assert "(youden; out of fold: sensitivity 1.000, specificity 1.000), as fixed" in done.stdout
    assert "by the run's temperature, 1" in done.stdout


@pytest.mark.soak
@pytest.mark.skipif("MEDKIT_KILLS" not in os.environ, reason="minutes; run 'make soak'")
@pytest.mark.skipif(os.name != "posix", reason="kills a process by a POSIX signal")
def test_a_kill_anywhere_changes_nothing(cli: Cli, root: Path, tmp_path: Path) -> None:
    inbox = write_cohort(tmp_path / "inbox", persons=9, per_person=3, size=32, seed=5)
    assert cli("predict", "run", inbox, *HERE, "--name", "whole").exit_code == 0
    whole = root / "evaluations" / "whole"
    path = cli.path  # type: ignore[attr-defined]
    for number, sign in enumerate(SIGNS):
        folder = root / "evaluations" / f"killed-{number}"
        command = ["predict", "run", inbox, *HERE, "--name", folder.name]
        arguments = [sys.executable, "-m", "medkit", *map(str, command), "-w", str(root)]
        with subprocess.Popen(arguments, env=os.environ | {"PYTHONPATH": path}) as process:
            while process.poll() is None and not any(folder.glob(sign)):
                time.sleep(0.001)
            process.kill()
        assert process.returncode == -9, sign
        assert cli(*command).exit_code == 0
        for name in ("predictions.parquet", "refused.parquet"):
            assert (folder / name).read_bytes() == (whole / name).read_bytes(), sign


# What stands at one moment of a prediction after the other.
SIGNS = [
    *("evaluation.json", "intake/catalog/segments/*", "intake/catalog/CURRENT"),
    *("intake/set/.partial/*", "intake/set/set.json", "job.json", "0.npy", "1.npy"),
    "predictions.parquet",
]


@pytest.fixture
def applied(tmp_path: Path) -> Applied:
    """Predictions of a class and a file whose names are formulas."""
    table = pd.DataFrame(
        {
            "path": ["/in/a.dcm", "-2+3.dcm"],
            "frame": [0, 0],
            "tile": pd.array([None, None], dtype="Int64"),
            "SOPInstanceUID": ["1.2", None],
            "predicted": ["=1+1", "no"],
            **{"p:=1+1": [0.75, 0.25], "p:no": [0.25, 0.75]},
            **{"raw:=1+1": [0.5, np.nan], "raw:no": [0.5, 0.5]},
            "warnings": ["", "@x"],
        }
    )
    table.to_parquet(tmp_path / "predictions.parquet")
    return Applied(tmp_path, {"classes": ["=1+1", "no"]}, None, False)


def test_a_spreadsheet_finds_no_formula(applied: Applied, tmp_path: Path) -> None:
    write_predictions(applied, tmp_path / "out.csv")
    rows = list(csv.reader((tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()))
    cells = [cell for row in rows for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert rows[1][3] == "'=1+1"
    assert rows[2][0] == "'-2+3.dcm"


def test_other_forms_hold_the_values_as_they_are(applied: Applied, tmp_path: Path) -> None:
    write_predictions(applied, tmp_path / "out.json")
    rows = json.loads((tmp_path / "out.json").read_text())
    assert rows[0]["predicted"] == "=1+1"
    assert rows[1]["raw:=1+1"] is None
    write_predictions(applied, tmp_path / "out.PARQUET")
    written = pd.read_parquet(tmp_path / "out.PARQUET")
    assert list(written) == [name for name in applied.predictions if name != "tile"]
    assert written["path"].tolist() == ["/in/a.dcm", "-2+3.dcm"]


def test_nothing_is_left_of_a_file_of_no_form(applied: Applied, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'out' does not say what it is to be"):
        write_predictions(applied, tmp_path / "out")
    assert not (tmp_path / "out").exists()
