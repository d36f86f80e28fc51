"""Questions to Parquet files: in their order, in bounds, and to nothing else."""

from __future__ import annotations

import errno
import gc
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkit.catalog import schema
from medkit.catalog.database import Database, write_table
from medkit.errors import UsageError

COLUMNS = pa.schema([("n", pa.int64()), ("text", pa.string()), ("many", pa.list_(pa.float64()))])


def make_rows(start: int, stop: int) -> pa.Table:
    rows = [{"n": n, "text": str(n), "many": [n / 2, None]} for n in range(start, stop)]
    return pa.Table.from_pylist(rows, COLUMNS)


@pytest.fixture(params=["plain", "a*", "b?", "c[d]", "it's"])
def files(tmp_path: Path, request: pytest.FixtureRequest) -> list[Path]:
    """Files in a folder whose name DuckDB could take for a pattern, and others that fit it."""
    for name in ("ax", "bx", "cd", request.param):
        (tmp_path / name).mkdir()
        for number in range(2):
            path = tmp_path / name / f"{number}.parquet"
            write_table([make_rows(3 * number, 3 * number + 3)], path, COLUMNS)
    return [tmp_path / request.param / f"{number}.parquet" for number in (1, 0)]


def test_rows_keep_the_order_of_the_files(files: list[Path]) -> None:
    with Database.open({"t": files}) as database:
        assert database.arrow("SELECT n FROM t")["n"].to_pylist() == [3, 4, 5, 0, 1, 2]
        batches = list(database.batches("SELECT n FROM t", 2))
        assert pa.Table.from_batches(batches)["n"].to_pylist() == [3, 4, 5, 0, 1, 2]


def test_nothing_but_the_files_is_reached(files: list[Path]) -> None:
    with Database.open({"t": files}) as database:
        other = files[0].parent.parent / "ax" / "0.parquet"
        for sql in (
            f"SELECT * FROM read_parquet('{other}')",
            f"SELECT * FROM read_text('{Path(__file__)}')",
            "SET enable_external_access = true",
            "SELECT 1; SELECT 2",
            "CREATE TABLE u AS SELECT 1",
        ):
            with pytest.raises(UsageError):
                database.answer(sql)


def test_a_table_without_files_has_its_columns() -> None:
    with Database.open({"instances": [], "marks": []}) as database:
        names = database.arrow("SELECT * FROM instances").schema.names
        assert names == schema.READ_TABLES["instances"].names
        assert database.arrow("SELECT count(*) AS n FROM marks")["n"].to_pylist() == [0]


def test_statements_and_tables_in_memory_build_on_each_other(tmp_path: Path) -> None:
    write_table([make_rows(0, 9)], tmp_path / "t", COLUMNS)
    with Database.open({"t": [tmp_path / "t"]}) as database:
        database.register("chosen", pa.table({"n": [2, 7]}))
        database.execute("CREATE TEMP TABLE found AS SELECT text FROM t JOIN chosen USING (n)")
        found = database.arrow("SELECT text FROM found ORDER BY 1")
        assert found["text"].to_pylist() == ["2", "7"]


def test_what_does_not_fit_the_memory_is_spilled_and_removed(tmp_path: Path) -> None:
    spill = tmp_path / "spill"
    with Database.open({}, spill=spill, memory="40MB", threads=1) as database:
        database.execute(
            "CREATE TEMP TABLE wide AS "
            "SELECT range AS n, md5(range::VARCHAR) AS t FROM range(2000000)"
        )
        assert any(spill.iterdir())
        assert database.arrow("SELECT count(DISTINCT n) AS n FROM wide")["n"][0].as_py() == 2000000
    assert not spill.exists() or not any(spill.iterdir())


def test_a_full_disk_is_named_as_python_names_it(tmp_path: Path) -> None:
    with Database.open({}) as database, pytest.raises(OSError) as caught:
        raise_full(database)
    assert caught.value.errno == errno.ENOSPC


LATE = "CASE WHEN i < 900000 THEN '1' ELSE 'x' END"


def test_an_error_in_the_middle_of_an_answer_is_one_of_the_question() -> None:
    batches = Database.open({}).stream(f"SELECT CAST({LATE} AS INT) FROM range(1000000) t(i)")
    with pytest.raises(UsageError, match="cannot answer: Conversion Error"):
        batches.read_all()


def test_too_little_memory_is_said_whether_an_answer_is_streamed_or_not(tmp_path: Path) -> None:
    sql = "SELECT hash(i) FROM range(4000000) t(i) ORDER BY hash(i)"
    with Database.open({}, memory="20MB", threads=1) as database:
        with pytest.raises(MemoryError):
            list(database.batches(sql))
        with pytest.raises(UsageError, match="Out of Memory"):
            database.answer(sql)


@pytest.mark.parametrize("words", ["No space left on device", "max_temp_directory_size"])
def test_a_full_disk_is_named_in_the_middle_of_an_answer_too(words: str) -> None:
    def fail() -> Iterator[pa.RecordBatch]:
        yield make_rows(0, 1).to_batches()[0]
        raise OSError(f"IO Error: {words}")

    database = Database.open({})
    with pytest.raises(OSError) as caught:
        list(database._drain(fail()))  # type: ignore[arg-type]
    assert caught.value.errno == errno.ENOSPC


def test_a_private_folder_is_for_its_owner_and_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    database = Database.open({}, memory="40MB", threads=1, private=True)
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    batches = database.stream("SELECT hash(i) FROM range(4000000) t(i) ORDER BY hash(i)")
    del database
    next(batches)
    assert any(folder.iterdir())
    del batches
    gc.collect()
    assert not any(tmp_path.iterdir())


def test_where_there_is_no_private_folder_small_questions_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with Database.open({}, private=True) as database:
        assert database.answer("SELECT 1 AS n")["n"].to_pylist() == [1]


def raise_full(database: Database) -> None:
    import duckdb

    class Broken:
        def execute(self, sql: str) -> None:
            raise duckdb.IOException('Could not write file "x": No space left on device')

        def close(self) -> None:
            return None

    database._connection = Broken()  # type: ignore[assignment]
    database.execute("SELECT 1")


@given(st.lists(st.integers(0, 5), max_size=8))
def test_equal_rows_are_equal_bytes(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    rows = make_rows(0, sum(lengths))
    write_table([rows], folder / "whole", COLUMNS)

    def pieces() -> Iterator[pa.Table | pa.RecordBatch]:
        start = 0
        for length in lengths:
            piece = rows.slice(start, length)
            yield piece if start % 2 else pa.RecordBatch.from_pylist(piece.to_pylist(), COLUMNS)
            start += length

    assert write_table(pieces(), folder / "pieces", COLUMNS) == len(rows)
    first, second = (
        hashlib.sha256((folder / name).read_bytes()).digest() for name in ("whole", "pieces")
    )
    assert first == second
