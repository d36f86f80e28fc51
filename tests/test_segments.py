"""Segments: what is read again, what is kept, and that neither depends on the past."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medkit.catalog import reading, segments
from medkit.catalog.entries import Entries, join_entries, make_key
from medkit.catalog.planning import Wanted, plan
from medkit.catalog.scan import Root, Summary, scan
from medkit.catalog.segments import Rows, Segment, read_segment
from medkit.catalog.store import Catalog
from medkit.catalog.walking import walk
from medkit.testing import write_cohort, write_dicom

LETTERS = st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="/\\:")
NAMES = st.text(LETTERS, min_size=1, max_size=4)


@pytest.fixture(params=["0", ""])
def boundary(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 16 files, or of one."""
    monkeypatch.setattr(segments, "BOUNDARY", request.param)


def write_texts(tree: Path, names: list[str], content: str = "text") -> None:
    tree.mkdir(exist_ok=True)
    for name in names:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(content)


def run(tree: Path, folder: str = "catalog", **options: Any) -> Summary:
    return scan(tree.parent / folder, [Root("s", tree)], **{"workers": 0} | options)


def list_rows(tree: Path, folder: str = "catalog") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = Catalog.open(tree.parent / folder).arrow_table("files").to_pylist()
    return rows


def make_entries(paths: list[str]) -> Entries:
    ones = np.ones(len(paths), np.int64)
    return Entries("s", "/root", paths, ones, ones, ones)


@given(st.lists(st.lists(NAMES, min_size=1, max_size=3), max_size=12))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=20)
def test_a_tree_is_walked_in_the_order_of_its_paths(
    tmp_path_factory: pytest.TempPathFactory, paths: list[list[str]]
) -> None:
    tree = tmp_path_factory.mktemp("walk") / "tree"
    tree.mkdir()
    for parts in paths:
        try:
            write_texts(tree, ["/".join(parts)])
        except OSError:  # a file is where a folder would be, or a name is '.'
            continue
    found = [path for piece in walk("s", str(tree), tree.parent / "c") for path in piece.paths]
    assert found == sorted(
        path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()
    )


def test_a_folder_sorts_as_the_paths_in_it(tmp_path: Path) -> None:
    names = ["a/x", "a-b", "a.txt", "a0", "a!/y", "a b/z"]
    write_texts(tmp_path / "tree", names)
    (piece,) = walk("s", str(tmp_path / "tree"), tmp_path / "c")
    assert piece.paths == sorted(names)
    assert piece.sizes.tolist() == [4] * 6
    assert (piece.mtimes > 0).all()
    assert (piece.inodes > 0).all()


@pytest.mark.skipif(sys.platform != "linux", reason="paths are shorter elsewhere")
def test_a_tree_that_is_deeper_than_calls_can_be_is_walked(tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    for _ in range(1200):
        folder.mkdir()
        folder = folder / "a"
    folder.write_text("x")
    try:
        pieces = list(walk("s", str(tmp_path / "tree"), tmp_path / "c"))
    finally:  # what removes temporary folders calls itself for each
        folder.unlink()
        while folder.parent != tmp_path:
            folder = folder.parent
            folder.rmdir()
    assert [len(piece) for piece in pieces] == [1]


def test_keys_are_kept_by_slices_and_joins() -> None:
    whole = make_entries([f"{number:03}" for number in range(9)])
    assert whole.keys == [make_key("/root", path) for path in whole.paths]
    pieces = [whole.slice(0, 4), whole.slice(4, 9)]
    assert join_entries(pieces).keys == whole.keys
    assert whole.take([8, 1]).keys == [whole.keys[8], whole.keys[1]]


def test_the_name_of_a_segment_depends_on_all_of_its_inputs() -> None:
    whole = make_entries(["a", "b"])
    names = {
        Rows(whole).hash("1"),
        Rows(whole).hash("2"),
        Rows(whole, {1: "1"}).hash("1"),
        Rows(make_entries(["a", "c"])).hash("1"),
        Rows(make_entries(["a"])).hash("1"),
    }
    for column in ("sizes", "mtimes", "inodes"):
        changed = make_entries(["a", "b"])
        object.__setattr__(changed, column, np.array([1, 2]))
        names.add(Rows(changed).hash("1"))
    assert len(names) == 8
    assert Rows(make_entries(["a", "b"])).hash("1") in names


@pytest.mark.usefixtures("boundary")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.integers(1, 40), min_size=1, max_size=6),
)
def test_segments_do_not_depend_on_the_pieces_walked(tmp_path: Path, pieces: list[int]) -> None:
    paths = [f"{number:04}" for number in range(sum(pieces))]
    starts = np.cumsum([0, *pieces]).tolist()
    walked = [
        make_entries(paths[start : start + length])
        for start, length in zip(starts, pieces, strict=False)
    ]
    plans = list(plan("s", walked, [], tmp_path, "1"))
    again = list(plan("s", [make_entries(paths)], [], tmp_path, "1"))
    wanted = [one for one in plans if isinstance(one, Wanted)]
    assert [path for one in wanted for path in one.rows.entries.paths] == paths
    assert [one.inputs for one in wanted] == [
        one.inputs for one in again if isinstance(one, Wanted)
    ]


