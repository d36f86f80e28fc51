"""Where the elements of DICOM headers lie, and their pixel data: a compiled walk over many files.

All work on one array of bytes that holds parts of many files, and never raise: what is odd in any
way is left over, for pydicom. PS3.5 7.1 says how elements are laid out, 7.5 how sequences nest.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from pydicom.datadict import dictionary_VR, keyword_dict
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

from medkit.catalog import compiled as c
from medkit.catalog.compiled import compiled

# What came of a file.
DONE, ODD, MORE = 0, 1, 2

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_CHARACTER_SET = 0x00080005
_DEEPEST = 16

# Value representations by two capital letters: 1 with a length of two bytes, 2 of four.
_FORMS = np.zeros(26 * 26, np.uint8)
for _vr in STANDARD_VR:
    _FORMS[(ord(_vr[0]) - 65) * 26 + ord(_vr[1]) - 65] = 2 if _vr in EXPLICIT_VR_LENGTH_32 else 1
_SEQUENCES = np.array(
    sorted(tag for tag in keyword_dict.values() if dictionary_VR(tag) == "SQ"), np.int64
)

_SQ = ord("S") | ord("Q") << 8
_UI = ord("U") | ord("I") << 8
_MARK = np.frombuffer(b"DICM", np.uint8)
_IMPLICIT = b"1.2.840.10008.1.2"
_IMPLICIT_UID = np.frombuffer(_IMPLICIT, np.uint8)
# These, too, begin with the bytes of the implicit one; big-endian and deflated data are odd.
_UNUSUAL = np.frombuffer(b"1.2.840.10008.1.2.2", np.uint8)
_DEFLATED = np.frombuffer(b"1.2.840.10008.1.2.1.99", np.uint8)
_JPIP_DEFLATED = np.frombuffer(b"1.2.840.10008.1.2.4.95", np.uint8)
_JPIP_HT_DEFLATED = np.frombuffer(b"1.2.840.10008.1.2.4.205", np.uint8)

if os.name == "posix":
    # Globals: Numba does not look into a module.
    _open, _read, _close = c.open_file, c.read_part, c.close_file
    _FLAGS = c.OPEN_FLAGS

    @compiled
    def read_windows(
        root: int,
        names: Any,
        starts: Any,
        offsets: Any,
        heads: Any,
        begins: Any,
        widths: Any,
        got: Any,
    ) -> None:
        """Read a part of each of some files.

        Parameters
        ----------
        root : int
            The open folder that paths are relative to.
        names : uint8 array
            Paths, each ended by a zero.
        starts : (n,) int64 array
            Where each begins.
        offsets, widths : (n,) int64 arrays
            Where in each file to read, and how much.
        heads : uint8 array
            Filled.
        begins : (n,) int64 array
            Where in ``heads`` each file's bytes go.
        got : (n,) int64 array
            Filled with how many were read; -1 is any error.
        """
        for row in range(len(starts)):
            got[row] = -1
            handle = _open(root, names.ctypes.data + starts[row], _FLAGS)
            if handle >= 0:
                to = heads.ctypes.data + begins[row]
                got[row] = _read(handle, to, widths[row], offsets[row])
                _close(handle)


@compiled
def _u16(heads: Any, place: int) -> Any:
    # A signed index could count from the end, which takes a test and a jump each time.
    at = np.uintp(place)
    return np.int64(heads[at]) | np.int64(heads[at + np.uintp(1)]) << 8


@compiled
def _u32(heads: Any, place: int) -> Any:
    return _u16(heads, place) | _u16(heads, place + 2) << 16


@compiled
def _tag(heads: Any, place: int) -> Any:
    return _u16(heads, place) << 16 | _u16(heads, place + 2)


@compiled
def _is_text(heads: Any, place: int, length: int, wanted: Any) -> Any:
    """Say whether a UID, without its padding, is the wanted one."""
    while length > 0 and (heads[place + length - 1] == 0 or heads[place + length - 1] == 32):
        length -= 1
    if length != len(wanted):
        return False
    # Loops: what any() and all() go through would be made anew each time.
    for index in range(length):  # noqa: SIM110
        if heads[place + index] != wanted[index]:
            return False
    return True


@compiled
def find_strangers(heads: Any, begins: Any, got: Any, strange: Any) -> None:
    """Say which files do not begin as a DICOM file does (PS3.10 7.1).

    Parameters
    ----------
    heads : uint8 array
        How files begin, one behind another.
    begins, got : (m,) int64 arrays
        Where each begins, and how much of it there is.
    strange : (m,) bool array
        Filled.
    """
    for row in range(len(begins)):
        strange[row] = got[row] < 132 or not _is_text(heads, begins[row] + 128, 4, _MARK)


@compiled
def _has_several(heads: Any, place: int, length: int) -> Any:
    """Say whether there is a backslash in a value."""
    for index in range(place, place + length):  # noqa: SIM110
        if heads[index] == 92:
            return True
    return False


@compiled
def _form(heads: Any, place: int) -> Any:
    """Return how long the length of the element's value is written; 0 if the VR is none."""
    first, second = np.int64(heads[place + 4]) - 65, np.int64(heads[place + 5]) - 65
    if first < 0 or first > 25 or second < 0 or second > 25:
        return np.uint8(0)
    return _FORMS[first * 26 + second]


