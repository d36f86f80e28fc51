"""A set on disk: readable by anyone, and no damage goes unseen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import zarr

from medkit import workspace
from medkit.catalog.scan import Root, scan
from medkit.catalog.store import Catalog
from medkit.errors import ImageSetError
from medkit.images.imageset import IMAGES_SCHEMA, Fault, ImageSet, verify
from medkit.images.normalisation import Recipe, normalise
from medkit.testing import write_cohort, write_dicom

SHARD = "pixels.zarr/uint16x1/c/0/0/0"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three grey images and one in colour, one of them all zeros; one more is refused."""
    folder = tmp_path_factory.mktemp("set")
    tree = write_cohort(folder / "tree", persons=2, per_person=1, size=12)
    write_dicom(tree / "black.dcm", np.zeros((12, 12), np.uint16), PatientID="B")
    write_dicom(tree / "colour.dcm", np.full((9, 12, 3), 200, np.uint8), PatientID="C")
    short = write_dicom(tree / "short.dcm", np.ones((12, 12), np.uint16), PatientID="S")
    short.write_bytes(short.read_bytes()[:-2])
    scan(folder / "catalog", [Root("local", tree)], workers=0)
    catalog = Catalog.open(folder / "catalog")
    normalise(catalog, folder / "small", Recipe(size=(12, 12)), workers=0)
    return folder / "small"


