"""Duplicates, surrogate UIDs, volumes and persons."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medkit.catalog import duplicates
from medkit.catalog.identity import compile_person_regex
from medkit.catalog.scan import Root, scan
from medkit.catalog.store import Catalog
from medkit.errors import UsageError
from medkit.testing import make_uid, write_dicom

PIXELS = np.arange(12, dtype=np.uint16).reshape(3, 4)


class Tree:
    """A folder of DICOM files, and its catalog."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tree"
        self.catalog = folder / "catalog"
        self.warnings: list[str] = []

    def add(self, name: str, pixels: Any = PIXELS, **keywords: Any) -> Path:
        return write_dicom(self.folder / name, pixels, **keywords)

    def scan(self, source: str = "s", **options: Any) -> Catalog:
        summary = scan(self.catalog, [Root(source, self.folder, **options)], workers=0)
        self.warnings = summary.warnings
        return Catalog.open(self.catalog)

    def stack(self, name: str, positions: list[float], **keywords: Any) -> None:
        """Add a series of slices at some positions along z, named by their order."""
        for number, position in enumerate(positions):
            self.add(
                f"{name}/{number}.dcm",
                **{
                    "PatientID": "P",
                    "StudyInstanceUID": make_uid("study"),
                    "SeriesInstanceUID": make_uid("series"),
                    "FrameOfReferenceUID": make_uid("reference"),
                    "ImagePositionPatient": [0.0, 0.0, position],
                    "InstanceNumber": number + 1,
                }
                | keywords,
            )


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def slices(catalog: Catalog) -> dict[str, list[str]]:
    """Paths of each volume, in the order of its slices."""
    frames = catalog.query("SELECT * FROM images WHERE volume IS NOT NULL ORDER BY volume, slice")
    return {str(name): list(part["path"]) for name, part in frames.groupby("volume")}


def volume_sizes(catalog: Catalog) -> list[int]:
    return sorted(catalog.table("volumes")["slices"])


def test_a_volume_is_ordered_by_position_not_by_number(tree: Tree) -> None:
    tree.stack("ct", [10.0, -5.0, 5.0, 0.0])
    catalog = tree.scan()
    assert list(slices(catalog).values()) == [["ct/1.dcm", "ct/3.dcm", "ct/2.dcm", "ct/0.dcm"]]
    (volume,) = catalog.table("volumes").to_dict("records")
    assert volume["regularly_spaced_3d_volume"]
    assert volume["slice_spacing"] == 5.0
    assert volume["obliquity_degrees"] == 0.0
    assert catalog.table("series")["volumes"].tolist() == [1]


def test_a_volumes_name_depends_on_its_series_alone(tree: Tree) -> None:
    tree.stack("ct", [0.0, 1.0])
    (name,) = slices(tree.scan())
    tree.stack("before", [0.0], StudyInstanceUID="0.1", SeriesInstanceUID="0.2", PatientID="Q")
    assert name in slices(tree.scan())


def test_a_missing_slice_is_not_uniform(tree: Tree) -> None:
    tree.stack("ct", [0.0, 1.0, 3.0])
    volumes = tree.scan().table("volumes")
    assert volumes["uniform_slice_spacing"].tolist() == [False]
    assert volumes["regularly_spaced_3d_volume"].tolist() == [False]


