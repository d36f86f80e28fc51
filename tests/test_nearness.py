"""Copies of a picture are found, however they were made; different pictures are not."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medkit.cohort import nearness
from medkit.cohort.folds import Folds
from medkit.cohort.nearness import STRICT, THRESHOLD, TURNS, choose_threshold, compare, find_near
from medkit.cohort.signatures import SIDE, Signatures, sign_images, sign_pixels, unpack
from medkit.cohort.twins import describe_near, search_set
from medkit.images.reader import CachedCodes, Images
from medkit.images.resampling import resize


def draw(seed: int, side: int = 200) -> np.ndarray:
    """A field of blobs of all sizes, with noise: 8 bits."""
    random = np.random.default_rng(seed)
    rows, columns = np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij")
    spectrum = np.fft.rfft2(random.normal(size=(side, side)))
    field = np.fft.irfft2(spectrum / (0.01 + np.hypot(rows, columns)) ** 1.5, (side, side))
    noisy = 128 + 45 * field / field.std() + random.normal(scale=5, size=field.shape)
    return np.clip(np.rint(noisy), 0, 255)


def encode(image: np.ndarray, quality: int = 40) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream)).astype(float)


def shrink(image: np.ndarray, factor: float = 0.5) -> np.ndarray:
    size = tuple(round(side * factor) for side in image.shape)
    return np.asarray(Image.fromarray(image.astype(np.uint8)).resize(size)).astype(float)


def window(image: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, (5, 95))
    return np.clip((image - low) / (high - low), 0, 1) * 255


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "jpeg": encode,
    "half": shrink,
    "shifted": lambda image: np.pad(image, ((2, 0), (0, 2)))[:-2, 2:],
    "mirrored": np.fliplr,
    "upside down": np.flipud,
    "turned": np.rot90,
    "window": window,
    "gamma": lambda image: 255 * (image / 255) ** 2,
    "negative": lambda image: 255 - image,
    "several": lambda image: encode(np.fliplr(shrink(window(image), 0.75))),
}


def small(image: np.ndarray) -> np.ndarray:
    return resize(np.ascontiguousarray(image, np.float32), (SIDE, SIDE))


def sign(pictures: list[np.ndarray]) -> Signatures:
    fine, coarse = sign_pixels(np.stack([small(one) for one in pictures]))
    return Signatures(coarse, fine, np.zeros(len(pictures), bool))


def search(signatures: Signatures, persons: list[str], **more: np.ndarray) -> list[nearness.Pair]:
    count = len(persons)
    tiny = more.get("small", np.zeros(count, bool))
    return find_near(signatures, np.array(persons), np.arange(count), tiny)[1]


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [draw(seed) for seed in range(60)]


def test_copies_are_found_and_nothing_else(pictures: list[np.ndarray]) -> None:
    copied = zip(list(CHANGES.values()) * 2, pictures, strict=False)
    copies = [np.ascontiguousarray(change(picture)) for change, picture in copied]
    count, persons = len(pictures), [f"p{number}" for number in range(80)]
    found = search(sign([*pictures, *copies]), persons)
    assert {(pair.first, pair.second) for pair in found} == {(n, count + n) for n in range(20)}
    assert all(THRESHOLD <= pair.likeness <= 1 for pair in found)


@given(st.lists(st.floats(0, 1), max_size=50))
def test_the_threshold_is_half_way_to_one_within_bounds(likeness: list[float]) -> None:
    found = choose_threshold(np.array(likeness))
    assert THRESHOLD <= found <= STRICT
    if likeness and max(likeness) <= 0.7:
        assert found == THRESHOLD


def test_it_is_told_how_a_copy_was_turned(pictures: list[np.ndarray]) -> None:
    changes = [np.fliplr, np.flipud, lambda one: np.rot90(one, 2), np.rot90, np.transpose]
    copies = [np.ascontiguousarray(change(pictures[0])) for change in changes]
    found = search(sign([pictures[0], *copies]), list("abcdef"))
    how = {pair.second: pair.how for pair in found if pair.first == 0}
    # A quarter turn to the left is undone by one to the right.
    told = ["mirrored", "upside down", "turned by 180°", "turned by 90°", "transposed"]
    assert [how[number] for number in range(1, 6)] == told


@given(st.integers(0, 15), st.integers(0, 15))
def test_a_turn_is_undone(first: int, second: int) -> None:
    image = np.random.default_rng(first).normal(size=(1, 6, 6))
    turn, back = TURNS[first], TURNS[nearness._BACK[first]]
    assert (back.apply(turn.apply(image)) == image).all() and turn.negative == back.negative
    same = (TURNS[first].apply(image) == TURNS[second].apply(image)).all()
    assert same == (first % 8 == second % 8)


def test_images_of_one_person_and_equal_pixels_are_not_compared(
    pictures: list[np.ndarray],
) -> None:
    signatures = sign([pictures[0], pictures[0], pictures[0]])
    everybody = np.zeros(3, bool)

    def count(persons: str, pictures: list[int]) -> int:
        return len(find_near(signatures, np.array(list(persons)), np.array(pictures), everybody)[1])

    assert count("aaa", [0, 1, 2]) == count("abc", [0, 0, 0]) == 0
    assert count("abc", [0, 1, 2]) == 3


def test_a_small_picture_that_moved_far_is_found() -> None:
    pictures = [draw(seed, side=48) for seed in range(40)]
    moved = [np.pad(one, ((2, 0), (2, 0)))[:-2, :-2] for one in pictures[:10]]
    persons = [f"p{number}" for number in range(50)]
    found = search(sign([*pictures, *moved]), persons, small=np.ones(50, bool))
    pairs = {(pair.first, pair.second) for pair in found}
    expected = {(number, 40 + number) for number in range(10)}
    assert pairs <= expected and len(pairs) >= 9


def test_the_likeness_is_the_correlation_where_both_show_something() -> None:
    first, second = draw(1), draw(2)
    mixed = 0.8 * first + 0.6 * second
    signatures = sign([first, second, mixed, np.where(np.arange(200) < 100, first, 90)])
    pairs = [(0, 0), (0, 1), (0, 2), (0, 3)]
    like = compare(signatures.fine, *np.array(pairs).T, np.zeros(4, np.int64))
    assert like[0] == pytest.approx(1, abs=1e-3) and like[1] < 0.3
    assert 0.6 < like[2] < 0.9
    assert like[3] > 0.9  # the half that shows nothing counts neither way


def test_a_window_and_a_factor_change_no_signature(pictures: list[np.ndarray]) -> None:
    plain, scaled = sign([pictures[0]]), sign([1000 + 16 * pictures[0]])
    difference = unpack(plain.fine)[0] - unpack(scaled.fine)[0]
    assert np.abs(difference).mean() < 0.01


def make_set(pictures: list[np.ndarray], persons: list[str]) -> Images:
    codes = np.stack([resize(one.astype(np.float32), (99, 99)) for one in pictures])
    codes = np.rint(codes * 16).astype(np.uint16)
    number = np.arange(len(pictures))
    table = pd.DataFrame(
        {
            "image": number,
            "array": "uint16x1",
            "row": number,
            "path": [f"{one}.png" for one in number],
            "split_group": persons,
            "source_sha256": [f"s{one}" for one in number],
            "pixels_sha256": [f"x{one}" for one in number],
            "constant": [bool((one == one[0, 0]).all()) for one in pictures],
            "pad_box": [[0, 0, 99, 99]] * len(pictures),
            "Rows": 200,
            "Columns": 200,
        }
    )
    return Images(CachedCodes({"uint16x1": (number, codes)}, (99, 99)), table)


class Opened:
    """Stands for a set, and counts how often its images are asked for."""

    def __init__(self, images: Images, id: str = "a" * 16) -> None:
        self.id, self.table, self.asked, self._images = id, images.table, 0, images

    def images(self) -> Images:
        self.asked += 1
        return self._images


@pytest.fixture
def opened(pictures: list[np.ndarray]) -> Opened:
    """p0 to p9 with two pictures each; that of p0 is p1's too, and p2's is p3's, mirrored."""
    shown = pictures[:20]
    shown[2], shown[6] = encode(shown[0]), np.fliplr(shown[4])
    shown[19] = np.full((200, 200), 7.0)
    return Opened(make_set(shown, [f"p{number // 2}" for number in range(20)]))


