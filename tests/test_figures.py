"""Figures: the points against scikit-learn, the drawings as elements of a page."""

from __future__ import annotations

import warnings
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medkit.evaluation.curves import (
    GRID,
    ClassCurves,
    Curve,
    band_precision,
    band_reliability,
    band_roc,
    measure_reliability,
    trace_precision,
    trace_roc,
)
from medkit.evaluation.figures import COLOURS, draw_precision, draw_reliability, draw_roc
from medkit.statistics.reliability import BINS

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
    assert auc(curve.x, curve.y) == pytest.approx(auc(false, true))


def lies_on(curve: Curve, x: float, y: float) -> bool:
    """Tell whether a point is on one of the curve's straight lines."""
    xs, ys = curve.x, curve.y
    between = (xs[:-1] <= x) & (x <= xs[1:]) & (ys[:-1] <= y) & (y <= ys[1:])
    off = (x - xs[:-1]) * np.diff(ys) - (y - ys[:-1]) * np.diff(xs)
    return bool((between & np.isclose(off, 0)).any())


def test_a_straight_stretch_of_a_roc_is_two_points() -> None:
    curve = trace_roc(np.array([True] * 50 + [False] * 50), np.arange(100.0)[::-1])
    assert curve is not None
    assert list(zip(curve.x, curve.y, strict=True)) == [
        (0, 0),
        (0, 1),
        (1, 1),
    ]


@settings(deadline=None)
@given(SCORED)
def test_precision_over_recall_is_that_of_scikit_learn(scored: list[tuple[bool, int]]) -> None:
    from sklearn.metrics import precision_recall_curve

    truth = np.array([one for one, _ in scored])
    scores = np.array([score / 8 for _, score in scored])
    curve = trace_precision(truth, scores)
    if not truth.any():
        assert curve is None
        return
    assert curve is not None
    precision, recall, _ = precision_recall_curve(truth, scores)
    # It goes from right to left, and ends with a point that no threshold has.
    assert np.allclose(curve.x, recall[-2::-1])
    assert np.allclose(curve.y, precision[-2::-1])


def cohort(persons: int = 150) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return truth, calibrated scores and persons of four images each."""
    random = np.random.default_rng(0)
    stated = np.repeat(random.uniform(0, 1, persons), 4)
    truth = random.uniform(0, 1, 4 * persons) < stated
    return truth, stated, np.repeat(np.arange(persons), 4).astype(str)


def test_bands_hold_their_curves_and_grow_narrower_with_persons() -> None:
    truth, scores, persons = cohort()
    for trace, band in ((trace_roc, band_roc), (trace_precision, band_precision)):
        curve, around = trace(truth, scores), band(truth, scores, persons, 1)
        assert curve is not None
        inside = np.interp(GRID[5:-5], curve.x, curve.y)
        assert (around.low[5:-5] <= inside + 0.03).all()
        assert (around.high[5:-5] >= inside - 0.03).all()
        widths = [
            np.nanmean(one.high - one.low)
            for one in (band(*cohort(count), 1) for count in (60, 600))
        ]
        assert widths[1] < 0.5 * widths[0]


def test_a_band_draws_persons_and_not_images() -> None:
    truth, scores, persons = cohort()
    alone = np.arange(len(persons)).astype(str)
    # Four images of a person that share their score are no four witnesses.
    of_persons, of_images = (band_roc(truth, scores, who, 1) for who in (persons, alone))
    assert np.nanmean(of_persons.high - of_persons.low) > np.nanmean(of_images.high - of_images.low)


def test_a_reliability_band_holds_what_was_observed() -> None:
    stated, truth, persons = cohort()[1], cohort()[0], cohort()[2]
    band, bins = (
        band_reliability(stated, truth, persons, 1),
        measure_reliability(stated, truth).bins,
    )
    for one, low, high in zip(bins, band.low, band.high, strict=True):
        if one.observed is not None and not np.isnan(low):
            assert low <= one.observed <= high
    assert np.isnan(band_reliability(stated / 2, truth, persons, 1).low[-1])


@settings(deadline=None)
@given(SCORED)
def test_reliability_is_that_of_scikit_learn(scored: list[tuple[bool, int]]) -> None:
    from sklearn.calibration import calibration_curve

    truth = np.array([one for one, _ in scored])
    # Off the edges of bins, where scikit-learn's bins are closed on the other side.
    stated = np.array([(score + 0.5) / 9.27 for _, score in scored])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observed, predicted = calibration_curve(truth, stated, n_bins=BINS, strategy="uniform")
    filled = [row for row in measure_reliability(stated, truth).bins if row.images]
    assert np.allclose([row.observed for row in filled], observed)
    assert np.allclose([row.predicted for row in filled], predicted)
    assert sum(row.images for row in filled) == len(scored)


def test_the_calibration_error_is_the_weighted_gap() -> None:
    stated = np.array([0.0, 0.95, 0.95, 1.0])
    reliability = measure_reliability(stated, np.array([False, True, False, True]))
    # First bin: no gap. Last bin: three images, 2.9/3 stated, 2/3 observed.
    assert reliability.error == pytest.approx(3 / 4 * (2.9 / 3 - 2 / 3))
    assert [row.images for row in reliability.bins] == [1, *[0] * (BINS - 2), 3]


def test_drawings_are_equal_bytes_with_ids_of_their_own() -> None:
    first, again, other = (draw_roc(curves(2), key, "Two curves") for key in ("a", "a", "b"))
    assert first == again
    ids = [
        {one.get("id") for one in ET.fromstring(svg).iter() if one.get("id")}
        for svg in (first, other)
    ]
    assert ids[0]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize("kind", ["reliability", "precision"])
def test_drawings_refer_only_to_themselves(kind: str) -> None:
    svg = {
        "reliability": lambda: draw_reliability(
            measure_reliability(np.linspace(0, 1, 50), np.arange(50) % 2 == 0), "a", "T", "Observed"
        ),
        "precision": lambda: draw_precision(curves(2), 0.3, "a", "T"),
    }[kind]()
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
