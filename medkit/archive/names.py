"""Names that are one file on Linux, macOS and Windows alike, and which original each stands for.

A name that every system takes stays as it is. Of another, what would be refused is written as
``%`` and two digits, as in URLs, and what would fall on another (``A`` and ``a``, or the same
accent composed and decomposed) gets ``~2``. The archive's index keeps both names, so that nothing
is ever guessed back.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from medkit.errors import UsageError
from medkit.sources.gate import fold_case
from medkit.sources.zstd import SUFFIX
from medkit.workspace import RESERVED, write_json

_OWN = ".medkit"  # the folder of a shard that is not of the tree
_FORBIDDEN = frozenset('<>:"|?*\\')
_PART_BYTES = 240  # of 255, so that there is room for a mark and a suffix
_PATH_CHARACTERS = 900
LONG = "%long"  # the folder of what lies too deep
_FORMAT = 1


class PortableNames:
    """Gives each path of a tree a name, always the same for the same paths in the same order."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, bytes], str] = {}
        self._taken: dict[str, set[str]] = {"": {_OWN}}

    def give(self, path: bytes) -> str:
        """Return the name of a path: bytes as the system has them, with ``/`` between parts."""
        *folders, last = path.split(b"/")
        parent = ""
        for folder in folders:
            parent = self._give_part(parent, folder, "")
        return self._give_part(parent, last, "", SUFFIX)

    def _give_part(self, parent: str, part: bytes, *suffixes: str) -> str:
        """Return the path of a part under its parent's name."""
        key = parent, part
        if key not in self._parts:
            taken = self._taken.setdefault(parent, set())
            wish = _escape_part(part)
            chosen, count = wish, 1
            while any(fold_case(chosen + suffix) in taken for suffix in suffixes):
                count += 1
                chosen = _mark(wish, f"~{count}")
            taken.update(fold_case(chosen + suffix) for suffix in suffixes)
            self._parts[key] = self._join(parent, chosen, part)
        return self._parts[key]

    def _join(self, parent: str, chosen: str, part: bytes) -> str:
        path = f"{parent}/{chosen}" if parent else chosen
        if len(path) <= _PATH_CHARACTERS:
            return path
        digest = hashlib.sha256(parent.encode() + b"/" + part).hexdigest()[:16]
        return f"{LONG}/{digest}/{chosen}"


def write_names(path: Path, renamed: Mapping[str, bytes]) -> None:
    """Write down what the original of each renamed path is.

    Parameters
    ----------
    path : Path
        A JSON file.
    renamed : mapping of str to bytes
        The original, as its system had it, of each path.
    """
    rows = [
        {
            "path": name,
            "original": original.decode("utf-8", "backslashreplace"),
            "original_bytes": original.hex(),
        }
        for name, original in sorted(renamed.items())
    ]
    write_json(path, {"format": _FORMAT, "names": rows})


def read_names(path: Path) -> dict[str, bytes]:
    """Return what `write_names` wrote.

    Raises
    ------
    UsageError
        If the file is none of these.
    """
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != _FORMAT:
            raise ValueError("another format")
        return {row["path"]: bytes.fromhex(row["original_bytes"]) for row in content["names"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is no list of names that 'medkit unpack' wrote: {error}"
        ) from None


def _escape_part(part: bytes) -> str:
    """Return a part in which nothing stands that some system refuses."""
    try:
        text = part.decode()
    except UnicodeDecodeError:
        text = "".join(chr(byte) if byte < 128 else f"%{byte:02X}" for byte in part)
    escaped = "".join(_escape(character) for character in text)
    if escaped.endswith((" ", ".")):
        escaped = escaped[:-1] + _escape_bytes(escaped[-1])
    if RESERVED.fullmatch(escaped):
        escaped = _escape_bytes(escaped[0]) + escaped[1:]
    if len(escaped.encode()) > _PART_BYTES:
        mark = f"~{hashlib.sha256(part).hexdigest()[:16]}"
        escaped = _mark(escaped, mark)
    return escaped


def _escape(character: str) -> str:
    hidden = unicodedata.category(character) in ("Cc", "Cs")
    return _escape_bytes(character) if hidden or character in _FORBIDDEN else character


def _escape_bytes(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _mark(name: str, mark: str) -> str:
    """Put a mark before the suffix of a name, which is cut where it is too long."""
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix) > 16:
        stem, dot, suffix = name, "", ""
    room = _PART_BYTES - len(f"{mark}{dot}{suffix}".encode())
    stem = stem.encode()[:room].decode(errors="ignore")
    return f"{stem}{mark}{dot}{suffix}"
