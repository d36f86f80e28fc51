"""Reading headers: pydicom's values, where the pixels lie, and verdicts on hostile bytes."""

from __future__ import annotations

import importlib.util
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.multival import MultiValue

from medkit.catalog import headers, pictures, triage
from medkit.catalog.findings import Finding, UnreadableFileError
from medkit.catalog.headers import read_header
from medkit.catalog.schema import HEADER
from medkit.testing import write_dicom

PIXELS = np.arange(12, dtype=np.uint16).reshape(3, 4)
EXPLICIT = "1.2.840.10008.1.2.1"


def read(path: Path, **options: Any) -> Finding:
    with path.open("rb") as stream:
        return read_header(stream, path.stat().st_size, **options)


def read_bytes(content: bytes) -> Finding:
    return read_header(io.BytesIO(content), len(content))


def codes(finding: Finding) -> list[str]:
    return sorted({code for code, _ in finding.problems})


def verdict(content: bytes) -> str:
    with pytest.raises(UnreadableFileError) as caught:
        read_bytes(content)
    return caught.value.code


def element(group: int, number: int, vr: str, value: bytes) -> bytes:
    long = vr in ("SQ", "UN", "OB", "OW")
    length = struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value))
    return struct.pack("<HH", group, number) + vr.encode() + length + value


def part_10(body: bytes, syntax: str = EXPLICIT) -> bytes:
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    return b"\0" * 128 + b"DICM" + element(2, 0x10, "UI", uid) + body


def real_files(pydicom_files: Path) -> list[Path]:
    package = importlib.util.find_spec("data_store")
    folders = [pydicom_files]
    if package is not None and package.submodule_search_locations:
        folders.append(Path(package.submodule_search_locations[0]) / "data")
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]


def expect(header: pydicom.Dataset, name: str) -> Any:
    """What pydicom itself says, in the column's type."""
    value = header.get(name)
    if value is None or value == "" or (isinstance(value, MultiValue) and not value):
        return None
    kind = str(HEADER.field(name).type)
    several = list(value) if isinstance(value, MultiValue) else [value]
    single = {"int64": int, "double": float}
    if kind in single:
        return single[kind](several[0])
    if kind == "string":
        return "\\".join(map(str, several))
    return [float(one) if "double" in kind else str(one) for one in several]


def test_values_equal_pydicoms_on_every_real_file(pydicom_files: Path) -> None:
    compared = 0
    for path in real_files(pydicom_files):
        if path.read_bytes()[128:132] != b"DICM":
            continue
        try:
            finding = read(path)
        except UnreadableFileError as error:
            assert (path.name, error.code) == ("rtplan_truncated.dcm", "cut-header")
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True)
            assert finding.values is not None
            bad = {detail.partition(":")[0] for code, detail in finding.problems}
            for name in HEADER.names:
                if name in ("PixelPaddingValue", "TransferSyntaxUID", *bad):
                    continue
                assert finding.values.get(name) == expect(header, name), (path, name)
        compared += 1
    assert compared > 150


def test_pixels_lie_where_the_header_says(pydicom_files: Path) -> None:
    for name, syntax in [("MR_small.dcm", 1), ("MR_small_bigendian.dcm", 2), ("rtdose.dcm", 0)]:
        path = pydicom_files / name
        values = read(path).values
        assert values is not None
        start, length = values["pixel_offset"], values["pixel_length"]
        assert not values["encapsulated"]
        assert path.read_bytes()[start : start + length] == pydicom.dcmread(path).PixelData, syntax


def test_encapsulated_pixels_have_no_length(pydicom_files: Path) -> None:
    path = pydicom_files / "MR_small_RLE.dcm"
    values = read(path).values
    assert values is not None
    assert values["encapsulated"]
    assert values["pixel_length"] == -1
    assert path.read_bytes()[values["pixel_offset"] :].startswith(b"\xfe\xff\x00\xe0")