@compiled
def _looks_explicit(heads: Any, place: int) -> Any:
    """Say whether two capital letters stand where a VR would: pydicom then changes its mind."""
    first, second = heads[place + 4], heads[place + 5]
    return 65 <= first <= 90 and 65 <= second <= 90


@compiled
def _begin(heads: Any, place: int, stop: int, end: int, implicit: bool) -> Any:
    """Return (outcome, tag, VR, length, place of the value) of the element that begins here.

    ``stop`` is where the bytes at hand end, ``end`` where those that it may use do.
    """
    if place + 8 > end:
        return ODD, 0, 0, 0, 0
    if place + 8 > stop:
        return MORE, 0, 0, 0, 0
    tag = _tag(heads, place)
    if implicit or tag >> 16 == 0xFFFE:
        odd = implicit and tag >> 16 != 0xFFFE and _looks_explicit(heads, place)
        return (ODD if odd else DONE), tag, 0, _u32(heads, place + 4), place + 8
    form = _form(heads, place)
    vr = _u16(heads, place + 4)
    if form == 1:
        return DONE, tag, vr, _u16(heads, place + 6), place + 8
    if form == 0 or place + 12 > end:
        return ODD, 0, 0, 0, 0
    if place + 12 > stop:
        return MORE, 0, 0, 0, 0
    return DONE, tag, vr, _u32(heads, place + 8), place + 12


@compiled
def _is_sequence(tag: int, vr: int, implicit: bool, following: int) -> Any:
    """Say whether an element of undefined length is surely a sequence."""
    if not implicit:
        return vr == _SQ
    if (tag >> 16) % 2:
        return following == _ITEM
    at = np.searchsorted(_SEQUENCES, tag)
    return at < len(_SEQUENCES) and _SEQUENCES[at] == tag


