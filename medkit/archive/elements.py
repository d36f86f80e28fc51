"""Elements of DICOM data sets: walked over, found sound, copied into explicit little-endian."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

import numpy as np

from medkit.errors import CodedError

UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DEEPEST = 32
# By how an explicit element begins (PS3.5 7.1.2), those of PS3.5 6.2. pydicom has them, too, and
# takes longer to import than a small tree to pack.
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT = b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
# Where the value of each begins, after the element does.
_HEADS = {**dict.fromkeys(_LONG, 12), **dict.fromkeys(_SHORT, 8)}
# Representations that depend on others, as the standard dictionary spells them. Pixel-like values
# are OW in implicit data (PS3.5 A.1).
_EITHER = {"OB or OW": b"OW", "US or OW": b"OW", "US or SS or OW": b"OW"}
# Tag, VR, place and length of the value of an element.
Begun = tuple[int, bytes, int, int]


class OddFileError(CodedError):
    """A file is not taken apart; ``code`` says why."""


class Walker:
    """Walks over elements, and copies them into explicit little-endian."""

    signed = False

    def __init__(self, data: Any, implicit: bool, big: bool) -> None:
        self.data, self.implicit, self.big = data, implicit, big
        self.verbatim = not implicit and not big
        order = ">" if big else "<"
        self._head = struct.Struct(f"{order}HH2sH")
        self._long = struct.Struct(f"{order}I")

    def begin(self, place: int, limit: int) -> Begun:
        """Return tag, VR, place and length of the value of the element that begins here."""
        if place + 8 > limit:
            raise OddFileError("odd-header", "an element breaks off")
        group, element, vr, length = self._head.unpack_from(self.data, place)
        tag = group << 16 | element
        if self.implicit or group == 0xFFFE:
            (length,) = self._long.unpack_from(self.data, place + 4)
            vr = b"" if group == 0xFFFE else find_vr(tag, self.signed)
            return tag, vr, place + 8, length
        head = _HEADS.get(vr)
        if head is None:
            raise OddFileError("odd-header", "an unknown value representation")
        if head == 12:
            (length,) = self._long.unpack_from(self.data, place + 8)
        return tag, vr, place + head, length

    def end(self, value: int, length: int, limit: int) -> int:
        """Return where a value of known length ends."""
        if length == UNDEFINED or length % 2 or value + length > limit:
            raise OddFileError("odd-header", "a length is undefined, odd, or beyond the end")
        return value + length

    def copy(self, begun: Begun, limit: int, depth: int = 0) -> tuple[int, bytes]:
        """Return where an element ends, and the same in explicit little-endian.

        Nothing of what is that already: whoever wants it takes it as it lies.
        """
        tag, vr, value, length = begun
        group = tag >> 16
        if group in (0xFFFE, 0xFFFF) or depth > _DEEPEST:
            raise OddFileError("odd-header", "a delimiter without a sequence, or too many")
        if vr == b"SQ" or (length == UNDEFINED and vr == b"UN"):
            return self._copy_sequence(begun, limit, depth)
        end = self.end(value, length, limit)
        # The length of a group will be another one.
        if self.verbatim or tag & 0xFFFF == 0:
            return end, b""
        content = bytes(self.data[value:end])
        return end, write_element(tag, vr, swap(content, vr) if self.big else content)

    def _copy_sequence(self, begun: Begun, limit: int, depth: int) -> tuple[int, bytes]:
        tag, vr, value, length = begun
        # Unknown values of undefined length are implicit sequences (PS3.5 6.2.2).
        inner = self if vr == b"SQ" else Walker(self.data, True, False)
        end, items = inner._copy_items(value, length, limit, depth + 1)
        if self.verbatim:
            return end, b""
        if vr == b"UN":
            return end, _write_head(tag, b"UN", UNDEFINED) + bytes(self.data[value:end])
        closing = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        return end, _write_head(tag, b"SQ", UNDEFINED) + items + closing

    def _copy_items(self, place: int, length: int, limit: int, depth: int) -> tuple[int, bytes]:
        """Copy the items of a sequence; each gets a delimiter."""
        stop = limit if length == UNDEFINED else self.end(place, length, limit)
        parts: list[bytes] = []
        while place < stop:
            tag, _, value, size = self.begin(place, stop)
            if tag == _SEQUENCE_END and length == UNDEFINED and size == 0:
                return value, b"".join(parts)
            if tag != _ITEM:
                raise OddFileError("odd-header", "something else than an item in a sequence")
            place, item = self._copy_item(value, size, stop, depth)
            parts += [
                struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED),
                item,
                struct.pack("<HHI", 0xFFFE, 0xE00D, 0),
            ]
        if length == UNDEFINED:
            raise OddFileError("odd-header", "a sequence without an end")
        return place, b"".join(parts)

    def _copy_item(self, place: int, length: int, limit: int, depth: int) -> tuple[int, bytes]:
        stop = limit if length == UNDEFINED else self.end(place, length, limit)
        parts: list[bytes] = []
        last = -1
        while place < stop:
            begun = self.begin(place, stop)
            tag, _, value, size = begun
            if tag == _ITEM_END and length == UNDEFINED and size == 0:
                return value, b"".join(parts)
            if tag <= last:
                raise OddFileError("odd-header", "elements of an item do not ascend")
            place, element = self.copy(begun, stop, depth)
            parts.append(element)
            last = tag
        if length == UNDEFINED:
            raise OddFileError("odd-header", "an item without an end")
        return place, b"".join(parts)


def write_element(tag: int, vr: bytes, content: bytes) -> bytes:
    """Return an element in explicit little-endian; what is too long for its VR becomes UN."""
    if vr not in _LONG and len(content) > 0xFFFF:
        vr = b"UN"  # PS3.5 6.2.2
    return _write_head(tag, vr, len(content)) + content


def _write_head(tag: int, vr: bytes, length: int) -> bytes:
    if vr in _LONG:
        return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, length)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, length)


@lru_cache(maxsize=1 << 14)
def find_vr(tag: int, signed: bool) -> bytes:
    """Return the VR of an element of implicit data (PS3.6); UN of what is in no dictionary."""
    from pydicom.datadict import dictionary_VR

    group, element = tag >> 16, tag & 0xFFFF
    if element == 0:
        return b"UL"
    if group % 2:
        return b"LO" if 0x10 <= element <= 0xFF else b"UN"
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        return b"UN"
    if vr == "US or SS":
        return b"SS" if signed else b"US"
    return _EITHER.get(vr, vr.encode()[:2])


_WIDTHS = {
    **dict.fromkeys((b"US", b"SS", b"OW", b"AT"), 2),
    **dict.fromkeys((b"UL", b"SL", b"FL", b"OF", b"OL"), 4),
    **dict.fromkeys((b"FD", b"OD", b"SV", b"UV", b"OV"), 8),
}


def swap(content: bytes, vr: bytes) -> bytes:
    """Return a value in the other byte order (PS3.5 7.3)."""
    width = _WIDTHS.get(vr, 1)
    if len(content) % width:
        raise OddFileError("odd-header", "a value that is no whole number of words")
    return np.frombuffer(content, f"u{width}").byteswap().tobytes() if width > 1 else content
