"""What PS3.15 Annex E says of each element: its basic profile, and the options that retain more.

``confidentiality.csv`` is Table E.1-1: the column of the basic profile as of edition 2026c, those
of the options as of edition 2024b. What an option may "clean" is dropped as without the option,
for no program can be trusted to clean a sentence; dates alone are cleaned, by shifting them.

The standard leaves what is not in its table as it is. Here that is kept only where it cannot name
anybody: numbers that are numbers, codes that are codes, and text of `_TECHNICAL` elements.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection
from enum import Enum, auto
from functools import lru_cache
from importlib.resources import files

from pydicom.datadict import dictionary_VR, tag_for_keyword

from medkit.errors import UsageError

EDITION = "2026c"
# What may be kept, the standard's code of the option (CID 7050), and its meaning.
OPTIONS = {
    "characteristics": ("113108", "Retain Patient Characteristics Option"),
    "device": ("113109", "Retain Device Identity Option"),
    "institution": ("113112", "Retain Institution Identity Option"),
    "dates": ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    "uids": ("113110", "Retain UIDs Option"),
}
BURNED_IN = "burned-in"  # no option of the standard: it concerns what is written into pixels
BASIC = ("113100", "Basic Application Confidentiality Profile")
SHIFTED = ("113107", "Retain Longitudinal Temporal Information Modified Dates Option")


class Action(Enum):
    """What becomes of an element."""

    REMOVE = auto()
    EMPTY = auto()
    REPLACE = auto()  # by a value that says nothing
    UID = auto()  # by another UID, the same one for the same
    SHIFT = auto()
    KEEP = auto()
    ENTER = auto()  # a sequence, whose elements are looked at each


_BASIC = {"X": Action.REMOVE, "Z": Action.EMPTY, "X/Z": Action.EMPTY, "U": Action.UID}
_DATES = (b"DA", b"DT", b"TM")
# Text of these names machines and methods; numbers of these may be written as words of 16 bits.
_TECHNICAL_KEYWORDS = [
    *("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "CodeValue"),
    *("LongCodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning"),
    *("ConvolutionKernel", "SequenceName", "PulseSequenceName", "ReceiveCoilName"),
    *("TransmitCoilName", "ContrastBolusRoute", "FilterType", "PlateType", "PhosphorType"),
    *("ImagedNucleus", "TextureName", "WindowCenterWidthExplanation", "LUTExplanation"),
    *("ModalityLUTType", "RescaleType", "ReconstructionMethod"),
    *("AttenuationCorrectionMethod", "ScatterCorrectionMethod", "Radiopharmaceutical"),
    *("SegmentLabel", "SegmentAlgorithmName", "StackID", "DimensionDescriptionLabel"),
    *("PositionReferenceIndicator", "FilterMaterial", "AnodeTargetMaterial", "DoseComment"),
    *("ReconstructionAlgorithm", "LossyImageCompressionMethod"),
]
_BULK_KEYWORDS = [
    *("RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData"),
    *("BluePaletteColorLookupTableData", "LUTData", "PixelPaddingValue"),
    *("SmallestImagePixelValue", "LargestImagePixelValue", "LUTDescriptor"),
    *("RedPaletteColorLookupTableDescriptor", "PixelPaddingRangeLimit"),
    *("GreenPaletteColorLookupTableDescriptor", "SmallestPixelValueInSeries"),
    *("BluePaletteColorLookupTableDescriptor", "LargestPixelValueInSeries"),
    *("SegmentedRedPaletteColorLookupTableData", "RealWorldValueLUTData"),
    *("SegmentedGreenPaletteColorLookupTableData",),
    *("SegmentedBluePaletteColorLookupTableData",),
]
_TECHNICAL = frozenset(map(tag_for_keyword, [*_TECHNICAL_KEYWORDS, *_BULK_KEYWORDS])) - {None}
_NUMBER = re.compile(rb"[ ]*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[ ]*")
_CODE = re.compile(rb"[ ]*[A-Za-z0-9 _+./()-]{0,32}[ ]*")
_AGE = re.compile(rb"\d{3}[DWMY]")
_ASCII = re.compile(rb"[ -~]*")
_PLAIN = {b"DS": _NUMBER, b"IS": _NUMBER, b"CS": _CODE, b"AS": _AGE, b"LO": _ASCII, b"SH": _ASCII}
_LONGEST = {b"DS": 32, b"IS": 16, b"CS": 32, b"LO": 64, b"SH": 16, b"AS": 4}
_WIDTHS = {
    **dict.fromkeys((b"US", b"SS"), 2),
    **dict.fromkeys((b"UL", b"SL", b"FL", b"AT"), 4),
    **dict.fromkeys((b"FD", b"SV", b"UV"), 8),
}


def check_options(keep: Collection[str]) -> tuple[str, ...]:
    """Return what is to be kept, in a fixed order.

    Raises
    ------
    UsageError
        If there is no such thing.
    """
    known = (*OPTIONS, BURNED_IN)
    for name in keep:
        if name not in known:
            raise UsageError(f"unknown --keep {name!r}; use {', '.join(known)}")
    return tuple(name for name in known if name in keep)


@lru_cache(maxsize=1 << 14)
def decide(tag: int, vr: bytes, keep: tuple[str, ...]) -> Action:
    """Return what becomes of an element.

    Parameters
    ----------
    tag : int
        Its tag.
    vr : bytes
        Its value representation.
    keep : tuple of str
        Which options are taken.
    """
    group = tag >> 16
    # Private, curves and overlays, lengths of groups, files' own elements.
    if group % 2 or group < 8 or group >> 8 in (0x50, 0x60) or not tag & 0xFFFF:
        return Action.REMOVE
    row = _read_table().get(tag)
    if row is None:
        return _decide_unlisted(tag, vr, keep)
    basic, options = row
    if options & {*keep}:
        return Action.ENTER if vr == b"SQ" else Action.KEEP
    if "shifted" in options and vr in _DATES:
        return Action.SHIFT
    if vr == b"SQ":
        return {"X/Z/U*": Action.ENTER}.get(basic, _BASIC.get(basic, Action.REMOVE))
    if basic not in _BASIC and vr in (b"OB", b"OW", b"UN"):
        return Action.REMOVE
    return _BASIC.get(basic, Action.REPLACE)


def is_descriptor(tag: int) -> bool:
    """Say whether an element describes something; of others, the value names someone."""
    row = _read_table().get(tag)
    return row is None or "descriptors" in row[1]


def tells_more(tag: int, keep: tuple[str, ...]) -> bool:
    """Say whether an element stays by an option that lets more than a patient's traits pass."""
    row = _read_table().get(tag)
    return row is not None and bool(row[1] & {*keep} - {"characteristics", "device"})


