"""Looking into a catalog: the answers that ``medkit show`` and ``medkit query`` print.

An answer is a stream of Arrow batches. What is written to a file or a pipe never stands in memory
as a whole; of what a terminal shows, only those rows do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from medkit.catalog.pseudonyms import stream
from medkit.catalog.store import Catalog
from medkit.errors import UsageError


@dataclass(frozen=True)
class _Way:
    """How a table is shown.

    Attributes
    ----------
    face : tuple of str
        What a person wants to see of a wide table first.
    order : str
        What its rows are sorted by.
    """

    face: tuple[str, ...]
    order: str


_WAYS = {
    "files": _Way(("source", "path", "size", "kind", "reason"), "root, path"),
    "instances": _Way(("path", "format", "Modality", "Rows", "Columns", "duplicate"), "path, file"),
    "frames": _Way(
        ("path", "frame", "ImagePositionPatient", "volume", "slice"), "path, file, frame"
    ),
    "images": _Way(
        ("source", "path", "frame", "Modality", "Rows", "Columns", "person"),
        "source, StudyInstanceUID, SeriesInstanceUID, InstanceNumber, path, frame, file",
    ),
    "series": _Way(
        ("SeriesInstanceUID", "Modality", "SeriesDescription", "images", "volumes"),
        "source, StudyInstanceUID, SeriesInstanceUID",
    ),
    "volumes": _Way(
        ("volume", "Modality", "slices", "slice_spacing", "regularly_spaced_3d_volume"),
        "source, StudyInstanceUID, SeriesInstanceUID, volume",
    ),
    "studies": _Way(
        ("StudyInstanceUID", "StudyDate", "modalities", "series", "images"),
        "source, StudyInstanceUID",
    ),
    "persons": _Way((), "person"),
    "labels": _Way(("name", "path", "value", "origin"), "name, path, file"),
    "problems": _Way(("path", "code", "detail"), "path, file, code, detail"),
}
# Tables that name a file by its key alone: its path is shown beside.
_WITH_PATH = ("instances", "frames", "labels", "problems")
_TABLE_ORDER = f'list_position({list(_WAYS)}, "table")'
_WIDEST = 10  # columns of an answer; of more, a terminal shows none that is not asked for


@dataclass(frozen=True)
class Answer:
    """Rows on their way.

    Attributes
    ----------
    title : str
        What they are.
    batches : pyarrow.RecordBatchReader
        The rows, to be read once; no two columns have the same name.
    face : tuple of str
        The columns that a person sees.
    width : int
        How many columns there would be.
    total : int or None
        How many rows there would be without a limit; None where reading them is what tells.
    """

    title: str
    batches: pa.RecordBatchReader
    face: tuple[str, ...]
    width: int
    total: int | None


@dataclass(frozen=True)
class Listing:
    """Rows to print.

    Attributes
    ----------
    title : str
        What they are.
    columns : tuple of str
        Their names.
    rows : list of list
        Plain Python values, None where there is none.
    note : str
        What is left out.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[list[Any]]
    note: str


def look_up(
    catalog: Catalog,
    table: str,
    *,
    where: str | None = None,
    columns: Sequence[str] = (),
    limit: int = 0,
    brief: bool = False,
    anonymised: bool = False,
) -> Answer:
    """Return a part of the catalog, in a fixed order.

    Parameters
    ----------
    table : str
        A table, ``"images"``, or ``"tables"`` for a list of them.
    where : str, optional
        A condition on the table's rows, which have the path of their file beside.
    columns : sequence of str
        Those to return; by default all.
    limit : int
        How many rows at most; 0 for all.
    brief : bool
        Where no columns are named, only those that a person wants to see first.
    anonymised : bool
        Pseudonyms instead of what could name a person; the condition meets these too.

    Raises
    ------
    UsageError
        If there is no such table or column, or DuckDB cannot answer.
    """
    rows, way = _find_rows(table)
    names = stream(catalog, f"SELECT * FROM {rows} LIMIT 0", False).schema.names
    chosen = _choose(names, columns or (brief and way.face) or names)
    face = chosen if columns else chosen[:_WIDEST]
    # The line ends keep a comment in the condition from hiding what follows it.
    condition = f"WHERE (\n{where}\n)" if where else ""
    total = None
    if limit:
        counted = stream(catalog, f"SELECT count(*) FROM {rows} {condition}", anonymised)
        total = counted.read_all().column(0)[0].as_py()
    listed = ", ".join(f'"{name}"' for name in chosen)
    cut = f" LIMIT {limit}" if limit else ""
    sql = f"SELECT {listed} FROM {rows} {condition} ORDER BY {way.order}{cut}"
    title = f"catalog {catalog.snapshot}" if table == "tables" else table
    return Answer(title, stream(catalog, sql, anonymised), tuple(face), len(names), total)


