"""Images for frameworks: batches for TensorFlow and PyTorch, and codes that stay on a device.

On a device lie the stored codes, two bytes a grey pixel, and the framework applies window, scale
and channels there, batch by batch: nothing is decoded, mapped or moved again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medkit.errors import UsageError
from medkit.images.windows import plan_transfer

if TYPE_CHECKING:
    import tensorflow

    from medkit.images.reader import Images, View

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]
# A tensor of whichever framework.
Tensor = Any

# ITU-R BT.601: how much of red, green and blue is in the lightness.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Order:
    """Which images make up each batch of each pass.

    Parameters
    ----------
    count, size : int
        Images, and images a batch; the last batch may be shorter.
    seed : int, optional
        What all orders follow from. Without one, images come as they are.
    """

    count: int
    size: int
    seed: int | None = None
    _passes: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(f"a batch has 1 image or more, such as 32, not {self.size!r}")
        # A bool is what other libraries take, and would be the seed 0 or 1.
        whole = isinstance(self.seed, int | np.integer) and not isinstance(self.seed, bool)
        if self.seed is not None and not (whole and self.seed >= 0):
            raise UsageError(f"shuffle takes a seed, 0 or more, or None, not {self.seed!r}")

    def __len__(self) -> int:
        return -(-self.count // self.size)

    def draw(self) -> Rows:
        """Return the images in the order of the next pass: it follows from seed and pass alone."""
        number = next(self._passes)
        if self.seed is None:
            return np.arange(self.count)
        return np.random.default_rng((self.seed, number)).permutation(self.count)

    def cut(self, rows: Rows) -> Iterator[Rows]:
        """Yield the images of each batch of a pass."""
        yield from (rows[start : start + self.size] for start in range(0, self.count, self.size))


def feed_tensorflow(
    images: Images,
    batch_size: int,
    labels: npt.ArrayLike | None,
    shuffle: int | None,
    cache: str | None,
) -> tensorflow.data.Dataset | DeviceBatches:
    """Return what `Images.to_tf` says."""
    found, order = _check_labels(images, labels), Order(len(images), batch_size, shuffle)
    match cache:
        case None:
            return _make_dataset(images, order, found)
        case "memory":
            return _make_dataset(images.cached(), order, found)
        case "device":
            return DeviceBatches(DeviceImages.load(images, TensorFlow()), order, found)
    raise UsageError(f"a cache is 'memory', 'device' or None, not {cache!r}")


def feed_torch(images: Images, labels: npt.ArrayLike | None, device: Any) -> TorchImages:
    """Return what `Images.to_torch` says."""
    found = _check_labels(images, labels)
    held = None if device is None else DeviceImages.load(images, Torch(device))
    return TorchImages(images, found, held)


def _check_labels(images: Images, labels: npt.ArrayLike | None) -> Array | None:
    if labels is None:
        return None
    found = np.asarray(labels)
    if found.shape[:1] != (len(images),):
        raise UsageError(
            f"{len(images)} images need {len(images)} labels, in their order, not an array of "
            f"shape {found.shape}"
        )
    return found


def _make_dataset(images: Images, order: Order, labels: Array | None) -> tensorflow.data.Dataset:
    """Return batches, each pass in its own order if there is a seed."""
    import tensorflow as tf

    pixels = tf.TensorSpec((None, *images.shape[1:]), tf.float32)
    signature = pixels
    if labels is not None:
        signature = pixels, tf.TensorSpec((None, *labels.shape[1:]), labels.dtype)

    def generate() -> Iterator[Any]:
        rows = order.draw()
        pairs = zip(images.batches(order.size, rows), order.cut(rows), strict=True)
        yield from (batch if labels is None else (batch, labels[part]) for batch, part in pairs)

    batches = tf.data.Dataset.from_generator(generate, output_signature=signature)
    counted = batches.apply(tf.data.experimental.assert_cardinality(len(order)))
    return counted.prefetch(tf.data.AUTOTUNE)


@dataclass(frozen=True, eq=False)
class DeviceBatches:
    """Batches on TensorFlow's device; a loop over it is a pass, with its own order if shuffled.

    Yields float32 tensors (b, H, W, C), or pairs of these and labels. ``len`` is batches a pass.
    For loops of one's own and ``train_on_batch``: ``fit`` takes its data through the host's memory.
    """

    images: DeviceImages
    order: Order
    labels: Array | None = None

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Any]:
        import tensorflow as tf

        for rows in self.order.cut(self.order.draw()):
            pixels = self.images[rows]
            if self.labels is None:
                yield pixels
            else:
                yield pixels, tf.convert_to_tensor(self.labels[rows])


@dataclass(frozen=True, eq=False)
class TorchImages:
    """What ``torch.utils.data.DataLoader`` needs: images as float32 tensors (C, H, W).

    With labels, an item is a pair. Decoding is parallel already, so ``num_workers=0`` is fast; with
    workers, start them by ``multiprocessing_context="spawn"``, since threads do not survive a fork.
    Codes on a device are for ``num_workers=0`` alone.
    """

    images: Images
    labels: Array | None = None
    held: DeviceImages | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Return a batch; DataLoader calls it where it is there."""
        import torch

        rows = np.asarray(indices)
        if self.held is None:
            batch = torch.from_numpy(np.ascontiguousarray(np.moveaxis(self.images[rows], -1, 1)))
        else:
            batch = self.held[rows].permute(0, 3, 1, 2)
        if self.labels is None:
            return list(batch)
        return list(zip(batch, torch.as_tensor(self.labels[rows]), strict=True))


