"""The oracle matrix, second half: what values mean, by formulas written out from PS3.3.

They share nothing with what they are compared with. Real-world values are computed in float64,
cast to float32, and may differ by one in the last place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import (
    BIG_ENDIAN,
    ENCODERS,
    EXPLICIT,
    FIRST_ORDER,
    IMPLICIT,
    JPEG2000,
    JPEGLS,
    RLE,
    catalogue,
    write_object,
)

from medkit.catalog.scan import Root, scan
from medkit.catalog.store import Catalog
from medkit.images.pixels import Frame, encode, read_frame
from medkit.images.resampling import Spacing, plan_geometry, resample
from medkit.images.windows import plan_transfer

RANDOM = np.random.default_rng(0)


def read(path: Path, frame: int = 0) -> Frame:
    return read_frame(catalogue(path)[frame])


def write(path: Path, values: np.ndarray, **elements: Any) -> Path:
    """Write values, shape (frames, rows, columns[, 3]), as they lie."""
    big = elements.get("syntax") == BIG_ENDIAN
    data = values.astype(values.dtype.newbyteorder(">" if big else "<")).tobytes()
    return write_object(path, values, data, **elements)


def to_real(frame: Frame) -> np.ndarray:
    return (frame.values.astype(np.float64) * frame.slope + frame.intercept).astype(np.float32)


def to_codes(frame: Frame) -> np.ndarray:
    everywhere = np.ones(frame.values.shape[:2], bool)
    kind = frame.array.split("x")[0]
    return encode(frame.values, everywhere, frame.stored_fill, frame.base, frame.k, kind)


def check_real(frame: Frame, expected: np.ndarray) -> None:
    """Compare real-world values (float64), as the frame has them and as its codes will."""
    np.testing.assert_array_max_ulp(to_real(frame), expected.astype(np.float32), maxulp=1)
    codes = to_codes(frame).astype(np.float64)
    decoded = codes * frame.code_slope + frame.code_intercept
    # Near zero, rounding of base and intercept shows; it is that of float64 all the same.
    largest = abs(frame.code_intercept) + abs(expected).max()
    ulp = np.spacing(np.abs(expected).astype(np.float32))
    assert (np.abs(decoded - expected) <= ulp + 4 * np.spacing(largest)).all()


def make_sequence(**elements: Any) -> pydicom.Sequence:
    item = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return pydicom.Sequence([item])


# Rescale (PS3.3 C.11.1.1.2): output = slope * stored + intercept


@st.composite
def rescales(draw: st.DrawFn) -> tuple[np.ndarray, int, float, float]:
    bits, signed = draw(st.integers(1, 16)), draw(st.booleans())
    low = -(2 ** (bits - 1)) if signed else 0
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = random.integers(low, low + 2**bits, (1, 5, 6))
    slope = draw(st.floats(1e-6, 1e6)) * draw(st.sampled_from([1, -1]))
    kind = np.int16 if signed else np.uint16
    return values.astype(kind), bits, slope, draw(st.floats(-1e5, 1e5))


def as_ds(number: float) -> str:
    """Return a number as a DICOM text of up to 16 characters, which is what the file says."""
    return f"{number:.9g}"


@given(rescales())
def test_rescale(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[np.ndarray, int, float, float]
) -> None:
    values, bits, slope, intercept = made
    texts = as_ds(slope), as_ds(intercept)
    path = write(
        tmp_path_factory.getbasetemp() / "rescale.dcm",
        values,
        BitsStored=bits,
        HighBit=bits - 1,
        RescaleSlope=texts[0],
        RescaleIntercept=texts[1],
    )
    check_real(read(path), values[0] * float(texts[0]) + float(texts[1]))


def test_each_frame_of_an_enhanced_object_has_its_own_rescale(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 4096, (4, 6, 7)).astype(np.uint16)
    slopes, intercepts = (0.25, 1.5, 3.75, 0.0625), (-7.5, 0, 100, 1e-3)
    groups = pydicom.Sequence()
    for slope, intercept in zip(slopes, intercepts, strict=True):
        group = pydicom.Dataset()
        group.PixelValueTransformationSequence = make_sequence(
            RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="US"
        )
        group.FrameVOILUTSequence = make_sequence(WindowCenter=100 * slope, WindowWidth=200 * slope)
        groups.append(group)
    path = write(
        tmp_path / "x.dcm",
        values,
        PerFrameFunctionalGroupsSequence=groups,
        RescaleSlope=99,  # of nobody: the functional groups win
        RescaleIntercept=99,
    )
    for number, (slope, intercept) in enumerate(zip(slopes, intercepts, strict=True)):
        frame = read(path, number)
        check_real(frame, values[number] * slope + intercept)
        assert (frame.WindowCenter, frame.WindowWidth) == (100 * slope, 200 * slope)


def test_each_slice_of_a_pet_series_has_its_own_slope(tmp_path: Path) -> None:
    """Through the whole catalog: scan, store and select."""
    values = RANDOM.integers(0, 2**15, (5, 1, 6, 7)).astype(np.int16)
    slopes = [0.1 * (number + 1) ** 3 for number in range(5)]
    for number, slope in enumerate(slopes):
        write(
            tmp_path / "pet" / f"{number}.dcm",
            values[number],
            SOPClassUID="1.2.840.10008.5.1.4.1.1.128",
            Modality="PT",
            InstanceNumber=number + 1,
            RescaleSlope=as_ds(slope),
            RescaleIntercept=0,
            Units="BQML",
        )
    scan(tmp_path / "catalog", [Root("pet", tmp_path / "pet")], workers=0)
    rows = Catalog.open(tmp_path / "catalog").select(None).to_dict("records")
    assert len(rows) == 5
    for number, row in enumerate(rows):
        check_real(read_frame(row), values[number, 0] * float(as_ds(slopes[number])))


# Modality LUT (C.11.1.1.1): the first entry is for the first value mapped and all below, the last
# for all above


def look_up(values: np.ndarray, first: int, entries: list[int]) -> np.ndarray:
    return np.array(
        [entries[min(max(int(value) - first, 0), len(entries) - 1)] for value in values.flat]
    ).reshape(values.shape)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize(
    ("signed", "first", "bits", "form"),
    [
        (False, 0, 16, "OW"),
        (False, 37, 16, "US"),
        (True, -20, 16, "OW"),
        (True, -20, 16, "US"),
        (False, 3, 8, "OW"),  # two entries in a word
        (True, -5, 8, "US"),
        (False, 3, 8, "wide"),  # one entry in a word
    ],
)
def test_modality_lut(
    tmp_path: Path, syntax: str, signed: bool, first: int, bits: int, form: str
) -> None:
    low = -128 if signed else 0
    values = RANDOM.integers(low, low + 256, (1, 8, 9)).astype(np.int8 if signed else np.uint8)
    entries = RANDOM.integers(0, 2**bits, 101).tolist()
    words = np.array(entries, "<u2")
    if bits == 8 and form != "wide":
        words = np.frombuffer(bytes(entries) + b"\0", "<u2")
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "SS" if signed else "US", [len(entries), first, bits])
    item.ModalityLUTType = "US"
    order = ">u2" if syntax == BIG_ENDIAN else "<u2"
    if form == "US":
        item.add_new("LUTData", "US", words.tolist())
    else:
        item.add_new("LUTData", "OW", words.astype(order).tobytes())
    path = write(
        tmp_path / "x.dcm",
        values,
        syntax=syntax,
        ModalityLUTSequence=pydicom.Sequence([item]),
        RescaleSlope=99,  # not with a LUT: the sequence wins
        RescaleIntercept=99,
    )
    frame = read(path)
    check_real(frame, look_up(values[0], first, entries))
    assert (frame.full_low, frame.full_high) == (0, 2**bits - 1)


# Palettes (C.7.6.3.1.5, C.7.9.2)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize(
    ("signed", "first", "bits"), [(False, 0, 16), (False, 50, 8), (True, -30, 16), (True, -9, 8)]
)
def test_palette(tmp_path: Path, syntax: str, signed: bool, first: int, bits: int) -> None:
    low = -128 if signed else 0
    values = RANDOM.integers(low, low + 256, (1, 8, 9)).astype(np.int8 if signed else np.uint8)
    tables = [RANDOM.integers(0, 2**bits, 101).tolist() for _ in range(3)]
    order = ">u2" if syntax == BIG_ENDIAN else "<u2"
    elements: dict[str, Any] = {}
    vrs = {}
    for channel, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        words = np.frombuffer(bytes(table) + b"\0", "<u2") if bits == 8 else np.array(table)
        descriptor = f"{channel}PaletteColorLookupTableDescriptor"
        elements[descriptor] = [101, first, bits]
        vrs[descriptor] = "SS" if signed else "US"
        data = f"{channel}PaletteColorLookupTableData"
        elements[data] = words.astype(order).tobytes()
    path = write(
        tmp_path / "x.dcm",
        values,
        syntax=syntax,
        vrs=vrs,
        PhotometricInterpretation="PALETTE COLOR",
        **elements,
    )
    frame = read(path)
    expected = np.stack([look_up(values[0], first, table) for table in tables], axis=-1)
    np.testing.assert_array_equal(frame.values, expected)
    assert (frame.full_high, frame.array) == (2**bits - 1, "uint16x3")


def make_segments(bits: int) -> tuple[list[int], list[int]]:
    """Return a segmented table, and the entries that it stands for."""
    top = 2**bits - 1
    discrete = [0, 3, 10, 20, 5]
    linear = [1, 4, 25]  # 10, 15, 20, 25 after a 5
    down = [1, 5, 0]  # 20, 15, 10, 5, 0
    offset = len(discrete) * bits // 8
    split = [offset % 2**bits, offset >> bits] + [0, 0] * (bits == 8)
    # The two linear segments again: from 0, where the table is now, up to 25 and down.
    indirect = [2, 2, *split]
    last = [0, 2, top, 1]
    again = [6, 12, 19, 25, 20, 15, 10, 5, 0]
    entries = [10, 20, 5, 10, 15, 20, 25, 20, 15, 10, 5, 0, *again, top, 1]
    return [*discrete, *linear, *down, *indirect, *last], entries


@pytest.mark.parametrize("syntax", [EXPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("signed", "vr"), [(False, "US"), (True, "SS"), (True, "US")])
def test_segmented_palette(tmp_path: Path, syntax: str, bits: int, signed: bool, vr: str) -> None:
    """A first value below zero may have been written as an unsigned number."""
    first = -4 if signed else 7
    segments, entries = make_segments(bits)
    values = RANDOM.integers(-40 if signed else 0, 60, (1, 8, 9))
    values = values.astype(np.int8 if signed else np.uint8)
    words = np.array(segments, np.uint8 if bits == 8 else "<u2").tobytes()
    words = np.frombuffer(words + b"\0" * (len(words) % 2), "<u2")
    elements: dict[str, Any] = {}
    vrs = {}
    for channel in ("Red", "Green", "Blue"):
        descriptor = f"{channel}PaletteColorLookupTableDescriptor"
        elements[descriptor] = [len(entries), first % 2**16 if vr == "US" else first, bits]
        vrs[descriptor] = vr
        elements[f"Segmented{channel}PaletteColorLookupTableData"] = words.astype(
            ">u2" if syntax == BIG_ENDIAN else "<u2"
        ).tobytes()
    path = write(
        tmp_path / "x.dcm",
        values,
        syntax=syntax,
        vrs=vrs,
        PhotometricInterpretation="PALETTE COLOR",
        **elements,
    )
    expected = look_up(values[0], first, entries)
    found = read(path).values
    for channel in range(3):  # the standard does not say how a linear segment rounds
        assert np.abs(found[..., channel].astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    "segments",
    [
        [1, 4, 25],  # linear, from where?
        [0, 3, 10],  # cut
        [7, 1, 1, 1],  # no such segment
        [0, 1, 9],  # too few entries
        [0, 1, 9, 1, 60000, 0],  # too many
        [0, 1, 9, 2, 1, 6, 0],  # one that points at itself
        [0, 0, 0, 5, 1, 2, 3, 4, 5],  # an empty one, which any number of copies would not fill
        [0, 1, 9] * 2**17,  # too long to be read
    ],
)
def test_segments_that_cannot_be_are_refused(tmp_path: Path, segments: list[int]) -> None:
    elements: dict[str, Any] = {}
    for channel in ("Red", "Green", "Blue"):
        elements[f"{channel}PaletteColorLookupTableDescriptor"] = [5, 0, 16]
        elements[f"Segmented{channel}PaletteColorLookupTableData"] = np.array(
            segments, "<u2"
        ).tobytes()
    path = write(
        tmp_path / "x.dcm",
        np.zeros((1, 4, 4), np.uint8),
        PhotometricInterpretation="PALETTE COLOR",
        **elements,
    )
    with pytest.raises(Exception, match="lookup-table"):
        read(path)


# Polarity


def show(frame: Frame, window: str = "header") -> np.ndarray:
    """Return a frame, 0 to 1, as a set shows it through a window."""
    table = pd.DataFrame(
        {
            "image": [0],
            "array": [frame.array],
            "slope": [frame.code_slope],
            "intercept": [frame.code_intercept],
            "full_low": [frame.full_low],
            "full_high": [frame.full_high],
            "WindowCenter": [frame.WindowCenter],
            "WindowWidth": [frame.WindowWidth],
            "VOILUTFunction": [frame.VOILUTFunction],
        }
    )
    return plan_transfer(table, window).apply(to_codes(frame)[np.newaxis], np.array([0]))[0]


def window_by_standard(
    values: np.ndarray, centre: float, width: float, function: str
) -> np.ndarray:
    """Return values through a window, 0 to 1 (PS3.3 C.11.2.1.2.1, C.11.2.1.3)."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - centre) / width))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


