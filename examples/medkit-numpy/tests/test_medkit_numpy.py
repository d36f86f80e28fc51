"""A plugin of readers: named, remembered, read again where its version is another one."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medkit.catalog import readers
from medkit.catalog.journal import read_journal
from medkit.catalog.labels import ImageRule, label_images
from medkit.catalog.scan import Root, Summary, scan
from medkit.catalog.store import Catalog
from medkit.errors import PixelError, UsageError
from medkit.images.imageset import ImageSet
from medkit.images.normalisation import Recipe, normalise
from medkit.images.pixels import read_frame
from medkit.testing import write_dicom

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "src"))

import medkit_numpy  # noqa: E402 - found by the line above

pytestmark = pytest.mark.usefixtures("installed")

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 255, (30, 28, 28), np.uint8)
COLOUR = RANDOM.integers(0, 255, (6, 20, 16, 3), np.uint8)
LABELS = (np.arange(30) % 3).reshape(30, 1).astype(np.uint8)
SEVERAL = RANDOM.integers(0, 2, (6, 4), np.uint8)
VOLUME = RANDOM.normal(size=(5, 12, 10)).astype(np.float32)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    readers._load.cache_clear()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "deep").mkdir(parents=True)
    np.savez_compressed(
        folder / "mnist.npz",
        train_images=GREY,
        train_labels=LABELS,
        test_images=COLOUR,
        test_labels=SEVERAL,
    )
    np.save(folder / "deep" / "volume.npy", VOLUME)
    (folder / "deep" / "volume.npy").rename(folder / "deep" / "volume.txt")  # no suffix is trusted
    np.save(folder / "picture.npy", COLOUR[0])
    np.savez(folder / "scan.npz", scan=VOLUME)
    with zipfile.ZipFile(folder / "some.zip", "w") as archive:
        archive.write(folder / "picture.npy", "inside/picture.npy")
        archive.write(folder / "scan.npz", "inside/scan.npz")
    write_dicom(folder / "image.dcm", np.zeros((8, 8), np.uint16))
    (folder / "notes.md").write_text("nothing to see")
    return folder


def look(folder: Path, tree: Path, *named: str, **given: Any) -> Summary:
    chosen = list(named) or None
    return scan(folder, [Root("local", tree)], workers=0, readers=chosen, **given)


def list_files(folder: Path, columns: str = "path, kind, reason") -> list[tuple[Any, ...]]:
    found = Catalog.open(folder).query(f"SELECT {columns} FROM files ORDER BY path")
    return [tuple(row) for row in found.itertuples(index=False)]


def list_rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the view ``images`` by path."""
    rows: dict[str, list[dict[str, Any]]] = {}
    found = Catalog.open(folder).select("TRUE")
    for row in found.to_dict("records"):
        rows.setdefault(row["path"], []).append(row)
    return rows


def test_without_it_arrays_are_no_images(tree: Path, tmp_path: Path) -> None:
    summary = look(tmp_path / "catalog", tree)
    assert set(list_rows(tmp_path / "catalog")) == {"image.dcm"}
    assert summary.walked == 7


