"""Columns of the catalog out of the bytes of many headers at once.

What is plain is read by compiled code; a value that is not (another character set, a number in an
odd notation, another VR than the dictionary's) goes through pydicom, once for each distinct one.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.filereader import read_dataset
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from medkit.catalog import cells, elements
from medkit.catalog.findings import Problem
from medkit.catalog.schema import FRAMES, HEADER, IDENTIFIERS
from medkit.catalog.values import VALUE_COUNTS, read_values

Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Truths = npt.NDArray[np.bool_]

_CHARACTER_SET = 0x00080005
_PRINTABLE = bytes(range(33, 127)).replace(b"\\", b"")
META = ("TransferSyntaxUID", "MediaStorageSOPClassUID")
SEQUENCES = (
    "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
_CHARACTERS = pa.field("SpecificCharacterSet", pa.string())
_FIELDS = {
    one.name: one for one in (*HEADER, *IDENTIFIERS, *FRAMES, _CHARACTERS) if one.name[0].isupper()
}


def _list_tags() -> list[int]:
    """Return what to look for: META first, then all others in ascending order."""
    names = [*(_FIELDS.keys() - set(META)), *SEQUENCES]
    found = [tag_for_keyword(name) for name in names]
    own = [tag for tag in found if tag is not None]  # PixelPresentation and such stay
    meta = [tag for name in META if (tag := tag_for_keyword(name))]
    return [*meta, *sorted({*own, _CHARACTER_SET})]


TAGS = _list_tags()
_TAGS = np.array(TAGS, np.int64)
_POSITIONS = {tag: position for position, tag in enumerate(TAGS)}


Read = Callable[[Integers, Integers, Integers, Bytes], None]

# Most headers lie in the first window; a long value of no interest is stepped over.
WINDOW = 2**13
_LARGEST_WINDOW = 2**19
_SPARE = 2**8
_WINDOWS = 64  # of one file
_GROUP = 256  # files whose windows are in hand at once; a processor keeps as much close by
_START = 2**10  # bytes that are kept of what is no DICOM file

# One array a thread, used again and again: new memory costs as much as reading into it.
_rooms = threading.local()
_asking = threading.Lock()


class Heads:
    """What was found in the headers of some files.

    Parameters
    ----------
    sizes : (n,) int64 array
        Of the files, in bytes.
    read : callable
        Given rows, offsets, widths and an array, fills it with these parts of these files, one
        behind another; zeros stand for what cannot be read. Each file is begun at its beginning.

    Attributes
    ----------
    data : uint8 array
        The values that were found, one behind another.
    strangers : dict of int to bytes
        How the files begin that do not begin as a DICOM file does (PS3.10 7.1).
    cells, vrs, pixels : integer arrays
        As of `elements.find_elements`.
    failed : (n,) bool array
        Files that are not plain; their rows are not to be used.
    """

    def __init__(self, sizes: Integers, read: Read) -> None:
        count = len(sizes)
        self.sizes = sizes
        # What is kept of each, and room for what is at hand.
        self.data = np.empty(count * 2**10 + min(count, _GROUP) * WINDOW, np.uint8)
        self.strangers: dict[int, bytes] = {}
        self.cells = np.full((len(TAGS), count, 2), -1, np.int64)
        self.vrs = np.zeros((len(TAGS), count), np.uint16)
        self.pixels = np.empty((count, 4), np.int64)
        self._filled = 0
        self._window = WINDOW
        self._states = np.zeros((count, 2), np.int64)
        for start in range(0, count, _GROUP):
            self._find(np.arange(start, min(start + _GROUP, count)), read)
        self.failed = self.pixels[:, 0] != elements.DONE
        self.failed[[*self.strangers]] = True
        self._check_character_sets()

    def _find(self, rows: Integers, read: Read) -> None:
        group, widths = rows, np.full(len(rows), self._window)
        for turn in range(_WINDOWS):
            offsets = self._states[rows, 0]
            got = np.minimum(widths, self.sizes[rows] - offsets)
            begins = np.cumsum(got) - got
            window = _take_room(int(got.sum()))
            read(rows, offsets, got, window)
            if not turn:
                self._set_strangers_aside(window, rows, begins, got)
            self._walk(window, rows, begins, got, offsets)
            more = (self.pixels[rows, 0] == elements.MORE) & (widths <= _LARGEST_WINDOW)
            # Nothing was passed: the element at hand is longer than the window.
            widths = np.where(self._states[rows, 0] == offsets, 4 * widths, WINDOW)[more]
            rows = rows[more]
            if not len(rows):
                break
        # What comes next is mostly of the same series, and its headers are as long.
        self._window = min(WINDOW, int(self._states[group, 0].max()) + _SPARE)

    def _walk(
        self, window: Bytes, rows: Integers, begins: Integers, got: Integers, offsets: Integers
    ) -> None:
        if self._filled + len(window) > len(self.data):
            self.data = np.concatenate([self.data, np.empty_like(self.data), window])
        self._filled = elements.find_elements(
            window,
            rows,
            begins,
            got,
            offsets,
            self.sizes,
            _TAGS,
            self._states,
            self.cells,
            self.vrs,
            self.pixels,
            self.data,
            self._filled,
        )

    def _set_strangers_aside(
        self, window: Bytes, rows: Integers, begins: Integers, got: Integers
    ) -> None:
        strange = np.empty(len(rows), bool)
        elements.find_strangers(window, begins, got, strange)
        for index in np.flatnonzero(strange):
            start = window[begins[index] : begins[index] + min(got[index], _START)]
            self.strangers[int(rows[index])] = start.tobytes()

    def has(self, keyword: str) -> Truths:
        """Say which files have an element, be it empty."""
        return np.asarray(self._cells(keyword)[:, 0] >= 0)

    def read(self, keyword: str) -> pa.Array:
        """Return a column, as its field's type in the tables says."""
        kind = _FIELDS[keyword].type if keyword in _FIELDS else pa.string()
        if not self.has(keyword).any():
            return pa.nulls(len(self.sizes), kind)
        return _READERS[kind](self, keyword)

    def raw(self, keyword: str, row: int) -> bytes:
        """Return the bytes of a value."""
        begin, length = self._cells(keyword)[row]
        return self.data[begin : begin + max(length, 0)].tobytes() if begin >= 0 else b""

    def settle(
        self, keyword: str, states: Bytes, put: Callable[[int, Any], None]
    ) -> npt.NDArray[np.bool_]:
        """Put what pydicom makes of strange values, and return which rows have a value."""
        if cells.suspect(self._vrs(keyword), _vr_code(_vr_of(keyword)), states):
            for row in np.flatnonzero(states == cells.STRANGE):
                value, sound = self._ask_pydicom(keyword, int(row))
                self.failed[row] |= not sound
                states[row] = cells.MISSING
                if sound and value is not None:
                    states[row] = cells.PLAIN
                    put(int(row), value)
        return np.asarray(states == cells.PLAIN)

    def _cells(self, keyword: str) -> Integers:
        return np.asarray(self.cells[_POSITIONS[_tag_of(keyword)]])

    def _vrs(self, keyword: str) -> Integers:
        return np.asarray(self.vrs[_POSITIONS[_tag_of(keyword)]])

    def _ask_pydicom(self, keyword: str, row: int) -> tuple[Any, bool]:
        if self._cells(keyword)[row, 1] < 0:
            return None, False
        vr = int(self._vrs(keyword)[row])
        characters = self.raw("SpecificCharacterSet", row)
        return _convert(keyword, vr, self.raw(keyword, row), characters)

    def _check_character_sets(self) -> None:
        """Give up files whose character set may read plain bytes as something else."""
        sets = _read_text(self, "SpecificCharacterSet", several=True)
        for characters in sets.unique().drop_null():
            if not _reads_plainly(characters.as_py().encode()):
                self.failed |= np.asarray(pc.equal(sets, characters).fill_null(False))