@pytest.mark.parametrize("syntax", [EXPLICIT, RLE, JPEGLS, JPEG2000, FIRST_ORDER])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(
    "inverse",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME2", "PresentationLUTShape": "INVERSE"},
    ],
)
def test_a_monochrome1_twin_is_its_monochrome2_original(
    tmp_path: Path, syntax: str, signed: bool, function: str, inverse: dict[str, str]
) -> None:
    low = -2048 if signed else 0
    values = RANDOM.integers(low, low + 4096, (1, 64, 72)).astype(np.int16 if signed else np.uint16)
    pivot = -1 if signed else 4095
    twin = (pivot - values).astype(values.dtype)
    centre, width = low + 1000.0, 700.0
    lopsided = function == "LINEAR"  # LINEAR is symmetric about centre - 0.5
    turned_centre = pivot - centre + lopsided
    common = {
        "Modality": "DX",
        "BitsStored": 12,
        "HighBit": 11,
        "WindowWidth": width,
        "VOILUTFunction": function,
        "syntax": syntax,
    }
    frames = []
    for name, stored, more in (
        ("2", values, {"WindowCenter": centre}),
        ("1", twin, {"WindowCenter": turned_centre, **inverse}),
    ):
        data = stored.tobytes() if syntax == EXPLICIT else [ENCODERS[syntax](stored[0], 12)]
        frames.append(read(write_object(tmp_path / name, stored, data, **common, **more)))
    original, turned = frames
    assert (original.polarity, turned.polarity) == ("kept", "turned")
    np.testing.assert_array_equal(turned.values, original.values)
    np.testing.assert_array_equal(to_codes(turned), to_codes(original))
    for name in ("WindowCenter", "WindowWidth", "fill", "full_low", "full_high", "base", "k"):
        assert getattr(turned, name) == getattr(original, name)
    shown = window_by_standard(values[0].astype(float), centre, width, function)
    np.testing.assert_allclose(show(turned), shown, atol=1e-5)
    # What a viewer does: the window on stored values, then the inverse.
    viewed = 1 - window_by_standard(twin[0].astype(float), turned_centre, width, function)
    np.testing.assert_allclose(show(turned), viewed, atol=1e-5)


