"""Planes and projections of volumes: where every voxel lies, and what it is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pandas as pd
import pydicom
import pytest
import SimpleITK
from torture_cases import build

from medkit.catalog.scan import Root, scan
from medkit.catalog.store import Catalog, to_frame
from medkit.errors import PixelError, UsageError
from medkit.images import pixels, planes
from medkit.images.packing import unpack, unpack_rows
from medkit.images.pixels import Frame
from medkit.images.selection import Selection, parse_slices, select_frames
from medkit.testing import make_uid, write_dicom

Floats = npt.NDArray[np.float64]

AXIAL, CORONAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)
# How each plane is shown: the directions of columns, rows and planes.
SHOWN = {
    "axial": ([1, 0, 0], [0, 1, 0], [0, 0, 1]),
    "coronal": ([1, 0, 0], [0, 0, -1], [0, 1, 0]),
    "sagittal": ([0, 1, 0], [0, 0, -1], [-1, 0, 0]),
}
NOISE = np.random.default_rng(7).integers(0, 4096, (6, 7, 8), dtype=np.uint16)


def index(tree: Path) -> Catalog:
    folder = tree.parent / f"{tree.name}-catalog"
    scan(folder, [Root("local", tree, person_regex="")], workers=0)
    return Catalog.open(folder)


def write_volume(
    tree: Path,
    voxels: npt.NDArray[Any],
    *,
    orientation: Sequence[float] = AXIAL,
    origin: Sequence[float] = (-10.0, 20.0, 5.0),
    spacing: Sequence[float] = (1.0, 1.0),
    step: Sequence[float] | None = None,
    each: Callable[[int], dict[str, Any]] = lambda number: {},
    **keywords: Any,
) -> Path:
    """Write a series, a file a slice, and return its folder."""
    x, y = np.reshape(orientation, (2, 3))
    along = np.cross(x, y) if step is None else np.array(step)
    for number, pixel in enumerate(voxels):
        common = {
            "StudyInstanceUID": make_uid(f"study {tree.name}"),
            "SeriesInstanceUID": make_uid(f"series {tree.name}"),
            "FrameOfReferenceUID": make_uid(f"frame {tree.name}"),
            "ImageOrientationPatient": [float(value) for value in orientation],
            "ImagePositionPatient": (np.array(origin) + number * along).tolist(),
            "PixelSpacing": list(spacing),
            "InstanceNumber": len(voxels) - number,  # against the position, and files by chance
        }
        name = f"{(number * 5) % 97:02d}-{number}.dcm"
        write_dicom(tree / name, pixel, **common | keywords | each(number))
    return tree


def find_points(
    shape: Sequence[int],
    orientation: Sequence[float],
    origin: Sequence[float],
    spacing: Sequence[float],
    step: Sequence[float],
) -> Floats:
    """Return where voxels lie, shape (slices, rows, columns, 3): PS3.3 C.7.6.2.1.1."""
    i, r, c = np.meshgrid(*map(np.arange, shape), indexing="ij")
    x, y = np.reshape(orientation, (2, 3)).astype(float)
    return np.asarray(
        np.array(origin)
        + c[..., None] * spacing[1] * x
        + r[..., None] * spacing[0] * y
        + i[..., None] * np.array(step)
    )


def read(selection: Selection, place: int) -> Frame:
    row = find_row(selection, place)
    return planes.read_plane(row, selection.members[row["members"]])


def find_row(selection: Selection, place: int) -> dict[str, Any]:
    return next(unpack_rows(selection.rows.slice(place, 1)))


def show(selection: Selection) -> pd.DataFrame:
    return to_frame(unpack(selection.rows))


def real(frame: Frame) -> Floats:
    return np.asarray(frame.values * frame.slope + frame.intercept, dtype=np.float64)


def find_grid(points: Floats, plane: str, spacing: float) -> Floats:
    """Return where the pixels of all planes lie, by the box of the voxels: (n, row, column, 3)."""
    axes = np.array(SHOWN[plane], dtype=float)
    along = points.reshape(-1, 3) @ axes.T
    low, high = along.min(axis=0), along.max(axis=0)
    count = np.floor((high - low) / spacing + 1e-6).astype(int) + 1
    start = (low + high - (count - 1) * spacing) / 2
    c, r, i = (start[n] + spacing * np.arange(count[n]) for n in range(3))
    grid = np.stack(np.meshgrid(i, r, c, indexing="ij"), axis=-1)[..., ::-1]
    return np.asarray(grid @ axes)


TURN = np.deg2rad(25)
OBLIQUE = (np.cos(TURN), np.sin(TURN), 0.0, -np.sin(TURN) * 0.8, np.cos(TURN) * 0.8, 0.6)
STACKS: dict[str, dict[str, Any]] = {
    "axial": {"step": (0, 0, 2.0)},
    "feet first": {"orientation": (1, 0, 0, 0, -1, 0), "step": (0, 0, -2.0)},
    "coronal": {"orientation": CORONAL, "step": (0, 2.0, 0)},
    "sagittal": {"orientation": SAGITTAL, "step": (-2.0, 0, 0)},
    "thin slices": {"step": (0, 0, 0.25)},
    "tilted gantry": {"step": (0, -0.7, 2.0)},
    "oblique": {
        "orientation": OBLIQUE,
        "step": tuple(1.5 * np.cross(OBLIQUE[:3], OBLIQUE[3:])),
    },
}


@pytest.mark.parametrize("stack", STACKS)
def test_a_linear_volume_is_itself_in_every_plane(tmp_path: Path, stack: str) -> None:
    how: dict[str, Any] = {"orientation": AXIAL, "origin": (-10.0, 20.0, 5.0)} | STACKS[stack]
    how["spacing"] = (1.0, 0.5)  # between rows, between columns
    points = find_points((5, 6, 8), **how)
    i, r, c = np.meshgrid(*map(np.arange, (5, 6, 8)), indexing="ij")
    voxels = 300 * i + 70 * r + 11 * c
    catalog = index(write_volume(tmp_path / "v", voxels.astype(np.uint16), **how))
    normal = np.cross(*np.reshape(how["orientation"], (2, 3)))
    spacing = min(0.5, float(normal @ np.array(how["step"])))
    # The volume as a function of where a point is, found by least squares.
    design = np.column_stack([points.reshape(-1, 3), np.ones(points.size // 3)])
    slope, *_ = np.linalg.lstsq(design, voxels.ravel(), rcond=None)
    for plane in SHOWN:
        selection = select_frames(catalog, None, (), plane=plane)
        wanted = find_grid(points, plane, spacing)
        assert selection.frames == 5
        assert show(selection)["plane_index"].tolist() == list(range(len(wanted)))
        seen = 0
        for place, where in enumerate(wanted):
            inside = _is_inside(where, points)
            try:
                frame = read(selection, place)
            except PixelError as error:  # at a corner of the volume
                assert (stack, error.code, inside.any()) == ("oblique", "all-padding", False)
                continue
            assert frame.values.shape == where.shape[:2]
            assert frame.spacing == (spacing, spacing, "PixelSpacing")
            assert frame.array == "uint16x1"
            mask = np.ones(inside.shape, bool) if frame.mask is None else frame.mask
            assert (mask >= inside).all()
            truth = where @ slope[:3] + slope[3]
            np.testing.assert_allclose(real(frame)[inside], truth[inside], atol=2e-3)
            seen += int(inside.sum())
        assert seen > 100


def _is_inside(where: Floats, points: Floats) -> npt.NDArray[np.bool_]:
    """Say which points lie between the centres of the outermost voxels."""
    edges = np.stack([points[-1, 0, 0], points[0, -1, 0], points[0, 0, -1]]) - points[0, 0, 0]
    at = np.linalg.solve(edges.T, (where - points[0, 0, 0]).reshape(-1, 3).T)
    return np.asarray(((at > -1e-9) & (at < 1 + 1e-9)).all(axis=0).reshape(where.shape[:-1]))


@pytest.mark.parametrize(
    ("plane", "orientation"), [("axial", AXIAL), ("coronal", CORONAL), ("sagittal", SAGITTAL)]
)
def test_planes_that_are_stored_come_back_as_they_are(
    tmp_path: Path, plane: str, orientation: Sequence[float]
) -> None:
    catalog = index(write_volume(tmp_path / "v", NOISE, orientation=orientation))
    selection = select_frames(catalog, None, (), plane=plane)
    assert len(selection.rows) == 6
    for place in range(6):
        frame = read(selection, place)
        np.testing.assert_array_equal(frame.values, NOISE[place])
        assert frame.mask is None
        assert show(selection)["slice"].iloc[place] == place


@pytest.mark.parametrize(
    "orientation", [AXIAL, CORONAL, SAGITTAL, (0, -1, 0, 0, 0, 1), (0, 0, 1, -1, 0, 0)]
)
def test_planes_are_turned_as_another_library_turns_them(
    tmp_path: Path, orientation: Sequence[float]
) -> None:
    tree = write_volume(tmp_path / "v", NOISE, orientation=orientation)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tree)))
    turned = SimpleITK.GetArrayFromImage(SimpleITK.DICOMOrient(reader.Execute(), "LPS"))
    catalog = index(tree)
    for plane, wanted in {
        "axial": turned,
        "coronal": turned[::-1].swapaxes(0, 1),
        "sagittal": np.moveaxis(turned[::-1, :, ::-1], 2, 0),
    }.items():
        selection = select_frames(catalog, None, (), plane=plane)
        found = [read(selection, place).values for place in range(len(selection.rows))]
        np.testing.assert_array_equal(found, wanted)


def test_a_nifti_volume_lies_as_its_affine_says(tmp_path: Path) -> None:
    affine = np.array([[0, 0, -2.0, 9], [1.0, 0.1, 0, -4], [0, 1.0, 0, 3], [0, 0, 0, 1]])
    i, j, k = np.meshgrid(*map(np.arange, (5, 6, 4)), indexing="ij")
    voxels = (10 * i + 100 * j + 1000 * k).astype(np.int16)
    (tmp_path / "v").mkdir()
    image = nibabel.Nifti1Image(voxels, affine)
    image.header.set_slope_inter(2.0, -5.0)
    nibabel.save(image, tmp_path / "v" / "a.nii.gz")
    catalog = index(tmp_path / "v")
    back = np.linalg.inv(affine)
    points = np.stack([i, j, k], axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    points = np.moveaxis(points * [-1, -1, 1], (0, 1, 2), (2, 1, 0))  # LPS; slice, row, column
    stored = np.asanyarray(nibabel.load(tmp_path / "v" / "a.nii.gz").dataobj.get_unscaled())
    gradient = np.array([10, 100, 1000]) @ back[:3, :3]
    for plane in SHOWN:
        selection = select_frames(catalog, None, (), plane=plane)
        grid = find_grid(points, plane, 1.0)
        assert len(selection.rows) == len(grid) > 1
        for place in range(len(grid)):
            ras = grid[place] * [-1, -1, 1]
            truth = 2.0 * ((ras - affine[:3, 3]) @ gradient) - 5.0
            frame = read(selection, place)
            inside = _is_inside(grid[place], points)
            np.testing.assert_allclose(real(frame)[inside], truth[inside], atol=5e-3)
    assert stored.max() > 3000


def test_slices_of_several_slopes_become_real_values(tmp_path: Path) -> None:
    tree = write_volume(
        tmp_path / "v",
        NOISE,
        each=lambda number: {"RescaleSlope": f"{0.1 * (number + 1):.1f}", "RescaleIntercept": "3"},
    )
    values = NOISE * (0.1 * np.arange(1, 7))[:, None, None] + 3
    catalog = index(tree)
    selection = select_frames(catalog, None, (), plane="coronal")
    for place in range(7):
        frame = read(selection, place)
        assert (frame.array, frame.slope, frame.intercept, frame.k) == ("float32x1", 1, 0, 1)
        np.testing.assert_allclose(frame.values, values[::-1, place], rtol=1e-6)
        assert (frame.full_low, frame.full_high) == pytest.approx((3, 65535 * 0.6 + 3))
    projected = read(select_frames(catalog, None, (), slices="mip"), 0)
    np.testing.assert_allclose(projected.values, values.max(axis=0), rtol=1e-6)
    assert projected.values.dtype == np.float32


def test_padding_has_no_share(tmp_path: Path) -> None:
    voxels = NOISE.astype(np.int16) + 1000
    image = np.ones(voxels.shape, bool)
    image[2:4, :3, 1:5] = False
    image[5] = False  # a slice of nothing else
    how = {"PixelPaddingValue": -2000, "step": (0, 0, 1.5)}
    catalog = index(write_volume(tmp_path / "v", np.where(image, voxels, -2000), **how))
    # Rows and columns fall on the grid's; from slice to slice it goes in steps of 1 mm.
    heights = (0.25 + np.arange(8)) / 1.5
    weights = np.maximum(1 - abs(heights[:, None] - np.arange(6)), 0)
    shares = np.einsum("zi,iyx->zyx", weights, image)
    sums = np.einsum("zi,iyx->zyx", weights, np.where(image, voxels, 0))
    mask = shares > 1e-9
    values = np.divide(sums, shares, out=np.zeros(sums.shape), where=mask)
    for plane, turn in {
        "axial": lambda volume: volume,
        "coronal": lambda volume: volume[::-1].swapaxes(0, 1),
        "sagittal": lambda volume: np.moveaxis(volume[::-1, :, ::-1], 2, 0),
    }.items():
        selection = select_frames(catalog, None, (), plane=plane)
        frames = [read(selection, place) for place in range(len(selection.rows))]
        for frame, truth, inside in zip(frames, turn(values), turn(mask), strict=True):
            found = np.ones(inside.shape, bool) if frame.mask is None else frame.mask
            np.testing.assert_array_equal(found, inside)
            np.testing.assert_allclose(frame.values, truth, rtol=1e-6)


@pytest.mark.parametrize("slope", [2.0, -2.0])
def test_a_projection_is_the_greatest_real_value_of_what_is_no_padding(
    tmp_path: Path, slope: float
) -> None:
    voxels = NOISE.copy()
    voxels[:, 0, 0] = 4095
    voxels[1:, 1, 1] = 4095
    tree = write_volume(
        tmp_path / "v",
        voxels,
        PixelPaddingValue=4095,
        RescaleSlope=str(slope),
        RescaleIntercept="-7",
    )
    catalog = index(tree)
    values = np.where(voxels == 4095, -np.inf, slope * voxels.astype(float) - 7)
    for plane, wanted in {
        "stored": values.max(axis=0),
        "axial": values.max(axis=0),
        "coronal": values.max(axis=1)[::-1],
        "sagittal": values.max(axis=2)[::-1],
    }.items():
        selection = select_frames(catalog, None, (), slices="mip", plane=plane)
        row = find_row(selection, 0)
        assert (row["slice"], selection.frames) == (2, 6)
        frame = read(selection, 0)
        mask = np.isfinite(wanted)
        np.testing.assert_array_equal(real(frame)[mask], wanted[mask])
        assert np.array_equal(mask, np.ones(mask.shape, bool) if frame.mask is None else frame.mask)


def test_a_projection_of_a_display_image_is_of_what_is_bright(tmp_path: Path) -> None:
    kind = {"Modality": "XA", "PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12}
    catalog = index(write_volume(tmp_path / "v", NOISE, HighBit=11, **kind))
    for plane in ("stored", "axial"):
        frame = read(select_frames(catalog, None, (), slices="mip", plane=plane), 0)
        assert frame.polarity == "turned"
        np.testing.assert_array_equal(frame.values, (4095 - NOISE).max(axis=0))


def _leave_out(tree: Path) -> None:
    sorted(tree.iterdir())[2].unlink()


def _leave_one(tree: Path) -> None:
    for path in sorted(tree.iterdir())[1:]:
        path.unlink()


def _edit(**changes: Any) -> Callable[[Path], None]:
    def edit(tree: Path) -> None:
        path = sorted(tree.iterdir())[3]
        header = pydicom.dcmread(path)
        for keyword, value in changes.items():
            setattr(header, keyword, value(header) if callable(value) else value)
        header.save_as(path)

    return edit


def _move(axis: int, by: float) -> Callable[[Path], None]:
    def move(header: Any) -> list[float]:
        position = [float(value) for value in header.ImagePositionPatient]
        position[axis] += by
        return position

    return _edit(ImagePositionPatient=move)


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        (_leave_out, "volume-geometry", "1 to 2 mm apart"),
        (_move(2, 0.2), "volume-geometry", "0.8 to 1.2 mm apart"),
        (_move(0, 0.3), "volume-geometry", "shifted against each other by 0.3 mm"),
        (_edit(RescaleType="US"), "volume-values", "units is"),
        (_edit(Rows=9), "", ""),  # the other slices remain, with a hole
        (_leave_one, "volume-geometry", "one slice is no volume"),
    ],
    ids=["missing", "uneven", "shifted", "units", "size", "single"],
)
def test_an_uneven_volume_is_refused_by_name(
    tmp_path: Path, spoil: Callable[[Path], None], code: str, message: str
) -> None:
    tree = write_volume(tmp_path / "v", NOISE, RescaleType="HU", RescaleSlope=1)
    spoil(tree)
    selection = select_frames(index(tree), None, (), plane="coronal")
    if not code:
        assert set(show(selection)["plane_index"].isna()) == {True}
        return
    with pytest.raises(PixelError, match=message) as refused:
        read(selection, 0)
    assert refused.value.code == code
    if code == "volume-geometry":
        row = find_row(selection, 0)
        assert len(selection.rows) == 1
        with pytest.raises(PixelError, match=message):
            planes.name_array(row, selection.members[row["members"]])


def test_what_would_be_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    catalog = index(write_volume(tmp_path / "v", NOISE, spacing=(1e-4, 1.0), step=(0, 0, 1e3)))
    selection = select_frames(catalog, None, (), plane="axial")
    row = find_row(selection, 0)
    with pytest.raises(PixelError, match="a grid of") as refused:
        planes.name_array(row, selection.members[row["members"]])
    assert (len(selection.rows), refused.value.code) == (1, "too-large")


def test_colour_is_refused_by_name(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 255, (3, 5, 4, 3), dtype=np.uint8)
    catalog = index(write_volume(tmp_path / "v", voxels))
    selection = select_frames(catalog, None, (), slices="mip")
    row = find_row(selection, 0)
    with pytest.raises(PixelError, match="colour") as refused:
        planes.name_array(row, selection.members[row["members"]])
    assert refused.value.code == "volume-values"


def test_a_damaged_slice_is_named_and_not_tried_for_every_plane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = write_volume(tmp_path / "v", NOISE)
    catalog = index(tree)
    selection = select_frames(catalog, None, (), plane="coronal")
    tries: list[str] = []
    once = pixels.read_frame
    monkeypatch.setattr(pixels, "read_frame", lambda row: (tries.append(row["path"]), once(row))[1])
    for place in range(7):
        read(selection, place)
    assert len(tries) == 6  # each slice once
    path = sorted(tree.iterdir())[-1]
    path.write_bytes(path.read_bytes()[:-4])
    tries.clear()
    monkeypatch.setattr(planes, "_VOLUMES", planes._Last())
    for place in range(7):
        with pytest.raises(PixelError, match=r"^file-changed: slice . of 6") as refused:
            read(selection, place)
        assert refused.value.code == "file-changed"
    assert len(tries) <= 6


def test_images_of_a_volume_are_known_by_all_that_made_them(tmp_path: Path) -> None:
    catalog = index(write_volume(tmp_path / "v", NOISE))
    changed = NOISE.copy()
    changed[4, 0, 0] += 1
    other = index(write_volume(tmp_path / "w", changed))
    names = set()
    for each in (catalog, other):
        for plane in ("axial", "coronal"):
            selection = select_frames(each, None, (), plane=plane)
            names |= {read(selection, place).source_sha256 for place in range(6)}
    assert len(names) == 24
    asked = [("mip", "stored"), ("mip", "axial"), ("middle", "axial"), ("middle", "stored")]
    keys = {select_frames(each, None, (), *how).key for each in (catalog, other) for how in asked}
    assert len(keys) == 8


def test_the_torture_set_is_cut_rightly_or_refused_by_name(tmp_path: Path) -> None:
    build(tmp_path / "set")
    catalog = index(tmp_path / "set")
    sound = catalog.query(
        "SELECT volume, uniform_slice_spacing AND (tilted OR "
        "consistent_in_plane_row AND consistent_in_plane_col) AS sound FROM volumes"
    ).set_index("volume")["sound"]
    selection = select_frames(catalog, None, (), "middle", "coronal")
    assert set(show(selection)["members"]) == set(sound.index)
    for place, volume in enumerate(show(selection)["members"]):
        if sound[volume]:
            read(selection, place)
        else:
            with pytest.raises(PixelError, match="volume-geometry"):
                read(selection, place)
    assert sound.value_counts().to_dict() == {True: 90, False: 8}


# ---- Rules ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Volumes of six and five slices, two radiographs, and a localizer."""
    tree = tmp_path_factory.mktemp("rules") / "tree"
    write_volume(tree / "a", NOISE)
    write_volume(tree / "b", NOISE[:5], PatientID="P001")
    plain = {"ImagePositionPatient": None, "ImageOrientationPatient": None, "Modality": "CR"}
    for name in ("c", "d"):
        write_dicom(tree / f"{name}.dcm", NOISE[0], PatientID=name, **plain)
    write_dicom(tree / "e.dcm", NOISE[0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    return index(tree)


@pytest.mark.parametrize(
    ("slices", "first", "second", "others"),
    [
        ("all", [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4], 2),
        ("every:1", [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4], 2),
        ("every:3", [0, 3], [0, 3], 2),
        ("middle", [2], [2], 2),
        ("middle:2", [2, 3], [1, 2], 2),
        ("middle:99", [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4], 2),
        ("mip", [2], [2], 0),
    ],
)
def test_slices_are_chosen_by_rule_and_counts_add_up(
    several: Catalog, slices: str, first: list[int], second: list[int], others: int
) -> None:
    selection = select_frames(several, None, (), slices)
    rows = show(selection)
    for name, wanted in (("a/", first), ("b/", second)):
        assert sorted(rows["slice"][rows["path"].str.startswith(name)]) == wanted
    assert int(rows["volume"].isna().sum()) == others
    assert selection.frames + sum(selection.left_out.values()) == 14
    assert selection.left_out["localizer"] == 1
    if slices == "mip":
        assert (selection.frames, selection.left_out["no-volume"]) == (11, 2)
        assert {name: len(members) for name, members in selection.members.items()} == dict(
            zip(rows["members"], [6, 5], strict=True)
        )
    else:
        assert selection.frames == len(rows)
        assert not selection.members
        assert rows[["tile", "tiles", "plane", "plane_index", "members"]].isna().all(axis=None)


def test_a_rule_chooses_among_the_planes_that_are_made(several: Catalog) -> None:
    chosen = show(select_frames(several, None, (), "every:4", "coronal"))
    assert chosen["plane_index"].tolist() == [0, 4, 0, 4]
    assert chosen["volume"].nunique() == 2
    assert set(chosen["plane"]) == {"coronal"}
    # Every slice is as near to the planes of another axis: a middle one stands for all.
    assert chosen["slice"].tolist() == [2, 2, 2, 2]


def test_a_condition_narrows_the_volume(several: Catalog) -> None:
    selection = select_frames(several, "slice < 3", (), "mip")
    assert [len(selection.members[name]) for name in show(selection)["members"]] == [3, 3]
    assert selection.left_out["where"] == 14 - 6


@pytest.mark.parametrize("text", ["", "every", "every:0", "every:-1", "middle:", "mip:2", "ALL"])
def test_a_rule_that_is_none_is_refused(several: Catalog, text: str) -> None:
    with pytest.raises(UsageError, match="such as every:4"):
        parse_slices(text)
    with pytest.raises(UsageError, match="is none"):
        select_frames(several, None, (), text)


def test_a_plane_that_is_none_is_refused(several: Catalog) -> None:
    with pytest.raises(UsageError, match=r"'oblique'; use stored, axial"):
        select_frames(several, None, (), plane="oblique")
