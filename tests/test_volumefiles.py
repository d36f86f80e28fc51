"""NIfTI, MetaImage and NRRD volumes: what ITK and nibabel see, and none of what damages them."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medkit.catalog import triage
from medkit.catalog.findings import Finding, UnreadableFileError
from medkit.catalog.pictures import read_picture
from medkit.catalog.schema import FRAMES, INSTANCES
from medkit.errors import PixelError
from medkit.images.pixels import name_array, read_frame
from medkit.images.stacks import decode_slice

RANDOM = np.random.default_rng(0)
TURNED = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
# Columns are the directions of the axes: a sagittal stack, turned about an axis, and mirrored.
DIRECTIONS = {
    "axial": np.eye(3),
    "turned": TURNED @ [[0, 0, -1], [1, 0, 0], [0, -1, 0]],
    "mirrored": np.diag([-1.0, 1, 1]),
}
KINDS = ["uint8", "int8", "int16", "uint16", "int32", "float32", "float64"]
SUFFIXES = ["nii", "nii.gz", "hdr", "mha", "mhd", "nrrd", "nhdr"]


def look(path: Path) -> Finding:
    content = path.read_bytes()
    form = triage.recognise(content[: triage.HEAD], len(content))
    with path.open("rb") as stream:
        return read_picture(stream, form, path)


def list_rows(path: Path, root: Path | None = None) -> list[dict[str, Any]]:
    """Return the rows of the view ``images`` of one file."""
    finding = look(path)
    assert finding.values is not None
    root = root or path.parent
    state = path.stat()
    where = {
        "root": str(root),
        "path": path.relative_to(root).as_posix(),
        "size": state.st_size,
        "mtime_ns": state.st_mtime_ns,
        "encapsulated": False,
    }
    return [where | finding.values | frame for frame in finding.frames]


def decode(row: dict[str, Any]) -> np.ndarray:
    with Path(row["root"], row["path"]).open("rb") as stream:
        return decode_slice(stream, row).values


def write_itk(path: Path, values: np.ndarray, *, pack: bool = False, **geometry: Any) -> Any:
    itk = pytest.importorskip("SimpleITK")
    image = itk.GetImageFromArray(values, isVector=geometry.pop("colour", False))
    for name, value in geometry.items():
        getattr(image, f"Set{name}")(value)
    itk.WriteImage(image, path, pack)
    return image


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("direction", sorted(DIRECTIONS))
@pytest.mark.parametrize("pack", [False, True])
def test_slices_lie_where_itk_has_them(
    tmp_path: Path, suffix: str, direction: str, pack: bool
) -> None:
    values = RANDOM.integers(-500, 500, (4, 6, 5)).astype(np.int16)
    path = tmp_path / f"v.{suffix}"
    image = write_itk(
        path,
        values,
        pack=pack,
        Spacing=(0.5, 0.75, 2.5),
        Origin=(-10.5, 20.25, 30.0),
        Direction=DIRECTIONS[direction].ravel().tolist(),
    )
    rows = list_rows(path)
    assert len(rows) == rows[0]["NumberOfFrames"] == 4
    for number, row in enumerate(rows):
        assert (row["Rows"], row["Columns"]) == (6, 5)
        assert (row["BitsAllocated"], row["PixelRepresentation"]) == (16, 1)
        np.testing.assert_allclose(row["PixelSpacing"], [0.75, 0.5], rtol=1e-6)
        np.testing.assert_allclose(
            row["ImageOrientationPatient"], DIRECTIONS[direction][:, :2].T.ravel(), atol=1e-6
        )
        expected = image.TransformIndexToPhysicalPoint((0, 0, number))
        np.testing.assert_allclose(row["ImagePositionPatient"], expected, atol=1e-4)
        np.testing.assert_array_equal(decode(row), values[number])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "mha", "nrrd"])
def test_every_kind_of_voxel_comes_through_exactly(tmp_path: Path, suffix: str, kind: str) -> None:
    values = (RANDOM.normal(0, 1, (3, 5, 4)) * 100).astype(kind)
    write_itk(tmp_path / f"v.{suffix}", values, pack=True)
    rows = list_rows(tmp_path / f"v.{suffix}")
    for row, expected in zip(rows, values, strict=True):
        frame = read_frame(row)
        assert decode(row).dtype == expected.dtype
        np.testing.assert_array_equal(frame.values, expected)
        # Whatever the array, codes hold the value.
        codes = (frame.values - frame.base) * frame.k
        np.testing.assert_array_equal(codes * frame.code_slope + frame.code_intercept, expected)
    wide = {"int32": "float64x1", "float32": "float32x1", "float64": "float64x1"}
    assert name_array(rows[0]) == wide.get(kind, "uint16x1")


def test_colour_is_read_pixel_by_pixel(tmp_path: Path) -> None:
    colour = RANDOM.integers(0, 256, (3, 5, 4, 3)).astype(np.uint8)
    write_itk(tmp_path / "v.mha", colour, colour=True)
    header = "NRRD0005\ntype: uchar\ndimension: 4\nsizes: 3 4 5 3\nencoding: gzip\n"
    kinds = "kinds: RGB-color space space space\nspace: RAS\n"
    place = "space directions: none (1,0,0) (0,2,0) (0,0,3)\nspace origin: (1,2,3)\n\n"
    packed = gzip.compress(colour.tobytes())
    (tmp_path / "v.nrrd").write_bytes((header + kinds + place).encode() + packed)
    nifti = make_nifti(colour[..., 0], datatype=128, affine=AFFINE)
    (tmp_path / "v.nii").write_bytes(nifti[:352] + colour.tobytes())
    for suffix in ("mha", "nrrd", "nii"):
        rows = list_rows(tmp_path / f"v.{suffix}")
        assert [row["PhotometricInterpretation"] for row in rows] == ["RGB"] * 3
        np.testing.assert_array_equal([read_frame(row).values for row in rows], colour)
        assert name_array(rows[0]) == "uint8x3"
    assert list_rows(tmp_path / "v.nrrd")[1]["ImagePositionPatient"] == [-1, -2, 6]


@pytest.mark.parametrize("suffix", ["nii", "mha", "nrrd"])
def test_moments_follow_one_another(tmp_path: Path, suffix: str) -> None:
    itk = pytest.importorskip("SimpleITK")
    moments = RANDOM.integers(0, 256, (2, 3, 5, 4)).astype(np.uint8)
    parts = [itk.GetImageFromArray(moment) for moment in moments]
    itk.WriteImage(itk.JoinSeries(parts), tmp_path / f"m.{suffix}")
    rows = list_rows(tmp_path / f"m.{suffix}")
    np.testing.assert_array_equal([decode(row) for row in rows], moments.reshape(6, 5, 4))
    places = [row["ImagePositionPatient"] for row in rows]
    assert places[:3] == places[3:]
    assert rows[0]["PixelSpacing"] == [1, 1]
    if suffix != "nrrd":  # ITK says no space of three dimensions there
        assert len({tuple(place) for place in places}) == 3


def make_nifti(
    values: np.ndarray,
    *,
    order: str = "<",
    version: int = 1,
    datatype: int = 4,
    affine: np.ndarray | None = None,
    quaternion: tuple[float, ...] | None = None,
    **changes: Any,
) -> bytes:
    """Return a NIfTI file, made by the book (nifti1.h and nifti2.h)."""
    head = bytearray(352 if version == 1 else 544)
    at = {
        1: {"dim": 40, "type": 70, "pixdim": 76, "vox": 108, "slope": 112, "units": 123}
        | {"qform": 252, "sform": 254, "quatern": 256, "srow": 280},
        2: {"dim": 16, "type": 12, "pixdim": 104, "vox": 168, "slope": 176, "units": 500}
        | {"qform": 344, "sform": 348, "quatern": 352, "srow": 400},
    }[version]
    real, whole, code = ("f", "h", "h") if version == 1 else ("d", "q", "i")
    shape = values.shape[::-1]
    put = struct.pack_into
    put(f"{order}i", head, 0, 348 if version == 1 else 540)
    dim = [len(shape), *shape, *[1] * (7 - len(shape))]
    put(f"{order}8{whole}", head, at["dim"], *changes.get("dim", dim))
    put(f"{order}h", head, at["type"], datatype)
    put(f"{order}8{real}", head, at["pixdim"], changes.get("qfac", 1), 2, 3, 4, 1, 1, 1, 1)
    put(f"{order}{'f' if version == 1 else 'q'}", head, at["vox"], changes.get("vox", len(head)))
    put(f"{order}2{real}", head, at["slope"], *changes.get("slope", (0, 0)))
    put("b" if version == 1 else f"{order}i", head, at["units"], changes.get("units", 2))
    if affine is not None:
        put(f"{order}{code}", head, at["sform"], 1)
        put(f"{order}12{real}", head, at["srow"], *affine[:3].ravel())
    if quaternion is not None:
        put(f"{order}{code}", head, at["qform"], 1)
        put(f"{order}6{real}", head, at["quatern"], *quaternion, 7, 8, 9)
    magic = b"n+1\0" if version == 1 else b"n+2\0\r\n\x1a\n"
    start = 344 if version == 1 else 4
    head[start : start + len(magic)] = magic
    return bytes(head) + values.astype(values.dtype.newbyteorder(order)).tobytes()


VOXELS = RANDOM.integers(-900, 900, (3, 5, 4)).astype(np.int16)
AFFINE = np.array([[0, 0, 3.0, 5], [-0.5, 0.1, 0, 6], [0, 0.75, 0.2, 7], [0, 0, 0, 1]])


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(
    "geometry",
    [
        {"affine": AFFINE},
        {"quaternion": (0.5, -0.5, 0.5)},
        {"quaternion": (0.1, 0.2, 0.3), "qfac": -1},
        {"quaternion": (0.0, 1.0, 0.0)},
        {"affine": AFFINE, "quaternion": (0.1, 0.2, 0.3), "slope": (2.5, -7)},
    ],
)
def test_nifti_is_what_nibabel_sees(
    tmp_path: Path, version: int, order: str, pack: bool, geometry: dict[str, Any]
) -> None:
    nibabel = pytest.importorskip("nibabel")
    content = make_nifti(VOXELS, order=order, version=version, **geometry)
    path = tmp_path / ("v.nii.gz" if pack else "v.nii")
    path.write_bytes(gzip.compress(content) if pack else content)
    expected = nibabel.load(path)
    to_lps = np.diag([-1, -1, 1, 1]) @ expected.affine
    for number, row in enumerate(list_rows(path)):
        place = to_lps @ [0, 0, number, 1]
        np.testing.assert_allclose(row["ImagePositionPatient"], place[:3], atol=1e-5)
        axes = to_lps[:3, :2] / np.linalg.norm(to_lps[:3, :2], axis=0)
        np.testing.assert_allclose(row["ImageOrientationPatient"], axes.T.ravel(), atol=1e-5)
        frame = read_frame(row)
        np.testing.assert_array_equal(frame.values, VOXELS[number])
        real = frame.values * frame.slope + frame.intercept
        np.testing.assert_allclose(real.T, expected.get_fdata()[..., number], atol=1e-3)


def test_nifti_without_orientation_has_spacing_alone(tmp_path: Path) -> None:
    path = tmp_path / "v.nii"
    path.write_bytes(make_nifti(VOXELS, units=3, slope=(float("nan"), 0)))
    row = list_rows(path)[0]
    np.testing.assert_allclose(row["PixelSpacing"], [0.003, 0.002])
    assert row["ImagePositionPatient"] is None
    assert "ImageOrientationPatient" not in row
    assert row["RescaleSlope"] is None


def test_packed_slices_are_read_in_any_order(tmp_path: Path) -> None:
    voxels = RANDOM.integers(0, 9, (40, 90, 80)).astype(np.int16)
    content = make_nifti(voxels)
    path, other = tmp_path / "v.nii.gz", tmp_path / "w.nii.gz"
    # Members of gzip that follow one another, as pigz and bgzip write them.
    path.write_bytes(gzip.compress(content[:70_001]) + gzip.compress(content[70_001:]))
    other.write_bytes(gzip.compress(make_nifti(voxels + 1)))
    rows, others = list_rows(path), list_rows(other)
    for number in (0, 1, 2, 39, 3, 3, 20, 21, 0):
        np.testing.assert_array_equal(decode(rows[number]), voxels[number])
    np.testing.assert_array_equal(decode(others[5]), voxels[5] + 1)
    np.testing.assert_array_equal(decode(rows[6]), voxels[6])


def test_what_follows_in_a_packed_volume_is_not_unpacked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medkit.images import stacks

    voxels = RANDOM.integers(0, 999, (30, 100, 100)).astype(np.int16)
    path = tmp_path / "v.nii.gz"
    path.write_bytes(gzip.compress(make_nifti(voxels)))
    rewound: list[int] = []
    plain = stacks._Unpacker._rewind
    monkeypatch.setattr(
        stacks._Unpacker, "_rewind", lambda self: (rewound.append(1), plain(self))[1]
    )
    for row in list_rows(path):
        decode(row)
    assert len(rewound) == 1


def test_members_of_archives_are_volumes_too(tmp_path: Path) -> None:
    from medkit.images.rows import open_file

    content = make_nifti(VOXELS, affine=AFFINE)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sub/v.nii.gz", gzip.compress(content))
    finding = read_picture(io.BytesIO(gzip.compress(content)), "nifti")
    assert finding.values is not None
    where = {"root": str(tmp_path), "path": "a.zip!sub/v.nii.gz", "encapsulated": False}
    for number, frame in enumerate(finding.frames):
        row = where | finding.values | frame
        with open_file(row) as stream:
            np.testing.assert_array_equal(decode_slice(stream, row).values, VOXELS[number])


METAIMAGE = {
    "ObjectType": "Image",
    "NDims": "3",
    "DimSize": "4 5 3",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "v.raw",
}
NRRD = {
    "type": "short",
    "dimension": "3",
    "sizes": "4 5 3",
    "endian": "little",
    "encoding": "raw",
    "data file": "v.raw",
}


def write_header(folder: Path, form: str, changes: dict[str, str | None]) -> Path:
    """Write a header and the voxels beside it."""
    fields = {"metaimage": METAIMAGE, "nrrd": NRRD}[form] | changes
    last = "ElementDataFile"  # must be, in a MetaImage
    fields = {key: fields[key] for key in sorted(fields, key=lambda key: key == last)}
    sign, start = (" = ", "") if form == "metaimage" else (": ", "NRRD0004\n")
    lines = [f"{key}{sign}{value}\n" for key, value in fields.items() if value is not None]
    path = folder / f"v.{form}"
    path.write_text(start + "".join(lines), encoding="utf-8")
    (folder / "v.raw").write_bytes(VOXELS.tobytes())
    return path


@pytest.mark.parametrize("form", ["metaimage", "nrrd"])
def test_voxels_may_lie_beside_and_behind_other_bytes(tmp_path: Path, form: str) -> None:
    at_end = {"metaimage": {"HeaderSize": "-1"}, "nrrd": {"byte skip": "-1"}}[form]
    behind = {"metaimage": {"HeaderSize": "5"}, "nrrd": {"byteskip": "5"}}[form]
    key = {"metaimage": "ElementDataFile", "nrrd": "data file"}[form]
    for changes in ({}, at_end, behind, {key: "./v.raw"}):
        path = write_header(tmp_path, form, changes)
        if changes in (at_end, behind):
            (tmp_path / "v.raw").write_bytes(b"12345" + VOXELS.tobytes())
        rows = list_rows(path)
        np.testing.assert_array_equal([decode(row) for row in rows], VOXELS)
        # The folder of the header, not the root, is where the voxels are.
        row = list_rows(path, tmp_path.parent)[2]
        np.testing.assert_array_equal(decode(row), VOXELS[2])


@pytest.mark.parametrize(
    ("form", "changes", "detail"),
    [
        ("metaimage", {"ElementDataFile": "../v.raw"}, "no file beside"),
        ("metaimage", {"ElementDataFile": "/etc/passwd"}, "no file beside"),
        ("metaimage", {"ElementDataFile": "a\\v.raw"}, "no file beside"),
        ("metaimage", {"ElementDataFile": "LIST"}, "several files"),
        ("metaimage", {"ElementDataFile": "v%03d.raw 1 3 1"}, "several files"),
        ("metaimage", {"ElementDataFile": "gone.raw"}, "'gone.raw' of its voxels"),
        ("metaimage", {"ElementDataFile": "link.raw"}, "no plain file"),
        ("metaimage", {"ObjectType": "Tube"}, "'Tube'"),
        ("metaimage", {"BinaryData": "False"}, "as text"),
        ("metaimage", {"ElementType": "MET_OTHER"}, "MET_OTHER"),
        ("metaimage", {"ElementNumberOfChannels": "2"}, "2 samples"),
        ("metaimage", {"NDims": "5", "DimSize": "4 5 3 1 1"}, "four dimensions"),
        ("metaimage", {"HeaderSize": "-7"}, "HeaderSize"),
        ("nrrd", {"data file": ".."}, "no file beside"),
        ("nrrd", {"data file": "LIST 2"}, "several files"),
        ("nrrd", {"encoding": "bzip2"}, "'bzip2'"),
        ("nrrd", {"type": "block"}, "'block'"),
        ("nrrd", {"line skip": "1"}, "1 lines"),
        ("nrrd", {"kinds": "vector domain domain"}, "vectors"),
        ("nrrd", {"space directions": "none (1,0,0) (0,1,0)"}, "vectors"),
        ("nrrd", {"dimension": "1", "sizes": "60"}, "neither two"),
        ("nrrd", {"kinds": "RGB-color space space", "sizes": "3 4 5"}, "3 samples"),
    ],
)
def test_voxels_that_are_not_read_are_named(
    tmp_path: Path, form: str, changes: dict[str, str], detail: str
) -> None:
    (tmp_path / "link.raw").symlink_to(tmp_path / "v.raw")
    finding = look(write_header(tmp_path, form, changes))
    assert (finding.kind, finding.values, finding.frames) == ("non-dicom", {"format": form}, [])
    ((code, said),) = finding.problems
    assert code == "voxels-not-read"
    assert detail in said


def test_voxels_beside_a_member_of_an_archive_are_not_looked_for(tmp_path: Path) -> None:
    path = write_header(tmp_path, "nrrd", {})
    finding = read_picture(io.BytesIO(path.read_bytes()), "nrrd")
    assert "not looked for in archives" in finding.problems[0][1]


@pytest.mark.parametrize(
    ("datatype", "changes"), [(32, {}), (2304, {}), (4, {"dim": (5, 4, 1, 1, 1, 3, 1, 1)})]
)
def test_nifti_of_other_voxels_is_named(datatype: int, changes: dict[str, Any]) -> None:
    content = make_nifti(VOXELS, datatype=datatype, **changes)
    assert read_picture(io.BytesIO(content), "nifti").problems[0][0] == "voxels-not-read"


@pytest.mark.parametrize(
    ("form", "changes"),
    [
        ("metaimage", {"DimSize": "4 5"}),
        ("metaimage", {"DimSize": "4 5 0"}),
        ("metaimage", {"DimSize": "4 x 3"}),
        ("metaimage", {"ElementType": None}),
        ("metaimage", {"ElementSpacing": "1 1"}),
        ("metaimage", {"ElementDataFile": None}),
        ("nrrd", {"endian": None}),
        ("nrrd", {"endian": "middle"}),
        ("nrrd", {"sizes": "4 5 -3"}),
        ("nrrd", {"space directions": "(1,0) (0,1,0) (0,0,1)"}),
        ("nrrd", {"data file": None}),
    ],
)
def test_damaged_headers_are_problems(
    tmp_path: Path, form: str, changes: dict[str, str | None]
) -> None:
    with pytest.raises(UnreadableFileError, match="unreadable-header"):
        look(write_header(tmp_path, form, changes))


def test_a_header_that_promises_more_than_the_file_holds_is_told(tmp_path: Path) -> None:
    path = tmp_path / "v.nii"
    path.write_bytes(make_nifti(VOXELS)[:-1])
    finding = look(path)
    assert [code for code, _ in finding.problems] == ["pixel-cut"]
    rows = list_rows(path)
    np.testing.assert_array_equal(decode(rows[1]), VOXELS[1])
    with pytest.raises(PixelError, match="pixel-length"):
        decode(rows[2])
    path.write_bytes(gzip.compress(make_nifti(VOXELS))[:-20])
    with pytest.raises(PixelError, match="pixel-length"):
        decode(list_rows(path)[2])


def test_absurd_sizes_cost_nothing() -> None:
    huge = make_nifti(VOXELS, dim=(4, 30000, 30000, 30000, 30000, 1, 1, 1))
    for content in (huge, gzip.compress(huge)):
        finding = read_picture(io.BytesIO(content), "nifti")
        assert len(finding.frames) == 1
        assert sorted(code for code, _ in finding.problems) == ["frame-count", "pixel-cut"]


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan, 1e300, 1e-300, 0])
def test_geometry_that_cannot_be_is_left_out(number: float) -> None:
    content = make_nifti(VOXELS, version=2, affine=np.full((4, 4), number))
    finding = read_picture(io.BytesIO(content), "nifti")
    assert [code for code, _ in finding.problems] == ["bad-value"]
    assert finding.values is not None
    assert "ImageOrientationPatient" not in finding.values
    assert len(finding.frames) == 3


def test_sizes_beyond_any_file_are_refused() -> None:
    for changes in ({"dim": (4, 2**62, 2, 2, 2, 1, 1, 1)}, {"vox": 2**63 - 1}):
        content = make_nifti(VOXELS, version=2, **changes)
        with pytest.raises(UnreadableFileError, match="a shape of"):
            read_picture(io.BytesIO(content), "nifti")


@settings(max_examples=300)
@given(
    form=st.sampled_from(["nifti", "nifti 2", "metaimage", "nrrd"]),
    places=st.lists(st.tuples(st.integers(0, 520), st.binary(min_size=1, max_size=8)), max_size=6),
    end=st.integers(0, 700),
)
def test_damage_ends_as_a_finding_or_a_refusal(
    form: str,
    places: list[tuple[int, bytes]],
    end: int,
) -> None:
    content = bytearray(_ORIGINALS[form])
    for place, change in places:
        content[place : place + len(change)] = change
    try:
        finding = read_picture(io.BytesIO(bytes(content[:end])), form.split()[0])
    except UnreadableFileError as error:
        assert error.code == "unreadable-header"
    else:
        assert finding.values is not None
        pa.Table.from_pylist([finding.values], schema=INSTANCES)  # it fits the columns
        pa.Table.from_pylist(finding.frames, schema=FRAMES)
        for frame in finding.frames[:3]:
            row = {"path": "x", "root": "/", "encapsulated": False} | finding.values | frame
            try:
                decode_slice(io.BytesIO(bytes(content[:end])), row)
            except PixelError as error:
                assert error.code


_ORIGINALS = {
    "nifti 2": make_nifti(VOXELS, affine=AFFINE, version=2),
    "nifti": make_nifti(VOXELS, affine=AFFINE),
    "metaimage": b"ObjectType = Image\nNDims = 3\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
    b"Offset = 0 0 0\nElementSpacing = 1 2 3\nDimSize = 4 5 3\nElementType = MET_SHORT\n"
    b"ElementDataFile = LOCAL\n" + VOXELS.tobytes(),
    "nrrd": b"NRRD0004\ntype: short\ndimension: 3\nspace: right-anterior-superior\nsizes: 4 5 3\n"
    b"space directions: (1,0,0) (0,2,0) (0,0,3)\nendian: little\nencoding: raw\n"
    b"space origin: (7,8,9)\n\n" + VOXELS.tobytes(),
}


def test_a_volume_goes_all_the_way(tmp_path: Path, call_cli: Callable[..., Any]) -> None:
    from medkit.catalog.store import Catalog
    from medkit.images.imageset import ImageSet
    from medkit.workspace import Workspace

    tree, home = tmp_path / "tree", Workspace(tmp_path / "w")
    tree.mkdir()
    voxels = RANDOM.integers(-1000, 3000, (3, 8, 8)).astype(np.int16)
    affine = np.diag([2.0, 2, 5, 1])
    (tree / "P1_v.nii").write_bytes(make_nifti(voxels, affine=affine, slope=(0.5, 10)))
    (tree / "P2_v.nii.gz").write_bytes(gzip.compress(make_nifti(voxels + 1, affine=affine)))
    here = ("-w", home.root)
    done = call_cli("catalog", tree, "--person-regex", r"(P\d)_", *here)
    assert done.exit_code == 0, done.stderr
    volumes = Catalog.open(home.catalog).table("volumes")
    assert volumes["slices"].tolist() == [3, 3]
    assert volumes["slice_spacing"].tolist() == [5.0, 5.0]
    done = call_cli("normalise", "a", "--size", 8, *here, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["landed"] == 6
    found = ImageSet.open(home.set("a"))
    images = found.images()
    for number, row in found.table.iterrows():
        expected = voxels * 0.5 + 10 if row["path"].startswith("P1") else voxels + 1
        real = images.codes(number) * row["slope"] + row["intercept"]
        np.testing.assert_array_equal(real, expected[row["frame"]])
    assert found.table["person"].nunique() == 2
    assert found.table["volume"].nunique() == 2
