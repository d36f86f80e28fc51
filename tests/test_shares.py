"""Features in shares: bit for bit those of one child, however many there are."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_features import ORIGIN, FakeImages

from medkit.training import features, shares
from medkit.training.features import compute_features, open_features
from medkit.training.shares import compute_share, remove_shares, share_folder, take_shares


def quiet(done: int, total: int, unit: str) -> None:
    pass


def mix(images: Any) -> npt.NDArray[np.float32]:
    """Return features that depend on the whole batch: the worst that a library may do."""
    return np.asarray(images.pixels + images.pixels.sum(axis=0), dtype=np.float32)


def refuse(images: Any) -> Any:
    raise AssertionError("computed twice")


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 9))
def test_any_number_of_shares_gives_the_rows_of_one_child(
    count: int, total: int, known: int
) -> None:
    images: Any = FakeImages(np.random.default_rng(count).random((count, 3), dtype=np.float32))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "BATCH", 4)
        patch.setattr(shares, "BATCH", 4)
        one, many, run = (Path(folder) / name for name in ("one", "many", "run"))
        for store in (one, many):  # some rows were there before
            store.mkdir()
            if first := min(known, count):
                compute_features(images.take(range(first)), store, ORIGIN, mix, quiet)
        key, rows = compute_features(images, one, ORIGIN, mix, quiet)

        for number in reversed(range(total)):
            compute_share(images, many, run, (number, total), ORIGIN, mix, quiet)
        extract = take_shares(run, ORIGIN, refuse)
        again, places = compute_features(images, many, ORIGIN, extract, quiet)
        assert again == key
        np.testing.assert_array_equal(
            open_features(many, key)[places], open_features(one, key)[rows]
        )


def test_shares_of_another_number_are_removed(tmp_path: Path) -> None:
    for part in ((0, 2), (1, 2), (0, 12)):
        share_folder(tmp_path, *part).mkdir(parents=True)
    remove_shares(tmp_path, but=2)
    kept = sorted(path.name for path in (tmp_path / "features").iterdir())
    assert kept == ["share-0-of-2", "share-1-of-2"]
    remove_shares(tmp_path)
    assert not list((tmp_path / "features").iterdir())


def test_a_batch_that_no_share_has_is_computed(tmp_path: Path) -> None:
    images: Any = FakeImages(np.ones((2, 3), dtype=np.float32))
    compute_share(images.take([0]), tmp_path / "store", tmp_path, (0, 1), ORIGIN, mix, quiet)
    extract = take_shares(tmp_path, ORIGIN, mix)
    other: Any = FakeImages(np.zeros((1, 3), dtype=np.float32))
    np.testing.assert_array_equal(extract(other), mix(other))
