"""Reading a set: lazy images as float32 arrays, seen through a window, a size and a scale."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from medkit.errors import ImageSetError, UsageError
from medkit.images import arrays, resampling
from medkit.images.windows import Transfer, plan_transfer, split_windows

if TYPE_CHECKING:
    import tensorflow

Rows = npt.NDArray[np.int64]
Codes = npt.NDArray[Any]
Pixels = npt.NDArray[np.float32]

# ITU-R BT.601: how much of red, green and blue is in the lightness.
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
# Images that are mapped at a time: enough for every thread, little enough to stay in memory.
_BLOCK = 256


@dataclass(frozen=True)
class View:
    """How the images of a set are looked at.

    Parameters
    ----------
    window : str
        ``"header"``, ``"full"``, a preset (``lung``, ``soft``, ``bone``, ``brain``) or
        ``CENTRE/WIDTH``, as `windows.plan_transfer` reads them. Several, separated by commas,
        become as many channels.
    channels : int
        1 or 3. Grey becomes three by repetition, RGB one by the luma of BT.601. With several
        windows, their number counts instead.
    scale : tuple of float
        What the lower and upper end of the window become. Values beyond are cut.
    size : int, optional
        Rows and columns; resized with the antialiased filter before the window is applied.

    Raises
    ------
    UsageError
        If one of them is not as said.
    """

    window: str = "header"
    channels: int = 1
    scale: tuple[float, float] = (0.0, 1.0)
    size: int | None = None

    def __post_init__(self) -> None:
        split_windows(self.window)
        if self.channels not in (1, 3):
            raise UsageError(f"a view has 1 or 3 channels, not {self.channels!r}")
        low, high = map(float, self.scale)
        if not low < high:
            raise UsageError(f"a scale goes upwards, such as (-1, 1), not {self.scale!r}")
        if self.size is not None and self.size < 1:
            raise UsageError(f"a size is a number of pixels above 0, not {self.size!r}")
        # Equal views are spelled alike, also those that come from JSON.
        object.__setattr__(self, "scale", (low, high))

    @property
    def windows(self) -> tuple[str, ...]:
        """The windows, one or more."""
        return split_windows(self.window)

    @property
    def depth(self) -> int:
        """How many channels an image has in this view."""
        return self.channels if len(self.windows) == 1 else len(self.windows)


class Source(Protocol):
    """Where stored codes come from."""

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns) of every image."""
        ...

    def request(self, name: str, rows: Rows) -> Callable[[], Codes]:
        """Start reading rows of one array; the result is called for the codes."""
        ...


@dataclass(frozen=True)
class StoredCodes:
    """Codes on disk, read in parallel.

    Parameters
    ----------
    folder : Path
        The set's Zarr group.
    set_id : str
        Content of the set: another set that takes this one's place is not taken for it.
    size : tuple of int
        (rows, columns) of every image.
    """

    folder: Path
    set_id: str
    size: tuple[int, int]

    def request(self, name: str, rows: Rows) -> Callable[[], Codes]:
        """Start reading rows of one array.

        The call that fetches them raises ImageSetError if one is missing or fails its checksum.
        """
        array = _open_array(self.folder / name, self.set_id)
        future = array[rows].read()

        def fetch() -> Codes:
            try:
                return np.asarray(future.result())
            except ValueError as error:
                raise ImageSetError(
                    f"pixels of {self.folder.parent} are damaged or missing; 'medkit verify' names "
                    f"the images: {error}"
                ) from error

        return fetch


@dataclass(frozen=True)
class CachedCodes:
    """Codes in memory.

    Parameters
    ----------
    codes : dict of str to (ndarray of int64, ndarray)
        For each array, the rows that are held, sorted, and their codes.
    size : tuple of int
        (rows, columns) of every image.
    """

    codes: dict[str, tuple[Rows, Codes]]
    size: tuple[int, int]

    def request(self, name: str, rows: Rows) -> Callable[[], Codes]:
        """Look rows up."""
        held, codes = self.codes[name]
        return lambda: codes[np.searchsorted(held, rows)]


