"""Encapsulated pixel data without the words that encoders and cameras put into codestreams.

Comments and application segments are overwritten where they lie, and so is what follows the end
of a codestream; all that decoders read stays as it is.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from medkit.archive.admission import SHAPE
from medkit.archive.elements import OddFileError
from medkit.errors import PixelError
from medkit.images.codestreams import decode_codestream

_ITEM = struct.Struct("<HHI")
_BEGIN, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_RLE = "1.2.840.10008.1.2.5"
_FAMILY = "1.2.840.10008.1.2.4."
_JPEG = {*(f"{_FAMILY}{number}" for number in (50, 51, 53, 55, 57, 70, 80, 81))}
_JPEG2000 = {*(f"{_FAMILY}{number}" for number in (90, 91, 92, 93, 201, 202, 203))}
_JPEGXL = {*(f"{_FAMILY}{number}" for number in (110, 111, 112))}
_STARTS = dict.fromkeys(_JPEG, b"\xff\xd8\xff") | dict.fromkeys(_JPEG2000, b"\xff\x4f\xff\x51")
_JXL = b"\xff\x0a"
_EOI, _SOS, _COM = 0xD9, 0xDA, 0xFE
_APPS = range(0xE0, 0xF0)
_SOT, _SOD, _J2K_COM = 0x90, 0x93, 0x64
# Within coded data, FF is followed by less (ISO 10918-1 B.1.1.5, ISO 14495-1 A.1) or a restart.
_MARKER = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
# What application segments say to decoders: how many bytes of those that begin so.
_NEEDED = {b"JFIF\0": 14, b"Adobe": 12, b"mrfx": 5}


def copy_fragments(data: Any, place: int, syntax: str) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Return encapsulated pixel data without words, and the frames that change by it.

    Parameters
    ----------
    data : bytes or mmap
        The file.
    place : int
        Where the value of the pixel data begins.
    syntax : str
        Transfer syntax.

    Raises
    ------
    OddFileError
        ``odd-pixels`` if it is not made of fragments, ``codestream`` if it is of a kind that is
        not looked into.
    """
    table, *fragments = _read_items(data, place)
    known = (_JPEG | _JPEG2000 | _JPEGXL | {_RLE}) & {syntax}
    if not known or not fragments:
        raise OddFileError("codestream", f"codestreams of {syntax} are not looked into")
    cleaned: list[bytes] = []
    changed = []
    for group in _group(fragments, syntax):
        before = b"".join(group)
        after = _blank(before, syntax)
        changed += [(before, after)] if before != after else []
        places = [*accumulate(map(len, group), initial=0)]
        cleaned += [after[begin:end] for begin, end in pairwise(places)]
    offsets = {*accumulate((len(one) + _ITEM.size for one in fragments), initial=0)}
    entries = struct.unpack(f"<{len(table) // 4}I", table[: len(table) // 4 * 4])
    kept = table if len(table) % 4 == 0 and {*entries} <= offsets else b""
    items = [_ITEM.pack(*_BEGIN, len(one)) + one for one in (kept, *cleaned)]
    return b"".join([*items, _ITEM.pack(*_END, 0)]), changed


def compare_pixels(
    changed: list[tuple[bytes, bytes]], syntax: str, facts: Mapping[int, str]
) -> None:
    """Raise an OddFileError if frames are not decoded to what they were.

    Parameters
    ----------
    changed : list of (bytes, bytes)
        As of `copy_fragments`.
    syntax : str
        Transfer syntax.
    facts : mapping of int to str
        As of `admission.admit`.
    """
    rows, columns, samples = (int(facts.get(tag) or 1) for tag in SHAPE)
    shape = (rows, columns) if samples == 1 else (rows, columns, samples)
    for fragments in changed:
        try:
            before, after = (decode_codestream(one, syntax, shape)[0] for one in fragments)
        except (PixelError, KeyError) as error:
            raise OddFileError("codestream", f"it cannot be decoded: {error}") from None
        if before.dtype != after.dtype or not np.array_equal(before, after):
            raise OddFileError("pixels-changed", "a frame is decoded to something else")


def _read_items(data: Any, place: int) -> Iterator[bytes]:
    while place + _ITEM.size <= len(data):
        group, element, length = _ITEM.unpack_from(data, place)
        place += _ITEM.size
        if (group, element) == _END:
            return
        if (group, element) != _BEGIN or place + length > len(data):
            break
        yield bytes(data[place : place + length])
        place += length
    raise OddFileError("odd-pixels", "pixel data are no fragments, or break off")


def _group(fragments: list[bytes], syntax: str) -> list[list[bytes]]:
    """Return the fragments of each frame; those of which nothing is blanked stay alone."""
    start = _STARTS.get(syntax, b"")
    groups: list[list[bytes]] = []
    for fragment in fragments:
        if groups and start and not fragment.startswith(start):
            groups[-1].append(fragment)
        else:
            groups.append([fragment])
    return groups


def _blank(frame: bytes, syntax: str) -> bytes:
    """Return a frame with zeros for words."""
    if not frame.startswith(_STARTS.get(syntax, _JXL if syntax in _JPEGXL else b"")):
        raise OddFileError("codestream", "it does not begin as its transfer syntax asks")
    if syntax not in _STARTS:
        return frame
    blanked = bytearray(frame)
    find = _find_jpeg if syntax in _JPEG else _find_jpeg2000
    try:
        for begin, end in [*find(frame), *_find_tail(frame)]:
            blanked[begin:end] = b"\0" * (min(end, len(frame)) - begin)
    except (struct.error, IndexError):
        raise OddFileError("codestream", "its header breaks off") from None
    return bytes(blanked)


def _find_tail(fragment: bytes) -> Iterator[tuple[int, int]]:
    end = fragment.rfind(b"\xff\xd9")
    if end >= 0:
        yield end + 2, len(fragment)


def _find_jpeg(fragment: bytes) -> Iterator[tuple[int, int]]:
    """Yield where words stand in JPEG and JPEG-LS, in the header and between scans."""
    place = 2
    while place + 2 <= len(fragment):
        marker = fragment[place + 1]
        if fragment[place] != 0xFF:
            raise OddFileError("codestream", "something else than a segment")
        if marker == 0xFF:
            place += 1
            continue
        if marker == _EOI:
            return
        (length,) = struct.unpack_from(">H", fragment, place + 2)
        begin, end = place + 4, place + 2 + max(length, 2)
        if marker == _COM or marker in _APPS:
            content = fragment[begin:end]
            yield (
                begin + max((n for s, n in _NEEDED.items() if content.startswith(s)), default=0),
                end,
            )
        place = end
        if marker == _SOS:
            found = _MARKER.search(fragment, place)
            if found is None:
                return
            place = found.start()


def _find_jpeg2000(fragment: bytes) -> Iterator[tuple[int, int]]:
    """Yield where words stand in JPEG 2000: comments of the main header, and of tile-parts."""
    place, tile_end = 2, 0
    while place + 4 <= len(fragment):
        if fragment[place] != 0xFF:
            raise OddFileError("codestream", "something else than a segment")
        marker = fragment[place + 1]
        if marker == _EOI:
            return
        if marker == _SOD:
            place = tile_end
            continue
        (length,) = struct.unpack_from(">H", fragment, place + 2)
        if marker == _SOT:
            (size,) = struct.unpack_from(">I", fragment, place + 6)
            tile_end = place + size if size >= 14 else len(fragment)
        if marker == _J2K_COM:
            yield place + 6, place + 2 + length
        place += 2 + length
