"""The pixel pipeline, step by step and whole."""

from __future__ import annotations

import importlib.util
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from catalogrows import make_row
from hypothesis import given
from hypothesis import strategies as st
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_windowing, convert_color_space

from medkit.errors import PixelError
from medkit.images import pixels
from medkit.images.decoding import Decoded
from medkit.images.lookups import Lookup, read_palette
from medkit.images.padding import find_padding
from medkit.images.pixels import Frame, encode, hash_values, name_array, read_frame
from medkit.images.resampling import Spacing, plan_geometry, resample
from medkit.images.scales import Scale, Window, turn_window
from medkit.images.windows import plan_transfer
from medkit.testing import write_dicom


@pytest.fixture(scope="session")
def extra_files() -> Path:
    """The real DICOM files of the package pydicom-data."""
    found = importlib.util.find_spec("data_store")
    if found is None:
        pytest.skip("pydicom-data is not installed")
    return Path(found.submodule_search_locations[0]) / "data"


def read(path: Path, values: np.ndarray, **keywords: Any) -> Frame:
    """Write values as a DICOM file, and read them as a frame."""
    return read_frame(make_row(write_dicom(path, values, **keywords)))


def grey_row(**changes: Any) -> dict[str, Any]:
    return {
        "format": "dicom",
        "PhotometricInterpretation": "MONOCHROME2",
        "Modality": "CT",
    } | changes


def to_codes(frame: Frame, size: tuple[int, int], geometry: str = "letterbox") -> np.ndarray:
    plan = plan_geometry(*frame.values.shape[:2], frame.spacing, size, geometry)
    values, mask = resample(frame.values, frame.mask, plan)
    kind = frame.array.split("x")[0]
    return encode(values, mask, frame.stored_fill, frame.base, frame.k, kind)


# Whole frames


def test_a_ct_keeps_stored_values_and_says_what_they_mean(pydicom_files: Path) -> None:
    frame = read_frame(make_row(pydicom_files / "CT_small.dcm"))
    header = pydicom.dcmread(pydicom_files / "CT_small.dcm")
    np.testing.assert_array_equal(frame.values, header.pixel_array)
    np.testing.assert_array_equal(
        frame.values * frame.slope + frame.intercept, apply_modality_lut(header.pixel_array, header)
    )
    assert (frame.units, frame.fill, frame.polarity) == ("HU", -1000, "kept")
    assert (frame.array, frame.base, frame.k) == ("uint16x1", -32768, 1)
    assert frame.spacing == Spacing(0.661468, 0.661468, "PixelSpacing")
    assert frame.source_sha256 == hash_values(header.pixel_array)
    assert not frame.lossy
    assert not frame.constant


def test_codes_at_the_size_of_the_source_are_the_stored_integers(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-2048, 2048, (30, 30)).astype(np.int16)
    frame = read(tmp_path / "x.dcm", values, BitsStored=12, HighBit=11)
    codes = to_codes(frame, (30, 30))
    np.testing.assert_array_equal(codes, (values.astype(int) + 2048) * 16)
    np.testing.assert_array_equal(codes / frame.k + frame.base, values)


@given(st.integers(1, 16), st.booleans(), st.integers(0, 2**32))
def test_codes_are_within_half_a_step(bits: int, signed: bool, seed: int) -> None:
    low = -(2 ** (bits - 1)) if signed else 0
    base, k = pixels.choose_code("uint16x1", Scale(low, low + 2**bits - 1))
    random = np.random.default_rng(seed)
    values, mask = random.uniform(low, low + 2**bits - 1, (5, 10)), random.random((5, 10)) < 0.9
    codes = encode(values, mask, low, base, k, "uint16")
    assert k == 2 ** min(4, 16 - bits)
    assert np.abs(codes / k + base - np.where(mask, values, low)).max() <= 0.5 / k + 1e-9


def test_codes_say_what_values_say(tmp_path: Path) -> None:
    values = np.arange(100, dtype=np.uint16).reshape(10, 10)
    frame = read(
        tmp_path / "x.dcm",
        values,
        Modality="PT",
        RescaleSlope=0.37,
        RescaleIntercept=-4,
        BitsStored=14,
        HighBit=13,
    )
    codes = to_codes(frame, (10, 10))
    np.testing.assert_allclose(
        codes * frame.code_slope + frame.code_intercept, values * 0.37 - 4, atol=1e-12
    )


