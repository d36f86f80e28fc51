"""Resizing: equal to Pillow's, blind to padding, and reversible for points."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread

from medkit.errors import PixelError, UsageError
from medkit.images.filters import Weights, weigh
from medkit.images.resampling import (
    FILTERS,
    GEOMETRIES,
    Axis,
    Spacing,
    apply_affine,
    plan_geometry,
    resample,
    resize,
)

SQUARE = Spacing()
sides = st.integers(1, 80)
sizes = st.tuples(sides, sides)
spacings = st.builds(
    Spacing, st.floats(0.1, 3), st.floats(0.1, 3), st.sampled_from(["", "PixelSpacing"])
)


def make_image(shape: tuple[int, ...], seed: int = 0, dtype: type = np.uint16) -> np.ndarray:
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max, shape, dtype, endpoint=True)


def resize_by_pillow(
    values: np.ndarray, size: tuple[int, int], box: tuple[float, ...] | None = None
) -> np.ndarray:
    picture = Image.fromarray(values.astype(np.float32))
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR, box=box))


@given(sizes, sizes, st.sampled_from([np.uint8, np.uint16, np.int16]), st.integers(0, 2**32))
def test_bilinear_is_pillows(
    shape: tuple[int, int], size: tuple[int, int], dtype: type, seed: int
) -> None:
    values = make_image(shape, seed, dtype)
    resized = resize(values, size)
    assert resized.dtype == np.float32
    tolerance = 1e-5 * max(1, float(np.ptp(values.astype(float))))
    np.testing.assert_allclose(resized, resize_by_pillow(values, size), rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", [(3328, 2560), (1955, 1841), (64, 64), (200, 3001)])
def test_bilinear_is_pillows_at_real_sizes(shape: tuple[int, int]) -> None:
    values = make_image(shape)
    expected = resize_by_pillow(values, (299, 299))
    np.testing.assert_allclose(resize(values, (299, 299)), expected, rtol=0, atol=0.65535)


@given(sizes, sizes, spacings, st.integers(0, 2**32))
def test_a_crop_is_pillows_box(
    shape: tuple[int, int], size: tuple[int, int], spacing: Spacing, seed: int
) -> None:
    values = make_image(shape, seed)
    geometry = plan_geometry(*shape, spacing, size, "crop")
    rows, columns = geometry.rows, geometry.columns
    box = (
        columns.origin,
        rows.origin,
        min(columns.origin + columns.scale * size[1], shape[1]),
        min(rows.origin + rows.scale * size[0], shape[0]),
    )
    resampled, _ = resample(values, None, geometry)
    # Pillow takes the box as float32, so that a pixel may move by 1e-5 of itself.
    np.testing.assert_allclose(
        resampled, resize_by_pillow(values, size, box), rtol=0, atol=65535 * 1e-4
    )


@given(sizes, sizes, st.integers(0, 2**32))
def test_two_taps_are_bilinear_interpolation(
    shape: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    values = make_image(shape, seed).astype(float)
    grids = []
    for source, output in zip(shape, size, strict=True):
        centres = np.clip((np.arange(output) + 0.5) * source / output - 0.5, 0, source - 1)
        low = np.floor(centres).astype(int)
        grids.append((low, np.minimum(low + 1, source - 1), centres - low))
    (top, bottom, down), (left, right, across) = grids
    upper = values[top][:, left] * (1 - across) + values[top][:, right] * across
    lower = values[bottom][:, left] * (1 - across) + values[bottom][:, right] * across
    expected = upper * (1 - down[:, None]) + lower * down[:, None]
    np.testing.assert_allclose(resize(values, size, "two-tap"), expected, rtol=0, atol=0.1)


def test_nearest_copies_labels() -> None:
    labels = make_image((40, 30))
    resized = resize(labels, (17, 60), "nearest")
    assert resized.dtype == labels.dtype
    rows, columns = (np.arange(17) * 40 + 20) // 17, (np.arange(60) * 30 + 15) // 60
    np.testing.assert_array_equal(resized, labels[np.ix_(rows, columns)])


@given(sides, sides, st.booleans())
def test_weights_add_up_to_exactly_one(source: int, output: int, antialiased: bool) -> None:
    axis = Axis(source, output, source / output, 0.0, 0, output)
    weights = weigh(axis, antialiased)
    assert (weights.shares >= 0).all()
    assert (weights.shares.sum(axis=1) == 1).all()
    assert (weights.first >= 0).all()
    assert (weights.first + weights.taps <= source).all()
    assert not weights.shares[np.arange(weights.shares.shape[1]) >= weights.taps[:, None]].any()


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**32))
def test_sums_are_exact(source: int, output: int, seed: int) -> None:
    """Sums of fractions, which know no rounding and no order, give the same bits."""
    values = make_image((source, 1), seed)
    geometry = plan_geometry(source, 1, SQUARE, (output, 1), "stretch")
    summed = np.zeros(output, np.float32)
    for row, (first, count, shares) in enumerate(zip(*weigh(geometry.rows, True), strict=True)):
        taps = zip(shares[:count], values[first : first + count, 0], strict=True)
        total = sum((Fraction(share) * int(value) for share, value in taps), Fraction(0))
        summed[row] = round(total * 2**13) / 2**13
    np.testing.assert_array_equal(resample(values, None, geometry)[0][:, 0], summed)


def spread_out(weights: Weights, source: int) -> np.ndarray:
    """Return the share of each source pixel in each output pixel, shape (output, source)."""
    spread = np.zeros((len(weights.first), source))
    for row, (first, count, shares) in zip(spread, zip(*weights, strict=True), strict=True):
        row[first : first + count] = shares[:count]
    return spread


def test_every_pixel_of_a_large_image_has_its_share() -> None:
    """In float32, before rounding: an impulse of one step, wherever it is."""
    shape, size = (3328, 2560), (299, 299)
    geometry = plan_geometry(*shape, SQUARE, size, "stretch")
    axes = (geometry.rows, geometry.columns)
    down, across = (spread_out(weigh(axis, True), axis.source) for axis in axes)
    assert min(down.sum(axis=0).min(), across.sum(axis=0).min()) > 0.05
    # What an impulse at (r, c) leaves is the product; the first axis keeps steps of 2**-13.
    least = down.max(axis=0).min()
    assert least > 2.0**-12
    assert np.float32(least * across.max(axis=0).min()) > 2.0**-10
    # And in full, for some of them.
    for row, column in [(0, 0), (3327, 2559), (1000, 1), (1664, 1283)]:
        impulse = np.zeros(shape, np.uint16)
        impulse[row, column] = 1
        brightest = resample(impulse, None, geometry)[0].max()
        assert brightest == pytest.approx(down[:, row].max() * across[:, column].max(), rel=2e-3)


def test_bilinear_is_tensorflows_antialiased(pydicom_files: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    for values, size in (
        (make_image((512, 512)), (299, 299)),
        (make_image((40, 61)), (64, 20)),
        (make_image((700, 90)), (299, 299)),
        (dcmread(pydicom_files / "CT_small.dcm").pixel_array, (299, 299)),
        (dcmread(pydicom_files / "CT_small.dcm").pixel_array, (50, 31)),
    ):
        theirs = tensorflow.image.resize(
            values.astype(np.float32)[..., None], size, method="bilinear", antialias=True
        )
        tolerance = 1e-4 * float(np.ptp(values.astype(float)))
        ours = resize(values, size)
        np.testing.assert_allclose(ours, theirs.numpy()[..., 0], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "examples_palette.dcm"])
def test_real_frames_are_resized_as_pillow_does(pydicom_files: Path, name: str) -> None:
    values = dcmread(pydicom_files / name).pixel_array
    tolerance = 1e-5 * float(np.ptp(values.astype(float)))
    expected = resize_by_pillow(values, (299, 299))
    np.testing.assert_allclose(resize(values, (299, 299)), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("geometry", sorted(GEOMETRIES))
@pytest.mark.parametrize("filter", sorted(FILTERS))
@pytest.mark.parametrize("shape", [(299, 299), (299, 299, 3), (120, 250)])
def test_a_source_of_the_right_size_is_left_alone(
    geometry: str, filter: str, shape: tuple[int, ...]
) -> None:
    values = make_image(shape)
    spacing = Spacing(0.7, 0.7, "PixelSpacing")
    plan = plan_geometry(
        *shape[:2], spacing, shape[:2], geometry, 0.7 if geometry == "mm" else None
    )
    resampled, mask = resample(values, None, plan, filter)
    np.testing.assert_array_equal(resampled, values)
    assert mask.all()
    assert plan.affine == (1, 0, 0, 0, 1, 0)


@given(sizes, spacings, sizes, st.sampled_from(sorted(GEOMETRIES)), st.floats(0.1, 5))
def test_points_go_there_and_back(
    shape: tuple[int, int], spacing: Spacing, size: tuple[int, int], name: str, mm: float
) -> None:
    if name == "mm" and not spacing.physical:
        spacing = spacing._replace(origin="PixelSpacing")
    geometry = plan_geometry(*shape, spacing, size, name, mm if name == "mm" else None)
    points = np.random.default_rng(0).uniform(-5, 100, (20, 2))
    back = apply_affine(geometry.affine, apply_affine(geometry.inverse, points))
    np.testing.assert_allclose(back, points, atol=1e-6)
    left, top, right, bottom = geometry.pad_box
    assert 0 <= left < right <= size[1]
    assert 0 <= top < bottom <= size[0]
    # Whole output pixels: half a source pixel, or half an output pixel where those are larger.
    inside = np.stack([np.arange(left, right)[:1], np.arange(top, bottom)[:1]], axis=-1)
    sources = apply_affine(geometry.affine, inside)
    reached = apply_affine(geometry.inverse, np.round(sources))
    assert (np.abs(apply_affine(geometry.affine, reached) - sources) <= 0.5 + 1e-9).all()


def test_the_affine_finds_a_bright_spot() -> None:
    values = np.zeros((400, 700), np.uint16)
    values[100:104, 600:604] = 60000
    geometry = plan_geometry(400, 700, Spacing(1.5, 0.5, "PixelSpacing"), (299, 299))
    resampled, _ = resample(values, None, geometry)
    rows, columns = np.indices(resampled.shape)
    total = resampled.sum()
    centre = [(columns * resampled).sum() / total, (rows * resampled).sum() / total]
    np.testing.assert_allclose(apply_affine(geometry.affine, centre), (601.5, 101.5), atol=0.5)


def test_a_circle_comes_out_round() -> None:
    y, x = np.mgrid[:200, :400]
    # 1 mm between rows, 0.5 mm between columns: a circle of 60 mm.
    circle = ((((y - 100) * 1.0) ** 2 + ((x - 200) * 0.5) ** 2) < 60**2).astype(np.uint8) * 255
    for name in ("letterbox", "crop", "mm"):
        geometry = plan_geometry(
            200,
            400,
            Spacing(1.0, 0.5, "PixelSpacing"),
            (150, 150),
            name,
            1.0 if name == "mm" else None,
        )
        drawn = resample(circle, None, geometry)[0]
        height, width = (
            np.average((i - i.mean()) ** 2, weights=drawn) for i in np.indices((150, 150))
        )
        assert abs(np.sqrt(height / width) - 1) <= 0.01


def test_letterbox_shows_all_and_pads_two_sides() -> None:
    geometry = plan_geometry(100, 200, SQUARE, (299, 299))
    assert geometry.pad_box == (0, 74, 299, 224)
    values, mask = resample(np.full((100, 200), 7, np.uint16), None, geometry)
    assert (values[74:224] == 7).all()
    assert mask.sum() == 150 * 299
    assert not values[~mask].any()


def test_mm_pads_small_and_cuts_large() -> None:
    spacing = Spacing(0.5, 2.0, "PixelSpacing")
    geometry = plan_geometry(100, 100, spacing, (80, 80), "mm", 1.0)
    assert geometry.pad_box == (0, 15, 80, 65)
    assert geometry.columns.scale == 0.5
    assert geometry.rows.scale == 2.0


@pytest.mark.parametrize("filter", sorted(FILTERS))
@pytest.mark.parametrize("source", [1, 2, 10])
def test_a_source_far_below_a_pixel_is_one_pixel(filter: str, source: int) -> None:
    """Between two centres of the output, none of which lies on it."""
    spacing = Spacing(0.5, 0.5, "PixelSpacing")
    geometry = plan_geometry(source, source, spacing, (8, 8), "mm", 100.0)
    values, mask = resample(np.full((source, source), 7, np.uint16), None, geometry, filter)
    assert (values[mask] == 7).all()
    assert mask.sum() == 1


def test_geometries_refuse_what_they_cannot_do() -> None:
    with pytest.raises(PixelError, match="no-spacing"):
        plan_geometry(10, 10, Spacing(1, 2, "PixelAspectRatio"), (5, 5), "mm", 1.0)
    with pytest.raises(UsageError, match="mm"):
        plan_geometry(10, 10, Spacing(1, 2, "PixelSpacing"), (5, 5), "mm")
    with pytest.raises(UsageError, match="letterbox"):
        plan_geometry(10, 10, SQUARE, (5, 5), "squeeze")
    with pytest.raises(UsageError, match="two-tap"):
        resize(np.zeros((3, 3)), (2, 2), "cubic")


@given(sizes, sizes, st.integers(0, 2**32), st.sampled_from(["bilinear", "two-tap"]))
def test_padding_is_not_mixed_in(
    shape: tuple[int, int], size: tuple[int, int], seed: int, filter: str
) -> None:
    random = np.random.default_rng(seed)
    mask = random.random(shape) < 0.7
    geometry = plan_geometry(*shape, SQUARE, size, "stretch")
    values = np.where(mask, 1000, random.integers(0, 65536, shape)).astype(np.uint16)
    resampled, covered = resample(values, mask, geometry, filter)
    np.testing.assert_allclose(resampled[covered], 1000, rtol=1e-4)
    assert not resampled[~covered].any()


def make_mask(kind: str, shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Return a mask like those of scanners: noise, an ellipse, or one with a few holes."""
    noise = random.random(shape)
    if kind == "noise":
        return noise < random.random()
    axes = (np.mgrid[: shape[0], : shape[1]].T - random.random(2) * shape) / shape
    distances = (axes**2).sum(axis=-1).T
    ellipse = distances < random.random() / 2
    return ellipse if kind == "ellipse" else ellipse & (noise < 0.98)


