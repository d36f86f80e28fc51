"""Reading images of a set: any rows, any view, and what depends on what."""

from __future__ import annotations

import pickle
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medkit.catalog.scan import Root, scan
from medkit.catalog.store import Catalog
from medkit.errors import UsageError
from medkit.images.imageset import ImageSet
from medkit.images.normalisation import Recipe, normalise
from medkit.images.reader import Images, View
from medkit.testing import write_dicom

SIZE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six CT images in HU, half of them with a window, then one in colour."""
    folder = tmp_path_factory.mktemp("reader")
    random = np.random.default_rng(0)
    for number in range(6):
        facts: dict[str, Any] = {"RescaleSlope": 1, "RescaleIntercept": -1024}
        if number % 2:
            facts |= {"WindowCenter": 40, "WindowWidth": 400}
        stored = random.integers(0, 4096, (SIZE, SIZE), dtype=np.uint16)
        write_dicom(folder / "tree" / f"{number}.dcm", stored, InstanceNumber=number,
                    StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1", BitsStored=12, HighBit=11,
                    **facts)  # fmt: skip
    colour = random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    write_dicom(folder / "tree" / "9.dcm", colour, StudyInstanceUID="1.3")
    scan(folder / "catalog", [Root("local", folder / "tree")], workers=0)
    normalise(
        Catalog.open(folder / "catalog"), folder / "set", Recipe(size=(SIZE, SIZE)), workers=0
    )
    return folder / "set"


@pytest.fixture
def images(folder: Path) -> Images:
    return ImageSet.open(folder).images()


@pytest.fixture
def grey(images: Images) -> Images:
    return images.take(np.arange(6))


def test_indexing_is_numpys(images: Images) -> None:
    everything = images[:]
    assert images.shape == everything.shape == (7, SIZE, SIZE, 1)
    assert everything.dtype == np.float32
    assert (everything.min(), everything.max()) == (0, 1)
    assert images[3].shape == (SIZE, SIZE, 1)
    mask = np.arange(7) % 3 == 0
    for index in (3, -1, np.int64(2), slice(1, 6, 2), slice(5, 5), [6, 0, 6], mask, []):
        np.testing.assert_array_equal(images[index], everything[index])
    np.testing.assert_array_equal(list(images), everything)
    with pytest.raises(IndexError):
        images[7]


def test_batches_are_slices_in_order(images: Images) -> None:
    batches = list(images.batches(3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(batches), images[:])


def test_take_keeps_the_order_and_carries_features(images: Images) -> None:
    features = np.arange(14, dtype=np.float32).reshape(7, 2)
    some = images.with_features(features).take([5, 6, 1])
    np.testing.assert_array_equal(some[:], images[:][[5, 6, 1]])
    np.testing.assert_array_equal(some.features, features[[5, 6, 1]])
    assert some.table["image"].tolist() == [5, 6, 1]
    np.testing.assert_array_equal(some.take([False, True, True])[:], images[:][[6, 1]])
    with pytest.raises(UsageError, match="7 images cannot have 3 rows"):
        images.with_features(features[:3])


def test_a_window_is_of_the_real_world_values(grey: Images) -> None:
    real = np.stack([grey.codes(i) for i in range(6)]) / 16 - 1024.0
    soft = np.clip((real - (40 - 200)) / 400, 0, 1)
    np.testing.assert_allclose(grey.with_view(window="soft")[:][..., 0], soft, atol=1e-5)
    full = (real + 1024) / 4095
    np.testing.assert_allclose(grey.with_view(window="full")[:][..., 0], full, atol=1e-5)
    # LINEAR, PS3.3 C.11.2.1.2.1: centre - 0.5 and width - 1.
    linear = np.clip((real - 39.5) / 399 + 0.5, 0, 1)
    header = np.where((np.arange(6) % 2 == 1)[:, None, None], linear, full)
    np.testing.assert_allclose(grey[:][..., 0], header, atol=1e-5)


def test_several_windows_are_channels(images: Images, grey: Images) -> None:
    several = grey.with_view(window="lung,soft, 100/50")
    assert several.shape == (6, SIZE, SIZE, 3)
    for channel, window in enumerate(("lung", "soft", "100/50")):
        np.testing.assert_array_equal(
            several[:][..., channel], grey.with_view(window=window)[:][..., 0]
        )
    with pytest.raises(UsageError, match="image 6 is in colour"):
        images.with_view(window="lung,soft")


def test_grey_becomes_three_channels_and_colour_one(images: Images) -> None:
    one, three = images[:], images.with_view(channels=3)[:]
    assert three.shape == (7, SIZE, SIZE, 3)
    np.testing.assert_array_equal(three[:6], np.repeat(one[:6], 3, axis=-1))
    colour = images.codes(6) / 255
    np.testing.assert_allclose(three[6], colour, atol=1e-6)
    np.testing.assert_allclose(one[6, ..., 0], colour @ [0.299, 0.587, 0.114], atol=1e-6)


def test_scale_and_size(images: Images) -> None:
    np.testing.assert_allclose(images.with_view(scale=(-1, 1))[:], 2 * images[:] - 1, atol=1e-6)
    small = images.with_view(size=5, channels=3, window="full")
    assert small.shape == small[:].shape == (7, 5, 5, 3)
    for image, whole in zip(small, images.with_view(channels=3, window="full"), strict=True):
        for channel in range(3):
            pillow = Image.fromarray(whole[..., channel]).resize((5, 5), Image.Resampling.BILINEAR)
            np.testing.assert_allclose(image[..., channel], np.asarray(pillow), atol=1e-5)


def test_cached_images_need_no_disk(folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(folder, tmp_path / "copy")
    images = ImageSet.open(copied).images().take([6, 2, 2, 0])
    expected = images.with_view(window="lung")[:]
    cached = images.cached()
    shutil.rmtree(copied)
    np.testing.assert_array_equal(cached.with_view(window="lung")[:], expected)
    np.testing.assert_array_equal(cached.take([3, 0])[:], cached[:][[3, 0]])


def test_hashes_say_what_the_view_shows(grey: Images) -> None:
    assert len(set(grey.hashes)) == 6
    np.testing.assert_array_equal(grey.take([4, 1]).hashes, grey.hashes[[4, 1]])
    np.testing.assert_array_equal(grey.with_view(scale=[0, 1]).hashes, grey.hashes)
    for changes in ({"window": "soft"}, {"channels": 3}, {"scale": (-1, 1)}, {"size": 8}):
        assert not set(grey.with_view(**changes).hashes) & set(grey.hashes)
    table = grey.table.assign(slope=grey.table["slope"] * 2)
    assert not set(Images(grey.source, table).hashes) & set(grey.hashes)
    # What the view does not look at does not count.
    table = grey.table.assign(WindowCenter=0.0, person="x", image=7)
    full = Images(grey.source, table, View(window="full"))
    np.testing.assert_array_equal(full.hashes, grey.with_view(window="full").hashes)


def test_images_travel_to_other_processes(images: Images) -> None:
    there = pickle.loads(pickle.dumps(images.with_view(window="lung")))
    np.testing.assert_array_equal(there[2:4], images.with_view(window="lung")[2:4])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": "liver"}, "'liver' is not a window"),
        ({"channels": 2}, "1 or 3 channels, not 2"),
        ({"scale": (1, 0)}, "upwards"),
        ({"size": 0}, "above 0, not 0"),
    ],
)
def test_a_view_that_makes_no_sense_is_refused(
    images: Images, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        images.with_view(**changes)


def test_tensorflow_gets_the_same_batches(images: Images) -> None:
    pytest.importorskip("tensorflow")
    dataset = images.to_tf(4)
    assert int(dataset.cardinality()) == 2
    batches = list(dataset.as_numpy_iterator())
    assert [batch.shape for batch in batches] == [(4, SIZE, SIZE, 1), (3, SIZE, SIZE, 1)]
    np.testing.assert_array_equal(np.concatenate(batches), images[:])


def test_torch_gets_channels_first(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    # torch itself is not needed to see what it is given.
    fake = types.SimpleNamespace(from_numpy=lambda array: array)
    monkeypatch.setitem(sys.modules, "torch", fake)
    dataset = images.with_view(channels=3).to_torch()
    assert len(dataset) == 7
    batch = dataset.__getitems__([6, 0])
    assert [item.shape for item in batch] == [(3, SIZE, SIZE)] * 2
    np.testing.assert_array_equal(dataset[6], np.moveaxis(images.with_view(channels=3)[6], -1, 0))
    assert all(item.flags.c_contiguous for item in batch)
