"""Stored values: equal to pydicom's and GDCM's on real files, exact or refused on made ones."""

from __future__ import annotations

import importlib.util
import io
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from catalogrows import make_row
from hypothesis import given
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array

from medkit.errors import PixelError
from medkit.images.codestreams import CODECS, decode_codestream
from medkit.images.decoding import Decoded, decode_frame, read_module
from medkit.images.rows import open_file

RLE, JPEG, LOSSLESS, JPEGLS, JPEG2000, HTJ2K = (
    f"1.2.840.10008.1.2.{end}" for end in ("5", "4.50", "4.70", "4.80", "4.90", "4.201")
)
EXPLICIT = "1.2.840.10008.1.2.1"

# Real files that are refused, and as what; everything else must decode.
REFUSED = {
    "JPEG2000-embedded-sequence-delimiter.dcm": "codestream-size",  # the stream is damaged
    "MR_small_padded.dcm": "pixel-length",  # 128 bytes more than one pad byte
    "MR_truncated.dcm": "pixel-length",
}


def find_real_files() -> list[Path]:
    folders = [Path(pydicom.__file__).parent / "data" / "test_files"]
    if found := importlib.util.find_spec("data_store"):
        folders.append(Path(found.submodule_search_locations[0]) / "data")
    return [path for folder in folders for path in sorted(folder.rglob("*")) if has_pixels(path)]


def has_pixels(path: Path) -> bool:
    if not path.is_file() or path.suffix not in ("", ".dcm"):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = pydicom.dcmread(path, defer_size=1024)
        except (pydicom.errors.InvalidDicomError, OSError, TypeError, KeyError):
            return False
        # In one file it is "1A", which pydicom leaves as text.
        countable = isinstance(header.get("NumberOfFrames", 1), int)
        return "PixelData" in header and "Rows" in header and countable


REAL_FILES = find_real_files()


def decode(row: dict[str, Any]) -> Decoded:
    with open_file(row) as stream:
        return decode_frame(stream, read_module(row), row["frame"])


def decode_with_pydicom(path: Path, frame: int) -> np.ndarray | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return pixel_array(pydicom.dcmread(path), raw=True, index=frame)
        except (RuntimeError, ValueError):  # no decoder for it
            return None


def check_against_pydicom(path: Path) -> None:
    row = make_row(path)
    for frame in {0, (row["NumberOfFrames"] or 1) - 1}:
        decoded = decode(row | {"frame": frame})
        expected = decode_with_pydicom(path, frame)
        if expected is not None:
            assert decoded.values.dtype == expected.dtype.newbyteorder("=")
            np.testing.assert_array_equal(decoded.values, expected)


@pytest.mark.parametrize("path", REAL_FILES, ids=lambda path: path.name)
def test_equals_pydicom(path: Path) -> None:
    if path.name in REFUSED:
        with pytest.raises(PixelError) as caught:
            check_against_pydicom(path)
        assert caught.value.code == REFUSED[path.name]
    else:
        check_against_pydicom(path)


def test_equals_pydicom_on_more_real_files(shared_data: Path) -> None:
    paths = [path for path in sorted((shared_data / "dicom").rglob("*")) if has_pixels(path)]
    assert len(paths) > 80
    for path in paths:
        check_against_pydicom(path)


@pytest.mark.parametrize(
    "path",
    [path for path in REAL_FILES if path.name.startswith(("JPEG-", "JPGL", "JPGE", "bad_seq"))],
    ids=lambda path: path.name,
)
def test_equals_gdcm_where_pydicom_has_no_decoder(path: Path) -> None:
    SimpleITK = pytest.importorskip("SimpleITK")
    expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    row = make_row(path)
    stored = decode(row).values.astype(float)
    real = stored * (row["RescaleSlope"] or 1) + (row["RescaleIntercept"] or 0)
    np.testing.assert_array_equal(real, expected.reshape(real.shape))


def test_all_encodings_of_one_frame_are_equal(shared_data: Path) -> None:
    folder = shared_data / "dicom/dicomparser/testImages/encapsulated/multi-frame"
    native = decode(make_row(folder / "CT0012.explicit_little_endian.dcm", 1))
    lossless = ["jpeg_lossless.57", "jpeg_lossless.70", "jpeg_ls.80", "rle"]
    paths = [path for path in folder.glob("CT0012.*fragmented*") if path.stem[23:]]
    compared = [
        decode(make_row(path, 1))
        for path in paths
        if any(f"{name}.dcm" in path.name for name in lossless)
    ]
    assert len(compared) == 7
    for decoded in compared:
        np.testing.assert_array_equal(decoded.values, native.values)


