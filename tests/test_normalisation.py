"""Normalising: every frame lands or is named, whatever happens on the way."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pydicom
import pytest
from PIL import Image

from medkit import workspace
from medkit.catalog.scan import Root, scan
from medkit.catalog.store import Catalog
from medkit.errors import ImageSetError, UsageError
from medkit.images import arrays, pixels
from medkit.images.imageset import ImageSet, verify
from medkit.images.normalisation import Recipe, Summary, normalise
from medkit.images.packing import unpack, unpack_rows
from medkit.images.selection import EXCLUSIONS, Selection, select_frames
from medkit.testing import make_uid, write_cohort, write_dicom

SMALL = Recipe(size=(32, 32))
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
NEVER = {"alias", "not-an-image"}  # left out whatever is asked for
NOISE = np.random.default_rng(0).integers(0, 4096, (40, 50), dtype=np.uint16)


def index(tree: Path, folder: Path) -> Catalog:
    scan(folder, [Root("local", tree, person_regex="")], workers=0)
    return Catalog.open(folder)


def hash_tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Nine images that can land, one that cannot, and one of all that is left out."""
    folder = tmp_path_factory.mktemp("mixed")
    tree = write_cohort(folder / "tree", persons=4, per_person=2, size=32)
    write_dicom(tree / "colour.dcm", np.full((20, 30, 3), 7, np.uint8), PatientID="C")
    write_dicom(tree / "scout.dcm", NOISE, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_dicom(tree / "capture.dcm", NOISE, SOPClassUID=CAPTURE)
    write_dicom(tree / "slide.dcm", np.zeros((2, 8, 8), np.uint8), SOPClassUID=SLIDE)
    write_dicom(tree / "mask.dcm", NOISE, SOPClassUID=SEGMENTATION)
    short = write_dicom(tree / "short.dcm", NOISE, PatientID="S")
    short.write_bytes(short.read_bytes()[:-100])
    shutil.copy(tree / "P000" / "0.dcm", tree / "copy.dcm")
    for number in (0, 1):
        write_dicom(tree / f"conflict{number}.dcm", NOISE + number, SOPInstanceUID=make_uid("same"))
    return index(tree, folder / "catalog")


def test_counts_add_up_and_every_frame_is_somewhere(mixed: Catalog, tmp_path: Path) -> None:
    summary = normalise(mixed, tmp_path / "a", SMALL, workers=0)
    assert summary == Summary(
        selected=12,
        planned=12,
        landed=11,
        refused={"pixel-length": 1},
        left_out={
            "alias": 1,
            "localizer": 1,
            "not-an-image": 1,
            "secondary-capture": 1,
            "slide": 2,
        },
        added=11,
        built=True,
    )
    image_set = ImageSet.open(tmp_path / "a")
    assert image_set.table["image"].tolist() == list(range(11))
    assert image_set.refused[["path", "frame", "code"]].values.tolist() == [
        ["short.dcm", 0, "pixel-length"]
    ]
    assert image_set.table["array"].value_counts().to_dict() == {"uint16x1": 10, "uint8x3": 1}
    assert verify(tmp_path / "a") == []


@pytest.mark.parametrize(
    ("recipe", "selected", "left_out"),
    [
        (Recipe(include=("localizer", "slide")), 15, {*NEVER, "secondary-capture"}),
        (Recipe(where="Modality = 'CT'"), 8, {*NEVER, *EXCLUSIONS, "where"}),
        (Recipe(where="true -- a comment", include=tuple(EXCLUSIONS)), 16, NEVER),
    ],
    ids=["include", "where", "all"],
)
def test_what_is_selected_and_left_out_is_all_there_is(
    mixed: Catalog, tmp_path: Path, recipe: Recipe, selected: int, left_out: set[str]
) -> None:
    summary = normalise(mixed, tmp_path / "a", replace(recipe, size=(8, 8)), workers=0)
    assert summary.selected == selected
    assert set(summary.left_out) == left_out
    assert summary.selected + sum(summary.left_out.values()) == 18
    assert summary.planned == summary.landed + sum(summary.refused.values())


def test_a_selection_is_known_again_by_its_content_alone(mixed: Catalog) -> None:
    selection = select_frames(mixed, None, ())
    rows = unpack(selection.rows)
    place, empty = rows.schema.get_field_index("BitsStored"), np.ones(len(rows), dtype=bool)
    keys = set()
    for rubbish in (1, 2):
        # What lies in memory under a null is nobody's value, and differs from read to read.
        hidden = pa.array(np.full(len(rows), rubbish), mask=empty)
        keys.add(Selection(rows.set_column(place, "BitsStored", hidden), {}).key)
    assert len(keys) == 1
    place = rows.schema.get_field_index("mtime_ns")
    touched = rows.set_column(place, "mtime_ns", pc.add(rows["mtime_ns"], 1))
    assert len({selection.key, Selection(touched, {}).key} | keys) == 3
    assert Selection(rows, {}).key == selection.key  # packed or not


def test_a_selection_has_the_order_of_the_catalog(mixed: Catalog) -> None:
    every = select_frames(mixed, None, tuple(EXCLUSIONS))
    keys = ["file", "frame"]
    wanted = mixed.select()[keys].values.tolist()
    assert [[row[key] for key in keys] for row in unpack_rows(every.rows)] == wanted


def test_nothing_selected_is_an_error_that_says_why(mixed: Catalog, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no frame is selected.* 16 where$"):
        normalise(mixed, tmp_path / "a", Recipe(where="false"), workers=0)
    with pytest.raises(UsageError, match="Modallity"):
        normalise(mixed, tmp_path / "a", Recipe(where="Modallity = 'CT'"), workers=0)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int8, np.uint16, np.int16], ids=lambda dtype: dtype.__name__
)
def test_a_source_of_the_sets_size_comes_back_as_its_stored_integers(
    tmp_path: Path, dtype: type[np.integer[Any]]
) -> None:
    limits = np.iinfo(dtype)
    stored = np.random.default_rng(1).integers(limits.min, limits.max, (9, 7), dtype, endpoint=True)
    stored[0, :2] = limits.min, limits.max
    facts = {"RescaleSlope": "0.25", "RescaleIntercept": "-1024"}
    write_dicom(tmp_path / "tree" / "a.dcm", stored, **facts)
    catalog = index(tmp_path / "tree", tmp_path / "catalog")
    normalise(catalog, tmp_path / "a", Recipe(size=(9, 7)), workers=0)
    image_set = ImageSet.open(tmp_path / "a")
    image = image_set.table.iloc[0]
    real = image_set.images().codes(0) * image["slope"] + image["intercept"]
    np.testing.assert_array_equal(real, stored * 0.25 - 1024)
    assert image["source_sha256"] == pixels.hash_values(stored)
    assert image["pixels_sha256"] == pixels.hash_values(image_set.images().codes(0))


