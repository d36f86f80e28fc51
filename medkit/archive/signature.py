"""What a de-identified file says of itself: who it is now, and what was done (PS3.15 E.1.1)."""

from __future__ import annotations

import struct
import uuid

from medkit.archive.elements import write_element
from medkit.archive.profile import BASIC, EDITION, OPTIONS, SHIFTED

_CLASS = f"2.25.{uuid.uuid5(uuid.NAMESPACE_DNS, 'medkit').int}"
_CODE, _SCHEME, _MEANING = 0x00080100, 0x00080102, 0x00080104
_NAME, _PATIENT, _REMOVED, _METHOD, _METHODS, _DATES = (
    0x00100010, 0x00100020, 0x00120062, 0x00120063, 0x00120064, 0x00280303
)  # fmt: skip


def sign(patient: str, keep: tuple[str, ...]) -> dict[int, bytes]:
    """Return the elements that a data set gets, by their tags.

    Parameters
    ----------
    patient : str
        The pseudonym.
    keep : tuple of str
        As of `profile.check_options`.
    """
    codes = [BASIC, *(OPTIONS[name] for name in keep if name in OPTIONS)]
    codes += [] if "dates" in keep else [SHIFTED]
    method = "\\".join([f"medkit: PS3.15 E.1-1 {EDITION}", *(code for code, _ in codes)])
    said = {
        _NAME: (b"PN", patient),
        _PATIENT: (b"LO", patient),
        _REMOVED: (b"CS", "YES"),
        _METHOD: (b"LO", method),
        _DATES: (b"CS", "UNMODIFIED" if "dates" in keep else "MODIFIED"),
    }
    items = b"".join(_write_code(code, meaning) for code, meaning in codes)
    elements = {tag: _write_text(tag, vr, text) for tag, (vr, text) in said.items()}
    return elements | {_METHODS: write_element(_METHODS, b"SQ", items)}


def write_meta(sop_class: str, instance: str, syntax: str) -> bytes:
    """Return a preamble of zeros and file meta information that is nobody's (PS3.10 7.1)."""
    elements = [
        write_element(0x00020001, b"OB", b"\0\1"),
        _write_text(0x00020002, b"UI", sop_class),
        _write_text(0x00020003, b"UI", instance),
        _write_text(0x00020010, b"UI", syntax),
        _write_text(0x00020012, b"UI", _CLASS),
        _write_text(0x00020013, b"SH", "MEDKIT"),
    ]
    content = b"".join(elements)
    length = write_element(0x00020000, b"UL", struct.pack("<I", len(content)))
    return b"\0" * 128 + b"DICM" + length + content


def pad(vr: bytes) -> bytes:
    """Return what makes a value of a representation even."""
    return b"\0" if vr in (b"UI", b"OB", b"UN") else b" "


def _write_text(tag: int, vr: bytes, text: str) -> bytes:
    content = text.encode("ascii", "replace")
    return write_element(tag, vr, content + pad(vr) * (len(content) % 2))


def _write_code(code: str, meaning: str) -> bytes:
    content = b"".join(
        [
            _write_text(_CODE, b"SH", code),
            _write_text(_SCHEME, b"SH", "DCM"),
            _write_text(_MEANING, b"LO", meaning),
        ]
    )
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content
