"""Pseudonyms in answers that others may see: a screenshot, a table sent by mail.

Whatever could name a person, a place or an examination is replaced inside the database, before a
question is answered: every view is one of pseudonyms, so no alias, function or subquery reaches
the value behind. A pseudonym is a keyed hash. The key is drawn once for a catalog and lies in its
folder, readable by its owner alone: equal values look equal in all answers of one catalog, and a
list of PatientIDs cannot be hashed to find who is who.

What is hidden follows the basic profile of PS3.15 Annex E: every column of text that is not
listed here as plain. Dates keep their year and ages end at 89, as in the rule of safe harbor
(45 CFR 164.514(b)(2)(i)). Numbers, coded values and what describes the machine stay as they are.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from medkit.catalog.schema import HEADER, TABLES
from medkit.catalog.store import Catalog
from medkit.errors import CatalogError, UsageError

# Text that names nobody: codes, and what the catalog itself writes.
_PLAIN = frozenset(
    {
        *("kind", "reason", "reader", "format", "pixel_keyword", "duplicate", "basis", "code"),
        *("SOPClassUID", "TransferSyntaxUID", "Modality", "modalities", "ImageType"),
        *("PhotometricInterpretation", "PixelPresentation", "PresentationLUTShape"),
        *("LossyImageCompression", "BurnedInAnnotation", "RescaleType", "VOILUTFunction"),
        *("BodyPartExamined", "ViewPosition", "ImageLaterality", "PatientSex"),
        *("Manufacturer", "ManufacturerModelName", "name"),
    }
)
# A label's value stands for itself where it comes from a column that does.
_PLAIN_ORIGINS = ", ".join(f"'tag {name}'" for name in HEADER.names if name in _PLAIN)
_SPECIAL = {
    "StudyDate": "CASE WHEN StudyDate SIMILAR TO '[12][0-9]{3}\\.?[0-9]{2}\\.?[0-9]{2}' "
    "THEN left(StudyDate, 4) END",
    "PatientAge": "CASE WHEN try_cast(left(PatientAge, 3) AS INTEGER) > 89 "
    "AND PatientAge LIKE '%Y' THEN '090Y' ELSE PatientAge END",
    # A file's time is a date of the examination, or close to it.
    "mtime_ns": "CAST(NULL AS BIGINT)",
    "inode": "CAST(NULL AS BIGINT)",
}
_SCHEMA = "anonymised"
_KEY_DIGITS = 64
# Tables that a query makes of its own values.
_FUNCTIONS = frozenset({"unnest", "range", "generate_series"})


def stream(catalog: Catalog, sql: str, anonymised: bool) -> pa.RecordBatchReader:
    """Return the answer to one SELECT, batch by batch, with pseudonyms where it is asked for.

    Raises
    ------
    UsageError
        If DuckDB cannot answer; with pseudonyms also if the query names anything but the
        catalog's tables by their plain names.
    CatalogError
        If the key is damaged.
    """
    if not anonymised:
        return catalog.stream(sql)
    _check_tables(catalog, sql)
    return catalog.stream(sql, prelude=_hide(catalog))


def load_key(folder: Path) -> str:
    """Return the key of a catalog's folder, 64 hexadecimal digits; the first call draws it.

    Raises
    ------
    CatalogError
        If its file is damaged.
    """
    path = folder / "pseudonyms.key"
    if not path.exists():
        _draw_key(path)
    key = path.read_bytes()
    if not re.fullmatch(rb"[0-9a-f]{%d}" % _KEY_DIGITS, key):
        raise CatalogError(f"{path} is damaged; remove it, and all pseudonyms will be new ones")
    return key.decode()


def _draw_key(path: Path) -> None:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as handle:
            handle.write(secrets.token_hex(_KEY_DIGITS // 2))
            handle.flush()
            os.fsync(handle.fileno())
        if not path.exists():  # of two that draw at once, the later finds a key
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _hide(catalog: Catalog) -> list[str]:
    """Return the statements that put views of pseudonyms before those of the catalog."""
    key = load_key(catalog.folder)
    views = [
        f"CREATE VIEW {_SCHEMA}.{table} AS SELECT {_list_columns(columns, key)} FROM main.{table}"
        for table, columns in _read_columns(catalog).items()
    ]
    return [f"CREATE SCHEMA {_SCHEMA}", *views, f"USE {_SCHEMA}"]


def _read_columns(catalog: Catalog) -> dict[str, dict[str, str]]:
    """Return the type of each column of each table."""
    found = catalog.stream(
        "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE schema_name = 'main'"
    ).read_all()
    columns: dict[str, dict[str, str]] = {name: {} for name in (*TABLES, "images")}
    for row in found.to_pylist():
        if row["table_name"] in columns:
            columns[row["table_name"]][row["column_name"]] = row["data_type"]
    return columns


def _list_columns(columns: Mapping[str, str], key: str) -> str:
    told = "origin" in columns  # of labels
    return ", ".join(
        f'{_hide_label(name, key) if told else _hide_column(name, kind, key)} AS "{name}"'
        for name, kind in columns.items()
    )


def _hide_column(name: str, kind: str, key: str) -> str:
    if name in _SPECIAL:
        return _SPECIAL[name]
    if name in _PLAIN or not kind.startswith("VARCHAR"):
        return f'"{name}"'
    if kind.endswith("[]"):
        return f'[{_hash("item", key)} for item in "{name}"]'
    return _hash(f'"{name}"', key)


def _hide_label(name: str, key: str) -> str:
    hidden = _hide_column(name, "VARCHAR", key)
    if name in ("value", "origin"):
        return f'CASE WHEN origin IN ({_PLAIN_ORIGINS}) THEN "{name}" ELSE {hidden} END'
    return hidden


def _hash(value: str, key: str) -> str:
    # As many digits as the name of a file has: these must not meet by chance in any catalog.
    return (
        f"CASE WHEN {value} = '' THEN '' ELSE 'anon-' || left(sha256('{key}' || {value}), 16) END"
    )


def _check_tables(catalog: Catalog, sql: str) -> None:
    """Refuse a query that reaches behind the views: by a schema's name, a file, a function."""
    nodes = list(_walk(_parse(catalog, sql)))
    own = {entry["key"] for node in nodes for entry in node.get("cte_map", {}).get("map", ())}
    known = {*TABLES, "images", *own}
    for node in nodes:
        if node.get("type") == "BASE_TABLE":
            parts = (node["catalog_name"], node["schema_name"], node["table_name"])
            if any(parts[:2]) or parts[2].lower() not in {name.lower() for name in known}:
                _refuse(".".join(filter(None, parts)))
        elif node.get("type") == "TABLE_FUNCTION":
            name = node["function"]["function_name"].lower()
            if name not in _FUNCTIONS:
                _refuse(f"{name}()")


def _refuse(name: str) -> None:
    raise UsageError(
        f"with --anonymise-output a query is of the tables {', '.join(TABLES)}, images, "
        f"and not of {name!r}"
    )


def _parse(catalog: Catalog, sql: str) -> Any:
    """Return DuckDB's own tree of a query; what it cannot tell is refused."""
    literal = "'" + sql.replace("'", "''") + "'"
    answer = catalog.stream(f"SELECT CAST(json_serialize_sql({literal}) AS VARCHAR)").read_all()
    tree = json.loads(answer.column(0)[0].as_py())
    if tree["error"]:
        raise UsageError(f"the catalog cannot answer: {tree['error_message']}")
    return tree


def _walk(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every node below, and this one."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