def test_floating_point_and_wide_integers_keep_their_values(tmp_path: Path) -> None:
    values = np.random.default_rng(2).normal(size=(6, 6))
    wide = np.array([[0, 2**31 - 1], [5, 2**24 + 1]], dtype=np.uint32)
    tree = tmp_path / "tree"
    header = pydicom.dcmread(write_dicom(tree / "double.dcm", np.zeros((6, 6), np.uint16)))
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(header, keyword)
    header.BitsAllocated, header.DoubleFloatPixelData = 64, values.tobytes()
    header.save_as(tree / "double.dcm")
    write_dicom(tree / "wide.dcm", wide, PatientID="W")
    normalise(
        index(tree, tmp_path / "catalog"),
        tmp_path / "a",
        Recipe(size=(6, 6), filter="nearest"),
        workers=0,
    )
    images = ImageSet.open(tmp_path / "a").images()
    assert images.table["array"].tolist() == ["float64x1", "float64x1"]
    (position,) = np.flatnonzero(images.table["path"] == "double.dcm")
    np.testing.assert_array_equal(images.codes(position), values)
    assert (images.codes(1 - position)[[0, -1], [-1, -1]] == [2**31 - 1, 2**24 + 1]).all()


def test_an_image_of_which_padding_alone_is_kept_is_refused(tmp_path: Path) -> None:
    values = np.full((40, 40), -2000, np.int16)
    values[:2] = 50
    write_dicom(tmp_path / "tree" / "a.dcm", values, PixelPaddingValue=-2000)
    catalog = index(tmp_path / "tree", tmp_path / "catalog")
    recipe = Recipe(size=(8, 16), geometry="crop")
    assert normalise(catalog, tmp_path / "a", recipe, workers=0).refused == {"all-padding": 1}
    assert ImageSet.open(tmp_path / "a").images().shape == (0, 8, 16, 1)


