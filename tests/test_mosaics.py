"""Siemens mosaics: how many tiles there are, and where each is."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkit.catalog.scan import Root, scan
from medkit.catalog.store import Catalog
from medkit.errors import PixelError
from medkit.images import pixels
from medkit.images.mosaics import check_cut, count_tiles, cut_tile, read_csa_count
from medkit.images.packing import unpack_rows
from medkit.images.selection import select_frames
from medkit.testing import write_dicom

KIND = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
TILES = np.random.default_rng(3).integers(1, 4096, (7, 4, 5), dtype=np.uint16)


def lay_out(tiles: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return tiles side by side, as a square of them; what is left over is empty."""
    side = int(np.ceil(np.sqrt(len(tiles))))
    rows, columns = tiles.shape[1:]
    mosaic = np.zeros((side * rows, side * columns), tiles.dtype)
    for number, tile in enumerate(tiles):
        down, right = divmod(number, side)
        mosaic[down * rows : (down + 1) * rows, right * columns : (right + 1) * columns] = tile
    return mosaic


def make_csa(*tags: tuple[bytes, list[bytes]], kind: int = 2) -> bytes:
    """Return a header of images as Siemens writes it."""
    data = (b"SV10\4\3\2\1" if kind == 2 else b"") + struct.pack("<2I", len(tags), 77)
    for name, values in tags:
        data += struct.pack("<64si4s3i", name, 1, b"IS\0\0", 6, len(values), 77)
        for value in values:
            data += struct.pack("<4i", len(value), len(value), 77, len(value))
            data += value + bytes(-len(value) % 4)
    return data


def write_mosaic(path: Path, count: int | None = None, csa: bytes | None = None) -> Path:
    write_dicom(path, lay_out(TILES), ImageType=KIND, Modality="MR", PatientID=path.stem)
    header = pydicom.dcmread(path)
    if count is not None:
        block = header.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0A, "US", count)
    if csa is not None:
        block = header.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
        block.add_new(0x10, "OB", csa)
    header.save_as(path)
    return path


def index(tree: Path) -> Catalog:
    scan(tree.parent / "catalog", [Root("local", tree, person_regex="")], workers=0)
    return Catalog.open(tree.parent / "catalog")


def count(path: Path) -> int | None:
    with path.open("rb") as stream:
        return count_tiles(stream)


@pytest.mark.parametrize("number", [1, 2, 4, 5, 9, 10, 16])
def test_tiles_put_together_again_are_the_mosaic(number: int) -> None:
    tiles = np.random.default_rng(number).integers(0, 99, (number, 3, 4), dtype=np.int16)
    mosaic = lay_out(tiles)
    cut = [cut_tile(mosaic, tile, number) for tile in range(number)]
    assert all(np.shares_memory(part, mosaic) for part in cut)
    np.testing.assert_array_equal(cut, tiles)


@pytest.mark.parametrize(("tile", "tiles"), [(7, 7), (-1, 7), (0, 17), (0, 0), (0, -4), (0, 10**9)])
def test_a_tile_that_is_not_there_is_refused(tile: int, tiles: int) -> None:
    with pytest.raises(PixelError) as refused:
        cut_tile(lay_out(TILES), tile, tiles)
    assert refused.value.code == "mosaic"


def test_the_count_is_read_from_either_header(tmp_path: Path) -> None:
    name = b"NumberOfImagesInMosaic"
    csa = make_csa((b"EchoLinePosition", [b"1", b""]), (name, [b"  7 ", b""]))
    old = make_csa((b"A", [b"123"]), (name, [b"7\0\0\0"]), kind=1)
    assert count(write_mosaic(tmp_path / "number.dcm", 7)) == 7
    assert count(write_mosaic(tmp_path / "csa.dcm", None, csa)) == 7
    assert count(write_mosaic(tmp_path / "old.dcm", None, old)) == 7
    assert count(write_mosaic(tmp_path / "both.dcm", 5, csa)) == 5
    assert count(write_mosaic(tmp_path / "none.dcm")) is None
    assert count(write_mosaic(tmp_path / "zero.dcm", 0)) is None
    unknown = pydicom.dcmread(write_mosaic(tmp_path / "unknown.dcm", 7))
    unknown[0x0019, 0x100A].VR = "UN"
    unknown[0x0019, 0x100A].value = b"\7\0"
    unknown.save_as(tmp_path / "unknown.dcm")
    assert count(tmp_path / "unknown.dcm") == 7
    other = pydicom.dcmread(tmp_path / "number.dcm")
    other[0x0019, 0x0010].value = "SOMEBODY ELSE"
    other.save_as(tmp_path / "other.dcm")
    assert count(tmp_path / "other.dcm") is None