@given(
    st.integers(1, 16),
    st.booleans(),
    st.floats(-3, 3).filter(lambda slope: abs(slope) > 0.01),
    st.floats(-2000, 2000),
    st.sampled_from([None, "LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    st.integers(0, 2**32),
)
def test_monochrome1_is_the_twin_of_monochrome2(
    bits: int, signed: bool, slope: float, intercept: float, function: str | None, seed: int
) -> None:
    """Turned values under the turned window look as the values did under theirs, upside down."""
    low = -(2 ** (bits - 1)) if signed else 0
    scale = Scale(low, low + 2**bits - 1, slope, intercept)
    random = np.random.default_rng(seed)
    values = random.integers(low, low + 2**bits, (4, 5)).astype(np.int16 if signed else np.uint16)
    window = Window(
        float(random.uniform(*scale.full_range)), 2 + float(random.uniform(1, 500)), function
    )
    turned = pixels.turn_polarity(values, scale)
    assert turned.dtype == values.dtype
    np.testing.assert_array_equal(pixels.turn_polarity(turned, scale), values)
    shown = show(values, scale, window)
    np.testing.assert_allclose(
        show(turned, scale, turn_window(window, scale)), 1 - shown, atol=1e-5
    )


def show(values: np.ndarray, scale: Scale, window: Window) -> np.ndarray:
    """Return values, 0 to 1, through the window with which a set would be read."""
    table = pd.DataFrame(
        {
            "image": [0],
            "array": ["float64x1"],
            "slope": [scale.slope],
            "intercept": [scale.intercept],
            "full_low": [scale.full_range[0]],
            "full_high": [scale.full_range[1]],
            "WindowCenter": [window.center],
            "WindowWidth": [window.width],
            "VOILUTFunction": [window.function],
        }
    )
    codes = values.astype(np.float64)[np.newaxis]
    return plan_transfer(table, "header").apply(codes, np.array([0]))[0]


@pytest.mark.parametrize(
    ("turned", "changes"),
    [
        (True, {"PhotometricInterpretation": "MONOCHROME1"}),
        (True, {"PresentationLUTShape": "INVERSE"}),
        (True, {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}),
        (True, {"PhotometricInterpretation": "MONOCHROME1", "format": "tiff", "Modality": None}),
        (False, {"PresentationLUTShape": "IDENTITY"}),
        (False, {"PhotometricInterpretation": "MONOCHROME1", "Modality": "PT"}),
        (False, {"PhotometricInterpretation": "MONOCHROME1", "Modality": "CT"}),
        (False, {"PhotometricInterpretation": "RGB", "PresentationLUTShape": "INVERSE"}),
    ],
)
def test_display_images_alone_are_turned(turned: bool, changes: dict[str, Any]) -> None:
    assert pixels.is_turned(grey_row(Modality="DX") | changes) == turned


# Padding


def test_added_padding_leaves_the_inside_unchanged(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (40, 40)).astype(np.int16)
    padded = np.full((40, 40), -2000, np.int16)
    padded[:, :20] = values[:, :20]
    plain = read(tmp_path / "plain.dcm", values)
    masked = read(tmp_path / "masked.dcm", padded, PixelPaddingValue=-2000)
    whole, cut = to_codes(plain, (20, 20)), to_codes(masked, (20, 20))
    np.testing.assert_array_equal(cut[:, :9], whole[:, :9])
    assert (cut[:, 11:] == 0 + 32768).all()  # CT without rescale has no HU: zero
    # Nothing of -2000 shows anywhere.
    assert cut.min() >= 32768


@pytest.mark.parametrize(
    ("value", "limit", "padding"),
    [
        (-2000, None, [-2000]),
        (-2000, -1990, [-2000, -1995, -1990]),
        (-1990, -2000, [-2000, -1995, -1990]),
        (5, None, []),
    ],
)
def test_padding_is_a_value_or_a_range(value: int, limit: int | None, padding: list[int]) -> None:
    values = np.array([[-2000, -1995, -1990, 0, 7]], dtype=np.int16)
    row = grey_row(PixelPaddingValue=value, PixelPaddingRangeLimit=limit, BitsStored=16)
    mask = find_padding(Decoded(values, "MONOCHROME2"), row)
    assert values[~mask].tolist() == padding if padding else mask is None


@pytest.mark.parametrize("padding", [63536, -2000])  # the same bits, read with either sign
def test_padding_beyond_the_stored_bits_is_no_value_of_the_image(
    tmp_path: Path, padding: int
) -> None:
    values = np.array([[63536, 7], [-2000 & 0xFFF, 9]], dtype=np.uint16)
    path = write_dicom(tmp_path / "x.dcm", values, BitsStored=12, HighBit=11)
    frame = read_frame(make_row(path, PixelPaddingValue=padding))
    assert frame.mask is not None
    assert frame.mask.tolist() == [[False, True], [True, True]]
    assert frame.values[frame.mask].tolist() == [7, 2096, 9]


def test_padding_is_for_grey_images() -> None:
    row = grey_row(PixelPaddingValue=255, PhotometricInterpretation="RGB")
    colour = Decoded(np.full((2, 2, 3), 255, np.uint8), "RGB")
    assert find_padding(colour, row) is None


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_no_finite_number_is_padding(odd: float) -> None:
    floats = Decoded(np.array([[odd, 1.0]]), "MONOCHROME2")
    assert find_padding(floats, grey_row()).tolist() == [[False, True]]


@pytest.mark.parametrize(("kind", "dtype"), [("Float", np.float32), ("DoubleFloat", np.float64)])
@pytest.mark.parametrize("limit", [None, -900.0, -1100.0])
def test_padding_in_floating_point_is_that_of_the_header(
    tmp_path: Path, kind: str, dtype: type, limit: float | None
) -> None:
    values = np.array([[-1000.1, -1100.0], [-950.0, 7.5]], dtype=dtype)
    path = write_dicom(tmp_path / "x.dcm", np.zeros((2, 2), np.uint16))
    header = pydicom.dcmread(path)
    header.BitsAllocated = 8 * values.itemsize
    del header.PixelData
    setattr(header, f"{kind}PixelData", values.tobytes())
    setattr(header, f"{kind}PixelPaddingValue", -1000.1)
    if limit is not None:
        setattr(header, f"{kind}PixelPaddingRangeLimit", limit)
    header.save_as(path)
    mask = read_frame(make_row(path)).mask
    assert mask is not None
    padding = {None: [-1000.1], -900.0: [-1000.1, -950.0], -1100.0: [-1000.1, -1100.0]}[limit]
    np.testing.assert_array_equal(values[~mask], np.array(padding, dtype=dtype))


def test_an_overlay_over_padding_leaves_it_padding(tmp_path: Path) -> None:
    values = np.array([[0, 0x8000], [0x8007, 7]], dtype=np.uint16)
    frame = read(tmp_path / "x.dcm", values, BitsStored=12, HighBit=11, PixelPaddingValue=0)
    assert frame.mask is not None
    assert frame.mask.tolist() == [[False, False], [True, True]]


def test_padding_is_filled_with_air(tmp_path: Path) -> None:
    values = np.arange(100, dtype=np.int16).reshape(10, 10)
    values[:, :5] = -2000
    common = {"RescaleSlope": 2, "RescaleIntercept": -1024, "RescaleType": "HU"}
    frame = read(tmp_path / "x.dcm", values, PixelPaddingValue=-2000, **common)
    real = to_codes(frame, (10, 10)) * frame.code_slope + frame.code_intercept
    assert (real[:, :5] == -1000).all()
    np.testing.assert_array_equal(real[:, 5:], values[:, 5:] * 2 - 1024)


def test_an_image_of_padding_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PixelError, match="all-padding"):
        read(tmp_path / "x.dcm", np.zeros((3, 3), np.uint16), PixelPaddingValue=0)


# Lookup tables and colours


def test_a_modality_lut_is_pydicoms(extra_files: Path) -> None:
    frame = read_frame(make_row(extra_files / "mlut_18.dcm"))
    header = pydicom.dcmread(extra_files / "mlut_18.dcm")
    np.testing.assert_array_equal(frame.values, apply_modality_lut(header.pixel_array, header))
    assert (frame.slope, frame.intercept, frame.base, frame.k) == (1, 0, 0, 1)
    assert (frame.full_low, frame.full_high, frame.units) == (0, 65535, "US")


def make_modality_lut(units: Any) -> pydicom.Sequence:
    item = pydicom.Dataset()
    item.LUTDescriptor = [256, 0, 16]
    item.ModalityLUTType = units
    item.LUTData = np.arange(0, 65536, 256, dtype="<u2").tobytes()
    return pydicom.Sequence([item])


@pytest.mark.parametrize(("units", "kept"), [("HU", "HU"), (["HU", "US"], "HU"), ("", None)])
def test_units_of_a_modality_lut_are_one_text_or_none(
    tmp_path: Path, units: Any, kept: str | None
) -> None:
    values = np.arange(4, dtype=np.uint8).reshape(2, 2)
    frame = read(tmp_path / "x.dcm", values, ModalityLUTSequence=make_modality_lut(units))
    assert (frame.values[1, 1], frame.units) == (768, kept)


def test_a_modality_lut_is_for_grey_images(tmp_path: Path) -> None:
    values = np.full((2, 2, 3), 100, np.uint8)
    frame = read(tmp_path / "x.dcm", values, ModalityLUTSequence=make_modality_lut("US"))
    np.testing.assert_array_equal(frame.values, values)


@pytest.mark.parametrize("name", ["OBXXXX1A.dcm", "OBXXXX1A_rle.dcm", "gdcm-US-ALOKA-16.dcm"])
def test_a_palette_is_pydicoms(extra_files: Path, name: str) -> None:
    frame = read_frame(make_row(extra_files / name))
    header = pydicom.dcmread(extra_files / name)
    expected = apply_color_lut(header.pixel_array, header)
    assert expected.dtype == np.uint16
    np.testing.assert_array_equal(frame.values, expected)
    assert (frame.array, frame.full_high) == ("uint16x3", 65535)


@pytest.mark.parametrize(
    ("little", "big"),
    [("OBXXXX1A.dcm", "OBXXXX1A_expb.dcm"), ("gdcm-US-ALOKA-16.dcm", "gdcm-US-ALOKA-16_big.dcm")],
)
def test_palettes_of_either_byte_order_are_equal(extra_files: Path, little: str, big: str) -> None:
    one, other = (read_frame(make_row(extra_files / name)) for name in (little, big))
    np.testing.assert_array_equal(one.values, other.values)
    assert one.source_sha256 == other.source_sha256


def make_palette(first: int, entries: list[int], bits: int, words: bool) -> bytes:
    header = pydicom.Dataset()
    header.PixelRepresentation = 0
    data = np.array(entries, "<u2" if words else np.uint8).tobytes()
    for channel in ("Red", "Green", "Blue"):
        setattr(header, f"{channel}PaletteColorLookupTableDescriptor", [len(entries), first, bits])
        setattr(header, f"{channel}PaletteColorLookupTableData", data + b"\0" * (len(data) % 2))
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, header, enforce_file_format=False)
    return stream.getvalue()


