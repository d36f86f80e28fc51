"""A DICOM image without what tells whom it is of (PS3.15 Annex E).

Elements are copied one by one, as `profile` decides, into a new file with a preamble of zeros and
file meta information of its own; what follows the pixel data, is private or strays from the
standard is not copied. The pixel data are those of the original, to the bit. Then the outcome is
searched for every value that was removed. What is still found is taken out of the element that
repeats it; if it is found even then, there is no outcome.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medkit.archive.admission import ALLOCATED, NUMBERS, PEEKED, PIXEL_MODULE, admit, count_bytes
from medkit.archive.anatomy import dissect
from medkit.archive.elements import (
    UNDEFINED,
    Begun,
    OddFileError,
    Walker,
    find_vr,
    swap,
    write_element,
)
from medkit.archive.fragments import compare_pixels, copy_fragments
from medkit.archive.members import Packed
from medkit.archive.profile import (
    EDITION,
    Action,
    check_options,
    decide,
    is_plain,
    tells_more,
)
from medkit.archive.pseudonyms import Map, Pair, Pseudonyms, load_pseudonyms, shift
from medkit.archive.remnants import Remnants, find_remnant
from medkit.archive.signature import pad, sign, write_meta
from medkit.errors import UsageError

_PIXELS = 0x7FE00010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_IMPLICIT, _EXPLICIT, _BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
_META = 132
_OLDEST = 89  # years; who is older says no more than that (45 CFR 164.514(b)(2)(i)(C))
_SCHEME, _MEANING = 0x00080102, 0x00080104
_PUBLIC = {b"DCM", b"SCT", b"SRT", b"SNM3", b"UCUM", b"LN", b"FMA", b"RADLEX", b"UMLS", b"NCIt"}
_SAYS_NOTHING = {
    b"DA": b"19000101",
    b"DT": b"19000101000000",
    b"TM": b"000000",
    b"AS": b"000Y",
    b"UI": b"2.25.0",
    b"DS": b"0",
    b"IS": b"0",
    b"UR": b"about:blank",
}
_REMOVED = b"REMOVED"
_PATIENT_NAME, _PATIENT, _STUDY, _SERIES, _INSTANCE, _SOP_CLASS = (
    0x00100010, 0x00100020, 0x0020000D, 0x0020000E, 0x00080018, 0x00080016
)  # fmt: skip


@dataclass(frozen=True)
class Rules:
    """How files are de-identified.

    Attributes
    ----------
    pseudonyms : Pseudonyms
        By which key.
    keep : tuple of str
        As of `profile.check_options`.
    map : Map
        Where it is written down who is who.
    """

    pseudonyms: Pseudonyms
    keep: tuple[str, ...]
    map: Map

    @classmethod
    def load(cls, workspace: Path, archive: Path, keep: Collection[str] = ()) -> Rules:
        """Return the rules of a workspace, which has the key, for a new archive.

        Raises
        ------
        UsageError
            If something unknown is to be kept, or the workspace lies in the archive.
        CatalogError
            If the key is damaged.
        """
        workspace, archive = workspace.resolve(), archive.resolve()
        if archive == workspace or archive in workspace.parents:
            raise UsageError(
                f"the workspace {workspace} lies in the archive {archive}, and it holds the key; "
                "give another folder"
            )
        kept = check_options(keep)
        return cls(load_pseudonyms(workspace), kept, Map.open(workspace, archive))

    def sign(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Return the facts of an archive, with what was done to its files."""
        told = {
            "profile": f"DICOM PS3.15 Table E.1-1, basic profile, {EDITION}",
            "keep": [*self.keep],
            "key": self.pseudonyms.fingerprint,
        }
        plan = self.pseudonyms.hide("plan", facts["plan"])
        return facts | {"plan": plan, "deidentification": told}


