"""Questions to Parquet files, and Parquet files out of answers: the one user of DuckDB.

What looks at all files of a catalog at once is asked in SQL: DuckDB keeps to a limit of memory,
and spills what is over it to a folder.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from medkit.catalog import schema
from medkit.engine import count_workers
from medkit.errors import UsageError
from medkit.workspace import sync

if TYPE_CHECKING:
    import duckdb

_UNIQUE = frozenset(["file", "path", "inode", "SOPInstanceUID", "ImagePositionPatient"])
_GROUP = 65536  # rows of a row group, whatever the batches that they come in
_FULL = ("No space left", "Disk quota", "max_temp_directory_size", "not enough space")


class Database:
    """Views over Parquet files, in memory; nothing but these files is ever reached.

    One answer that is streamed is read to its end, or closed, before the next question is asked.

    Examples
    --------
    >>> with Database.open({"files": paths}, spill=folder) as database:
    ...     database.execute("CREATE TEMP TABLE found AS SELECT file FROM files WHERE size > 0")
    ...     write_table(database.batches("SELECT file FROM found"), path, schema)
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, private: Path | None = None) -> None:
        self._connection = connection
        # Also called when nothing refers to it any more, and at the end of the program.
        self._end = weakref.finalize(self, _end, connection, private)

    @classmethod
    def open(
        cls,
        tables: Mapping[str, Sequence[Path]],
        *,
        spill: Path | None = None,
        memory: str | None = "160MB",
        threads: int | None = None,
        private: bool = False,
    ) -> Database:
        """Return a database with a view for each table.

        Parameters
        ----------
        tables : mapping of str to sequence of Path
            The Parquet files of each, in the order of the view's rows. One without files is
            empty, with the columns that it has in `schema`; ``raw_`` or ``old_`` may stand before.
        spill : Path, optional
            Where to put what does not fit the memory; made when it is needed. By default nothing
            is put anywhere.
        memory : str, optional
            How much to use; None leaves it to DuckDB, which takes most of what there is.
        threads : int, optional
            By default the processors at hand.
        private : bool
            Put what does not fit into a folder of its own, beside those that other programs keep
            for a while; where there is no room for one, nothing is put anywhere.
        """
        import duckdb

        spill = _make_private() if private else spill
        settings: dict[str, str | bool | int | float | list[str]] = {
            "temp_directory": str(spill) if spill else "",
            "threads": max(1, count_workers(threads)),
            # Otherwise a name in a query may mean a variable of the program that asks.
            "python_enable_replacements": False,
        }
        if memory is not None:
            settings["memory_limit"] = memory
        database = cls(duckdb.connect(config=settings), spill if private else None)
        database._show(tables)
        return database

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the memory, and remove what was spilled."""
        self._end()

    def arrow(self, sql: str) -> pa.Table:
        """Return the answer to a SELECT, whole."""
        with _name_fullness():
            return self._connection.sql(sql).to_arrow_table()

    def batches(self, sql: str, rows: int = _GROUP) -> Iterator[pa.RecordBatch]:
        """Yield the answer to a SELECT, some rows at a time."""
        with _name_fullness():
            reader = self._connection.sql(sql).to_arrow_reader(rows)
            try:
                yield from reader
            finally:
                reader.close()

    def execute(self, sql: str) -> None:
        """Follow a statement that has no answer, such as ``CREATE VIEW`` or ``CREATE TABLE``."""
        with _name_fullness():
            self._connection.execute(sql)

    def register(self, name: str, table: pa.Table) -> None:
        """Give a table in memory a name."""
        self._connection.register(name, table)

    def answer(self, sql: str) -> pa.Table:
        """Return the answer to what a user asks.

        Raises
        ------
        UsageError
            If it is not one SELECT, or DuckDB cannot answer it; the message has DuckDB's words.
        OSError
            If the disk is full.
        """
        with _explain():
            self._check_question(sql)
            return self._connection.sql(sql).to_arrow_table()

    def stream(self, sql: str) -> pa.RecordBatchReader:
        """Return the answer to what a user asks, some rows at a time; see `answer`.

        The database serves this answer only: it is closed with its last row.
        """
        with _explain():
            self._check_question(sql)
            reader = self._connection.sql(sql).to_arrow_reader(_GROUP)
        return pa.RecordBatchReader.from_batches(reader.schema, self._drain(reader))

    def _drain(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        try:
            with _explain():
                yield from reader
        finally:
            self.close()

    def _check_question(self, sql: str) -> None:
        import duckdb

        statements = self._connection.extract_statements(sql)
        if [one.type for one in statements] != [duckdb.StatementType.SELECT]:
            raise UsageError("the catalog answers one SELECT at a time, and is never changed")

    def _show(self, tables: Mapping[str, Sequence[Path]]) -> None:
        """Make the views, and then close the door: only these files are left to be read."""
        self.execute("SET parquet_metadata_cache = true")
        for name, paths in tables.items():
            if paths:
                files = ", ".join(_quote(_escape(path)) for path in paths)
                self.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet([{files}])")
            else:
                self.register(name, _find_schema(name).empty_table())
        reachable = {
            spelling
            for paths in tables.values()
            for path in paths
            for spelling in (str(path), _escape(path))
        }
        allowed = ", ".join(map(_quote, sorted(reachable)))
        self.execute(f"SET allowed_paths = [{allowed}]")
        self.execute("SET enable_external_access = false")
        self.execute("SET lock_configuration = true")


def write_table(
    batches: Iterable[pa.RecordBatch | pa.Table],
    path: Path,
    columns: pa.Schema,
    *,
    synced: bool = True,
) -> int:
    """Write a Parquet file, and return how many rows it has.

    Parameters
    ----------
    batches : iterable of RecordBatch or Table
        At most a few are held at a time. Equal rows are equal bytes, however they come.
    path : Path
        Made anew.
    columns : pyarrow.Schema
        The columns to take, in this order; they are cast to these types.
    synced : bool
        Return only when it is on the disk.
    """
    rows = 0
    leaves = [*_list_leaves(columns)]
    # Values that repeat are short in a dictionary; one of values that are all different, and
    # compressing what is short already, is work for nothing.
    with pq.ParquetWriter(
        path,
        columns,
        use_dictionary=[leaf for name, leaf in leaves if name not in _UNIQUE],
        compression={leaf: "lz4" for name, leaf in leaves if name in _UNIQUE},
        write_statistics=False,
    ) as writer:
        for group in _regroup(batches, columns):
            writer.write_table(group, row_group_size=_GROUP)
            rows += len(group)
    if synced:
        sync(path)
    return rows


def _list_leaves(columns: pa.Schema) -> Iterator[tuple[str, str]]:
    """Yield each column, and what Parquet calls the place of its values."""
    for one in columns:
        yield one.name, f"{one.name}.list.element" if pa.types.is_list(one.type) else one.name


def _regroup(
    batches: Iterable[pa.RecordBatch | pa.Table], columns: pa.Schema
) -> Iterator[pa.Table]:
    """Yield the same rows, so many at a time, each column in one piece."""
    waiting: list[pa.Table] = []
    for batch in batches:
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        same = table.schema.equals(columns)
        waiting.append(table if same else table.select(columns.names).cast(columns))
        if sum(map(len, waiting)) >= _GROUP:
            whole = pa.concat_tables(waiting)
            full = len(whole) // _GROUP * _GROUP
            for start in range(0, full, _GROUP):
                yield whole.slice(start, _GROUP).combine_chunks()
            waiting = [whole.slice(full)]
    if any(map(len, waiting)):
        yield pa.concat_tables(waiting).combine_chunks()


def _find_schema(name: str) -> pa.Schema:
    name = name.removeprefix("raw_").removeprefix("old_")
    if name in schema.READ_TABLES:
        return schema.READ_TABLES[name]
    return schema.DERIVED_TABLES[name][0]


def _make_private() -> Path | None:
    """Return a new folder that is for its owner alone, or None where none can be made."""
    try:
        return Path(mkdtemp(prefix="medkit-"))
    except OSError:  # all disks may be full, or read-only
        return None


def _end(connection: duckdb.DuckDBPyConnection, private: Path | None) -> None:
    connection.close()
    if private is not None:
        shutil.rmtree(private, ignore_errors=True)


def _escape(path: Path) -> str:
    """Return a path as a pattern of DuckDB that fits this path alone."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def _explain() -> Iterator[None]:
    """Raise a UsageError with DuckDB's words where it cannot answer."""
    import duckdb

    try:
        with _name_fullness():
            yield
    except (duckdb.Error, MemoryError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system, not of DuckDB
            raise
        raise UsageError(f"the catalog cannot answer: {error}") from None


@contextmanager
def _name_fullness() -> Iterator[None]:
    """Raise what Python would raise where DuckDB says that the disk or the memory is full."""
    import duckdb

    try:
        yield
    # While an answer is streamed, Arrow passes DuckDB's words on as an OSError.
    except (duckdb.IOException, duckdb.OutOfMemoryException, OSError) as error:
        words = str(error)
        if any(known in words for known in _FULL):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        if words.startswith("Out of Memory Error"):
            raise MemoryError(words) from error
        raise
