"""Labels: what is known of images from elsewhere, joined to the files of the catalog.

A table (CSV or Parquet) joins on a path, a UID, an AccessionNumber or a PatientID; a rule takes
the folder's name, a DICOM tag, or what a regular expression finds in the path. A row that matches
nothing, and two labels for one image, are errors, and then nothing is written. What is written
goes to the journal, and is applied to every later snapshot.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medkit.catalog import schema
from medkit.catalog.database import Database
from medkit.catalog.journal import Record, append_journal, read_journal
from medkit.catalog.label_tables import (
    enumerate_some,
    read_header,
    read_table,
    resolve_keys,
    tell_persons,
)
from medkit.catalog.matching import match_labels
from medkit.catalog.snapshots import make_snapshot
from medkit.catalog.store import Catalog, to_frame
from medkit.errors import CatalogError, UsageError
from medkit.workspace import check_name

if TYPE_CHECKING:
    import pandas as pd

# What may have a label, with the person of a picture that was told before.
_LABELLABLE = """
CREATE TEMP VIEW labellable AS
SELECT instances.*, files.path,
    NOT vanished AND duplicate IS DISTINCT FROM 'alias' AND shown.file IS NOT NULL AS counts
FROM instances JOIN files USING (file)
LEFT JOIN (SELECT file FROM frames WHERE frame = 0) AS shown USING (file)
WHERE kind IN ('image', 'non-dicom')
"""
_ALIASES = """
CREATE TEMP VIEW aliases AS SELECT file, alias_of FROM instances WHERE alias_of IS NOT NULL
"""
_TWICE = """
SELECT path, file, string_agg(value, ' and ' ORDER BY value) AS told
FROM said SEMI JOIN contradicted USING (name, file) JOIN files USING (file)
GROUP BY path, file ORDER BY path, file
"""
_VALUES = """
SELECT value, count(*) AS images FROM said SEMI JOIN (SELECT file FROM labellable WHERE counts)
USING (file) GROUP BY value ORDER BY value
"""


@dataclass(frozen=True)
class TableRule:
    """Labels stand in a table.

    Attributes
    ----------
    file : Path
        A CSV or Parquet file. A path in it may be relative to the scanned folder, or any end of
        a path that is there once; PatientID joins together with StudyDate where that column is
        there too. A column ``source`` narrows a row to that source. A PatientID column beside
        another key tells the person of pictures, which have no header.
    column : str, optional
        Of the values; by default the one named like the label, or ``label``.
    on : str, optional
        The column to join on; ``MINE=PatientID`` where its name does not tell what it is.
    """

    file: Path
    column: str | None = None
    on: str | None = None


@dataclass(frozen=True)
class ImageRule:
    """Labels follow from what the catalog knows of an image.

    Attributes
    ----------
    kind : str
        ``"folder"`` takes the name of the folder that a file lies in, ``"tag"`` a column of
        ``instances`` such as ``Modality``, ``"regex"`` what an expression finds in the path (its
        first group, or else the whole match). Images that it gives nothing stay unlabelled.
    argument : str, optional
        The column, or the expression.
    source : str, optional
        Only images of this source.
    """

    kind: Literal["folder", "tag", "regex"]
    argument: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class Labelled:
    """What labelling did.

    Attributes
    ----------
    name : str
        Of the label.
    snapshot : str
        The catalog's new state.
    values : dict of str to int
        Images of each value; aliases and vanished files do not count.
    unlabelled : int
        Images without a value.
    blank : int
        Rows of the table that have no value, and were passed over.
    persons : int
        Rows that tell the person of a picture.
    warnings : list of str
        What the user should know.
    """

    name: str
    snapshot: str
    values: dict[str, int]
    unlabelled: int
    blank: int
    persons: int
    warnings: list[str]

    @property
    def sentence(self) -> str:
        """The counts in words."""
        words = f"{sum(self.values.values()):,} images labelled, {self.unlabelled:,} not"
        if self.blank:
            words += f"; {self.blank:,} rows have no value"
        if self.persons:
            words += f"; {self.persons:,} pictures have their person from the table"
        return words


def choose_rule(
    *,
    csv: Path | None,
    column: str | None,
    on: str | None,
    folder: bool,
    tag: str | None,
    regex: str | None,
    source: str | None,
) -> TableRule | ImageRule:
    """Return the one rule that the options of ``medkit label`` mean.

    Raises
    ------
    UsageError
        If they mean none, or several.
    """
    rules: list[TableRule | ImageRule] = []
    if csv is not None:
        rules.append(TableRule(csv, column, on))
    if folder:
        rules.append(ImageRule("folder", None, source))
    if tag is not None:
        rules.append(ImageRule("tag", tag, source))
    if regex is not None:
        rules.append(ImageRule("regex", regex, source))
    if len(rules) != 1:
        raise UsageError("give one of --csv FILE, --folder, --tag KEYWORD and --regex R")
    if csv is None and (column is not None or on is not None):
        raise UsageError("--column and --on go with --csv FILE, whose columns they name")
    if csv is not None and source is not None:
        raise UsageError("--source does not go with --csv; add a column 'source' to the table")
    return rules[0]


def label_images(
    folder: Path, name: str, rule: TableRule | ImageRule, *, replace: bool = False
) -> Labelled:
    """Label images, in the journal and in a new snapshot.

    Parameters
    ----------
    folder : Path
        The catalog's.
    name : str
        Of the label.
    rule : TableRule or ImageRule
        Where the values come from.
    replace : bool
        Forget what this label held before; otherwise, this is added.

    Raises
    ------
    UsageError
        If the table cannot be read, its columns are not found, or the rule cannot be followed.
    CatalogError
        If a row matches no image, nothing gets a label, or an image gets two labels or two
        persons. Nothing is written then.
    """
    check_name(name)
    with Catalog.open(folder) as catalog:
        database, segments = catalog.database, catalog.segments
        for view in (_LABELLABLE, _ALIASES):
            database.execute(view)
        records, blank = _describe(rule, name, database)
        if replace:
            records = [{"type": "forget-label", "name": name}, *records]
        known = [record for record in read_journal(folder) if record.get("name") == name]
        match_labels(database, [*known, *records])
        _refuse_conflicts(database)
        if not database.arrow("SELECT 1 FROM said LIMIT 1"):
            raise CatalogError(f"no image would get a label {name!r}; see 'medkit show images'")
        values = {row["value"]: row["images"] for row in database.arrow(_VALUES).to_pylist()}
        images = database.arrow("SELECT count_if(counts) FROM labellable").column(0)[0].as_py()
    append_journal(folder, records)
    built = make_snapshot(folder, segments)
    return Labelled(
        name,
        built.snapshot,
        values,
        images - sum(values.values()),
        blank,
        sum(len(record["rows"]) for record in records if record["type"] == "persons"),
        built.warnings,
    )


def match_table(folder: Path, rules: Sequence[TableRule]) -> pd.DataFrame:
    """Return ``file`` and ``value`` of what a table says; nothing is written.

    Parameters
    ----------
    folder : Path
        The catalog's.
    rules : sequence of TableRule
        Of one file; the first whose column is there is followed.

    Raises
    ------
    UsageError, CatalogError
        As `label_images`.
    """
    headers = read_header(rules[0].file)
    rule = next((one for one in rules if one.column in headers), rules[0])
    with Catalog.open(folder) as catalog:
        database = catalog.database
        for view in (_LABELLABLE, _ALIASES):
            database.execute(view)
        match_labels(database, _describe(rule, str(rule.column), database)[0])
        _refuse_conflicts(database)
        return to_frame(database.arrow("SELECT file, value FROM said ORDER BY file"))


def _describe(
    rule: TableRule | ImageRule, name: str, database: Database
) -> tuple[list[Record], int]:
    """Return the records to write, and how many rows were passed over."""
    record: Record = {"type": "label", "name": name}
    if isinstance(rule, ImageRule):
        _check_rule(rule, database)
        record["origin"] = " ".join(filter(None, (rule.kind, rule.argument)))
        return [record | {"rule": rule.kind, "argument": rule.argument, "source": rule.source}], 0
    table = read_table(rule.file, name, rule.column, rule.on)
    rows, keys = resolve_keys(table, database)
    record["origin"] = f"{rule.file.name}: {table.header}"
    record["on"] = keys
    record["rows"] = rows[[*keys, "value"]].drop_duplicates().to_numpy().tolist()
    return [record, *tell_persons(rows, keys)], table.blank


def _check_rule(rule: ImageRule, database: Database) -> None:
    if rule.source is not None:
        sources = "SELECT DISTINCT source FROM labellable ORDER BY source"
        known = database.arrow(sources).column(0).to_pylist()
        if rule.source not in known:
            raise UsageError(f"there is no source {rule.source!r}; there are: {', '.join(known)}")
    if rule.kind == "tag" and rule.argument not in schema.HEADER.names:
        raise UsageError(
            f"the catalog keeps no tag {rule.argument!r}; it keeps {', '.join(schema.HEADER.names)}"
        )
    if rule.kind == "regex":
        try:
            re.compile(rule.argument or "")
        except re.error as error:
            raise UsageError(f"{rule.argument!r} is no regular expression: {error}") from None


def _refuse_conflicts(database: Database) -> None:
    told = database.arrow(_TWICE).to_pylist()
    if not told:
        return
    raise CatalogError(
        f"{len(told)} images would have two labels: "
        + enumerate_some(f"{row['path']} ({row['told']})" for row in told)
        + "; join on something more exact, or forget the old labels with --replace"
    )
