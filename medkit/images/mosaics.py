"""Siemens mosaics: frames that show the slices of a volume side by side, cut into them.

How many slices there are is in no public attribute. Private elements say it, and where these were
removed nobody knows: the last tiles are empty, and look like slices of air. Such a mosaic is
refused, as one picture it would be of nothing.
"""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydicom import dcmread
from pydicom.tag import Tag

from medkit.errors import PixelError
from medkit.images.packing import pack_values, unpack_rows
from medkit.images.rows import Row, open_file, read_column

if TYPE_CHECKING:
    from pydicom import Dataset

Numbers = npt.NDArray[np.intp]

_NAME = "NumberOfImagesInMosaic"
_TILES_LIMIT = 2**12
# What is needed of a row to cut its mosaic.
_READ = ["root", "path", "size", "mtime_ns", "Rows", "Columns"]
# Group, creator and element of what says the count: as a number, or in the header of images.
_COUNT = (0x0019, "SIEMENS MR HEADER", 0x0A)
_CSA = (0x0029, "SIEMENS CSA HEADER", 0x10)
_BLOCKS = range(
    0x10, 0x20
)  # of private elements (PS3.5 7.8.1); writers take the first that is free
_TAGS = [
    tag
    for group, _, element in (_COUNT, _CSA)
    for block in _BLOCKS
    for tag in (Tag(group, block), Tag(group, 256 * block + element))
]
# The CSA header, as nibabel and dcm2niix read it; Siemens has published none. Tags: name, values,
# type, syngo's type, items, 77 or 205; of each item four numbers, the second its length.
_CSA_TAG = struct.Struct("<64si4s3i")
_CSA_ITEM = struct.Struct("<4i")
_CSA_LIMIT = 1000  # tags, and items of a tag


def is_mosaic(row: Row) -> bool:
    """Say whether a frame is a mosaic, by its Image Type."""
    values = read_column(row, "ImageType", ())
    return any(str(value).strip() == "MOSAIC" for value in values)


def cut_rows(rows: pa.Table, pick: Callable[[Numbers], npt.NDArray[np.bool_]]) -> pa.Table:
    """Return packed rows of ``images``, that of a mosaic once for each of its tiles.

    Parameters
    ----------
    rows : Table
        Of the catalog's view ``images``.
    pick : callable
        Told the numbers of a mosaic's tiles, says which of them to take.

    Returns
    -------
    Table
        With the columns ``tile``, from 0, and ``tiles``, the count of its mosaic. They are null in
        other rows; ``tile`` is null in the one row of a mosaic that cannot be cut, see `check_cut`.
    """
    cuts = _cut_all(rows, pick)
    source: list[int] = []
    tiles: list[int | None] = []
    counts: list[int | None] = []
    for place in range(len(rows)):
        count, wanted = cuts.get(place, (None, [None]))
        source += [place] * len(wanted)
        tiles += wanted
        counts += [count] * len(wanted)
    cut = rows.take(source) if cuts else rows
    for name, values in (("tile", tiles), ("tiles", counts)):
        cut = cut.append_column(name, pack_values(values, pa.int64()))
    return cut


def check_cut(row: Row) -> None:
    """Refuse a mosaic that is not cut.

    Raises
    ------
    PixelError
        ``mosaic``: it is not known how many slices it holds, or they do not fit.
    """
    if not is_mosaic(row) or read_column(row, "tile") is not None:
        return
    tiles = read_column(row, "tiles")
    if tiles is None:
        raise PixelError("mosaic", "a volume in tiles; how many they are could not be read")
    raise PixelError("mosaic", f"{tiles} tiles do not fit {row.get('Rows')} x {row.get('Columns')}")


def cut_tile(values: npt.NDArray[Any], tile: int, tiles: int) -> npt.NDArray[Any]:
    """Return a slice of a mosaic, as a view.

    Parameters
    ----------
    values : ndarray, shape (H, W) or (H, W, 3)
        The mosaic: a square of tiles, row by row, of which the last may be empty.
    tile : int
        From 0.
    tiles : int
        How many are slices.

    Raises
    ------
    PixelError
        ``mosaic``: tiles do not fit, or there is no such tile.
    """
    side = _find_grid(tiles, *values.shape[:2])
    if not side or not 0 <= tile < tiles:
        raise PixelError("mosaic", f"tile {tile} of {tiles} in {values.shape[:2]} pixels")
    rows, columns = values.shape[0] // side, values.shape[1] // side
    down, right = divmod(tile, side)
    return values[down * rows : (down + 1) * rows, right * columns : (right + 1) * columns]