def is_plain(vr: bytes, content: bytes) -> bool:
    """Say whether a value is what its representation promises, and not a text in disguise."""
    if vr in _WIDTHS:
        return len(content) % _WIDTHS[vr] == 0
    pattern, longest = _PLAIN.get(vr), _LONGEST.get(vr, 0)
    values = content.rstrip(b"\0 ").split(b"\\")
    return pattern is None or all(
        not value or (len(value) <= longest and pattern.fullmatch(value)) for value in values
    )


def _decide_unlisted(tag: int, vr: bytes, keep: tuple[str, ...]) -> Action:
    try:
        known = dictionary_VR(tag)
    except KeyError:
        return Action.REMOVE
    if vr.decode("latin-1") not in known.split(" or "):
        return Action.REMOVE
    if vr == b"SQ":
        return Action.ENTER
    if vr in _DATES:
        return Action.KEEP if "dates" in keep else Action.SHIFT
    if vr == b"UI":
        return Action.KEEP if "uids" in keep else Action.UID
    plain = vr in _WIDTHS or vr in (b"DS", b"IS", b"CS", b"AS")
    return Action.KEEP if plain or tag in _TECHNICAL else Action.REMOVE


@lru_cache(maxsize=1)
def _read_table() -> dict[int, tuple[str, frozenset[str]]]:
    text = files("medkit.archive").joinpath("confidentiality.csv").read_text(encoding="ascii")
    return {
        int(row["tag"], 16): (row["basic"], frozenset(row["options"].split()))
        for row in csv.DictReader(text.splitlines())
    }