@dataclass(frozen=True)
class Disguised:
    """A file that was de-identified.

    Attributes
    ----------
    content : bytes
        The new file.
    name : str
        What it is called in an archive: person, study, series and file.
    pairs : set of Pair
        What was replaced by what.
    pixels : tuple of int
        Where the value of the pixel data begins and ends.
    needles : list of bytes
        What must not be found in it.
    told : dict of str to object
        What the index says of it instead of what a header alone would tell: ``identified`` is
        whether something was kept that the basic profile does not let pass, ``burned_in`` is None
        where no text is to be expected in the pixels.
    """

    content: bytes
    name: str
    pairs: set[Pair]
    pixels: tuple[int, int]
    needles: list[bytes] = field(repr=False)
    told: dict[str, Any]

    def check(self, packed: Packed) -> None:
        """Raise an OddFileError if this is not to be kept in the form that it got.

        Its bytes are read again and searched for what was removed, and its pixels must not have
        room for a drawing that readers do not show.
        """
        if packed.reason == "high-bits":
            raise OddFileError(packed.reason, "there is something in bits that are not stored")
        start, end = self.pixels
        outside = [self.content[:start], self.content[end:], self.name.encode(), packed.outside]
        if packed.samples:
            outside.append(packed.content[: packed.pixels])
        if find_remnant(outside, self.needles):
            raise OddFileError("identifier-left", "a value that was removed is still in the file")


def disguise(data: Any, path: str, rules: Rules) -> Disguised:
    """De-identify a file.

    Parameters
    ----------
    data : bytes or mmap
        All of it.
    path : str
        Where it lies in its tree.
    rules : Rules
        How.

    Raises
    ------
    OddFileError
        If it is none that can be de-identified; the code says why.
    """
    anatomy = dissect(data)
    if anatomy.reason in ("not-dicom", "odd-pixels"):
        raise OddFileError(anatomy.reason, "it cannot be taken apart")
    try:
        if anatomy.reason != "odd-header":
            return _disguise(data, path, rules)
    except (struct.error, IndexError):
        pass
    except OddFileError as odd:
        if odd.code != "odd-header":
            raise
    raise OddFileError("strange-header", "an element is not where or what it should be")


def _disguise(data: Any, path: str, rules: Rules) -> Disguised:
    syntax, place = _read_meta(data)
    walker = Walker(data, syntax == _IMPLICIT, syntax == _BIG)
    facts = _peek(walker, place)
    burned_in = admit(facts, rules.keep)
    tainted: list[bytes] = []
    for _ in range(2):
        cleaner = _Cleaner(walker, facts, rules, tainted)
        content, pixels = cleaner.write(place, syntax)
        _prove(content, facts)
        tainted = cleaner.remnants.list_needles()
        if not find_remnant((content[: pixels[0]], content[pixels[1] :]), tainted):
            break
    else:
        raise OddFileError("identifier-left", "a value that was removed is still in the file")
    name = _name(cleaner, facts, path)
    cleaner.pairs.add(("path", path, name))
    told = {"identified": cleaner.identified, "burned_in": burned_in}
    return Disguised(content, name, cleaner.pairs, pixels, tainted, told)


def _read_meta(data: Any) -> tuple[str, int]:
    """Return the transfer syntax, and where the data set begins."""
    walker, place, syntax = Walker(data, False, False), _META, b""
    while int.from_bytes(data[place : place + 2], "little") == 2:
        tag, _, value, length = walker.begin(place, len(data))
        place = walker.end(value, length, len(data))
        syntax = bytes(data[value:place]) if tag == 0x00020010 else syntax
    return syntax.strip(b" \0").decode("latin-1"), place


def _peek(walker: Walker, place: int) -> dict[int, str]:
    """Return some values of the data set; of the pixel data, how long they are."""
    found: dict[int, str] = {}
    size = len(walker.data)
    while place < size:
        begun = walker.begin(place, size)
        tag, _, value, length = begun
        if tag == _PIXELS:
            found[tag] = str(length)
            break
        place, _ = walker.copy(begun, size)
        if tag in PEEKED and tag != _PIXELS:
            content = bytes(walker.data[value:place])
            if tag in NUMBERS and len(content) == 2:
                found[tag] = str(struct.unpack(">H" if walker.big else "<H", content)[0])
            else:
                found[tag] = _decode(content)
    return found


def _decode(content: bytes) -> str:
    try:
        return content.decode().strip(" \0")
    except UnicodeDecodeError:
        return content.decode("latin-1").strip(" \0")


