"""From the bytes of a PNG, JPEG, TIFF or BMP picture to its stored values."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import numpy.typing as npt

from medkit.errors import PixelError
from medkit.images.codestreams import iterate_segments, read_jpeg, run_codec
from medkit.images.decoding import Decoded, check_size
from medkit.images.rows import Row, is_grey, read_column

Pixels = npt.NDArray[Any]

# Colours that a decoder gives as RGB, whatever the file has.
_AS_RGB = ("RGB", "PALETTE COLOR", "YBR_FULL")
_SIZE_LIMIT = 2**30

_APP1 = 0xE1
# Tags of a page, and the types that a number may have (TIFF 6.0, section 2; 16 is BigTIFF's).
_WIDTH, _LENGTH, _ORIENTATION, _SAMPLES, _TILE_WIDTH, _TILE_LENGTH = 256, 257, 274, 277, 322, 323
_KINDS = {3: "H", 4: "I", 16: "Q"}
# What shows a picture upright (TIFF 6.0, page 36; Exif 2.3, table 4), by its orientation.
_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda picture: picture,
    2: np.fliplr,
    3: partial(np.rot90, k=2),
    4: np.flipud,
    5: lambda picture: np.swapaxes(picture, 0, 1),
    6: partial(np.rot90, k=-1),
    7: lambda picture: np.swapaxes(np.rot90(picture, k=2), 0, 1),
    8: partial(np.rot90, k=1),
}


def check_colours(row: Row) -> None:
    """Refuse a picture that is neither grey nor of colours that a decoder turns into RGB.

    Raises
    ------
    PixelError
        ``photometric``.
    """
    photometric = read_column(row, "PhotometricInterpretation", "")
    if photometric not in _AS_RGB and not is_grey(row):
        raise PixelError("photometric", f"{photometric!r} is not supported in a picture")


def decode_picture(stream: BinaryIO, row: Row) -> Decoded:
    """Return the values of a picture, upright, without alpha, palettes expanded to 8-bit RGB.

    Parameters
    ----------
    stream : binary file
        The whole file.
    row : mapping
        Its row of ``images``; ``frame`` is the page of a TIFF.

    Raises
    ------
    PixelError
        ``photometric``, ``too-large``, ``codestream``, ``codestream-size`` or ``pixel-length``.
    """
    check_colours(row)
    size = (int(read_column(row, "Rows", 0)), int(read_column(row, "Columns", 0)))
    check_size(*size, int(read_column(row, "SamplesPerPixel", 1)))
    data = stream.read(_SIZE_LIMIT + 1)
    if len(data) > _SIZE_LIMIT:
        raise PixelError("too-large", f"a picture of more than {_SIZE_LIMIT:,} bytes")
    picture = _drop_alpha(_DECODERS[row["format"]](data, row), is_grey(row))
    if picture.dtype.kind in "iu" and picture.itemsize > 4:
        raise PixelError("bits", "whole numbers of 64 bits do not fit the float64 of a set")
    if picture.shape[:2] != size:
        raise PixelError("codestream-size", f"the picture is {picture.shape[:2]}, not {size}")
    upright = _TURNS[_find_orientation(data, row)](picture)
    return Decoded(upright, row["PhotometricInterpretation"] if is_grey(row) else "RGB")


def _decode_png(data: bytes, row: Row) -> Pixels:
    picture = run_codec(imagecodecs.png_decode, data)
    bits = read_column(row, "BitsStored", 8)
    if is_grey(row) and bits < 8:
        picture = picture // (255 // (2**bits - 1))  # libpng spreads 1, 2 and 4 bits over 8
    return picture


def _decode_jpeg(data: bytes, row: Row) -> Pixels:
    header = read_jpeg(data)
    check_size(header.rows, header.columns, header.samples)
    if header.samples not in (1, 3):
        raise PixelError("photometric", f"a JPEG of {header.samples} components")
    return run_codec(imagecodecs.jpeg8_decode, data)


def _decode_bmp(data: bytes, row: Row) -> Pixels:
    return run_codec(imagecodecs.bmp_decode, data, asrgb=True)


def _decode_tiff(data: bytes, row: Row) -> Pixels:
    # The catalog knows the first page alone; libtiff reserves whatever any page claims.
    tags = _read_tags(data, int(row["frame"]))
    size = (tags.get(_LENGTH), tags.get(_WIDTH))
    if size != (row["Rows"], row["Columns"]):
        raise PixelError("codestream-size", f"page {row['frame']} is {size}, the first one not")
    check_size(row["Rows"], row["Columns"], tags.get(_SAMPLES, 1))
    check_size(tags.get(_TILE_LENGTH, 1), tags.get(_TILE_WIDTH, 1), tags.get(_SAMPLES, 1))
    expand = row["PhotometricInterpretation"] in ("PALETTE COLOR", "YBR_FULL")
    if expand and _find_orientation(data, row) != 1:
        raise PixelError("photometric", "a TIFF with both a palette and an orientation")
    picture = run_codec(imagecodecs.tiff_decode, data, index=int(row["frame"]), asrgb=expand)
    return picture.view(np.uint8) if picture.dtype == bool else picture


_DECODERS: dict[str, Callable[[bytes, Row], Pixels]] = {
    "png": _decode_png,
    "jpeg": _decode_jpeg,
    "bmp": _decode_bmp,
    "tiff": _decode_tiff,
}


def _drop_alpha(picture: Pixels, grey: bool) -> Pixels:
    samples = 1 if picture.ndim == 2 else picture.shape[-1]
    if picture.ndim > 3 or samples not in ((1, 2) if grey else (3, 4)):
        raise PixelError("codestream-size", f"the picture has {samples} samples a pixel")
    if not grey:
        return picture[..., :3]
    return picture if picture.ndim == 2 else picture[..., 0]


def _find_orientation(data: bytes, row: Row) -> int:
    """Return the orientation that a JPEG's Exif, or a page of a TIFF, asks for; else 1."""
    if row["format"] not in ("jpeg", "tiff"):
        return 1
    structure = _find_exif(data) if row["format"] == "jpeg" else data
    asked = _read_tags(structure, int(row["frame"])).get(_ORIENTATION)
    return asked if asked in _TURNS else 1


