"""The journal: what cannot be read from the files again, in the order it was decided.

One JSON object a line, only ever appended to. ``type`` says what it is:

============ ===================================================================================
root         a folder is scanned, as ``source``, with ``person_regex`` (or null), and ``raw``
             where files without a header are described
label        ``name`` has values: ``on`` and ``rows`` of a table, or a ``rule`` with its argument
persons      pictures have a PatientID: ``on`` and ``rows``
readers      ``names`` of plugins that read files from now on, instead of those before
forget-root  ``folder`` is no longer part of the catalog
forget-label what was said of ``name`` so far holds no longer
============ ===================================================================================
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medkit.errors import CatalogError

Record = dict[str, Any]

JOURNAL = "journal.jsonl"  # in the catalog's folder


def read_journal(folder: Path) -> list[Record]:
    """Return the records of a catalog, oldest first.

    A last line without an end was being written when its process was killed; it is not there.

    Raises
    ------
    CatalogError
        If another line is damaged.
    """
    path = folder / JOURNAL
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise CatalogError(f"{path} is damaged at line {number}: {error}") from None
    return records


def append_journal(folder: Path, records: Iterable[Record]) -> None:
    """Append records, and return when they are on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / JOURNAL).open("ab+") as journal:
        _cut_torn_line(journal)
        for record in records:
            journal.write(json.dumps(record, sort_keys=True, ensure_ascii=True).encode() + b"\n")
        journal.flush()
        os.fsync(journal.fileno())


def find_roots(records: Iterable[Record]) -> dict[str, Record]:
    """Return the last record of each folder that is part of the catalog, by folder."""
    roots: dict[str, Record] = {}
    for record in records:
        if record["type"] == "root":
            roots[record["folder"]] = record
        elif record["type"] == "forget-root":
            roots.pop(record["folder"], None)
    return dict(sorted(roots.items()))


def _cut_torn_line(journal: Any) -> None:
    journal.seek(0)
    journal.truncate(journal.read().rfind(b"\n") + 1)
