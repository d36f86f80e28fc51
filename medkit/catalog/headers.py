"""Reading the header of a DICOM file, and finding where its pixel data lie.

pydicom parses; this module decides. A header is refused when it cannot be trusted to its end,
because pydicom alone accepts a file that was cut, or that declares more than it holds, and gives
back a part of it. Nothing is decoded, and no pixel is read.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from pydicom.dataelem import RawDataElement
from pydicom.filereader import data_element_offset_to_value, read_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medkit.catalog.findings import Finding, Problem, UnreadableFileError
from medkit.catalog.frames import read_frames
from medkit.catalog.schema import HEADER, IDENTIFIERS
from medkit.catalog.values import read_items, read_values
from medkit.errors import MedkitError

if TYPE_CHECKING:
    from pydicom import Dataset

# Part of what decides whether a file of the last scan must be read again.
READER_VERSION = "2"

PIXEL_KEYWORDS = {
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
    0x7FE00010: "PixelData",
}
_UNDEFINED = 0xFFFFFFFF

# A larger value is stepped over unread; a header of that size is no header.
_VALUE_LIMIT = 64 * 2**20
# A deflated data set is inflated to here to read its header, and counted to the limit below.
_INFLATED_HEAD = 64 * 2**20
_INFLATED_LIMIT = 2**30
FRAMES_LIMIT = 2**18  # rows that one file may take in the table of frames

# The two JPIP syntaxes deflate the data set too (PS3.5 A.7, A.8).
_DEFLATED = {
    DeflatedExplicitVRLittleEndian,
    "1.2.840.10008.1.2.4.95",
    "1.2.840.10008.1.2.4.205",
}
NATIVE = {
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
}
DICOMDIR = "1.2.840.10008.1.3.10"
NOT_IMAGES = {  # classes that have pixel data, which are not an image of a person
    "1.2.840.10008.5.1.4.1.1.30": "Parametric Map",
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation",
    "1.2.840.10008.5.1.4.1.1.481.2": "RT Dose",
}


def read_header(
    stream: BinaryIO, size: int, *, start: int = 132, keep_identifiers: bool = False
) -> Finding:
    """Read one DICOM file's header.

    This is the seam for another reader: a stream in, the columns of the tables out.

    Parameters
    ----------
    stream : binary file
        Seekable.
    size : int
        Of the whole file, in bytes.
    start : int
        Where the file meta information begins: 132, or 0 for a file without a preamble.
    keep_identifiers : bool
        Also return the person's name and birth date.

    Returns
    -------
    Finding
        Of kind ``image`` or ``other-dicom``.

    Raises
    ------
    UnreadableFileError
        ``cut-header``, ``unreadable-header``, ``no-elements``, ``too-nested`` or
        ``deflate-bomb``.
    """
    try:
        # pydicom warns of every value that strays from the standard.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _Reading(stream, size, start).to_finding(keep_identifiers)
    except MedkitError:
        raise
    except Exception as error:  # hostile bytes bring pydicom to raise almost anything
        if isinstance(error, OSError) and error.errno is not None:  # of the disk
            raise
        if _is_of_recursion(error):
            raise UnreadableFileError("too-nested", "sequences are nested too deeply") from None
        raise UnreadableFileError("unreadable-header", _describe(error)) from None


def _is_of_recursion(error: BaseException | None) -> bool:
    """Tell whether calls were too deep; pydicom may raise another error while it handles that."""
    while error is not None and not isinstance(error, RecursionError):
        error = error.__context__
    return error is not None


class _PixelWatch:
    """Stops pydicom at the pixel data, and keeps what it saw there."""

    found: tuple[int, str | None, int] | None = None

    def __call__(self, tag: int, vr: str | None, length: int) -> bool:
        if tag not in PIXEL_KEYWORDS:
            return False
        self.found = (tag, vr, length)
        return True


class _Watched(io.BufferedReader):
    """A stream that remembers whether its last read ended early."""

    short = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.short = size is not None and 0 < len(data) < size
        return data


def _watch(stream: BinaryIO) -> _Watched:
    return _Watched(cast("io.RawIOBase", stream), 2**16)


class _Reading:
    """One header, parsed and found whole."""

    def __init__(self, stream: BinaryIO, size: int, start: int) -> None:
        watched = _watch(stream)
        try:
            watched.seek(start)
            self.meta = read_dataset(watched, False, True, stop_when=_past_group_2)
            self.syntax = self.meta.get("TransferSyntaxUID")
            if self.syntax in _DEFLATED:
                head, self.size = _inflate(watched)
                self._parse(_watch(io.BytesIO(head)))
            else:
                self.size = size
                self._parse(watched)
        finally:
            watched.detach()

    def _parse(self, stream: _Watched) -> None:
        watch = _PixelWatch()
        implicit, little = _find_encoding(self.syntax, stream)
        self.header = read_dataset(
            stream, implicit, little, stop_when=watch, defer_size=_VALUE_LIMIT
        )
        self.found = watch.found
        self.offset = stream.tell()
        if self.found:
            vr = self.found[1]
            self.offset += data_element_offset_to_value(vr is None, vr)
        elif stream.short or self.offset != self.size:
            raise UnreadableFileError(
                "cut-header", f"the header breaks off at byte {self.offset} of {self.size}"
            )
        _check_lengths(self.header)
        self.inferred = None if self.syntax else _ENCODINGS[implicit, little]

    def to_finding(self, keep_identifiers: bool) -> Finding:
        """Return the columns, and what is odd about them."""
        problems: list[Problem] = []
        fields = [*HEADER, *IDENTIFIERS] if keep_identifiers else HEADER
        values = read_values(self.header, fields, problems)
        values["TransferSyntaxUID"] = str(self.syntax or self.inferred)
        if self.inferred:
            problems.append(("no-transfer-syntax", f"taken to be {self.inferred.name}"))
        _match_signedness(values)
        values |= self._locate_pixels(problems)
        values["format"] = "dicom"
        reason, detail = self._classify(values)
        if reason:
            return Finding("other-dicom", reason, detail, values, problems=problems)
        problems.extend(_check_pixels(values, self.size))
        frames = read_frames(self.header, _count_frames(values, self.size, problems), problems)
        return Finding("image", None, None, values, frames, problems)

    def _locate_pixels(self, problems: list[Problem]) -> dict[str, Any]:
        located: dict[str, Any] = {
            "has_modality_lut": bool(read_items(self.header, "ModalityLUTSequence", problems)),
            "encapsulated": False,
        }
        if self.found:
            tag, _, length = self.found
            located["pixel_keyword"] = PIXEL_KEYWORDS[tag]
            located["pixel_offset"] = self.offset
            located["pixel_length"] = -1 if length == _UNDEFINED else length
            located["encapsulated"] = length == _UNDEFINED
        return located

    def _classify(self, values: dict[str, Any]) -> tuple[str | None, str | None]:
        """Return why this is no image, or None."""
        kind = values.get("SOPClassUID") or self.meta.get("MediaStorageSOPClassUID")
        if kind == DICOMDIR:
            return "dicomdir", None
        if kind in NOT_IMAGES:
            return "not-an-image-class", NOT_IMAGES[kind]
        if not self.found:
            return "no-pixels", None
        return None, None


_ENCODINGS = {
    (True, True): ImplicitVRLittleEndian,
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}


def _past_group_2(tag: int, vr: str | None, length: int) -> bool:
    return tag >> 16 != 2


def _past_group_0(tag: int, vr: str | None, length: int) -> bool:
    return tag >> 16 != 0


def _find_encoding(syntax: str | None, stream: _Watched) -> tuple[bool, bool]:
    """Return (implicit VR, little-endian) of the data set that begins here."""
    peek = _peek(stream)
    if peek[:2] == b"\0\0":  # a command set, always implicit little-endian (PS3.7 6.3)
        read_dataset(stream, True, True, stop_when=_past_group_0)
        peek = _peek(stream)
    if syntax is not None:
        return syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    if not peek[4:6].isalpha() or not peek[4:6].isupper():
        return True, True
    # Groups below 0x0100 read as 0x0100 and more in the other byte order.
    return False, struct.unpack("<H", peek[:2])[0] < 0x0400


def _peek(stream: _Watched) -> bytes:
    """Return the head of the element that begins here, and stay here."""
    head = stream.read(8)
    if len(head) < 8:
        raise UnreadableFileError("no-elements", "there is nothing after the file meta information")
    stream.seek(-8, io.SEEK_CUR)
    return head


def _inflate(stream: BinaryIO) -> tuple[bytes, int]:
    """Return the head of a deflated data set and its whole length (PS3.5 A.5)."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        head = inflater.decompress(stream.read(), _INFLATED_HEAD)
        size = len(head)
        while not inflater.eof and inflater.unconsumed_tail:
            size += len(inflater.decompress(inflater.unconsumed_tail, 2**20))
            if size > _INFLATED_LIMIT:
                raise UnreadableFileError(
                    "deflate-bomb", f"inflates to more than {_INFLATED_LIMIT} bytes"
                )
    except zlib.error as error:
        raise UnreadableFileError("unreadable-header", f"does not inflate: {error}") from None
    if not inflater.eof:
        raise UnreadableFileError("cut-header", "the deflated data set has no end")
    return head, size


