"""Lookup tables of the header: Modality LUT and palette (PS3.3 C.11.1, C.7.6.3.1.5, C.7.9)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.pixels.processing import apply_color_lut

from medkit.errors import PixelError

if TYPE_CHECKING:
    from pydicom import Dataset

Entries = npt.NDArray[np.uint16]

_CHANNELS = ("Red", "Green", "Blue")
_TAGS = [
    "PixelRepresentation",
    "ModalityLUTSequence",
    *(f"{channel}PaletteColorLookupTableDescriptor" for channel in _CHANNELS),
    *(f"{channel}PaletteColorLookupTableData" for channel in _CHANNELS),
    *(f"Segmented{channel}PaletteColorLookupTableData" for channel in _CHANNELS),
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
        """Return the entries for stored values."""
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


def _read(stream: BinaryIO, find: Callable[[Dataset], Lookup]) -> Lookup:
    stream.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about values that stray from the standard
            # The catalog found this to be DICOM, also where the preamble is missing.
            header = dcmread(stream, stop_before_pixels=True, specific_tags=_TAGS, force=True)
            lookup = find(header)
    except Exception as error:  # hostile bytes bring pydicom to raise almost anything
        raise PixelError("lookup-table", f"{type(error).__name__}: {error}"[:300]) from None
    if lookup.entries.max(initial=0) >= 2**lookup.bits:
        raise PixelError("lookup-table", f"an entry has more than {lookup.bits} bits")
    return lookup


def _find_modality_lut(header: Dataset) -> Lookup:
    item = header.ModalityLUTSequence[0]
    count, first, bits = _read_descriptor(item.LUTDescriptor, header)
    entries = _read_entries(item.LUTData, count, header)
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
    if "SegmentedRedPaletteColorLookupTableData" in header:
        if bits <= 8 and count > 256:  # its indices would wrap round
            raise ValueError(f"segmented palette of {count} entries of {bits} bits")
        entries = apply_color_lut(np.arange(first, first + count), header)
        return Lookup(first, entries.astype(np.uint16), bits)
    tables = [header[f"{channel}PaletteColorLookupTableData"].value for channel in _CHANNELS]
    entries = np.stack([_read_entries(table, count, header) for table in tables], axis=-1)
    return Lookup(first, entries, bits)


def _read_descriptor(descriptor: Any, header: Dataset) -> tuple[int, int, int]:
    """Return count of entries, first stored value, and bits of an entry (PS3.3 C.11.1.1)."""
    count, first, bits = (int(number) for number in descriptor)
    if header.get("PixelRepresentation") == 1 and first >= 2**15:  # written as unsigned
        first -= 2**16
    if not 1 <= bits <= 16:
        raise ValueError(f"entries of {bits} bits")
    return count or 2**16, first, bits


def _read_entries(data: Any, count: int, header: Dataset) -> Entries:
    """Return a table's entries, whether they come as numbers, words or bytes."""
    if not isinstance(data, bytes):
        entries = np.asarray(data, dtype=np.uint16)
    else:
        little = header.original_encoding[1]
        words = np.frombuffer(data, dtype="<u2" if little else ">u2").astype("<u2")
        # Entries of 8 bits may be packed, two in a word (PS3.3 C.7.6.3.1.6).
        packed = len(data) < 2 * count
        entries = words.view(np.uint8).astype(np.uint16) if packed else words.astype(np.uint16)
    if len(entries) - count not in (0, 1):  # an odd number of bytes is padded
        raise ValueError(f"{len(entries)} entries where {count} are declared")
    return entries[:count]
