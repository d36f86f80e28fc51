"""The header of a NIfTI file (nifti1.h, nifti2.h), packed or not, alone or of a pair.

Where an affine is stated (``sform``) it holds, else the quaternion (``qform``), as nibabel has it;
without either nobody knows how the voxels lie in the patient, and only their size is taken.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any, BinaryIO

import numpy as np

from medkit.catalog.stacks import RAS_TO_LPS, Floats, Stack, VoxelsNotReadError, name_neighbour

_HEAD = 540
_GZIP = b"\x1f\x8b"
_PACKED_HEAD = 2**16  # bytes that surely unpack to a header, whatever name gzip keeps before it

# Where each field lies, and its type, by the header's length.
_FIELDS: dict[int, dict[str, tuple[int, str]]] = {
    348: {
        "dim": (40, "8h"),
        "datatype": (70, "h"),
        "pixdim": (76, "8f"),
        "vox_offset": (108, "f"),
        "scl_slope": (112, "f"),
        "scl_inter": (116, "f"),
        "xyzt_units": (123, "B"),
        "qform_code": (252, "h"),
        "sform_code": (254, "h"),
        "quatern": (256, "3f"),
        "qoffset": (268, "3f"),
        "srow": (280, "12f"),
        "magic": (344, "4s"),
    },
    540: {
        "magic": (4, "4s"),
        "datatype": (12, "h"),
        "dim": (16, "8q"),
        "pixdim": (104, "8d"),
        "vox_offset": (168, "q"),
        "scl_slope": (176, "d"),
        "scl_inter": (184, "d"),
        "qform_code": (344, "i"),
        "sform_code": (348, "i"),
        "quatern": (352, "3d"),
        "qoffset": (376, "3d"),
        "srow": (400, "12d"),
        "xyzt_units": (500, "i"),
    },
}
_TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    128: "u1",  # RGB
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_RGB = 128
_UNITS = {1: 1e3, 3: 1e-3}  # metres, micrometres; all others are taken as millimetres


def read_nifti(stream: BinaryIO, name: str) -> Stack:
    """Return what the header of a NIfTI file says.

    Parameters
    ----------
    stream : binary file
        At its start.
    name : str
        Of the file; the voxels of ``x.hdr`` are in ``x.img``.

    Raises
    ------
    ValueError, struct.error, zlib.error
        If the header is damaged or cut.
    VoxelsNotReadError
        If its voxels are complex numbers, vectors, or of another type that is not read.
    """
    head = stream.read(_PACKED_HEAD)
    packed = head.startswith(_GZIP)
    if packed:
        head = zlib.decompressobj(31).decompress(head, _HEAD)
    fields = _read_fields(head)
    kind = _TYPES.get(fields["datatype"])
    if kind is None:
        raise VoxelsNotReadError(f"voxels of the NIfTI datatype {fields['datatype']}")
    steps, origin = _find_geometry(fields)
    slope, intercept = _find_rescale(fields)
    scale = _UNITS.get(fields["xyzt_units"] & 7, 1.0)
    pair = fields["magic"][:2] == b"ni"
    return Stack(
        shape=_find_shape(fields["dim"]),
        kind=np.dtype(fields["order"] + kind),
        samples=3 if fields["datatype"] == _RGB else 1,
        spacing=[scale * abs(size) for size in fields["pixdim"][1:3]],
        steps=None if steps is None else scale * steps,
        origin=None if origin is None else scale * origin,
        slope=slope,
        intercept=intercept,
        data=_name_pair(name) if pair else "",
        packed_from=0 if packed else None,
        offset=_find_offset(fields),
    )


def _read_fields(head: bytes) -> dict[str, Any]:
    """Return the fields by name, with ``order`` of the bytes and ``length`` of the header."""
    for order in "<>":
        (length,) = struct.unpack_from(f"{order}i", head)
        if length in _FIELDS:
            fields: dict[str, Any] = {"order": order, "length": length}
            for name, (offset, code) in _FIELDS[length].items():
                values = struct.unpack_from(order + code, head, offset)
                fields[name] = values if len(values) > 1 else values[0]
            return fields
    raise ValueError("the length of the header is neither 348 nor 540")


def _find_shape(dim: tuple[int, ...]) -> tuple[int, ...]:
    if not 1 <= dim[0] <= 7:
        raise ValueError(f"{dim[0]} dimensions")
    shape = (*dim[1 : dim[0] + 1], 1)[: max(2, dim[0])]
    if any(size > 1 for size in shape[4:]):
        raise VoxelsNotReadError(f"vectors, or more than four dimensions: {shape}")
    return shape[:4]


def _find_rescale(fields: dict[str, Any]) -> tuple[float | None, float | None]:
    slope, intercept = fields["scl_slope"], fields["scl_inter"]
    # Zero, and by custom NaN, say that there is none.
    if slope == 0 or not math.isfinite(slope) or fields["datatype"] == _RGB:
        return None, None
    if not math.isfinite(intercept):
        raise ValueError(f"scl_inter {intercept}")
    return slope, intercept


def _find_geometry(fields: dict[str, Any]) -> tuple[Floats | None, Floats | None]:
    """Return the steps along the axes, and the origin, in LPS and the file's unit."""
    if fields["sform_code"] > 0:
        affine = np.array(fields["srow"], dtype=np.float64).reshape(3, 4)
        return affine[:, :3].T * RAS_TO_LPS, affine[:, 3] * RAS_TO_LPS
    if fields["qform_code"] > 0:
        sizes = np.abs(np.array(fields["pixdim"][1:4], dtype=np.float64))
        sizes[2] *= -1 if fields["pixdim"][0] < 0 else 1
        rotation = _rotate(*(float(number) for number in fields["quatern"]))
        return (rotation * sizes).T * RAS_TO_LPS, np.array(fields["qoffset"]) * RAS_TO_LPS
    return None, None


def _rotate(b: float, c: float, d: float) -> Floats:
    """Return the rotation of a unit quaternion, of which three parts are given (nifti1.h)."""
    a = math.sqrt(max(0.0, 1 - (b * b + c * c + d * d)))
    if a == 0:  # a half turn, whose parts may be too long by rounding
        length = math.sqrt(b * b + c * c + d * d)
        b, c, d = b / length, c / length, d / length
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )


def _find_offset(fields: dict[str, Any]) -> int:
    """Return where the voxels begin; in a single file, behind the header and its four bytes."""
    offset = int(fields["vox_offset"])
    if offset < 0:
        raise ValueError(f"vox_offset {offset}")
    return max(offset, fields["length"] + 4) if fields["magic"][:2] == b"n+" else offset


def _name_pair(name: str) -> str:
    """Return the name of the file that has the voxels of a header."""
    for end, others in ((".hdr", (".img", ".IMG")), (".hdr.gz", (".img.gz", ".IMG.GZ"))):
        if name.lower().endswith(end):
            stem, found = name[: -len(end)], name[-len(end) :]
            return name_neighbour(stem + others[found.isupper()])
    raise VoxelsNotReadError("half of a pair, whose name does not end in .hdr")