def _check_lengths(header: Dataset) -> None:
    """Raise if a value is shorter than its element declares; pydicom would not."""
    last = None
    for last in header.elements():
        if isinstance(last, RawDataElement) and last.value is not None:
            missing = last.length != _UNDEFINED and len(last.value) < last.length
            if missing:
                raise UnreadableFileError(
                    "cut-header",
                    f"{last.tag} declares {last.length} bytes, the file has {len(last.value)}",
                )
    if last is None:
        raise UnreadableFileError("no-elements", "no element could be read")


def _match_signedness(values: dict[str, Any]) -> None:
    """Read padding as PixelRepresentation says (PS3.3 C.7.5.1.1.2), whatever VR it came with."""
    signed = values.get("PixelRepresentation") == 1
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        value = values.get(keyword)
        if value is None:
            continue
        if signed and 2**15 <= value < 2**16:
            values[keyword] = value - 2**16
        elif not signed and -(2**15) <= value < 0:
            values[keyword] = value + 2**16


def _check_pixels(values: dict[str, Any], size: int) -> list[Problem]:
    """Return what cannot be right about size, syntax and length of the pixel data."""
    sides = [values.get(name) or 0 for name in ("Rows", "Columns", "BitsAllocated")]
    if min(sides) <= 0:
        return [("no-size", "Rows, Columns or BitsAllocated is missing, zero or negative")]
    length = values["pixel_length"]
    native = values["TransferSyntaxUID"] in NATIVE
    if native == values["encapsulated"]:
        return [("encapsulation", "the pixel data's length does not suit its transfer syntax")]
    if not native:
        return []
    if values["pixel_offset"] + length > size:
        return [("pixel-cut", f"declares {length} bytes, the file ends before")]
    expected = _count_bytes(values)
    if length not in (expected, expected + expected % 2):
        return [("pixel-length", f"has {length} bytes, Rows x Columns need {expected}")]
    return []


def _count_bytes(values: dict[str, Any]) -> int:
    """Return the length of native pixel data (PS3.5 8.1.1), without a pad byte."""
    samples = values.get("SamplesPerPixel") or 1
    if values.get("PhotometricInterpretation") == "YBR_FULL_422":
        samples = 2  # two pixels share their chroma (PS3.3 C.7.6.3.1.2)
    pixels = values["Rows"] * values["Columns"] * (values.get("NumberOfFrames") or 1)
    return int(-(-pixels * samples * values["BitsAllocated"] // 8))


def _count_frames(values: dict[str, Any], size: int, problems: list[Problem]) -> int:
    """Return how many frames to list: at least one, and no more than there are bytes for."""
    frames: int = values.get("NumberOfFrames") or 1
    if 1 <= frames <= min(FRAMES_LIMIT, max(1, size - values["pixel_offset"])):
        return frames
    problems.append(("frame-count", f"NumberOfFrames {frames} cannot be; one is listed"))
    return 1


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]
