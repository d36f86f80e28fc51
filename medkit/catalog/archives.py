"""The heads of an archive's members, for readers of many headers at once.

Members that are stored as they are (in a tar, in a zip without compression) are read in place.
Packed ones are unpacked as far as the head needs; a tar in gzip streams once from front to back.
Every member has passed `medkit.sources.gate`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medkit.sources.gate import explain_errors
from medkit.sources.members import Member, Part
from medkit.sources.streams import File, Source
from medkit.sources.unpacking import iterate_members

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stored:
    """The members of an archive, each of which is a part of it as it is.

    Attributes
    ----------
    names : list of str
        In the order of the archive.
    offsets, sizes : (n,) int64 arrays
        Where in the archive each begins, and how long it is, in bytes.
    """

    names: list[str]
    offsets: Integers
    sizes: Integers


def list_stored(path: File) -> Stored | None:
    """Return where the members of an archive lie, or None if one of them is packed.

    A tar is read from member to member; of a zip its directory and the members' local headers.

    Raises
    ------
    SourceError
        As `iterate_members`.
    """
    names, offsets, sizes = [], array("q"), array("q")
    for member in iterate_members(path):
        if member.offset is None:
            return None
        names.append(member.name)
        offsets.append(member.offset)
        sizes.append(member.size)
    return Stored(names, np.array(offsets, np.int64), np.array(sizes, np.int64))


def iterate_heads(path: File, length: int) -> Iterator[tuple[str, int, bytes]]:
    """Yield name, size and first bytes of each member of an archive, in its order.

    Whoever needs more of some of them takes these from `iterate_members` in a second walk: a
    batch of heads can be read without a stream for each.

    Parameters
    ----------
    path : File
        A zip, a tar or a tar in gzip.
    length : int
        Bytes of a head; it is shorter where the member is.

    Raises
    ------
    SourceError
        As `iterate_members`, and where a member cannot be unpacked.
    """
    with closing(Part(path, 0, path.stat().st_size)) as archive:
        for member in iterate_members(path):
            with explain_errors(path, member.name):
                head = _read_head(member, archive, min(length, member.size))
            yield member.name, member.size, head


def _read_head(member: Member, archive: Part, length: int) -> bytes:
    if member.offset is not None and length < member.size:  # else a checksum can be compared
        archive.seek(member.offset)
        return _read_up_to(archive, length)
    with closing(member.source()) as source:
        return _read_up_to(source, length)


def _read_up_to(source: Source, length: int) -> bytes:
    head = bytearray()
    while len(head) < length and (part := source.read(length - len(head))):
        head += part
    return bytes(head)