def test_a_set_is_searched_once(opened: Opened, tmp_path: Path) -> None:
    found = search_set(opened, tmp_path)  # type: ignore[arg-type]
    assert [pair[:2] for pair in found["pairs"]] in ([[0, 2], [4, 6]], [[4, 6], [0, 2]])
    assert (found["images"], found["plain"]) == (19, 1)
    assert search_set(opened, tmp_path) == found  # type: ignore[arg-type]
    assert opened.asked == 1
    (kept,) = tmp_path.iterdir()
    kept.write_text("{")
    assert search_set(opened, tmp_path) == found  # type: ignore[arg-type]
    assert opened.asked == 2


def test_pairs_are_told_across_folds_and_labels(opened: Opened, tmp_path: Path) -> None:
    found = search_set(opened, tmp_path)  # type: ignore[arg-type]
    number = opened.table["image"] // 2
    table = opened.table[["image", "split_group"]].assign(label="A", fold=number % 2)
    near = describe_near(found, opened.table, Folds(table, "set", "a" * 16, "finding", 2, 0))
    assert (near["count"], near["persons"]) == (2, 4)
    mirrored = next(pair for pair in near["pairs"] if pair["how"] == "mirrored")
    assert mirrored["images"] == [4, 6] and mirrored["paths"] == ["4.png", "6.png"]
    assert mirrored["folds"] == [0, 1] and mirrored["distance"] == pytest.approx(0, abs=0.05)
    together = table.assign(fold=number // 4 % 2)  # p0 and p1, and p2 and p3, are in one fold
    assert describe_near(found, opened.table, make(together))["count"] == 0
    labels = together.assign(label=np.where(number == 3, "B", "A"))
    (pair,) = describe_near(found, opened.table, make(labels))["pairs"]
    assert pair["labels"] == ["A", "B"] and pair["persons"] == ["p2", "p3"]


def make(table: pd.DataFrame) -> Folds:
    return Folds(table, "set", "a" * 16, "finding", 2, 0)


def test_a_copied_volume_is_told_by_a_few_of_its_slices(opened: Opened) -> None:
    found = {"images": 20, "plain": 0, "threshold": 0.85}
    found["pairs"] = [[one, 10 + one, 0.9, "as it is"] for one in range(10)]
    table = opened.table.assign(split_group=np.where(opened.table["image"] < 10, "a", "b"))
    folds = make(table[["image", "split_group"]].assign(label="A", fold=table["image"] // 10))
    near = describe_near(found, table, folds)
    assert (near["count"], near["persons"], len(near["pairs"])) == (10, 2, 3)


def test_colour_and_padding_do_not_change_what_is_seen(pictures: list[np.ndarray]) -> None:
    grey = make_set(pictures[:2], ["a", "b"])
    codes = resize(pictures[0].astype(np.float32), (60, 99))
    padded = np.zeros((1, 99, 99, 3), np.uint8)
    padded[0, 20:80] = np.rint(codes)[..., None]
    source = CachedCodes({**grey.source.codes, "uint8x3": (np.array([0]), padded)}, (99, 99))
    row = grey.table.iloc[[0]].assign(array="uint8x3", image=2, row=0, split_group="c")
    row["pad_box"] = [[0, 20, 99, 80]]
    found = sign_images(Images(source, pd.concat([grey.table, row], ignore_index=True)))
    (pair,) = search(found, ["a", "b", "c"])
    assert (pair.first, pair.second) == (0, 2)


def test_images_that_show_nothing_are_not_compared() -> None:
    flat = [np.full((200, 200), 9.0), np.full((200, 200), 9.0)]
    dotted = [np.where(np.arange(200) == 50, 200.0, 9.0) * np.ones((200, 1)) for _ in range(2)]
    signatures = sign_images(make_set([*flat, *dotted], list("abcd")))
    assert signatures.plain[:2].all()
    assert (
        search(Signatures(signatures.coarse, signatures.fine, np.ones(4, bool)), list("abcd")) == []
    )