def test_no_warning_leaks(pydicom_files: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finding = read(pydicom_files / "badVR.dcm")
    assert codes(finding) == ["bad-value"]
    assert "NumberOfFrames" in finding.problems[0][1]


def test_text_is_decoded_with_its_character_set(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "a.dcm", PIXELS, SpecificCharacterSet="ISO_IR 192", StudyDescription="Größe Ω"
    )
    values = read(path).values
    assert values is not None
    assert values["StudyDescription"] == "Größe Ω"


def test_names_are_kept_only_when_asked_for(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", PIXELS, PatientName="Synthetic^Person")
    assert "Synthetic" not in repr(read(path))
    kept = read(path, keep_identifiers=True).values
    assert kept is not None
    assert kept["PatientName"] == "Synthetic^Person"


@pytest.mark.parametrize(
    ("representation", "vr", "stored", "expected"),
    [(1, "US", 63536, -2000), (1, "SS", -2000, -2000), (0, "SS", -1, 65535), (0, "US", 9, 9)],
)
def test_padding_is_read_as_the_pixels_are(
    tmp_path: Path, representation: int, vr: str, stored: int, expected: int
) -> None:
    path = write_dicom(tmp_path / "a.dcm", PIXELS, PixelRepresentation=representation)
    header = pydicom.dcmread(path)
    header.add_new("PixelPaddingValue", vr, stored)
    header.save_as(path)
    values = read(path).values
    assert values is not None
    assert values["PixelPaddingValue"] == expected


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"Rows": 2}, "pixel-length"),
        ({"Rows": 30}, "pixel-length"),
        ({"Rows": None}, "no-size"),
        ({"BitsAllocated": 8}, "pixel-length"),
        ({"NumberOfFrames": 2}, "pixel-length"),
        ({"NumberOfFrames": 2_000_000_000}, "frame-count"),
        ({"ImagePositionPatient": [1.0, 2.0]}, "bad-value"),
        ({"PixelSpacing": [1.0]}, "bad-value"),
    ],
)
def test_what_cannot_be_right_is_a_problem_of_an_image(
    tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    finding = read(write_dicom(tmp_path / "a.dcm", PIXELS, **changes))
    assert finding.kind == "image"
    assert code in codes(finding)
    assert len(finding.frames) in (1, changes.get("NumberOfFrames"))


def test_a_pad_byte_is_fine(tmp_path: Path) -> None:
    odd = np.arange(15, dtype=np.uint8).reshape(3, 5)
    assert read(write_dicom(tmp_path / "a.dcm", odd)).problems == []


def test_pixels_that_were_cut_are_told(tmp_path: Path) -> None:
    content = write_dicom(tmp_path / "a.dcm", PIXELS).read_bytes()
    assert codes(read_bytes(content[:-4])) == ["pixel-cut"]


def nest(depth: int, *, undefined: bool) -> bytes:
    body = b""
    for _ in range(depth):
        length = 0xFFFFFFFF if undefined else len(body)
        end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) if undefined else b""
        item = struct.pack("<HHI", 0xFFFE, 0xE000, length) + body + end
        body = element(8, 0x1115, "SQ", item)
        if undefined:
            body = body[:8] + struct.pack("<I", length) + body[12:]
            body += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return part_10(body)


def call_deep(depth: int, work: Callable[[], str]) -> str:
    return call_deep(depth - 1, work) if depth else work()


def test_deep_nesting_is_refused() -> None:
    # At which call the limit is met is another thing in each Python, and at some of them pydicom
    # raises an error of its own.
    for depth in range(20):
        assert call_deep(depth, lambda: verdict(nest(2000, undefined=True))) == "too-nested"
    assert read_bytes(nest(50, undefined=True)).kind == "other-dicom"


def test_nesting_that_is_not_looked_into_is_harmless() -> None:
    assert read_bytes(nest(2000, undefined=False)).kind == "other-dicom"


def deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(body) + packer.flush()


def test_a_deflated_header_is_read(pydicom_files: Path) -> None:
    finding = read(pydicom_files / "image_dfl.dcm")
    assert finding.kind == "image"
    assert finding.problems == []


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.205"])
def test_a_deflate_bomb_is_refused(syntax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "_INFLATED_LIMIT", 2**22)
    monkeypatch.setattr(headers, "_INFLATED_HEAD", 2**20)
    bomb = deflate(element(0x7FE0, 0x10, "OW", bytes(2**24)))
    assert verdict(part_10(bomb, syntax)) == "deflate-bomb"


def test_a_deflated_stream_that_was_cut_is_refused(pydicom_files: Path) -> None:
    content = (pydicom_files / "image_dfl.dcm").read_bytes()
    assert verdict(content[:-200]) == "cut-header"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "no-elements"),
        (b"\xff" * 64, "cut-header"),
        (element(8, 0x60, "CS", b"CT") + b"\x10\x00\x10", "cut-header"),
        (struct.pack("<HH2sHI", 9, 1, b"UN", 0, 0xE0000000) + b"abc", "cut-header"),
        (struct.pack("<HH2sHI", 8, 0x1115, b"SQ", 0, 0xFFFFFFFF), "unreadable-header"),
    ],
)
def test_headers_that_break_off_are_refused(body: bytes, code: str) -> None:
    assert verdict(part_10(body)) == code


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_bytes_give_a_finding_or_a_verdict(
    pydicom_files: Path, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(["MR_small_implicit.dcm", "CT_small.dcm", "rtplan.dcm"]))
    content = bytearray((pydicom_files / name).read_bytes()[:6000])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(140, len(content)))
    try:
        assert read_bytes(bytes(content[:end])).kind in ("image", "other-dicom")
    except UnreadableFileError as error:
        assert error.code


