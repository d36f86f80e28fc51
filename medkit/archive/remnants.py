"""What was taken out of a file, looked for in what is left of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from medkit.archive.profile import is_descriptor

_NUMBERS = (b"DS", b"IS")
_TEXTS = {b"AE", b"AS", b"CS", b"DA", b"DT", b"LO", b"LT", b"PN", b"SH", b"ST", b"UC", b"UI", b"UR",
          b"UT", b"UN", b"OB"}  # fmt: skip
_WORD, _NUMBER, _SENTENCE = 4, 6, 8  # shorter values are found everywhere
_APART = re.compile(rb"[\^=\s,;]+")
_LETTERS = re.compile(rb"[\x20-\x7e\x80-\xff\r\n\t\x1b]+")


class Remnants:
    """Values that were removed, and where they still are.

    What names someone is looked for by its words, from four letters on, or six digits; what
    describes something, as a whole, from eight letters on, and not in an element that says the
    same: a region in ``SeriesDescription`` that is also in ``BodyPartExamined``.
    """

    def __init__(self) -> None:
        self._naming: set[bytes] = set()
        self._describing: set[bytes] = set()
        self._written: list[bytes] = []
        self._kept: set[bytes] = set()

    def remove(self, tag: int, vr: bytes, content: bytes) -> None:
        """Take note of a value that was removed or replaced."""
        if vr not in _TEXTS:
            return
        values = [value.strip(b" \0").lower() for value in content[:4096].split(b"\\")]
        for value in filter(_LETTERS.fullmatch, values):
            if vr == b"PN":
                self._naming |= {value, *_APART.split(value)}
            elif tag >> 16 & 1 or vr in (b"UN", b"OB") or is_descriptor(tag):
                self._describing.add(value)
            else:
                self._naming.add(value)

    def keep(self, vr: bytes, content: bytes) -> None:
        """Take note of a value that stays."""
        self._kept |= {value.strip(b" \0").lower() for value in content.split(b"\\")}

    def write(self, content: bytes) -> None:
        """Take note of what is put there instead: it is no remnant where it looks like one."""
        self._written.append(content.lower())

    def list_needles(self) -> list[bytes]:
        """Return what is looked for, in lower case."""
        written = b"\\".join(self._written)
        naming = {needle for needle in self._naming if len(needle) >= _find_least(needle)}
        described = {needle for needle in self._describing - self._kept if len(needle) >= _SENTENCE}
        return sorted(needle for needle in naming | described if needle not in written)


def find_remnant(parts: Iterable[bytes], needles: Iterable[bytes]) -> bool:
    """Say whether one of some values stands in some bytes, as a word or within a longer one."""
    return any(
        _stands_alone(part, needle, place)
        for part in (bytes(part).lower() for part in parts)
        for needle in needles
        for place in _find_all(part, needle)
    )


def _find_least(needle: bytes) -> int:
    return _NUMBER if needle.isdigit() else _WORD


def _find_all(part: bytes, needle: bytes) -> Iterator[int]:
    place = part.find(needle)
    while place >= 0:
        yield place
        place = part.find(needle, place + 1)


def _stands_alone(part: bytes, needle: bytes, place: int) -> bool:
    """Say whether what is found is no part of a longer number, or, if short, of a word."""
    numeric = not needle.strip(b"0123456789.")
    if len(needle) >= _SENTENCE and not numeric:
        return True
    end = place + len(needle)
    around = part[max(place - 1, 0) : place] + part[end : end + 1]
    return not any(chr(byte).isalnum() or (numeric and byte == 0x2E) for byte in around)
