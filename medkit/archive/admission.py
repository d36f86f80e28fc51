"""Which images are de-identified at all: those that are known to have nothing written into them.

Ultrasound, captures and endoscopy have names burned into their pixels so often, and headers so
seldom say so, that an image is taken only if it says ``NO`` itself, or is of a class whose pixels
come from a detector. Documents, and objects without pixels, hold sentences that no table cleans.
"""

from __future__ import annotations

from collections.abc import Mapping

from medkit.archive.elements import OddFileError
from medkit.archive.profile import BURNED_IN
from medkit.archive.pseudonyms import STORAGE_CLASS

_SOP_CLASS, _IMAGE_TYPE, _CONVERSION, _BURNED = 0x00080016, 0x00080008, 0x00080064, 0x00280301
_SAMPLES, _ROWS, _COLUMNS, _FRAMES = 0x00280002, 0x00280010, 0x00280011, 0x00280008
ALLOCATED, _STORED, _HIGH, _PHOTOMETRIC = 0x00280100, 0x00280101, 0x00280102, 0x00280004
_PIXELS = 0x7FE00010
SHAPE = (_ROWS, _COLUMNS, _SAMPLES)
NUMBERS = (*SHAPE, ALLOCATED, _STORED, _HIGH, 0x00280006, 0x00280103)
# What decoding depends on; these values leave as they came.
PIXEL_MODULE = (*NUMBERS, _FRAMES, _PHOTOMETRIC, _PIXELS)
# Patient, name, study, series, instance: by these pseudonyms are given.
PEEKED = frozenset(
    {
        *(0x00100020, 0x00100010, 0x0020000D, 0x0020000E, 0x00080018),
        *(_SOP_CLASS, _IMAGE_TYPE, _CONVERSION, _BURNED, *PIXEL_MODULE),
    }
)
_STORAGE = "1.2.840.10008.5.1.4.1.1."
# CR, DX, mammography, CT, MR, NM, PET, breast tomosynthesis, dose, segmentations, parametric maps.
_DETECTORS = (
    *("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1", "2", "2.1", "2.2", "4", "4.1", "4.4"),
    *("20", "128", "130", "13.1.3", "13.1.4", "13.1.5", "481.2", "66.4", "30"),
)
_WRITTEN = ("SCREEN", "CAPTURE", "REPORT", "DOSE_INFO", "PROTOCOL")
_DOCUMENTS = ("88.", "104.", "11.", "9.")


def admit(facts: Mapping[int, str], keep: tuple[str, ...]) -> str | None:
    """Return what the index is to say of text in the pixels; None where none is to be expected.

    Parameters
    ----------
    facts : mapping of int to str
        Values of `PEEKED` elements.
    keep : tuple of str
        As of `profile.check_options`.

    Raises
    ------
    OddFileError
        If the object stays behind; the code says why: ``document``, ``private-class``,
        ``no-pixels``, ``burned-in``, ``burned-in-unknown``, ``odd-pixels`` or ``high-bits``.
    """
    sop_class = facts.get(_SOP_CLASS, "")
    if sop_class.removeprefix(_STORAGE).startswith(_DOCUMENTS):
        raise OddFileError("document", "it holds sentences")
    if _PIXELS not in facts:
        raise OddFileError("no-pixels", "the object has no pixel data")
    if not STORAGE_CLASS.fullmatch(sop_class):
        raise OddFileError("private-class", "what such an object holds is known to its maker")
    _check_pixels(facts)
    return _check_burned_in(facts, sop_class, keep)


def _check_burned_in(facts: Mapping[int, str], sop_class: str, keep: tuple[str, ...]) -> str | None:
    said = facts.get(_BURNED, "").upper()
    if said == "NO":
        return said
    code = "burned-in" if said == "YES" else "burned-in-unknown"
    if code == "burned-in-unknown" and _is_plain(facts, sop_class):
        return None
    if BURNED_IN not in keep:
        raise OddFileError(code, "there may be names in its pixels")
    return said


def _is_plain(facts: Mapping[int, str], sop_class: str) -> bool:
    """Say whether an image is of a detector's values alone."""
    image_type = facts.get(_IMAGE_TYPE, "").upper()
    return (
        sop_class.removeprefix(_STORAGE) in _DETECTORS
        and facts.get(_SAMPLES, "1") == "1"
        and not facts.get(_CONVERSION)
        and not any(word in image_type for word in _WRITTEN)
    )


def count_bytes(facts: Mapping[int, str]) -> int:
    """Return how long native pixel data are, without padding.

    Raises
    ------
    OddFileError
        If the header does not tell.
    """
    try:
        samples, rows, columns, allocated = (
            int(facts[tag]) for tag in (_SAMPLES, _ROWS, _COLUMNS, ALLOCATED)
        )
        frames = int(facts.get(_FRAMES) or 1)
    except (KeyError, ValueError):
        raise OddFileError("odd-pixels", "their size is not told") from None
    halved = 2 if facts.get(_PHOTOMETRIC) == "YBR_FULL_422" else samples
    return (rows * columns * halved * frames * allocated + 7) // 8


def _check_pixels(facts: Mapping[int, str]) -> None:
    """Refuse pixel data that have room for something else: behind them, or in bits of no use."""
    length = int(facts[_PIXELS])
    if length == 0xFFFFFFFF:
        return
    size = count_bytes(facts)
    if not size or length not in (size, size + size % 2):
        raise OddFileError("odd-pixels", f"{length} bytes, where {size} are needed")
    allocated, stored, high = (facts.get(tag, "") for tag in (ALLOCATED, _STORED, _HIGH))
    if allocated not in ("8", "16") and stored != allocated:
        raise OddFileError("high-bits", "there is room in bits that are not stored")
    if stored.isdigit() and high != str(int(stored) - 1):
        raise OddFileError("high-bits", "stored bits do not begin at the lowest")
