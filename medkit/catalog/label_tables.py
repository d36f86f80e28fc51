"""Tables of labels that somebody else made: reading them, and finding which files they mean."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from medkit.catalog.database import Database
from medkit.catalog.journal import Record
from medkit.catalog.paths import find_paths
from medkit.catalog.store import to_frame
from medkit.errors import CatalogError, UsageError

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 10
# Looking for something alike takes its time: for so many rows, among so many names.
_LIKENED, _NAMES = 3, 20_000

# Columns of a table, spelled in small letters and digits, and what they join on. Of several that
# are there, the first is taken: the most exact.
_KEYS = {
    "path": "path",
    "filepath": "path",
    "filename": "path",
    "file": "path",
    "image": "path",
    "imagepath": "path",
    "sopinstanceuid": "SOPInstanceUID",
    "seriesinstanceuid": "SeriesInstanceUID",
    "accessionnumber": "AccessionNumber",
    "studyinstanceuid": "StudyInstanceUID",
    "frameofreferenceuid": "FrameOfReferenceUID",
    "patientid": "PatientID",
    "patient": "PatientID",
    "subjectid": "PatientID",
}
_BESIDE = ("studydate", "source", "patientid")  # what else a table may tell, spelled alike
# These identify nothing outside of their source.
_LOCAL = ("PatientID", "AccessionNumber")


@dataclass(frozen=True)
class LabelTable:
    """A table with its columns found.

    Attributes
    ----------
    rows : DataFrame of str
        Key columns by their catalog names, then ``value``; ``source`` and ``patient`` where the
        table tells them. Rows without a value are left out.
    on : list of str
        The key columns.
    header : str
        The table's own name for the values.
    blank : int
        How many rows had no value.
    """

    rows: pd.DataFrame
    on: list[str]
    header: str
    blank: int


def read_table(path: Path, name: str, column: str | None, on: str | None) -> LabelTable:
    """Read a table, and find its columns.

    Parameters
    ----------
    path : Path
        CSV (comma, semicolon or tab; UTF-8, or UTF-16 with its mark) or Parquet.
    name : str
        Of the label.
    column, on : str, optional
        What the user said of its columns.

    Raises
    ------
    UsageError
        If it cannot be read, or a column is not found.
    """
    import pandas as pd

    frame = _read_text(path)
    spelled = {_spell(header): header for header in frame.columns}
    value = _find_value(spelled, [column] if column is not None else [name, "label"])
    key, header = _find_key(spelled, value, on)
    times = Counter(map(_spell, frame.columns))
    for used in (value, header, *(spelled[name] for name in _BESIDE if name in spelled)):
        if times[_spell(used)] > 1:
            raise UsageError(f"{path} has several columns {used!r}; rename all but one")
    chosen = {key: frame[header], "value": frame[value]}
    keys = [key]
    if key == "PatientID" and "studydate" in spelled:
        chosen["StudyDate"] = frame[spelled["studydate"]].str.replace("-", "")
        keys.append("StudyDate")
    if "source" in spelled:
        chosen["source"] = frame[spelled["source"]]
    if key != "PatientID" and "patientid" in spelled:
        chosen["patient"] = frame[spelled["patientid"]]
    rows = pd.DataFrame(chosen)
    filled = rows["value"] != ""
    if not filled.any():
        raise UsageError(f"no row of {path} has a value in its column {value!r}")
    return LabelTable(rows[filled], keys, value, int((~filled).sum()))


def read_header(path: Path) -> list[str]:
    """Return the names of a table's columns.

    Raises
    ------
    UsageError
        If it cannot be read.
    """
    return [str(name) for name in _read_text(path).columns]


def resolve_keys(table: LabelTable, database: Database) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows with keys that mean the same later, and which columns these are.

    Paths become those of the catalog, and what identifies nothing by itself is told with its
    source.

    Raises
    ------
    CatalogError
        If a row matches no image, or images of several files or sources.
    """
    if table.on == ["path"]:
        return _resolve_paths(table, database), ["source", "path"]
    qualified = "source" in table.rows or table.on[0] in _LOCAL
    keys = ["source", *table.on] if qualified else table.on
    known = _read_known(table, keys, database)
    joined = table.rows.reset_index().merge(known, how="left", indicator=True)
    lost = joined[joined["_merge"] == "left_only"]
    _refuse_unmatched(lost[table.on], database)
    ambiguous = joined.loc[joined.duplicated("index"), table.on[0]]
    if len(ambiguous):
        raise CatalogError(
            f"{table.on[0]} {enumerate_some(sorted(set(ambiguous)))} is in several sources; add "
            "a column 'source' to the table"
        )
    return joined, keys