def test_real_mosaics_say_how_many_they_are(shared_data: Path) -> None:
    folder = shared_data / "dicom" / "nibabel" / "nibabel" / "nicom" / "tests" / "data"
    found = {path.name: count(path) for path in sorted(folder.glob("*.dcm"))}
    assert found == {
        "0.dcm": 48,
        "1.dcm": 48,
        "csa_slice_norm.dcm": 32,  # by the CSA header alone
        "decimal_rescale.dcm": None,
        "philips_mprage.dcm": None,
        "siemens_dwi_0.dcm": 48,
        "siemens_dwi_1000.dcm": 48,
        "slicethickness_empty_string.dcm": None,
    }
    mosaic = pydicom.dcmread(folder / "siemens_dwi_0.dcm").pixel_array
    tiles = np.stack([cut_tile(mosaic, tile, 48) for tile in range(48)])
    assert tiles.shape == (48, 128, 128)
    np.testing.assert_array_equal(lay_out(tiles), mosaic)  # the last one is empty
    assert read_csa_count((folder / "csa2_b0.bin").read_bytes()) == 48


CSA = make_csa((b"First", [b"abc"]), (b"NumberOfImagesInMosaic", [b"48"]))


@given(st.binary(max_size=300))
def test_bytes_that_are_no_header_give_no_count_or_are_refused(data: bytes) -> None:
    for hostile in (data, b"SV10\4\3\2\1" + data, CSA[: len(data)], CSA[:20] + data + CSA[20:]):
        try:
            found = read_csa_count(hostile)
        except PixelError as error:
            assert error.code == "mosaic"
        else:
            assert found is None or 0 < found <= 4096


@given(st.integers(0, len(CSA) - 1), st.integers(0, 255))
def test_a_damaged_byte_is_survived(place: int, byte: int) -> None:
    data = CSA[:place] + bytes([byte]) + CSA[place + 1 :]
    try:
        read_csa_count(data)
    except PixelError as error:
        assert error.code == "mosaic"


@given(st.binary(max_size=200))
def test_a_damaged_file_is_survived(data: bytes) -> None:
    try:
        count_tiles(io.BytesIO(data))
    except PixelError as error:
        assert error.code == "mosaic"


def test_a_selection_has_a_row_a_tile(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write_mosaic(tree / "a.dcm", 7)
    write_mosaic(tree / "b.dcm")
    write_mosaic(tree / "c.dcm", 17)
    write_dicom(tree / "d.dcm", TILES[0], PatientID="d")
    selection = select_frames(index(tree), None, ())
    rows = sorted(unpack_rows(selection.rows), key=lambda row: str(row["path"]))
    assert (selection.frames, len(rows), selection.left_out) == (4, 10, {})
    assert [(row["path"], row["tile"], row["tiles"]) for row in rows] == [
        *(("a.dcm", tile, 7) for tile in range(7)),
        ("b.dcm", None, None),
        ("c.dcm", None, 17),
        ("d.dcm", None, None),
    ]
    refused = {}
    for row in rows:
        try:
            check_cut(row)
        except PixelError as error:
            refused[row["path"]] = (error.code, error.detail)
    assert refused == {
        "b.dcm": ("mosaic", "a volume in tiles; how many they are could not be read"),
        "c.dcm": ("mosaic", "17 tiles do not fit 12 x 15"),
    }


@pytest.mark.parametrize(
    ("slices", "tiles"), [("every:3", [0, 3, 6]), ("middle", [3]), ("middle:2", [2, 3])]
)
def test_a_rule_chooses_among_tiles(tmp_path: Path, slices: str, tiles: list[int]) -> None:
    write_mosaic(tmp_path / "tree" / "a.dcm", 7)
    catalog = index(tmp_path / "tree")
    selection = select_frames(catalog, None, (), slices)
    assert selection.rows["tile"].to_pylist() == tiles
    assert (selection.frames, selection.left_out) == (1, {})
    assert selection.key != select_frames(catalog, None, ()).key
    projected = select_frames(catalog, None, (), "mip")
    assert (projected.frames, projected.left_out) == (0, {"no-volume": 1})
    assert len(projected.rows) == 0


def test_a_tile_is_read_as_a_frame_of_its_own(tmp_path: Path) -> None:
    write_mosaic(tmp_path / "tree" / "a.dcm", 7)
    selection = select_frames(index(tmp_path / "tree"), None, ())
    frames = [pixels.read_frame(row) for row in unpack_rows(selection.rows)]
    np.testing.assert_array_equal([frame.values for frame in frames], TILES)
    assert [frame.source_sha256 for frame in frames] == [pixels.hash_values(x) for x in TILES]
