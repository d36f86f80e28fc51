"""What an archive may hold: names, kinds and sizes that are let through, or refused.

A member is a plain file or a folder and nothing else: sets of images need no links, and the link
filters of the standard library have been passed (CVE-2025-4517). Names must mean the same on
Linux, macOS and Windows. Sizes are bounded before a byte is unpacked.
"""

from __future__ import annotations

import hashlib
import re
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass

from medkit.errors import SourceError
from medkit.sources.streams import File
from medkit.workspace import RESERVED, is_full

# What the readers of the standard library raise on damaged or hostile bytes, and what a full
# disk raises.
_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
)

# A part that passes all rules, as most do.
_PLAIN = re.compile(r"[A-Za-z0-9_ .()+=,-]{0,254}[A-Za-z0-9_]")
# Of one part of a name: what it must not be, and how that is said.
_PART_RULES: tuple[tuple[Callable[[str], bool], str], ...] = (
    (lambda part: part in ("", ".", ".."), "has an empty part, '.' or '..' in its name"),
    (lambda part: len(part.encode("utf-8", "replace")) > 255, "has a part of over 255 bytes"),
    (
        lambda part: any(unicodedata.category(sign) in ("Cc", "Cs") for sign in part),
        "has control characters, or bytes that are not text, in its name",
    ),
    (lambda part: bool(set(part) & set('<>:"|?*')), 'has one of <>:"|?* in its name'),
    (lambda part: part.endswith((" ", ".")), "has a part that ends with a space or a dot"),
)


@dataclass(frozen=True)
class Bounds:
    """How much an archive may hold.

    Attributes
    ----------
    members : int
        Files and folders together.
    size : int
        Bytes of all members, unpacked.
    ratio : int
        Unpacked bytes for a packed one, in a member and in all. Empty images pack well, so
        nothing is asked up to ``small`` bytes.
    small : int
        Bytes.
    """

    members: int = 1_000_000
    size: int = 1 << 41
    ratio: int = 200
    small: int = 1 << 28


DEFAULT_BOUNDS = Bounds()


@dataclass(frozen=True)
class Entry:
    """A member as the archive states it, before the gate.

    Attributes
    ----------
    name : str
        As it stands in the archive.
    kind : str
        ``"file"``, ``"folder"``, or words for what it is instead.
    size : int
        Bytes, unpacked.
    packed : int or None
        Bytes, packed; None where the archive is packed as a whole.
    """

    name: str
    kind: str
    size: int
    packed: int | None


