"""The verbs catalog, show and label."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medkit.testing import write_cohort
from medkit.workspace import Workspace


@pytest.fixture
def medkit(
    call_cli: Callable[..., Any], workspace: Workspace, tmp_path: Path
) -> Callable[..., Any]:
    write_cohort(tmp_path / "images", persons=2, size=8)

    def call(verb: str, *arguments: object) -> Any:
        return call_cli(verb, "-w", workspace.root, *arguments)

    return call


def test_a_tree_is_catalogued_shown_and_labelled(
    medkit: Callable[..., Any], tmp_path: Path
) -> None:
    scanned = medkit("catalog", tmp_path / "images", "--source", "clinic", "--workers", 0)
    assert scanned.exit_code == 0, scanned.stderr
    assert "6 files = 6 images + 0 other DICOM" in scanned.stdout
    assert "2 persons" in scanned.stdout
    assert "transfer syntaxes" in scanned.stdout

    again = json.loads(medkit("catalog", "--workers", 0, "--json").stdout)
    assert (again["walked"], again["read"], again["counts"]["image"]) == (6, 0, {"": 6})

    shown = medkit("show", "images", "--where", "Modality = 'CT'", "--limit", 2)
    assert "2 of 3 rows" in shown.stdout
    rows = json.loads(medkit("show", "persons", "--json").stdout)
    assert sorted(row["patient_ids"] for row in rows) == [["P000"], ["P001"]]
    sql = "SELECT Modality, count(*) AS n, NULL AS nothing FROM images GROUP BY ALL ORDER BY 1"
    answer = json.loads(medkit("query", sql, "--json").stdout)
    assert answer == [
        {"Modality": "CT", "n": 3, "nothing": None},
        {"Modality": "MR", "n": 3, "nothing": None},
    ]

    (tmp_path / "images" / "P000" / "0.dcm").unlink()
    assert json.loads(medkit("catalog", "--workers", 0, "--json").stdout)["vanished"] == 1
    anew = json.loads(medkit("catalog", "--workers", 0, "--rebuild", "--json").stdout)
    assert (anew["walked"], anew["read"], anew["quick"], anew["vanished"]) == (5, 5, 5, 0)

    labelled = medkit("label", "kind", "--tag", "Modality")
    assert labelled.exit_code == 0, labelled.stderr
    assert "5 images labelled, 0 not" in labelled.stdout
    assert "labels" in medkit("show").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("catalog",), "nothing to scan"),
        (("catalog", "missing"), "no folder"),
        (("query", "SELECT"), "run 'medkit catalog' first"),
        (("label", "x"), "give one of"),
    ],
)
def test_wrong_usage_is_one_line(
    medkit: Callable[..., Any], arguments: tuple[str, ...], words: str
) -> None:
    done = medkit(*arguments)
    assert done.exit_code in (1, 2)
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_locked_workspace_is_left_alone(
    run_cli: Callable[..., Any], workspace: Workspace, tmp_path: Path
) -> None:
    write_cohort(tmp_path / "images", persons=1, size=8)
    with workspace.lock():
        done = run_cli("catalog", tmp_path / "images", "-w", workspace.root)
    assert done.exit_code == 1
    assert "in use by process" in done.stderr
    assert not workspace.catalog.exists()
