"""The heads of pictures and volumes that are not DICOM; nothing is decoded.

Pictures (PNG, JPEG, TIFF, BMP) say their size and depth as DICOM would, and so do NIfTI, MetaImage
and NRRD volumes (`volumefiles`), with the geometry of their slices.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from medkit.catalog import volumefiles
from medkit.catalog.findings import Finding, UnreadableFileError

Values = dict[str, Any]

_GREY, _RGB, _PALETTE = "MONOCHROME2", "RGB", "PALETTE COLOR"

# PNG colour types: samples, interpretation.
_PNG = {0: (1, _GREY), 2: (3, _RGB), 3: (1, _PALETTE), 4: (2, _GREY), 6: (4, _RGB)}
# JPEG start-of-frame markers (all of C0..CF but DHT, JPG and DAC); C3, C7, CB and CF are lossless.
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}
_JPEG_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_TIFF_CODES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # byte, short, long, long8
_TIFF_PHOTOMETRIC = {
    0: "MONOCHROME1",
    1: _GREY,
    2: _RGB,
    3: _PALETTE,
    5: "CMYK",
    6: "YBR_FULL",
    8: "CIELAB",
}
_PAGES = 100_000


def read_picture(stream: BinaryIO, form: str, path: Path | None = None) -> Finding:
    """Read the head of a picture or volume.

    Parameters
    ----------
    stream : binary file
        Seekable, at any position.
    form : str
        What `triage.recognise` found.
    path : Path, optional
        Where the file is, if it is a file of this machine and no member of an archive: the voxels
        of a volume may lie in a file beside it.

    Raises
    ------
    UnreadableFileError
        ``unreadable-header`` where the head is damaged or cut, or says a size of zero.
    """
    try:
        if form in volumefiles.FORMATS:
            return volumefiles.read_volume(stream, form, path)
        stream.seek(0)
        return _describe(_READERS[form](stream), form)
    except (
        struct.error,
        zlib.error,
        KeyError,
        IndexError,
        ValueError,
        OverflowError,
    ) as error:
        raise UnreadableFileError(
            "unreadable-header",
            f"damaged {form.upper()} head: {type(error).__name__}: {error}"[:300],
        ) from None


def _describe(values: Values, form: str) -> Finding:
    if min(values["Rows"], values["Columns"]) <= 0:
        raise ValueError("size zero")
    values["format"] = form
    values["BitsStored"] = values["BitsAllocated"]
    frames = [{"frame": frame} for frame in range(values.pop("pages", 1))]
    if len(frames) > 1:
        values["NumberOfFrames"] = len(frames)
    return Finding("non-dicom", values=values, frames=frames)


def _read_png(stream: BinaryIO) -> Values:
    head = stream.read(33)
    if head[12:16] != b"IHDR":
        raise ValueError("no IHDR")
    columns, rows, depth, colour = struct.unpack_from(">IIBB", head, 16)
    samples, interpretation = _PNG[colour]
    return {
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": depth,
        "SamplesPerPixel": samples,
        "PhotometricInterpretation": interpretation,
    }


def _read_jpeg(stream: BinaryIO) -> Values:
    stream.seek(2)
    while True:
        marker = _next_jpeg_marker(stream)
        if marker in _JPEG_ALONE:
            continue
        (length,) = struct.unpack(">H", stream.read(2))
        if marker in _JPEG_FRAMES:
            depth, rows, columns, samples = struct.unpack(">BHHB", stream.read(6))
            return {
                "Rows": rows,
                "Columns": columns,
                "BitsAllocated": depth,
                "SamplesPerPixel": samples,
                # Decoders give RGB, whatever the file holds.
                "PhotometricInterpretation": _GREY if samples == 1 else _RGB,
                "LossyImageCompression": "00" if marker in _JPEG_LOSSLESS else "01",
            }
        stream.seek(length - 2, 1)


def _next_jpeg_marker(stream: BinaryIO) -> int:
    if stream.read(1) != b"\xff":
        raise ValueError("no marker where one must be")
    marker = b"\xff"
    while marker == b"\xff":  # fill bytes
        marker = stream.read(1)
    if marker in (b"", b"\xd9", b"\xda"):
        raise ValueError("ends before its frame header")
    return marker[0]


def _read_bmp(stream: BinaryIO) -> Values:
    head = stream.read(54)
    if struct.unpack_from("<I", head, 14)[0] == 12:  # OS/2
        columns, rows, _, depth = struct.unpack_from("<HHHH", head, 18)
    else:
        columns, rows, _, depth = struct.unpack_from("<iiHH", head, 18)
    palette = depth <= 8
    return {
        "Rows": abs(rows),  # negative where the first row is the top one
        "Columns": columns,
        "BitsAllocated": depth if palette else 8,
        "SamplesPerPixel": 1 if palette else 3,
        "PhotometricInterpretation": _PALETTE if palette else _RGB,
    }


def _read_tiff(stream: BinaryIO) -> Values:
    order = {b"II": "<", b"MM": ">"}[stream.read(2)]
    big = _read_number(stream, order + "H") == 43
    stream.seek(8 if big else 4)
    offset = _read_number(stream, order + ("Q" if big else "I"))
    entries, offset = _read_directory(stream, order, big, offset)
    tags = _read_tags(stream, order, big, entries)
    return {
        "Rows": tags[257],
        "Columns": tags[256],
        "BitsAllocated": tags.get(258, 1),
        "SamplesPerPixel": tags.get(277, 1),
        "PhotometricInterpretation": _TIFF_PHOTOMETRIC.get(tags.get(262, 1)),
        "PixelRepresentation": 1 if tags.get(339) == 2 else 0,
        "LossyImageCompression": "01" if tags.get(259, 1) in (6, 7) else "00",
        "pages": 1 + _count_directories(stream, order, big, offset),
    }


def _count_directories(stream: BinaryIO, order: str, big: bool, offset: int) -> int:
    seen: set[int] = set()
    while offset and offset not in seen and len(seen) < _PAGES:
        seen.add(offset)
        _, offset = _read_directory(stream, order, big, offset)
    return len(seen)


def _read_directory(stream: BinaryIO, order: str, big: bool, offset: int) -> tuple[bytes, int]:
    """Return the entries of a directory, as they are, and the offset of the next one."""
    counter, width, pointer = ("Q", 20, "Q") if big else ("H", 12, "I")
    stream.seek(offset)
    count = _read_number(stream, order + counter)
    if count > 4096:
        raise ValueError(f"{count} tags in one directory")
    return stream.read(count * width), _read_number(stream, order + pointer)


def _read_tags(stream: BinaryIO, order: str, big: bool, entries: bytes) -> dict[int, int]:
    """Return the first value of each numeric tag."""
    layout, pointer = ("HHQ8s", "Q") if big else ("HHI4s", "I")
    tags = {}
    for tag, kind, number, value in struct.iter_unpack(order + layout, entries):
        if kind not in _TIFF_CODES or number == 0:
            continue
        code = order + _TIFF_CODES[kind]
        if number * struct.calcsize(code) > len(value):
            stream.seek(*struct.unpack(order + pointer, value))
            value = stream.read(struct.calcsize(code))
        (tags[tag],) = struct.unpack_from(code, value)
    return tags


def _read_number(stream: BinaryIO, code: str) -> int:
    (number,) = struct.unpack(code, stream.read(struct.calcsize(code)))
    return int(number)


_READERS: dict[str, Callable[[BinaryIO], Values]] = {
    "png": _read_png,
    "jpeg": _read_jpeg,
    "bmp": _read_bmp,
    "tiff": _read_tiff,
}
