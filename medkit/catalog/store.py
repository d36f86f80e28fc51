"""The catalog on disk: snapshots of Parquet tables, and questions to them.

``CURRENT`` names the snapshot that holds. A snapshot is written beside and moved into place
whole, so a reader never blocks a writer; its name is the hash of its content, so equal content is
equal bytes. The one before stays, for who is still reading it. This is the one user of DuckDB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from medkit.catalog.schema import FRAMES, INSTANCES, TABLES
from medkit.errors import CatalogError, UsageError
from medkit.workspace import move_into_place, remove_folder, write_beside

if TYPE_CHECKING:
    import duckdb

# Frames say these with functional groups resolved; the instance's own stand behind.
_RESOLVED = ", ".join(name for name in FRAMES.names if name in INSTANCES.names)

# A picture is a non-DICOM image, and has frames; a volume such as NIfTI has none, and so no row.
_IMAGES = f"""
CREATE VIEW images AS
SELECT frames.*, instances.* EXCLUDE ({_RESOLVED}),
    files.root, files.path, files.container, files.kind, files.size, files.mtime_ns
FROM frames
JOIN instances USING (file)
JOIN files USING (file)
WHERE files.kind IN ('image', 'non-dicom') AND NOT files.vanished
    AND instances.duplicate IS DISTINCT FROM 'alias'
