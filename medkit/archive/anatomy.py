"""Where the samples lie in a DICOM file, and the same header in explicit little-endian.

Only a file that is plain and sound is taken apart: every element is known to end where it says,
also those within sequences, and the pixel data have the length that the header asks for. Of all
others there is a reason why not, and they are archived as they are.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medkit.archive.elements import UNDEFINED, OddFileError, Walker

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"

PIXELS = 0x7FE00010
PLANAR, PHOTOMETRIC = 0x00280006, 0x00280004
_LENGTH = 0x7FE00000
_APART = {PLANAR, PHOTOMETRIC, _LENGTH}  # what a recompressed file may have otherwise
_SIGNED = 0x00280103
_META = 132

# What the index says of an object, beside what is needed to find its samples.
IDENTITY = {
    "PatientID": 0x00100020,
    "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E,
    "SOPInstanceUID": 0x00080018,
    "Modality": 0x00080060,
    "StudyDate": 0x00080020,
}
# Who an object is of, beyond doubt: names, numbers, dates of birth, addresses, and of those who
# treated them (PS3.15 E.1, the elements that are dropped or emptied and name a person or a case).
_NAMING = {
    *(0x00080050, 0x00080080, 0x00080081, 0x00080090, 0x00080092, 0x00080094, 0x00081048),
    *(0x00081050, 0x00081060, 0x00081070, 0x00100010, 0x00100020, 0x00100030, 0x00100032),
    *(0x00101000, 0x00101001, 0x00101002, 0x00101005, 0x00101040, 0x00101060, 0x00101090),
    *(0x00102154, 0x00102297, 0x00104000, 0x00380010, 0x00380300, 0x00400006, 0x00400244),
}
_BURNED = 0x00280301
_NUMBERS = {
    "samples": 0x00280002,
    "rows": 0x00280010,
    "columns": 0x00280011,
    "allocated": 0x00280100,
    "stored": 0x00280101,
    "high": 0x00280102,
    "signed": _SIGNED,
    "planar": PLANAR,
}
_FRAMES = 0x00280008
_SAMPLES = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "YBR_FULL": 3,
}
_WANTED = {*_NAMING, _BURNED, *IDENTITY.values(), *_NUMBERS.values(), _FRAMES, PHOTOMETRIC}


@dataclass(frozen=True)
class Samples:
    """The samples of an image, as they lie in the file.

    Attributes
    ----------
    start, size : int
        Where they begin, and how many bytes they are, without padding.
    frames, rows, columns, samples : int
        Their shape.
    words : str
        NumPy's name of a word: ``|u1``, ``<u2``, ``<i2``, ``>u2`` or ``>i2``.
    stored : int
        How many of its bits have the value, from the lowest on.
    planar : bool
        Whether colours come plane by plane.
    photometric : str
        How they are meant.
    """

    start: int
    size: int
    frames: int
    rows: int
    columns: int
    samples: int
    words: str
    stored: int
    planar: bool
    photometric: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a frame as codecs take it."""
        size = (self.rows, self.columns)
        return size if self.samples == 1 else (*size, self.samples)

    @property
    def frame_size(self) -> int:
        """Bytes of a frame."""
        return self.size // self.frames


@dataclass
class Anatomy:
    """A DICOM file, taken apart.

    Attributes
    ----------
    identity : dict of str to str
        What `IDENTITY` names, as far as it is there.
    identified : bool
        Whether an element that names a person or a case has a value.
    burned_in : str or None
        What the object says of text in its pixels (``YES``, ``NO``, or nothing, which is no
        ``NO``); None where there are no pixels.
    samples : Samples or None
        None where they are not to be compressed.
    reason : str
        Why not; stable names, which the index counts by.
    meta : list of bytes
        The elements of the file meta information but its length and the transfer syntax.
    before, after : list of (int, bytes)
        Tag and bytes of elements of the data set before and after the pixel data, in explicit
        little-endian; under the tag 0 there are many at once.
    """

    identity: dict[str, str] = field(default_factory=dict)
    identified: bool = False
    burned_in: str | None = None
    samples: Samples | None = None
    reason: str = ""
    meta: list[bytes] = field(default_factory=list)
    before: list[tuple[int, bytes]] = field(default_factory=list)
    after: list[tuple[int, bytes]] = field(default_factory=list)


def dissect(data: Any) -> Anatomy:
    """Take a file apart.

    Parameters
    ----------
    data : bytes or mmap
        All of it.

    Returns
    -------
    Anatomy
        With ``samples``, or with a ``reason``.
    """
    anatomy = Anatomy()
    try:
        anatomy.samples = _Dissection(data, anatomy).find()
    except OddFileError as odd:
        anatomy.reason = odd.code
    except (struct.error, IndexError):
        anatomy.reason = "odd-header"
    return anatomy


