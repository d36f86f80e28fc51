"""The verbs show and query."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from medkit.catalog.scan import Root, scan
from medkit.catalog.store import Catalog
from medkit.images.normalisation import Recipe, normalise
from medkit.testing import write_cohort
from medkit.workspace import Workspace

Medkit = Callable[..., Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("show")
    write_cohort(folder / "images", persons=2, size=8)
    home = Workspace(folder / "workspace")
    scan(home.catalog, [Root("clinic", folder / "images")], workers=0)
    return home


@pytest.fixture
def medkit(call_cli: Medkit, home: Workspace) -> Medkit:
    return lambda verb, *arguments: call_cli(verb, "-w", home.root, *arguments)


def test_tables_are_shown_to_a_person(medkit: Medkit) -> None:
    shown = medkit("show", "images", "--where", "Modality = 'CT'", "--limit", 2)
    assert "2 of 3 rows, 7 of " in shown.stdout
    assert "problems" in medkit("show").stdout
    assert "PatientID" in medkit("show", "instances", "--columns", "PatientID, Rows").stdout


def test_every_form_has_the_same_rows(medkit: Medkit, tmp_path: Path) -> None:
    chosen = ("images", "--columns", "path,Rows,Modality")
    rows = json.loads(medkit("show", *chosen, "--json").stdout)
    assert len(rows) == 6
    assert json.loads(medkit("show", *chosen, "--format", "json").stdout) == rows
    found = csv.DictReader(io.StringIO(medkit("show", *chosen, "--format", "csv").stdout))
    assert [row | {"Rows": int(row["Rows"])} for row in found] == rows
    done = medkit("show", *chosen, "--output", tmp_path / "rows.parquet")
    assert (done.exit_code, done.stdout) == (0, "")
    assert pq.read_table(tmp_path / "rows.parquet").to_pylist() == rows


def test_a_question_is_answered(medkit: Medkit) -> None:
    sql = "SELECT Modality, count(*) AS n, NULL AS nothing FROM images GROUP BY ALL ORDER BY 1"
    assert json.loads(medkit("query", sql, "--json").stdout) == [
        {"Modality": "CT", "n": 3, "nothing": None},
        {"Modality": "MR", "n": 3, "nothing": None},
    ]
    assert "1 of 2 rows" in medkit("query", sql, "--limit", 1).stdout
    assert medkit("query", sql, "--format", "csv", "--limit", 1).stdout.count("\n") == 2


def test_parquet_goes_through_a_pipe(home: Workspace) -> None:
    command = [sys.executable, "-m", "medkit", "query", "-w", str(home.root), "FROM files"]
    done = subprocess.run([*command, "--format", "parquet"], capture_output=True, check=True)
    assert pq.read_table(io.BytesIO(done.stdout)).num_rows == 6


def test_a_reader_that_leaves_is_no_error(home: Workspace) -> None:
    command = [sys.executable, "-m", "medkit", "query", "-w", str(home.root)]
    running = subprocess.Popen(
        [*command, "SELECT repeat('x', 100) FROM range(100000)", "--format", "csv"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.read(10)
        running.stdout.close()
        assert running.stderr.read() == b""


def test_a_summary_is_one_screen_or_json(medkit: Medkit, tmp_path: Path) -> None:
    shown = medkit("show", "summary").stdout
    assert "Explicit VR Little Endian (6)" in shown
    assert shown.count("\n") <= 40
    assert json.loads(medkit("show", "summary", "--json").stdout)["images"] == 6
    medkit("show", "summary", "-o", tmp_path / "summary.json")
    assert json.loads((tmp_path / "summary.json").read_bytes())["persons"] == 2


def test_pseudonyms_hide_who_it_is(medkit: Medkit, home: Workspace) -> None:
    shown = medkit("show", "images", "--anonymise-output", "--format", "csv").stdout
    again = medkit("query", "FROM images", "--anonymise-output", "--json").stdout
    for text in (shown, again):
        assert "anon-" in text
        assert "P000" not in text
        assert "images/" not in text
        assert str(home.root.parent) not in text
    (first, *_) = json.loads(again)
    assert first["PatientID"] in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "people"), "there is no table 'people'"),
        (("show", "files", "--json", "--format", "csv"), "two forms"),
        (("show", "files", "-o", "x.txt"), "--format"),
        (("show", "summary", "--format", "csv"), "a table or JSON"),
        (("query", "DROP VIEW files"), "one SELECT"),
        (("query", "FROM main.files", "--anonymise-output"), "--anonymise-output"),
    ],
)
def test_wrong_usage_is_one_line(medkit: Medkit, arguments: tuple[str, ...], words: str) -> None:
    done = medkit(*arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def with_set(home: Workspace) -> Workspace:
    summary = normalise(Catalog.open(home.catalog), home.set("a"), Recipe(size=(8, 8)), workers=0)
    assert summary.landed == 6
    return home


def test_images_of_a_set_are_looked_at(medkit: Medkit, with_set: Workspace, tmp_path: Path) -> None:
    told = medkit("show", "images", "a")
    folder = with_set.root / "looks" / "a"
    assert told.exit_code == 0
    assert f"6 of 6 images are in {folder / 'sheet.png'}" in told.stdout
    assert str(folder / "look.html") in told.stdout
    options = ("--where", "Modality = 'CT'", "--count", 2, "--all", "--window", "40/400")
    done = medkit("show", "images", "a", *options, "-o", tmp_path, "--json")
    assert json.loads(done.stdout) == {
        "set": "a",
        "page": str(tmp_path / "look.html"),
        "sheets": [
            str(tmp_path / name) for name in ("sheet.png", "sheet-0001.png", "sheet-0002.png")
        ],
        "images": 3,
        "shown": 2,
        "measured": 3,
        "outliers": [],
    }
    assert (tmp_path / "sheet-0002.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("images", "b"), 1, "the set 'b' does not exist"),
        (("images", "a", "--label", "kind"), 2, "there is no label 'kind'"),
        (("images", "a", "--window", "wide"), 2, "is not a window"),
        (("images", "a", "--limit", "3"), 2, "--limit is for a table"),
        (("series", "a"), 2, "of a set there are 'images' to show"),
        (("images", "--all", "--count", "3"), 2, "--count, --all"),
    ],
)
def test_a_wrong_look_is_one_line(
    medkit: Medkit, with_set: Workspace, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = medkit("show", *arguments)
    assert done.exit_code == code
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
