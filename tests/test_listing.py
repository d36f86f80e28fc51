"""Looking into a catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medkit.catalog.listing import Answer, ask, cut, look_up, preview
from medkit.catalog.scan import Root, scan
from medkit.catalog.schema import TABLES
from medkit.catalog.store import Catalog
from medkit.errors import UsageError
from medkit.testing import write_cohort, write_dicom

TABLE_NAMES = ["images", *TABLES]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("listing")
    write_cohort(folder / "images", persons=4, size=8)
    pixels = np.zeros((2, 4, 4), np.uint8)
    write_dicom(folder / "images" / "multi.dcm", pixels, PatientID="multi", Modality="US")
    scan(folder / "catalog", [Root("here", folder / "images")], workers=0)
    return Catalog.open(folder / "catalog")


def read(answer: Answer) -> list[dict[str, Any]]:
    return answer.batches.read_all().to_pylist()


def test_tables_are_counted(catalog: Catalog) -> None:
    counts = {row["table"]: row["rows"] for row in read(look_up(catalog, "tables"))}
    assert next(iter(counts)) == "files"
    assert set(counts) == set(TABLE_NAMES)
    assert (counts["files"], counts["frames"], counts["images"]) == (13, 14, 14)


@pytest.mark.parametrize("table", TABLE_NAMES)
def test_a_person_sees_columns_that_fit_and_a_program_sees_all(
    catalog: Catalog, table: str
) -> None:
    brief = look_up(catalog, table, limit=2, brief=True)
    shown = preview(brief, 2)
    whole = look_up(catalog, table)
    rows = read(whole)
    assert len(shown.columns) <= 7
    assert len(shown.rows) == min(2, len(rows))
    assert brief.total == len(rows)
    assert (f"2 of {len(rows)} rows" in shown.note) == (len(rows) > 2)
    assert whole.width == len(whole.batches.schema.names) >= len(shown.columns)


@pytest.mark.parametrize("table", ["files", "instances", "frames"])
def test_rows_stand_in_the_order_of_their_paths(catalog: Catalog, table: str) -> None:
    paths = [row["path"] for row in read(look_up(catalog, table))]
    assert paths == sorted(paths)
    assert len(paths) in (13, 14)


def test_conditions_columns_and_limits(catalog: Catalog) -> None:
    found = look_up(
        catalog, "frames", where="path = 'multi.dcm' -- that", columns=["FRAME", "path"], limit=1
    )
    assert (found.total, found.face) == (2, ("frame", "path"))
    assert read(found) == [{"frame": 0, "path": "multi.dcm"}]
    chosen = look_up(catalog, "files").batches.schema.names
    assert len(chosen) > 10
    assert preview(look_up(catalog, "files", columns=chosen), 1).columns == tuple(chosen)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"table": "people"}, "there is no table 'people'; there are files"),
        ({"table": "files", "columns": ["who"]}, "there is no column 'who'; there are file"),
        ({"table": "files", "where": "who = 1"}, "the catalog cannot answer"),
    ],
)
def test_what_is_not_there_is_said(catalog: Catalog, options: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        look_up(catalog, **options)


def test_an_answer_has_distinct_names_and_counts_what_it_leaves_out(catalog: Catalog) -> None:
    sql = "SELECT i AS n, i AS n, i AS n_1 FROM range(100000) AS t(i)"
    assert ask(catalog, sql).batches.schema.names == ["n", "n_1", "n_1_1"]
    shown = preview(ask(catalog, sql), 3)
    assert shown.rows == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    assert shown.note == "3 of 100,000 rows"
    wide = preview(ask(catalog, "SELECT * FROM images"), 0)
    assert len(wide.rows) == 14
    assert wide.note.startswith("10 of ")


@pytest.mark.parametrize(("limit", "rows"), [(0, 100_000), (1, 1), (70_000, 70_000)])
def test_a_cut_ends_where_it_says(catalog: Catalog, limit: int, rows: int) -> None:
    found = cut(ask(catalog, "FROM range(100000)").batches, limit)
    assert found.read_all().num_rows == rows


@pytest.mark.parametrize("sql", ["DROP VIEW files", "SELECT 1; SELECT 2", "SELECT"])
def test_a_question_is_one_select(catalog: Catalog, sql: str) -> None:
    with pytest.raises(UsageError, match="catalog"):
        ask(catalog, sql)


def test_a_row_that_cannot_be_answered_ends_the_stream_with_the_words(
    catalog: Catalog,
) -> None:
    sql = "SELECT CAST(if(i = 90000, 'x', '1') AS INTEGER) FROM range(100000) AS t(i)"
    with pytest.raises(UsageError, match="cannot answer"):
        ask(catalog, sql).batches.read_all()


def test_there_must_be_a_catalog(tmp_path: Path) -> None:
    from medkit.errors import CatalogError

    with pytest.raises(CatalogError, match="medkit catalog"):
        Catalog.open(tmp_path)
