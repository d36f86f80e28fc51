"""What an export is made of: images of a set, read in order, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from medkit.engine import count_workers, prefetch
from medkit.errors import ImageSetError
from medkit.images.arrays import split_name
from medkit.images.pixels import hash_values
from medkit.images.reader import Images
from medkit.images.windows import plan_transfer, split_windows

Values = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]

# Of pixels, read at a time; one batch is written while the next is read.
_BATCH_BYTES = 16 << 20


class Picture(NamedTuple):
    """An image on its way out.

    Attributes
    ----------
    key : str
        Its number in the set, eight digits or more: the only name that it has in an export.
    values : ndarray, shape (H, W), (H, W, 3) or, as tensors of a window, (H, W, C)
        Stored codes, or what a window shows of them.
    facts : dict
        Its row of the metadata.
    """

    key: str
    values: Values
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Content:
    """All that is exported, whatever the form.

    Attributes
    ----------
    images : Images
        In the order of the set.
    metadata : Table
        A row an image, in the same order.
    kinds : ndarray of str
        Type and channels of each image's values, such as ``uint16x1``; see `name_kinds`.
    classes : tuple of str
        The values of the label, in the order of their numbers.
    window : str or None
        As a view has it; None for stored codes.
    tensors : bool
        A window's values are float32 from 0 to 1, and not 8-bit.
    workers : int or None
        Threads that encode; by default one a processor.
    """

    images: Images
    metadata: pa.Table = field(repr=False)
    kinds: npt.NDArray[np.str_] = field(repr=False)
    classes: tuple[str, ...]
    window: str | None = None
    tensors: bool = False
    workers: int | None = None

    @property
    def threads(self) -> int:
        """How many threads encode."""
        return count_workers(self.workers)

    def number_class(self, picture: Picture) -> int | None:
        """Return the number of a picture's class; None without a label."""
        return self._numbers[picture.facts["label"]] if self.classes else None

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.classes)}


def name_kinds(images: Images, window: str | None, *, tensors: bool) -> npt.NDArray[np.str_]:
    """Return type and channels of what is exported of each image.

    Raises
    ------
    UsageError
        If an image cannot be seen through the window.
    """
    names = images.table["array"].to_numpy(dtype=str)
    if window is None:
        return names
    for one in split_windows(window):
        plan_transfer(images.table, one)
    colour, grey = (_view(images, window, colour=colour).view.depth for colour in (True, False))
    kind = "float32" if tensors else "uint8"
    return np.where(np.char.endswith(names, "x3"), f"{kind}x{colour}", f"{kind}x{grey}")


def count_bytes(kind: str, size: tuple[int, int]) -> int:
    """Return the bytes of one image's values."""
    dtype, channels = split_name(kind)
    return dtype.itemsize * channels * size[0] * size[1]


def name_key(image: int) -> str:
    """Return what an image is called in an export."""
    return f"{image:08d}"


def iterate_pictures(content: Content, rows: Rows) -> Iterator[Picture]:
    """Yield some of the images in order; the next ones are being read meanwhile.

    Raises
    ------
    ImageSetError
        If an image is not what the set's table says.
    """
    largest = max(count_bytes(kind, content.images.source.size) for kind in content.kinds[rows])
    length = max(1, _BATCH_BYTES // largest)
    batches = (rows[start : start + length] for start in range(0, len(rows), length))
    for batch in prefetch((_read(content, batch) for batch in batches), 1):
        yield from batch


def _read(content: Content, rows: Rows) -> list[Picture]:
    read = _read_codes if content.window is None else _read_views
    facts = content.metadata.take(rows).to_pylist()
    keys = (name_key(row["image"]) for row in facts)
    return [Picture(*parts) for parts in zip(keys, read(content, rows), facts, strict=True)]


def _read_codes(content: Content, rows: Rows) -> list[Values]:
    table = content.images.table.iloc[rows]
    codes: list[Values] = [np.empty(0)] * len(rows)
    for name in table["array"].unique():
        inside = np.flatnonzero(table["array"] == name)
        stored = table["row"].to_numpy(dtype=np.int64)[inside]
        for position, values in zip(
            inside, content.images.source.request(name, stored)(), strict=True
        ):
            codes[position] = values
    for values, expected, image in zip(codes, table["pixels_sha256"], table["image"], strict=True):
        if hash_values(values) != expected:
            raise ImageSetError(f"image {image} of the set is damaged; see 'medkit verify'")
    return codes


def _read_views(content: Content, rows: Rows) -> list[Values]:
    images = content.images.take(rows)
    colour = images.table["array"].str.endswith("x3").to_numpy(dtype=bool)
    views: list[Values] = [np.empty(0)] * len(rows)
    for kind in np.unique(colour):
        inside = np.flatnonzero(colour == kind)
        shown = _view(images.take(inside), str(content.window), colour=bool(kind))[:]
        for position, values in zip(inside, shown, strict=True):
            views[position] = values if content.tensors else _quantise(values)
    return views


def _view(images: Images, window: str, *, colour: bool) -> Images:
    """Return images through a window, colour ones in colour.

    Several windows are of grey images; `Images` refuses colour ones, and says so.
    """
    return images.with_view(window=window, channels=3 if colour else 1)


def _quantise(values: Values) -> Values:
    """Return values from 0 to 1 as 8 bits, without the axis of a single channel."""
    coded: Values = np.rint(values * 255).astype(np.uint8)
    return coded[..., 0] if coded.shape[-1] == 1 else coded