@settings(max_examples=100, deadline=None)
@given(cut=st.integers(0, 64 * 18 - 1))
def test_a_header_cut_anywhere_is_never_whole(cut: int) -> None:
    """Element boundaries before the pixels cannot be told from an object without pixels."""
    body = b"".join(element(8, number, "LO", b"some text ") for number in range(0x70, 0x70 + 64))
    content = part_10(body)
    kept = content[: len(content) - len(body) + cut]
    if cut % 18:
        assert verdict(kept) in ("cut-header", "no-elements")


def test_functional_groups_are_resolved(shared_data: Path) -> None:
    path = shared_data / "dicom" / "dcm_qa_enh" / "In" / "Siemens" / "XA10" / "6_1.dcm"
    frames = read(path).frames
    header = pydicom.dcmread(path, stop_before_pixels=True)
    assert len(frames) == header.NumberOfFrames == 6
    for frame, item in zip(frames, header.PerFrameFunctionalGroupsSequence, strict=True):
        position = item.PlanePositionSequence[0].ImagePositionPatient
        assert frame["ImagePositionPatient"] == list(map(float, position))
        window = item.FrameVOILUTSequence[0].WindowCenter
        assert frame["WindowCenter"] == float(
            window[0] if isinstance(window, MultiValue) else window
        )
        assert len(frame["ImageOrientationPatient"]) == 6
        assert len(frame["PixelSpacing"]) == 2


def test_frames_without_groups_have_no_position_of_their_own(tmp_path: Path) -> None:
    stack = np.zeros((3, 4, 5), np.uint8)
    finding = read(write_dicom(tmp_path / "a.dcm", stack, RescaleSlope=2, RescaleIntercept=-1))
    assert [frame["frame"] for frame in finding.frames] == [0, 1, 2]
    assert all("ImagePositionPatient" not in frame for frame in finding.frames)
    assert all(frame["RescaleSlope"] == 2 for frame in finding.frames)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("CT_small.dcm", "dicom"),
        ("rtstruct.dcm", "bare-dicom"),
        ("ExplVR_BigEndNoMeta.dcm", "bare-dicom"),
        ("ExplVR_LitEndNoMeta.dcm", "bare-dicom"),
        ("README.txt", ""),
        ("zipMR.gz", "unsupported-archive"),
        ("test1.json", ""),
    ],
)
def test_files_are_told_by_their_bytes(pydicom_files: Path, name: str, form: str) -> None:
    path = pydicom_files / name
    assert triage.recognise(path.read_bytes()[: triage.HEAD], path.stat().st_size) == form


def test_a_preamble_may_be_another_formats_magic(tmp_path: Path) -> None:
    content = bytearray(write_dicom(tmp_path / "a.dcm", PIXELS).read_bytes())
    content[:4] = b"II*\0"
    assert triage.recognise(bytes(content), len(content)) == "dicom"


@given(st.binary(max_size=400))
def test_any_bytes_have_a_verdict(content: bytes) -> None:
    assert isinstance(triage.recognise(content, len(content)), str)


@pytest.mark.parametrize(
    ("form", "modes"),
    [
        ("png", "1 L LA P RGB RGBA I;16"),
        ("jpeg", "1 L RGB CMYK"),
        ("tiff", "1 L LA P RGB RGBA CMYK I;16 F"),
        ("bmp", "1 L P RGB RGBA"),
    ],
)
def test_pictures_say_what_pillow_says(tmp_path: Path, form: str, modes: str) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / f"picture.{form}"
    for mode in modes.split():
        image.new(mode, (37, 23)).save(path, form)
        content = path.read_bytes()
        assert triage.recognise(content[: triage.HEAD], len(content)) == form
        values = pictures.read_picture(io.BytesIO(content), form).values
        assert values is not None
        with image.open(path) as opened:
            assert (values["Columns"], values["Rows"]) == opened.size
            assert values["SamplesPerPixel"] == len(opened.getbands())


def test_pages_of_a_tiff_are_frames(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "a.tif"
    pages = [image.new("L", (5, 4), shade) for shade in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    finding = pictures.read_picture(io.BytesIO(path.read_bytes()), "tiff")
    assert len(finding.frames) == 3


@settings(max_examples=150)
@given(
    form=st.sampled_from(["png", "jpeg", "tiff", "bmp"]),
    content=st.binary(max_size=200),
)
def test_damaged_pictures_are_refused(form: str, content: bytes) -> None:
    magic = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff", "tiff": b"II*\0", "bmp": b"BM"}
    try:
        finding = pictures.read_picture(io.BytesIO(magic[form] + content), form)
    except UnreadableFileError as error:
        assert error.code == "unreadable-header"
    else:
        assert finding.values is not None
        assert finding.values["Rows"] > 0
