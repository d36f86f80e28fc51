"""Figures: the points against scikit-learn, the drawings as elements of a page."""

from __future__ import annotations

import base64
import warnings
import xml.etree.ElementTree as ET

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medkit.evaluation.figures import (
    COLOURS,
    ClassCurves,
    Curve,
    draw_reliability,
    draw_roc,
    draw_thumbnail,
    measure_reliability,
    trace_roc,
)

SCORED = st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=1, max_size=60)


def curves(count: int) -> list[ClassCurves]:
    random = np.random.default_rng(0)
    truth = random.random(3000) < 0.5
    found = []
    for _ in range(count):
        curve = trace_roc(truth, truth + random.normal(0, 1, 3000))
        assert curve is not None
        found.append(ClassCurves(curve, (curve,)))
    return found


@settings(deadline=None)
@given(SCORED)
def test_the_roc_is_the_one_of_scikit_learn(scored: list[tuple[bool, int]]) -> None:
    from sklearn.metrics import auc, roc_curve

    truth = np.array([one for one, _ in scored])
    scores = np.array([score / 8 for _, score in scored])
    curve = trace_roc(truth, scores)
    if truth.all() or not truth.any():
        assert curve is None
        return
    assert curve is not None
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert all(lies_on(curve, x, y) for x, y in zip(false, true, strict=True))
    assert auc(curve.false_positive, curve.true_positive) == pytest.approx(auc(false, true))


def lies_on(curve: Curve, x: float, y: float) -> bool:
    """Tell whether a point is on one of the curve's straight lines."""
    xs, ys = curve.false_positive, curve.true_positive
    between = (xs[:-1] <= x) & (x <= xs[1:]) & (ys[:-1] <= y) & (y <= ys[1:])
    off = (x - xs[:-1]) * np.diff(ys) - (y - ys[:-1]) * np.diff(xs)
    return bool((between & np.isclose(off, 0)).any())


def test_a_straight_stretch_of_a_roc_is_two_points() -> None:
    curve = trace_roc(np.array([True] * 50 + [False] * 50), np.arange(100.0)[::-1])
    assert curve is not None
    assert list(zip(curve.false_positive, curve.true_positive, strict=True)) == [
        (0, 0),
        (0, 1),
        (1, 1),
    ]


@settings(deadline=None)
@given(SCORED)
def test_reliability_is_that_of_scikit_learn(scored: list[tuple[bool, int]]) -> None:
    from sklearn.calibration import calibration_curve

    truth = np.array([one for one, _ in scored])
    # Off the edges of bins, where scikit-learn's bins are closed on the other side.
    stated = np.array([(score + 0.5) / 9.3 for _, score in scored])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observed, predicted = calibration_curve(truth, stated, n_bins=10, strategy="uniform")
    filled = [row for row in measure_reliability(stated, truth).bins if row.images]
    assert np.allclose([row.observed for row in filled], observed)
    assert np.allclose([row.predicted for row in filled], predicted)
    assert sum(row.images for row in filled) == len(scored)


def test_the_calibration_error_is_the_weighted_gap() -> None:
    stated = np.array([0.0, 0.95, 0.95, 1.0])
    reliability = measure_reliability(stated, np.array([False, True, False, True]))
    # Bin 1: no gap. Bin 10: three images, 2.9/3 stated, 2/3 observed.
    assert reliability.error == pytest.approx(3 / 4 * (2.9 / 3 - 2 / 3))
    assert [row.images for row in reliability.bins] == [1, *[0] * 8, 3]


def test_drawings_are_equal_bytes_with_ids_of_their_own() -> None:
    first, again, other = (draw_roc(curves(2), key, "Two curves") for key in ("a", "a", "b"))
    assert first == again
    ids = [
        {one.get("id") for one in ET.fromstring(svg).iter() if one.get("id")}
        for svg in (first, other)
    ]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_drawings_refer_only_to_themselves() -> None:
    svg = draw_reliability(
        measure_reliability(np.linspace(0, 1, 50), np.arange(50) % 2 == 0), "a", "T", "Observed"
    )
    root = ET.fromstring(svg)
    ids = {one.get("id") for one in root.iter()}
    links = [value for one in root.iter() for key, value in one.items() if key.endswith("href")]
    assert links
    assert all(link[0] == "#" and link[1:] in ids for link in links)
    assert root.get("aria-label") == "T"
    assert "font-family" not in svg
    assert "<style" not in svg


def test_every_colour_of_a_drawing_is_the_pages() -> None:
    svg = draw_roc(curves(COLOURS + 2), "a", "T")
    assert {f"var(--c{number})" in svg for number in range(COLOURS)} == {True}
    style = ET.fromstring(svg).iter()
    assert not [
        one.get("style") for one in style if "#" in one.get("style", "").replace("url(#", "")
    ]


def test_a_long_curve_is_thinned() -> None:
    # 3,000 images have about 1,500 corners; a point is about 20 characters.
    assert len(draw_roc(curves(1), "a", "T")) < 60_000


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_thumbnail_stretches_grey_inside_the_box(dtype: type) -> None:
    codes = np.zeros((40, 40), dtype)
    codes[:, 10:30] = np.linspace(100, 200, 20).astype(dtype)
    shown = decode(draw_thumbnail(codes, (10, 0, 30, 40)))
    assert shown[0, 10] == 0
    assert shown[0, 29] == 255
    assert abs(int(shown[0, 20]) - 128) < 12


def test_a_thumbnail_keeps_colour_and_copes_with_a_constant() -> None:
    colour = np.full((20, 30, 3), (10, 20, 30), np.uint8)
    assert decode(draw_thumbnail(colour))[0, 0].tolist() == [10, 20, 30]
    assert decode(draw_thumbnail(np.full((9, 9), 7, np.uint16))).max() == 0


def test_a_thumbnail_of_a_large_image_is_small() -> None:
    assert decode(draw_thumbnail(np.zeros((1000, 700), np.uint16))).shape == (250, 175)


def decode(uri: str) -> np.ndarray:
    head, data = uri.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(imagecodecs.png_decode(base64.b64decode(data)))
