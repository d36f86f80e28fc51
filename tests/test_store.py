"""Snapshots on disk, and questions to them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

from medkit.catalog import schema, snapshots
from medkit.catalog.journal import append_journal, read_journal
from medkit.catalog.scan import Root, scan
from medkit.catalog.store import MANIFEST, Catalog, list_snapshots
from medkit.errors import CatalogError, UsageError
from medkit.testing import write_cohort, write_dicom
from medkit.workspace import dump_json, hash_json, read_json


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("store")
    write_cohort(folder / "images", persons=4, size=8)
    write_dicom(
        folder / "images" / "multi.dcm",
        np.zeros((2, 4, 4), np.uint8),
        PatientID="multi",
        Modality="US",
    )
    scan(folder / "catalog", [Root("here", folder / "images")], workers=0)
    return Catalog.open(folder / "catalog")


def test_every_table_has_its_schema(catalog: Catalog) -> None:
    for name, columns in schema.TABLES.items():
        assert catalog.arrow_table(name).schema.equals(columns), name


def test_pandas_types_are_nullable(catalog: Catalog) -> None:
    instances = catalog.table("instances")
    assert instances["Rows"].dtype == pd.Int64Dtype()
    assert instances["EchoTime"].dtype == np.float64
    assert instances["PatientID"].dtype == pd.StringDtype()
    assert instances["encapsulated"].dtype == bool
    assert list(instances["PixelSpacing"].iloc[0]) == [1.0, 1.0]


def test_select_gives_frames_in_order(catalog: Catalog) -> None:
    images = catalog.select()
    assert len(images) == 4 * 3 + 2
    keys = ["source", "StudyInstanceUID", "SeriesInstanceUID", "InstanceNumber", "path", "frame"]
    assert images.equals(images.sort_values(keys, kind="stable"))
    assert images["person"].notna().all()
    assert list(catalog.select("Modality = 'US'")["frame"]) == [0, 1]
    assert len(catalog.select("Modality = 'CT' -- a comment")) == 6


def test_frames_are_in_the_order_of_the_files_whichever_have_rows_of_their_own(
    tmp_path: Path,
) -> None:
    place = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "RescaleSlope": 2}
    for name, position in (("a", 1.0), ("c", 3.0)):
        write_dicom(
            tmp_path / f"images/{name}.dcm",
            np.zeros((4, 4), np.uint16),
            ImagePositionPatient=[0, 0, position],
            **place,
        )
    write_dicom(tmp_path / "images/b.dcm", np.zeros((2, 4, 4), np.uint16), **place)
    scan(tmp_path / "catalog", [Root("here", tmp_path / "images")], workers=0)
    catalog = Catalog.open(tmp_path / "catalog")
    (segment,) = catalog.manifest.segments
    assert segment["tables"]["frames"]["rows"] == 2
    frames = catalog.table("frames")
    paths = catalog.table("files").set_index("file")["path"]
    assert paths[frames["file"]].tolist() == ["a.dcm", "b.dcm", "b.dcm", "c.dcm"]
    assert frames["frame"].tolist() == [0, 0, 1, 0]
    positions = frames["ImagePositionPatient"]
    assert [None if one is None else one[2] for one in positions] == [1.0, None, None, 3.0]
    assert frames["RescaleSlope"].tolist() == [2.0] * 4
    assert frames["volume"].notna().tolist() == [True, False, False, True]
    asked = catalog.query(
        "SELECT frames.* FROM frames JOIN files USING (file) ORDER BY path, frame"
    )
    pd.testing.assert_frame_equal(asked, frames)


@pytest.mark.parametrize(
    "where", ["Modality =", "Modality = 'CT') --", "nothing = 1", "1; SELECT 2"]
)
def test_a_wrong_condition_is_a_usage_error(catalog: Catalog, where: str) -> None:
    with pytest.raises(UsageError):
        catalog.select(where)


@pytest.mark.parametrize(
    "sql",
    [
        "DROP VIEW files",
        "CREATE TABLE t AS SELECT 1",
        "COPY files TO 'stolen.csv'",
        "ATTACH 'stolen.db'",
        "INSTALL httpfs",
        "SET threads = 1",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM glob('/*')",
        "SELECT 1; SELECT 2",
        "SELECT * FROM secret",
        "",
    ],
)
def test_a_question_reaches_nothing_but_the_catalog(catalog: Catalog, sql: str) -> None:
    secret = pd.DataFrame({"a": [1]})  # DuckDB would find it by its name
    with pytest.raises(UsageError):
        catalog.query(sql)
    assert len(secret) == 1
    assert not Path("stolen.csv").exists()
    assert not Path("stolen.db").exists()
    assert len(catalog.query("SELECT * FROM files")) == 13


def test_unknown_names_are_usage_errors(catalog: Catalog) -> None:
    with pytest.raises(UsageError, match="there are files"):
        catalog.table("patients")
    with pytest.raises(UsageError, match="medkit label"):
        catalog.labels("diagnosis")
    assert catalog.label_names() == []


def test_no_catalog_is_said(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="run 'medkit catalog' first"):
        Catalog.open(tmp_path)


@pytest.fixture
def twice(tmp_path: Path) -> Catalog:
    """A catalog of two snapshots, and the second one."""
    tree = write_cohort(tmp_path / "images", persons=2, size=8)
    scan(tmp_path / "catalog", [Root("here", tree)], workers=0)
    write_dicom(tree / "new.dcm", np.zeros((4, 4), np.uint8))
    scan(tmp_path / "catalog", [Root("here", tree)], workers=0)
    return Catalog.open(tmp_path / "catalog")


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[:-9])
    elif how == "flipped":
        path.write_bytes(content[:99] + bytes([content[99] ^ 1]) + content[100:])
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["cut", "flipped", "gone"])
@pytest.mark.parametrize("table", ["instances", "persons", "snapshot.json"])
def test_a_damaged_file_is_named_and_the_last_good_snapshot_too(
    twice: Catalog, table: str, how: str
) -> None:
    good = ({*list_snapshots(twice.folder)} - {twice.snapshot}).pop()
    if table == "snapshot.json":
        path = twice.folder / "snapshots" / twice.snapshot / table
    else:
        path = twice.manifest.paths(twice.folder, table)[0]
    spoil(path, how)
    said = re.escape(str(path)) + r" is (damaged|missing).*"
    with pytest.raises(CatalogError, match=said):
        Catalog.open(twice.folder)
    with pytest.raises(CatalogError, match="no other|the one before, " + good):
        Catalog.open(twice.folder)
    scan(twice.folder, [Root("here", twice.folder.parent / "images")], workers=0)
    mended = Catalog.open(twice.folder)
    assert mended.snapshot == twice.snapshot
    assert len(mended.select()) == 7


def test_a_catalog_of_another_version_is_named_and_made_anew(twice: Catalog) -> None:
    for name in list_snapshots(twice.folder):
        path = twice.folder / "snapshots" / name / MANIFEST
        content = read_json(path) | {"format": 0}
        del content["checksum"]
        path.write_bytes(dump_json({**content, "checksum": hash_json(content)}))
    said = "not of this version of medkit; .*; run 'medkit catalog' to make it anew"
    with pytest.raises(CatalogError, match=said):
        Catalog.open(twice.folder)
    scan(twice.folder, [Root("here", twice.folder.parent / "images")], workers=0)
    assert Catalog.open(twice.folder).snapshot == twice.snapshot


def test_the_last_good_snapshot_is_still_there_to_be_read(twice: Catalog) -> None:
    good = ({*list_snapshots(twice.folder)} - {twice.snapshot}).pop()
    spoil(twice.manifest.paths(twice.folder, "persons")[0], "gone")
    with pytest.raises(CatalogError, match=f"the one before, {good}, is sound"):
        Catalog.open(twice.folder)
    assert len(Catalog(twice.folder, good).select()) == 6


def test_this_snapshot_and_the_one_before_are_kept(tmp_path: Path) -> None:
    tree, names = tmp_path / "images", []
    for number in range(3):
        write_dicom(tree / f"{number}.dcm", np.zeros((4, 4), np.uint8))
        names.append(scan(tmp_path / "catalog", [Root("here", tree)], workers=0).snapshot)
    assert list_snapshots(tmp_path / "catalog") == sorted(names[1:])
    kept = {name for one in names[1:] for name in Catalog(tmp_path / "catalog", one).segments}
    assert {path.name for path in (tmp_path / "catalog" / "segments").iterdir()} == kept
    assert len(Catalog(tmp_path / "catalog", names[1]).select()) == 2


def test_a_writer_that_died_before_the_pointer_moved_changed_nothing(
    twice: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = twice.folder.parent / "images"
    write_dicom(tree / "newer.dcm", np.zeros((4, 4), np.uint8))
    with monkeypatch.context() as patch:
        patch.setattr("medkit.catalog.snapshots.write_beside", Mock(side_effect=OSError("broken")))
        with pytest.raises(OSError, match="broken"):
            scan(twice.folder, [Root("here", tree)], workers=0)
    assert Catalog.open(twice.folder).snapshot == twice.snapshot
    scan(twice.folder, [Root("here", tree)], workers=0)
    assert len(Catalog.open(twice.folder).select()) == 8


def test_what_needs_more_memory_gets_more(twice: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str | None] = []
    real = snapshots._open_database

    def open_database(*arguments: Any) -> Any:
        chosen.append(arguments[-1])
        if len(chosen) == 1:
            raise MemoryError
        return real(*arguments)

    monkeypatch.setattr(snapshots, "_open_database", open_database)
    built = snapshots.make_snapshot(twice.folder, twice.segments, rebuild=True)
    assert built.snapshot == twice.snapshot
    assert chosen == ["64MB", "256MB"]
    monkeypatch.setattr(snapshots, "_open_database", Mock(side_effect=MemoryError))
    with pytest.raises(CatalogError, match="not enough memory"):
        snapshots.make_snapshot(twice.folder, twice.segments, rebuild=True)


def test_an_answer_is_streamed(catalog: Catalog) -> None:
    first, second = (catalog.stream("SELECT file FROM images ORDER BY file") for _ in range(2))
    assert first.read_next_batch().num_rows == 14
    assert second.read_all().num_rows == 14
    with pytest.raises(UsageError):
        catalog.stream("DROP VIEW images")
    with pytest.raises(UsageError):
        catalog.stream("SELECT error('on the way')").read_all()
    hidden = catalog.stream(
        "SELECT * FROM files",
        prelude=["CREATE SCHEMA s", "CREATE VIEW s.files AS SELECT 1 AS a", "USE s"],
    )
    assert hidden.schema.names == ["a"]
    assert len(catalog.query("SELECT path FROM files")) == 13


def test_a_torn_line_of_the_journal_was_never_written(tmp_path: Path) -> None:
    append_journal(tmp_path, [{"type": "a"}])
    with (tmp_path / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"type": "b"')
    assert read_journal(tmp_path) == [{"type": "a"}]
    append_journal(tmp_path, [{"type": "c"}])
    assert read_journal(tmp_path) == [{"type": "a"}, {"type": "c"}]


def test_a_damaged_journal_is_said(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes(b"nonsense\n{}\n")
    with pytest.raises(CatalogError, match="damaged at line 1"):
        read_journal(tmp_path)