@pytest.mark.parametrize(("bits", "words"), [(8, False), (8, True), (16, True)])
def test_palettes_of_all_widths_are_read(bits: int, words: bool) -> None:
    entries = [3, 250, 7] if bits == 8 else [3, 65000, 7]
    palette = read_palette(io.BytesIO(make_palette(10, entries, bits, words)))
    mapped = palette.apply(np.array([[0, 10, 11, 12, 300]], dtype=np.uint16))
    assert mapped[0, :, 1].tolist() == [entries[i] for i in (0, 0, 1, 2, 2)]
    assert palette.bits == bits


def test_palettes_that_cannot_be_are_refused() -> None:
    for data in (b"", b"rubbish" * 50, make_palette(0, [3, 300], 8, True)):
        with pytest.raises(PixelError, match="lookup-table"):
            read_palette(io.BytesIO(data))


def test_floating_point_indexes_no_table() -> None:
    with pytest.raises(PixelError, match="lookup-table"):
        Lookup(0, np.arange(3, dtype=np.uint16), 8).apply(np.array([0.5], np.float32))


def test_a_lookup_holds_its_ends() -> None:
    lookup = Lookup(-5, np.array([10, 20, 30], np.uint16), 8)
    assert lookup.apply(np.array([-32768, -5, -4, 32767], np.int16)).tolist() == [10, 10, 20, 30]