@pytest.fixture
def copied(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def list_files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_what_is_on_disk(original: Path) -> None:
    assert list_files(original) == [
        "images.parquet",
        "origins.parquet",
        SHARD,
        "pixels.zarr/uint16x1/zarr.json",
        "pixels.zarr/uint8x3/c/0/0/0/0",
        "pixels.zarr/uint8x3/zarr.json",
        "pixels.zarr/zarr.json",
        "refused.parquet",
        "set.json",
    ]
    manifest = json.loads((original / "set.json").read_bytes())
    counts = {"planned": 5, "landed": 4, "refused": {"pixel-length": 1}}
    assert manifest["counts"] == {"selected": 5} | counts
    assert manifest["arrays"] == {"uint16x1": 4, "uint8x3": 1}
    (part,) = manifest["parts"]
    assert part["counts"] == counts
    assert part["rows"] == {"uint16x1": [0, 4], "uint8x3": [0, 1]}
    assert set(manifest["files"]) == set(list_files(original)) - {"set.json"}
    table = pyarrow.parquet.read_table(original / "images.parquet")
    assert table.schema.equals(IMAGES_SCHEMA)
    image_set = ImageSet.open(original)
    assert (image_set.name, image_set.size) == ("small", (12, 12))
    assert image_set.refused["path"].tolist() == ["short.dcm"]
    assert verify(original) == []


def test_zarr_python_reads_the_same_pixels(original: Path) -> None:
    image_set = ImageSet.open(original)
    group = zarr.open_group(original / "pixels.zarr", mode="r")
    assert sorted(group.array_keys()) == ["uint16x1", "uint8x3"]
    images = image_set.images()
    for position, (name, row) in enumerate(
        image_set.table[["array", "row"]].itertuples(index=False)
    ):
        np.testing.assert_array_equal(group[name][row], images.codes(position))
    assert group["uint16x1"].shards == (256, 12, 12)
    assert group["uint16x1"].chunks == (1, 12, 12)


def test_the_id_is_of_the_content_alone(original: Path, copied: Path) -> None:
    assert ImageSet.open(original).id == ImageSet.open(copied).id


def test_a_flipped_bit_is_found_wherever_it_is(copied: Path) -> None:
    sizes = {path: (copied / path).stat().st_size for path in list_files(copied)}
    step = 1 + sum(sizes.values()) // 400
    for path, size in sizes.items():
        content = (copied / path).read_bytes()
        for position in [*range(0, size, step), size - 1]:
            (copied / path).write_bytes(flip(content, position))
            faults = verify(copied)
            assert faults, f"byte {position} of {path}"
            assert {fault.file for fault in faults} == {path}
        (copied / path).write_bytes(content)
    assert verify(copied) == []


def test_damage_in_the_pixels_names_the_images(copied: Path) -> None:
    table = ImageSet.open(copied).table
    grey = table[table["array"] == "uint16x1"].sort_values("row")
    content = (copied / SHARD).read_bytes()
    ends = np.frombuffer(content[-4 - 16 * 256 : -4], "<u8").reshape(-1, 2)
    for (start, length), image in zip(ends[grey["row"]], grey["image"], strict=True):
        damaged = bytearray(content)
        damaged[int(start + length // 2)] ^= 1
        (copied / SHARD).write_bytes(damaged)
        assert [(fault.file, fault.image) for fault in verify(copied)] == [(SHARD, image)]
    damaged = bytearray(content)
    damaged[-1] ^= 1  # the checksum of the index: none of its images can be found
    (copied / SHARD).write_bytes(damaged)
    assert [fault.image for fault in verify(copied)] == sorted(grey["image"])


def test_a_set_that_grew_is_verified_to_the_last_byte(
    original: Path, copied: Path, tmp_path: Path
) -> None:
    tree = original.parent / "tree"
    later = Path(shutil.copytree(tree, tmp_path / "tree"))
    shutil.rmtree(copied)
    for number in range(2):
        scan(tmp_path / "catalog", [Root("local", later)], workers=0)
        catalog = Catalog.open(tmp_path / "catalog")
        normalise(catalog, copied, Recipe(size=(12, 12)), workers=0, append=True)
        write_dicom(later / "more.dcm", np.full((12, 12), number, np.uint16), PatientID="M")
    table = ImageSet.open(copied).table
    assert verify(copied) == []
    ((image, row),) = table[table["path"] == "more.dcm"][["image", "row"]].to_numpy()
    assert (image, row) == (4, 256)
    second = SHARD.replace("c/0", "c/1")
    for path in list_files(copied):
        content = (copied / path).read_bytes()
        positions = {0, len(content) // 3, len(content) // 2, len(content) - 1}
        for position in positions | set(range(0, 200, 20)) if path == second else positions:
            (copied / path).write_bytes(flip(content, position))
            faults = verify(copied)
            assert {fault.file for fault in faults} == {path}, position
            if path == second and position < 60:  # its one image, at the start
                assert [fault.image for fault in faults] == [image]
        (copied / path).write_bytes(content)
    assert verify(copied) == []


def flip(content: bytes, position: int) -> bytes:
    """Return bytes with one bit turned."""
    damaged = bytearray(content)
    damaged[position] ^= 1 << position % 8
    return bytes(damaged)


def test_a_flip_in_each_part_of_a_shard_names_its_image_or_the_file(copied: Path) -> None:
    table = ImageSet.open(copied).table
    grey = table[table["array"] == "uint16x1"].set_index("row")["image"]
    content = (copied / SHARD).read_bytes()
    index = len(content) - 4 - 16 * 256
    places = np.frombuffer(content[index:-4], "<u8").reshape(-1, 2)
    for row, image in grey.items():
        start, length = map(int, places[row])
        inside = {  # Blosc's header, what it compressed, the checksum of the chunk
            *range(start, start + 16),
            start + length // 2,
            *range(start + length - 4, start + length),
        }
        for position in inside:
            (copied / SHARD).write_bytes(flip(content, position))
            assert [(fault.file, fault.image) for fault in verify(copied)] == [(SHARD, image)]
    all_of_it = [(SHARD, image) for image in sorted(grey)]
    for position in (index, index + 8, index + 16 * 255, len(content) - 4, len(content) - 1):
        (copied / SHARD).write_bytes(flip(content, position))
        assert [(fault.file, fault.image) for fault in verify(copied)] == all_of_it


def test_missing_and_foreign_files_are_faults(copied: Path) -> None:
    (copied / "pixels.zarr" / "uint16x1" / "notes.txt").write_text("mine")
    (copied / "refused.parquet").unlink()
    assert verify(copied) == [
        Fault("pixels.zarr/uint16x1/notes.txt", None, "is no part of the set"),
        Fault("refused.parquet", None, "is missing"),
    ]


def test_a_disk_that_fails_is_a_fault_and_not_the_end(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hash_file = workspace.hash_file

    def fail(path: Path) -> str:
        if path.name == "refused.parquet":
            raise OSError(5, "Input/output error")
        return hash_file(path)

    monkeypatch.setattr(workspace, "hash_file", fail)
    assert verify(copied) == [Fault("refused.parquet", None, "cannot be read (Input/output error)")]


def test_a_lost_shard_is_found_when_the_set_is_opened_and_when_it_is_read(copied: Path) -> None:
    images = ImageSet.open(copied).images()
    grey = np.flatnonzero(images.table["array"] == "uint16x1")
    (copied / SHARD).unlink()
    with pytest.raises(ImageSetError, match=f"{SHARD} is missing or cut"):
        ImageSet.open(copied)
    with pytest.raises(ImageSetError, match="damaged or missing; 'medkit verify'"):
        images[grey]  # not a black picture
    assert [fault.image for fault in verify(copied)] == images.table["image"][grey].tolist()


@pytest.mark.parametrize("path", [SHARD, "images.parquet", "pixels.zarr/zarr.json"])
def test_a_cut_file_is_found_when_the_set_is_opened(copied: Path, path: str) -> None:
    (copied / path).write_bytes((copied / path).read_bytes()[:-1])
    with pytest.raises(ImageSetError, match=f"{path} is missing or cut"):
        ImageSet.open(copied)


def test_a_changed_table_is_found_when_the_set_is_opened(copied: Path) -> None:
    content = bytearray((copied / "images.parquet").read_bytes())
    content[100] ^= 1
    (copied / "images.parquet").write_bytes(content)
    with pytest.raises(ImageSetError, match=r"images\.parquet has changed"):
        ImageSet.open(copied)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"checksum": 1}', b"\xff", b"[" * 100_000]
)
def test_a_manifest_of_anything_is_damaged(copied: Path, content: bytes) -> None:
    (copied / "set.json").write_bytes(content)
    with pytest.raises(ImageSetError, match="damaged"):
        ImageSet.open(copied)
    assert [fault.file for fault in verify(copied)] == ["set.json"]


def test_a_manifest_spelled_otherwise_is_damaged(copied: Path) -> None:
    manifest = json.loads((copied / "set.json").read_bytes())
    (copied / "set.json").write_text(json.dumps(manifest))
    with pytest.raises(ImageSetError, match="checksum"):
        ImageSet.open(copied)


def test_what_is_no_set_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(
        ImageSetError, match="'a' does not exist; make it with 'medkit normalise a'"
    ):
        ImageSet.open(tmp_path / "a")
    (tmp_path / "a" / ".partial").mkdir(parents=True)
    with pytest.raises(ImageSetError, match="'a' is incomplete"):
        ImageSet.open(tmp_path / "a")
    assert [fault.file for fault in verify(tmp_path / "a")] == ["set.json"]


def test_what_a_kill_left_behind_is_no_fault(copied: Path) -> None:
    (copied / ".partial").mkdir()
    (copied / ".partial" / "plan.json").write_text("{}")
    assert verify(copied) == []
