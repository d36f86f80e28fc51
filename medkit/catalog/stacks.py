"""Stacks of slices that are not DICOM, said as DICOM would say them.

A NIfTI, MetaImage, NRRD or raw file holds voxels in rows, the first axis running fastest: along a
row, then from row to row, from slice to slice, and through whatever comes after. Each slice becomes
a frame, as stored: nothing is flipped or turned, the geometry says how it lies in the patient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medkit.catalog.findings import Finding, Problem
from medkit.catalog.headers import FRAMES_LIMIT
from medkit.errors import CodedError

Floats = npt.NDArray[np.float64]

NOT_READ = "voxels-not-read"  # in the table ``problems``

_LENGTH_LIMIT = 2**62  # bytes; what is above would not fit its column
_DEFLATE_LIMIT = 1032  # no byte of a deflated stream gives more
_EXPLICIT_LITTLE, _EXPLICIT_BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
_FLOAT_KEYWORDS = {4: "FloatPixelData", 8: "DoubleFloatPixelData"}
# NIfTI and NRRD may count from right to left or the other way; DICOM's axes are LPS.
RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])


class VoxelsNotReadError(CodedError):
    """A header that is right, of voxels that medkit does not read."""

    def __init__(self, detail: str) -> None:
        super().__init__(NOT_READ, detail[:300])  # of text from a file, that may be long


@dataclass(frozen=True)
class Stack:
    """What a header says of its voxels.

    Attributes
    ----------
    shape : tuple of int
        Columns, rows, slices, and what comes after.
    kind : dtype
        Of a sample, with its byte order.
    samples : int
        1, or 3 for RGB, pixel by pixel.
    spacing : sequence of float, optional
        Along a row, and from row to row, mm.
    steps : ndarray, shape (2 or 3, 3), optional
        From a voxel to the next along each axis, mm, in the patient's axes of DICOM (LPS).
    origin : ndarray, shape (3,), optional
        Where the centre of the first voxel is, in the same axes.
    slope, intercept : float, optional
        Real-world value = stored value * slope + intercept.
    data : str
        The file of the voxels, in the folder of the header; empty if it is the same file.
    packed_from : int or None
        Where a zlib or gzip stream begins; None where the voxels lie as they are.
    offset : int
        Where the voxels begin, counted in what was unpacked; -1: they end where the file does.
    """

    shape: tuple[int, ...]
    kind: np.dtype[Any]
    samples: int = 1
    spacing: Sequence[float] | None = None
    steps: Floats | None = None
    origin: Floats | None = None
    slope: float | None = None
    intercept: float | None = None
    data: str = ""
    packed_from: int | None = None
    offset: int = 0

    @property
    def slices(self) -> int:
        """Along the third axis."""
        return self.shape[2] if len(self.shape) > 2 else 1

    @property
    def frames(self) -> int:
        """Slices, of all moments or whatever the later axes are."""
        return math.prod(self.shape[2:])

    @property
    def length(self) -> int:
        """Bytes of all voxels."""
        return math.prod(self.shape) * self.samples * self.kind.itemsize


def name_neighbour(name: str) -> str:
    """Return the name of a file in the same folder, as a header gives it.

    Raises
    ------
    VoxelsNotReadError
        If it could be elsewhere: names in files are data, and open nothing outside their folder.
    """
    plain = name.removeprefix("./")
    if (
        not plain
        or plain in (".", "..")
        or set(plain) & set('/\\:!"*?<>|')
        or not plain.isprintable()
    ):
        raise VoxelsNotReadError(f"its voxels are said to be in {name!r}, no file beside it")
    return plain


def describe_stack(stack: Stack, form: str, size: int) -> Finding:
    """Return the columns of ``instances`` and ``frames`` of a stack.

    Parameters
    ----------
    stack : Stack
        What the header says.
    form : str
        Its format.
    size : int
        Bytes of the file that holds the voxels. Nothing is unpacked to see whether they are all
        there; what no stream of that length can hold is found.

    Raises
    ------
    ValueError
        If the size of an axis is not above 0, or all together are beyond any file.
    """
    if len(stack.shape) < 2 or min(stack.shape) < 1:
        raise ValueError(f"a shape of {stack.shape}")
    if max(stack.offset, 0) + stack.length > _LENGTH_LIMIT:
        raise ValueError(f"a shape of {stack.shape} behind {stack.offset} bytes")
    problems: list[Problem] = []
    offset = stack.offset if stack.offset >= 0 else max(0, size - stack.length)
    room = size - offset
    if stack.packed_from is not None:
        room = (size - stack.packed_from) * _DEFLATE_LIMIT
    if room < stack.length:
        problems.append(("pixel-cut", f"{stack.length} bytes of voxels in a file of {size}"))
    with np.errstate(all="ignore"):  # what overflows is found not to be finite
        geometry = _describe_geometry(stack, problems)
    rescale = {"RescaleSlope": stack.slope, "RescaleIntercept": stack.intercept}
    positions = _place_slices(stack) if "ImageOrientationPatient" in geometry else [None]
    frames = [
        {"frame": frame, "ImagePositionPatient": positions[frame % len(positions)]}
        | geometry
        | rescale
        for frame in range(_count_frames(stack, room, problems))
    ]
    values = {"format": form, **_describe_pixels(stack), **geometry, **rescale}
    values |= {"pixel_offset": offset, "pixel_length": stack.length}
    return Finding("non-dicom", None, None, values, frames, problems)


def _describe_pixels(stack: Stack) -> dict[str, Any]:
    width, whole = stack.kind.itemsize, stack.kind.kind != "f"
    # Of one byte there is no order, and big-endian DICOM would swap bytes in pairs.
    big = width > 1 and stack.kind.newbyteorder(">") == stack.kind
    return {
        "Rows": stack.shape[1],
        "Columns": stack.shape[0],
        "NumberOfFrames": stack.frames,
        "SamplesPerPixel": stack.samples,
        "PhotometricInterpretation": "RGB" if stack.samples == 3 else "MONOCHROME2",
        "PlanarConfiguration": 0 if stack.samples == 3 else None,
        "BitsAllocated": 8 * width,
        "BitsStored": 8 * width,
        "HighBit": 8 * width - 1,
        "PixelRepresentation": int(stack.kind.kind == "i") if whole else None,
        "TransferSyntaxUID": _EXPLICIT_BIG if big else _EXPLICIT_LITTLE,
        "pixel_keyword": "PixelData" if whole else _FLOAT_KEYWORDS[width],
    }


def _describe_geometry(stack: Stack, problems: list[Problem]) -> dict[str, Any]:
    """Return spacing and orientation, as far as they can be."""
    spacing = stack.spacing
    if stack.steps is not None:
        spacing = np.linalg.norm(stack.steps[:2], axis=1).tolist()
    if spacing is None:
        return {}
    if not all(math.isfinite(number) and number > 0 for number in spacing):
        problems.append(("bad-value", f"a voxel of {spacing[0]} x {spacing[1]} mm"))
        return {}
    found = {"PixelSpacing": [float(spacing[1]), float(spacing[0])]}
    if stack.steps is None or stack.origin is None:
        return found
    if not (np.isfinite(stack.steps).all() and np.isfinite(stack.origin).all()):
        problems.append(("bad-value", "orientation or position is not finite"))
        return found
    cosines = stack.steps[:2] / np.linalg.norm(stack.steps[:2], axis=1, keepdims=True)
    # Adding zero turns -0.0 into 0.0.
    return found | {"ImageOrientationPatient": (cosines.ravel() + 0.0).tolist()}


def _place_slices(stack: Stack) -> list[list[float]]:
    """Return where the first voxel of each slice is, mm; the next moment begins anew."""
    steps, origin = np.zeros((3, 3)), np.zeros(3)
    if stack.steps is not None and stack.origin is not None:
        steps[: len(stack.steps)], origin = stack.steps, stack.origin
    numbers = np.arange(min(stack.slices, FRAMES_LIMIT))[:, np.newaxis]
    with np.errstate(over="ignore"):
        positions: list[list[float]] = (origin + numbers * steps[2] + 0.0).tolist()
    return positions


def _count_frames(stack: Stack, room: int, problems: list[Problem]) -> int:
    """Return how many frames to list: at least one, and no more than there are bytes for."""
    if stack.frames <= min(FRAMES_LIMIT, max(1, room)):
        return stack.frames
    problems.append(("frame-count", f"{stack.frames} slices cannot be; one is listed"))
    return 1
