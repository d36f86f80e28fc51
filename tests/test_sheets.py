"""Contact sheets: who is on them, how images are made visible, and the PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medkit.evaluation.sheets import (
    THUMB,
    Label,
    Section,
    Thumbnail,
    choose_images,
    draw_sheet,
    draw_thumbnails,
    encode_thumbnail,
)
from medkit.images.reader import CachedCodes, Images

NOISE = np.random.default_rng(0).integers(0, 4096, (299, 299)).astype(np.uint16)


def make_images(codes: np.ndarray, **columns: Any) -> Images:
    """Return one image of a set."""
    kind = f"{codes.dtype.name}x{3 if codes.ndim == 3 else 1}"
    columns = {
        "image": 0,
        "array": kind,
        "row": 0,
        "slope": 1.0,
        "intercept": 0.0,
        "full_low": 0.0,
        "full_high": 65535.0,
        "WindowCenter": np.nan,
        "WindowWidth": np.nan,
        "VOILUTFunction": None,
        "BurnedInAnnotation": None,
        "pad_box": [0, 0, codes.shape[1], codes.shape[0]],
        "padding_share": 0.0,
        "fill_value": 0.0,
    } | columns
    table = pd.DataFrame({name: [value] for name, value in columns.items()})
    held = {kind: (np.zeros(1, np.int64), codes[np.newaxis])}
    return Images(CachedCodes(held, codes.shape[:2]), table)


def look(codes: np.ndarray, window: str = "header", **columns: Any) -> Thumbnail:
    return draw_thumbnails(make_images(codes, **columns), np.zeros(1, np.int64), window)[0]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("uvwxyz"))), st.integers(1, 30))
def test_a_choice_is_spread_over_classes_and_persons(
    images: list[tuple[str, str]], count: int
) -> None:
    classes, persons = [one for one, _ in images], [one for _, one in images]
    chosen = choose_images(classes, persons, count)
    assert len(chosen) == len(set(chosen)) == min(count, len(images))
    taken = [classes[position] for position in chosen]
    for name in set(classes):
        # Another class has two more only where this one has no more.
        most = max((taken.count(other) for other in set(taken)), default=0)
        assert taken.count(name) >= most - 1 or taken.count(name) == classes.count(name)
        own = [persons[position] for position in chosen if classes[position] == name]
        of_all = [person for person, one in zip(persons, classes, strict=True) if one == name]
        for person in set(of_all):
            most = max((own.count(other) for other in set(own)), default=0)
            assert own.count(person) >= most - 1 or own.count(person) == of_all.count(person)


def test_of_a_person_come_images_at_even_distances() -> None:
    assert choose_images(["a"] * 100, ["p"] * 100, 4).tolist() == [12, 37, 62, 87]


def test_a_window_of_the_header_is_what_an_eye_sees() -> None:
    thumbnail = look(np.full((8, 8), 300, np.uint16), WindowCenter=300.5, WindowWidth=101.0)
    assert thumbnail.pixels is not None
    assert set(thumbnail.pixels.ravel()) == {128}
    assert not thumbnail.stretched


def test_without_a_window_deep_grey_is_stretched_and_said_to_be() -> None:
    thumbnail = look(NOISE)
    assert thumbnail.stretched
    assert thumbnail.pixels is not None
    assert thumbnail.pixels.shape == (THUMB, THUMB)
    assert thumbnail.pixels.mean() == pytest.approx(127, abs=3)
    # In the full range it would be nearly black, as a trainer sees it.
    full = look(NOISE, "full")
    assert not full.stretched
    assert full.pixels is not None
    assert full.pixels.max() <= 16


def test_eight_bits_and_colour_are_shown_as_they_are() -> None:
    grey = look(np.full((8, 8), 100 * 16, np.uint16), slope=1 / 16, full_high=255.0)
    assert grey.pixels is not None
    assert (set(grey.pixels.ravel()), grey.stretched) == ({100}, False)
    colour = look(np.full((8, 8, 3), (10, 20, 30), np.uint8), full_high=255.0)
    assert colour.pixels is not None
    assert (colour.pixels[0, 0].tolist(), colour.stretched) == ([10, 20, 30], False)


@pytest.mark.parametrize("window", ["header", "full"])
def test_floating_point_without_a_range_is_stretched(window: str) -> None:
    values = np.linspace(-3, 3, 64, dtype=np.float32).reshape(8, 8)
    endless = {"full_low": np.nan, "full_high": np.nan}
    thumbnail = look(values, window, **endless)
    assert thumbnail.stretched
    assert thumbnail.pixels is not None
    assert (thumbnail.pixels.min(), thumbnail.pixels.max()) == (0, 255)
    assert not look(values, "0/2", **endless).stretched


def test_small_images_are_enlarged_by_a_whole_factor_and_large_ones_keep_their_aspect() -> None:
    small = look(np.arange(30, dtype=np.uint16).reshape(5, 6), "14.5/29")
    assert small.pixels is not None
    assert small.pixels.shape == (5 * 26, 6 * 26)
    assert (small.pixels[:26, :26] == small.pixels[0, 0]).all()
    large = look(np.zeros((400, 200), np.uint16), "full")
    assert large.pixels is not None
    assert large.pixels.shape == (THUMB, THUMB // 2)


def test_an_image_with_burned_in_text_is_not_shown() -> None:
    assert look(NOISE, BurnedInAnnotation="YES").pixels is None


def draw(path: Path, sections: list[Section], title: str = "Set a") -> Image.Image:
    draw_sheet(path, title, ["note"], sections)
    with Image.open(path) as picture:
        picture.load()
        return picture


def cells(count: int, value: str | None = None) -> list[tuple[Label, Thumbnail]]:
    grey = Thumbnail(np.full((THUMB, THUMB), 200, np.uint8), False)
    return [(Label(number, "CT", value, "abcdef01"), grey) for number in range(count)]


def test_a_sheet_has_every_thumbnail_and_opens_anywhere(tmp_path: Path) -> None:
    sections = [Section("a", cells(11)), Section("b", cells(3))]
    picture = draw(tmp_path / "a.png", sections)
    assert (picture.format, picture.mode) == ("PNG", "RGB")
    shown = (np.asarray(picture) == 200).all(axis=-1).sum()
    assert shown == 14 * THUMB * THUMB
    assert picture.width == 2 * 28 + 8 * THUMB + 7 * 16
    again = draw(tmp_path / "b.png", sections)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert again.size == picture.size


def test_no_text_leaves_its_place(tmp_path: Path) -> None:
    hostile = ["\x1b[31m\x00\n\u202e", "W" * 5000, "\n" * 500, "%s{0}$x^2$<b>", "日本語", "\ud800"]
    plain = draw(tmp_path / "plain.png", [Section("a", cells(1, "b"))])
    for text in hostile:
        section = Section(text, cells(1, text))
        picture = draw(tmp_path / "hostile.png", [section], title=text)
        assert picture.size == plain.size
        different = (np.asarray(picture) != np.asarray(plain)).any(axis=-1)
        # Neither the thumbnail nor the margin at the right is written on.
        assert not different[:, -28:].any()
        rows, columns = np.nonzero((np.asarray(picture) == 200).all(axis=-1))
        assert len(rows) >= THUMB * THUMB
        assert columns.min() == 28


def test_what_is_not_shown_has_a_tile_that_says_so(tmp_path: Path) -> None:
    hidden = [(label, Thumbnail(None, False)) for label, _ in cells(1)]
    pixels = np.asarray(draw(tmp_path / "a.png", [Section("a", hidden)]))
    assert (pixels == (0x1C, 0x20, 0x27)).all(axis=-1).sum() > 0.9 * THUMB * THUMB


def test_thumbnails_of_a_page_are_png() -> None:
    uri = encode_thumbnail(np.zeros((4, 4, 3), np.uint8))
    assert uri.startswith("data:image/png;base64,iVBOR")
