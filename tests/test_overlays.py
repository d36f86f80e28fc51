"""Pictures of single images: padding and stretch undone, maps where they belong."""

from __future__ import annotations

import base64
from typing import Any

import imagecodecs
import numpy as np
import pytest

from medkit.evaluation.pictures import draw_picture, encode, find_size, lay_over, name_place
from medkit.images.resampling import Spacing, plan_geometry, resample


def normalise(
    source: np.ndarray, geometry: str, spacing: Spacing | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return codes of a square set of 96 pixels, and their row of its table."""
    given = spacing or Spacing()
    plan = plan_geometry(*source.shape[:2], given, (96, 96), geometry)
    values, _ = resample(source.astype(np.float64), None, plan, "bilinear")
    row = {"pad_box": plan.pad_box, "affine": plan.affine, "slope": 1.0, "plane": None}
    row["PixelSpacing"] = [given.row, given.column] if spacing else None
    return values.round().astype(np.uint16), row


def spot(rows: int, columns: int, at: tuple[int, int]) -> np.ndarray:
    source = np.full((rows, columns), 1000.0)
    source[at[0] - 4 : at[0] + 4, at[1] - 4 : at[1] + 4] = 3000
    return source


@pytest.mark.parametrize("geometry", ["letterbox", "stretch"])
def test_a_picture_has_the_aspect_of_its_source(geometry: str) -> None:
    codes, row = normalise(spot(60, 180, (30, 45)), geometry)
    assert codes.shape == (96, 96)
    picture = draw_picture(codes, row)
    assert picture.shape[1] / picture.shape[0] == pytest.approx(3, abs=0.1)
    brightest = np.argwhere(picture > 200).mean(axis=0) / picture.shape
    np.testing.assert_allclose(brightest, (30 / 60, 45 / 180), atol=0.02)


def test_pixels_that_are_not_square_are_drawn_so() -> None:
    codes, row = normalise(spot(100, 100, (50, 50)), "stretch", Spacing(2.0, 1.0, "PixelSpacing"))
    assert find_size(codes.shape, row) == (96, 48)
    # A plane that was cut anew has square pixels, whatever the spacing of its slices.
    assert find_size(codes.shape, row | {"plane": "coronal"}) == (96, 96)


def test_a_map_lies_over_what_it_is_of() -> None:
    codes, row = normalise(spot(60, 180, (30, 45)), "letterbox")
    strengths = np.zeros((10, 10))
    # The spot, in cells of the square image: a quarter from the left, in the middle.
    strengths[4:6, 2] = 1.0
    strengths[4:6, 8] = -0.5
    picture = draw_picture(codes, row)
    shown = lay_over(picture, strengths, codes.shape, row["pad_box"]).astype(int)
    assert shown.shape == (*picture.shape, 3)
    warm, cold = shown[..., 0] - shown[..., 2], shown[..., 2] - shown[..., 0]
    bright = np.argwhere(picture > 200).mean(axis=0)
    assert np.abs(np.argwhere(warm > 0.9 * warm.max()).mean(axis=0) - bright).max() < 6
    assert np.argwhere(cold > 0.9 * cold.max()).mean(axis=0)[1] > 0.75 * picture.shape[1]
    assert warm.max() > 1.5 * cold.max()
    assert name_place(strengths, codes.shape, row["pad_box"]) == "left"


@pytest.mark.parametrize(
    ("cell", "place"), [((0, 0), "upper left"), ((5, 5), "middle"), ((9, 4), "lower middle")]
)
def test_a_place_has_a_name(cell: tuple[int, int], place: str) -> None:
    strengths = np.zeros((10, 10))
    strengths[cell] = 1.0
    assert name_place(strengths, (96, 96), (0, 0, 96, 96)) == place
    assert name_place(-strengths, (96, 96), (0, 0, 96, 96)) == ""


def test_a_map_without_evidence_leaves_the_picture_as_it_is() -> None:
    codes, row = normalise(spot(60, 60, (30, 30)), "letterbox")
    picture = draw_picture(codes, row)
    shown = lay_over(picture, np.zeros((3, 3)), codes.shape, row["pad_box"])
    assert (shown == picture[..., np.newaxis]).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_picture_stretches_grey_inside_the_box(dtype: type) -> None:
    codes = np.zeros((40, 40), dtype)
    codes[:, 10:30] = np.linspace(100, 200, 20).astype(dtype)
    row = {"pad_box": (10, 0, 30, 40), "affine": (1, 0, 0, 0, 1, 0), "slope": 1.0}
    row |= {"plane": None, "PixelSpacing": None}
    shown = draw_picture(codes, row)
    assert shown.shape == (40, 20)
    assert (shown[0, 0], shown[0, -1]) == (0, 255)
    assert abs(int(shown[0, 10]) - 128) < 12
    turned = draw_picture(codes, row | {"slope": -1.0})
    assert (turned[0, 0], turned[0, -1]) == (255, 0)


def test_a_picture_keeps_colour_copes_with_a_constant_and_is_small() -> None:
    row = {"pad_box": (0, 0, 30, 20), "affine": (1, 0, 0, 0, 1, 0), "slope": 1.0}
    row |= {"plane": None, "PixelSpacing": None}
    colour = np.full((20, 30, 3), (10, 20, 30), np.uint8)
    assert draw_picture(colour, row)[0, 0].tolist() == [10, 20, 30]
    assert draw_picture(np.full((20, 30), 7, np.uint16), row).max() == 0
    large = np.zeros((1000, 700), np.uint16)
    assert draw_picture(large, row | {"pad_box": (0, 0, 700, 1000)}).shape == (320, 224)


def test_encoded_pictures_are_pictures() -> None:
    picture = np.arange(256, dtype=np.uint8).reshape(16, 16)
    head, data = encode(picture).split(",")
    assert head == "data:image/png;base64"
    assert (imagecodecs.png_decode(base64.b64decode(data)) == picture).all()
    head, data = encode(np.repeat(picture[..., None], 3, axis=-1), exact=False).split(",")
    assert head == "data:image/jpeg;base64"
    near = imagecodecs.jpeg8_decode(base64.b64decode(data)).astype(int)
    assert np.abs(near - picture[..., None]).mean() < 6