# Padding


@st.composite
def paddings(draw: st.DrawFn) -> dict[str, Any]:
    """Return how a file says what its padding is, and the stored value that it has there."""
    case = draw(st.sampled_from(["value", "range", "wrong sign", "beyond", "unsigned"]))
    return {
        "value": {"stored": -2000, "PixelPaddingValue": (-2000, "SS")},
        "wrong sign": {"stored": -2000, "PixelPaddingValue": (63536, "US")},
        "range": {
            "stored": -1995,
            "PixelPaddingValue": (-2000, "SS"),
            "PixelPaddingRangeLimit": (-1990, "SS"),
        },
        # 63536 does not fit 12 bits: the bits around them are used too.
        "beyond": {"stored": 63536, "PixelPaddingValue": (63536, "US"), "bits": 12},
        "unsigned": {"stored": 4095, "PixelPaddingValue": (4095, "US"), "bits": 12},
    }[case]


@settings(max_examples=40)
@given(
    paddings(),
    st.sampled_from([(11, 13), (30, 30), (47, 61), (60, 20)]),
    st.sampled_from(["bilinear", "two-tap", "nearest"]),
    st.sampled_from(["stretch", "letterbox", "crop"]),
    st.tuples(*[st.integers(0, 29)] * 4),
    st.integers(0, 2**32),
)
def test_padding_changes_nothing_beyond_its_filter_support(
    tmp_path_factory: pytest.TempPathFactory,
    padding: dict[str, Any],
    size: tuple[int, int],
    filter: str,
    geometry: str,
    box: tuple[int, int, int, int],
    seed: int,
) -> None:
    signed = padding["stored"] < 0
    random = np.random.default_rng(seed)
    values = random.integers(0, 2000, (1, 30, 30)).astype(np.int16 if signed else np.uint16)
    padded = values.copy()
    (top, bottom), (left, right) = sorted(box[:2]), sorted(box[2:])
    padded[0, top : bottom + 1, left : right + 1] = padding["stored"]
    if (padded[0] == padding["stored"]).all():
        return
    told = {name: value for name, value in padding.items() if name[0].isupper()}
    bits = padding.get("bits", 16)
    elements: dict[str, Any] = {
        "BitsStored": bits,
        "HighBit": bits - 1,
        "vrs": {name: vr for name, (_, vr) in told.items()},
        **{name: value for name, (value, _) in told.items()},
    }
    folder = tmp_path_factory.getbasetemp()
    plan = plan_geometry(30, 30, Spacing(), size, geometry)
    frames = [
        read(write(folder / f"padding{number}.dcm", stored, **elements))
        for number, stored in enumerate((values, padded))
    ]
    assert frames[0].mask is None
    assert frames[1].mask is not None
    expected = np.ones((30, 30), bool)
    expected[top : bottom + 1, left : right + 1] = False
    np.testing.assert_array_equal(frames[1].mask, expected)
    plain, whole = resample(frames[0].values, None, plan, filter)
    masked, covered = resample(frames[1].values, frames[1].mask, plan, filter)
    for row in range(size[0]):
        rows = find_support(plan.rows, row, filter)
        for column in range(size[1]):
            columns = find_support(plan.columns, column, filter)
            if not whole[row, column]:
                assert not covered[row, column]
                continue
            valid = expected[np.ix_(rows, columns)]
            if valid.all():
                assert covered[row, column]
                assert masked[row, column] == plain[row, column]
            elif covered[row, column]:
                sources = values[0][np.ix_(rows, columns)][valid]
                assert sources.min() - 1e-3 <= masked[row, column] <= sources.max() + 1e-3


