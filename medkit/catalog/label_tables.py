"""Tables of labels that somebody else made: reading them, and finding which files they mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from medkit.catalog.journal import Record
from medkit.catalog.paths import PathIndex
from medkit.errors import CatalogError, UsageError

_SHOWN = 10

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
        CSV (comma, semicolon or tab) or Parquet.
    name : str
        Of the label.
    column, on : str, optional
        What the user said of its columns.

    Raises
    ------
    UsageError
        If it cannot be read, or a column is not found.
    """
    frame = _read_text(path)
    spelled = {_spell(header): header for header in frame.columns}
    value = _find_value(spelled, [column] if column is not None else [name, "label"])
    key, header = _find_key(spelled, value, on)
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
    return LabelTable(rows[filled], keys, value, int((~filled).sum()))


def resolve_keys(table: LabelTable, context: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows with keys that mean the same later, and which columns these are.

    Paths become those of the catalog, and what identifies nothing by itself is told with its
    source.

    Raises
    ------
    CatalogError
        If a row matches no image, or images of several files or sources.
    """
    if table.on == ["path"]:
        return _resolve_paths(table, context), ["source", "path"]
    qualified = "source" in table.rows or table.on[0] in _LOCAL
    keys = ["source", *table.on] if qualified else table.on
    known = context[keys].dropna().drop_duplicates()
    joined = table.rows.reset_index().merge(known, how="left", indicator=True)
    lost = joined[joined["_merge"] == "left_only"]
    _refuse_unmatched(" ".join(row) for row in lost[table.on].itertuples(index=False))
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
            head = stream.read(4096)
        if head.startswith(b"PAR1"):
            frame = pq.read_table(path).to_pandas().astype("string").fillna("")
        else:
            line = head.partition(b"\n")[0].decode("utf-8-sig", "replace")
            separator = max(",;\t", key=line.count)
            frame = pd.read_csv(
                path, sep=separator, dtype="string", keep_default_na=False, encoding="utf-8-sig"
            )
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UsageError(f"{path} cannot be read as CSV or Parquet: {error}") from None
    stripped: pd.DataFrame = frame.apply(lambda cells: cells.str.strip())
    return stripped


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


def _resolve_paths(table: LabelTable, context: pd.DataFrame) -> pd.DataFrame:
    index = PathIndex(zip(context["source"], context["path"], strict=True))
    paths = table.rows["path"].tolist()
    sources = table.rows["source"] if "source" in table.rows else [None] * len(paths)
    found = [index.find(path, source) for path, source in zip(paths, sources, strict=True)]
    _refuse_unmatched(path for path, places in zip(paths, found, strict=True) if not places)
    several = [path for path, places in zip(paths, found, strict=True) if len(places) > 1]
    if several:
        raise CatalogError(
            f"{len(several)} rows match several files each: {enumerate_some(several)}; "
            "give more of the path"
        )
    return table.rows.assign(
        source=[places[0][0] for places in found], path=[places[0][1] for places in found]
    )


def _refuse_unmatched(rows: Iterable[str]) -> None:
    unmatched = list(rows)
    if unmatched:
        raise CatalogError(
            f"{len(unmatched)} rows match no image of the catalog: {enumerate_some(unmatched)}"
        )
