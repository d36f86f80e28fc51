"""The oracle matrix, first half: stored values and colours against a second decoder.

Files are made here and catalogued by the catalog's own reader. The other half, what values mean,
is in test_oracle_values.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openjpeg.utils import encode_array as encode_openjpeg
from oracles import (
    BASELINE,
    BIG_ENDIAN,
    DEFLATED,
    DEFLATED_FRAMES,
    ENCODERS,
    EXPLICIT,
    EXTENDED,
    FIRST_ORDER,
    IMPLICIT,
    JPEG2000,
    JPEGLS,
    LOSSLESS,
    LOSSY2000,
    NATIVE,
    NEAR,
    RLE,
    SECOND,
    UNCOMPRESSED,
    catalogue,
    decode_with_pydicom,
    encode_jpegls,
    encode_lossless,
    show_with_pillow,
    write_object,
)

from medkit.errors import PixelError
from medkit.images.pixels import Frame, read_frame

MPEG4 = "1.2.840.10008.1.2.4.102"
ROWS, COLUMNS = 64, 72  # OpenJPEG wants more than 32


def make_values(
    bits: int, signed: bool, frames: int = 1, colour: bool = False, seed: int = 0
) -> np.ndarray:
    """Return frames that are smooth in places, noisy in others, and have both extremes."""
    random = np.random.default_rng(seed)
    low, size = -(2 ** (bits - 1)) if signed else 0, 2**bits
    shape = (frames, ROWS, COLUMNS, 3) if colour else (frames, ROWS, COLUMNS)
    values = np.indices(shape).sum(axis=0) * max(1, size // 256) % size
    values[:, : ROWS // 4] = random.integers(0, size, values[:, : ROWS // 4].shape)
    values[:, 0, 0], values[:, 0, 1] = 0, size - 1
    width = 8 if bits <= 8 else 16 if bits <= 16 else 32
    return (values + low).astype(f"{'int' if signed else 'uint'}{width}")


def read(path: Path, frame: int = 0) -> Frame:
    return read_frame(catalogue(path)[frame])


def refuse(path: Path, frame: int = 0) -> str:
    with pytest.raises(PixelError) as caught:
        read(path, frame)
    return caught.value.code


# Lossless syntaxes, bit by bit


@pytest.mark.parametrize("syntax", sorted(ENCODERS))
@pytest.mark.parametrize(("bits", "signed"), list(itertools.product((5, 8, 12, 16), (False, True))))
def test_lossless_frames_equal_a_second_decoder(
    tmp_path: Path, syntax: str, bits: int, signed: bool
) -> None:
    values = make_values(bits, signed, frames=2)
    streams = [ENCODERS[syntax](frame, bits) for frame in values]
    common = {"BitsStored": bits, "HighBit": bits - 1, "syntax": syntax}
    for photometric, fragments, offsets in (
        ("MONOCHROME2", 1, "basic"),
        ("MONOCHROME1", 2, "basic"),
        ("MONOCHROME2", 1, "extended"),
        ("MONOCHROME2", 1, "none"),
    ):
        path = write_object(
            tmp_path / "x.dcm",
            values,
            streams,
            fragments=fragments,
            offsets=offsets,
            PhotometricInterpretation=photometric,
            **common,
        )
        for number in range(2):
            frame = read(path, number)
            assert frame.values.dtype == values.dtype
            np.testing.assert_array_equal(frame.values, values[number])
            assert (frame.polarity, frame.lossy) == ("kept", False)  # MR is measured, not shown
    for decode, (number, stream) in itertools.product(SECOND[syntax], enumerate(streams)):
        second, first = (array.astype(np.int64) for array in (decode(stream), values[number]))
        np.testing.assert_array_equal(second % 2**bits, first % 2**bits)
    if syntax == RLE:
        np.testing.assert_array_equal(decode_with_pydicom(path, 1), values[1])


@pytest.mark.parametrize("syntax", sorted(ENCODERS))
@pytest.mark.parametrize("bits", [8, 16])
def test_lossless_colours_equal_a_second_decoder(tmp_path: Path, syntax: str, bits: int) -> None:
    values = make_values(bits, signed=False, colour=True)
    stream = ENCODERS[syntax](values[0], bits)
    own_transform = syntax == JPEG2000
    path = write_object(
        tmp_path / "x.dcm",
        values,
        [stream],
        syntax=syntax,
        PhotometricInterpretation="YBR_RCT" if own_transform else "RGB",
    )
    frame = read(path)
    assert frame.array == f"uint{bits}x3"
    np.testing.assert_array_equal(frame.values, values[0])
    for decode in SECOND[syntax]:
        np.testing.assert_array_equal(decode(stream), values[0])


@st.composite
def native_objects(draw: st.DrawFn) -> tuple[np.ndarray, bytes, dict[str, Any]]:
    """Return values, their native encoding, and the elements that say so."""
    syntax = draw(st.sampled_from(NATIVE))
    width = draw(st.sampled_from([1, 8, 16, 32]))
    colour = width in (8, 16) and draw(st.booleans())
    bits = draw(st.integers(1, width))
    high = draw(st.integers(bits - 1, width - 1))
    signed = width > 1 and not colour and draw(st.booleans())
    planar = colour and draw(st.booleans())
    shape = [draw(st.integers(1, 5)) for _ in range(3)] + [3] * colour
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    low = -(2 ** (bits - 1)) if signed else 0
    kind = f"{'int' if signed else 'uint'}{max(8, width)}"
    values = random.integers(low, low + 2**bits, shape).astype(kind)
    if width == 1:
        data = np.packbits(values.ravel(), bitorder="little").tobytes()
    else:
        left = high + 1 - bits
        unused = (2**width - 1) ^ ((2**bits - 1) << left)
        words = (values.astype(np.int64) & (2**bits - 1)) << left
        words |= random.integers(0, 2**width, shape) & unused  # as old overlays are
        words = np.moveaxis(words, -1, 1) if planar else words
        data = words.astype(f"{'>' if syntax == BIG_ENDIAN else '<'}u{width // 8}").tobytes()
    vr = "OW" if width > 8 or syntax == IMPLICIT or draw(st.booleans()) else "OB"
    if syntax == BIG_ENDIAN and vr == "OW" and width <= 8:
        data += b"\0" * (len(data) % 2)
        data = np.frombuffer(data, ">u2").astype("<u2").tobytes()
    elements = {
        "syntax": syntax,
        "BitsAllocated": width,
        "BitsStored": bits,
        "HighBit": high,
        "PlanarConfiguration": int(planar) if colour else None,
        "NumberOfFrames": shape[0],
        "vrs": {"PixelData": vr},
    }
    return values, data, elements


@given(native_objects())
def test_native_frames_equal_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[np.ndarray, bytes, dict[str, Any]]
) -> None:
    values, data, elements = made
    path = write_object(tmp_path_factory.getbasetemp() / "native.dcm", values, data, **elements)
    for number, row in enumerate(catalogue(path)):
        frame = read_frame(row)
        np.testing.assert_array_equal(frame.values, values[number])
        bits = elements["BitsStored"]
        assert frame.full_high - frame.full_low == 2**bits - 1
        if elements["HighBit"] == bits - 1 and elements["BitsAllocated"] > 1:
            np.testing.assert_array_equal(decode_with_pydicom(path, number), values[number])


@pytest.mark.parametrize(
    ("keyword", "kind"), [("FloatPixelData", "f4"), ("DoubleFloatPixelData", "f8")]
)
def test_floating_point_is_kept(tmp_path: Path, keyword: str, kind: str) -> None:
    values = np.random.default_rng(0).normal(size=(2, 4, 5)).astype(kind)
    values[1, 0, 0] = np.nan
    path = write_object(
        tmp_path / "x.dcm", values, b"", BitsStored=None, HighBit=None, PixelRepresentation=None
    )
    header = pydicom.dcmread(path)
    del header.PixelData
    setattr(header, keyword, values.tobytes())
    header.save_as(path)
    frames = [read(path, number) for number in range(2)]
    np.testing.assert_array_equal([frame.values for frame in frames], values)
    assert frames[0].mask is None
    assert frames[1].mask is not None
    assert not frames[1].mask[0, 0]


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_every_predictor_of_lossless_jpeg(tmp_path: Path, predictor: int, bits: int) -> None:
    values = make_values(bits, signed=False)
    stream = encode_lossless(values[0], bits, predictor)
    common = {"BitsStored": bits, "HighBit": bits - 1}
    path = write_object(tmp_path / "x.dcm", values, [stream], syntax=LOSSLESS, **common)
    np.testing.assert_array_equal(read(path).values, values[0])
    for decode in SECOND[LOSSLESS]:
        np.testing.assert_array_equal(decode(stream), values[0])


@pytest.mark.parametrize(("interleave", "bits"), list(itertools.product((0, 1, 2), (8, 12))))
def test_every_interleave_mode_of_jpeg_ls(tmp_path: Path, interleave: int, bits: int) -> None:
    values = make_values(bits, signed=False, colour=True)
    stream = encode_jpegls(values[0], bits, interleave=interleave)
    common = {"BitsStored": bits, "HighBit": bits - 1}
    path = write_object(tmp_path / "x.dcm", values, [stream], syntax=JPEGLS, **common)
    np.testing.assert_array_equal(read(path).values, values[0])
    np.testing.assert_array_equal(SECOND[JPEGLS][0](stream), values[0])


@pytest.mark.parametrize(("near", "lossy"), [(0, False), (3, True)])
def test_jpeg_ls_is_as_near_as_it_says(tmp_path: Path, near: int, lossy: bool) -> None:
    values = make_values(12, signed=False)
    stream = encode_jpegls(values[0], 12, near)
    path = write_object(
        tmp_path / "x.dcm",
        values,
        [stream],
        syntax=NEAR,
        BitsStored=12,
        HighBit=11,
        LossyImageCompression=None if lossy else "00",
    )
    frame = read(path)
    assert np.abs(frame.values.astype(int) - values[0]).max() == near
    np.testing.assert_array_equal(SECOND[NEAR][0](stream), frame.values)
    assert frame.lossy == lossy


def test_lossy_jpeg_2000_equals_a_second_build_of_its_codec(tmp_path: Path) -> None:
    values = make_values(12, signed=True)
    stream = encode_openjpeg(
        values[0], bits_stored=12, photometric_interpretation=2, compression_ratios=[4]
    )
    path = write_object(
        tmp_path / "x.dcm", values, [stream], syntax=LOSSY2000, BitsStored=12, HighBit=11
    )
    frame = read(path)
    np.testing.assert_array_equal(frame.values, SECOND[LOSSY2000][0](stream))
    assert frame.lossy


def test_an_irreversible_codestream_is_lossy_whatever_the_header_says(tmp_path: Path) -> None:
    values = make_values(16, signed=False)
    stream = bytes(imagecodecs.jpeg2k_encode(values[0], level=60, codecformat="j2k"))
    common = {"syntax": LOSSY2000, "LossyImageCompression": "00"}
    assert read(write_object(tmp_path / "x.dcm", values, [stream], **common)).lossy


# Fragments


@pytest.mark.parametrize("syntax", [JPEGLS, JPEG2000, FIRST_ORDER])
def test_frames_in_several_fragments_without_offsets_end_at_their_marker(
    tmp_path: Path, syntax: str
) -> None:
    values = make_values(12, signed=False, frames=3)
    streams = [ENCODERS[syntax](frame, 12) for frame in values]
    common = {"syntax": syntax, "BitsStored": 12, "HighBit": 11, "offsets": "none"}
    path = write_object(tmp_path / "x.dcm", values, streams, fragments=3, **common)
    for number in range(3):
        np.testing.assert_array_equal(read(path, number).values, values[number])


@pytest.mark.parametrize("syntax", [RLE, UNCOMPRESSED])
def test_fragments_that_no_marker_ends_need_offsets(tmp_path: Path, syntax: str) -> None:
    values = make_values(16, signed=False, frames=2)
    streams = [ENCODERS[syntax](frame, 16) for frame in values]
    path = tmp_path / "x.dcm"
    write_object(path, values, streams, syntax=syntax, fragments=2, offsets="none")
    assert [refuse(path, number) for number in range(2)] == ["fragments"] * 2
    write_object(path, values[:1], streams[:1], syntax=syntax, fragments=2, offsets="none")
    np.testing.assert_array_equal(read(path).values, values[0])


@pytest.mark.parametrize("table", [[0, 0], [4, 8], [100, 0]])
def test_offsets_that_cannot_be_are_refused(tmp_path: Path, table: list[int]) -> None:
    values = make_values(12, signed=False, frames=2)
    streams = [ENCODERS[JPEGLS](frame, 12) for frame in values]
    path = write_object(
        tmp_path / "x.dcm", values, streams, syntax=JPEGLS, BitsStored=12, HighBit=11
    )
    header = pydicom.dcmread(path)
    head = header.PixelData[:8]
    header.PixelData = head + np.array(table, "<u4").tobytes() + header.PixelData[16:]
    header.save_as(path)
    assert [refuse(path, number) for number in range(2)] == ["fragments"] * 2


def test_an_uncompressed_frame_of_another_length_is_refused(tmp_path: Path) -> None:
    values = make_values(16, signed=False)
    for syntax in (UNCOMPRESSED, DEFLATED_FRAMES):
        stream = ENCODERS[syntax](values[0][:-1], 16)
        path = write_object(tmp_path / "x.dcm", values, [stream], syntax=syntax)
        assert refuse(path) == "pixel-length"
    path = write_object(tmp_path / "x.dcm", values, [b"\xff" * 64], syntax=DEFLATED_FRAMES)
    assert refuse(path) == "codestream"


# Colours


def to_rgb(ybr: np.ndarray, bits: int = 8) -> np.ndarray:
    """Invert the equations of PS3.3 C.7.6.3.1.2 (CCIR 601 with 8 bits, scaled to others)."""
    forward = np.array(
        [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
    )
    middle = np.array([0, 2 ** (bits - 1), 2 ** (bits - 1)])
    rgb = (ybr.astype(np.float64) - middle) @ np.linalg.inv(forward).T
    return np.clip(np.rint(rgb), 0, 2**bits - 1).astype(int)


@pytest.mark.parametrize("syntax", [EXPLICIT, BIG_ENDIAN, UNCOMPRESSED, RLE, JPEGLS, JPEG2000])
@pytest.mark.parametrize("planar", [0, 1])
def test_ybr_full_becomes_rgb(tmp_path: Path, syntax: str, planar: int) -> None:
    values = make_values(8, signed=False, colour=True)
    native = (np.moveaxis(values, -1, 1) if planar else values).tobytes()
    data: bytes | list[bytes] = native
    if syntax == JPEG2000:
        raw = encode_openjpeg(values[0], bits_stored=8, photometric_interpretation=3, use_mct=False)
        data = [raw]
    elif syntax == UNCOMPRESSED:
        data = [native]
    elif syntax in ENCODERS:
        data = [ENCODERS[syntax](values[0], 8)]
    path = write_object(
        tmp_path / "x.dcm",
        values,
        data,
        syntax=syntax,
        PhotometricInterpretation="YBR_FULL",
        PlanarConfiguration=planar,
    )
    frame = read(path)
    assert np.abs(frame.values.astype(int) - to_rgb(values[0])).max() <= 1


@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED, BIG_ENDIAN, UNCOMPRESSED])
def test_ybr_full_422_shares_chroma_between_two_pixels(tmp_path: Path, syntax: str) -> None:
    values = make_values(8, signed=False, colour=True, frames=2)
    values[:, :, 1::2, 1:] = values[:, :, ::2, 1:]
    pairs = values.reshape(-1, 2, 3)  # Y1 Y2 Cb Cr
    data = np.column_stack([pairs[:, :, 0], pairs[:, 0, 1:]]).tobytes()
    half = len(data) // 2
    path = write_object(
        tmp_path / "x.dcm",
        values,
        [data[:half], data[half:]] if syntax == UNCOMPRESSED else data,
        syntax=syntax,
        PhotometricInterpretation="YBR_FULL_422",
    )
    for number in range(2):
        shown = read(path, number).values.astype(int)
        assert np.abs(shown - to_rgb(values[number])).max() <= 1


@pytest.mark.parametrize(("colours", "tolerance"), [("444", 2), ("422", 8), ("420", 8), (None, 2)])
def test_lossy_jpeg_is_what_pillow_shows(
    tmp_path: Path, colours: str | None, tolerance: int
) -> None:
    values = make_values(8, signed=False, colour=colours is not None)
    smooth = values.astype(float)
    for axis in (1, 2):
        smooth = sum(np.roll(smooth, shift, axis) for shift in range(-4, 5)) / 9
    values = smooth.astype(np.uint8)
    stream = bytes(imagecodecs.jpeg8_encode(values[0], level=90, subsampling=colours))
    photometric = {None: "MONOCHROME2", "444": "YBR_FULL"}.get(colours, "YBR_FULL_422")
    path = write_object(
        tmp_path / "x.dcm", values, [stream], syntax=BASELINE, PhotometricInterpretation=photometric
    )
    frame = read(path)
    other = show_with_pillow(stream).astype(int)
    assert np.abs(frame.values.astype(int) - other).max() <= tolerance
    assert frame.lossy


def test_extended_jpeg_of_12_bits_is_close_to_its_source(tmp_path: Path) -> None:
    values = (np.indices((1, ROWS, COLUMNS)).sum(axis=0) * 25).astype(np.uint16)
    stream = bytes(imagecodecs.jpeg8_encode(values[0], level=98, bitspersample=12))
    path = write_object(
        tmp_path / "x.dcm", values, [stream], syntax=EXTENDED, BitsStored=12, HighBit=11
    )
    frame = read(path)
    assert np.abs(frame.values.astype(int) - values[0]).max() <= 8  # of 4096
    assert frame.lossy


@pytest.mark.parametrize(
    ("stored", "states"),
    [("RGB", "RGB"), ("YBR_FULL", "YBR_FULL"), ("RGB", "YBR_FULL"), ("YBR_FULL", "RGB")],
)
def test_a_jpeg_that_states_its_colours_is_believed(
    tmp_path: Path, stored: str, states: str
) -> None:
    """The header says what the colours were before compression, and is often left so."""
    values = np.full((1, 16, 16, 3), (200, 100, 50), np.uint8)
    space = "RGB" if states == "RGB" else "YCBCR"
    stream = bytes(
        imagecodecs.jpeg8_encode(values[0], level=100, colorspace="RGB", outcolorspace=space)
    )
    path = write_object(
        tmp_path / "x.dcm", values, [stream], syntax=BASELINE, PhotometricInterpretation=stored
    )
    assert np.abs(read(path).values.astype(int) - values[0]).max() <= 2
    np.testing.assert_allclose(show_with_pillow(stream), values[0], atol=2)


def test_components_named_rgb_are_rgb(tmp_path: Path) -> None:
    values = np.full((1, 16, 16, 3), (200, 100, 50), np.uint8)
    stream = bytes(
        imagecodecs.jpeg8_encode(values[0], level=100, colorspace="RGB", outcolorspace="RGB")
    )
    begin = stream.index(b"\xff\xee")
    stream = stream[:begin] + stream[begin + 16 :]  # without the Adobe marker
    common = {"syntax": BASELINE, "PhotometricInterpretation": "YBR_FULL"}
    path = write_object(tmp_path / "x.dcm", values, [stream], **common)
    assert np.abs(read(path).values.astype(int) - values[0]).max() <= 2


@pytest.mark.parametrize("colour_space", [16, 18])
def test_a_jp2_file_does_not_change_colours(tmp_path: Path, colour_space: int) -> None:
    """What a JP2 says of colours (18: sYCC) has no meaning in DICOM (PS3.5 A.4.4)."""
    values = make_values(8, signed=False, colour=True)
    wrapped = bytes(
        imagecodecs.jpeg2k_encode(values[0], level=0, reversible=True, codecformat="jp2", mct=False)
    )
    place = wrapped.index(b"colr") + 7
    stream = wrapped[:place] + colour_space.to_bytes(4, "big") + wrapped[place + 4 :]
    path = write_object(tmp_path / "x.dcm", values, [stream], syntax=JPEG2000)
    np.testing.assert_array_equal(read(path).values, values[0])


@pytest.mark.parametrize(
    ("photometric", "transformed", "code"),
    [
        ("YBR_RCT", False, "photometric"),  # nothing was undone
        ("YBR_FULL", True, "photometric"),  # of what was it undone?
        ("RGB", True, None),
    ],
)
def test_colours_that_header_and_jpeg_2000_dispute(
    tmp_path: Path, photometric: str, transformed: bool, code: str | None
) -> None:
    values = make_values(8, signed=False, colour=True)
    stream = encode_openjpeg(
        values[0], bits_stored=8, photometric_interpretation=1, use_mct=transformed
    )
    path = write_object(
        tmp_path / "x.dcm",
        values,
        [stream],
        syntax=JPEG2000,
        PhotometricInterpretation=photometric,
    )
    if code:
        assert refuse(path) == code
    else:
        np.testing.assert_array_equal(read(path).values, values[0])


@pytest.mark.parametrize(
    ("code", "syntax", "elements"),
    [
        ("photometric", EXPLICIT, {"PhotometricInterpretation": "YBR_PARTIAL_422"}),
        (
            "photometric",
            "1.2.840.10008.1.2.4.102",
            {"PhotometricInterpretation": "YBR_PARTIAL_420"},
        ),
        ("photometric", EXPLICIT, {"PhotometricInterpretation": "ARGB", "SamplesPerPixel": 4}),
        ("photometric", EXPLICIT, {"PhotometricInterpretation": "YBR_RCT"}),
        ("photometric", JPEGLS, {"PhotometricInterpretation": "YBR_ICT"}),
        (
            "photometric",
            EXPLICIT,
            {"PhotometricInterpretation": "YBR_FULL_422", "PlanarConfiguration": 1},
        ),
        ("transfer-syntax", MPEG4, {}),
        ("transfer-syntax", "1.2.840.10008.1.2.4.94", {}),
    ],
)
def test_what_cannot_be_done_right_is_refused_by_name(
    tmp_path: Path, code: str, syntax: str, elements: dict[str, Any]
) -> None:
    values = make_values(8, signed=False, colour=True)
    native = syntax == EXPLICIT
    data = values.tobytes() if native else [ENCODERS[JPEGLS](values[0], 8)]
    path = write_object(tmp_path / "x.dcm", values, data, syntax=syntax, **elements)
    assert refuse(path) == code


def test_single_bits_with_a_sign_are_refused(tmp_path: Path) -> None:
    elements = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "PixelRepresentation": 1}
    path = write_object(tmp_path / "x.dcm", np.zeros((1, 4, 4), np.uint8), b"\0\0", **elements)
    assert refuse(path) == "bits"