@compiled
def _pass_sequence(heads: Any, place: int, stop: int, end: int, implicit: bool) -> Any:
    """Return (outcome, place behind it) of a sequence of undefined length, items and all.

    A level of ``ends`` is an item: where it ends, or -1 if it says so itself.
    """
    ends = np.empty(_DEEPEST, np.int64)
    depth = 0
    in_item = False
    while True:
        limit = end
        for level in range(depth):
            if ends[level] >= 0:
                limit = min(limit, ends[level])
        if in_item and place == ends[depth - 1]:
            depth, in_item = depth - 1, False
            # The sequence of an item ends with its own delimiter only, within the outer item.
            continue
        outcome, tag, vr, length, value = _begin(heads, place, stop, limit, implicit)
        if outcome != DONE:
            return outcome, place
        if not in_item:
            if tag == _SEQUENCE_END:
                if depth == 0:
                    return DONE, value
                place, in_item = value, True
            elif tag == _ITEM and depth < _DEEPEST:
                ends[depth] = -1 if length == _UNDEFINED else value + length
                if ends[depth] > limit:
                    return ODD, place
                depth, in_item, place = depth + 1, True, value
            else:
                return ODD, place
        elif tag == _ITEM_END and ends[depth - 1] < 0:
            depth, in_item, place = depth - 1, False, value
        elif tag >> 16 == 0xFFFE or tag == _CHARACTER_SET:
            return ODD, place
        elif length != _UNDEFINED:
            if value + length > limit:
                return ODD, place
            place = value + length
        else:
            if value + 4 > stop:
                return (ODD if value + 4 > limit else MORE), place
            if not _is_sequence(tag, vr, implicit, _tag(heads, value)):
                return ODD, place
            in_item, place = False, value


@compiled
def _read_meta(heads: Any, begin: int, stop: int, end: int, found: Any) -> Any:
    """Pass the file meta information; return (outcome, place behind it, implicit VR).

    ``found`` gets place and length of TransferSyntaxUID and MediaStorageSOPClassUID.
    """
    place = begin + 132
    while True:
        if place + 8 > stop:
            return (MORE if stop < end else ODD), place, False
        if _u16(heads, place) != 2:
            break
        outcome, tag, vr, length, value = _begin(heads, place, stop, end, False)
        if outcome != DONE or length == _UNDEFINED or value + length > stop:
            return (MORE if outcome != ODD and stop < end else ODD), place, False
        if tag == 0x00020010 or tag == 0x00020002:
            if vr != _UI or _has_several(heads, value, length):
                return ODD, place, False
            which = 0 if tag == 0x00020010 else 2
            found[which], found[which + 1] = value, length
        place = value + length
    at, length = found[0], found[1]
    if at < 0 or _u16(heads, place) == 0:
        return ODD, place, False
    for unusual in (_UNUSUAL, _DEFLATED, _JPIP_DEFLATED, _JPIP_HT_DEFLATED):
        if _is_text(heads, at, length, unusual):
            return ODD, place, False
    return DONE, place, _is_text(heads, at, length, _IMPLICIT_UID)


@compiled
def _keep(
    heads: Any, place: int, length: int, cells: Any, which: int, row: int, values: Any, filled: int
) -> Any:
    """Copy a value behind the others, say where, and return where the next one goes."""
    cells[which, row, 0], cells[which, row, 1] = filled, length
    for index in range(length):
        values[np.uintp(filled + index)] = heads[np.uintp(place + index)]
    return filled + max(length, 0)


@compiled
def _walk(
    heads: Any,
    place: int,
    stop: int,
    end: int,
    implicit: bool,
    tags: Any,
    row: int,
    cells: Any,
    vrs: Any,
    values: Any,
    filled: int,
) -> Any:
    """Return (outcome, place it got to, tag, place and length of the pixel data, filled)."""
    nothing = np.int64(-1)
    cursor, last = 2, nothing
    while True:
        if place == end:
            return DONE, place, nothing, nothing, nothing, filled
        outcome, tag, vr, length, value = _begin(heads, place, stop, end, implicit)
        if outcome != DONE or tag < 0x00030000 or tag >> 16 == 0xFFFE:
            return max(outcome, ODD), place, nothing, nothing, nothing, filled
        if tag == 0x7FE00010 or tag == 0x7FE00008 or tag == 0x7FE00009:
            length = -1 if length == _UNDEFINED else length
            return DONE, place, tag, value, length, filled
        cursor = 2 if tag <= last else cursor
        last = tag
        while cursor < len(tags) and tags[cursor] < tag:
            cursor += 1
        wanted = cursor < len(tags) and tags[cursor] == tag
        behind = value + length
        if length == _UNDEFINED:
            if value + 4 > stop:
                return ODD if value + 4 > end else MORE, place, nothing, nothing, nothing, filled
            if not _is_sequence(tag, vr, implicit, _tag(heads, value)):
                return ODD, place, nothing, nothing, nothing, filled
            outcome, behind = _pass_sequence(heads, value, stop, end, implicit)
            if outcome != DONE:
                return outcome, place, nothing, nothing, nothing, filled
        if behind > end:
            return ODD, place, nothing, nothing, nothing, filled
        if wanted and behind > stop:
            return MORE, place, nothing, nothing, nothing, filled
        if wanted:
            length = -1 if length == _UNDEFINED else length
            filled = _keep(heads, value, length, cells, cursor, row, values, filled)
            vrs[cursor, row] = vr
        place = behind