CHANGES = st.lists(
    st.tuples(st.sampled_from(["add", "change", "remove"]), st.integers(0, 39)), max_size=8
)


@pytest.mark.usefixtures("boundary")
@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(changes=CHANGES)
def test_a_scan_after_changes_says_what_a_scan_of_all_says(
    tmp_path: Path, changes: list[tuple[str, int]]
) -> None:
    tree = tmp_path / "tree"
    for name in ("tree", "catalog", "fresh"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    write_texts(tree, [f"{number:02}" for number in range(0, 40, 3)])
    run(tree)
    removed = set()
    for what, number in changes:
        name = f"{number:02}"
        if what == "remove":
            if (tree / name).exists():
                (tree / name).unlink()
                removed.add(name)
        elif what == "add" or (tree / name).exists():
            write_texts(tree, [name], what)
    removed = {name for name in removed if not (tree / name).exists()}
    known = {row["path"] for row in list_rows(tree)}
    summary = run(tree)
    rows = list_rows(tree)
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert {row["path"] for row in rows if row["vanished"]} == removed & known
    assert summary.vanished == len(removed & known)
    assert summary.walked == summary.read + summary.reused == sum(1 for _ in tree.iterdir())
    run(tree, "fresh")
    here = [row for row in rows if not row["vanished"]]
    assert here == list_rows(tree, "fresh")
    again = run(tree)
    assert (again.read, again.snapshot) == (0, summary.snapshot)


@pytest.mark.usefixtures("boundary")
def test_few_segments_are_written_for_few_changes(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write_texts(tree, [f"{number:03}" for number in range(60)])
    run(tree)
    before = {path.name for path in (tmp_path / "catalog" / "segments").iterdir()}
    write_texts(tree, ["020"], "other")
    (tree / "050").unlink()
    assert (run(tree).read, run(tree).read) == (1, 0)
    after = {path.name for path in (tmp_path / "catalog" / "segments").iterdir()}
    assert before <= after  # the snapshot before names them
    assert len(after - before) <= 2


def test_nothing_is_written_where_nothing_changed(tmp_path: Path) -> None:
    write_cohort(tmp_path / "tree", persons=2, size=8)
    run(tmp_path / "tree")
    before = {path: path.stat() for path in (tmp_path / "catalog").rglob("*")}
    run(tmp_path / "tree")
    for path, state in before.items():
        now = path.stat()
        assert (now.st_ino, now.st_mtime_ns) == (state.st_ino, state.st_mtime_ns) or path.is_dir()
    assert {*(tmp_path / "catalog").rglob("*")} == {*before}


def read_all(tree: Path) -> list[Segment]:
    folder = tree.parent / "catalog"
    found = [read_segment(folder, name) for name in Catalog.open(folder).segments]
    return [one for one in found if one]


@pytest.mark.parametrize("what", ["files", "instances", "frames", "problems", "segment.json"])
def test_a_damaged_segment_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(segments, "BOUNDARY", "")
    tree = write_cohort(tmp_path / "tree", persons=2, size=8)
    # Frames that have rows of their own, and not as many as it says, which is a problem.
    write_dicom(tree / "odd.dcm", np.zeros((2, 8, 8), np.uint16), NumberOfFrames=3)
    first = run(tree)
    segment = next(one for one in read_all(tree) if "." in what or what in one.tables)
    place = tmp_path / "catalog" / "segments" / segment.name
    path = place / (what if "." in what else f"{what}.parquet")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    again = run(tree)
    assert (again.read, again.reused, again.snapshot) == (1, 6, first.snapshot)
    assert len(Catalog.open(tmp_path / "catalog").select()) == 9


def test_a_description_of_another_version_is_read_again(tmp_path: Path) -> None:
    tree = write_cohort(tmp_path / "tree", persons=1, size=8)
    run(tree)
    (segment,) = read_all(tree)
    path = tmp_path / "catalog" / "segments" / segment.name / "segment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 0}))
    assert run(tree).read == 3


def test_rows_are_in_the_order_of_paths_whoever_read_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = write_cohort(tmp_path / "tree", persons=3, size=8)
    quickly = run(tree)
    real = reading.inspect_quickly

    def leave_some(
        entries: Entries, keep: bool, readers: object
    ) -> tuple[segments.Tables, list[int]]:
        left = [row for row, path in enumerate(entries.paths) if path.endswith("1.dcm")]
        tables, more = real(entries.take(sorted({*range(len(entries))} - {*left})), keep)
        assert not more
        return tables, left

    monkeypatch.setattr(reading, "inspect_quickly", leave_some)
    slowly = run(tree, "other")
    assert (quickly.quick, quickly.slow, slowly.quick, slowly.slow) == (9, 0, 6, 3)
    assert slowly.snapshot == quickly.snapshot
    assert "3, 33.3%, slowly" in slowly.sentence
