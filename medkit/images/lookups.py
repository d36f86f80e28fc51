"""What is read of a header only when pixels are: lookup tables, and padding in floating point.

Modality LUT and palette: PS3.3 C.11.1, C.7.6.3.1.5, C.7.9. Padding: C.7.5.1.1.2.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
from pydicom import dcmread

from medkit.errors import PixelError

if TYPE_CHECKING:
    from pydicom import Dataset

Entries = npt.NDArray[np.uint16]
Found = TypeVar("Found")

_SEGMENTS_LIMIT = 2**18  # words; with one entry a segment, a whole palette has fewer
_DISCRETE, _LINEAR, _INDIRECT = range(3)  # segments of a palette
_CHANNELS = ("Red", "Green", "Blue")
# Of the keywords of padding, by that of the pixels.
_FLOATS = {"FloatPixelData": "Float", "DoubleFloatPixelData": "DoubleFloat"}
_TAGS = [
    "PixelRepresentation",
    "ModalityLUTSequence",
    *(f"{channel}PaletteColorLookupTableDescriptor" for channel in _CHANNELS),
    *(f"{channel}PaletteColorLookupTableData" for channel in _CHANNELS),
    *(f"Segmented{channel}PaletteColorLookupTableData" for channel in _CHANNELS),
    *(f"{kind}PixelPaddingValue" for kind in _FLOATS.values()),
    *(f"{kind}PixelPaddingRangeLimit" for kind in _FLOATS.values()),
]


@dataclass(frozen=True)
class Lookup:
    """A table that stored values index.

    Attributes
    ----------
    first : int
        The stored value that the first entry is for. It is also for all below, and the last entry
        for all above.
    entries : ndarray of uint16, shape (n,) or (n, 3)
        What stored values become.
    bits : int
        Of an entry: they fix the range.
    units : str or None
        Of an entry, where the header says.
    """

    first: int
    entries: Entries
    bits: int
    units: str | None = None

    def apply(self, values: npt.NDArray[Any]) -> Entries:
        """Return the entries for stored values; those in floating point index no table."""
        if values.dtype.kind == "f":
            raise PixelError("lookup-table", "a table for pixels in floating point")
        return np.take(self.entries, values.astype(np.intp) - self.first, axis=0, mode="clip")


def read_modality_lut(stream: BinaryIO) -> Lookup:
    """Read the Modality LUT of a DICOM object.

    Raises
    ------
    PixelError
        ``lookup-table``: there is none that can be read.
    """
    return _read(stream, _find_modality_lut)


def read_palette(stream: BinaryIO) -> Lookup:
    """Read the palette of a DICOM object, segmented or not; entries have red, green, blue.

    Raises
    ------
    PixelError
        ``lookup-table``: there is none that can be read.
    """
    return _read(stream, _find_palette)


def read_float_padding(stream: BinaryIO, keyword: str) -> tuple[float, float] | None:
    """Return the least and the greatest value of padding in floating point; None without one.

    Parameters
    ----------
    stream : binary file
        The whole DICOM object.
    keyword : str
        Of its pixels: ``FloatPixelData`` or ``DoubleFloatPixelData``.

    Raises
    ------
    PixelError
        ``padding``: it cannot be read.
    """
    kind = _FLOATS[keyword]

    def find(header: Dataset) -> tuple[float, float] | None:
        value = header.get(f"{kind}PixelPaddingValue")
        if value is None:
            return None
        limit = header.get(f"{kind}PixelPaddingRangeLimit")
        low, high = sorted((float(value), float(value if limit is None else limit)))
        return low, high

    return _find(stream, find, "padding")


def _read(stream: BinaryIO, find: Callable[[Dataset], Lookup]) -> Lookup:
    lookup = _find(stream, find, "lookup-table")
    if lookup.entries.max(initial=0) >= 2**lookup.bits:
        raise PixelError("lookup-table", f"an entry has more than {lookup.bits} bits")
    return lookup


def _find(stream: BinaryIO, find: Callable[[Dataset], Found], code: str) -> Found:
    stream.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about values that stray from the standard
            # The catalog found this to be DICOM, also where the preamble is missing.
            header = dcmread(stream, stop_before_pixels=True, specific_tags=_TAGS, force=True)
            return find(header)
    except Exception as error:  # hostile bytes bring pydicom to raise almost anything
        raise PixelError(code, f"{type(error).__name__}: {error}"[:300]) from None


def _find_modality_lut(header: Dataset) -> Lookup:
    item = header.ModalityLUTSequence[0]
    count, first, bits = _read_descriptor(item.LUTDescriptor, header)
    entries = _read_entries(item.LUTData, count, bits, header)
    units = item.get("ModalityLUTType") or None
    # One by the standard; several come as a list.
    return Lookup(first, entries, bits, units if isinstance(units, str | None) else units[0])


def _find_palette(header: Dataset) -> Lookup:
    descriptors = {
        _read_descriptor(header[f"{channel}PaletteColorLookupTableDescriptor"].value, header)
        for channel in _CHANNELS
    }
    if len(descriptors) > 1:
        raise ValueError("red, green and blue are described differently")
    count, first, bits = descriptors.pop()
    segmented = "SegmentedRedPaletteColorLookupTableData" in header
    prefix, read = ("Segmented", _read_segments) if segmented else ("", _read_entries)
    keywords = [f"{prefix}{channel}PaletteColorLookupTableData" for channel in _CHANNELS]
    entries = [read(header[keyword].value, count, bits, header) for keyword in keywords]
    return Lookup(first, np.stack(entries, axis=-1), bits)


def _read_descriptor(descriptor: Any, header: Dataset) -> tuple[int, int, int]:
    """Return count of entries, first stored value, and bits of an entry (PS3.3 C.11.1.1)."""
    count, first, bits = (int(number) for number in descriptor)
    if header.get("PixelRepresentation") == 1 and first >= 2**15:  # written as unsigned
        first -= 2**16
    if not 1 <= bits <= 16:
        raise ValueError(f"entries of {bits} bits")
    return count or 2**16, first, bits


def _read_entries(data: Any, count: int, bits: int, header: Dataset) -> Entries:
    """Return a table's entries, whether they come as numbers, words or bytes."""
    words = _read_words(data, header)
    # Entries of 8 bits may be packed, two in a word (PS3.3 C.7.6.3.1.6, C.11.1.1.1).
    packed = bits <= 8 and len(words) < count
    entries = words.view(np.uint8).astype(np.uint16) if packed else words
    if len(entries) - count not in (0, 1):  # an odd number of bytes is padded
        raise ValueError(f"{len(entries)} entries where {count} are declared")
    return entries[:count]