class TensorFlow:
    """On the first GPU that TensorFlow sees, or else in memory."""

    def __init__(self) -> None:
        import tensorflow as tf

        self._tf = tf
        self.tensor, self.tanh = tf.convert_to_tensor, tf.tanh
        self.where, self.clip = tf.where, tf.clip_by_value

    def put(self, codes: Array) -> Tensor:
        """Lay codes on the device; on a GPU only floats are gathered by every version."""
        bits = codes.view(np.float16) if codes.dtype == np.uint16 else codes
        # Every integer up to 2048 is one of float16.
        return self.tensor(bits.astype(np.float16) if codes.dtype == np.uint8 else bits)

    def pick(self, held: Tensor, places: Rows, kind: np.dtype[Any], wide: type) -> Tensor:
        """Return some of the codes that were put, as floats."""
        bits = self._tf.gather(held, places)
        values = self._tf.bitcast(bits, self._tf.uint16) if kind == np.uint16 else bits
        return self._tf.cast(values, wide)

    def join(self, parts: list[Tensor], order: Rows) -> Tensor:
        """Return the images of several parts in an order, as float32."""
        narrow = [self._tf.cast(part, np.float32) for part in parts]
        if len(narrow) == 1:
            return narrow[0]
        return self._tf.gather(self._tf.concat(narrow, 0), order)


class Torch:
    """On a device of PyTorch's, such as ``"cuda"``."""

    def __init__(self, device: Any) -> None:
        import torch

        self._torch, self._device = torch, device
        self.tanh, self.where, self.clip = torch.tanh, torch.where, torch.clip

    def tensor(self, values: Array) -> Tensor:
        """Return values on the device."""
        return self._torch.as_tensor(values).to(self._device)

    def put(self, codes: Array) -> Tensor:
        """Lay codes on the device; uint16 cannot be indexed by every version, int16 can."""
        return self.tensor(codes.view(np.int16) if codes.dtype == np.uint16 else codes)

    def pick(self, held: Tensor, places: Rows, kind: np.dtype[Any], wide: type) -> Tensor:
        """Return some of the codes that were put, as floats."""
        values = held[self.tensor(places)]
        if kind == np.uint16:
            values = values.to(self._torch.int32) & 0xFFFF
        return values.to(self._torch.float64 if wide is np.float64 else self._torch.float32)

    def join(self, parts: list[Tensor], order: Rows) -> Tensor:
        """Return the images of several parts in an order, as float32."""
        narrow = [part.to(self._torch.float32) for part in parts]
        if len(narrow) == 1:
            return narrow[0]
        return self._torch.cat(narrow)[self.tensor(order)]