def describe(values: np.ndarray, **changes: Any) -> dict[str, Any]:
    """Return the row of a frame in this layout, native unless changed."""
    colour = values.ndim == 3
    return {
        "Rows": values.shape[0],
        "Columns": values.shape[1],
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "BitsAllocated": 8 * values.itemsize,
        "PixelRepresentation": int(values.dtype.kind == "i"),
        "TransferSyntaxUID": EXPLICIT,
        "pixel_keyword": "PixelData",
        "encapsulated": False,
        "pixel_offset": 0,
        "pixel_length": values.nbytes + values.nbytes % 2,
    } | changes


def describe_compressed(values: np.ndarray, syntax: str, **changes: Any) -> dict[str, Any]:
    compressed = {"TransferSyntaxUID": syntax, "encapsulated": True, "pixel_length": -1}
    return describe(values, **compressed | changes)


def decode_bytes(data: bytes, row: dict[str, Any], frame: int = 0) -> np.ndarray:
    return decode_frame(io.BytesIO(data), read_module(row), frame).values


def refusal(data: bytes, row: dict[str, Any], frame: int = 0) -> str:
    with pytest.raises(PixelError) as caught:
        decode_bytes(data, row, frame)
    return caught.value.code


@pytest.mark.parametrize(
    "change", [{"Rows": 3}, {"Rows": 5}, {"Columns": 3}, {"NumberOfFrames": 2}]
)
def test_a_header_that_lies_about_size_is_refused(change: dict[str, int]) -> None:
    values = np.zeros((4, 4), np.uint16)
    assert refusal(values.tobytes(), describe(values) | change) == "pixel-length"


@pytest.mark.parametrize("cut", range(1, 32, 5))
def test_a_file_that_ends_early_is_refused(cut: int) -> None:
    values = np.zeros((4, 4), np.uint16)
    assert refusal(values.tobytes()[:-cut], describe(values)) == "pixel-length"


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("no-pixels", {"pixel_keyword": None}),
        ("no-size", {"Rows": 0}),
        ("no-size", {"Columns": None}),
        ("too-large", {"Rows": 30000, "Columns": 30000}),
        ("photometric", {"PhotometricInterpretation": "CMYK"}),
        ("photometric", {"SamplesPerPixel": 3}),
        ("bits", {"BitsAllocated": 12}),
        ("bits", {"BitsAllocated": None}),
        ("bits", {"BitsStored": 17}),
        ("bits", {"BitsStored": 12, "HighBit": 10}),
        ("transfer-syntax", {"TransferSyntaxUID": "1.2.840.10008.1.2.4.100"}),
        ("transfer-syntax", {"encapsulated": True}),
        ("transfer-syntax", {"TransferSyntaxUID": JPEG}),
    ],
)
def test_headers_are_refused_before_a_byte_is_read(code: str, change: dict[str, Any]) -> None:
    with pytest.raises(PixelError) as caught:
        read_module(describe(np.zeros((4, 4), np.uint16), **change))
    assert caught.value.code == code


def test_a_frame_beyond_the_last_is_refused() -> None:
    values = np.zeros((4, 4), np.uint16)
    assert refusal(values.tobytes(), describe(values), 1) == "no-frame"


RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 4096, (13, 17)).astype(np.uint16)
COLOUR = RANDOM.integers(0, 256, (13, 17, 3)).astype(np.uint8)


def compress(values: np.ndarray, syntax: str) -> bytes:
    return {
        LOSSLESS: lambda: imagecodecs.jpeg8_encode(
            values, lossless=True, bitspersample=12 if values.itemsize == 2 else 8
        ),
        JPEG: lambda: imagecodecs.jpeg8_encode(values, colorspace="RGB", outcolorspace="RGB"),
        JPEGLS: lambda: imagecodecs.jpegls_encode(values),
        JPEG2000: lambda: imagecodecs.jpeg2k_encode(
            values, level=0, reversible=True, codecformat=0
        ),
        HTJ2K: lambda: imagecodecs.htj2k_encode(values, reversible=True),
    }[syntax]()


@pytest.mark.parametrize("syntax", [LOSSLESS, JPEGLS, JPEG2000, HTJ2K])
def test_lossless_codecs_give_back_what_went_in(syntax: str) -> None:
    data = encapsulate([compress(GREY, syntax), compress(GREY[::-1].copy(), syntax)])
    row = describe_compressed(GREY, syntax, NumberOfFrames=2, BitsStored=12)
    np.testing.assert_array_equal(decode_bytes(data, row, 1), GREY[::-1])
    data = encapsulate([compress(COLOUR, syntax)])
    np.testing.assert_array_equal(decode_bytes(data, describe_compressed(COLOUR, syntax)), COLOUR)