def _read_words(data: Any, header: Dataset) -> Entries:
    """Return the words of a value of VR OW or US."""
    if not isinstance(data, bytes):
        return np.atleast_1d(np.asarray(data, dtype="<u2"))
    little = header.original_encoding[1]
    return np.frombuffer(data, dtype="<u2" if little else ">u2").astype("<u2")


def _read_segments(data: Any, count: int, bits: int, header: Dataset) -> Entries:
    """Return the entries of a segmented palette (PS3.3 C.7.9.2).

    pydicom is not asked, as it takes the byte offset of an indirect segment for one of words, a
    first stored value below zero for one above 2^15, and bytes of big-endian words as they lie.
    """
    words = _read_words(data, header)
    if len(words) > _SEGMENTS_LIMIT:
        raise ValueError(f"segments of {len(words)} words")
    segments = (words.view(np.uint8) if bits <= 8 else words).tolist()
    entries: list[int] = []
    for opcode, content in _iterate_segments(segments, bits):
        if opcode == _DISCRETE:
            entries.extend(content)
        else:  # from the last entry, which is not repeated, to the one that is given
            steps = np.linspace(entries[-1], content[-1], content[0] + 1)[1:]
            entries.extend(np.rint(steps).astype(int).tolist())
        if len(entries) > count:
            break
    if len(entries) != count:
        raise ValueError(f"segments of {len(entries)} entries where {count} are declared")
    return np.array(entries, np.uint16)


def _iterate_segments(words: list[int], bits: int) -> Iterator[tuple[int, list[int]]]:
    """Yield (opcode, content) of discrete and linear segments, copied where an indirect one asks.

    The content of a linear segment is its length and its last entry.
    """
    position = 0
    while position + 1 < len(words):  # one word alone is padding
        opcode, content, position = _read_segment(words, position, bits)
        if opcode != _INDIRECT:
            yield opcode, content
            continue
        copied, *offset = content
        there = sum(word << (8 if bits <= 8 else 16) * i for i, word in enumerate(offset))
        there //= 1 if bits <= 8 else 2  # it is in bytes
        for _ in range(copied):
            opcode, content, there = _read_segment(words, there, bits)
            if opcode == _INDIRECT:
                raise ValueError("an indirect segment points at another")
            yield opcode, content


def _read_segment(words: list[int], position: int, bits: int) -> tuple[int, list[int], int]:
    """Return opcode and content of the segment at a position, and the position after it."""
    opcode, length = words[position : position + 2]
    if opcode == _DISCRETE:
        begin, end = position + 2, position + 2 + length
    else:
        begin = position + 1
        end = begin + {_LINEAR: 2, _INDIRECT: 5 if bits <= 8 else 3}[opcode]
    if end > len(words) or not length:
        raise ValueError("a segment is cut, or empty")
    return opcode, words[begin:end], end