"""
_ORDER = "source, StudyInstanceUID, SeriesInstanceUID, InstanceNumber, path, frame"


class Catalog:
    """What is on disk, as one snapshot saw it.

    Examples
    --------
    >>> catalog = Catalog.open(workspace.catalog)
    >>> catalog.select("Modality = 'CT' AND Rows >= 512")
    >>> catalog.query("SELECT Modality, count(*) FROM images GROUP BY ALL")
    """

    def __init__(self, folder: Path, snapshot: str) -> None:
        self.folder = folder
        self.snapshot = snapshot

    @classmethod
    def open(cls, folder: Path) -> Catalog:
        """Return the current snapshot of a catalog's folder.

        Raises
        ------
        CatalogError
            If there is none yet, or it is not complete.
        """
        current = folder / "CURRENT"
        if not current.exists():
            raise CatalogError(f"there is no catalog in {folder}; run 'medkit catalog' first")
        snapshot = current.read_text().strip()
        catalog = cls(folder, snapshot)
        missing = [name for name in TABLES if not catalog._path(name).is_file()]
        if missing:
            raise CatalogError(
                f"the snapshot {snapshot!r} of {folder} lacks {', '.join(missing)}; "
                "run 'medkit catalog' again"
            )
        return catalog

    def table(self, name: str) -> pd.DataFrame:
        """Return one table, whole.

        Raises
        ------
        UsageError
            If there is no such table.
        CatalogError
            If its file is damaged.
        """
        return to_frame(self.arrow_table(name))

    def arrow_table(self, name: str) -> pa.Table:
        """Return one table as Arrow has it; see `table`."""
        if name not in TABLES:
            raise UsageError(f"there is no table {name!r}; there are {', '.join(TABLES)}, images")
        try:
            return pq.read_table(self._path(name))
        except (OSError, pa.ArrowException) as error:
            raise CatalogError(f"{self._path(name)} is damaged: {error}") from None

    def query(self, sql: str) -> pd.DataFrame:
        """Return the answer to one SELECT over the tables and the view ``images``.

        Raises
        ------
        UsageError
            If it is not one SELECT, or DuckDB cannot answer it; the message has DuckDB's words.
        """
        import duckdb

        try:
            statements = self._connection.extract_statements(sql)
            if [one.type for one in statements] != [duckdb.StatementType.SELECT]:
                raise UsageError("the catalog answers one SELECT at a time, and is never changed")
            return to_frame(self._connection.sql(sql).to_arrow_table())
        except duckdb.Error as error:
            raise UsageError(f"the catalog cannot answer: {error}") from None

    def select(self, where: str | None = None) -> pd.DataFrame:
        """Return the rows of ``images`` that fulfil an SQL condition, all of them by default.

        They are ordered by source, study, series, InstanceNumber, path and frame.

        Raises
        ------
        UsageError
            If the condition is none; the message has DuckDB's words.
        """
        # The line ends keep a comment in the condition from hiding what follows it.
        condition = f"WHERE (\n{where}\n)" if where else ""
        return self.query(f"SELECT * FROM images {condition} ORDER BY {_ORDER}")

    def label_names(self) -> list[str]:
        """Return the names of the labels, sorted."""
        return sorted(self.table("labels")["name"].unique())

    def labels(self, name: str) -> pd.DataFrame:
        """Return ``file`` and ``value`` of every file that has this label.

        Raises
        ------
        UsageError
            If there is no label of that name.
        """
        labels = self.table("labels")
        if name not in set(labels["name"]):
            known = ", ".join(sorted(labels["name"].unique())) or "none; see 'medkit label'"
            raise UsageError(f"there is no label {name!r}; there are: {known}")
        return labels.loc[labels["name"] == name, ["file", "value"]].reset_index(drop=True)

    def _path(self, table: str) -> Path:
        return self.folder / "snapshots" / self.snapshot / f"{table}.parquet"

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        """Tables as views, in memory; a query reaches these files and nothing else."""
        import duckdb

        connection = duckdb.connect()
        for name in TABLES:
            path = _quote(str(self._path(name)))
            connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet({path})")
        connection.execute(_IMAGES)
        paths = ", ".join(_quote(str(self._path(name))) for name in TABLES)
        for setting in (
            f"allowed_paths = [{paths}]",
            "enable_external_access = false",
            # Otherwise a name in a query may mean a variable of the program that asks.
            "python_enable_replacements = false",
            "lock_configuration = true",
        ):
            connection.execute(f"SET {setting}")
        return connection


def write_snapshot(folder: Path, tables: Mapping[str, pa.Table]) -> str:
    """Write the tables as the current snapshot, and return its name.

    Parameters
    ----------
    folder : Path
        The catalog's.
    tables : mapping of str to pyarrow.Table
        Every table of `schema.TABLES`.
    """
    snapshots = folder / "snapshots"
    beside = snapshots / ".part"
    remove_folder(beside)
    beside.mkdir(parents=True)
    for name, (_, order) in TABLES.items():
        ordered = tables[name].sort_by([(column, "ascending") for column in order])
        path = beside / f"{name}.parquet"
        pq.write_table(ordered.combine_chunks(), path, compression="zstd")
        move_into_place(path, path)
    snapshot = _hash_files(beside)
    target = snapshots / snapshot
    if target.is_dir() and _hash_files(target) == snapshot:
        remove_folder(beside)
    else:
        remove_folder(target)
        beside.replace(target)
    _point_at(folder, snapshot)
    return snapshot


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Return a table as pandas has it: nullable Int64 and string, float64, bool, lists."""
    frame: pd.DataFrame = table.to_pandas(types_mapper=_pandas_type)
    return frame


def to_table(frame: pd.DataFrame, name: str) -> pa.Table:
    """Return a DataFrame as the table of that name; columns that it lacks are null."""
    schema = TABLES[name][0]
    arrays = [_to_array(frame.get(field.name), field.type, len(frame)) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _to_array(column: pd.Series[Any] | None, kind: pa.DataType, length: int) -> pa.Array:
    # An empty column of pandas has a type of its own, which Arrow cannot always turn into ours.
    if column is None or column.isna().all():
        return pa.nulls(length, kind)
    return pa.array(column, kind, from_pandas=True)


def _pandas_type(kind: pa.DataType) -> pd.api.extensions.ExtensionDtype | None:
    if pa.types.is_integer(kind):
        return pd.Int64Dtype()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pd.StringDtype()
    return None


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _hash_files(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _point_at(folder: Path, snapshot: str) -> None:
    """Make a snapshot the current one, and remove all but it and the one before."""
    current = folder / "CURRENT"
    before = current.read_text().strip() if current.exists() else snapshot
    with write_beside(current) as beside:
        beside.write_text(f"{snapshot}\n")
    if before == snapshot:
        return
    for stale in (folder / "snapshots").iterdir():
        if stale.name not in (snapshot, before):
            remove_folder(stale)