def _take_room(size: int) -> Bytes:
    kept: Bytes | None = getattr(_rooms, "kept", None)
    if kept is None or len(kept) < size:
        kept = _rooms.kept = np.empty(size, np.uint8)
    return kept[:size]


@lru_cache(maxsize=2**16)
def _convert(keyword: str, vr: int, value: bytes, characters: bytes) -> tuple[Any, bool]:
    """Return what pydicom makes of a value, as the column's type, and whether it is sound."""
    stream = io.BytesIO(
        _write(_CHARACTER_SET, vr and _vr_code("CS"), characters)
        + _write(_tag_of(keyword), vr, value)
    )
    problems: list[Problem] = []
    try:
        # Which warnings are shown is one setting for all threads.
        with _asking, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = read_dataset(stream, vr == 0, True)
            values = read_values(header, [_FIELDS[keyword]], problems)
    except Exception:  # hostile bytes bring pydicom to raise almost anything
        return None, False
    return values.get(keyword), not problems


def _write(tag: int, vr: int, value: bytes) -> bytes:
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if not vr:
        return head + struct.pack("<I", len(value)) + value
    name = struct.pack("<H", vr)
    if name.decode("latin-1") in EXPLICIT_VR_LENGTH_32:
        return head + name + struct.pack("<HI", 0, len(value)) + value
    return head + name + struct.pack("<H", len(value)) + value


@lru_cache(maxsize=256)
def _reads_plainly(characters: bytes) -> bool:
    text, sound = _convert("StudyDescription", _vr_code("LO"), _PRINTABLE, characters)
    return sound and text == _PRINTABLE.decode()


