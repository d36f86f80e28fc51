"""Scanning trees: every file counted once, incrementally, whatever happens on the way."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medkit.catalog import folders, inspection, reading, segments, triage, walking
from medkit.catalog.entries import Entries
from medkit.catalog.labels import ImageRule, label_images
from medkit.catalog.roots import choose_roots
from medkit.catalog.scan import Root, Summary, scan
from medkit.catalog.store import Catalog
from medkit.engine import Died, Outcome
from medkit.errors import DiskFullError, MedkitError, UsageError
from medkit.sources.fetching import fetch
from medkit.sources.targets import plan_target
from medkit.testing import write_cohort, write_dicom
from medkit.workspace import Workspace

PIXELS = np.arange(12, dtype=np.uint16).reshape(3, 4)
PNG = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x05\0\0\0\x04\x08\0\0\0\0\xbd\x4c\x5b\x2d"
    b"\0\0\0\0IEND\xaeB`\x82"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_cohort(tmp_path / "tree", persons=3, size=8)


def run(tree: Path, source: str = "s", **options: Any) -> Summary:
    return scan(tree.parent / "catalog", [Root(source, tree)], **{"workers": 0} | options)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is a segment of its own."""
    monkeypatch.setattr(segments, "BOUNDARY", "")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is plain enough for the quick road."""

    def leave(entries: Entries, keep: bool, readers: object) -> tuple[segments.Tables, list[int]]:
        told = inspection.inspect_findings(entries, dict(entries.findings))
        return told, [row for row in range(len(entries)) if row not in entries.findings]

    monkeypatch.setattr(reading, "inspect_quickly", leave)


def kinds(tree: Path) -> dict[str, tuple[str, str | None]]:
    files = Catalog.open(tree.parent / "catalog").arrow_table("files").to_pylist()
    return {row["path"]: (row["kind"], row["reason"]) for row in files}


def total(summary: Summary) -> int:
    return sum(sum(reasons.values()) for reasons in summary.counts.values())


def test_every_real_file_is_counted_once(pydicom_files: Path, tmp_path: Path) -> None:
    summary = scan(tmp_path / "catalog", [Root("pydicom", pydicom_files)], workers=0)
    files = [path for path in pydicom_files.rglob("*") if path.is_file()]
    assert summary.walked == total(summary) == len(files)
    assert sum(summary.counts["image"].values()) > 80
    assert summary.counts["problem"] == {"cut-header": 1}
    problems = Catalog.open(tmp_path / "catalog").table("problems")
    assert {"cut-header", "pixel-cut", "pixel-length", "bad-value"} <= set(problems["code"])


def test_more_real_files_leave_no_trace_of_trouble(shared_data: Path, tmp_path: Path) -> None:
    summary = scan(tmp_path / "catalog", [Root("shared", shared_data / "dicom")], workers=0)
    assert summary.walked == total(summary)
    assert summary.counts["problem"] == {}
    assert summary.members["image"] == {"": 20}


FILES: dict[str, Callable[[Path], object]] = {
    "image": lambda path: write_dicom(path, PIXELS),
    "cut": lambda path: path.write_bytes(b"\0" * 128 + b"DICM\x02\0\x10\0UI\x14\x001.2"),
    "png": lambda path: path.write_bytes(PNG),
    "text": lambda path: path.write_text("hello"),
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(bytes(range(256))),
    "zip": lambda path: write_zip(path, {"a.png": PNG, "b/readme": b"x"}),
    "broken-zip": lambda path: path.write_bytes(b"PK\x03\x04 and no more"),
}


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(names=st.lists(st.sampled_from(sorted(FILES)), max_size=12))
def test_the_sum_is_right_for_any_tree(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    tree = tmp_path_factory.mktemp("any") / "tree"
    tree.mkdir()
    for number, name in enumerate(names):
        FILES[name](tree / f"{number}-{name}")
    summary = run(tree)
    assert summary.walked == total(summary) == len(names)
    assert len(kinds(tree)) == len(names) + 2 * names.count("zip")
    again = run(tree)
    assert (again.snapshot, again.counts) == (summary.snapshot, summary.counts)
    assert again.read == 0


@pytest.mark.usefixtures("short")
def test_the_number_of_workers_changes_nothing(tree: Path) -> None:
    write_zip(tree / "z.zip", {"a.png": PNG})
    snapshots = set()
    for workers in (0, 2):
        shutil.rmtree(tree.parent / "catalog", ignore_errors=True)
        snapshots.add(run(tree, workers=workers).snapshot)
    assert len(snapshots) == 1


@pytest.mark.usefixtures("short")
def test_a_dask_cluster_gives_the_same_bytes(tree: Path) -> None:
    distributed = pytest.importorskip("distributed")
    write_zip(tree / "z.zip", {"a.png": PNG})
    (tree / "empty.dcm").touch()
    catalog = tree.parent / "catalog"
    found = []
    with distributed.LocalCluster(
        n_workers=2, processes=False, host="127.0.0.1", protocol="tcp://", dashboard_address=None
    ) as cluster:
        for engine in ("local", cluster.scheduler_address.replace("tcp://", "dask://")):
            shutil.rmtree(catalog, ignore_errors=True)
            summary = run(tree, engine=engine)
            assert (summary.read, summary.quick, summary.slow) == (11, 10, 1)
            paths = (path for path in catalog.rglob("*") if path.is_file())
            found.append({path: path.read_bytes() for path in paths})
    assert found[0] == found[1]


def test_only_what_changed_is_read_again(tree: Path) -> None:
    first = run(tree)
    assert (first.read, first.reused) == (9, 0)
    again = run(tree)
    assert (again.read, again.reused, again.snapshot) == (0, 9, first.snapshot)
    write_dicom(tree / "P000" / "0.dcm", PIXELS, Modality="US")
    changed = run(tree)
    assert (changed.read, changed.reused) == (1, 8)
    catalog = Catalog.open(tree.parent / "catalog")
    assert catalog.select("path = 'P000/0.dcm'")["Modality"].tolist() == ["US"]


def test_what_vanished_is_marked_and_may_come_back(tree: Path) -> None:
    first = run(tree)
    path = tree / "P001" / "1.dcm"
    path.rename(tree.parent / "away")
    gone = run(tree)
    assert (gone.walked, gone.vanished) == (8, 1)
    catalog = Catalog.open(tree.parent / "catalog")
    assert len(catalog.select()) == 8
    assert catalog.query("SELECT path FROM files WHERE vanished")["path"].tolist() == ["P001/1.dcm"]
    assert run(tree).snapshot == gone.snapshot
    (tree.parent / "away").rename(path)
    assert run(tree).snapshot == first.snapshot


def test_other_folders_stay_as_they_were(tree: Path) -> None:
    run(tree)
    other = write_cohort(tree.parent / "other", persons=1, size=8, seed=1)
    summary = run(other, "t")
    assert (summary.walked, summary.vanished) == (3, 0)
    assert len(Catalog.open(tree.parent / "catalog").select()) == 12
    shutil.rmtree(other)
    alone = run(tree)
    assert [str(other) in warning for warning in alone.warnings] == [True]
    assert len(Catalog.open(tree.parent / "catalog").select()) == 12


def test_a_folder_is_forgotten_with_its_files(tree: Path) -> None:
    first = run(tree)
    other = write_cohort(tree.parent / "other", persons=1, size=8, seed=1)
    run(other, "t")
    shutil.rmtree(other)
    for _ in range(2):  # given again, it is no error
        assert run(tree, forget=[other]).snapshot == first.snapshot
    with pytest.raises(UsageError, match="never scanned"):
        run(tree, forget=[tree / "nowhere"])
    write_cohort(other, persons=1, size=8, seed=1)
    run(other, "t")
    assert len(Catalog.open(tree.parent / "catalog").select()) == 12


def test_a_registered_folder_that_moved_is_named_with_what_would_help(
    workspace: Workspace, tmp_path: Path
) -> None:
    old, new = write_cohort(tmp_path / "old", persons=1, size=8), tmp_path / "new"
    fetch(plan_target(str(old)), workspace)
    scan(workspace.catalog, choose_roots(workspace, []), workers=0)
    old.rename(new)
    with pytest.raises(UsageError, match=r"fetched as 'old'.* remove .*raw.old"):
        choose_roots(workspace, [])
    shutil.rmtree(workspace.source("old"))
    fetch(plan_target(str(new), name="old"), workspace)
    roots = choose_roots(workspace, [], forget=[old])
    assert [(root.source, root.folder) for root in roots] == [("old", new)]
    scan(workspace.catalog, roots, workers=0, forget=[old])
    images = Catalog.open(workspace.catalog).select()
    assert (set(images["root"]), set(images["duplicate"].isna())) == ({str(new)}, {True})


def test_a_scan_never_touches_the_tree(tree: Path) -> None:
    before = {path: path.stat() for path in tree.rglob("*")}
    run(tree)
    for path, state in before.items():
        assert (path.stat().st_mtime_ns, path.stat().st_size) == (state.st_mtime_ns, state.st_size)
    assert set(tree.rglob("*")) == set(before)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("LICENSE", b"You may", "text"),
        ("a/README.md", b"# Read", "text"),
        ("labels.csv", b"a,b\n", "table"),
        ("._image.dcm", b"\0\x05\x16\x07", "system-file"),
        ("Thumbs.db", b"\xd0\xcf\x11\xe0", "system-file"),
        (".DS_Store", b"\0\0\0\1Bud1", "system-file"),
        ("a.dcm", b"", "empty"),
        ("big.dcm.part", b"\0" * 128 + b"DICM", "unfinished"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c", "unsupported-archive"),
        ("a.dcm", b"no image at all", "not-an-image"),
    ],
)
def test_what_is_ignored_has_a_reason(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    path = tmp_path / "tree" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    run(tmp_path / "tree")
    assert kinds(tmp_path / "tree") == {name: ("ignored", reason)}


def test_names_do_not_decide(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write_dicom(tree / "README.txt", PIXELS)
    (tree / "image.dcm").write_bytes(PNG)
    run(tree)
    assert kinds(tree) == {"README.txt": ("image", None), "image.dcm": ("non-dicom", None)}


@pytest.mark.skipif(os.name != "posix", reason="links, pipes and names as POSIX has them")
def test_links_pipes_and_strange_names_are_counted(tree: Path) -> None:
    (tree / "link").symlink_to(tree / "P000")
    (tree / "loop").symlink_to(tree)
    os.mkfifo(tree / "pipe")
    odd = os.fsencode(tree) + b"/\xff.dcm"
    with open(odd, "wb") as handle:  # noqa: PTH123  # a Path cannot have such a name
        handle.write(b"x")
    summary = run(tree)
    assert summary.walked == 9 + 4
    found = kinds(tree)
    assert found["link"] == found["loop"] == ("ignored", "symlink")
    assert found["pipe"] == ("ignored", "not-a-file")
    assert found["\\xff.dcm"] == ("problem", "name-not-text")


@pytest.mark.usefixtures("slow")
def test_what_cannot_be_opened_is_tried_again(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_file = inspection.open_file

    def refuse(root: str, path: str, *more: Any) -> Any:
        if path.endswith("0.dcm"):
            raise PermissionError(13, "Permission denied")
        return open_file(root, path, *more)

    with monkeypatch.context() as patch:
        patch.setattr(inspection, "open_file", refuse)
        first = run(tree)
        assert first.counts["problem"] == {"unreadable": 3}
        again = run(tree)
        assert (again.read, again.snapshot) == (3, first.snapshot)
    summary = run(tree)
    assert summary.counts["problem"] == {}
    assert summary.read == 3
    shutil.rmtree(tree.parent / "catalog")
    assert run(tree).snapshot == summary.snapshot


def test_a_folder_that_cannot_be_listed_is_a_problem(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_folder = folders.list_folder

    def refuse(path: str) -> folders.Listing:
        if path == str(tree / "P001"):
            raise PermissionError(13, "Permission denied")
        return list_folder(path)

    with monkeypatch.context() as patch:
        patch.setattr(walking, "list_folder", refuse)
        summary = run(tree)
    assert kinds(tree)["P001/"] == ("problem", "unreadable")
    assert summary.walked == total(summary) == 7


def test_archives_are_indexed_without_unpacking(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    image = write_dicom(tmp_path / "image.dcm", PIXELS, PatientID="inside").read_bytes()
    tree.mkdir()
    inner = write_zip(tmp_path / "inner.zip", {"a.png": PNG}).read_bytes()
    write_zip(tree / "a.zip", {"study/1.dcm": image, "b.png": PNG, "inner.zip": inner, "c": b""})
    with tarfile.open(tree / "b.tgz", "w:gz") as archive:
        info = tarfile.TarInfo("other.dcm")
        info.size = len(image)
        archive.addfile(info, io.BytesIO(image))
    summary = run(tree)
    assert summary.walked == 2
    assert summary.counts["archive"] == {"": 2}
    assert summary.members["archive"] == {"nested-archive": 1}
    assert summary.members["ignored"] == {"empty": 1}
    found = kinds(tree)
    assert found["a.zip!study/1.dcm"] == found["b.tgz!other.dcm"] == ("image", None)
    assert found["a.zip!b.png"] == ("non-dicom", None)
    catalog = Catalog.open(tmp_path / "catalog")
    assert catalog.table("instances")["duplicate"].dropna().tolist() == ["alias"]
    assert run(tree).read == 0
    (tree / "a.zip").unlink()
    assert run(tree).members["image"] == {"": 1}
    assert catalog.query("SELECT 1")["1"].tolist() == [1]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("damage", [cut, lambda content: content[:-30] + b"\xff" * 30])
def test_a_damaged_archive_is_a_problem_and_has_no_members(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    path = write_zip(tree / "a.zip", {f"{number}.png": PNG for number in range(9)})
    path.write_bytes(damage(path.read_bytes()))
    assert run(tree).counts["problem"] == {"archive-refused": 1}
    assert kinds(tree) == {"a.zip": ("problem", "archive-refused")}


def test_an_archive_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    write_zip(tree / "a.zip", {"../../evil.png": PNG})
    assert run(tree).counts["problem"] == {"archive-refused": 1}


def stop_after(files: int) -> Callable[[int, int | None, str], None]:
    def progress(done: int, total: int | None, unit: str) -> None:
        if done >= files:
            raise KeyboardInterrupt

    return progress


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(files=st.integers(1, 9))
@pytest.mark.usefixtures("short")
def test_a_scan_that_was_stopped_goes_on(tree: Path, files: int) -> None:
    shutil.rmtree(tree.parent / "catalog", ignore_errors=True)
    whole = run(tree).snapshot
    shutil.rmtree(tree.parent / "catalog")
    with pytest.raises(KeyboardInterrupt):
        run(tree, progress=stop_after(files))
    rest = run(tree)
    assert rest.read == 9 - files
    assert rest.snapshot == whole
    assert not (tree.parent / "catalog" / "partial").exists()


@pytest.mark.skipif(os.name != "posix", reason="ends a process by a POSIX signal")
@pytest.mark.usefixtures("short")
def test_a_scan_that_was_killed_ends_with_the_same_tables(tree: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from medkit.catalog import scan, segments\n"
        "segments.BOUNDARY = ''\n"
        "root = scan.Root('s', Path(sys.argv[1]))\n"
        "scan.scan(Path(sys.argv[2]), [root], workers=0, progress=lambda *_: time.sleep(0.2))\n"
    )
    whole = run(tree).snapshot
    catalog = tree.parent / "catalog"
    shutil.rmtree(catalog)
    with subprocess.Popen([sys.executable, "-c", script, str(tree), str(catalog)]) as process:
        until = time.monotonic() + 60
        while time.monotonic() < until and len(list(catalog.glob("segments/*/*.json"))) < 2:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (catalog / "CURRENT").exists()
    rest = run(tree)
    assert 0 < rest.read < 9
    assert rest.snapshot == whole


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("late", [False, True])
def test_only_the_file_that_kills_its_reader_is_set_aside(
    tree: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    tried: list[int] = []

    def map_items(function: Any, batches: Iterator[Entries], **options: Any) -> Iterator[Any]:
        for batch in batches:
            tried.append(len(batch))
            deadly = "P001/1.dcm" in batch.paths
            yield Outcome(batch, Died("ended by a signal", late) if deadly else function(batch))

    code = "reader-timeout" if late else "reader-died"
    with monkeypatch.context() as patch:
        patch.setattr(reading, "map_items", map_items)
        patch.setattr(reading, "_PARTS", 2)
        summary = run(tree)
    assert tried[0] == 9
    assert len(tried) < 9
    assert summary.counts["problem"] == {code: 1}
    assert kinds(tree)["P001/1.dcm"] == ("problem", code)
    assert summary.walked == total(summary) == 9
    again = run(tree)
    assert (again.read, again.counts["problem"]) == (1, {})


def names_kept(tree: Path) -> bool:
    kept = Catalog.open(tree.parent / "catalog").table("instances")["PatientName"].notna()
    assert kept.all() == kept.any()
    return bool(kept.all())


def test_identifiers_come_and_go_with_the_wish(tree: Path) -> None:
    run(tree)
    assert not names_kept(tree)
    assert run(tree, keep_identifiers=True).read == 9
    assert names_kept(tree)
    assert run(tree).read == 0  # what was read without them stands in the snapshot before
    assert not names_kept(tree)


def test_roots_do_not_lie_in_each_other(tree: Path) -> None:
    run(tree)
    with pytest.raises(UsageError, match="lies in"):
        scan(tree.parent / "catalog", [Root("s", tree / "P000")], workers=0)
    with pytest.raises(UsageError, match="no folder"):
        scan(tree.parent / "catalog", [Root("s", tree.parent / "nothing")], workers=0)
    assert len(kinds(tree)) == 9


def test_what_medkit_wrote_is_not_part_of_the_tree(tree: Path) -> None:
    workspace = Workspace(tree)
    (tree / "sets" / "x").mkdir(parents=True)
    (tree / "sets" / "x" / "set.json").write_text("{}")
    with workspace.lock():
        summary = scan(workspace.catalog, [Root("s", tree)], workers=0)
    assert summary.walked == 9
    assert scan(workspace.catalog, [Root("s", tree)], workers=0).snapshot == summary.snapshot


def test_roots_are_chosen_and_remembered(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to scan"):
        choose_roots(workspace, [])
    write_cohort(workspace.source("public"), persons=1, size=8)
    write_cohort(tmp_path / "own", persons=1, size=8, seed=1)
    given = choose_roots(workspace, [tmp_path / "own"], "clinic", r"P(\d+)")
    assert [(root.source, root.person_regex) for root in given] == [("clinic", r"P(\d+)")]
    scan(workspace.catalog, given, workers=0)
    chosen = {root.folder.name: root.source for root in choose_roots(workspace, [])}
    assert chosen == {"public": "public", "own": "clinic"}
    scan(workspace.catalog, choose_roots(workspace, []), workers=0)
    persons = Catalog.open(workspace.catalog).table("persons")
    assert sorted(persons["basis"]) == ["PatientID", "person-regex"]


@pytest.mark.parametrize("what", ["nothing", "segments", "CURRENT"])
def test_files_and_journal_give_the_same_catalog_again(tree: Path, what: str) -> None:
    catalog = tree.parent / "catalog"
    write_zip(tree / "z.zip", {"a.png": PNG})
    run(tree)
    label_images(catalog, "kind", ImageRule("tag", "Modality"))
    expected = {path: path.read_bytes() for path in catalog.rglob("*.parquet")}
    before = Catalog.open(catalog)
    if what == "segments":
        shutil.rmtree(catalog / "segments")
        shutil.rmtree(catalog / "snapshots")
    elif what == "CURRENT":
        (catalog / "CURRENT").unlink()
    summary = run(tree, rebuild=True)
    assert (summary.read, summary.snapshot) == (10, before.snapshot)
    named = [path for path in expected if path.exists()]
    assert len(named) >= 10
    assert all(path.read_bytes() == expected[path] for path in named)
    assert Catalog.open(catalog).label_names() == ["kind"]


def test_what_vanished_is_forgotten_when_all_is_read_again(tree: Path) -> None:
    run(tree)
    (tree / "P001" / "1.dcm").unlink()
    gone = run(tree)
    fresh = run(tree, rebuild=True)
    assert (gone.vanished, fresh.vanished, fresh.walked, fresh.read) == (1, 0, 8, 8)
    assert run(tree).snapshot == fresh.snapshot


def test_a_reader_is_served_while_a_scan_runs(tree: Path) -> None:
    run(tree)
    stopped = threading.Event()
    seen: list[int] = []
    faults: list[BaseException] = []

    def look() -> None:
        while not stopped.is_set():
            try:
                with Catalog.open(tree.parent / "catalog") as catalog:
                    seen.append(len(catalog.query("SELECT * FROM images")))
            except MedkitError as error:
                faults.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for number in range(3):
            write_dicom(tree / f"new{number}.dcm", PIXELS)
            run(tree, progress=lambda *_: time.sleep(0.3))
    finally:
        stopped.set()
        reader.join()
    assert not faults
    assert seen == sorted(seen)
    assert {9} <= {*seen} <= {9, 10, 11, 12}


@pytest.mark.parametrize("step", ["write", "sync", "mkdir", "replace"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_full_disk_is_said_and_the_same_scan_completes(
    tree: Path, monkeypatch: pytest.MonkeyPatch, step: str, after: int
) -> None:
    workspace = Workspace(tree.parent / "w")
    root = [Root("s", tree)]
    with workspace.lock():
        whole = scan(workspace.catalog, root, workers=0)
    shutil.rmtree(workspace.catalog)
    place, name = {
        "write": (pq.ParquetWriter, "write_table"),
        "sync": (os, "fsync"),
        "mkdir": (Path, "mkdir"),
        "replace": (Path, "replace"),
    }[step]
    real = getattr(place, name)
    calls: list[int] = []

    def fail(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, fail)
        with pytest.raises(DiskFullError, match="no room left"), workspace.lock():
            scan(workspace.catalog, root, workers=0)
    with workspace.lock():
        assert scan(workspace.catalog, root, workers=0).snapshot == whole.snapshot
    assert not (workspace.catalog / "partial").exists()


STRIDE = 1 if "MEDKIT_KILLS" in os.environ else 4
STEPS = (
    (pq.ParquetWriter, "write_table"),
    (os, "fsync"),
    (os, "rename"),
    (os, "replace"),
    (os, "rmdir"),
    (Path, "mkdir"),
    (Path, "replace"),
    (Path, "write_bytes"),
    (Path, "write_text"),
)


def stop_at(patch: pytest.MonkeyPatch, step: int) -> list[str]:
    """End the work before one of its steps, as a kill does; return the steps that were begun."""
    begun: list[str] = []

    def watch(place: Any, name: str) -> None:
        real = getattr(place, name)

        def act(*arguments: Any, **options: Any) -> Any:
            begun.append(name)
            if len(begun) > step:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        patch.setattr(place, name, act)

    for place, name in STEPS:
        watch(place, name)
    return begun


@pytest.mark.usefixtures("short")
def test_a_scan_that_ends_before_any_step_keeps_the_old_or_has_the_new(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in sorted(tree.rglob("*.dcm"))[2:]:
        path.unlink()
    catalog, kept = tree.parent / "catalog", tree.parent / "kept"
    write_dicom(tree / "other.dcm", PIXELS)
    run(tree)
    (tree / "other.dcm").unlink()
    old = run(tree).snapshot
    write_dicom(tree / "new.dcm", PIXELS)
    shutil.copytree(catalog, kept)
    new = run(tree).snapshot
    step = 0
    while True:
        shutil.rmtree(catalog)
        shutil.copytree(kept, catalog)
        with monkeypatch.context() as patch:
            begun = stop_at(patch, step)
            with suppress(KeyboardInterrupt):
                run(tree)
        if len(begun) <= step:
            break
        assert Catalog.open(catalog).snapshot in (old, new), begun
        assert run(tree).snapshot == new, begun
        assert not (catalog / "partial").exists()
        assert len(Catalog.open(catalog).select()) == 3
        step += STRIDE
    assert step > 30


_ON_A_SMALL_DISK = """
set -e
mount -t tmpfs -o size=40k none {disk}
if {medkit} catalog {tree} -w {disk}/w --workers 0 2> {errors}; then exit 7; fi
mount -o remount,size=90m {disk}
{medkit} catalog {tree} -w {disk}/w --workers 0 --json
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a small disk as Linux does")
def test_a_disk_that_is_really_full(tmp_path: Path, tree: Path) -> None:
    write_cohort(tree, persons=120, size=8)
    disk = tmp_path / "disk"
    disk.mkdir()
    told = tmp_path / "errors"
    medkit = f"{sys.executable} -m medkit"
    script = _ON_A_SMALL_DISK.format(disk=disk, tree=tree, medkit=medkit, errors=told)
    alone = shutil.which("unshare")
    probe = [str(alone), "-rm", "mount", "-t", "tmpfs", "none", str(disk)]
    if not alone or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("this user may mount nothing")
    done = subprocess.run([alone, "-rm", "sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + told.read_text()
    assert "no room left" in told.read_text()
    assert "Traceback" not in told.read_text()
    assert json.loads(done.stdout)["walked"] == 360


def test_progress_ends_with_all_files(tree: Path) -> None:
    told: list[tuple[int, int | None, str]] = []
    run(tree, progress=lambda *what: told.append(what))
    assert told[-1] == (9, 9, "files")


@pytest.mark.parametrize("name", ["a.part", "b.zip.part"])
def test_downloads_under_way_are_known(name: str) -> None:
    assert triage.is_unfinished(name)