@given(st.integers(0, 2**32))
def test_ybr_becomes_the_rgb_of_pydicom(seed: int) -> None:
    ybr = np.random.default_rng(seed).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    rgb = pixels.convert_ybr(Decoded(ybr, "YBR_FULL"), Scale(0, 255))
    assert rgb.dtype == np.uint8
    expected = convert_color_space(ybr, "YBR_FULL", "RGB")
    assert np.abs(rgb.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("compressed", "reference", "tolerance"),
    [
        ("SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_dcmtk_ebcr_dcmd.dcm", 2),
        ("SC_rgb_dcmtk_+eb+cy+n1.dcm", "SC_rgb_dcmtk_ebcyn1_dcmd.dcm", 8),
        ("SC_rgb_dcmtk_+eb+cy+n2.dcm", "SC_rgb_dcmtk_ebcyn2_dcmd.dcm", 8),
        ("SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_rgb_dcmtk_ebcynp_dcmd.dcm", 8),
        ("SC_rgb_dcmtk_+eb+cy+s2.dcm", "SC_rgb_dcmtk_ebcys2_dcmd.dcm", 8),
        ("SC_rgb_dcmtk_+eb+cy+s4.dcm", "SC_rgb_dcmtk_ebcys4_dcmd.dcm", 2),
    ],
)
def test_lossy_jpeg_is_close_to_dcmtks(
    pydicom_files: Path, extra_files: Path, compressed: str, reference: str, tolerance: int
) -> None:
    frame = read_frame(make_row(pydicom_files / compressed))
    expected = pydicom.dcmread(extra_files / reference).pixel_array
    assert np.abs(frame.values.astype(int) - expected).max() <= tolerance
    assert frame.lossy
    assert (frame.array, frame.fill, frame.k) == ("uint8x3", 0, 1)