class _Dissection:
    """One walk over a file."""

    def __init__(self, data: Any, anatomy: Anatomy) -> None:
        self.data, self.anatomy = data, anatomy
        self.values: dict[int, bytes] = {}

    def find(self) -> Samples:
        if self.data[128:_META] != b"DICM":
            raise OddFileError("not-dicom", "there is no preamble")
        place, syntax = self._read_meta()
        big = syntax == _BIG_ENDIAN
        walker = Walker(self.data, syntax == IMPLICIT, big)
        try:
            place, vr, length = self._read_data_set(walker, place)
        finally:
            self.anatomy.identity = {
                name: _read_text(self.values[tag])
                for name, tag in IDENTITY.items()
                if tag in self.values
            }
            self.anatomy.identified = any(
                _read_text(self.values[tag]) for tag in _NAMING & {*self.values}
            )
        self.anatomy.burned_in = _read_text(self.values.get(_BURNED, b""))
        if syntax not in (IMPLICIT, EXPLICIT, _BIG_ENDIAN):
            raise OddFileError("compressed-already", syntax)
        if length == UNDEFINED or place + length > len(self.data):
            raise OddFileError("odd-pixels", "pixel data without a length, or cut")
        samples = self._describe(place, length, big, vr)
        self._read_rest(walker, place + length)
        return samples

    def _read_meta(self) -> tuple[int, str]:
        """Read the file meta information; return where it ends, and the transfer syntax."""
        walker, place, syntax = Walker(self.data, False, False), _META, b""
        while int.from_bytes(self.data[place : place + 2], "little") == 2:
            tag, _, value, length = walker.begin(place, len(self.data))
            end = walker.end(value, length, len(self.data))
            if tag == 0x00020010:
                syntax = self.data[value:end]
            elif tag != 0x00020000:
                self.anatomy.meta.append(bytes(self.data[place:end]))
            place = end
        return place, _read_text(syntax)

    def _read_data_set(self, walker: Walker, place: int) -> tuple[int, bytes, int]:
        """Read to the pixel data; return where their value begins, its VR and its length."""
        last, size, span = 0x0002FFFF, len(self.data), place
        while place < size:
            begun = walker.begin(place, size)
            tag, vr, value, length = begun
            if tag <= last:
                raise OddFileError("odd-header", "elements do not ascend")
            if tag == PIXELS:
                self._keep_span(span, place)
                return value, vr, length
            end, element = walker.copy(begun, size)
            if tag in _WANTED:
                self.values[tag] = bytes(self.data[value:end])
                walker.signed = walker.signed or (tag == _SIGNED and any(self.values[tag]))
            if not walker.verbatim or tag in _APART:
                self._keep_span(span, place)
                kept = bytes(self.data[place:end]) if walker.verbatim else element
                if tag != _LENGTH:  # of the group, which will be another one
                    self.anatomy.before.append((tag, kept))
                span = end
            last, place = tag, end
        raise OddFileError("no-pixels", "the object has no pixel data")

    def _keep_span(self, start: int, end: int) -> None:
        """Keep elements as they are, all in one."""
        if end > start:
            self.anatomy.before.append((0, bytes(self.data[start:end])))

    def _describe(self, start: int, length: int, big: bool, vr: bytes) -> Samples:
        order = ">" if big else "<"
        found = {
            name: struct.unpack(f"{order}H", self.values[tag])[0] if tag in self.values else 0
            for name, tag in _NUMBERS.items()
        }
        allocated, samples = found["allocated"], found["samples"]
        photometric = _read_text(self.values.get(PHOTOMETRIC, b""))
        frames = _read_count(self.values.get(_FRAMES, b""))
        if _SAMPLES.get(photometric) != samples:
            raise OddFileError("photometric", photometric)
        if allocated not in (8, 16) or (big and (allocated, vr) != (16, b"OW")):
            raise OddFileError("bits", f"{allocated} bits allocated")
        if (
            not 0 < found["stored"] == found["high"] + 1 <= allocated
            or found["signed"] > 1
            or found["planar"] > 1
        ):
            raise OddFileError("bits", "bits stored, high bit or sign make no sense")
        size = frames * found["rows"] * found["columns"] * samples * allocated // 8
        if not size or length not in (size, size + size % 2):
            raise OddFileError("odd-pixels", f"{length} bytes, where {size} are needed")
        kind = ("u", "i")[found["signed"]]
        words = f"|{kind}1" if allocated == 8 else f"{order}{kind}2"
        planar = samples > 1 and found["planar"] == 1
        return Samples(
            start, size, frames, found["rows"], found["columns"], samples, words,
            found["stored"], planar, photometric,
        )  # fmt: skip

    def _read_rest(self, walker: Walker, place: int) -> None:
        """Read what follows the pixel data, as far as these are elements."""
        last, size = PIXELS, len(self.data)
        try:
            while place < size:
                begun = walker.begin(place, size)
                if begun[0] <= last:
                    return
                end, element = walker.copy(begun, size)
                kept = bytes(self.data[place:end]) if walker.verbatim else element
                self.anatomy.after.append((begun[0], kept))
                last, place = begun[0], end
        except (OddFileError, struct.error, IndexError):
            return


def replace_values(elements: list[tuple[int, bytes]], changes: Mapping[int, bytes]) -> list[bytes]:
    """Return elements of which some have another value, of a VR with a short length."""
    return [
        element[:6] + struct.pack("<H", len(changes[tag])) + changes[tag]
        if tag in changes
        else element
        for tag, element in elements
    ]


def _read_text(value: bytes) -> str:
    return bytes(value).decode("utf-8", "replace").strip(" \0")


def _read_count(value: bytes) -> int:
    text = _read_text(value)
    if not text:
        return 1
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not int(text):
        raise OddFileError("frame-count", "NumberOfFrames is no number above zero")
    return int(text)