def test_each_image_is_a_row_that_tells_its_label(tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "catalog"
    summary = look(folder, tree, "numpy")
    assert summary.walked == 7 == sum(sum(one.values()) for one in summary.counts.values())
    assert sum(summary.members["non-dicom"].values()) == 30 + 6 + 1 + 1
    assert summary.members["archive"] == {"nested-archive": 1}
    rows = list_rows(folder)
    assert len(rows["deep/volume.txt"]) == len(rows["scan.npz!scan"]) == 5
    assert {path.split("/")[1] for path in rows if "!train" in path} == {"0", "1", "2"}
    for number, values in enumerate(GREY):
        (row,) = rows[f"mnist.npz!train/{number % 3}/{number:02d}"]
        assert np.array_equal(read_frame(row).values, values)
    for number, values in enumerate(COLOUR):
        several = "_".join(map(str, SEVERAL[number]))
        (row,) = rows[f"mnist.npz!test/{several}/{number}"]
        assert np.array_equal(read_frame(row).values, values)
    for path in ("deep/volume.txt", "scan.npz!scan"):
        for frame in reversed(range(5)):
            assert np.array_equal(read_frame(rows[path][frame]).values, VOLUME[frame])
    (row,) = rows["some.zip!inside/picture.npy"]
    assert np.array_equal(read_frame(row).values, COLOUR[0])


def test_labels_and_persons_are_told_by_the_path_and_a_set_is_made(
    tree: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "catalog"
    root = Root("local", tree, person_regex="!train/./(.*)")
    scan(folder, [root], workers=0, readers=["numpy"])
    done = label_images(folder, "digit", ImageRule("regex", r"!train/(\d+)/"))
    assert done.values == {"0": 10, "1": 10, "2": 10}
    summary = normalise(
        Catalog.open(folder), tmp_path / "set", Recipe((28, 28), where="path LIKE '%!train%'")
    )
    assert summary.landed == 30
    made = ImageSet.open(tmp_path / "set")
    assert made.table["person"].nunique() == 30
    assert json.loads((tmp_path / "set" / "set.json").read_text())["parts"][0]["versions"][
        "medkit-numpy"
    ]
    order = [int(path.rpartition("/")[2]) for path in made.table["path"]]
    assert np.array_equal(np.stack([made.images().codes(i) for i in range(30)]) // 16, GREY[order])


def test_it_is_remembered_and_another_version_reads_again_what_is_not_dicom(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "catalog"
    first = look(folder, tree)
    assert look(folder, tree, "numpy").read == first.read - 1  # all but the DICOM file
    before = list_files(folder, "*")
    again = look(folder, tree)
    assert (again.read, list_files(folder, "*")) == (0, before)
    assert [one["names"] for one in read_journal(folder) if one["type"] == "readers"] == [["numpy"]]
    look(folder, tree, rebuild=True)
    assert list_files(folder, "*") == before
    told = dict(list_files(folder, "path, reader"))
    assert told["picture.npy"].endswith(" + numpy 0.1.0") and "+" not in told["image.dcm"]
    found = readers.find_plugin("reader", "numpy")
    newer = type(found)(**{**vars(found), "version": "0.2.0"})
    monkeypatch.setattr(readers, "find_plugin", lambda kind, name: newer)
    assert look(folder, tree).read == first.read - 1
    monkeypatch.undo()
    assert look(folder, tree, "none").read == first.read - 1
    assert set(list_rows(folder)) == {"image.dcm"}
    assert look(folder, tree).read == 0


def test_what_is_damaged_or_hostile_is_a_row_of_problems(tmp_path: Path) -> None:
    tree, folder = tmp_path / "tree", tmp_path / "catalog"
    tree.mkdir()
    np.save(tree / "objects.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.save(tree / "fortran.npy", np.asfortranarray(np.ones((4, 5))))
    np.save(tree / "wide.npy", np.ones((2, 2, 2, 2, 2)))
    np.save(tree / "complex.npy", np.ones((4, 4), np.complex64))
    (tree / "cut.npy").write_bytes((tree / "wide.npy").read_bytes()[:140])
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999, 999999), }"
    (tree / "huge.npy").write_bytes(b"\x93NUMPY\1\0\x76\0" + header.ljust(117).encode() + b"\n")
    (tree / "head.npy").write_bytes(b"\x93NUMPY")
    np.savez(tree / "wild.npz", **{"a!b": np.ones((3, 3))})
    summary = look(folder, tree, "numpy")
    found = {path: (kind, reason) for path, kind, reason in list_files(folder)}
    not_read = {"objects.npy", "fortran.npy", "wide.npy", "complex.npy"}
    assert {path for path, what in found.items() if what[0] == "non-dicom"} == not_read
    failed = {"cut.npy", "huge.npy", "head.npy", "wild.npz"}
    assert {path for path, what in found.items() if what == ("problem", "reader-failed")} == failed
    assert summary.walked == len(found) == 8


def test_a_file_that_changed_is_refused(tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "catalog"
    look(folder, tree, "numpy")
    (row,) = list_rows(folder)["picture.npy"]
    np.save(tree / "picture.npy", COLOUR[:2, 0])
    with pytest.raises(PixelError, match="scan it again"):
        read_frame(row)


def test_what_it_gives_is_compared_with_what_it_said(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "catalog"
    look(folder, tree, "numpy")
    (row,) = list_rows(folder)["picture.npy"]
    for given, words in (
        (lambda *_: COLOUR[1][:5], "shape"),
        (lambda *_: COLOUR[1].astype(float), "float64"),
        (lambda *_: 1 // 0, "ZeroDivisionError"),
    ):
        monkeypatch.setattr(medkit_numpy.Array, "read", given)
        with pytest.raises(PixelError, match=words) as caught:
            read_frame(row)
        assert caught.value.code == "reader-failed"


def test_a_reader_that_is_not_there_is_named(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no reader plugin is named 'other'.*numpy"):
        look(tmp_path / "catalog", tree, "other")
    with pytest.raises(UsageError, match="medkit itself uses that name"):
        look(tmp_path / "catalog", tree, "png")
    assert not read_journal(tmp_path / "catalog")


def test_scanning_without_it_imports_nothing_of_it(tree: Path, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom medkit.cli import main\n"
        f"try:\n    main(['catalog', {str(tree)!r}, '-w', {str(tmp_path / 'home')!r}])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "assert 'medkit_numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_rows_of_a_packed_array_are_unpacked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = io.BytesIO()
    np.savez_compressed(packed, train_images=GREY, train_labels=LABELS)
    packed.seek(0)
    opened = medkit_numpy.NumpyReader.open(packed)
    opens = []
    real = zipfile.ZipFile.open
    monkeypatch.setattr(
        zipfile.ZipFile, "open", lambda self, *given: opens.append(given) or real(self, *given)
    )
    for number in range(30):
        assert np.array_equal(opened.read(f"train/{number % 3}/{number:02d}", 0), GREY[number])
    assert len(opens) == 1
