"""Which files a rule of the journal speaks of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from medkit.catalog.database import Database
from medkit.catalog.identity import compile_person_regex, match_person
from medkit.catalog.journal import Record

# What is said of a copy is said of the image that stands for it; a rule that is given twice is
# one, and has the origin that it had first.
_SAID = """
CREATE OR REPLACE TEMP TABLE said AS
SELECT name, coalesce(alias_of, file) AS file, value, arg_min(origin, record) AS origin
FROM matched JOIN sayings USING (record) LEFT JOIN aliases USING (file)
GROUP BY ALL
"""
_CONTRADICTED = """
CREATE OR REPLACE TEMP TABLE contradicted AS
SELECT name, file FROM said GROUP BY name, file HAVING count(*) > 1
"""
_PICTURES = """
CREATE OR REPLACE TEMP VIEW pictures AS
SELECT instances.*, files.root, files.path FROM instances JOIN files USING (file)
WHERE format <> 'dicom'
"""
_NAMED = pa.schema([("file", pa.string()), ("value", pa.string())])


def tell_pictures(database: Database, records: Iterable[Record], rules: Mapping[str, str]) -> None:
    """Make the table ``told``: ``file``, ``basis`` and ``patient`` of the pictures that have one.

    A picture has no header that names its person: a CSV does, or else a rule on its path.

    Parameters
    ----------
    database : Database
        With the raw tables.
    records : iterable of dict
        The journal's.
    rules : mapping of str to str
        From root to regular expression.
    """
    database.execute(_PICTURES)
    database.execute(
        "CREATE TEMP TABLE told_by (record INTEGER, basis VARCHAR, file VARCHAR, value VARCHAR)"
    )
    compiled = {root: compile_person_regex(rule) for root, rule in rules.items()}
    if compiled:
        _insert_found(database, compiled)
    for number, record in enumerate(records, 1):
        if record["type"] == "persons":
            join = _join_rows(database, record, "pictures")
            database.execute(f"INSERT INTO told_by SELECT {number}, 'csv', file, value FROM {join}")
    # Who is named twice has the last name; a rule comes before all records.
    database.execute(
        "CREATE TEMP TABLE told AS SELECT file, arg_max(basis, record) AS basis, "
        "arg_max(value, record) AS patient FROM told_by GROUP BY file"
    )


def match_labels(database: Database, records: Sequence[Record]) -> None:
    """Make the tables ``said``, the rows of ``labels``, and ``contradicted``.

    ``contradicted`` has the ``name`` and ``file`` of those that have two values of one name, and
    so have none.

    Parameters
    ----------
    database : Database
        With ``labellable``: the columns of ``instances`` and ``path`` of what may have a label;
        and ``aliases``: ``file`` and ``alias_of``.
    records : sequence of dict
        The journal's.
    """
    database.execute(
        "CREATE OR REPLACE TEMP TABLE matched (record INTEGER, file VARCHAR, value VARCHAR)"
    )
    standing = list(_list_standing(records))
    columns = {
        "record": pa.array(range(len(standing)), pa.int32()),
        "name": pa.array([record["name"] for record in standing], pa.string()),
        "origin": pa.array([record["origin"] for record in standing], pa.string()),
    }
    database.register("sayings", pa.table(columns))
    for number, record in enumerate(standing):
        found = _match(database, record)
        database.execute(
            f"INSERT INTO matched SELECT {number}, file, value FROM {found} WHERE value IS NOT NULL"
        )
    database.execute(_SAID)
    database.execute(_CONTRADICTED)


def _list_standing(records: Sequence[Record]) -> Iterable[Record]:
    """Yield the records of labels that were not forgotten later."""
    forgotten = {
        record["name"]: position
        for position, record in enumerate(records)
        if record["type"] == "forget-label"
    }
    for position, record in enumerate(records):
        if record["type"] == "label" and forgotten.get(record["name"], -1) < position:
            yield record


def _match(database: Database, record: Record) -> str:
    """Return SQL for the ``file`` and ``value`` of what one record labels."""
    if "rows" in record:
        return _join_rows(database, record, "labellable")
    rows = "labellable"
    if record["source"] is not None:
        database.register("chosen", pa.table({"source": [record["source"]]}))
        rows = "(SELECT * FROM labellable SEMI JOIN chosen USING (source))"
    return _RULES[record["rule"]](database, rows, record["argument"])


def _join_rows(database: Database, record: Record, rows: str) -> str:
    """Return SQL for the ``file`` and ``value`` where some columns are those of a row."""
    keys = [*record["on"], "value"]
    columns = [pa.array(column, pa.string()) for column in zip(*record["rows"], strict=True)]
    database.register("told_rows", pa.table(columns, names=keys))
    on = ", ".join(f'"{key}"' for key in record["on"])
    return f"(SELECT file, value FROM {rows} JOIN (SELECT DISTINCT * FROM told_rows) USING ({on}))"


def _by_folder(database: Database, rows: str, argument: None) -> str:
    parts = "string_split(replace(path, '!', '/'), '/')"
    return f"(SELECT file, {parts}[-2] AS value FROM {rows})"


def _by_tag(database: Database, rows: str, keyword: str) -> str:
    """Spell each value once, as Python does; many images share it."""
    column = f'"{keyword}"'
    values = database.arrow(
        f"SELECT DISTINCT {column} FROM {rows} WHERE {column} IS NOT NULL"
    ).column(0)
    spelled = pa.array([_spell(value) for value in values.to_pylist()], pa.string())
    database.register("spelled", pa.table({keyword: values, "value": spelled}))
    return f"(SELECT file, value FROM {rows} JOIN spelled USING ({column}))"


def _spell(value: Any) -> str | None:
    if isinstance(value, list):
        return "\\".join(map(str, value))
    return str(value) if value == value else None  # NaN is no value


def _by_regex(database: Database, rows: str, pattern: str) -> str:
    compiled = re.compile(pattern)
    found = _search(database, f"SELECT file, path FROM {rows}", lambda path: _find(compiled, path))
    database.register("found", found)
    return "found"


def _find(rule: re.Pattern[str], path: str) -> str | None:
    found = rule.search(path)
    return found.group(1 if rule.groups else 0) if found else None


def _search(database: Database, sql: str, find: Callable[..., str | None]) -> pa.Table:
    """Return ``file``, and what a function makes of the other columns, where it makes something."""
    pieces = [_NAMED.empty_table()]
    for batch in database.batches(sql):
        columns = (column.to_pylist() for column in batch.columns[1:])
        values = pa.array(map(find, *columns), pa.string())
        pieces.append(pa.table([batch.column(0), values], schema=_NAMED).filter(values.is_valid()))
    return pa.concat_tables(pieces)


def _insert_found(database: Database, rules: Mapping[str, re.Pattern[str]]) -> None:
    database.register("ruled", pa.table({"root": [*rules]}))
    found = _search(
        database,
        "SELECT file, root, path FROM pictures SEMI JOIN ruled USING (root)",
        lambda root, path: match_person(rules[root], path),
    )
    database.register("found", found)
    database.execute("INSERT INTO told_by SELECT 0, 'person-regex', file, value FROM found")


_RULES: dict[str, Callable[[Database, str, Any], str]] = {
    "folder": _by_folder,
    "tag": _by_tag,
    "regex": _by_regex,
}