@compiled
def _start(
    heads: Any,
    begin: int,
    stop: int,
    end: int,
    row: int,
    states: Any,
    cells: Any,
    vrs: Any,
    values: Any,
    filled: int,
) -> Any:
    """Pass the file meta information, keep what it says, and return (outcome, filled)."""
    found = np.full(4, -1, np.int64)
    outcome, place, implicit = _read_meta(heads, begin, stop, end, found)
    if outcome != DONE:
        return outcome, filled
    states[row, 0], states[row, 1] = place - begin, implicit
    for which in range(2):
        at, length = found[2 * which], found[2 * which + 1]
        if at >= 0:
            filled = _keep(heads, at, length, cells, which, row, values, filled)
            vrs[which, row] = _UI
    return outcome, filled


@compiled
def find_elements(
    heads: Any,
    rows: Any,
    begins: Any,
    got: Any,
    offsets: Any,
    sizes: Any,
    tags: Any,
    states: Any,
    cells: Any,
    vrs: Any,
    pixels: Any,
    values: Any,
    filled: int,
) -> Any:
    """Find the wanted elements of the data sets of files, up to their pixel data.

    Parameters
    ----------
    heads : uint8 array
        Parts of files, one behind another.
    rows : (m,) int64 array
        Which files there are parts of.
    begins, got, offsets : (m,) int64 arrays
        Where each part begins, how long it is, and where in its file it lies.
    sizes : (n,) int64 array
        The length of each file.
    tags : (k,) int64 array
        What is wanted, ascending; the first two are of the file meta information, and are
        TransferSyntaxUID and MediaStorageSOPClassUID.
    states : (n, 2) int64 array
        Where in the file to go on, 0 at first, and whether its VR is implicit; kept up to date.
    cells : (k, n, 2) int64 array
        Filled with the place in ``values`` and the length of each; left alone where there is
        none, and -1 for an undefined length. The last counts where an element is there twice.
    vrs : (k, n) uint16 array
        Filled with each value's VR, as its two bytes say; 0 where it is implicit.
    pixels : (n, 4) int64 array
        Filled with the outcome (`DONE`, `ODD`, or `MORE`: a part from where to go on is needed),
        and tag, place in the file, and length of the pixel data; -1 where there are none.
    values : uint8 array
        Gets the values, from ``filled`` on; there must be room for all of ``heads``.

    Returns
    -------
    int
        How much of ``values`` is filled.
    """
    for index in range(len(rows)):
        row = rows[index]
        begin = begins[index] - offsets[index]  # where the file would begin
        stop, end = begins[index] + got[index], begin + sizes[row]
        pixels[row, 1] = pixels[row, 2] = pixels[row, 3] = -1
        outcome = DONE
        if states[row, 0] == 0:
            outcome, filled = _start(
                heads, begin, stop, end, row, states, cells, vrs, values, filled
            )
        if outcome == DONE:
            outcome, place, tag, value, length, filled = _walk(
                heads,
                begin + states[row, 0],
                stop,
                end,
                states[row, 1] == 1,
                tags,
                row,
                cells,
                vrs,
                values,
                filled,
            )
            states[row, 0] = place - begin
            if tag >= 0:
                pixels[row, 1], pixels[row, 2], pixels[row, 3] = tag, value - begin, length
        pixels[row, 0] = outcome
    return filled
