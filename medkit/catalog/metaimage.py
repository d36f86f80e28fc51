"""The header of a MetaImage, whose voxels follow (``.mha``) or lie in a file beside (``.mhd``).

What is not stated is as MetaIO, which made the format, takes it: axes are the patient's (LPS), a
voxel has 1 mm, the first one lies at zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from medkit.catalog.stacks import Floats, Stack, VoxelsNotReadError, name_neighbour

_HEAD = 2**16
_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_COLOURED = ("u1", "u2")


def read_metaimage(stream: BinaryIO, name: str) -> Stack:
    """Return what the header of a MetaImage says.

    Parameters
    ----------
    stream : binary file
        At its start.
    name : str
        Of the file; not used.

    Raises
    ------
    ValueError, KeyError
        If the header is damaged or cut.
    VoxelsNotReadError
        If its voxels are vectors or text, or not in this file nor in one beside.
    """
    fields, end = _read_fields(stream.read(_HEAD))
    if fields.get("ObjectType", "Image") != "Image":
        raise VoxelsNotReadError(f"an object of the type {fields['ObjectType']!r}")
    if not _is_true(fields, "BinaryData", True):
        raise VoxelsNotReadError("voxels as text")
    shape = _find_shape(fields)
    kind, samples = _find_kind(fields)
    attached = fields["ElementDataFile"] == "LOCAL"
    packed = _is_true(fields, "CompressedData")
    start = _find_skipped(fields, packed) or (end if attached else 0)
    spacing, steps, origin = _find_geometry(fields, len(shape))
    return Stack(
        shape=shape,
        kind=kind,
        samples=samples,
        spacing=spacing,
        steps=steps,
        origin=origin,
        data="" if attached else _find_file(fields["ElementDataFile"]),
        packed_from=start if packed else None,
        offset=0 if packed else start,
    )


def _read_fields(head: bytes) -> tuple[dict[str, str], int]:
    """Return the fields, and where they end: ElementDataFile is always the last."""
    fields: dict[str, str] = {}
    start = 0
    while "ElementDataFile" not in fields:
        end = head.find(b"\n", start)
        if end < 0:
            raise ValueError("no ElementDataFile")
        key, sign, value = head[start:end].decode("utf-8").partition("=")
        if not sign and key.strip():
            raise ValueError("a line without '='")
        fields[key.strip()] = value.strip()
        start = end + 1
    return fields, start


def _is_true(fields: Mapping[str, str], key: str, default: bool = False) -> bool:
    return fields[key][:1] in ("T", "t", "1") if key in fields else default


def _find_shape(fields: Mapping[str, str]) -> tuple[int, ...]:
    shape = tuple(int(size) for size in fields["DimSize"].split())
    if len(shape) != int(fields["NDims"]):
        raise ValueError(f"{len(shape)} sizes of {fields['NDims']} axes")
    if len(shape) > 4:
        raise VoxelsNotReadError(f"more than four dimensions: {shape}")
    return shape


def _find_kind(fields: Mapping[str, str]) -> tuple[np.dtype[Any], int]:
    """Return the type of a sample, and how many a voxel has."""
    kind = _TYPES.get(fields["ElementType"])
    samples = int(fields.get("ElementNumberOfChannels", 1))
    if kind is None or not (samples == 1 or (samples == 3 and kind in _COLOURED)):
        raise VoxelsNotReadError(f"voxels of {samples} samples of {fields['ElementType']!r}")
    big = any(_is_true(fields, f"{what}ByteOrderMSB") for what in ("BinaryData", "Element"))
    return np.dtype("<>"[big] + kind), samples


def _find_skipped(fields: Mapping[str, str], packed: bool) -> int:
    """Return the bytes before the voxels; -1 where they end with the file."""
    skipped = int(fields.get("HeaderSize", 0))
    if skipped < -1 or (skipped and packed):
        raise VoxelsNotReadError(f"HeaderSize {skipped} of voxels that are packed, or below -1")
    return skipped


def _find_file(value: str) -> str:
    if value.split()[0] == "LIST" or "%" in value:
        raise VoxelsNotReadError("voxels in several files")
    return name_neighbour(value)


def _find_geometry(
    fields: Mapping[str, str], axes: int
) -> tuple[list[float], Floats | None, Floats | None]:
    """Return spacing, steps and origin; an image of two axes lies nowhere in the patient."""
    spacing = _read_numbers(fields, ("ElementSpacing", "ElementSize"), np.ones(axes))
    if axes < 3:
        return spacing.tolist(), None, None
    matrix = _read_numbers(fields, ("TransformMatrix", "Rotation", "Orientation"), np.eye(axes))
    origin = _read_numbers(fields, ("Offset", "Position", "Origin"), np.zeros(axes))
    steps = matrix[:3, :3] * spacing[:3, np.newaxis]  # row by row, the direction of each axis
    return spacing[:2].tolist(), steps, origin[:3]


def _read_numbers(fields: Mapping[str, str], keys: tuple[str, ...], default: Floats) -> Floats:
    for key in keys:
        if key in fields:
            numbers = np.array([float(number) for number in fields[key].split()])
            return numbers.reshape(default.shape)
    return default