def tell_persons(rows: pd.DataFrame, keys: Sequence[str]) -> list[Record]:
    """Return the record that gives pictures the patient ids of a table, if it has any.

    Raises
    ------
    CatalogError
        If it gives two to one.
    """
    if "patient" not in rows:
        return []
    told = rows.loc[rows["patient"] != "", [*keys, "patient"]].drop_duplicates()
    twice = told.loc[told.duplicated(keys, keep=False), keys[-1]]
    if len(twice):
        raise CatalogError(f"two patient ids are given to {enumerate_some(sorted(set(twice)))}")
    return [{"type": "persons", "on": keys, "rows": told.to_numpy().tolist()}] if len(told) else []


def enumerate_some(items: Iterable[str]) -> str:
    """Return the first of some items, and how many more there are."""
    found = list(items)
    shown = ", ".join(found[:_SHOWN])
    return shown if len(found) <= _SHOWN else f"{shown}, and {len(found) - _SHOWN} more"


def _read_text(path: Path) -> pd.DataFrame:
    """Return a table as text, cell by cell; an empty cell is the empty string."""
    try:
        with path.open("rb") as stream:
            head = stream.read(4)
        if head == b"PAR1":
            frame = pq.read_table(path).to_pandas().astype("string").fillna("")
        elif head == b"PK\3\4":
            raise ValueError("it is a spreadsheet or a zip; save it as 'CSV UTF-8'")
        else:
            wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            frame = _read_csv(path.read_text("utf-16" if wide else "utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 ({error}); save it as 'CSV UTF-8'") from None
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise UsageError(f"{path} cannot be read as CSV or Parquet: {error}") from None
    stripped: pd.DataFrame = frame.apply(lambda cells: cells.str.strip())
    return stripped


def _read_csv(text: str) -> pd.DataFrame:
    """Return the cells of a CSV; pandas would take a first column for an index, and shift rows.

    Raises
    ------
    ValueError
        If there is no header, or a row has more cells than it.
    """
    import pandas as pd

    # Excel writes, and reads, which separator it is in a line of its own.
    named = re.match(r"sep=(.)\n", text, re.IGNORECASE)
    body = text[named.end() :] if named else text
    separator = named[1] if named else max(",;\t", key=body.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(body), delimiter=separator, strict=True)
    header = next(reader, [])
    if not any(header):
        raise ValueError("its first line has no names of columns")
    rows = []
    for row in reader:
        if any(map(str.strip, row[len(header) :])):
            raise ValueError(
                f"line {reader.line_num} has {len(row)} cells, and the header {len(header)}"
            )
        if any(row):
            rows.append((row + [""] * len(header))[: len(header)])
    return pd.DataFrame(rows, columns=header, dtype="string")


def _spell(header: str) -> str:
    return "".join(sign for sign in str(header).lower() if sign.isalnum())


def _find_value(spelled: dict[str, str], wanted: list[str]) -> str:
    for candidate in wanted:
        if _spell(candidate) in spelled:
            return spelled[_spell(candidate)]
    raise UsageError(
        f"the table has no column {' or '.join(map(repr, wanted))}; give --column with one of: "
        f"{', '.join(spelled.values())}"
    )


def _find_key(spelled: dict[str, str], value: str, on: str | None) -> tuple[str, str]:
    """Return the catalog's column to join on, and the table's."""
    if on is not None:
        header, _, key = on.partition("=")
        found, meant = spelled.get(_spell(header)), _KEYS.get(_spell(key or header))
        if found is None or meant is None:
            raise UsageError(
                f"cannot join on {on!r}: use a column of the table, and where its name does not "
                f"tell, COLUMN=KEY with a key of {', '.join(dict.fromkeys(_KEYS.values()))}"
            )
        return meant, found
    for alias, key in _KEYS.items():
        if alias in spelled and spelled[alias] != value:
            return key, spelled[alias]
    raise UsageError(
        f"none of the table's columns {', '.join(spelled.values())} is one to join on; name it "
        "with --on COLUMN=path, or another key such as PatientID or StudyInstanceUID"
    )


def _read_known(table: LabelTable, keys: list[str], database: Database) -> pd.DataFrame:
    """Return those of the table's keys that the catalog has."""
    asked = [name for name in keys if name in table.rows]
    database.register("asked_keys", pa.table({name: table.rows[name] for name in asked}))
    columns, asked_columns = ", ".join(keys), ", ".join(asked)
    sql = f"SELECT DISTINCT {columns} FROM labellable SEMI JOIN asked_keys USING ({asked_columns})"
    return to_frame(database.arrow(f"{sql} ORDER BY {columns}"))


def _resolve_paths(table: LabelTable, database: Database) -> pd.DataFrame:
    paths = table.rows["path"].tolist()
    sources = table.rows["source"] if "source" in table.rows else [None] * len(paths)
    found = find_paths(database, paths, (source or None for source in sources))
    files = found.column("files").to_numpy()
    _refuse_unmatched(table.rows.loc[files == 0, ["path"]], database)
    several = table.rows.loc[files > 1, "path"].tolist()
    if several:
        raise CatalogError(
            f"{len(several)} rows match several files each: {enumerate_some(several)}; "
            "give more of the path"
        )
    places = {name: found.column(name).to_pylist() for name in ("source", "path")}
    return table.rows.assign(**places)


def _refuse_unmatched(rows: pd.DataFrame, database: Database) -> None:
    """Raise if there are rows, telling their keys, and which of the catalog's they resemble."""
    if rows.empty:
        return
    lost = [" ".join(row) for row in rows.itertuples(index=False)]
    near, example = _find_alike(lost[:_LIKENED], [*rows.columns], database)
    shown = [_show(one, near.get(one)) for one in lost]
    told = f"it has, for example, {example}" if example else "none of its images has such a key"
    raise CatalogError(
        f"{len(lost)} rows match no image of the catalog: {enumerate_some(shown)}; {told}; "
        "correct these rows, or leave them out"
    )


def _find_alike(
    lost: Sequence[str], keys: list[str], database: Database
) -> tuple[dict[str, str], str | None]:
    """Return which of the catalog's keys some may be a misspelling of, and its first key."""
    joined = " || ' ' || ".join(keys)
    sql = f"SELECT DISTINCT {joined} AS name FROM labellable WHERE name IS NOT NULL ORDER BY name"
    cores = {_find_core(one): one for one in lost}
    near: dict[str, str] = {}
    few: list[str] = []
    for batch in database.batches(sql):
        names = batch.column(0).to_pylist()
        near |= {cores[core]: name for name in names if (core := _find_core(name)) in cores}
        few += names[: _NAMES + 1 - len(few)]
    for one in lost:
        if one not in near and len(few) <= _NAMES:
            near |= dict(zip([one], get_close_matches(one, few, 1, 0.7), strict=False))
    return near, few[0] if few else None


def _show(lost: str, near: str | None) -> str:
    return f"{lost or '(blank)'} (perhaps {near})" if near else lost or "(blank)"


def _find_core(name: str) -> str:
    """Return what a spreadsheet leaves of an identifier: no leading zeros, perhaps a '.0'."""
    return _spell(re.sub(r"\.0+$", "", name)).lstrip("0")