@given(
    sizes,
    sizes,
    st.integers(0, 2**32),
    st.sampled_from(["noise", "ellipse", "holes"]),
    st.sampled_from([(), (3,)]),
)
def test_pixels_at_padding_are_means_of_what_is_no_padding(
    shape: tuple[int, int], size: tuple[int, int], seed: int, kind: str, depth: tuple[int, ...]
) -> None:
    random = np.random.default_rng(seed)
    mask = make_mask(kind, shape, random)
    values = make_image((*shape, *depth), seed, np.int16)
    plan = plan_geometry(*shape, SQUARE, size, "stretch")
    rows, columns = (
        spread_out(weigh(axis, True), axis.source) for axis in (plan.rows, plan.columns)
    )
    flat = (values * mask.reshape(*shape, *(1 for _ in depth))).reshape(*shape, -1)
    sums = np.einsum("yi,ijc,xj->yxc", rows, flat, columns)
    shares = rows @ mask @ columns.T
    expected = np.zeros(sums.shape)
    covered = shares >= 2.0**-10
    expected[covered] = sums[covered] / shares[covered][:, np.newaxis]
    found, where = resample(values, mask, plan)
    if not plan.is_identity():
        np.testing.assert_array_equal(where, covered)
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-5, atol=0.1)


@pytest.mark.parametrize(("valid", "covered"), [(1, False), (4, True), (2000, True)])
def test_a_thousandth_of_a_filter_makes_no_pixel(valid: int, covered: bool) -> None:
    values, mask = np.full((1, 2000), 7, np.uint16), np.zeros((1, 2000), bool)
    mask[:, 1000 - valid // 2 : 1001 + valid // 2] = True
    geometry = plan_geometry(1, 2000, SQUARE, (1, 1), "stretch")
    resampled, found = resample(values, mask, geometry)
    assert found.item() == covered
    assert resampled.item() == 7 * covered


@given(sizes, sizes, st.integers(0, 40), st.integers(0, 2**32))
def test_padding_changes_nothing_away_from_it(
    shape: tuple[int, int], size: tuple[int, int], column: int, seed: int
) -> None:
    values = make_image(shape, seed)
    geometry = plan_geometry(*shape, SQUARE, size, "stretch")
    mask = np.ones(shape, dtype=bool)
    mask[:, column:] = False
    plain, _ = resample(values, None, geometry)
    masked, covered = resample(np.where(mask, values, 12345), mask, geometry)
    centres = (np.arange(size[1]) + 0.5) * shape[1] / size[1]
    free = centres + max(1.0, shape[1] / size[1]) <= column
    np.testing.assert_array_equal(masked[:, free], plain[:, free])
    assert covered[:, free].all()


def test_how_an_array_lies_in_memory_is_all_one() -> None:
    values = make_image((40, 30))
    expected = resize(values, (17, 23))
    fixed = values.copy()
    fixed.flags.writeable = False
    for other in (values.astype(">u2"), np.asfortranarray(values), fixed, values[::-1][::-1]):
        np.testing.assert_array_equal(resize(other, (17, 23)), expected)


def test_colour_is_resized_channel_by_channel() -> None:
    values = make_image((50, 70, 3), dtype=np.uint8)
    resized = resize(values, (31, 23))
    for channel in range(3):
        np.testing.assert_array_equal(resized[..., channel], resize(values[..., channel], (31, 23)))


@pytest.mark.parametrize(
    ("source", "result"),
    [
        (np.uint8, np.float32),
        (np.int16, np.float32),
        (np.float32, np.float32),
        (np.int32, np.float64),
        (np.uint32, np.float64),
        (np.float64, np.float64),
    ],
)
def test_wide_types_stay_wide(source: type, result: type) -> None:
    values = (np.arange(20).reshape(4, 5) * 100).astype(source)
    assert resize(values, (3, 3)).dtype == result
    assert resize(values, (4, 5)).dtype == result


def test_not_a_number_stays_behind_the_mask() -> None:
    values = np.array([[np.nan, 1.0, 1.0, 1.0]], dtype=np.float32)
    geometry = plan_geometry(1, 4, SQUARE, (1, 2), "stretch")
    resampled, covered = resample(values, np.isfinite(values), geometry)
    assert covered.all()
    np.testing.assert_allclose(resampled, 1)