@lru_cache(maxsize=64)
def _open_array(folder: Path, set_id: str) -> Any:
    return arrays.open_array(folder)


@dataclass(frozen=True, eq=False)
class Images:
    """Images of a set, some or all, in an order.

    Nothing is decoded before it is asked for. ``images[3]`` is an array (H, W, C) of float32;
    ``images[:8]``, ``images[[5, 1]]`` and ``images[mask]`` are arrays (n, H, W, C).

    Parameters
    ----------
    source : Source
        Where the codes come from.
    table : DataFrame
        The images' rows of the set's table, in the images' order.
    view : View
        How they are looked at.
    features : ndarray, optional
        A trainer's features, a row an image.

    Raises
    ------
    UsageError
        If the view does not fit the images.
    """

    source: Source
    table: pd.DataFrame = field(repr=False)
    view: View = View()
    features: npt.NDArray[np.float32] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        colour = self.table["array"].str.endswith("x3")
        if len(self.view.windows) > 1 and colour.any():
            raise UsageError(
                f"several windows ({self.view.window}) are for grey images, and image "
                f"{self.table['image'][colour].iloc[0]} is in colour; give one window"
            )

    def __len__(self) -> int:
        return len(self.table)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(images, H, W, C) in this view."""
        height, width = (self.view.size,) * 2 if self.view.size else self.source.size
        return len(self), height, width, self.view.depth

    def __getitem__(self, index: Any) -> Pixels:
        rows = np.atleast_1d(np.arange(len(self))[index])
        pixels = np.empty((len(rows), *self.shape[1:]), dtype=np.float32)
        for start, block in self._blocks(rows, _BLOCK):
            pixels[start : start + len(block)] = block
        return pixels[0] if isinstance(index, int | np.integer) else pixels

    def __iter__(self) -> Iterator[Pixels]:
        for batch in self.batches(_BLOCK):
            yield from batch

    def take(self, rows: npt.ArrayLike) -> Images:
        """Return some of the images, in the order given, with their features.

        Parameters
        ----------
        rows : array_like
            Positions, or a mask.
        """
        chosen = np.arange(len(self))[np.asarray(rows)]
        features = None if self.features is None else self.features[chosen]
        table = self.table.iloc[chosen].reset_index(drop=True)
        return replace(self, table=table, features=features)

    def with_view(self, **changes: Any) -> Images:
        """Return the same images in another view: ``window``, ``channels``, ``scale``, ``size``."""
        return replace(self, view=replace(self.view, **changes))

    def with_features(self, features: npt.NDArray[np.float32]) -> Images:
        """Return the same images with a trainer's features, shape (n, d).

        Raises
        ------
        UsageError
            If there is not one row an image.
        """
        if len(features) != len(self):
            raise UsageError(f"{len(self)} images cannot have {len(features)} rows of features")
        return replace(self, features=features)

    def cached(self) -> Images:
        """Return the same images with their stored codes held in memory."""
        codes = {}
        for name, group in self.table.groupby("array"):
            rows = np.unique(group["row"].to_numpy())
            codes[str(name)] = rows, self.source.request(str(name), rows)()
        return replace(self, source=CachedCodes(codes, self.source.size))

    def codes(self, index: int) -> Codes:
        """Return the stored codes of one image, shape (H, W) or (H, W, 3).

        Real-world values are ``codes * slope + intercept`` of the table, in float64.
        """
        image = self.table.iloc[index]
        codes: Codes = self.source.request(image["array"], np.array([image["row"]]))()[0]
        return codes

    def batches(self, size: int) -> Iterator[Pixels]:
        """Yield arrays (size, H, W, C) in order, the last one shorter; the next is being read."""
        for _, batch in self._blocks(np.arange(len(self)), size):
            yield batch

    @property
    def hashes(self) -> npt.NDArray[np.str_]:
        """A hash of each image as this view shows it, for addressing what is computed from it.

        Made from the hash of the stored codes, what the table gives to this view (slope,
        intercept, window, range), and the view.
        """
        facts = [self.table["pixels_sha256"].to_numpy(dtype="S64").reshape(-1, 1)]
        for transfer in self._transfers:
            facts += [_as_bytes(getattr(transfer, name)) for name in ("gain", "offset", "sigmoid")]
        view = repr(astuple(self.view)).encode()
        lines = np.concatenate([_as_bytes(fact) for fact in facts], axis=1)
        return np.array([hashlib.sha256(view + line.tobytes()).hexdigest()[:32] for line in lines])

    def to_tf(self, batch_size: int) -> tensorflow.data.Dataset:
        """Return a ``tf.data.Dataset`` of float32 batches (b, H, W, C), in order."""
        import tensorflow as tf

        shape = (None, *self.shape[1:])
        batches = tf.data.Dataset.from_generator(
            lambda: self.batches(batch_size), output_signature=tf.TensorSpec(shape, tf.float32)
        )
        count = -(-len(self) // batch_size)
        counted = batches.apply(tf.data.experimental.assert_cardinality(count))
        return counted.prefetch(tf.data.AUTOTUNE)

    def to_torch(self) -> TorchImages:
        """Return a map-style dataset for ``torch.utils.data.DataLoader``."""
        return TorchImages(self)

    @cached_property
    def _transfers(self) -> tuple[Transfer, ...]:
        return tuple(plan_transfer(self.table, window) for window in self.view.windows)

    @cached_property
    def _places(self) -> tuple[npt.NDArray[np.str_], Rows]:
        return self.table["array"].to_numpy(dtype=str), self.table["row"].to_numpy(dtype=np.int64)

    def _blocks(self, rows: Rows, size: int) -> Iterator[tuple[int, Pixels]]:
        """Yield (start, pixels) for blocks of the rows; while one is mapped the next is read."""
        starts = range(0, len(rows), size)
        waiting = [self._request(rows[start : start + size]) for start in starts[:1]]
        for start in starts:
            following = start + size
            if following < len(rows):
                waiting.append(self._request(rows[following : following + size]))
            yield start, waiting.pop(0)()

    def _request(self, rows: Rows) -> Callable[[], Pixels]:
        names, stored = self._places
        wanted = [(name, np.flatnonzero(names[rows] == name)) for name in np.unique(names[rows])]
        running = [
            (where, self.source.request(str(name), stored[rows[where]])) for name, where in wanted
        ]

        def finish() -> Pixels:
            pixels = np.empty((len(rows), *self.shape[1:]), dtype=np.float32)
            for where, fetch in running:
                # One channel is repeated where there are to be three.
                pixels[where] = self._show(fetch(), rows[where])
            return pixels

        return finish

    def _show(self, codes: Codes, rows: Rows) -> Pixels:
        if self.view.size and codes.shape[1:3] != self.shape[1:3]:
            codes = np.stack([resampling.resize(image, self.shape[1:3]) for image in codes])
        colour = codes.ndim == 4
        shown = [transfer.apply(codes, rows) for transfer in self._transfers]
        pixels = shown[0] if colour else np.stack(shown, axis=-1)
        if colour and self.view.depth == 1:
            pixels = (pixels @ _LUMA)[..., np.newaxis]
        low, high = self.view.scale
        return np.asarray(pixels * np.float32(high - low) + np.float32(low))


@dataclass(frozen=True)
class TorchImages:
    """What ``torch.utils.data.DataLoader`` needs: images as float32 tensors (C, H, W).

    Decoding is parallel already, so ``num_workers=0`` is fast; with workers, start them by
    ``multiprocessing_context="spawn"``, since threads do not survive a fork.
    """

    images: Images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Return a batch; DataLoader calls it where it is there."""
        import torch

        batch = np.ascontiguousarray(np.moveaxis(self.images[np.asarray(indices)], -1, 1))
        return list(torch.from_numpy(batch))


def _as_bytes(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return an array (n, ...) as (n, bytes of a row)."""
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
