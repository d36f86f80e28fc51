"""From what was read and what was decided to a snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from medkit.catalog.grouping import add_context, group
from medkit.catalog.inspection import Tables
from medkit.catalog.journal import find_roots, read_journal
from medkit.catalog.matching import match_labels, match_patients, split_conflicts
from medkit.catalog.store import to_frame, to_table, write_snapshot

_CODE = "label-conflict"  # in the table ``problems``


@dataclass(frozen=True)
class Built:
    """A snapshot that stands.

    Attributes
    ----------
    snapshot : str
        Its name.
    tables : dict of str to pyarrow.Table
        Its content.
    warnings : list of str
        What the user should know.
    """

    snapshot: str
    tables: Tables
    warnings: list[str]


def build(
    folder: Path, tables: Tables, *, engine: str = "local", workers: int | None = None
) -> Built:
    """Group what was read, apply the journal, and make the result the current snapshot.

    Parameters
    ----------
    folder : Path
        The catalog's.
    tables : dict of str to pyarrow.Table
        Those of `schema.READ_TABLES`.
    """
    records = read_journal(folder)
    roots = find_roots(records)
    context = add_context(tables)
    grouped = group(
        tables,
        context,
        person_rules={
            name: root["person_regex"] for name, root in roots.items() if root["person_regex"]
        },
        csv_patients=match_patients(records, context),
        engine=engine,
        workers=workers,
    )
    labels, conflicts = split_conflicts(match_labels(records, grouped.context))
    made = {
        **grouped.tables,
        "labels": to_table(labels, "labels"),
        "problems": _add_conflicts(grouped.tables["problems"], conflicts),
    }
    warnings = list(grouped.warnings)
    if len(conflicts):
        warnings.append(
            f"{conflicts['file'].nunique()} files would have two labels of one name, and have "
            "none; see the problems of code 'label-conflict'"
        )
    return Built(write_snapshot(folder, made), made, warnings)


def _add_conflicts(problems: pa.Table, conflicts: pd.DataFrame) -> pa.Table:
    frame = to_frame(problems)
    details = conflicts["name"] + ": " + conflicts["value"] + " (" + conflicts["origin"] + ")"
    rows = pd.DataFrame({"file": conflicts["file"], "code": _CODE, "detail": details})
    return to_table(pd.concat([frame[frame["code"] != _CODE], rows]), "problems")