@lru_cache(maxsize=256)
def _tag_of(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag


@lru_cache(maxsize=256)
def _vr_of(keyword: str) -> str:
    return dictionary_VR(_tag_of(keyword))


def _vr_code(vr: str) -> int:
    return ord(vr[0]) | ord(vr[1]) << 8


def _read_text(heads: Heads, keyword: str, several: bool = False) -> pa.Array:
    places = heads._cells(keyword)
    lengths = np.empty(len(places), np.int64)
    states = np.empty(len(places), np.uint8)
    cells.measure_text(heads.data, places, several, lengths, states)
    strange: dict[int, bytes] = {}

    def put(row: int, value: Any) -> None:
        strange[row] = ("\\".join(value) if several else value).encode()

    if _vr_of(keyword) == "PN":  # groups and components have rules of their own
        states[states == cells.PLAIN] = cells.STRANGE
    there = heads.settle(keyword, states, put)
    for row, text in strange.items():
        lengths[row] = len(text)
    offsets = np.empty(len(places) + 1, np.int32)
    cells.lay_out(lengths, states, offsets)
    data = np.empty(offsets[-1], np.uint8)
    states[[*strange]] = cells.STRANGE
    cells.copy_text(heads.data, places, states, offsets, data)
    for row, text in strange.items():
        data[offsets[row] : offsets[row + 1]] = np.frombuffer(text, np.uint8)
    return pa.StringArray.from_buffers(
        len(places), pa.py_buffer(offsets), pa.py_buffer(data), _pack(there)
    )


def _read_texts(heads: Heads, keyword: str) -> pa.Array:
    texts = _read_text(heads, keyword, several=True).dictionary_encode()
    return pc.split_pattern(texts.dictionary, "\\").take(texts.indices)


def _read_integer(heads: Heads, keyword: str) -> pa.Array:
    places = heads._cells(keyword)
    numbers = np.zeros(len(places), np.int64)
    states = np.empty(len(places), np.uint8)
    vr = _vr_of(keyword)
    read = cells.parse_integers if vr == "IS" else cells.read_shorts
    read(heads.data, places, numbers, states)
    if vr == "US or SS":
        return _sign(heads, keyword, numbers, states)
    there = heads.settle(keyword, states, numbers.__setitem__)
    return pa.array(numbers, mask=~there)


def _sign(heads: Heads, keyword: str, numbers: Integers, states: Bytes) -> pa.Array:
    """Read padding as PixelRepresentation says (PS3.3 C.7.5.1.1.2), whatever VR it came with."""
    vrs = heads._vrs(keyword)
    plain = (states != cells.STRANGE) & np.isin(vrs, (0, _vr_code("US"), _vr_code("SS")))
    signed = heads.read("PixelRepresentation")
    there = states == cells.PLAIN
    heads.failed |= ~plain | (there & np.asarray(signed.is_null()))
    negative = np.asarray(pc.equal(signed, 1).fill_null(False)) & (numbers >= 2**15)
    return pa.array(numbers - 2**16 * negative, mask=~there)


def _read_number(heads: Heads, keyword: str) -> pa.Array:
    places = heads._cells(keyword)
    numbers = np.zeros((len(places), 1))
    states = np.empty(len(places), np.uint8)
    if _vr_of(keyword) == "FD":
        cells.read_doubles(heads.data, places, numbers, states)
    else:
        cells.parse_decimals(heads.data, places, 1, numbers, states)
    there = heads.settle(keyword, states, numbers.__setitem__)
    return pa.array(numbers[:, 0], mask=~there)


def _read_list(heads: Heads, keyword: str) -> pa.Array:
    count, places = VALUE_COUNTS[keyword], heads._cells(keyword)
    fresh = np.empty(len(places), bool)
    cells.find_fresh(heads.data, places, fresh)
    read = places[fresh]
    numbers, states = np.zeros((len(read), count)), np.empty(len(read), np.uint8)
    cells.parse_decimals(heads.data, read, count, numbers, states)
    said = np.cumsum(fresh) - 1
    numbers, states = numbers[said], states[said]
    there = heads.settle(keyword, states, numbers.__setitem__)
    offsets = np.zeros(len(places) + 1, np.int32)
    np.cumsum(there, out=offsets[1:])
    offsets *= count
    kept = numbers if there.all() else numbers[there]
    return pa.ListArray.from_arrays(pa.array(offsets), kept.ravel(), mask=pa.array(~there))


def _pack(truths: Truths) -> pa.Buffer:
    return pa.py_buffer(np.packbits(truths, bitorder="little"))


_READERS: dict[pa.DataType, Callable[[Heads, str], pa.Array]] = {
    pa.string(): _read_text,
    pa.int64(): _read_integer,
    pa.float64(): _read_number,
    pa.list_(pa.string()): _read_texts,
    pa.list_(pa.float64()): _read_list,
}
