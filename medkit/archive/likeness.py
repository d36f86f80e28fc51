"""Two files of one DICOM object: whether they have the same pixels, and how to make a plainer one.

Headers may differ: servers set elements of their own. Samples may not.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medkit.catalog.headers import read_header
from medkit.errors import MedkitError, SourceError
from medkit.images.decoding import decode_frame, read_module
from medkit.images.pixels import hash_values

if TYPE_CHECKING:
    from pydicom import Dataset

_PIECE = 1 << 20
_WHOLE = 1 << 31  # bytes of samples that are decompressed in memory
_EXPLICIT, _IMPLICIT, _BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
# Of which decompressing loses nothing: PS3.5, annex A.4.
_LOSSLESS = {
    _EXPLICIT, _IMPLICIT, _BIG, "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5",
    *(f"1.2.840.10008.1.2.4.{number}" for number in (57, 70, 80, 90, 201, 202)),
}  # fmt: skip
_PIXELS = 0x7FE00010
_WORDS = ("OW", "OF", "OL", "OD", "OV")
_SHAPE = ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated")
_PLAIN = (_EXPLICIT, _IMPLICIT)  # what any archive takes: PS3.5, section 10.1


def compare(path: Path, other: Path) -> str:
    """Return how two files of one object differ; nothing if they are the same in what counts.

    That is the pixels: equal bytes in one transfer syntax, else equal decoded values of each
    frame. Of objects without pixels it is all elements of the data set.
    """
    try:
        one, two = _read_row(path), _read_row(other)
    except MedkitError as error:
        return f"it cannot be read: {error}"
    if "pixel_keyword" not in one:
        return _compare_elements(path, other)
    if "pixel_keyword" not in two:
        return "its pixels are gone"
    if _has_equal_bytes((path, one), (other, two)):
        return ""
    try:
        return _compare_frames((path, one), (other, two))
    except MedkitError as error:
        return f"its bytes are other ones, and cannot be decoded: {error}"


def find_plain(syntax: str) -> str:
    """Return a plain syntax to offer instead of one that is not taken; nothing after the last."""
    if syntax not in _PLAIN:
        return _PLAIN[0]
    return "".join(_PLAIN[_PLAIN.index(syntax) + 1 :][:1])


def write_plain(path: Path, out: Path, syntax: str) -> None:
    """Write an object in implicit or explicit little-endian, with the same pixels, proven.

    Parameters
    ----------
    path : Path
        The object.
    out : Path
        The file to write.
    syntax : str
        One that `find_plain` returns.

    Raises
    ------
    SourceError
        If its compression is lossy, so that decoders differ, or the result has other pixels.
    """
    import pydicom

    with _reading_anything():
        found = pydicom.dcmread(path)
        stated = found.file_meta.TransferSyntaxUID
        if stated not in _LOSSLESS:
            raise SourceError(f"{stated.name} is not decompressed without a loss")
        shape = [int(found.get(name) or 1) for name in _SHAPE]
        if math.prod(shape) > 8 * _WHOLE:
            raise SourceError("it is too large to be decompressed in memory")
        if stated.is_encapsulated:
            found.decompress(generate_instance_uid=False)
        elif stated == _BIG:
            _swap(found)
        found.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
        pydicom.dcmwrite(
            out,
            found,
            implicit_vr=syntax == _IMPLICIT,
            little_endian=True,
            enforce_file_format=stated != _BIG,
            force_encoding=stated == _BIG,
        )
    if why := compare(path, out):
        raise SourceError(f"decompressed, it is another object: {why}")


def _swap(found: Dataset) -> None:
    """Turn the words of an object in big-endian, which pydicom leaves as they are."""
    for element in found.iterall():
        if element.tag == _PIXELS and element.VR == "OW":
            element.value = np.frombuffer(element.value, np.uint16).byteswap().tobytes()
        elif element.VR in _WORDS:
            raise SourceError("it has words in big-endian besides its pixels")


@contextmanager
def _reading_anything() -> Iterator[None]:
    """Turn what pydicom raises of odd files into an error of ours, and its warnings into none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (MedkitError, OSError):
        raise
    except Exception as error:  # odd values bring it to raise almost anything
        raise SourceError(f"pydicom cannot take it apart: {type(error).__name__}") from None


def _read_row(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        return read_header(stream, path.stat().st_size).values or {}


Placed = tuple[Path, dict[str, Any]]


def _has_equal_bytes(one: Placed, two: Placed) -> bool:
    """Say whether the values of the pixel data are equal as they lie in both files."""
    if one[1]["TransferSyntaxUID"] != two[1]["TransferSyntaxUID"]:
        return False
    if one[1]["pixel_length"] != two[1]["pixel_length"]:
        return False
    pieces = zip(_read_pixels(*one), _read_pixels(*two), strict=False)
    ends = [path.stat().st_size - row["pixel_offset"] for path, row in (one, two)]
    same_end = one[1]["pixel_length"] >= 0 or ends[0] == ends[1]
    shaped = all(
        one[1].get(name) == two[1].get(name)
        for name in ("Rows", "Columns", "NumberOfFrames", "BitsAllocated", "PixelRepresentation")
    )
    return same_end and shaped and all(mine == theirs for mine, theirs in pieces)


def _read_pixels(path: Path, row: dict[str, Any]) -> Iterator[bytes]:
    left = row["pixel_length"] if row["pixel_length"] >= 0 else path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(row["pixel_offset"])
        while left > 0 and (piece := stream.read(min(_PIECE, left))):
            left -= len(piece)
            yield piece


def _compare_frames(one: Placed, two: Placed) -> str:
    modules = [read_module(row) for _, row in (one, two)]
    if modules[0].frames != modules[1].frames:
        return f"it has {modules[1].frames} frames, and had {modules[0].frames}"
    with one[0].open("rb") as mine, two[0].open("rb") as theirs:
        for frame in range(modules[0].frames):
            values = (
                decode_frame(stream, module, frame).values
                for stream, module in zip((mine, theirs), modules, strict=True)
            )
            if len({hash_values(value) for value in values}) > 1:
                return f"the pixels of frame {frame + 1} are other ones"
    return ""


def _compare_elements(path: Path, other: Path) -> str:
    import pydicom

    try:
        with _reading_anything():
            one, two = (pydicom.dcmread(place) for place in (path, other))
            lengths = [element.tag for element in one if element.tag.element == 0]
            for found in (one, two):
                for tag in lengths:
                    found.pop(tag, None)
            same = one == two
    except MedkitError as error:
        return str(error)
    return "" if same else "its elements are other ones"