def test_a_scout_is_in_no_volume(tree: Tree) -> None:
    tree.stack("ct", [0.0, 1.0])
    tree.stack("scout", [2.0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    catalog = tree.scan()
    assert list(slices(catalog).values()) == [["ct/0.dcm", "ct/1.dcm"]]


@pytest.mark.parametrize(
    "other",
    [
        {"ImageOrientationPatient": [0.0, 1.0, 0.0, -1.0, 0.0, 0.0]},
        {"PixelSpacing": [2.0, 2.0]},
        {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
        {"FrameOfReferenceUID": make_uid("other")},
        {"EchoTime": 80.0},
        {"TemporalPositionIdentifier": 2},
        {"PatientID": "Q"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"},
        {"pixels": np.zeros((4, 4), np.uint16)},
    ],
)
def test_what_differs_in_kind_is_another_volume(tree: Tree, other: dict[str, Any]) -> None:
    tree.stack("a", [0.0, 1.0])
    tree.stack("b", [2.0, 3.0, 4.0], **other)
    assert volume_sizes(tree.scan()) == [2, 3]


def test_tolerances_keep_rounded_headers_together(tree: Tree) -> None:
    tree.stack("a", [0.0, 1.0])
    tree.stack(
        "b",
        [2.0],
        ImageOrientationPatient=[0.99999, 0.0005, 0.0, 0.0, 1.0, 0.0],
        PixelSpacing=[1.0001, 1.0],
    )
    volumes = tree.scan().table("volumes")
    assert volumes["slices"].tolist() == [3]
    assert volumes["single_orientation"].tolist() == [False]


def test_a_mosaic_is_in_no_volume_and_is_told(tree: Tree) -> None:
    tree.stack("epi", [0.0, 0.0], ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
    tree.stack("ct", [0.0, 1.0])
    catalog = tree.scan()
    assert volume_sizes(catalog) == [2]
    files = catalog.table("files").set_index("file")["path"]
    problems = catalog.table("problems")
    assert sorted(files[problems["file"]]) == ["epi/0.dcm", "epi/1.dcm"]
    assert set(problems["code"]) == {"mosaic"}
    assert len(catalog.select()) == 4


def test_three_planes_are_three_volumes(tree: Tree) -> None:
    planes = {
        "axial": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "coronal": [1.0, 0.0, 0.0, 0.0, 0.0, -1.0],
        "sagittal": [0.0, 1.0, 0.0, 0.0, 0.0, -1.0],
    }
    for name, orientation in planes.items():
        tree.stack(name, [0.0], ImageOrientationPatient=orientation)
    assert volume_sizes(tree.scan()) == [1, 1, 1]


@pytest.mark.parametrize("numbers", [[3, 2, 1], [None, None, None], [1, 1, 1]])
def test_instance_numbers_that_lie_change_nothing(tree: Tree, numbers: list[int | None]) -> None:
    for number, position in zip(numbers, [4.0, 0.0, 2.0], strict=True):
        tree.stack(f"{position:.0f}", [position], InstanceNumber=number)
    assert [*slices(tree.scan()).values()] == [["0/0.dcm", "2/0.dcm", "4/0.dcm"]]


def test_one_series_in_two_folders_is_in_the_order_of_its_paths(tmp_path: Path) -> None:
    one, other = Tree(tmp_path / "z"), Tree(tmp_path / "a")
    one.stack("a", [0.0, 1.0], InstanceNumber=None, SeriesDescription="first")
    other.stack("b", [1.0, 0.0, 2.0], InstanceNumber=None, SeriesDescription="second")
    scan(tmp_path / "catalog", [Root("s", one.folder), Root("s", other.folder)], workers=0)
    catalog = Catalog.open(tmp_path / "catalog")
    assert sorted(slices(catalog).values()) == [
        ["a/0.dcm", "a/1.dcm", "b/2.dcm"],
        ["b/1.dcm", "b/0.dcm"],
    ]
    assert catalog.table("series")["SeriesDescription"].tolist() == ["first"]


@pytest.mark.parametrize("keyword", ["AcquisitionNumber", "TriggerTime"])
def test_repeated_positions_are_divided_by_what_changes(tree: Tree, keyword: str) -> None:
    tree.stack("a", [0.0, 1.0, 2.0], **{keyword: 1})
    tree.stack("b", [2.0, 1.0, 0.0], **{keyword: 2})
    assert sorted(slices(tree.scan()).values()) == [
        ["a/0.dcm", "a/1.dcm", "a/2.dcm"],
        ["b/2.dcm", "b/1.dcm", "b/0.dcm"],
    ]


def test_what_changes_with_every_slice_divides_nothing(tree: Tree) -> None:
    for number in range(3):
        tree.stack(f"{number}", [float(number)], AcquisitionNumber=number)
    assert volume_sizes(tree.scan()) == [3]


def test_unexplained_repetitions_are_divided_by_their_order(tree: Tree) -> None:
    tree.stack("a", [0.0, 1.0, 0.0, 1.0, 0.0])
    assert sorted(slices(tree.scan()).values()) == [
        ["a/0.dcm", "a/1.dcm"],
        ["a/2.dcm", "a/3.dcm"],
        ["a/4.dcm"],
    ]


def test_a_tilted_gantry_is_told_from_chaos(tree: Tree) -> None:
    for number in range(4):
        tree.stack(f"tilt{number}", [0.0], ImagePositionPatient=[0.0, 2.0 * number, 5.0 * number])
    volumes = tree.scan().table("volumes")
    assert volumes["tilted"].tolist() == [True]
    assert volumes["uniform_slice_spacing"].tolist() == [True]
    assert volumes["consistent_in_plane_col"].tolist() == [False]
    assert volumes["regularly_spaced_3d_volume"].tolist() == [False]


def test_images_without_geometry_are_in_no_volume(tree: Tree) -> None:
    tree.stack("cr", [0.0, 0.0], ImagePositionPatient=None, ImageOrientationPatient=None)
    tree.stack("bad", [0.0], ImageOrientationPatient=[0.0] * 6)
    catalog = tree.scan()
    assert slices(catalog) == {}
    assert len(catalog.select()) == 3


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(5)), angle=st.floats(-1.5, 1.5))
def test_a_volume_does_not_depend_on_how_it_is_filed(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], angle: float
) -> None:
    tree = Tree(tmp_path_factory.mktemp("volume"))
    row, column = [1.0, 0.0, 0.0], [0.0, float(np.cos(angle)), float(np.sin(angle))]
    normal = np.cross(row, column)
    for name, place in enumerate(order):
        tree.stack(
            f"{name}",
            [0.0],
            InstanceNumber=None,
            ImageOrientationPatient=[*row, *column],
            ImagePositionPatient=[float(value) for value in 3.0 * place * normal],
        )
    catalog = tree.scan()
    (found,) = slices(catalog).values()
    assert [order[int(path.split("/")[0])] for path in found] == [0, 1, 2, 3, 4]
    assert catalog.table("volumes")["regularly_spaced_3d_volume"].tolist() == [True]


def test_a_copy_is_an_alias_of_the_first(tree: Tree) -> None:
    path = tree.add("b/one.dcm")
    shutil.copy(path, tree.folder / "a.dcm")
    catalog = tree.scan()
    files = catalog.table("files").set_index("path")["file"]
    instances = catalog.table("instances").set_index("file")
    assert instances.loc[files["b/one.dcm"], "alias_of"] == files["a.dcm"]
    assert pd.isna(instances.loc[files["a.dcm"], "duplicate"])
    assert catalog.select()["path"].tolist() == ["a.dcm"]
    assert catalog.table("problems").empty


def test_one_uid_with_other_pixels_is_a_conflict(tree: Tree) -> None:
    uid = make_uid("one")
    tree.add("a.dcm", SOPInstanceUID=uid)
    tree.add("b.dcm", PIXELS + 1, SOPInstanceUID=uid)
    tree.add("c.dcm", PIXELS + 1, SOPInstanceUID=uid)
    catalog = tree.scan()
    assert catalog.table("files").merge(catalog.table("instances"), on="file")[
        "duplicate"
    ].tolist() == ["conflict", "conflict", "alias"]
    assert sorted(catalog.select()["path"]) == ["a.dcm", "b.dcm"]
    assert catalog.table("problems")["code"].tolist() == ["duplicate-uid"] * 2
    again = tree.scan()
    assert again.snapshot == catalog.snapshot


def test_pixels_are_hashed_once(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []

    def count(place: duplicates.PixelPlace) -> str | None:
        hashed.append(place.path)
        return real(place)

    real = duplicates.hash_pixels
    monkeypatch.setattr(duplicates, "hash_pixels", count)
    path = tree.add("a.dcm")
    shutil.copy(path, tree.folder / "b.dcm")
    tree.scan()
    assert sorted(hashed) == ["a.dcm", "b.dcm"]
    shutil.copy(path, tree.folder / "c.dcm")
    tree.add("other.dcm", PIXELS + 1)
    instances = tree.scan().table("instances")
    assert sorted(hashed) == ["a.dcm", "b.dcm", "c.dcm"]
    assert instances["duplicate"].eq("alias").sum() == 2
    assert instances["pixels_sha256"].notna().sum() == 3


def test_copies_in_an_archive_are_aliases_too(tree: Tree) -> None:
    path = tree.add("b.dcm")
    with zipfile.ZipFile(tree.folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "x/b.dcm")
    assert tree.scan().select()["path"].tolist() == ["a.zip!x/b.dcm"]


def test_when_the_first_vanishes_its_copy_stands_for_it(tree: Tree) -> None:
    path = tree.add("a.dcm")
    shutil.copy(path, tree.folder / "b.dcm")
    tree.scan()
    path.unlink()
    assert tree.scan().select()["path"].tolist() == ["b.dcm"]


def test_missing_uids_get_the_same_surrogates_again(tree: Tree, tmp_path: Path) -> None:
    for name, series in [("x/1.dcm", 1), ("x/2.dcm", 1), ("x/3.dcm", 2)]:
        path = tree.add(name, SeriesNumber=series)
        header = pydicom.dcmread(path)
        header.SeriesInstanceUID = ""
        del header.StudyInstanceUID, header.SOPInstanceUID
        header.save_as(path)
    tree.add("y/1.dcm")
    found = tree.scan().query(
        "SELECT path, instances.* FROM instances JOIN files USING (file) ORDER BY path"
    )
    assert found["synthetic_uid"].tolist() == [True, True, True, False]
    assert found["SOPInstanceUID"].nunique() == 4
    assert found["SeriesInstanceUID"][:3].nunique() == 2
    assert found["StudyInstanceUID"][:3].nunique() == 1
    assert all(len(uid) <= 64 and uid.startswith("2.25.") for uid in found["StudyInstanceUID"])
    moved = Tree(tmp_path / "elsewhere")
    shutil.copytree(tree.folder, moved.folder)
    assert set(moved.scan().table("instances")["SOPInstanceUID"]) == set(found["SOPInstanceUID"])


def persons(catalog: Catalog) -> dict[str, str]:
    """The person of each path, numbered as they are met."""
    rows = catalog.query(
        "SELECT path, instances.person FROM instances JOIN files USING (file) ORDER BY path"
    )
    codes, _ = pd.factorize(rows["person"])
    return dict(zip(rows["path"], (chr(ord("A") + code) for code in codes), strict=True))


def test_persons_are_joined_by_id_and_by_study(tree: Tree) -> None:
    tree.add("1.dcm", PatientID="P1", StudyInstanceUID="1.1")
    tree.add("2.dcm", PatientID="P1", StudyInstanceUID="1.2")
    tree.add("3.dcm", PatientID="P2", StudyInstanceUID="1.2")
    tree.add("4.dcm", PatientID="P2", StudyInstanceUID="1.3", IssuerOfPatientID="other")
    tree.add("5.dcm", PatientID="P5", StudyInstanceUID="1.5")
    catalog = tree.scan()
    assert persons(catalog) == {
        "1.dcm": "A", "2.dcm": "A", "3.dcm": "A", "4.dcm": "B", "5.dcm": "C"
    }  # fmt: skip
    table = catalog.table("persons")
    assert sorted(map(list, table["patient_ids"])) == [["P1", "P2"], ["P2"], ["P5"]]
    assert table["images"].sum() == 5


def test_ids_of_two_sources_are_two_persons_and_a_shared_study_is_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_dicom(tmp_path / name / "1.dcm", PIXELS, PatientID="1")
        write_dicom(tmp_path / name / "2.dcm", PIXELS, PatientID=name, StudyInstanceUID="1.9")
    roots = [Root(name, tmp_path / name) for name in ("a", "b")]
    scan(tmp_path / "catalog", roots, workers=0)
    table = Catalog.open(tmp_path / "catalog").table("persons")
    assert sorted(map(list, table["patient_ids"])) == [["1"], ["1"], ["a", "b"]]


@pytest.mark.parametrize("nobody", ["", "ANON", "anonymous", "0000", "Unknown ", "N/A", "xxx"])
def test_an_id_that_says_nobody_falls_back_to_the_study(tree: Tree, nobody: str) -> None:
    for number in (1, 2):
        tree.add(f"{number}/a.dcm", PatientID=nobody, StudyInstanceUID=f"1.{number}")
        tree.add(f"{number}/b.dcm", PatientID=nobody, StudyInstanceUID=f"1.{number}")
    catalog = tree.scan()
    assert list(persons(catalog).values()) == ["A", "A", "B", "B"]
    assert catalog.table("persons")["basis"].tolist() == ["study", "study"]
    assert "4 images have no usable PatientID" in tree.warnings[0]


def test_a_person_rule_reads_the_id(tree: Tree) -> None:
    for name in ("Mass-Test_P_00001_LEFT_CC", "Calc-Train_P_00001_RIGHT", "P_00002_LEFT", "odd"):
        tree.add(f"{name}.dcm", PatientID=name)
    catalog = tree.scan(person_regex=r"P_\d{5}")
    assert sorted(persons(catalog).values()) == ["A", "A", "B", "C"]
    assert sorted(catalog.table("persons")["basis"]) == ["PatientID", *["person-regex"] * 2]
    assert "matches no PatientID of 1 images" in tree.warnings[0]


def test_a_persons_key_has_no_path_in_it(tree: Tree, tmp_path: Path) -> None:
    tree.add("1.dcm", PatientID="P1")
    tree.add("2.dcm", PatientID="")
    first = tree.scan().table("persons")
    moved = Tree(tmp_path / "elsewhere")
    shutil.copytree(tree.folder, moved.folder)
    assert moved.scan().table("persons").equals(first)


def test_a_wrong_person_rule_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no regular expression"):
        compile_person_regex("(")


def test_real_series_are_the_volumes_that_they_are(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "dicom" / "dcmqi" / "data" / "segmentations" / "ct-3slice"
    scan(tmp_path / "catalog", [Root("dcmqi", folder)], workers=0)
    volumes = Catalog.open(tmp_path / "catalog").table("volumes")
    assert volumes["slices"].tolist() == [3]
    assert volumes["regularly_spaced_3d_volume"].tolist() == [True]
