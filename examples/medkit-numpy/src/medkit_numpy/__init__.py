"""NumPy arrays as images: a reader for ``medkit catalog --reader numpy``.

A ``.npy`` file is one picture, or one volume:

======================= ====================================================================
(rows, columns)         a grey picture
(rows, columns, 3)      a picture in colour, of 8 or 16 bits
(n, rows, columns)      n slices of one volume
(n, rows, columns, 3)   n slices in colour
======================= ====================================================================

A ``.npz`` file holds several. Where ``X_labels`` stands beside ``X_images``, as in the sets of
MedMNIST, each row of the images is an image of its own, and its name tells part and label:
``set.npz!X/1/00017``, or ``set.npz!X/0_1_1/00017`` of several labels. Of any other array the name
is that of the array: ``set.npz!scan``.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

import medkit
from medkit.catalog.readers import StoredImage
from medkit.catalog.stacks import Stack, VoxelsNotReadError

_MAGIC = b"\x93NUMPY"
_ZIP = b"PK\x03\x04"
_IMAGES, _LABELS = "_images", "_labels"
_MOST_LABELS = 2**26  # bytes; labels are read as a whole
_COLOURED = ("uint8", "uint16")


@medkit.hookimpl
def medkit_reader() -> type[NumpyReader]:
    """Return what reads these files."""
    return NumpyReader


class NumpyReader:
    """Tells ``.npy`` and ``.npz`` by their first bytes, and opens them."""

    @staticmethod
    def recognise(head: bytes, size: int) -> bool:
        """Tell whether a file is an array, or a zip whose first member is one, in no folder."""
        if head.startswith(_MAGIC):
            return True
        length = int.from_bytes(head[26:28], "little")  # of the member's name
        name = head[30 : 30 + length]
        return head.startswith(_ZIP) and name.endswith(b".npy") and b"/" not in name

    @staticmethod
    def open(stream: BinaryIO) -> Array | Arrays:
        """Open a file."""
        if stream.read(len(_MAGIC)) == _MAGIC:
            return Array(stream)
        return Arrays(stream)


class Header:
    """What an array says of itself: dtype, shape, and how many bytes its header takes."""

    def __init__(self, stream: Any) -> None:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise VoxelsNotReadError(f"an array of the format {version}")
        self.shape, fortran, self.kind = read(stream)
        self.length = stream.tell()
        if self.kind.hasobject:  # it would have to be unpickled
            raise VoxelsNotReadError("an array of Python objects")
        if fortran and len(self.shape) > 1:
            raise VoxelsNotReadError("an array in Fortran's order")

    @property
    def bytes(self) -> int:
        """Of all values."""
        return int(np.prod(self.shape, dtype=object)) * self.kind.itemsize

    def describe(self, shape: tuple[int, ...]) -> Stack:
        """Return what medkit wants to know of an image of that shape."""
        coloured = len(shape) > 2 and shape[-1] == 3 and self.kind.name in _COLOURED
        axes = shape[:-1] if coloured else shape
        if not 2 <= len(axes) <= 3:
            raise VoxelsNotReadError(f"an array of the shape {shape} is neither picture nor volume")
        return Stack(tuple(axes[::-1]), self.kind, samples=3 if coloured else 1)


class Member:
    """Rows of an array, from a stream that can be read on, and wound back at a cost."""

    def __init__(self, stream: Any, size: int, header: Header) -> None:
        if size < header.length + header.bytes:
            raise ValueError(f"{header.bytes:,} bytes of values in a file of {size:,}")
        self._stream, self._header = stream, header

    def read(self, start: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """Return an array of that shape from so many values on."""
        kind = self._header.kind
        length = int(np.prod(shape)) * kind.itemsize
        self._stream.seek(self._header.length + start * kind.itemsize)
        data = self._stream.read(length)
        if len(data) < length:
            raise ValueError("the file ends before its values do")
        return np.frombuffer(data, kind).reshape(shape)


class Array:
    """A ``.npy`` file."""

    def __init__(self, stream: BinaryIO) -> None:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        self._header = Header(stream)
        self._member = Member(stream, size, self._header)

    def images(self) -> Iterator[StoredImage]:
        """Yield the one image."""
        yield StoredImage(self._header.describe(self._header.shape))

    def read(self, name: str, frame: int) -> npt.NDArray[Any]:
        """Return one slice."""
        return read_slice(self._member, self._header.describe(self._header.shape), 0, frame)


class Arrays:
    """A ``.npz`` file: a zip of arrays, read member by member as far as is asked."""

    def __init__(self, stream: BinaryIO) -> None:
        self._zip = zipfile.ZipFile(stream)
        self._sizes = {
            info.filename.removesuffix(".npy"): info.file_size
            for info in self._zip.infolist()
            if info.filename.endswith(".npy")
        }
        self._last: tuple[str, Header, Member] | None = None

    def images(self) -> Iterator[StoredImage]:
        """Yield the images, each row of an array with labels, and every other array as a whole."""
        beside = {name for name in self._sizes if name.endswith(_LABELS)}
        for name in self._sizes:
            part = name.removesuffix(_IMAGES)
            if name in beside and name.removesuffix(_LABELS) + _IMAGES in self._sizes:
                continue
            header, _ = self._open(name)
            if name == part or part + _LABELS not in self._sizes:
                yield StoredImage(header.describe(header.shape), name)
                continue
            stack = header.describe(header.shape[1:])
            labels = self._read_labels(part + _LABELS)
            for row, label in enumerate(labels):
                yield StoredImage(stack, f"{part}/{label}/{row:0{len(str(len(labels)))}d}")

    def read(self, name: str, frame: int) -> npt.NDArray[Any]:
        """Return one slice of an image."""
        if name in self._sizes:
            header, member = self._open(name)
            return read_slice(member, header.describe(header.shape), 0, frame)
        part, _, row = name.rsplit("/", 2)
        header, member = self._open(part + _IMAGES)
        return read_slice(member, header.describe(header.shape[1:]), int(row), frame)

    def _open(self, name: str) -> tuple[Header, Member]:
        if self._last is None or self._last[0] != name:
            stream = self._zip.open(f"{name}.npy")
            header = Header(stream)
            self._last = name, header, Member(stream, self._sizes[name], header)
        return self._last[1:]

    def _read_labels(self, name: str) -> list[str]:
        with self._zip.open(f"{name}.npy") as stream:
            header = Header(stream)
            if header.bytes > _MOST_LABELS or header.kind.kind not in "iub":
                raise ValueError(f"labels of the type {header.kind} and {header.bytes:,} bytes")
            values = Member(stream, self._sizes[name], header).read(0, header.shape)
        rows = values.reshape(len(values), -1).astype(np.int64).tolist()
        return ["_".join(map(str, row)) for row in rows]


def read_slice(member: Member, stack: Stack, image: int, frame: int) -> npt.NDArray[Any]:
    """Return one slice of an image: (rows, columns), or (rows, columns, 3)."""
    columns, rows = stack.shape[:2]
    shape = (rows, columns, 3) if stack.samples == 3 else (rows, columns)
    return member.read((image * stack.frames + frame) * int(np.prod(shape)), shape)