def test_files_that_changed_or_went_since_they_were_catalogued_are_named(tmp_path: Path) -> None:
    tree = write_cohort(tmp_path / "tree", persons=4, per_person=1, size=8)
    catalog = index(tree, tmp_path / "catalog")
    cut, touched, gone, _ = sorted(tree.rglob("*.dcm"))
    cut.write_bytes(cut.read_bytes()[:-2])
    os.utime(touched, ns=(0, 0))
    gone.unlink()
    summary = normalise(catalog, tmp_path / "a", SMALL, workers=0)
    assert (summary.landed, summary.refused) == (1, {"file-changed": 2, "file-unreadable": 1})
    refused = ImageSet.open(tmp_path / "a").refused
    assert dict(zip(refused["path"], refused["code"], strict=True)) == {
        cut.relative_to(tree).as_posix(): "file-changed",
        touched.relative_to(tree).as_posix(): "file-changed",
        gone.relative_to(tree).as_posix(): "file-unreadable",
    }


def test_pictures_and_slices_of_volumes_land(tmp_path: Path) -> None:
    import SimpleITK

    tree = tmp_path / "tree"
    tree.mkdir()
    Image.fromarray(NOISE[:8, :8]).save(tree / "p_1.png")
    slices = NOISE[:16, :8].astype(np.int16).reshape(2, 8, 8) - 2048
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(slices), tree / "v.nii")
    complex_numbers = SimpleITK.GetImageFromArray(np.zeros((2, 3, 4), np.complex64))
    SimpleITK.WriteImage(complex_numbers, tree / "w.nii")
    scan(tmp_path / "catalog", [Root("local", tree, person_regex=r"p_\d")], workers=0)
    catalog = Catalog.open(tmp_path / "catalog")
    summary = normalise(catalog, tmp_path / "a", Recipe(size=(8, 8)), workers=0)
    assert (summary.landed, summary.left_out) == (3, {"not-2d": 1})
    images = ImageSet.open(tmp_path / "a").images()
    landed = {path: index for index, path in enumerate(images.table["path"])}
    np.testing.assert_array_equal(images.codes(landed["p_1.png"]), NOISE[:8, :8])
    second = landed["v.nii"]
    real = images.codes(second) + images.table["intercept"][second]
    np.testing.assert_array_equal(real, slices[1])


