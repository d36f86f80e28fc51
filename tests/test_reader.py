"""Reading images of a set: any rows, any view, and what depends on what."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mixedsets import KINDS, expect, make_images
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
    for wrong in (7, -8, [0, 7], 1.5, (0, 1), [[0, 1]], np.ones(3, dtype=bool), None, True):
        with pytest.raises(IndexError):
            images[wrong]


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
        ({"scale": (0, np.inf)}, "upwards"),
        ({"scale": (0, 1, 2)}, r"two numbers .* not \(0, 1, 2\)"),
        ({"scale": 1}, "two numbers"),
        ({"scale": ("a", "b")}, "two numbers"),
        ({"size": 0}, "above 0, not 0"),
        ({"size": 2.5}, "above 0, not 2.5"),
        ({"size": "8"}, "above 0, not '8'"),
        ({"window": 40}, "'40' is not a window"),
        ({"windows": "lung"}, "no 'windows'; it has window, channels, scale, size"),
    ],
)
def test_a_view_that_makes_no_sense_is_refused(
    images: Images, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        images.with_view(**changes)


VIEWS = [
    View(),
    View(window="soft", channels=3, scale=(-1, 1)),
    View(window="full", scale=(0, 255)),
    View(window="header,soft"),
    View(window="soft,full,header,soft", scale=(-1, 1)),
]
VIEW_IDS = ["plain", "three channels", "wide", "two windows", "four windows"]


@pytest.mark.parametrize("view", VIEWS, ids=VIEW_IDS)
def test_every_kind_looks_as_the_standard_says(view: View) -> None:
    grey_only = len(view.windows) > 1
    kinds = [kind for kind in KINDS if not (grey_only and kind.endswith("x3"))] * 6
    images = make_images(kinds).with_view(**vars(view))
    reach = view.scale[1] - view.scale[0]
    np.testing.assert_allclose(images[:], expect(images, view), atol=2e-6 * reach)


SETS = st.lists(st.sampled_from(KINDS), max_size=9).map(make_images)


@given(images=SETS, data=st.data())
def test_all_ways_to_some_images_agree(images: Images, data: st.DataObject) -> None:
    count = len(images)
    places = st.lists(st.integers(-count, count - 1), max_size=12) if count else st.just([])
    masks = st.lists(st.booleans(), min_size=count, max_size=count).map(
        lambda truths: np.array(truths, dtype=bool)
    )
    slices = st.slices(count)
    index = data.draw(st.one_of(places, places.map(np.array), masks, slices))
    everything = np.stack([images[n] for n in range(count)]) if count else images[:]
    assert everything.shape == images.shape
    rows = np.arange(count)[index if len(np.ravel(index)) else []]
    wanted = everything[rows]
    np.testing.assert_array_equal(images[index], wanted)
    view = data.draw(st.sampled_from(VIEWS[:3]))
    some = images.take(rows)
    for same in (some, images.take(rows.tolist()), some.cached(), some.with_view(**vars(View()))):
        np.testing.assert_array_equal(same[:], wanted)
    np.testing.assert_array_equal(some.table["image"], rows)
    np.testing.assert_array_equal(
        some.with_view(**vars(view))[:], images.with_view(**vars(view))[rows]
    )
    size = data.draw(st.integers(1, 5))
    batches = list(images.batches(size, index))
    assert [len(batch) for batch in batches] == [
        min(size, len(rows) - start) for start in range(0, len(rows), size)
    ]
    np.testing.assert_array_equal(np.concatenate([wanted[:0], *batches]), wanted)
    np.testing.assert_array_equal(np.reshape(list(some), wanted.shape), wanted)
    np.testing.assert_array_equal(some.hashes, images.hashes[rows])


def test_one_image_or_none_can_be_taken(images: Images) -> None:
    np.testing.assert_array_equal(images.take(-1)[:], images[[6]])
    none = images.take([])
    assert (len(none), none[:].shape, list(none), list(none.batches(2))) == (
        0, (0, SIZE, SIZE, 1), [], []
    )  # fmt: skip
    assert none.hashes.shape == (0,)
    np.testing.assert_array_equal(none.cached()[:], none[:])


def test_a_batch_has_an_image(images: Images) -> None:
    with pytest.raises(UsageError, match="1 image or more, such as 32, not 0"):
        images.batches(0)


def test_the_whole_set_may_be_of_many_blocks(images: Images) -> None:
    rows = np.random.default_rng(0).integers(0, 7, 300)
    np.testing.assert_array_equal(images[rows], images[:][rows])
