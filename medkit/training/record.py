"""Records of what was asked, ``run.json`` and ``evaluation.json``: is this the same again?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medkit.errors import UsageError
from medkit.workspace import hash_json, read_json


def find_earlier(
    path: Path, record: Mapping[str, Any], identity: Sequence[str]
) -> dict[str, Any] | None:
    """Return the record of an earlier start with the same arguments, or None if there is none.

    Parameters
    ----------
    path : Path
        Of the record.
    record : mapping
        What is asked now, as JSON reads back.
    identity : sequence of str
        The keys that must be equal for it to be the same.

    Raises
    ------
    UsageError
        If the record there is of other arguments; the message says which.
    """
    if not path.exists():
        return None
    earlier: dict[str, Any] = read_json(path)
    different = [
        f"{key} was {earlier.get(key)!r} and is now {record[key]!r}"
        for key in identity
        if earlier.get(key) != record[key]
    ]
    if different:
        raise UsageError(
            f"{path.parent.name!r} was made with other arguments: {'; '.join(different)}. Give "
            "another --name, or, if they can be had again, those arguments to go on with it."
        )
    return earlier


def hash_identity(record: Mapping[str, Any], identity: Sequence[str]) -> str:
    """Return 8 hexadecimal digits that differ where the arguments do."""
    return hash_json({key: record[key] for key in identity}, length=8)


def tell_time() -> str:
    """Return the time in UTC, as a record has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