def test_a_supplemental_palette_is_refused(extra_files: Path) -> None:
    with pytest.raises(PixelError, match="supplemental-palette"):
        read_frame(make_row(extra_files / "eCT_Supplemental.dcm"))


# Steps


@pytest.mark.parametrize(
    ("array", "changes"),
    [
        ("uint16x1", {}),
        ("uint16x1", {"BitsAllocated": 1, "BitsStored": 1}),
        ("float32x1", {"BitsAllocated": 32, "BitsStored": 24}),
        ("float64x1", {"BitsAllocated": 32, "BitsStored": 32}),
        ("uint16x1", {"BitsAllocated": 32, "BitsStored": 32, "has_modality_lut": True}),
        ("float32x1", {"pixel_keyword": "FloatPixelData", "BitsAllocated": 32}),
        ("float64x1", {"pixel_keyword": "DoubleFloatPixelData", "BitsAllocated": 64}),
        ("uint8x3", {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "BitsAllocated": 8}),
        ("uint16x3", {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}),
        ("uint16x3", {"PhotometricInterpretation": "PALETTE COLOR", "BitsAllocated": 8}),
        ("uint8x3", {"format": "png", "PhotometricInterpretation": "PALETTE COLOR"}),
        ("uint16x3", {"format": "png", "PhotometricInterpretation": "RGB", "BitsAllocated": 16}),
        ("float64x1", {"format": "tiff", "BitsAllocated": 32}),
    ],
)
def test_the_header_alone_names_the_array(array: str, changes: dict[str, Any]) -> None:
    row = grey_row(
        Rows=4,
        Columns=4,
        BitsAllocated=16,
        TransferSyntaxUID="1.2.840.10008.1.2.1",
        pixel_keyword="PixelData",
        encapsulated=False,
        pixel_offset=0,
        pixel_length=32,
    )
    assert name_array(row | changes) == array


@pytest.mark.parametrize(
    ("code", "row"),
    [
        ("format-not-supported", {"format": "dicom-web"}),
        ("photometric", {"format": "tiff", "PhotometricInterpretation": "CIELAB"}),
        (
            "bits",
            {"format": "tiff", "PhotometricInterpretation": "RGB", "PixelRepresentation": 1},
        ),
        ("bits", {"format": "tiff", "PhotometricInterpretation": "RGB", "BitsAllocated": 32}),
    ],
)
def test_what_no_array_can_hold_is_refused(code: str, row: dict[str, Any]) -> None:
    with pytest.raises(PixelError, match=code):
        name_array(row)


def test_floating_point_where_integers_were_expected_is_refused() -> None:
    with pytest.raises(PixelError, match="bits"):
        pixels.choose_code("uint16x1", Scale(math.nan, math.nan))


@pytest.mark.parametrize("slope", [0.0, math.inf])
def test_a_rescale_that_gives_no_values_is_refused(slope: float) -> None:
    decoded = Decoded(np.zeros((2, 2), np.uint16), "MONOCHROME2")
    with pytest.raises(PixelError, match="rescale"):
        pixels.read_scale(grey_row(RescaleSlope=slope), decoded, None)