Framework = TensorFlow | Torch


@dataclass(frozen=True, eq=False)
class DeviceImages:
    """Images whose codes lie on a device; ``images[rows]`` is a float32 tensor (n, H, W, C) there.

    Equal to the rows of `Images` but for the rounding of float32.

    Attributes
    ----------
    framework : Framework
        Of the tensors.
    view : View
        How the images are looked at.
    codes : dict of str to (tensor, dtype)
        For each array, the codes that are held; resized, where the view has a size.
    names, places : ndarray, shape (n,)
        The array of each image, and where it lies in what is held of it.
    gain, offset, sigmoid : ndarray, shape (n, C)
        The map of each image, channel by channel, as in `windows.Transfer`.
    """

    framework: Framework
    view: View
    codes: dict[str, tuple[Tensor, np.dtype[Any]]]
    names: npt.NDArray[np.str_]
    places: Rows
    gain: Array
    offset: Array
    sigmoid: Array

    @classmethod
    def load(cls, images: Images, framework: Framework) -> DeviceImages:
        """Bring the codes of images to a device."""
        stored = images.table["row"].to_numpy(np.int64)
        names = images.table["array"].to_numpy(str)
        places, codes = np.zeros(len(images), np.int64), {}
        for name in np.unique(names):
            here = names == name
            rows, places[here] = np.unique(stored[here], return_inverse=True)
            values = fit(images.source.request(str(name), rows)(), images.shape[1:3])
            codes[str(name)] = framework.put(values), values.dtype
        transfers = [plan_transfer(images.table, window) for window in images.view.windows]
        shape = len(images), images.view.depth
        maps = (
            np.broadcast_to(np.stack([getattr(one, fact) for one in transfers], axis=-1), shape)
            for fact in ("gain", "offset", "sigmoid")
        )
        return cls(framework, images.view, codes, names, places, *maps)

    def __getitem__(self, rows: Rows) -> Tensor:
        names = self.names[rows]
        where = [np.flatnonzero(names == name) for name in np.unique(names)]
        parts = [self._show(str(names[part[0]]), rows[part]) for part in where]
        return self.framework.join(parts, np.argsort(np.concatenate(where)))

    def _show(self, name: str, rows: Rows) -> Tensor:
        """Return images of one array, as floats."""
        frame, (held, kind) = self.framework, self.codes[name]
        colour, wide = name.endswith("x3"), np.float64 if kind == np.float64 else np.float32
        # Colour has one map, that of its full range, for all its channels.
        maps = (rows, np.newaxis, np.newaxis, slice(1) if colour else slice(None))
        gain, offset = (frame.tensor(part[maps].astype(wide)) for part in (self.gain, self.offset))
        values = frame.pick(held, self.places[rows], kind, wide)
        values = (values if colour else values[..., np.newaxis]) * gain + offset
        if self.sigmoid[maps].any():
            smooth = 0.5 + 0.5 * frame.tanh(2 * values - 1)
            values = frame.where(frame.tensor(self.sigmoid[maps]), smooth, values)
        values = frame.clip(values, 0.0, 1.0)
        if colour and self.view.depth == 1:
            parts = (values[..., i : i + 1] * share for i, share in enumerate(LUMA))
            values = sum(parts)
        low, high = self.view.scale
        return values * (high - low) + low


def fit(codes: Array, size: tuple[int, int]) -> Array:
    """Return images (n, H, W) or (n, H, W, 3) resized to a size, where they have another."""
    if codes.shape[1:3] == size:
        return codes
    return np.stack([resize(image, size) for image in codes])


def resize(image: Array, size: tuple[int, int]) -> Array:
    """Return an image (H, W) or (H, W, 3) resized to a size."""
    from medkit.images import resampling  # brings Numba: most sets have the size that is asked for

    return resampling.resize(image, size)