def _find_exif(data: bytes) -> bytes:
    """Return the TIFF structure that is in the Exif segment of a JPEG."""
    for marker, segment in iterate_segments(data):
        if marker == _APP1 and segment.startswith(b"Exif\0\0"):
            return segment[6:]
    return b""


def _read_tags(tiff: bytes, page: int) -> dict[int, int]:
    """Return the tags of a page that are one whole number; none where there is no such page."""
    try:
        return dict(_iterate_tags(tiff, page))
    except (struct.error, KeyError, OverflowError):
        return {}


def _iterate_tags(tiff: bytes, page: int) -> Iterator[tuple[int, int]]:
    order = {b"II": "<", b"MM": ">"}[tiff[:2]]
    (version,) = struct.unpack_from(f"{order}H", tiff, 2)
    big = version == 43  # BigTIFF, whose counts and offsets have 8 bytes
    link, offset, counter, head = (8, "Q", "Q", "HHQ") if big else (4, "I", "H", "HHI")
    width = struct.calcsize(order + head + offset)
    for _ in range(page + 1):
        (directory,) = struct.unpack_from(order + offset, tiff, link)
        (count,) = struct.unpack_from(order + counter, tiff, directory)
        first = directory + struct.calcsize(order + counter)
        link = first + width * count
    for entry in range(first, link, width):
        tag, kind, number = struct.unpack_from(order + head, tiff, entry)
        if number == 1 and kind in _KINDS:
            place = entry + struct.calcsize(order + head)
            yield tag, *struct.unpack_from(order + _KINDS[kind], tiff, place)