@pytest.mark.parametrize("syntax", [LOSSLESS, JPEG, JPEGLS, JPEG2000, HTJ2K])
def test_a_cut_codestream_is_refused(syntax: str) -> None:
    values = COLOUR if syntax == JPEG else GREY
    whole = compress(values, syntax)
    for length in (len(whole) - 2, len(whole) // 2, 30, 1):
        with pytest.raises(PixelError) as caught:
            decode_codestream(whole[:length], syntax, values.shape)
        assert caught.value.code in ("pixel-length", "codestream")


@pytest.mark.parametrize("syntax", [LOSSLESS, JPEGLS, JPEG2000, HTJ2K])
def test_a_codestream_of_another_size_is_refused(syntax: str) -> None:
    with pytest.raises(PixelError) as caught:
        decode_codestream(compress(GREY, syntax), syntax, (17, 13))
    assert caught.value.code == "codestream-size"


@given(st.sampled_from(sorted(CODECS)), st.binary(max_size=200))
def test_rubbish_is_refused(syntax: str, data: bytes) -> None:
    with pytest.raises(PixelError):
        decode_codestream(data, syntax, (4, 4))


@given(st.binary(max_size=200))
def test_rubbish_in_place_of_fragments_is_refused(data: bytes) -> None:
    for syntax in (RLE, JPEGLS):
        row = describe_compressed(GREY, syntax)
        assert refusal(data, row) in ("fragments", "codestream", "pixel-length")


def test_a_small_rle_frame_that_claims_much_is_refused() -> None:
    row = describe_compressed(np.zeros((1, 1), np.uint8), RLE, Rows=11000, Columns=11000)
    segment = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * 10
    assert refusal(encapsulate([segment]), row) == "pixel-length"


def test_sign_and_precision_follow_the_header() -> None:
    values = (GREY.astype(np.int16) - 2048).astype(np.int16)
    unsigned = (values & 0x0FFF).astype(np.uint16)
    row = describe_compressed(values, JPEG2000, BitsStored=12)
    data = encapsulate([compress(unsigned, JPEG2000)])
    np.testing.assert_array_equal(decode_bytes(data, row), values)
    # A negative sample of 16 bits in an unsigned codestream of 16 bits.
    data = encapsulate([compress(values.view(np.uint16), JPEGLS)])
    np.testing.assert_array_equal(decode_bytes(data, describe_compressed(values, JPEGLS)), values)


def test_samples_that_do_not_fit_the_header_are_refused() -> None:
    data = encapsulate([compress(GREY, JPEGLS)])
    assert refusal(data, describe_compressed(GREY, JPEGLS, BitsStored=8)) == "bits"
    # 12 bits in the stream, 16 signed ones in the header: sign or size, nobody can tell.
    stream = imagecodecs.jpeg8_encode(GREY, lossless=True, bitspersample=12)
    row = describe_compressed(GREY.astype(np.int16), LOSSLESS)
    assert refusal(encapsulate([stream]), row) == "bits"
    small = imagecodecs.jpeg8_encode(GREY // 2, lossless=True, bitspersample=12)
    np.testing.assert_array_equal(decode_bytes(encapsulate([small]), row), GREY // 2)


def test_a_member_of_an_archive_is_read(tmp_path: Path, pydicom_files: Path) -> None:
    plain = make_row(pydicom_files / "MR_small.dcm")
    archive = tmp_path / "a!b.zip"
    with zipfile.ZipFile(archive, "w") as writer:
        writer.write(pydicom_files / "MR_small.dcm", "in/x.dcm")
    row = plain | {"root": str(tmp_path), "path": "a!b.zip!in/x.dcm"}
    np.testing.assert_array_equal(decode(row).values, decode(plain).values)


def test_a_file_that_changed_or_went_is_refused(tmp_path: Path, pydicom_files: Path) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes((pydicom_files / "MR_small.dcm").read_bytes())
    row = make_row(path, size=path.stat().st_size, mtime_ns=path.stat().st_mtime_ns)
    decode(row)
    for code, change in (
        ("file-changed", {"size": 1}),
        ("file-changed", {"mtime_ns": 1}),
        ("file-unreadable", {"path": "y.dcm"}),
        ("file-unreadable", {"path": "y.zip!x.dcm"}),
    ):
        with pytest.raises(PixelError) as caught:
            decode(row | change)
        assert caught.value.code == code
