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
    "instances": ("file", "format", "Modality", "Rows", "Columns", "NumberOfFrames", "duplicate"),
    "frames": ("file", "frame", "ImagePositionPatient", "volume", "slice"),
    "images": ("source", "path", "frame", "Modality", "Rows", "Columns", "person"),
    "volumes": (
        "volume",
        "source",
        "Modality",
        "slices",
        "slice_spacing",
        "obliquity_degrees",
        "regularly_spaced_3d_volume",
    ),
}


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
        A condition on the table's rows.
    limit : int
        How many rows at most; 0 for all.

    Raises
    ------
    UsageError
        If there is no such table, or DuckDB cannot answer.
    """
    if sql is not None:
        found, title = catalog.query(sql), "answer"
    elif table == "tables":
        found, title = _list_tables(catalog), f"catalog {catalog.snapshot}"
    elif table == "images":
        found, title = catalog.select(where), table
    elif table in TABLES:
        condition = f"WHERE (\n{where}\n)" if where else ""
        found, title = catalog.query(f"SELECT * FROM {table} {condition}"), table
    else:
        raise UsageError(f"there is no table {table!r}; there are {', '.join(TABLES)}, images")
    shown = found.head(limit) if limit else found
    note = f"{len(shown):,} of {len(found):,} rows" if len(shown) < len(found) else ""
    records = pa.Table.from_pandas(shown, preserve_index=False).to_pylist()
    return Listing(title, records, _FACES.get(title, tuple(found.columns)), note)


def _list_tables(catalog: Catalog) -> pd.DataFrame:
    counts = " UNION ALL ".join(
        f"SELECT '{name}' AS \"table\", count(*) AS rows FROM {name}"
        for name in [*TABLES, "images"]
    )
    return catalog.query(counts)
