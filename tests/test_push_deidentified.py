# ruff: noqa: F811 - fixtures of another module
"""``push --deidentify``: what ``pack --deidentify`` makes, packed on its way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from identifiers import CT, Planter, find_planted, iterate_contents, write_planted
from test_deidentification import workspace as workspace
from test_trees import memory  # noqa: F401 - a fixture
from typer.testing import CliRunner

from medkit.archive.archive import MANIFEST, Archive
from medkit.archive.deidentification import Rules
from medkit.archive.pack import pack
from medkit.archive.push import pull
from medkit.archive.relay import push_tree
from medkit.archive.unpack import unpack
from medkit.cli import app
from medkit.errors import UsageError
from medkit.sources import placing
from medkit.testing import write_dicom
from medkit.workspace import hash_file

SIZE = 1 << 20


@pytest.fixture
def planter() -> Planter:
    return Planter()


@pytest.fixture
def tree(tmp_path: Path, planter: Planter, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files full of identifiers, enough for some shards, and one that is no image."""
    monkeypatch.setattr("medkit.archive.plan._PIECE_FILES", 2)
    folder, noise = tmp_path / "tree", np.random.default_rng(0)
    write_planted(folder / planter.text("a folder") / "planted.dcm", planter)
    for number in range(12):
        name, pixels = planter.text("a name"), noise.integers(0, 2**16, (400, 400), np.uint16)
        write_dicom(folder / f"{number:02d}.dcm", pixels, PatientName=name, SOPClassUID=CT)
    (folder / "list.txt").write_text(planter.text("another file"))
    return folder


def hash_files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def push_plain(tree: Path, target: str, workspace: Path, *keep: str, **more: Any) -> Any:
    work = workspace / "pushes" / "key"
    rules = Rules.load(workspace, work / "archive", keep)
    return push_tree(tree, target, work, shard_size=SIZE, workers=0, rules=rules, **more)


def test_it_sends_what_pack_makes_and_nothing_planted(
    tree: Path, memory: str, workspace: Path, planter: Planter, tmp_path: Path
) -> None:
    found = push_plain(tree, f"{memory}/there", workspace)  # without identified: it is not
    assert (found.identified, found.burned_in, found.left_out) == (0, 0, {"not-dicom": 1})
    whole = tmp_path / "whole"
    rules = Rules.load(workspace, whole)
    pack(tree, whole, shard_size=SIZE, rules=rules, workers=0)
    assert found.files == len(Archive.open(whole).contents) > 4
    pull(f"{memory}/there", tmp_path / "pulled")
    assert hash_files(tmp_path / "pulled") == hash_files(whole)
    unpack(tmp_path / "pulled", tmp_path / "back", workers=0)
    for name in ("pulled", "back"):
        for member, content in iterate_contents(tmp_path / name):
            assert find_planted(content, planter) == [], member
    map_ = Rules.load(workspace, workspace / "pushes" / "key" / "archive").map
    assert pq.read_table(map_.path).equals(pq.read_table(rules.map.path))


def test_a_second_push_sends_nothing_and_loses_no_map(
    tree: Path, tmp_path: Path, workspace: Path
) -> None:
    first = push_plain(tree, str(tmp_path / "there"), workspace)
    maps = hash_files(workspace / "pseudonyms")
    again = push_plain(tree, str(tmp_path / "there"), workspace)
    assert (again.files, again.skipped, again.left_out) == (0, first.files, first.left_out)
    assert hash_files(workspace / "pseudonyms") == maps
    assert [*(workspace / "pushes" / "key").glob("archive*")] == []
    other = push_plain(tree, str(tmp_path / "there"), workspace, "device")
    assert other.files > 1  # with other rules it is another archive


def test_a_push_that_broke_off_goes_on_to_the_same_bytes(
    tree: Path, tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    right = placing.FarFolder.put

    def break_off(far: Any, path: str, *rest: Any) -> None:
        if len(sent) == 2:
            raise ConnectionResetError("broken off")
        right(far, path, *rest)
        sent.append(path)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="broken off"):
        patch.setattr(placing.FarFolder, "put", break_off)
        push_plain(tree, str(tmp_path / "there"), workspace, streams=1)
    assert not (tmp_path / "there" / MANIFEST).exists()
    push_plain(tree, str(tmp_path / "there"), workspace)
    whole = tmp_path / "whole"
    rules = Rules.load(workspace, whole)
    pack(tree, whole, shard_size=SIZE, rules=rules, workers=0)
    assert hash_files(tmp_path / "there") == hash_files(whole)
    map_ = Rules.load(workspace, workspace / "pushes" / "key" / "archive").map
    assert pq.read_table(map_.path).equals(pq.read_table(rules.map.path))


def test_what_keep_lets_pass_does_not_leave_unasked(
    tree: Path, memory: str, workspace: Path
) -> None:
    with pytest.raises(UsageError, match="--identified"):
        push_plain(tree, f"{memory}/there", workspace, "uids")
    there = placing.FarFolder(f"{memory}/there", ("shards",)).list_files()
    assert there == [f"{MANIFEST}.part"]
    found = push_plain(tree, f"{memory}/there", workspace, "uids", identified=True)
    assert found.identified == 13


def run(*arguments: object) -> Any:
    words = ["push", *map(str, arguments), "--workers", "0"]
    return CliRunner().invoke(app, words, catch_exceptions=False)


def test_the_command_says_what_was_left_out_and_where_the_map_is(
    tree: Path, tmp_path: Path, workspace: Path
) -> None:
    there = tmp_path / "there"
    done = run(tree, there, "--deidentify", "--keep", "device", "-w", workspace)
    assert done.exit_code == 0
    assert "1 left out" in done.output
    assert "pseudonyms" in done.output
    told = Archive.open(there).facts["deidentification"]
    assert told["keep"] == ["device"]
    again = run(tree, there, "--deidentify", "--keep", "device", "-w", workspace, "--json")
    assert json.loads(again.stdout)["left_out"] == {"not-dicom": 1}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("there", "--keep", "uids"), "--deidentify"),
        (("dicomweb+https://host/dicom-web", "--deidentify"), "medkit pack --deidentify"),
        (("there", "--deidentify", "--keep", "everything"), "unknown --keep"),
        (("there", "--deidentify", "--archive", "."), "holds the key"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: tuple[str, ...], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_dicom(tmp_path / "tree" / "a.dcm", np.zeros((9, 9), np.uint16))
    with pytest.raises(UsageError, match=match):
        run(tmp_path / "tree", *options)
    assert not (tmp_path / "there").exists()


def test_an_archive_is_not_de_identified_on_its_way(tmp_path: Path) -> None:
    write_dicom(tmp_path / "tree" / "a.dcm", np.zeros((9, 9), np.uint16))
    pack(tmp_path / "tree", tmp_path / "archive", workers=0)
    with pytest.raises(UsageError, match="of a folder"):
        run(tmp_path / "archive", tmp_path / "there", "--deidentify", "-w", tmp_path / "w")