def ask(catalog: Catalog, sql: str, *, anonymised: bool = False) -> Answer:
    """Return the answer to one SELECT.

    Parameters
    ----------
    sql : str
        It may use every table, and ``images``.
    anonymised : bool
        The query meets pseudonyms instead of what could name a person.

    Raises
    ------
    UsageError
        If it is not one SELECT, or DuckDB cannot answer.
    """
    found = _rename(stream(catalog, sql, anonymised))
    names = found.schema.names
    return Answer("answer", found, tuple(names[:_WIDEST]), len(names), None)


def preview(answer: Answer, rows: int) -> Listing:
    """Return the first rows of an answer for a terminal, and read it to its end.

    Parameters
    ----------
    rows : int
        How many to show; 0 for all.
    """
    face = answer.face
    shown: list[list[Any]] = []
    read = 0
    for batch in answer.batches:
        read += batch.num_rows
        wanted = batch.select(list(face))
        wanted = wanted.slice(0, rows - len(shown)) if rows else wanted
        shown.extend(list(row.values()) for row in wanted.to_pylist())
    total = read if answer.total is None else answer.total
    notes = [f"{len(shown):,} of {total:,} rows"] if len(shown) < total else []
    if len(face) < answer.width:
        notes.append(
            f"{len(face)} of {answer.width} columns; --columns chooses, other formats have all"
        )
    return Listing(answer.title, face, shown, ", ".join(notes))


def cut(batches: pa.RecordBatchReader, limit: int) -> pa.RecordBatchReader:
    """Return the first rows; 0 for all."""
    if not limit:
        return batches

    def first() -> Iterator[pa.RecordBatch]:
        left = limit
        for batch in batches:
            yield batch.slice(0, left)
            left -= min(left, batch.num_rows)
            if not left:
                return

    return pa.RecordBatchReader.from_batches(batches.schema, first())


def _find_rows(table: str) -> tuple[str, _Way]:
    """Return what to select from, and how it is shown."""
    if table == "tables":
        return f"({_count_tables()})", _Way((), _TABLE_ORDER)
    if table not in _WAYS:
        raise UsageError(
            f"there is no table {table!r}; there are {', '.join(_WAYS)}, and a summary"
        )
    if table in _WITH_PATH:
        rows = f"(SELECT {table}.*, files.path FROM {table} JOIN files USING (file))"
        return rows, _WAYS[table]
    return table, _WAYS[table]


def _count_tables() -> str:
    return " UNION ALL ".join(
        f"SELECT '{name}' AS \"table\", count(*) AS rows FROM {name}" for name in _WAYS
    )


def _choose(names: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return the names of columns as the table spells them; SQL asks for no case."""
    if not columns:
        return list(names)
    spelt = {name.lower(): name for name in names}
    unknown = [name for name in columns if name.lower() not in spelt]
    if unknown:
        raise UsageError(f"there is no column {unknown[0]!r}; there are {', '.join(names)}")
    return list(dict.fromkeys(spelt[name.lower()] for name in columns))


def _rename(batches: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """Return the same with names that differ: ``n``, ``n_1``; an object of JSON needs that."""
    names: list[str] = []
    for name in batches.schema.names:
        count, unique = 0, name
        while unique in names:
            count += 1
            unique = f"{name}_{count}"
        names.append(unique)
    schema = pa.schema(
        [field.with_name(name) for field, name in zip(batches.schema, names, strict=True)]
    )
    return pa.RecordBatchReader.from_batches(
        schema, (pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in batches)
    )
