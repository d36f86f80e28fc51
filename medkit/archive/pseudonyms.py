"""Pseudonyms of a de-identified archive: keyed, and so the same for the same, again and again.

The key is that of the workspace's catalog, so that a person has one pseudonym in an archive and in
what ``medkit query --anonymise-output`` answers. Who is who stands in a map in the workspace,
readable by its owner alone, and never in the archive.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydicom._uid_dict import UID_dictionary

from medkit.catalog.pseudonyms import load_key
from medkit.workspace import Workspace, move_into_place, remove_folder

_DAYS = 3650  # a shift is 1 to this many days into the past
_DATE = re.compile(rb"(\d{4})\.?(\d\d)\.?(\d\d)")
_MOMENT = re.compile(
    rb"(\d{4})(?:(\d\d)(?:(\d\d)(\d\d(?:\d\d(?:\d\d(?:\.\d{1,6})?)?)?)?)?)?([+-]\d{4})?"
)
_TIME = re.compile(rb"\d\d(:?\d\d(:?\d\d(\.\d{1,6})?)?)?")
_FORMS = {b"DA": _DATE, b"DT": _MOMENT, b"TM": _TIME}
# Of any edition; nobody else gives UIDs under this root.
STORAGE_CLASS = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.[0-9.]{1,24}")
_FOLDER = "pseudonyms"
Pair = tuple[str, str, str]  # kind, original, pseudonym
_SCHEMA = pa.schema({name: pa.string() for name in ("kind", "original", "pseudonym")})


@dataclass(frozen=True)
class Pseudonyms:
    """Gives pseudonyms by a key.

    Attributes
    ----------
    key : str
        64 hexadecimal digits.
    """

    key: str = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """What tells this key from another, and says nothing about it."""
        return self._hash("fingerprint", "")[:16]

    def name(self, value: str) -> str:
        """Return the pseudonym of a PatientID, as `medkit.catalog.pseudonyms` gives it."""
        return f"anon-{hashlib.sha256((self.key + value).encode()).hexdigest()[:16]}"

    def hide(self, kind: str, value: str) -> str:
        """Return 16 digits that stand for a value."""
        return self._hash(kind, value)[:16]

    def uid(self, value: str) -> str:
        """Return another UID, made of a UUID (PS3.5 B.2); those of the standard stay."""
        if not value or value in UID_dictionary or STORAGE_CLASS.fullmatch(value):
            return value
        digest = bytes.fromhex(self._hash("uid", value))
        return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"

    def days(self, person: str) -> int:
        """Return by how many days the dates of a person move: less than zero."""
        return -1 - int(self._hash("days", person), 16) % _DAYS

    def _hash(self, kind: str, value: str) -> str:
        message = f"{kind}\0{value}".encode("utf-8", "surrogateescape")
        return hmac.new(self.key.encode(), message, hashlib.sha256).hexdigest()


def shift(content: bytes, vr: bytes, days: int) -> bytes:
    """Return dates, moments or times of day, moved by whole days; empty where one is none.

    Times of day stay, for what moves by whole days has the same. A moment that names no day is
    moved as the first day of its month or year.
    """
    values = [value.strip(b" \0") for value in content.split(b"\\")]
    try:
        return b"\\".join(_shift_value(value, vr, days) if value else b"" for value in values)
    except (ValueError, OverflowError):
        return b""


def _shift_value(value: bytes, vr: bytes, days: int) -> bytes:
    found = _FORMS[vr].fullmatch(value)
    if found is None:
        raise ValueError("no date")
    if vr == b"TM":
        return value
    year, month, day, *rest = found.groups()
    moved = date(int(year), int(month or 1), int(day or 1)) + timedelta(days)
    precise = 8 if day else 6 if month else 4
    return moved.strftime("%Y%m%d").rjust(8, "0")[:precise].encode() + b"".join(filter(None, rest))


@dataclass(frozen=True)
class Map:
    """Who is who: parts that processes write, and at last one file.

    Attributes
    ----------
    folder : str
        Where it lies, in a workspace.
    name : str
        Of the archive it is of.
    """

    folder: str
    name: str

    @classmethod
    def open(cls, workspace: Path, archive: Path) -> Map:
        """Return the map of an archive; its folder is made, for its owner alone."""
        folder = workspace.resolve() / _FOLDER
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        place = hashlib.sha256(os.fsencode(archive.resolve())).hexdigest()[:8]
        return cls(str(folder), f"{archive.name}-{place}")

    @property
    def path(self) -> Path:
        """The file, once the archive is whole."""
        return Path(self.folder, f"{self.name}.parquet")

    @property
    def _parts(self) -> Path:
        return Path(self.folder, f".{self.name}")

    def write_part(self, number: int, pairs: Iterable[Pair]) -> None:
        """Write down what one process replaced."""
        self._parts.mkdir(exist_ok=True, mode=0o700)
        _write(self._parts / f"{number:06d}.parquet", pairs)

    def begin(self) -> None:
        """Forget the parts of an archive that was begun otherwise."""
        remove_folder(self._parts)

    def conclude(self) -> None:
        """Add all parts to the file; what it knows of an earlier archive in this place stays."""
        files = [*self._parts.glob("*.parquet"), *filter(Path.exists, [self.path])]
        _write(self.path, {pair for file in files for pair in _read(file)})
        remove_folder(self._parts)


def load_pseudonyms(workspace: Path) -> Pseudonyms:
    """Return what the key of a workspace gives; the first call draws the key.

    Raises
    ------
    CatalogError
        If its file is damaged.
    """
    folder = Workspace(workspace).catalog
    folder.mkdir(parents=True, exist_ok=True)
    return Pseudonyms(load_key(folder))


def _read(path: Path) -> Iterator[Pair]:
    for row in pq.read_table(path).to_pylist():
        yield row["kind"], row["original"], row["pseudonym"]


def _write(path: Path, pairs: Iterable[Pair]) -> None:
    columns = list(zip(*sorted({*pairs}), strict=True)) or [(), (), ()]
    with _write_alone(path) as beside:
        pq.write_table(
            pa.table([pa.array(column, pa.string()) for column in columns], schema=_SCHEMA), beside
        )


@contextmanager
def _write_alone(path: Path) -> Iterator[Path]:
    """Yield a file beside, which only its owner may read, and which takes the place of another."""
    beside = path.with_name(f".{path.name}.part")
    beside.unlink(missing_ok=True)
    os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    yield beside
    move_into_place(beside, path)
