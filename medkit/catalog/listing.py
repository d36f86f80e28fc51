"""Looking into a catalog: what ``medkit show`` prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from medkit.catalog.schema import TABLES
from medkit.catalog.store import Catalog
from medkit.errors import UsageError

# What a person wants to see of a wide table first; JSON and SQL have all columns.
_FACES = {
    "files": ("source", "path", "size", "kind", "reason"),
    "instances": ("path", "format", "Modality", "Rows", "Columns", "duplicate"),
    "frames": ("path", "frame", "ImagePositionPatient", "volume", "slice"),
    "images": ("source", "path", "frame", "Modality", "Rows", "Columns", "person"),
    "series": ("SeriesInstanceUID", "Modality", "SeriesDescription", "images", "volumes"),
    "volumes": ("volume", "Modality", "slices", "slice_spacing", "regularly_spaced_3d_volume"),
    "studies": ("StudyInstanceUID", "StudyDate", "modalities", "series", "images"),
    "labels": ("name", "path", "value", "origin"),
    "problems": ("path", "code", "detail"),
}
_WIDEST = 10  # columns of an answer; of more, a terminal shows none


@dataclass(frozen=True)
class Listing:
    """Rows to print.

    Attributes
    ----------
    title : str
        What they are.
    records : list of dict
        Every column, plain Python values, None where there is none.
    columns : sequence of str
        Those to show to a person.
    note : str
        What is left out.
    """

    title: str
    records: list[dict[str, Any]]
    columns: tuple[str, ...]
    note: str

    @property
    def rows(self) -> list[list[Any]]:
        """The records' values of the columns to show."""
        return [[record[column] for column in self.columns] for record in self.records]


def look_up(
    catalog: Catalog,
    table: str,
    *,
    sql: str | None = None,
    where: str | None = None,
    limit: int = 0,
) -> Listing:
    """Return a part of the catalog.

    Parameters
    ----------
    table : str
        A table, ``"images"``, or ``"tables"`` for a list of them.
    sql : str, optional
        A SELECT, instead.
    where : str, optional
        A condition on the table's rows, which have the path of their file beside.
    limit : int
        How many rows at most; 0 for all.

    Raises
    ------
    UsageError
        If there is no such table, or DuckDB cannot answer.
    """
    if sql is not None and where is not None:
        raise UsageError("--where goes with a table; write it into the SELECT")
    if sql is not None:
        found, title = catalog.query(sql), "answer"
    elif table == "tables":
        found, title = _list_tables(catalog), f"catalog {catalog.snapshot}"
    elif table == "images":
        found, title = catalog.select(where), table
    elif table in TABLES:
        found, title = _query_table(catalog, table, where), table
    else:
        raise UsageError(f"there is no table {table!r}; there are {', '.join(TABLES)}, images")
    shown = found.head(limit) if limit else found
    columns = _FACES.get(title, tuple(found.columns)[:_WIDEST])
    notes = [f"{len(shown):,} of {len(found):,} rows"] if len(shown) < len(found) else []
    if len(columns) < len(found.columns):
        notes.append(f"{len(columns)} of {len(found.columns)} columns; --json has all")
    records = pa.Table.from_pandas(shown, preserve_index=False).to_pylist()
    return Listing(title, records, columns, ", ".join(notes))


def _query_table(catalog: Catalog, table: str, where: str | None) -> pd.DataFrame:
    schema, order = TABLES[table]
    rows = table
    if "file" in schema.names and "path" not in schema.names:
        rows = f"(SELECT {table}.*, files.path FROM {table} JOIN files USING (file))"
        order = ("path", *order)
    condition = f"WHERE (\n{where}\n)" if where else ""
    return catalog.query(f"SELECT * FROM {rows} {condition} ORDER BY {', '.join(order)}")


def _list_tables(catalog: Catalog) -> pd.DataFrame:
    counts = " UNION ALL ".join(
        f"SELECT '{name}' AS \"table\", count(*) AS rows FROM {name}"
        for name in [*TABLES, "images"]
    )
    return catalog.query(counts)
