"""Features: kept by content, gone on with after a kill, refused where they are not numbers."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medkit.errors import TrainingError
from medkit.training import rowfiles
from medkit.training.features import BATCH, compute_features, open_features
from medkit.training.rowfiles import RowFile

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
    assert len(list(tmp_path.glob("*.npy"))) == 1
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
    ids=["pixels of five", "window of all"],
)
def test_a_changed_pixel_or_view_misses(
    change: Callable[[FakeImages], FakeImages], images: FakeImages, tmp_path: Path
) -> None:
    compute(images, tmp_path, Extractor())
    changed = change(images)
    extract = Extractor()
    _, features = compute(changed, tmp_path, extract)
    assert extract.seen == (changed.hashes != images.hashes).sum() > 0
    np.testing.assert_array_equal(features, np.sqrt(changed.pixels.astype(float)).astype("f4"))


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
        lambda journal, array: array.write_bytes(array.read_bytes().replace(b", 5)", b", 7)")),
        lambda journal, array: array.unlink(),
    ],
    ids=[
        *("torn journal", "cut header", "cut array", "lost pages", "no journal"),
        *("wrong header", "no array"),
    ],
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


@pytest.mark.parametrize("start", [0, BATCH, 2 * BATCH])
def test_what_a_cohort_shares_with_another_is_not_computed_again(
    start: int, images: FakeImages, tmp_path: Path
) -> None:
    first, second = images.take(np.arange(BATCH + 9)), images.take(np.arange(start, len(images)))
    _, before = compute(first, tmp_path, Extractor())
    content = next(tmp_path.glob("*.npy")).read_bytes()
    extract = Extractor()
    _, features = compute(second, tmp_path, extract)
    assert extract.seen == len(set(second.hashes) - set(first.hashes))
    np.testing.assert_array_equal(features, np.sqrt(second.pixels.astype(float)).astype("f4"))
    # Rows that are there are not touched: the file grows behind them.
    assert next(tmp_path.glob("*.npy")).read_bytes()[128 : len(content)] == content[128:]
    np.testing.assert_array_equal(compute(first, tmp_path, Extractor(die_after=0))[1], before)


@settings(max_examples=15, deadline=None)
@given(
    cohorts=st.lists(st.lists(st.integers(0, BATCH), min_size=1), min_size=1, max_size=4),
    damage=st.lists(
        st.tuples(st.sampled_from(["npy", "journal"]), st.floats(0, 0.999)), max_size=3
    ),
    cut=st.booleans(),
)
def test_whatever_is_damaged_or_cut_off_the_features_are_right(
    cohorts: list[list[int]], damage: list[tuple[str, float]], cut: bool
) -> None:
    pixels = np.random.default_rng(1).random((BATCH + 1, 3), dtype=np.float32)
    every = FakeImages(pixels)
    with tempfile.TemporaryDirectory() as folder:
        for rows in cohorts:
            images = every.take(np.array(rows))
            expected = np.sqrt(images.pixels.astype(float)).astype("f4")
            np.testing.assert_array_equal(compute(images, Path(folder), Extractor())[1], expected)
            for suffix, share in damage:
                path = next(Path(folder).glob(f"*.{suffix}"))
                content = bytearray(path.read_bytes())
                place = int(share * len(content))
                content[place : place + 1] = b"\xff"
                path.write_bytes(content[:place] if cut else content)


def test_a_kill_at_any_write_leaves_an_array_that_numpy_reads(
    images: FakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = images.take(np.arange(BATCH))
    compute(few, tmp_path, Extractor())
    array = next(tmp_path.glob("*.npy"))
    monkeypatch.setattr(RowFile, "_write_header", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compute(images, tmp_path, Extractor())
    assert len(np.load(array)) == BATCH < (array.stat().st_size - 128) / 20
    monkeypatch.undo()
    extract = Extractor()
    _, features = compute(images, tmp_path, extract)
    assert extract.seen == len(images) - 2 * BATCH  # the batch was whole but for the header
    assert len(np.load(array)) == len(images)
    np.testing.assert_array_equal(features, np.sqrt(images.pixels.astype(float)).astype("f4"))


def interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_only_the_batches_that_are_used_are_read(
    images: FakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute(images, tmp_path, Extractor())
    read: list[int] = []
    hash_batch = rowfiles._hash
    monkeypatch.setattr(
        rowfiles,
        "_hash",
        lambda content, names: read.append(len(names)) or hash_batch(content, names),
    )
    compute(images.take(np.array([7, 8])), tmp_path, Extractor(die_after=0))
    assert sum(read) <= 2 * BATCH


def test_the_header_has_room_for_more_rows_than_there_will_ever_be() -> None:
    for width in (1, 2048, 10**6):
        lengths = {len(rowfiles._spell_header(rows, width)) for rows in (0, 10**4, 10**18)}
        assert lengths == {128}


def test_features_of_an_earlier_version_are_not_read(images: FakeImages, tmp_path: Path) -> None:
    key, _ = compute(images, tmp_path, Extractor())
    journal = tmp_path / f"{key}.journal"
    # Before, a journal had lines without names, and stood beside the array until it was whole.
    journal.write_text("".join(f"{i} {'0' * 64}\n" for i in range(4)))
    extract = Extractor()
    compute(images, tmp_path, extract)
    assert extract.seen == len(images)


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
