"""Walking trees far away: they become the tables that they would be here."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medkit.catalog import walking
from medkit.catalog.roots import choose_roots, find_absent_roots
from medkit.catalog.scan import Root, scan
from medkit.catalog.schema import TABLES
from medkit.catalog.store import Catalog
from medkit.catalog.walking import walk
from medkit.cli import main
from medkit.errors import UsageError
from medkit.images.imageset import ImageSet
from medkit.images.normalisation import Recipe, normalise
from medkit.testing import write_cohort, write_dicom
from medkit.workspace import Workspace

URL = "memory://tree/of files"
# What cannot be the same here and there, and what follows from the place of a file.
PLACED = {"root", "inode", "mtime_ns", "file", "container", "alias_of"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A bit of everything."""
    tree = write_cohort(tmp_path / "tree", persons=2, size=8)
    write_dicom(tree / "multi.dcm", np.arange(32, dtype=np.uint8).reshape(2, 4, 4), PatientID="M")
    (tree / "notes.txt").write_text("nothing")
    (tree / "empty").write_bytes(b"")
    (tree / "cut.dcm").write_bytes((tree / "multi.dcm").read_bytes()[:200])
    with zipfile.ZipFile(tree / "more.zip", "w") as archive:
        archive.write(write_dicom(tmp_path / "x", np.ones((3, 3), np.uint8), PatientID="Z"), "x")
    return tree


@pytest.fixture
def far(tree: Path) -> Iterator[Any]:
    """The same tree, in a file system that lives in this process."""
    fsspec = pytest.importorskip("fsspec", reason="the extra 'remote' is not installed")
    system = fsspec.filesystem("memory")
    for path in tree.rglob("*"):
        if path.is_file():
            place = f"/tree/of files/{path.relative_to(tree).as_posix()}"
            system.pipe_file(place, path.read_bytes())
    yield system
    if system.exists("/tree"):
        system.rm("/tree", recursive=True)


def read_tables(catalog: Catalog) -> dict[str, list[dict[str, Any]]]:
    """Return all rows without what tells their place."""
    return {
        name: [
            {key: value for key, value in row.items() if key not in PLACED}
            for row in catalog.arrow_table(name).to_pylist()
        ]
        for name in TABLES
    }


def test_a_tree_far_away_has_the_tables_of_the_same_tree_here(
    tree: Path, far: Any, tmp_path: Path
) -> None:
    here = scan(tmp_path / "here", [Root("s", tree)], workers=0)
    there = scan(tmp_path / "there", [Root("s", URL)], workers=0)
    assert (there.counts, there.members, there.read) == (here.counts, here.members, here.read)
    found = Catalog.open(tmp_path / "there")
    assert read_tables(found) == read_tables(Catalog.open(tmp_path / "here"))
    assert set(found.table("files")["root"]) == {URL}

    again = scan(tmp_path / "there", [Root("s", URL)], workers=0)
    assert (again.read, again.snapshot) == (0, there.snapshot)
    far.pipe_file("/tree/of files/notes.txt", b"other and longer")
    assert scan(tmp_path / "there", [Root("s", URL)], workers=0).read == 1


def test_images_far_away_are_normalised_to_the_same_values(
    tree: Path, far: Any, tmp_path: Path
) -> None:
    codes = []
    for name, place in (("here", tree), ("there", URL)):
        scan(tmp_path / name, [Root("s", place)], workers=0)
        recipe = Recipe(size=(8, 8))
        summary = normalise(
            Catalog.open(tmp_path / name), tmp_path / f"{name}-set", recipe, workers=0
        )
        assert (summary.landed, summary.refused) == (9, {})
        found = ImageSet.open(tmp_path / f"{name}-set")
        rows = sorted(
            zip(found.table["path"], found.table["frame"], found.table.index, strict=True)
        )
        codes.append([found.images().codes(number) for _, _, number in rows])
    np.testing.assert_array_equal(*codes)


def test_the_command_line_takes_a_url(
    far: Any, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: str) -> Any:
        with pytest.raises(SystemExit) as caught:
            main(["catalog", *arguments, "-w", str(workspace.root), "--workers", "0", "--json"])
        assert caught.value.code == 0
        return json.loads(capsys.readouterr().out)

    assert call(f"{URL}/")["walked"] == 11
    assert [root.place for root in choose_roots(workspace, [])] == [URL]
    assert call()["read"] == 0
    far.rm("/tree", recursive=True)
    own = workspace.root.parent / "own"
    own.mkdir()
    (warning,) = call(str(own))["warnings"]
    assert f"the folder {URL}, scanned before, is not there; its files stay" in warning
    assert find_absent_roots(workspace.catalog) == [warning]
    assert [root.place for root in choose_roots(workspace, [])] == [str(own)]
    assert URL not in str(call("--anonymise-output")["warnings"])
    assert call("--forget", URL)["warnings"] == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("memory://nowhere", "memory://nowhere cannot be scanned"),
        ("nothing://x/y", "nothing:// is not known"),
        ("s3://user:secret@bucket/x", "with credentials"),
    ],
)
def test_what_cannot_be_listed_is_refused_and_not_remembered(
    workspace: Workspace, url: str, words: str
) -> None:
    pytest.importorskip("fsspec", reason="the extra 'remote' is not installed")
    with pytest.raises(UsageError, match=words):
        scan(workspace.catalog, choose_roots(workspace, [url]), workers=0)
    assert not workspace.catalog.exists()


def test_what_is_no_file_far_away_is_counted_as_it_is_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    listed = [("a", 3, 5), ("closed/", -1, 0), ("link", -1, 7)]
    monkeypatch.setattr(walking, "list_remote", lambda root: iter(listed))
    (entries,) = walk("s", "sftp://host/x", tmp_path / "catalog")
    assert (entries.paths, entries.sizes.tolist()) == (["a", "closed/", "link"], [3, 0, 0])
    told = {row: (what.kind, what.reason) for row, what in entries.findings.items()}
    assert told == {1: ("problem", "unreadable"), 2: ("ignored", "not-a-file")}
