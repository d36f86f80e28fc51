"""The header of an NRRD file, whose voxels follow (``.nrrd``) or lie in a file beside (``.nhdr``).

The format is teem's (teem.sourceforge.net/nrrd/format.html). Only the spaces of the patient give
an orientation; of others, such as a scanner's, the size of a voxel is taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from medkit.catalog.stacks import Floats, Stack, VoxelsNotReadError, name_neighbour

_HEAD = 2**20  # gradients of a diffusion series take many lines
_TYPES: dict[str, str] = {
    spelling: kind
    for kind, spellings in {
        "i1": ("signed char", "int8", "int8_t"),
        "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
        "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
        "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
        "i4": ("int", "signed int", "int32", "int32_t"),
        "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
        "i8": ("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"),
        "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
        "f4": ("float",),
        "f8": ("double",),
    }.items()
    for spelling in spellings
}
_ENCODINGS = {"raw": False, "gzip": True, "gz": True}
# What turns the axes of a patient's space into LPS.
_SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
}
_SPACES |= {"lps": (1, 1, 1), "ras": (-1, -1, 1), "las": (1, -1, 1)}
_COLOURS = ("rgb-color", "3-color")
_COLOURED = ("u1", "u2")
_SPATIAL_KINDS = ("domain", "space", "none", "???")  # the last two say nothing


def read_nrrd(stream: BinaryIO, name: str) -> Stack:
    """Return what the header of an NRRD file says.

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
    sizes = _find_sizes(fields)
    samples = _count_samples(fields, sizes)
    first = 1 if samples > 1 else 0
    kind = _find_kind(fields, samples)
    shape = tuple(sizes[first:])
    if not 2 <= len(shape) <= 4:
        raise VoxelsNotReadError(f"neither two nor three nor four dimensions: {shape}")
    packed = _ENCODINGS.get(fields["encoding"].lower())
    if packed is None:
        raise VoxelsNotReadError(f"voxels in the encoding {fields['encoding']!r}")
    data = fields.get("data file", fields.get("datafile"))
    start = 0 if data is not None else end
    spacing, steps, origin = _find_geometry(fields, first, len(shape))
    return Stack(
        shape=shape,
        kind=kind,
        samples=samples,
        spacing=spacing,
        steps=steps,
        origin=origin,
        data="" if data is None else _find_file(data),
        packed_from=start if packed else None,
        offset=_find_offset(fields, packed, start),
    )


def _read_fields(head: bytes) -> tuple[dict[str, str], int]:
    """Return the fields in lower case, and where the voxels begin: behind an empty line.

    A header without voxels may end without one.
    """
    found = re.search(rb"\r?\n\r?\n", head)
    lines = head[: found.start() if found else len(head)].decode("utf-8").splitlines()
    if found is None and not any(re.match("data ?file:", line, re.IGNORECASE) for line in lines):
        raise ValueError("no end of the header")
    fields = {}
    for line in lines[1:]:
        key, sign, value = line.partition(":")
        # '#' begins a comment, ':=' a key of the writer's own.
        if not line.startswith("#") and not value.startswith("="):
            if not sign:
                raise ValueError("a line without ':'")
            fields[key.strip().lower()] = value.strip()
    return fields, found.end() if found else 0


def _find_sizes(fields: Mapping[str, str]) -> list[int]:
    sizes = [int(size) for size in fields["sizes"].split()]
    if not sizes or len(sizes) != int(fields["dimension"]):
        raise ValueError(f"{len(sizes)} sizes of {fields['dimension']} axes")
    return sizes


def _count_samples(fields: Mapping[str, str], sizes: list[int]) -> int:
    """Return the samples of a voxel; an axis that is none of space may be the first, or the last.

    Raises
    ------
    VoxelsNotReadError
        If voxels are vectors, or the axes are in another order.
    """
    kinds = fields.get("kinds", "").lower().split()
    coloured = bool(kinds) and kinds[0] in _COLOURS and sizes[0] == 3
    spatial = [vector is not None for vector in _read_vectors(fields.get("space directions", ""))]
    spatial = spatial[1:] if coloured else spatial
    first = kinds[coloured] if len(kinds) > coloured else "domain"
    if spatial != sorted(spatial, reverse=True) or first not in _SPATIAL_KINDS:
        raise VoxelsNotReadError("voxels that are vectors, or lie between moments")
    return 3 if coloured else 1


def _find_kind(fields: Mapping[str, str], samples: int) -> np.dtype[Any]:
    kind = _TYPES.get(fields["type"].lower())
    if kind is None or (samples > 1 and kind not in _COLOURED):
        raise VoxelsNotReadError(f"voxels of {samples} samples of the type {fields['type']!r}")
    if kind.endswith("1"):  # of one byte there is no order
        return np.dtype(kind)
    return np.dtype({"little": "<", "big": ">"}[fields["endian"].lower()] + kind)


def _find_offset(fields: Mapping[str, str], packed: bool, start: int) -> int:
    """Return where voxels begin; lines are skipped before they are unpacked, bytes behind."""
    lines, skipped = (
        int(fields.get(f"{unit} skip", fields.get(f"{unit}skip", 0))) for unit in ("line", "byte")
    )
    if lines or skipped < (0 if packed else -1):
        raise VoxelsNotReadError(f"voxels behind {lines} lines and {skipped} bytes")
    if skipped < 0:
        return skipped
    return skipped if packed else start + skipped


def _find_file(value: str) -> str:
    if value.upper().startswith("LIST") or "%" in value:
        raise VoxelsNotReadError("voxels in several files")
    return name_neighbour(value)


def _find_geometry(
    fields: Mapping[str, str], first: int, axes: int
) -> tuple[list[float] | None, Floats | None, Floats | None]:
    """Return spacing, steps and origin, each None where it is not stated."""
    vectors = _read_vectors(fields.get("space directions", ""))[first:]
    directions = [vector for vector in vectors if vector is not None][:3]
    if len(directions) < 2:
        sizes = [float(size) for size in fields.get("spacings", "").split()][first:]
        return (sizes[:2] if len(sizes) == axes else None), None, None
    steps = np.array(directions)  # raises ValueError where they differ in length
    spacing = np.linalg.norm(steps[:2], axis=1).tolist()
    space = fields.get("space", "").lower().removesuffix("-time")
    signs = _SPACES.get(space)
    origin = _read_vectors(fields.get("space origin", ""))
    if signs is None or steps.shape[1] != 3 or len(origin) != 1 or origin[0] is None:
        return spacing, None, None
    return spacing, steps * signs, np.array(origin[0]).reshape(3) * signs


def _read_vectors(text: str) -> list[list[float] | None]:
    """Return vectors such as ``(1,0,0) none (0,0,2)``, None for one that is not stated."""
    return [
        None if vector == "none" else [float(number) for number in vector[1:-1].split(",")]
        for vector in re.findall(r"\([^)]*\)|none", text)
    ]
