"""The pixel arrays of a set: Zarr v3 on disk, written a shard at a time and read at random.

One array a kind of pixel. A chunk is one image; a shard is one file of many chunks, each with its
own CRC-32C, and so has its index. Any reader of Zarr v3 opens them. This is the one user of
tensorstore.

The inner codec is Blosc with byte shuffle and LZ4, which is in every reader of Zarr v3. With
Zstandard sets are a tenth smaller, and are written and read at about half the speed;
``docs/pixels.md`` has the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorstore

Codes = npt.NDArray[np.generic]

# What ``zarr.json`` of the folder around the arrays says.
GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {}}

# How the chunks are compressed, but for the size of a code.
CODEC: dict[str, Any] = {
    "name": "blosc",
    "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "blocksize": 0},
}

_SHARD_BYTES = 16 << 20
_SHARD_IMAGES = 256


@dataclass(frozen=True)
class Layout:
    """Shape of one array and its cut into shards: all of it is known before a pixel is decoded.

    Parameters
    ----------
    name : str
        Type and channels, such as ``"uint16x1"``.
    length : int
        Rows, one an image; a refused image leaves its row unwritten.
    size : tuple of int
        (rows, columns) of an image.
    """

    name: str
    length: int
    size: tuple[int, int]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a stored code."""
        return split_name(self.name)[0]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W), or (H, W, 3) for colour."""
        channels = split_name(self.name)[1]
        return self.size if channels == 1 else (*self.size, channels)

    @property
    def shard_length(self) -> int:
        """Images a shard: the power of two that keeps its codes within 16 MiB, 256 at most."""
        image_bytes = self.dtype.itemsize * int(np.prod(self.image_shape))
        fitting = min(_SHARD_IMAGES, max(1, _SHARD_BYTES // image_bytes))
        return 1 << (fitting.bit_length() - 1)

    def shard_path(self, shard: int) -> str:
        """Return the file of a shard, relative to the array's folder (Zarr's default keys)."""
        return "/".join(["c", str(shard), *("0" for _ in self.image_shape)])


def split_name(name: str) -> tuple[np.dtype[Any], int]:
    """Return type and channels that the name of an array says, such as ``"uint16x1"``."""
    kind, _, channels = name.partition("x")
    return np.dtype(kind), int(channels)


def create_array(folder: Path, layout: Layout) -> Any:
    """Write the metadata of an empty array into a folder, emptied first; return the open array."""
    spec = _spec(folder) | {"metadata": _describe(layout)}
    return tensorstore.open(spec, create=True, delete_existing=True).result()


def open_array(folder: Path) -> Any:
    """Return the array that lies in a folder, for reading; ``.shape`` and ``.dtype`` are NumPy's.

    Raises
    ------
    ValueError
        If the folder holds no array; later, when a row is read that was never written or whose
        checksum is wrong.
    """
    return tensorstore.open(_spec(folder), read=True).result()


def write_rows(array: Any, rows: npt.NDArray[np.int64], codes: Codes) -> None:
    """Write the images of one shard in one go; rows that are not given stay missing."""
    with tensorstore.Transaction() as transaction:
        writing = array.with_transaction(transaction)[rows].write(
            codes, can_reference_source_data_indefinitely=True
        )
        writing.result()


def shard_rows(array: Any, shard: int) -> range:
    """Return the rows that lie in a shard of an open array."""
    length = array.chunk_layout.write_chunk.shape[0]
    return range(shard * length, min((shard + 1) * length, array.shape[0]))


def _spec(folder: Path) -> dict[str, Any]:
    return {
        "driver": "zarr3",
        # Whoever stages a set syncs its files, when they are all there.
        "kvstore": {"driver": "file", "path": folder.as_posix(), "file_io_sync": False},
        # An image of zeros is an image. So a row that is not there was refused, or a shard is
        # lost: reading it must fail, not give a black picture.
        "store_data_equal_to_fill_value": True,
        "fill_missing_data_reads": False,
    }


def _describe(layout: Layout) -> dict[str, Any]:
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    checksum = {"name": "crc32c"}
    # Blosc alone asks for the size of what it shuffles.
    typesize = {"typesize": layout.dtype.itemsize} if CODEC["name"] == "blosc" else {}
    squeeze = {**CODEC, "configuration": CODEC["configuration"] | typesize}
    sharding = {
        "chunk_shape": [1, *layout.image_shape],
        "codecs": [little, squeeze, checksum],
        "index_codecs": [little, checksum],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [layout.length, *layout.image_shape],
        "data_type": layout.dtype.name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [layout.shard_length, *layout.image_shape]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "dimension_names": ["image", "row", "column", "channel"][: 1 + len(layout.image_shape)],
    }
