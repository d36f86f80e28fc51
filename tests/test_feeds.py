"""Batches for frameworks: the same images, in an order that follows from a seed."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mixedsets import KINDS, make_images

from medkit.errors import UsageError
from medkit.images.feeds import Order
from medkit.images.reader import Images

MIXED = ["uint16x1", "uint8x3", "uint16x1", "float32x1", "uint16x1", "float64x1", "uint16x1"]
LABELS = np.arange(7) * 10


@pytest.fixture
def images() -> Images:
    return make_images(MIXED)


@given(count=st.integers(0, 40), size=st.integers(1, 12), seed=st.none() | st.integers(0, 9))
def test_each_pass_has_every_image_once(count: int, size: int, seed: int | None) -> None:
    order, again = Order(count, size, seed), Order(count, size, seed)
    passes = [order.draw() for _ in range(3)]
    for rows in passes:
        assert sorted(rows.tolist()) == list(range(count))
        np.testing.assert_array_equal(rows, again.draw())
        cut = list(order.cut(rows))
        assert len(cut) == len(order)
        np.testing.assert_array_equal(np.concatenate([rows[:0], *cut]), rows)
    if seed is None:
        assert passes[0].tolist() == list(range(count))
    elif count > 9:
        assert len({tuple(rows) for rows in passes}) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "1 image or more"),
        ({"shuffle": True}, "takes a seed"),
        ({"shuffle": False}, "takes a seed"),
        ({"shuffle": -1}, "takes a seed"),
        ({"shuffle": "yes"}, "takes a seed"),
        ({"labels": [1, 2]}, r"7 images need 7 labels, in their order, .* shape \(2,\)"),
        ({"labels": 3}, "7 labels"),
        ({"cache": "disk"}, "'memory', 'device' or None, not 'disk'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    images: Images, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        images.to_tf(**{"batch_size": 4, **arguments})


VIEWS: list[dict[str, Any]] = [
    {},
    {"window": "soft", "channels": 3, "scale": (-1, 1)},
    {"window": "full", "size": 3},
    {"window": "header", "channels": 3, "size": 3, "scale": (-1, 1)},
]
SEVERAL = {"window": "soft,full,header"}


def test_tensorflow_gets_the_same_batches(images: Images) -> None:
    tf = pytest.importorskip("tensorflow")
    for cache in (None, "memory"):
        dataset = images.to_tf(4, cache=cache)
        assert isinstance(dataset, tf.data.Dataset)
        assert int(dataset.cardinality()) == 2
        batches = list(dataset.as_numpy_iterator())
        assert [batch.shape for batch in batches] == [(4, 5, 4, 1), (3, 5, 4, 1)]
        np.testing.assert_array_equal(np.concatenate(batches), images[:])


@pytest.mark.parametrize("cache", [None, "memory", "device"])
def test_tensorflow_gets_another_order_in_each_pass(images: Images, cache: str | None) -> None:
    pytest.importorskip("tensorflow")
    dataset = images.to_tf(3, labels=LABELS, shuffle=5, cache=cache)
    order = Order(7, 3, 5)
    assert len(dataset) == 3
    for _ in range(3):
        rows = order.draw()
        pixels, labels = zip(*((x.numpy(), y.numpy()) for x, y in dataset), strict=True)
        np.testing.assert_array_equal(np.concatenate(labels), LABELS[rows])
        np.testing.assert_allclose(np.concatenate(pixels), images[rows], atol=1e-6)


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_tensorflow_shows_on_its_device_what_numpy_shows(
    images: Images, view: dict[str, Any]
) -> None:
    pytest.importorskip("tensorflow")
    seen = images.take([6, 1, 1, 0, 5, 3]).with_view(**view)
    batches = [batch.numpy() for batch in seen.to_tf(4, cache="device")]
    assert [batch.dtype for batch in batches] == [np.float32] * 2
    np.testing.assert_allclose(np.concatenate(batches), seen[:], atol=1e-5)


def test_tensorflow_shows_several_windows_on_its_device() -> None:
    pytest.importorskip("tensorflow")
    seen = make_images(["uint16x1", "float64x1"] * 3).with_view(**SEVERAL)
    (batch,) = seen.to_tf(6, cache="device")
    np.testing.assert_allclose(batch.numpy(), seen[:], atol=1e-5)


def test_without_images_there_are_no_batches(images: Images) -> None:
    pytest.importorskip("tensorflow")
    for cache in (None, "memory", "device"):
        assert list(images.take([]).to_tf(4, cache=cache)) == []


def test_keras_fits_what_it_is_given() -> None:
    keras = pytest.importorskip("keras")
    images = make_images(["uint16x1"] * 8)
    layers = [keras.layers.Input(images.shape[1:]), keras.layers.Flatten(), keras.layers.Dense(2)]
    network = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(loss=loss, optimizer="sgd")
    labels = np.arange(8) % 2
    batches = images.to_tf(3, labels=labels, shuffle=0)
    # Without this, Keras warns that it does not shuffle what is shuffled already.
    history = network.fit(batches, epochs=2, shuffle=False, verbose=0)
    assert len(history.history["loss"]) == 2
    for pixels, truth in images.to_tf(3, labels=labels, shuffle=0, cache="device"):
        assert np.isfinite(network.train_on_batch(pixels, truth))


class Tensor(np.ndarray):
    """What is asked of a tensor of PyTorch's, in NumPy."""

    def to(self, where: Any) -> Tensor:
        return self if isinstance(where, str) else self.astype(where)

    def permute(self, *axes: int) -> Tensor:
        return self.transpose(axes)


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in: PyTorch itself is not needed to see what it is given and asked."""

    def tensor(values: Any) -> Tensor:
        values = np.asarray(values)
        assert values.dtype != np.uint16, "cannot be indexed by every version"
        return values.view(Tensor)

    names = ("tanh", "where", "clip", "float32", "float64", "int32")
    fake = types.SimpleNamespace(
        from_numpy=tensor, as_tensor=tensor, cat=lambda parts: np.concatenate(parts).view(Tensor),
        **{name: getattr(np, name) for name in names},
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "torch", fake)


@pytest.mark.usefixtures("torch")
def test_torch_gets_channels_first(images: Images) -> None:
    dataset = images.with_view(channels=3).to_torch()
    assert len(dataset) == 7
    batch = dataset.__getitems__([6, 0])
    assert [item.shape for item in batch] == [(3, 5, 4)] * 2
    np.testing.assert_array_equal(dataset[6], np.moveaxis(images.with_view(channels=3)[6], -1, 0))
    assert all(item.flags.c_contiguous for item in batch)


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_torch_shows_on_its_device_what_numpy_shows(images: Images, view: dict[str, Any]) -> None:
    seen = images.with_view(**view)
    dataset = seen.to_torch(labels=LABELS, device="cuda")
    rows = [5, 0, 1, 1, 3]
    pixels, labels = zip(*dataset.__getitems__(rows), strict=True)
    assert {image.dtype for image in pixels} == {np.dtype(np.float32)}
    np.testing.assert_allclose(np.stack(pixels), np.moveaxis(seen[rows], -1, 1), atol=1e-5)
    np.testing.assert_array_equal(labels, LABELS[rows])
    image, label = dataset[2]
    assert (image.shape, label) == (seen[2].transpose(2, 0, 1).shape, 20)


@pytest.mark.usefixtures("torch")
def test_torch_has_every_kind_and_every_code(images: Images) -> None:
    codes = images.source.codes["uint16x1"][1]  # type: ignore[attr-defined]
    codes[:] = np.linspace(0, 65535, codes.size).reshape(codes.shape)
    wide = images.with_view(window="30000/70000")
    assert set(MIXED) == set(KINDS)
    np.testing.assert_allclose(
        np.stack(wide.to_torch(device="cuda").__getitems__(list(range(7)))),
        np.moveaxis(wide[:], -1, 1),
        atol=1e-5,
    )