def count_tiles(stream: BinaryIO) -> int | None:
    """Return how many slices a mosaic holds, by its DICOM header; None where it does not say.

    Raises
    ------
    PixelError
        ``mosaic``: the header is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about values that stray from the standard
            header = dcmread(stream, stop_before_pixels=True, specific_tags=_TAGS, force=True)
            number = _to_number(_read_private(header, *_COUNT))
            data = _read_private(header, *_CSA)
    except Exception as error:  # hostile bytes bring pydicom to raise almost anything
        raise PixelError("mosaic", f"a damaged header: {type(error).__name__}") from None
    if number is None and isinstance(data, bytes):
        return read_csa_count(data)
    return number


def read_csa_count(data: bytes) -> int | None:
    """Return how many slices a mosaic holds, by Siemens' own header; None where it does not say.

    Raises
    ------
    PixelError
        ``mosaic``: it is damaged.
    """
    start = 8 if data.startswith(b"SV10") else 0  # of the second kind; the first has no mark
    try:
        (tags,) = struct.unpack_from("<I", data, start)
        offset = start + 8
        for _ in range(min(tags, _CSA_LIMIT)):
            name, _, _, _, items, _ = _CSA_TAG.unpack_from(data, offset)
            values, offset = _read_items(data, offset + _CSA_TAG.size, items)
            if name.partition(b"\0")[0] == _NAME.encode():
                return _to_number(values[0] if values else None)
    except struct.error:
        raise PixelError("mosaic", "Siemens' header of the image is cut") from None
    return None


def _read_items(data: bytes, offset: int, count: int) -> tuple[list[bytes], int]:
    """Return the values of a tag, and where the next tag is."""
    values = []
    for _ in range(min(count, _CSA_LIMIT)):
        length = _CSA_ITEM.unpack_from(data, offset)[1]
        offset += _CSA_ITEM.size
        if not 0 <= length <= len(data) - offset:
            raise PixelError("mosaic", f"a value of {length} bytes in Siemens' header of the image")
        values.append(data[offset : offset + length])
        offset += length + -length % 4
    return values, offset


def _cut_all(
    rows: pa.Table, pick: Callable[[Numbers], npt.NDArray[np.bool_]]
) -> dict[int, tuple[int | None, Sequence[int | None]]]:
    """Return of each mosaic, by its place among rows, how many slices it holds, and which to take.

    One that cannot be cut has one row.
    """
    cuts: dict[int, tuple[int | None, Sequence[int | None]]] = {}
    places = _find_mosaics(rows["ImageType"])
    for place, row in zip(places.tolist(), unpack_rows(rows.select(_READ), places), strict=True):
        count = _count_or_none(row)
        wanted: Sequence[int | None] = [None]
        if count is not None and _find_grid(count, row["Rows"], row["Columns"]):
            wanted = np.flatnonzero(pick(np.arange(count))).tolist()
        cuts[place] = count, wanted
    return cuts


def _find_mosaics(types: pa.ChunkedArray) -> Numbers:
    """Return the places of mosaics, by their Image Types; see `is_mosaic`."""
    if pa.types.is_null(types.type):
        return np.empty(0, np.intp)
    places = pc.list_parent_indices(types)
    found = pc.equal(pc.utf8_trim_whitespace(pc.list_flatten(types)), "MOSAIC")
    return np.unique(places.filter(found).to_numpy())


def _count_or_none(row: Row) -> int | None:
    """Return how many slices a mosaic holds; None also where its file cannot be read."""
    try:
        with open_file(row) as stream:
            return count_tiles(stream)
    except PixelError:
        return None


def _read_private(header: Dataset, group: int, creator: str, element: int) -> Any:
    try:
        return header.private_block(group, creator)[element].value
    except KeyError:
        return None


def _to_number(value: Any) -> int | None:
    """Return a count that a private element holds as a number, as text, or as bytes of either."""
    text = str(value)
    if isinstance(value, bytes):
        text = value.partition(b"\0")[0].decode("ascii", "replace").strip()
        if len(value) == 2 and not text.isdigit():  # of unknown type: an unsigned short
            text = str(int.from_bytes(value, "little"))
    fits = text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) <= _TILES_LIMIT
    return int(text) if fits else None


def _find_grid(tiles: int, rows: Any, columns: Any) -> int:
    """Return how many tiles lie along a side; 0 where they do not fit."""
    if rows is None or columns is None or not 0 < tiles <= _TILES_LIMIT:
        return 0
    side = math.isqrt(tiles - 1) + 1
    return 0 if rows % side or columns % side else side
