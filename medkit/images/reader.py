"""Reading a set: lazy images as float32 arrays, seen through a window, a size and a scale."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field, fields, replace
from functools import cached_property, lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from medkit.errors import ImageSetError, UsageError
from medkit.images import arrays, feeds
from medkit.images.windows import Transfer, plan_transfer, split_windows

if TYPE_CHECKING:
    import tensorflow

Rows = npt.NDArray[np.int64]
Codes = npt.NDArray[Any]
Pixels = npt.NDArray[np.float32]

_LUMA = np.array(feeds.LUMA, dtype=np.float32)
# Images that are read at a time: enough for every thread, little enough for what is allocated to
# be used again.
_BLOCK = 64


def _check_scale(scale: Any) -> tuple[float, float]:
    try:
        low, high = map(float, scale)
    except (TypeError, ValueError):
        low = high = np.nan
    if not -np.inf < low < high < np.inf:
        raise UsageError(f"a scale is two numbers that go upwards, such as (-1, 1), not {scale!r}")
    return low, high


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
        whole = isinstance(self.size, int | np.integer) and self.size > 0
        if self.size is not None and not whole:
            raise UsageError(f"a size is a number of pixels above 0, not {self.size!r}")
        # Equal views are spelled alike, also those that come from JSON.
        object.__setattr__(self, "scale", _check_scale(self.scale))
        object.__setattr__(self, "channels", int(self.channels))
        object.__setattr__(self, "size", self.size and int(self.size))

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
        rows = self._locate(index)
        pixels = np.empty((rows.size, *self.shape[1:]), dtype=np.float32)
        for block, fill in self._blocks(np.atleast_1d(rows), _BLOCK):
            fill(pixels[block])
        return pixels if rows.ndim else pixels[0]

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
        chosen = np.atleast_1d(self._locate(rows))
        features = None if self.features is None else self.features[chosen]
        table = self.table.iloc[chosen].reset_index(drop=True)
        return replace(self, table=table, features=features)

    def with_view(self, **changes: Any) -> Images:
        """Return the same images in another view: ``window``, ``channels``, ``scale``, ``size``.

        Raises
        ------
        UsageError
            If there is no such view, or it does not fit the images.
        """
        known = [field.name for field in fields(View)]
        for name in changes:
            if name not in known:
                raise UsageError(f"a view has no {name!r}; it has {', '.join(known)}")
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

    def cached(self, *, reduced: bool = False) -> Images:
        """Return the same images with their stored codes held in memory.

        Parameters
        ----------
        reduced : bool
            Hold them resized to this view, and so once instead of whenever an image is read. No
            other ``size`` can be seen of what is returned, and ``codes`` are the resized ones.
        """
        size = self.shape[1:3] if reduced else self.source.size
        codes = {}
        for name, group in self.table.groupby("array"):
            rows = np.unique(group["row"].to_numpy())
            blocks = np.array_split(rows, -(-len(rows) // _BLOCK))
            requests = (self.source.request(str(name), block) for block in blocks)
            codes[str(name)] = rows, np.concatenate([feeds.fit(each(), size) for each in requests])
        return replace(self, source=CachedCodes(codes, size))

    def codes(self, index: int) -> Codes:
        """Return the stored codes of one image, shape (H, W) or (H, W, 3).

        Real-world values are ``codes * slope + intercept`` of the table, in float64.
        """
        image = self.table.iloc[index]
        codes: Codes = self.source.request(image["array"], np.array([image["row"]]))()[0]
        return codes

    def batches(self, size: int, rows: npt.ArrayLike | None = None) -> Iterator[Pixels]:
        """Yield arrays (size, H, W, C), the last one shorter; while one is used the next is read.

        Parameters
        ----------
        size : int
            Images a batch.
        rows : array_like, optional
            Positions, in the order wanted, or a mask; by default all, in order.
        """
        if size < 1:
            raise UsageError(f"a batch has 1 image or more, such as 32, not {size!r}")
        chosen = np.arange(len(self)) if rows is None else np.atleast_1d(self._locate(rows))
        return self._batches(chosen, size)

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

    def to_tf(
        self,
        batch_size: int,
        *,
        labels: npt.ArrayLike | None = None,
        shuffle: int | None = None,
        cache: str | None = None,
    ) -> tensorflow.data.Dataset | feeds.DeviceBatches:
        """Return float32 batches (b, H, W, C) for TensorFlow and Keras.

        Parameters
        ----------
        batch_size : int
            Images a batch; the last one may be shorter.
        labels : array_like, optional
            One an image, in the images' order; batches are pairs then, as ``fit`` takes them.
        shuffle : int, optional
            A seed. The n-th pass over the result has an order that follows from seed and n alone.
            Without it images come in order. ``fit`` is to be given ``shuffle=False``.
        cache : str, optional
            ``"memory"`` holds the stored codes in memory. ``"device"`` holds them where TensorFlow
            computes, and applies the view there: what is returned is then no ``tf.data.Dataset``,
            but `feeds.DeviceBatches`, for a loop with ``train_on_batch`` or of one's own.

        Raises
        ------
        UsageError
            If one of them is not as said.
        """
        return feeds.feed_tensorflow(self, batch_size, labels, shuffle, cache)

    def to_torch(
        self, *, labels: npt.ArrayLike | None = None, device: Any = None
    ) -> feeds.TorchImages:
        """Return a map-style dataset for ``torch.utils.data.DataLoader``, which shuffles.

        Parameters
        ----------
        labels : array_like, optional
            One an image, in the images' order; items are pairs then.
        device : str or torch.device, optional
            Hold the stored codes there, such as on ``"cuda"``, and apply the view there.
        """
        return feeds.feed_torch(self, labels, device)

    @cached_property
    def _transfers(self) -> tuple[Transfer, ...]:
        return tuple(plan_transfer(self.table, window) for window in self.view.windows)

    @cached_property
    def _places(self) -> tuple[npt.NDArray[np.str_], Rows, Rows]:
        """The arrays, and for each image which of them it lies in and in which row."""
        names, kinds = np.unique(self.table["array"].to_numpy(dtype=str), return_inverse=True)
        return names, kinds, self.table["row"].to_numpy(dtype=np.int64)

    def _locate(self, index: Any) -> Rows:
        """Return positions, counted from the front, as NumPy understands an index of one axis."""
        if isinstance(index, list | np.ndarray) and not len(index):
            return np.empty(0, dtype=np.int64)  # NumPy takes an empty array for one of floats
        rows = np.asarray(np.arange(len(self))[index])
        if rows.ndim > 1:
            raise IndexError("images have one axis; give a position, a slice, a list or a mask")
        return rows

    def _batches(self, rows: Rows, size: int) -> Iterator[Pixels]:
        for block, fill in self._blocks(rows, size):
            pixels = np.empty((len(rows[block]), *self.shape[1:]), dtype=np.float32)
            fill(pixels)
            yield pixels

    def _blocks(self, rows: Rows, size: int) -> Iterator[tuple[slice, Callable[[Pixels], None]]]:
        """Yield blocks of the rows, and what writes their pixels; meanwhile the next is read."""
        blocks = [slice(start, start + size) for start in range(0, len(rows), size)]
        waiting = [self._request(rows[block]) for block in blocks[:1]]
        for block, following in zip_longest(blocks, blocks[1:]):
            if following is not None:
                waiting.append(self._request(rows[following]))
            yield block, waiting.pop(0)

    def _request(self, rows: Rows) -> Callable[[Pixels], None]:
        """Start reading images; the result is called to write their pixels."""
        names, kinds, stored = self._places
        running = []
        for kind in np.unique(kinds[rows]):
            where = np.flatnonzero(kinds[rows] == kind)
            running.append((where, self.source.request(str(names[kind]), stored[rows[where]])))

        def fill(pixels: Pixels) -> None:
            for where, fetch in running:
                for place, code in zip(where, fetch(), strict=True):
                    self._show(code, rows[place], pixels[place])

        return fill

    def _show(self, code: Codes, row: int, out: Pixels) -> None:
        """Write the pixels of one image: it stays in the processor's cache from step to step."""
        if code.shape[:2] != out.shape[:2]:
            code = feeds.resize(code, out.shape[:2])
        colour, depth = code.ndim == 3, self.view.depth
        if depth == (3 if colour else 1):
            self._map(0, code, row, out if colour else out[..., 0])
        elif colour:
            plane = np.empty(code.shape, dtype=np.float32)
            self._transfers[0].show(code, row, plane)
            out[..., 0] = plane @ _LUMA
            _stretch(out, self.view.scale)
        else:
            plane = np.empty(code.shape, dtype=np.float32)
            for channel in range(depth):
                if channel < len(self._transfers):  # one window fills all channels
                    self._map(channel, code, row, plane)
                out[..., channel] = plane

    def _map(self, window: int, code: Codes, row: int, out: Pixels) -> None:
        """Write codes as they look through a window, on the view's scale."""
        self._transfers[window].show(code, row, out)
        _stretch(out, self.view.scale)


def _stretch(pixels: Pixels, scale: tuple[float, float]) -> None:
    """Bring pixels from 0 to 1 to a scale, in place."""
    low, high = scale
    if scale != (0, 1):
        pixels *= np.float32(high - low)
        pixels += np.float32(low)


def _as_bytes(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return an array (n, ...) as (n, bytes of a row)."""
    width = values.itemsize * math.prod(values.shape[1:])
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), width)
