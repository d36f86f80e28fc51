"""What a file is, told by its first bytes; names and suffixes decide nothing but the reason.

A file whose content is not recognised is ignored, with one of these reasons:

================= ==============================================================================
empty             no byte
unfinished        a download under way (``*.part``)
system-file       what an operating system leaves: ``._*``, ``.DS_Store``, ``Thumbs.db``
table             CSV, TSV, spreadsheets, Parquet: labels may be in there (``medkit label --csv``)
text              LICENSE, README, and files that are read by people
unsupported-archive  7z, RAR, bzip2, xz, zstd, or gzip around something else than tar or NIfTI
not-an-image      all others
================= ==============================================================================
"""

from __future__ import annotations

import re
import struct
import zlib

from pydicom.datadict import dictionary_has_tag
from pydicom.valuerep import VR

UNFINISHED = ".part"  # what the names of downloads under way end in
HEAD = 1024  # bytes that `recognise` looks at

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"II*\0", "tiff"),
    (0, b"MM\0*", "tiff"),
    (0, b"II+\0", "tiff"),
    (0, b"MM\0+", "tiff"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"NRRD000", "nrrd"),
    (257, b"ustar", "tar"),
    (344, b"n+1\0", "nifti"),
    (344, b"ni1\0", "nifti"),
    (4, b"n+2\0\r\n\x1a\n", "nifti"),
    (4, b"ni2\0\r\n\x1a\n", "nifti"),
    (0, b"7z\xbc\xaf\x27\x1c", "unsupported-archive"),
    (0, b"Rar!\x1a\x07", "unsupported-archive"),
    (0, b"BZh", "unsupported-archive"),
    (0, b"\xfd7zXZ\0", "unsupported-archive"),
    (0, b"\x28\xb5\x2f\xfd", "unsupported-archive"),
)
_GZIPPED = {"nifti": "nifti", "tar": "tar"}
_METAIMAGE = re.compile(rb"\s*(ObjectType|NDims|Comment|ObjectSubType)\s*=.*\n")

_REASONS: tuple[tuple[str, str], ...] = (
    (r"\._.*|\.ds_store|thumbs\.db|desktop\.ini", "system-file"),
    (r".*\.(csv|tsv|xlsx?|ods|parquet)", "table"),
    (
        r"(licen[cs]e|readme|copying|changelog|notice|authors|manifest)(\..*)?"
        r"|.*\.(txt|md|rst|json|xml|html?|pdf|ya?ml|toml|log|ini|sha256|md5)",
        "text",
    ),
)
_EXPLICIT_VRS = {str(vr).encode() for vr in VR if len(vr) == 2}
_FIRST_GROUPS = (0x0002, 0x0008)
_FIRST_LENGTH = 1024  # what the first element of a data set may plausibly hold


def is_unfinished(name: str) -> bool:
    """Say whether a name is that of a download under way, which must not be looked into."""
    return name.endswith(UNFINISHED)


def recognise(head: bytes, size: int) -> str:
    """Return what a file is by its first bytes.

    Parameters
    ----------
    head : bytes
        The first `HEAD` bytes, or all there are.
    size : int
        Of the whole file.

    Returns
    -------
    str
        ``"dicom"``, ``"bare-dicom"`` (no preamble), a format of ``instances``, ``"zip"``,
        ``"tar"``, ``"unsupported-archive"``, or ``""``.
    """
    if head[128:132] == b"DICM":  # first: a preamble may also be the magic of another format
        return "dicom"
    for offset, magic, name in _MAGIC:
        if head.startswith(magic, offset):
            return name
    if head[:2] == b"\x1f\x8b":
        return _GZIPPED.get(recognise(_gunzip(head), size), "unsupported-archive")
    if _is_bitmap(head, size):
        return "bmp"
    if _METAIMAGE.match(head):
        return "metaimage"
    return "bare-dicom" if _begins_data_set(head, size) else ""


def explain(name: str) -> str:
    """Return the reason for which a file of unrecognised content is ignored."""
    lowered = name.rpartition("/")[2].lower()
    for pattern, reason in _REASONS:
        if re.fullmatch(pattern, lowered):
            return reason
    return "not-an-image"


def _gunzip(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(head, HEAD)
    except zlib.error:
        return b""


def _is_bitmap(head: bytes, size: int) -> bool:
    # "BM" alone begins many a text; the reserved words and the header's size settle it.
    if head[:2] != b"BM" or len(head) < 26 or any(head[6:10]):
        return False
    offset, length = struct.unpack_from("<II", head, 10)
    return length in (12, 40, 52, 56, 64, 108, 124) and bool(offset < size)


def _begins_data_set(head: bytes, size: int) -> bool:
    """Say whether this could be a data set without preamble: a known element of group 2 or 8."""
    if len(head) < 8:
        return False
    for order in "<>":
        group, element, vr, short = struct.unpack_from(f"{order}HH2sH", head)
        if group in _FIRST_GROUPS and dictionary_has_tag(group << 16 | element):
            explicit = vr in _EXPLICIT_VRS
            if order == ">" and not explicit:
                continue  # big-endian is always explicit (PS3.5 A.3)
            length = short if explicit else struct.unpack_from(f"{order}I", head, 4)[0]
            return bool(0 < length <= min(_FIRST_LENGTH, size - 8) and length % 2 == 0)
    return False