def _prove(content: bytes, facts: dict[int, str]) -> None:
    """Raise if something that decoding depends on is not what it was."""
    found = _peek(Walker(content, False, False), _read_meta(content)[1])
    if any(found.get(tag) != facts.get(tag) for tag in PIXEL_MODULE):
        raise OddFileError("pixels-changed", "its pixels would not be decoded as before")


def _name(cleaner: _Cleaner, facts: dict[int, str], path: str) -> str:
    hide = cleaner.pseudonyms.hide
    study, series = (hide("folder", facts.get(tag, "")) for tag in (_STUDY, _SERIES))
    return f"{cleaner.patient}/{study}/{series}/{hide('path', path)}.dcm"


class _Cleaner:
    """Writes one file anew."""

    def __init__(
        self, walker: Walker, facts: dict[int, str], rules: Rules, tainted: list[bytes]
    ) -> None:
        self.walker, self.facts, self.keep = walker, facts, rules.keep
        self.pseudonyms, self.tainted = rules.pseudonyms, tainted
        self.remnants, self.pairs, self.identified = Remnants(), set[Pair](), False
        self.remnants.write(_REMOVED)
        person = next(
            filter(None, (facts.get(tag) for tag in (_PATIENT, _PATIENT_NAME, _STUDY))), ""
        )
        self.patient = self.pseudonyms.name(person)
        self.days = self.pseudonyms.days(person)
        self.pairs |= {
            ("person", person, self.patient),
            ("name", facts.get(_PATIENT_NAME, ""), self.patient),
            ("days", person, str(0 if "dates" in self.keep else self.days)),
        }

    def write(self, place: int, syntax: str) -> tuple[bytes, tuple[int, int]]:
        """Return the new file, and where its pixel data begin and end."""
        elements, begun = self._clean_data_set(place)
        elements |= self._sign()
        head, pixels = self._copy_pixels(begun, syntax)
        meta = self._write_meta(syntax if begun[3] == UNDEFINED else _EXPLICIT)
        start = b"".join([meta, *(elements[tag] for tag in sorted(elements)), head])
        return start + pixels, (len(start), len(start) + len(pixels))

    def _clean_data_set(self, place: int) -> tuple[dict[int, bytes], Begun]:
        elements: dict[int, bytes] = {}
        size = len(self.walker.data)
        while place < size:
            begun = self.walker.begin(place, size)
            if begun[0] == _PIXELS:
                return elements, begun
            place, element = self._clean_element(self.walker, begun, size, None)
            if element:
                elements[begun[0]] = element
        raise OddFileError("no-pixels", "the object has no pixel data")

    def _clean_element(
        self, walker: Walker, begun: Begun, limit: int, forced: Action | None
    ) -> tuple[int, bytes]:
        """Return where an element ends, and what becomes of it; nothing if it is removed."""
        tag, vr, value, length = begun
        if vr == b"UN" and length == UNDEFINED:
            return walker.copy(begun, limit)[0], b""
        if vr == b"UN":
            vr = find_vr(tag, walker.signed)
        action = forced or decide(tag, vr, self.keep)
        if begun[1] == b"SQ":
            return self._clean_sequence(walker, begun, limit, action)
        end = walker.end(value, length, limit)
        content = bytes(walker.data[value:end])
        content = swap(content, vr) if walker.big else content
        left = self._clean_value(tag, vr, content, action)
        if left != content:
            self.remnants.remove(tag, vr, content)
        if left is None:
            return end, b""
        return end, write_element(tag, vr, left + pad(vr) * (len(left) % 2))

    def _clean_sequence(
        self, walker: Walker, begun: Begun, limit: int, action: Action
    ) -> tuple[int, bytes]:
        """Clean the items; of a sequence that goes, they are looked through for what they name."""
        tag, _, place, length = begun
        gone = action is not Action.ENTER
        stop = limit if length == UNDEFINED else walker.end(place, length, limit)
        items: list[bytes] = []
        while place < stop:
            item_tag, _, value, size = walker.begin(place, stop)
            if item_tag == _SEQUENCE_END:
                place = value
                break
            place, parts = self._clean_item(walker, value, size, stop, gone)
            content = b"".join(parts)
            items.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content)
        if action in (Action.REMOVE, Action.REPLACE, Action.UID):
            return place, b""
        return place, write_element(tag, b"SQ", b"" if gone else b"".join(items))

    def _clean_item(
        self, walker: Walker, place: int, length: int, limit: int, gone: bool
    ) -> tuple[int, list[bytes]]:
        stop = limit if length == UNDEFINED else walker.end(place, length, limit)
        elements: dict[int, bytes] = {}
        while place < stop:
            begun = walker.begin(place, stop)
            if begun[0] == _ITEM_END:
                place = begun[2]
                break
            place, element = self._clean_element(
                walker, begun, stop, Action.REMOVE if gone else None
            )
            if element:
                elements[begun[0]] = element
        self._check_meaning(elements)
        return place, [elements[tag] for tag in sorted(elements)]

    def _check_meaning(self, elements: dict[int, bytes]) -> None:
        """Drop the words of a code of no public scheme: anyone may have written them."""
        if _MEANING in elements and elements.get(_SCHEME, b"")[8:].strip(b" \0") not in _PUBLIC:
            meaning = elements[_MEANING]
            self.remnants.remove(_MEANING, b"LO", meaning[8:])
            elements[_MEANING] = write_element(_MEANING, b"LO", _REMOVED + b" ")

    def _clean_value(self, tag: int, vr: bytes, content: bytes, action: Action) -> bytes | None:
        """Return what becomes of a value; None if its element goes."""
        if action is Action.REMOVE:
            return None
        if action is Action.KEEP:
            return self._keep(tag, vr, content)
        if action is Action.UID:
            return self._replace_uids(content)
        if action is Action.SHIFT:
            moved = shift(content, vr, self.days)
            self.remnants.write(moved)
            return moved
        if action is Action.EMPTY or not content.strip(b" \0"):
            return b""
        return _SAYS_NOTHING.get(vr, _REMOVED)

    def _keep(self, tag: int, vr: bytes, content: bytes) -> bytes | None:
        """Return a value that may stay, unless it repeats what was removed elsewhere."""
        if not is_plain(vr, content):
            return None
        if tag >> 16 != 0x28 and find_remnant([content], self.tainted):
            return None if vr in _SAYS_NOTHING else _REMOVED
        if vr == b"AS":
            return _cap_age(content)
        self.remnants.keep(vr, content)
        self.identified |= bool(content.strip(b" \0")) and tells_more(tag, self.keep)
        return content

    def _replace_uids(self, content: bytes) -> bytes:
        values = [_decode(value) for value in content.split(b"\\")]
        others = [self.pseudonyms.uid(value) for value in values]
        self.pairs |= {
            ("uid", value, other)
            for value, other in zip(values, others, strict=True)
            if value != other
        }
        written = "\\".join(others).encode()
        self.remnants.write(written)
        return content if others == values else written

    def _sign(self) -> dict[int, bytes]:
        elements = sign(self.patient, self.keep)
        for element in elements.values():
            self.remnants.write(element)
        return elements

    def _copy_pixels(self, begun: Begun, syntax: str) -> tuple[bytes, bytes]:
        """Return head and value of the pixel data, which are compared with the original's."""
        tag, vr, value, length = begun
        data = self.walker.data
        if length == UNDEFINED:
            content, changed = copy_fragments(data, value, syntax)
            compare_pixels(changed, syntax, self.facts)
            return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"OB", 0, UNDEFINED), content
        content = bytes(data[value : value + length])
        if self.walker.big:
            if self.facts.get(ALLOCATED) not in ("8", "16"):
                raise OddFileError("byte-order", "readers disagree on how such words are swapped")
            content = swap(content, vr)
        if length > count_bytes(self.facts):
            content = content[:-1] + b"\0"
        return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, length), content

    def _write_meta(self, syntax: str) -> bytes:
        instance = self.facts.get(_INSTANCE, "")
        instance = instance if "uids" in self.keep else self.pseudonyms.uid(instance)
        return write_meta(self.facts.get(_SOP_CLASS, ""), instance, syntax)


def _cap_age(content: bytes) -> bytes:
    """Return an age, of which none is above 89 years."""
    text = content.strip(b" \0")
    days = int(text[:3] or 0) * {b"D": 1, b"W": 7, b"M": 30, b"Y": 365}.get(text[3:], 0)
    return b"%03dY" % (_OLDEST + 1) if days > _OLDEST * 365 + 364 else content