class Names:
    """The names of one tree: each means one file on Linux, macOS and Windows, inside the tree."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}
        self._files: set[bytes] = set()  # digests, for there may be a million

    def claim(self, name: str, *, folder: bool = False, below: str = "") -> str:
        """Return the name that a file or a folder gets, parts joined by ``/``; empty for the root.

        It is compared with the others as it lies below a folder, whose name ends with ``/``.

        What Windows keeps for devices gets a ``_``: ``CON_.dcm``.

        Raises
        ------
        ValueError
            If it is refused; the message goes on from the name.
        """
        parts = [_move_off_device(part) for part in _split_name(name, folder)]
        for depth in range(1, len(parts) + folder):
            self._claim_folder("/".join(parts[:depth]))
        right = "/".join(parts)
        if not folder:
            self._claim_file(fold_case(right))
        return name if right == name else right  # one string takes half the memory

    def claim_alone(self, place: str) -> bool:
        """Take a folder that nothing else may be, or lie in; False if something does."""
        folded = fold_case(place)
        if folded in self._folders or _digest(folded) in self._files:
            return False
        self._folders[folded] = place
        return True

    def _claim_file(self, folded: str) -> None:
        """Refuse what some system would write over another file."""
        size = len(self._files)
        self._files.add(_digest(folded))
        if size == len(self._files) or folded in self._folders:
            raise ValueError("takes the place of another")

    def _claim_folder(self, place: str) -> None:
        folded = fold_case(place)
        earlier = self._folders.get(folded)
        if earlier == place:
            return
        if earlier is not None or _digest(folded) in self._files:
            raise ValueError("takes the place of another, or lies in a file")
        self._folders[folded] = place


@dataclass
class _Total:
    members: int = 0
    size: int = 0


class Gate:
    """Lets the members of one archive through, or raises; remembers what went before.

    Parameters
    ----------
    path : File
        The archive.
    bounds : Bounds
        What is refused above.
    room : int, optional
        Bytes of disk space that the members may take.
    """

    def __init__(self, path: File, bounds: Bounds, room: int | None = None) -> None:
        self._path = path
        self._packed = path.stat().st_size
        self._below = ""
        self.bounds = bounds
        self._room = room
        self._names = Names()
        self._total = _Total()

    def below(self, path: File, folder: str) -> Gate:
        """Return the gate of an archive that lies in this one, or this one's own again.

        Its members go below a folder, and all bounds are of both together.
        """
        inner = copy(self)
        inner._path, inner._below = path, folder
        if folder and not self._names.claim_alone(folder.rstrip("/")):
            raise SourceError(f"{path.name} cannot be unpacked: {folder!r} is there already")
        return inner

    def admit(self, entry: Entry) -> str:
        """Return the name of a member, parts joined by ``/``; it is empty for the root folder.

        Raises
        ------
        SourceError
            If the member is refused; the message names archive and member.
        """
        if entry.kind not in ("file", "folder"):
            raise self._refuse(entry, f"is {entry.kind}")
        try:
            name = self._names.claim(entry.name, folder=entry.kind == "folder", below=self._below)
        except ValueError as error:
            raise self._refuse(entry, str(error)) from None
        self._count(entry)
        return name

    def _count(self, entry: Entry) -> None:
        bounds, total = self.bounds, self._total
        total.members += 1
        total.size += entry.size
        rules = (
            (entry.size < 0, "has a size below zero"),
            (entry.kind == "folder" and entry.size > 0, "is a folder with content"),
            (total.members > bounds.members, f"is one of more than {bounds.members:,} members"),
            (total.size > bounds.size, f"makes more than {bounds.size:,} bytes in all"),
            (self._is_bomb(entry.size, entry.packed), f"unpacks to {entry.size:,} bytes from few"),
            (self._is_bomb(total.size, self._packed), f"makes {total.size:,} bytes out of few"),
        )
        for is_wrong, why in rules:
            if is_wrong:
                raise self._refuse(entry, why)
        if self._room is not None and total.size > self._room:
            raise SourceError(
                f"{self._path.name} unpacks to {total.size:,} bytes or more, and {self._room:,} "
                "are free; make room, or use a workspace on another disk"
            )

    def _is_bomb(self, size: int, packed: int | None) -> bool:
        return packed is not None and size > self.bounds.small and size > self.bounds.ratio * packed

    def _refuse(self, entry: Entry, why: str) -> SourceError:
        return SourceError(
            f"{self._path.name} is refused: its member {show_name(entry.name)} {why}; if you "
            "trust it, unpack it with another tool and fetch the folder"
        )


@contextmanager
def explain_errors(path: File, name: str = "") -> Iterator[None]:
    """Turn what reading or writing an archive raises into one error that names both.

    Raises
    ------
    SourceError
        For anything that damaged bytes or a full disk can raise.
    """
    try:
        yield
    except _ERRORS as error:
        if is_full(error):
            raise
        where = f"{path.name}, member {show_name(name)}" if name else path.name
        raise SourceError(f"{where}: {str(error) or type(error).__name__}") from error


def show_name(name: str) -> str:
    """Return a name for a message: escaped, and not endless."""
    return repr(name if len(name) <= 100 else f"{name[:97]}...")


def _split_name(name: str, folder: bool) -> list[str]:
    if name.startswith("/") or "\\" in name:
        raise ValueError("has an absolute name or a backslash in it")
    parts = (name.rstrip("/") if folder else name).split("/")
    if len(name) > 1000:
        raise ValueError("has a name of over 1,000 characters")
    while parts and parts[0] == ".":  # tar writes ./a where it was given '.'
        del parts[0]
    if not folder and not parts:
        raise ValueError("is a file without a name")
    for part in parts:
        if not _PLAIN.fullmatch(part):
            for is_wrong, why in _PART_RULES:
                if is_wrong(part):
                    raise ValueError(why)
    return parts


def _move_off_device(part: str) -> str:
    if not RESERVED.fullmatch(part):
        return part
    stem, dot, rest = part.partition(".")
    return f"{stem.rstrip()}_{dot}{rest}"


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def fold_case(name: str) -> str:
    """Return what is equal for names that are one file on Windows or macOS."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