def find_support(axis: Any, output: int, filter: str) -> np.ndarray:
    """Return the source pixels within reach of an output pixel."""
    centre = (output + 0.5) * axis.scale + axis.origin
    pixels = np.arange(axis.source)
    if filter == "nearest":
        return np.clip([int(np.floor(centre))], 0, axis.source - 1)
    radius = max(axis.scale, 1.0) if filter == "bilinear" else 1.0
    near = pixels[np.abs(pixels + 0.5 - centre) < radius]
    return near if len(near) else np.clip([int(np.floor(centre))], 0, axis.source - 1)


# Series


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("modality", ["DX", "CT", "MR", "XA"])
def test_slices_of_a_series_share_one_pivot_and_one_view(
    tmp_path: Path, photometric: str, modality: str
) -> None:
    """Whatever is in them: a faint slice, a strong one, one with padding, one that is constant."""
    contents = [
        np.full((1, 8, 9), 100),
        RANDOM.integers(0, 4096, (1, 8, 9)),
        RANDOM.integers(50, 60, (1, 8, 9)),
        np.where(np.arange(72).reshape(1, 8, 9) > 30, 4095, 0),
    ]
    frames = [
        read(
            write(
                tmp_path / f"{number}.dcm",
                values.astype(np.uint16),
                Modality=modality,
                PhotometricInterpretation=photometric,
                BitsStored=12,
                HighBit=11,
                RescaleSlope=2,
                RescaleIntercept=-1024,
                WindowCenter=300,
                WindowWidth=900,
                PixelPaddingValue=0,
            )
        )
        for number, values in enumerate(contents)
    ]
    names = ("slope", "intercept", "base", "k", "fill", "full_low", "full_high", "polarity")
    names += ("WindowCenter", "WindowWidth", "VOILUTFunction", "units", "array")
    assert len({tuple(getattr(frame, name) for name in names) for frame in frames}) == 1
    turned = photometric == "MONOCHROME1" and modality in ("DX", "XA")
    for frame, values in zip(frames, contents, strict=True):
        np.testing.assert_array_equal(frame.values, 4095 - values[0] if turned else values[0])
    # One stored value is shown alike in all of them, in every window.
    stored = 4095 - 100 if turned else 100
    for window in ("header", "full", "40/400"):
        shown = [show(frame, window)[frame.values == stored] for frame in frames]
        assert len(np.unique(np.concatenate(shown))) == 1


# Another reader for the whole of it


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, RLE, JPEGLS, JPEG2000, FIRST_ORDER])
@pytest.mark.parametrize("signed", [False, True])
def test_hounsfield_units_are_those_of_simpleitk(tmp_path: Path, syntax: str, signed: bool) -> None:
    SimpleITK = pytest.importorskip("SimpleITK")
    low = -2048 if signed else 0
    values = RANDOM.integers(low, low + 4096, (1, 64, 72)).astype(np.int16 if signed else np.uint16)
    native = syntax in (EXPLICIT, IMPLICIT)
    path = write_object(
        tmp_path / "x.dcm",
        values,
        values.tobytes() if native else [ENCODERS[syntax](values[0], 12)],
        syntax=syntax,
        Modality="CT",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.2",
        BitsStored=12,
        HighBit=11,
        RescaleSlope=2,
        RescaleIntercept=-1024,
        ImagePositionPatient=[0, 0, 0],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        PixelSpacing=[1, 1],
    )
    other = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    np.testing.assert_array_equal(to_real(read(path)), other.reshape(64, 72))
    check_real(read(path), values[0] * 2.0 - 1024)