@pytest.mark.parametrize(
    ("fill", "scale", "changes"),
    [
        (-1000, Scale(0, 4095, 1, -1024, "HU"), {}),
        (-900, Scale(0, 4095, 1, -900, "HU"), {}),  # no stored value is lower
        (-1000, Scale(0, 4095, 1, -1024, "US"), {}),
        (0, Scale(0, 4095), {}),
        (0, Scale(0, 4095, 2, -600), {"Modality": "MR"}),
        (0.5, Scale(0, 4095, 2.5, 0.5), {"Modality": "MR"}),
        (0, Scale(0, 4095), {"Modality": "DX"}),
        (-2048, Scale(-2048, 2047), {"Modality": "MG"}),
        (0, Scale(math.nan, math.nan), {"Modality": "MR"}),
        (0, Scale(0, 255), {"format": "png", "Modality": None}),
    ],
)
def test_the_fill_is_air_black_or_nothing(
    fill: float, scale: Scale, changes: dict[str, Any]
) -> None:
    assert pixels.choose_fill(grey_row() | changes, scale, colour=False) == fill


@pytest.mark.parametrize(
    ("spacing", "changes"),
    [
        (Spacing(2, 3, "PixelSpacing"), {"PixelSpacing": [2, 3], "ImagerPixelSpacing": [1, 1]}),
        (
            Spacing(1, 4, "ImagerPixelSpacing"),
            {"PixelSpacing": [0, 0], "ImagerPixelSpacing": [1, 4]},
        ),
        (Spacing(1, 2, "PixelAspectRatio"), {"PixelAspectRatio": np.array([1.0, 2.0])}),
        (Spacing(), {"PixelSpacing": [1]}),
        (Spacing(), {"PixelSpacing": math.nan}),
        (Spacing(), {"PixelSpacing": [1e-300, 1e300], "ImagerPixelSpacing": [0, math.inf]}),
        (Spacing(), {}),
    ],
)
def test_spacing_comes_of_the_best_attribute(spacing: Spacing, changes: dict[str, Any]) -> None:
    assert pixels.read_spacing(grey_row() | changes) == spacing


@pytest.mark.parametrize(
    ("lossy", "syntax", "flag", "found"),
    [
        (True, "50", None, True),
        (False, "70", None, False),
        (None, "81", None, True),
        (None, "81", "00", False),
        (None, "91", "00", False),
        (None, "90", None, False),
        (None, "90", "01", True),  # it was lossy before
    ],
)
def test_losses_are_known(lossy: bool | None, syntax: str, flag: str | None, found: bool) -> None:
    decoded = Decoded(np.zeros((1, 1), np.uint8), "MONOCHROME2", lossy)
    row = grey_row(TransferSyntaxUID=f"1.2.840.10008.1.2.4.{syntax}", LossyImageCompression=flag)
    assert pixels.is_lossy(row, decoded) == found


def test_constant_images_are_known() -> None:
    values = np.full((3, 3), 7, np.uint8)
    assert pixels.is_constant(values, None)
    values[0, 0] = 9
    assert not pixels.is_constant(values, None)
    assert pixels.is_constant(values, values == 7)
    assert pixels.is_constant(np.full((3, 3, 3), (1, 2, 3), np.uint8), None)


def test_hashes_tell_type_shape_and_values_apart() -> None:
    values = np.arange(6, dtype=np.uint16).reshape(2, 3)
    others = [values.reshape(3, 2), values.astype(np.int16), values + np.uint16(1)]
    assert len({hash_values(array) for array in (values, *others)}) == 4
    assert hash_values(values.astype(">u2")) == hash_values(values)
    assert hash_values(np.asfortranarray(values)) == hash_values(values)


def test_turned_windows_look_as_pydicom_shows_them() -> None:
    """The oracle of the twin test is this project's; here it is pydicom's."""
    header = pydicom.Dataset()
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsStored, header.PixelRepresentation = 8, 0
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    scale = Scale(0, 255)
    shown = []
    for window in (Window(100.0, 60.0), turn_window(Window(100.0, 60.0), scale)):
        header.WindowCenter, header.WindowWidth = window.center, window.width
        shown.append(apply_windowing(values, header))
    np.testing.assert_allclose(shown[1][::-1, ::-1], 255 - shown[0])
