"""Features: kept by content, gone on with after a kill, refused where they are not numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from medkit.errors import TrainingError
from medkit.training.features import BATCH, compute_features, open_features

ORIGIN = {"plugin": "fake", "version": "1", "spec": {"layer": "mixed10"}}


@dataclass(frozen=True)
class FakeImages:
    """What features need of `medkit.images.reader.Images`."""

    pixels: npt.NDArray[np.float32]
    window: str = "header"

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def table(self) -> pd.DataFrame:
        return pd.DataFrame({"image": np.arange(len(self))})

    @property
    def hashes(self) -> npt.NDArray[np.str_]:
        return np.array(
            [
                hashlib.sha256(self.window.encode() + row.tobytes()).hexdigest()
                for row in self.pixels
            ]
        )

    def take(self, rows: Any) -> FakeImages:
        return replace(self, pixels=self.pixels[rows])


class Extractor:
    """Features by square root, and a count of the images asked for."""

    def __init__(self, die_after: int | None = None) -> None:
        self.seen = 0
        self.die_after = die_after

    def __call__(self, images: FakeImages) -> npt.NDArray[np.float64]:
        if self.die_after is not None and self.seen >= self.die_after:
            raise KeyboardInterrupt
        self.seen += len(images)
        return np.sqrt(images.pixels.astype(np.float64))


@pytest.fixture
def images() -> FakeImages:
    pixels = np.random.default_rng(0).random((3 * BATCH + 7, 5), dtype=np.float32)
    return FakeImages(pixels)


def compute(
    images: FakeImages, store: Path, extract: Callable[[Any], Any], origin: Any = ORIGIN
) -> tuple[str, npt.NDArray[np.float32]]:
    key, rows = compute_features(images, store, origin, extract, lambda *_: None)  # type: ignore[arg-type]
    return key, open_features(store, key)[rows]


def files(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.iterdir())}


def test_features_come_in_the_order_of_the_images(images: FakeImages, tmp_path: Path) -> None:
    _, features = compute(images, tmp_path, Extractor())
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, np.sqrt(images.pixels.astype(float)).astype("f4"))


def test_they_are_computed_once_and_equal_images_share_a_row(
    images: FakeImages, tmp_path: Path
) -> None:
    extract = Extractor()
    twice = images.take(np.r_[: len(images), 5, 5, 9])
    key, features = compute(twice, tmp_path, extract)
    assert extract.seen == len(images) == len(open_features(tmp_path, key))
    again = Extractor()
    _, reordered = compute(twice.take(np.arange(len(twice))[::-1]), tmp_path, again)
    assert again.seen == 0
    np.testing.assert_array_equal(reordered[::-1], features)


@pytest.mark.parametrize(
    "change",
    [
        lambda images: replace(images, pixels=images.pixels + np.eye(len(images), 5, dtype="f4")),
        lambda images: replace(images, window="lung"),
    ],
)
def test_a_changed_pixel_or_view_misses(
    change: Callable[[FakeImages], FakeImages], images: FakeImages, tmp_path: Path
) -> None:
    key, _ = compute(images, tmp_path, Extractor())
    extract = Extractor()
    other, _ = compute(change(images), tmp_path, extract)
    assert other != key
    assert extract.seen == len(images)


def test_another_layer_or_version_misses(images: FakeImages, tmp_path: Path) -> None:
    keys = {
        compute(images, tmp_path, Extractor(), origin)[0]
        for origin in (ORIGIN, {**ORIGIN, "version": "2"}, {**ORIGIN, "spec": {"layer": "mixed8"}})
    }
    assert len(keys) == 3


@pytest.mark.parametrize("after", [0, 1, BATCH, 2 * BATCH, 3 * BATCH])
def test_a_kill_keeps_whole_batches_and_ends_with_equal_bytes(
    after: int, images: FakeImages, tmp_path: Path
) -> None:
    compute(images, tmp_path / "unbroken", Extractor())
    with pytest.raises(KeyboardInterrupt):
        compute(images, tmp_path / "killed", Extractor(die_after=after))
    extract = Extractor()
    compute(images, tmp_path / "killed", extract)
    kept = -(-after // BATCH) * BATCH
    assert extract.seen == len(images) - kept
    assert files(tmp_path / "killed") == files(tmp_path / "unbroken")


@pytest.mark.parametrize(
    "damage",
    [
        lambda journal, array: journal.write_bytes(journal.read_bytes()[:-9]),
        lambda journal, array: array.write_bytes(array.read_bytes()[:100]),
        lambda journal, array: array.write_bytes(array.read_bytes()[:-1]),
        lambda journal, array: array.write_bytes(
            array.read_bytes()[:128] + b"\0" * (array.stat().st_size - 128)
        ),
        lambda journal, array: journal.unlink(),
    ],
    ids=["torn journal", "cut header", "cut array", "lost pages", "no journal"],
)
def test_what_is_not_whole_is_computed_again(
    damage: Callable[[Path, Path], object], images: FakeImages, tmp_path: Path
) -> None:
    compute(images, tmp_path / "unbroken", Extractor())
    store = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        compute(images, store, Extractor(die_after=2 * BATCH))
    damage(next(store.glob("*.journal")), next(store.glob("*.npy")))
    compute(images, store, Extractor())
    assert files(store) == files(tmp_path / "unbroken")


def test_finished_features_that_were_damaged_are_computed_again(
    images: FakeImages, tmp_path: Path
) -> None:
    _, features = compute(images, tmp_path, Extractor())
    path = next(tmp_path.glob("*.npy"))
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    _, again = compute(images, tmp_path, Extractor())
    np.testing.assert_array_equal(again, features)


def test_nan_and_infinity_name_the_images(images: FakeImages, tmp_path: Path) -> None:
    def extract(batch: FakeImages) -> npt.NDArray[np.float64]:
        values = batch.pixels.astype(np.float64)
        values[2, 3] = np.nan
        values[4, 0] = 1e300
        return values

    few = images.take(np.argsort(images.hashes)[:10])
    with pytest.raises(TrainingError, match="NaN or infinity for image 2, 4;"):
        compute(few, tmp_path, extract)


@pytest.mark.parametrize(
    ("extract", "message"),
    [
        (lambda images: images.pixels[:-1], r"shape \(127, 5\) of float32 for 128 images"),
        (lambda images: images.pixels[:, 0], r"shape \(128,\)"),
        (lambda images: images.pixels.astype(object), "of object"),
    ],
)
def test_what_is_not_a_row_of_numbers_an_image_is_refused(
    extract: Callable[[Any], Any], message: str, images: FakeImages, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=message):
        compute(images, tmp_path, extract)


def test_rows_of_changing_length_are_refused(images: FakeImages, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="gave 5 numbers an image, then 4"):
        compute(
            images,
            tmp_path,
            lambda batch: batch.pixels if len(batch) == BATCH else batch.pixels[:, 1:],
        )


def test_no_images_are_refused(images: FakeImages, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no images"):
        compute(images.take(np.arange(0)), tmp_path, Extractor())
