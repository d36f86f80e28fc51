"""Sets that grow: what is there stays as it is, and nothing is missed or wrong on the way."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
import zarr

from medkit import workspace
from medkit.catalog.scan import Root, scan
from medkit.catalog.store import Catalog
from medkit.errors import ImageSetError, UsageError
from medkit.images import arrays, pixels
from medkit.images.imageset import ImageSet, verify
from medkit.images.normalisation import Recipe, normalise
from medkit.testing import make_uid, write_cohort, write_dicom

SMALL = Recipe(size=(16, 16))
NOISE = np.random.default_rng(0).integers(0, 4096, (20, 24), dtype=np.uint16)
KEY = ["path", "frame"]
SHARD = "pixels.zarr/uint16x1/c/{}/0/0"


def index(tree: Path) -> Catalog:
    scan(tree.parent / "catalog", [Root("local", tree, person_regex="")], workers=0)
    return Catalog.open(tree.parent / "catalog")


def plant(folder: Path) -> Path:
    """Write what there is at first: five images that land, and one that cannot."""
    tree = write_cohort(folder / "tree", persons=2, per_person=2, size=16)
    write_dicom(tree / "m.dcm", NOISE, PatientID="T", StudyInstanceUID=make_uid("study"))
    write_short(tree / "short.dcm", PatientID="S")
    return tree


def extend(tree: Path) -> None:
    """Add what comes later, before, between and after: five that land, one that cannot."""
    write_dicom(tree / "A" / "0.dcm", NOISE + 1, PatientID="A")
    write_dicom(tree / "colour.dcm", np.full((8, 8, 3), 7, np.uint8), PatientID="C")
    write_dicom(tree / "blank.dcm", np.zeros((8, 8), np.uint16), PatientID="B")
    # One person with that of m.dcm by their study, and by the same pixels.
    write_dicom(tree / "n.dcm", NOISE + 2, PatientID="N", StudyInstanceUID=make_uid("study"))
    write_dicom(tree / "twin.dcm", NOISE, PatientID="M")
    write_short(tree / "z.dcm", PatientID="Z")


def write_short(path: Path, **keywords: Any) -> None:
    write_dicom(path, NOISE, **keywords)
    path.write_bytes(path.read_bytes()[:-100])


def hash_tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalog, Path]:
    """The catalog as it is later, and a folder with the set ``before`` and its folder ``tree``."""
    folder = tmp_path_factory.mktemp("grown")
    tree = plant(folder)
    normalise(index(tree), folder / "before", SMALL, workers=0)
    extend(tree)
    return index(tree), folder


@pytest.fixture
def copied(grown: tuple[Catalog, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(grown[1] / "before", tmp_path / "a"))


def test_a_set_that_grew_keeps_what_it_had_and_has_all_that_one_made_at_once_has(
    grown: tuple[Catalog, Path], copied: Path, tmp_path: Path
) -> None:
    catalog, _ = grown
    before, hashes = ImageSet.open(copied), hash_tree(copied)
    old = {path: path.stat().st_mtime_ns for path in copied.glob("pixels.zarr/**/c/**/*")}
    summary = normalise(catalog, copied, SMALL, workers=0, append=True)
    whole = normalise(catalog, tmp_path / "whole", SMALL, workers=0)
    assert (summary.selected, summary.planned, summary.landed, summary.added) == (12, 12, 10, 5)
    assert summary.refused == whole.refused == {"pixel-length": 2}
    assert verify(copied) == []
    after, at_once = ImageSet.open(copied), ImageSet.open(tmp_path / "whole")
    assert len({before.id, after.id, at_once.id}) == 3

    # What was there is not touched, and what is new begins with a shard of its own.
    assert {path: path.stat().st_mtime_ns for path in old} == old
    assert hash_tree(copied)[SHARD.format(0)] == hashes[SHARD.format(0)]
    kept = ["image", "array", "row", "path", "frame", "pixels_sha256", "slope", "affine"]
    pd.testing.assert_frame_equal(after.table[kept][:5], before.table[kept])
    assert after.table["image"].tolist() == list(range(10))
    new = after.table[5:].groupby("array")["row"].agg(["min", "max", "count"])
    assert new.loc["uint16x1"].tolist() in ([256, 260, 4], [257, 260, 4], [256, 259, 4])
    assert new.loc["uint8x3"].tolist() == [0, 0, 1]
    group = zarr.open_group(copied / "pixels.zarr", mode="r")
    assert group["uint16x1"].shape == (261, 16, 16)
    for position, (name, row) in enumerate(after.table[["array", "row"]].values):
        np.testing.assert_array_equal(group[name][row], after.images().codes(position))

    # All else is as if it had been made at once.
    numbers = ["image", "array", "row"]
    ours, theirs = (
        one.table.drop(columns=numbers).sort_values(KEY, ignore_index=True)
        for one in (after, at_once)
    )
    pd.testing.assert_frame_equal(ours, theirs)
    by_path = [
        dict(zip(one.table["path"], one.images()[:], strict=True)) for one in (after, at_once)
    ]
    for path, image in by_path[0].items():
        np.testing.assert_array_equal(image, by_path[1][path])
    pd.testing.assert_frame_equal(
        after.refused, at_once.refused.sort_values(KEY, ignore_index=True)
    )
    for fact in ("counts", "left_out", "persons", "split_groups", "selection", "recipe"):
        assert after.manifest[fact] == at_once.manifest[fact]


def test_persons_are_joined_by_what_came_later(grown: tuple[Catalog, Path], copied: Path) -> None:
    before = ImageSet.open(copied).table.set_index("path")["split_group"]
    normalise(grown[0], copied, SMALL, workers=0, append=True)
    table = ImageSet.open(copied).table.set_index("path")
    assert table["person"]["m.dcm"] == table["person"]["n.dcm"]
    assert table["split_group"]["m.dcm"] == table["split_group"]["twin.dcm"]
    assert table["split_group"]["m.dcm"] != before["m.dcm"]
    assert table["person"]["twin.dcm"] != table["person"]["m.dcm"]


def test_the_manifest_keeps_the_history(grown: tuple[Catalog, Path], copied: Path) -> None:
    first = ImageSet.open(copied).manifest
    normalise(grown[0], copied, SMALL, workers=0, append=True)
    manifest = ImageSet.open(copied).manifest
    assert manifest["parts"][:1] == first["parts"]
    assert [part["counts"] for part in manifest["parts"]] == [
        {"planned": 6, "landed": 5, "refused": {"pixel-length": 1}},
        {"planned": 6, "landed": 5, "refused": {"pixel-length": 1}},
    ]
    assert [part["selection"] for part in manifest["parts"]] == [
        first["selection"],
        manifest["selection"],
    ]
    assert manifest["parts"][1]["rows"] == {"uint16x1": [256, 261], "uint8x3": [0, 1]}
    assert manifest["arrays"] == {"uint16x1": 261, "uint8x3": 1}


def test_only_what_is_new_is_read(
    grown: tuple[Catalog, Path], copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, seen = pixels.read_frame, []

    def watch(row: Any, *others: Any) -> Any:
        seen.append(row["path"])
        return read(row, *others)

    monkeypatch.setattr(pixels, "read_frame", watch)
    normalise(grown[0], copied, SMALL, workers=0, append=True)
    assert sorted(seen) == ["A/0.dcm", "blank.dcm", "colour.dcm", "n.dcm", "twin.dcm", "z.dcm"]


def test_a_set_grows_again_and_again(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    wide = Recipe(size=(1024, 1024), filter="nearest")  # 8 images a shard
    for count in (9, 10, 11):
        for number in range(count):
            if not (path := tree / f"{number}.dcm").exists():
                write_dicom(path, NOISE + number, PatientID="P")
        normalise(index(tree), tmp_path / "a", wide, workers=0, append=True)
    table = ImageSet.open(tmp_path / "a").table
    assert table["row"].tolist() == [*range(9), 16, 24]
    assert verify(tmp_path / "a") == []
    assert len(ImageSet.open(tmp_path / "a").manifest["parts"]) == 3


def test_the_bytes_do_not_depend_on_the_number_of_workers(
    grown: tuple[Catalog, Path], copied: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(copied, tmp_path / "b")
    for folder, workers in ((copied, 0), (other, 2)):
        normalise(grown[0], folder, SMALL, workers=workers, append=True)
    assert hash_tree(copied) == hash_tree(other)


def test_nothing_new_is_nothing_done(grown: tuple[Catalog, Path], copied: Path) -> None:
    normalise(grown[0], copied, SMALL, workers=0, append=True)
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    summary = normalise(grown[0], copied, SMALL, workers=0, append=True)
    assert (summary.added, summary.built, summary.landed) == (0, False, 10)
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before


@pytest.mark.parametrize(
    ("recipe", "planned", "identity"),
    [
        (Recipe(size=(8, 8), slices="mip"), 2, [(None, None)] * 2),
        (Recipe(size=(8, 8), slices="every:2"), 4, [(None, None)] * 4),
        (Recipe(size=(8, 8), slices="middle", plane="coronal"), 2, [("coronal", 3)] * 2),
    ],
    ids=["mip", "every", "coronal"],
)
def test_images_of_volumes_stay_while_their_volumes_do(
    tmp_path: Path, recipe: Recipe, planned: int, identity: list[tuple[str | None, int | None]]
) -> None:
    tree = write_cohort(tmp_path / "tree", persons=2, per_person=3, size=8)
    summary = normalise(index(tree), tmp_path / "a", recipe, workers=0)
    left = summary.left_out.get("slice-rule", 0)
    assert (summary.selected + left, summary.planned, summary.landed) == (6, planned, planned)
    table = ImageSet.open(tmp_path / "a").table
    found = table[["plane", "plane_index"]].astype(object)
    assert list(found.where(found.notna(), None).itertuples(index=False, name=None)) == identity
    write_cohort(tree / "more", persons=1, per_person=3, size=8, seed=1)
    catalog = index(tree)
    grown = normalise(catalog, tmp_path / "a", recipe, workers=0, append=True)
    normalise(catalog, tmp_path / "whole", recipe, workers=0)
    assert grown.planned == grown.landed == planned * 3 // 2
    assert verify(tmp_path / "a") == []
    pixels_of = [
        sorted(ImageSet.open(tmp_path / name).table["pixels_sha256"]) for name in ("a", "whole")
    ]
    assert pixels_of[0] == pixels_of[1]
    # A volume has one slice more: what is made of all of it is another image.
    others = {"PatientID": "P000", "Modality": "CT", "InstanceNumber": 4}
    uids = {
        "StudyInstanceUID": make_uid("study 0 P000"),
        "SeriesInstanceUID": make_uid("series 0 P000"),
        "FrameOfReferenceUID": make_uid("frame 0 P000"),
    }
    place = {"ImagePositionPatient": [0.0, 0.0, 15.0]}
    values = np.full((8, 8), 99, np.uint16)
    write_dicom(tree / "P000" / "3.dcm", values, **others, **uids, **place)
    if recipe.slices == "every:2":
        assert normalise(index(tree), tmp_path / "a", recipe, workers=0, append=True).added == 0
    else:
        with pytest.raises(
            UsageError, match=r"\((1 new, 1 no longer|1 of files or volumes that changed)"
        ):
            normalise(index(tree), tmp_path / "a", recipe, workers=0, append=True)


def write_mosaic(path: Path, seed: int) -> None:
    """Write four tiles of 8 x 8, side by side in one frame."""
    pixels_of = np.random.default_rng(seed).integers(1, 4096, (16, 16), dtype=np.uint16)
    kind = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    write_dicom(path, pixels_of, ImageType=kind, Modality="MR", PatientID=path.stem)
    header = pydicom.dcmread(path)
    header.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 4)
    header.save_as(path)


def test_tiles_of_a_mosaic_are_images_and_stay(tmp_path: Path) -> None:
    tree, folder = tmp_path / "tree", tmp_path / "a"
    recipe = Recipe(size=(8, 8))
    write_mosaic(tree / "b.dcm", 1)
    summary = normalise(index(tree), folder, recipe, workers=0)
    assert (summary.selected, summary.planned, summary.landed) == (1, 4, 4)
    write_mosaic(tree / "a.dcm", 2)
    summary = normalise(index(tree), folder, recipe, workers=0, append=True)
    assert (summary.selected, summary.planned, summary.landed, summary.added) == (2, 8, 8, 4)
    table = ImageSet.open(folder).table
    assert table["tile"].tolist() == [0, 1, 2, 3] * 2
    assert table["path"].tolist() == ["b.dcm"] * 4 + ["a.dcm"] * 4
    assert table["pixels_sha256"].nunique() == 8
    assert verify(folder) == []


def test_a_set_that_is_not_there_is_made(grown: tuple[Catalog, Path], tmp_path: Path) -> None:
    assert normalise(grown[0], tmp_path / "a", SMALL, workers=0, append=True).added == 10


def test_a_set_that_could_grow_says_so(grown: tuple[Catalog, Path], copied: Path) -> None:
    before = hash_tree(copied)
    with pytest.raises(UsageError, match=r"other frames \(6 new\); add them with --append, make"):
        normalise(grown[0], copied, SMALL, workers=0)
    other = Recipe(size=(16, 16), geometry="crop")
    with pytest.raises(UsageError, match=r"another recipe .*'crop' here\); give the options"):
        normalise(grown[0], copied, other, workers=0, append=True)
    with pytest.raises(UsageError, match="--replace or --append, not both"):
        normalise(grown[0], copied, SMALL, workers=0, append=True, replace=True)
    assert hash_tree(copied) == before


def test_what_went_or_changed_keeps_a_set_from_growing(tmp_path: Path) -> None:
    tree = plant(tmp_path)
    normalise(index(tree), tmp_path / "a", SMALL, workers=0)
    before = hash_tree(tmp_path / "a")
    (tree / "P000" / "0.dcm").unlink()
    os.utime(tree / "P001" / "1.dcm", ns=(0, 0))
    os.utime(tree / "short.dcm", ns=(0, 0))
    extend(tree)
    found = r"\(6 new, 1 no longer selected, 2 of files or volumes that changed\); make it anew"
    catalog = index(tree)
    for append in (False, True):
        with pytest.raises(UsageError, match=found):
            normalise(catalog, tmp_path / "a", SMALL, workers=0, append=append)
    assert hash_tree(tmp_path / "a") == before


def test_what_the_catalog_says_anew_of_the_same_frames_is_taken_over(tmp_path: Path) -> None:
    tree = plant(tmp_path)
    normalise(index(tree), tmp_path / "a", SMALL, workers=0)
    pixels_before = hash_tree(tmp_path / "a" / "pixels.zarr")
    scan(tmp_path / "catalog", [Root("other", tree, person_regex="")], workers=0)
    catalog = Catalog.open(tmp_path / "catalog")
    with pytest.raises(UsageError, match=r"none is new.*--append"):
        normalise(catalog, tmp_path / "a", SMALL, workers=0)
    summary = normalise(catalog, tmp_path / "a", SMALL, workers=0, append=True)
    assert (summary.added, summary.landed, summary.built) == (0, 5, True)
    assert set(ImageSet.open(tmp_path / "a").table["source"]) == {"other"}
    assert hash_tree(tmp_path / "a" / "pixels.zarr") == pixels_before


def test_the_time_of_a_file_is_no_part_of_the_identity_of_a_set(tmp_path: Path) -> None:
    tree = plant(tmp_path)
    normalise(index(tree), tmp_path / "a", SMALL, workers=0)
    for path in tree.rglob("*.dcm"):
        os.utime(path, ns=(0, 0))
    normalise(index(tree), tmp_path / "b", SMALL, workers=0)
    assert ImageSet.open(tmp_path / "a").id == ImageSet.open(tmp_path / "b").id


class Killed(BaseException):
    """Stands for the end of the process."""


def kill_at(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
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
def test_killed_anywhere_it_is_never_wrong_and_ends_the_same_when_run_again(
    grown: tuple[Catalog, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: Any,
    name: str,
) -> None:
    catalog, folder = grown
    before = ImageSet.open(folder / "before")
    whole = shutil.copytree(folder / "before", tmp_path / "whole")
    normalise(catalog, whole, SMALL, workers=0, append=True)
    after, wanted = ImageSet.open(whole), hash_tree(whole)
    states = []
    while True:
        broken = shutil.copytree(folder / "before", tmp_path / f"killed-{len(states)}")
        with monkeypatch.context() as patch:
            patch.setattr(place, name, kill_at(len(states) + 1, getattr(place, name)))
            try:
                normalise(catalog, broken, SMALL, workers=0, append=True)
                break
            except Killed:
                states.append(look(broken, before, after))
        normalise(catalog, broken, SMALL, workers=0, append=True)
        assert hash_tree(broken) == wanted
    assert len(states) >= 2
    assert states == sorted(states)  # before, while it moves, after
    assert name != "move_into_place" or set(states) == {0, 1}
    assert name != "rmtree" or states[-1] == 2


def look(folder: Path, before: ImageSet, after: ImageSet) -> int:
    """Return 0 where a set is as it was, 1 where it says that it is incomplete, 2 where it grew."""
    faults = verify(folder)
    if faults:
        assert [(fault.file, fault.image) for fault in faults] == [("set.json", None)]
        assert "incomplete" in faults[0].detail
    try:
        image_set = ImageSet.open(folder)
    except ImageSetError as error:
        assert "incomplete" in str(error)
        assert f"'medkit normalise {folder.name}' again" in str(error)
        return 1
    expected = before if image_set.id == before.id else after
    assert image_set.id == expected.id
    pd.testing.assert_frame_equal(image_set.table, expected.table)
    np.testing.assert_array_equal(image_set.images()[:], expected.images()[:])
    return 1 if faults else 2 * (expected is after)


def test_a_catalog_that_grew_again_after_a_kill_is_what_the_set_grows_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = plant(tmp_path)
    normalise(index(tree), tmp_path / "a", SMALL, workers=0)
    shutil.copytree(tmp_path / "a", tmp_path / "whole")
    extend(tree)
    catalog = index(tree)
    with monkeypatch.context() as patch:
        patch.setattr("medkit.images.normalisation.stage_set", kill_at(1, print))
        with pytest.raises(Killed):
            normalise(catalog, tmp_path / "a", SMALL, workers=0, append=True)
    write_dicom(tree / "B" / "0.dcm", NOISE + 9, PatientID="B")
    catalog = index(tree)
    for name in ("a", "whole"):
        normalise(catalog, tmp_path / name, SMALL, workers=0, append=True)
    assert hash_tree(tmp_path / "a") == hash_tree(tmp_path / "whole")


def test_finished_shards_are_not_made_again(
    grown: tuple[Catalog, Path], copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("medkit.images.normalisation.stage_set", kill_at(1, print))
        with pytest.raises(Killed):
            normalise(grown[0], copied, SMALL, workers=0, append=True)
    monkeypatch.setattr(pixels, "read_frame", kill_at(1, print))  # none is decoded any more
    assert normalise(grown[0], copied, SMALL, workers=0, append=True).added == 5


def test_an_addition_that_was_killed_is_no_part_of_what_is_made_anew(
    grown: tuple[Catalog, Path], copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("medkit.images.normalisation.settle", lambda _: False)
        normalise(grown[0], copied, SMALL, workers=0, append=True)
    assert verify(copied)[0].detail.startswith("the set 'a' is incomplete")
    normalise(grown[0], copied, SMALL, workers=0, replace=True)
    normalise(grown[0], tmp_path / "whole", SMALL, workers=0)
    assert hash_tree(copied) == hash_tree(tmp_path / "whole")


@pytest.mark.parametrize(
    "path", ["images.parquet", SHARD.format(0), "pixels.zarr/uint16x1/zarr.json"]
)
def test_a_damaged_set_does_not_grow(grown: tuple[Catalog, Path], copied: Path, path: str) -> None:
    for damage in (lambda: (copied / path).write_bytes(b"PAR1"), (copied / path).unlink):
        damage()
        with pytest.raises(ImageSetError, match=f"damaged: {path}"):
            normalise(grown[0], copied, SMALL, workers=0, append=True)


def test_arrays_that_are_laid_out_otherwise_do_not_grow(
    grown: tuple[Catalog, Path], copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = hash_tree(copied)
    monkeypatch.setattr(arrays, "_SHARD_IMAGES", 64)
    with pytest.raises(ImageSetError, match=r"does not lay out pixels\.zarr/uint16x1/zarr\.json"):
        normalise(grown[0], copied, SMALL, workers=0, append=True)
    assert hash_tree(copied) == before
