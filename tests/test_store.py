"""Snapshots on disk, and questions to them."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkit.catalog import schema
from medkit.catalog.journal import append_journal, read_journal
from medkit.catalog.listing import look_up
from medkit.catalog.scan import Root, scan
from medkit.catalog.store import Catalog, to_frame, to_table, write_snapshot
from medkit.errors import CatalogError, UsageError
from medkit.testing import write_cohort, write_dicom


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
    for name, (columns, _) in schema.TABLES.items():
        assert catalog.arrow_table(name).schema.equals(columns), name


def test_pandas_types_are_nullable(catalog: Catalog) -> None:
    instances = catalog.table("instances")
    assert instances["Rows"].dtype == pd.Int64Dtype()
    assert instances["EchoTime"].dtype == np.float64
    assert instances["PatientID"].dtype == pd.StringDtype()
    assert instances["encapsulated"].dtype == bool
    assert list(instances["PixelSpacing"].iloc[0]) == [1.0, 1.0]


@pytest.mark.parametrize("table", ["tables", "images", *schema.TABLES])
def test_every_table_is_shown_in_columns_that_fit(catalog: Catalog, table: str) -> None:
    found = look_up(catalog, table, limit=2)
    assert len(found.rows) == len(found.records) <= 2
    assert len(found.columns) <= 7


def test_what_is_shown_has_a_path_and_an_order(catalog: Catalog) -> None:
    shown = [record["path"] for record in look_up(catalog, "frames").records]
    assert shown == sorted(shown)
    assert len(shown) == 4 * 3 + 2
    assert len(look_up(catalog, "instances", where="path = 'multi.dcm'").records) == 1
    wide = look_up(catalog, "tables", sql="SELECT * FROM images")
    assert f"{len(wide.columns)} of {len(wide.records[0])} columns" in wide.note
    with pytest.raises(UsageError, match="SELECT"):
        look_up(catalog, "files", sql="SELECT 1", where="TRUE")


def test_select_gives_frames_in_order(catalog: Catalog) -> None:
    images = catalog.select()
    assert len(images) == 4 * 3 + 2
    keys = ["source", "StudyInstanceUID", "SeriesInstanceUID", "InstanceNumber", "path", "frame"]
    assert images.equals(images.sort_values(keys, kind="stable"))
    assert images["person"].notna().all()
    assert list(catalog.select("Modality = 'US'")["frame"]) == [0, 1]
    assert len(catalog.select("Modality = 'CT' -- a comment")) == 6


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


def test_a_damaged_table_is_said(tmp_path: Path) -> None:
    write_snapshot(tmp_path, empty_tables())
    found = Catalog.open(tmp_path)
    path = tmp_path / "snapshots" / found.snapshot / "files.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CatalogError, match=r"files\.parquet is damaged"):
        found.table("files")
    path.unlink()
    with pytest.raises(CatalogError, match="lacks files"):
        Catalog.open(tmp_path)


def empty_tables(**frames: pd.DataFrame) -> dict[str, pa.Table]:
    return {name: to_table(frames.get(name, pd.DataFrame()), name) for name in schema.TABLES}


def with_problem(code: str) -> dict[str, pa.Table]:
    return empty_tables(problems=pd.DataFrame({"file": ["f"], "code": [code], "detail": ["d"]}))


def test_equal_content_is_one_snapshot(tmp_path: Path) -> None:
    first = write_snapshot(tmp_path, with_problem("a"))
    assert write_snapshot(tmp_path, with_problem("a")) == first
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == [first]


def test_this_snapshot_and_the_one_before_are_kept(tmp_path: Path) -> None:
    names = [write_snapshot(tmp_path, with_problem(code)) for code in "abc"]
    assert {path.name for path in (tmp_path / "snapshots").iterdir()} == set(names[1:])
    assert Catalog.open(tmp_path).snapshot == names[-1]
    older = Catalog(tmp_path, names[1])
    assert older.table("problems")["code"].tolist() == ["b"]


def test_a_writer_that_died_before_the_pointer_moved_changed_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_snapshot(tmp_path, with_problem("a"))
    with monkeypatch.context() as patch:
        patch.setattr("medkit.catalog.store._point_at", Mock(side_effect=OSError("no space")))
        with pytest.raises(OSError, match="no space"):
            write_snapshot(tmp_path, with_problem("b"))
    assert Catalog.open(tmp_path).snapshot == first
    second = write_snapshot(tmp_path, with_problem("b"))
    assert Catalog.open(tmp_path).snapshot == second != first


def test_rows_in_any_order_are_the_same_snapshot(tmp_path: Path) -> None:
    rows = pd.DataFrame({"file": ["b", "a"], "code": ["x", "y"], "detail": [None, "d"]})
    first = write_snapshot(tmp_path / "1", empty_tables(problems=rows))
    assert write_snapshot(tmp_path / "2", empty_tables(problems=rows[::-1])) == first


@given(
    st.lists(
        st.tuples(st.text(), st.none() | st.integers(-(2**63), 2**63 - 1), st.booleans()),
        max_size=5,
    )
)
def test_tables_survive_pandas(rows: list[tuple[str, int | None, bool]]) -> None:
    table = pa.Table.from_pylist(
        [{"path": path, "size": size, "vanished": gone} for path, size, gone in rows],
        schema=schema.FILES,
    )
    assert to_table(to_frame(table), "files").equals(table)


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