def test_persons_who_share_a_picture_are_one_split_group(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    blank = np.zeros((8, 8), np.uint16)
    for person in ("A", "B"):
        write_dicom(tree / f"{person}1.dcm", NOISE, PatientID=person)
    for person in ("B", "C"):
        write_dicom(tree / f"{person}2.dcm", blank, PatientID=person)
    normalise(index(tree, tmp_path / "catalog"), tmp_path / "a", SMALL, workers=0)
    image_set = ImageSet.open(tmp_path / "a")
    table = image_set.table.set_index("path")
    groups = table["split_group"]
    assert groups["A1.dcm"] == groups["B1.dcm"] == groups["B2.dcm"] != groups["C2.dcm"]
    assert groups["A1.dcm"] == min(table.loc[["A1.dcm", "B1.dcm"], "person"])
    (listed,) = image_set.manifest["shared_pixels"]
    assert (listed["persons"], listed["reason"]) == (2, "constant")
    assert sorted(table["image"][["B2.dcm", "C2.dcm"]]) == listed["images"]
    assert (image_set.manifest["persons"], image_set.manifest["split_groups"]) == (3, 2)


def test_a_second_run_does_nothing(mixed: Catalog, tmp_path: Path) -> None:
    first = normalise(mixed, tmp_path / "a", SMALL, workers=0)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    second = normalise(mixed, tmp_path / "a", SMALL, workers=0)
    assert second == replace(first, added=0, built=False)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")} == before


def test_another_recipe_under_the_same_name_needs_to_be_asked_for(
    mixed: Catalog, tmp_path: Path
) -> None:
    normalise(mixed, tmp_path / "a", SMALL, workers=0)
    before = hash_tree(tmp_path / "a")
    other = replace(SMALL, geometry="stretch")
    with pytest.raises(
        UsageError, match=r"geometry is 'letterbox' there and 'stretch' here.*--repl"
    ):
        normalise(mixed, tmp_path / "a", other, workers=0)
    assert hash_tree(tmp_path / "a") == before
    assert normalise(mixed, tmp_path / "a", other, workers=0, replace=True).built
    assert ImageSet.open(tmp_path / "a").manifest["recipe"] == other.to_json()


def test_changed_files_under_the_same_name_need_to_be_asked_for(tmp_path: Path) -> None:
    tree = write_cohort(tmp_path / "tree", persons=2, per_person=1, size=16)
    normalise(index(tree, tmp_path / "catalog"), tmp_path / "a", SMALL, workers=0)
    write_dicom(tree / "P001" / "0.dcm", NOISE, PatientID="P001")
    catalog = index(tree, tmp_path / "catalog")
    with pytest.raises(UsageError, match="from other frames"):
        normalise(catalog, tmp_path / "a", SMALL, workers=0)
    assert normalise(catalog, tmp_path / "a", SMALL, workers=0, replace=True).landed == 2


def test_a_folder_of_something_else_is_left_alone(mixed: Catalog, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="a folder of something else"):
        normalise(mixed, tmp_path / "a", SMALL, workers=0)
    assert (tmp_path / "a" / "thesis.txt").read_text() == "mine"


def test_a_damaged_set_can_be_made_anew(mixed: Catalog, tmp_path: Path) -> None:
    normalise(mixed, tmp_path / "a", SMALL, workers=0)
    before = hash_tree(tmp_path / "a")
    (tmp_path / "a" / "set.json").write_text("{")
    with pytest.raises(ImageSetError, match="--replace"):
        normalise(mixed, tmp_path / "a", SMALL, workers=0)
    normalise(mixed, tmp_path / "a", SMALL, workers=0, replace=True)
    assert hash_tree(tmp_path / "a") == before


class Killed(BaseException):
    """Stands for the end of the process."""


def _kill_at(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    calls = 0

    def killing(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise Killed
        return function(*arguments, **keywords)

    return killing


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (workspace, "move_into_place"),
        (arrays, "write_rows"),
        (shutil, "rmtree"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_that_is_killed_anywhere_ends_the_same_when_run_again(
    mixed: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, name: str
) -> None:
    normalise(mixed, tmp_path / "whole", SMALL, workers=0)
    wanted = hash_tree(tmp_path / "whole")
    kills = 0
    while True:
        folder = tmp_path / f"killed-{kills}"
        with monkeypatch.context() as patch:
            patch.setattr(place, name, _kill_at(kills + 1, getattr(place, name)))
            try:
                normalise(mixed, folder, SMALL, workers=0)
                break
            except Killed:
                kills += 1
        normalise(mixed, folder, SMALL, workers=0)
        assert hash_tree(folder) == wanted
    assert kills >= 2


def test_finished_shards_are_not_made_again(
    mixed: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("medkit.images.normalisation.stage_set", _kill_at(1, print))
        with pytest.raises(Killed):
            normalise(mixed, tmp_path / "a", SMALL, workers=0)
    with pytest.raises(ImageSetError, match="incomplete"):
        ImageSet.open(tmp_path / "a")
    monkeypatch.setattr(pixels, "read_frame", _kill_at(1, print))  # none is decoded any more
    assert normalise(mixed, tmp_path / "a", SMALL, workers=0).landed == 11


def test_a_finished_shard_that_was_damaged_is_made_again(
    mixed: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    normalise(mixed, tmp_path / "whole", SMALL, workers=0)
    with monkeypatch.context() as patch:
        patch.setattr("medkit.images.normalisation.stage_set", _kill_at(1, print))
        with pytest.raises(Killed):
            normalise(mixed, tmp_path / "a", SMALL, workers=0)
    (shard,) = (tmp_path / "a" / ".partial").glob("**/uint16x1/c/0/0/0")
    shard.write_bytes(shard.read_bytes()[:-1])
    normalise(mixed, tmp_path / "a", SMALL, workers=0)
    assert hash_tree(tmp_path / "a") == hash_tree(tmp_path / "whole")


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    tree = write_cohort(tmp_path / "tree", persons=6, per_person=3, size=16)
    catalog = index(tree, tmp_path / "catalog")
    recipe = Recipe(size=(1024, 1024), filter="nearest")  # 8 images a shard
    for workers in (0, 2):
        normalise(catalog, tmp_path / str(workers), recipe, workers=workers)
    assert len(list((tmp_path / "0" / "pixels.zarr" / "uint16x1" / "c").iterdir())) == 3
    assert hash_tree(tmp_path / "0") == hash_tree(tmp_path / "2")


def test_a_dask_cluster_gives_the_same_bytes(mixed: Catalog, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    normalise(mixed, tmp_path / "local", SMALL, workers=0)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        engine = cluster.scheduler_address.replace("tcp://", "dask://")
        normalise(mixed, tmp_path / "dask", SMALL, engine=engine)
    assert hash_tree(tmp_path / "local") == hash_tree(tmp_path / "dask")


def test_a_fault_that_nobody_foresaw_costs_one_frame(
    mixed: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = pixels.read_frame

    def fail(row: Any) -> Any:
        if row["path"] == "P001/0.dcm":
            raise RuntimeError("at 0x7f001234")
        return read(row)

    monkeypatch.setattr(pixels, "read_frame", fail)
    summary = normalise(mixed, tmp_path / "a", SMALL, workers=0)
    assert summary.refused == {"internal-error": 1, "pixel-length": 1}
    refused = ImageSet.open(tmp_path / "a").refused.set_index("path")
    assert refused.loc["P001/0.dcm", ["code", "detail"]].tolist() == [
        "internal-error",
        "RuntimeError",
    ]


def test_a_frame_that_ends_the_process_is_refused_and_the_rest_land(
    mixed: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os\n"
        "from medkit.images import pixels\n"
        "read = pixels.read_frame\n"
        "pixels.read_frame = lambda row: (\n"
        "    os._exit(9) if row['path'] == 'P001/0.dcm' else read(row)\n"
        ")\n"
    )
    root = Path(workspace.__file__).parent.parent
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{root}")
    summary = normalise(mixed, tmp_path / "a", SMALL, workers=1)
    assert summary.refused == {"decoder-died": 1, "pixel-length": 1}
    assert summary.landed == 10
    assert verify(tmp_path / "a") == []


def test_a_shard_that_reads_back_otherwise_is_never_kept(
    mixed: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = arrays.write_rows
    monkeypatch.setattr(
        arrays, "write_rows", lambda array, rows, codes: write(array, rows, codes ^ 1)
    )
    with pytest.raises(ImageSetError, match="does not read back"):
        normalise(mixed, tmp_path / "a", SMALL, workers=0)
    assert not list((tmp_path / "a").glob("**/staged/**/c"))


def test_a_full_disk_is_an_error_that_names_the_shard(
    mixed: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(arrays, "write_rows", fail)
        with pytest.raises(ImageSetError, match=r"uint16x1/c/0/0/0 cannot be written.*No space"):
            normalise(mixed, tmp_path / "a", SMALL, workers=0)
    assert normalise(mixed, tmp_path / "a", SMALL, workers=0).landed == 11


def test_real_files_land_or_are_named(pydicom_files: Path, tmp_path: Path) -> None:
    catalog = index(pydicom_files, tmp_path / "catalog")
    recipe = Recipe(size=(48, 40), where="true")
    summary = normalise(catalog, tmp_path / "a", recipe, workers=0)
    assert summary.landed >= 70
    assert not {"internal-error", "decoder-died"} & set(summary.refused)
    assert verify(tmp_path / "a") == []
    image_set = ImageSet.open(tmp_path / "a")
    assert np.isfinite(image_set.images()[:]).all()
    total = catalog.query(
        "SELECT count(*) AS n FROM files LEFT JOIN frames USING (file) "
        "WHERE kind IN ('image', 'other-dicom', 'non-dicom')"
    )["n"][0]
    assert summary.selected + sum(summary.left_out.values()) == total


def test_recipes_have_keys_that_tell_them_apart() -> None:
    recipes = [
        Recipe(),
        Recipe(size=(299, 300)),
        Recipe(geometry="crop"),
        Recipe(filter="nearest"),
        Recipe(geometry="mm", mm=1.0),
        Recipe(geometry="mm", mm=2.0),
        Recipe(where="true"),
        Recipe(include=("slide",)),
        Recipe(slices="middle"),
        Recipe(slices="mip"),
        Recipe(plane="coronal"),
    ]
    assert len({recipe.key for recipe in recipes}) == len(recipes)
    assert Recipe(include=("slide", "localizer", "slide")) == Recipe(include=("localizer", "slide"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"geometry": "squash"}, "'squash'; use letterbox"),
        ({"filter": "cubic"}, "'cubic'; use bilinear"),
        ({"include": ("scout",)}, "'scout'; use localizer"),
        ({"size": (0, 10)}, r"not \(0, 10\)"),
        ({"geometry": "mm"}, "the millimetres are None"),
        ({"geometry": "mm", "mm": 0.0}, "are 0.0"),
        ({"geometry": "mm", "mm": float("inf")}, "are inf"),
        ({"geometry": "mm", "mm": float("nan")}, "are nan"),
        ({"mm": 0.0}, "are 0.0"),
        ({"mm": 1.0}, "geometry is 'letterbox'"),
        ({"slices": "some"}, "'some'"),
        ({"slices": "every:0"}, "'every:0'"),
        ({"plane": "oblique"}, "'oblique'; use stored, axial"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe(**changes)
