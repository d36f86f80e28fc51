"""Exports of sets: what goes out reads back bit for bit elsewhere, and nothing else goes out."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import re
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq
import pytest
import SimpleITK
from PIL import Image
from typer.testing import CliRunner

from medkit import workspace
from medkit.cli import export as verb
from medkit.cohort.folds import Folds
from medkit.errors import ImageSetError, UsageError
from medkit.images import arrays
from medkit.images.exports import forms
from medkit.images.exports.documents import SNIPPETS
from medkit.images.exports.export import Exported, export_images
from medkit.images.exports.licences import UNKNOWN, Terms, name_licence, read_terms
from medkit.images.exports.metadata import IDENTIFIERS, PLACES, describe_recipe
from medkit.images.imageset import IMAGES_SCHEMA, ImageSet
from medkit.images.pixels import hash_values
from medkit.sources.fetching import fetch
from medkit.sources.targets import plan_target
from medkit.workspace import Workspace, write_json

SIZE = (7, 5)
DOCUMENT = Path(__file__).parent.parent / "docs" / "export.md"
GREY = ("uint16x1",) * 5
MIXED = (*GREY, "uint8x3", "uint16x3")
HOSTILE = '=cmd|"/c calc"!A1,\n<script>\x1b[31m../../etc/passwd\u202e'
SECRETS = {"PatientID": "SECRET-P", "StudyDate": "20191231", "root": "/hospital/SECRET-R",
           "path": "SECRET^NAME.dcm", "SOPInstanceUID": "1.2.3.555",
           "StudyInstanceUID": "1.2.3.556", "SeriesInstanceUID": "1.2.3.557",
           "file": "feedfacecafebeef"}  # fmt: skip
TERMS = {"clinic": Terms("clinic", "CC-BY-4.0", citation="Someone 2020")}


def draw(kind: str, number: int) -> npt.NDArray[Any]:
    dtype, channels = arrays.split_name(kind)
    shape = SIZE if channels == 1 else (*SIZE, channels)
    random = np.random.default_rng(number)
    if dtype.kind == "f":
        return random.normal(0, 1e3, shape).astype(dtype)
    return random.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def make_set(folder: Path, kinds: tuple[str, ...]) -> ImageSet:
    """Write the arrays of a set whose images have any kinds of values, and its table."""
    codes = [draw(kind, number) for number, kind in enumerate(kinds)]
    rows: list[dict[str, Any]] = []
    for number, (kind, values) in enumerate(zip(kinds, codes, strict=True)):
        rows.append(
            dict.fromkeys(IMAGES_SCHEMA.names)
            | SECRETS
            | {
                "image": number, "array": kind, "row": kinds[:number].count(kind),
                "file": f"{number:016x}", "source": "clinic", "frame": 0,
                "person": f"{number // 2:016x}", "split_group": f"{number // 2:016x}",
                "Modality": "CT", "PatientAge": ("095Y", "034Y")[number % 2],
                "slope": 0.1 + number, "intercept": -1024.3, "units": "HU",
                "full_low": None if kind.startswith("float") else -2000.0,
                "full_high": None if kind.startswith("float") else 70000.0,
                "affine": [2.0, 0, 0.5, 0, 3, 1],
                "PixelSpacing": [0.5, 0.25] if number else None, "pad_box": [0, 0, *SIZE],
                "pixels_sha256": hash_values(values), "lossy": False, "constant": False,
            }
        )  # fmt: skip
    for kind in set(kinds):
        mine = np.stack([values for name, values in zip(kinds, codes, strict=True) if name == kind])
        array = arrays.create_array(
            folder / "pixels.zarr" / kind, arrays.Layout(kind, len(mine), SIZE)
        )
        arrays.write_rows(array, np.arange(len(mine)), mine)
    manifest = {
        "recipe": {"size": list(SIZE), "where": "Modality = 'CT'"},
        "catalog_snapshot": "0123",
        "files": {"images.parquet": {"sha256": hashlib.sha256(repr(kinds).encode()).hexdigest()}},
    }
    table = pd.DataFrame(rows, columns=IMAGES_SCHEMA.names)
    return ImageSet(folder, manifest, table, pd.DataFrame())


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return make_set(tmp_path_factory.mktemp("sets") / "mixed", MIXED)


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return make_set(tmp_path_factory.mktemp("sets") / "grey", GREY)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "_SHARD_BYTES", 3 * SIZE[0] * SIZE[1] * 2)
    monkeypatch.setattr(forms, "_FOLDER_IMAGES", 2)


def export(image_set: ImageSet, folder: Path, form: str, **options: Any) -> Exported:
    return export_images(image_set, folder, form, **({"terms": TERMS, "workers": 2} | options))


def read_all(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_csv(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def label_all(image_set: ImageSet, *values: str | None) -> pd.DataFrame:
    return pd.DataFrame({"file": image_set.table["file"], "value": values})


# ---- Readers that are not medkit's ---------------------------------------------------------------


def read_sitk(path: Path) -> npt.NDArray[Any]:
    return np.asarray(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path)))


def read_files(folder: Path) -> dict[int, npt.NDArray[Any]]:
    found = {}
    for row in read_csv(folder):
        path = folder / row["file_name"]
        found[int(row["image"])] = read_sitk(path)
        # Pillow has no 48-bit colour and no double.
        if found[int(row["image"])].dtype != np.float64 and "16" not in str(
            found[int(row["image"])].dtype
        ):
            np.testing.assert_array_equal(np.array(Image.open(path)), found[int(row["image"])])
    return found


def read_npz(folder: Path) -> dict[int, npt.NDArray[Any]]:
    found = {}
    for path in folder.glob("*.npz"):
        with np.load(path, allow_pickle=False) as shard:
            found |= dict(zip(shard["image"].tolist(), shard["pixels"], strict=True))
    return found


def read_records(folder: Path) -> dict[int, npt.NDArray[Any]]:
    import tensorflow as tf

    spec = {
        "image": tf.io.FixedLenFeature([], tf.int64),
        "shape": tf.io.FixedLenFeature([3], tf.int64),
        "pixels": tf.io.FixedLenFeature([], tf.string),
    }
    found = {}
    for path in folder.glob("*.tfrecord"):
        dtype = path.name.partition("x")[0]
        for record in tf.data.TFRecordDataset([str(path)]):
            fields = tf.io.parse_single_example(record, spec)
            pixels = tf.reshape(tf.io.decode_raw(fields["pixels"], dtype), fields["shape"])
            values = pixels.numpy()
            found[int(fields["image"])] = values[..., 0] if values.shape[-1] == 1 else values
    return found


def read_tars(folder: Path) -> dict[int, npt.NDArray[Any]]:
    found = {}
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as archive:
            for member in archive:
                key, suffix = member.name.split(".")
                data = io.BytesIO(archive.extractfile(member).read())  # type: ignore[union-attr]
                assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
                if suffix == "npy":
                    found[int(key)] = np.load(data, allow_pickle=False)
                elif suffix == "png":
                    found[int(key)] = np.array(Image.open(data))
                elif suffix == "json":
                    assert json.loads(data.read())["image"] == int(key)
    return found


def read_parquet(folder: Path) -> dict[int, npt.NDArray[Any]]:
    found = {}
    for path in (folder / "data").glob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            found[row["image_id"]] = decode(row["image"]["bytes"], folder.parent)
    return found


def decode(data: bytes, folder: Path) -> npt.NDArray[Any]:
    path = folder / ("x.png" if data.startswith(b"\x89PNG") else "x.tiff")
    path.write_bytes(data)
    return read_sitk(path)


READERS: dict[str, Callable[[Path], dict[int, npt.NDArray[Any]]]] = {
    "png": read_files,
    "tiff": read_files,
    "npz": read_npz,
    "tfrecord": read_records,
    "webdataset": read_tars,
    "huggingface": read_parquet,
}


# ---- Pixels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", READERS)
def test_codes_come_back_bit_for_bit(
    form: str, mixed: ImageSet, tmp_path: Path, small_parts: None
) -> None:
    done = export(mixed, tmp_path / "out", form)
    found = READERS[form](tmp_path / "out")
    assert sorted(found) == list(range(len(MIXED)))
    for number, kind in enumerate(MIXED):
        expected = draw(kind, number)
        assert found[number].dtype == expected.dtype
        np.testing.assert_array_equal(found[number], expected)
    assert (done.images, done.exported, done.left_out, done.built) == (7, 7, {}, True)
    assert done.kinds == {"uint16x1": 5, "uint16x3": 1, "uint8x3": 1}
    assert done.persons == 4
    assert [row["image"] for row in read_csv(tmp_path / "out")] == [str(n) for n in range(7)]
    for row in read_csv(tmp_path / "out"):
        assert (tmp_path / "out" / row["file_name"]).is_file()


@pytest.mark.parametrize("form", ["tiff", "npz", "tfrecord", "webdataset", "huggingface"])
def test_floating_point_keeps_its_bits(form: str, tmp_path: Path) -> None:
    kinds = ("float32x1",) if form in ("huggingface", "tiff") else ("float32x1", "float64x1")
    export(make_set(tmp_path / "sets" / "odd", kinds), tmp_path / "out", form)
    found = READERS[form](tmp_path / "out")
    for number, kind in enumerate(kinds):
        np.testing.assert_array_equal(found[number], draw(kind, number), strict=True)


@pytest.mark.parametrize(
    ("form", "kinds", "window", "words"),
    [
        ("png", ("float32x1",), None, "1 images have values of float32.*--format tiff or npz"),
        ("huggingface", ("float64x1",), None, "--format npz or webdataset"),
        ("png", GREY, "full,full", "1 or 3 channels.*npz"),
        ("npz", MIXED, "full,full", "several windows"),
        ("png", GREY, "wide", "is not a window"),
        ("tiff", (*GREY, "float32x1"), "header", "1 images have neither a window .* image 5"),
        ("gif", GREY, None, "no form of an export is named 'gif'; use png, tiff"),
    ],
)
def test_what_a_form_cannot_hold_is_refused_before_anything_is_written(
    form: str, kinds: tuple[str, ...], window: str | None, words: str, tmp_path: Path
) -> None:
    image_set = make_set(tmp_path / "sets" / "odd", kinds)
    with pytest.raises(UsageError, match=words):
        export(image_set, tmp_path / "out", form, window=window)
    assert [path.name for path in tmp_path.iterdir()] == ["sets"]


def test_records_without_tensorflow_say_what_to_do(
    grey: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"not installed.*npz or webdataset"):
        export(grey, tmp_path / "out", "tfrecord")


@pytest.mark.parametrize("form", READERS)
def test_a_window_is_the_views(form: str, mixed: ImageSet, tmp_path: Path) -> None:
    images = mixed.images().with_view(window="30000/40000")
    export(mixed, tmp_path / "out", form, window="30000/40000")
    found = READERS[form](tmp_path / "out")
    for number, kind in enumerate(MIXED):
        seen = images.with_view(channels=3 if kind.endswith("x3") else 1)[number]
        seen = seen[..., 0] if seen.shape[-1] == 1 else seen
        if form in ("npz", "tfrecord"):
            assert found[number].dtype == np.float32
            np.testing.assert_array_equal(found[number].squeeze(), seen)
        else:
            assert found[number].dtype == np.uint8
            np.testing.assert_array_equal(found[number], np.rint(seen * 255))


def test_three_windows_are_three_colours(grey: ImageSet, tmp_path: Path) -> None:
    export(grey, tmp_path / "out", "png", window="full,0/1000,500/1000")
    assert read_files(tmp_path / "out")[0].shape == (*SIZE, 3)


def test_tiff_says_how_large_a_pixel_is_and_what_it_means(grey: ImageSet, tmp_path: Path) -> None:
    export(grey, tmp_path / "out", "tiff")
    folder = tmp_path / "out" / "images" / "00000"
    with Image.open(folder / "00000001.tiff") as picture:
        told = dict(picture.tag_v2)  # type: ignore[attr-defined]
    expected = {"image": 1, "slope": 1.1, "intercept": -1024.3, "units": "HU"}
    assert json.loads(told[270]) == expected
    # 2 source columns of 0.25 mm a pixel, 3 rows of 0.5 mm: in pixels a centimetre.
    assert (float(told[282]), told[296]) == (20, 3)
    assert float(told[283]) == pytest.approx(10 / 1.5)
    with Image.open(folder / "00000000.tiff") as picture:
        assert picture.tag_v2.get(296) == 1  # type: ignore[attr-defined] # of no unit
    assert [row["spacing"] for row in read_csv(tmp_path / "out")][:2] == ["", "[1.5, 0.5]"]


def test_a_set_is_no_place_for_an_export(tmp_path: Path) -> None:
    image_set = make_set(tmp_path / "sets" / "odd", GREY)
    before = read_all(tmp_path)
    for folder in (image_set.folder / "out", image_set.folder.parent / "out"):
        with pytest.raises(UsageError, match="lies among the sets"):
            export(image_set, folder, "png")
    assert read_all(tmp_path) == before


def test_damage_is_never_exported(tmp_path: Path) -> None:
    image_set = make_set(tmp_path / "sets" / "odd", GREY)
    image_set.table.loc[3, "pixels_sha256"] = "0" * 64
    with pytest.raises(ImageSetError, match="image 3"):
        export(image_set, tmp_path / "out", "npz")
    assert not (tmp_path / "out").exists()


# ---- Labels and folds ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", READERS)
def test_labels_are_data_and_what_has_none_is_counted(
    form: str, grey: ImageSet, tmp_path: Path
) -> None:
    labels = label_all(grey, "b", HOSTILE, None, "b", "..")
    done = export(grey, tmp_path / "out", form, label="finding", labels=labels)
    assert (done.images, done.exported, done.left_out) == (5, 4, {"unlabelled": 1})
    rows = read_csv(tmp_path / "out")
    assert {int(row["image"]): row["label"] for row in rows} == {
        0: "b",
        1: HOSTILE,
        3: "b",
        4: "..",
    }
    told = json.loads((tmp_path / "out" / "dataset.json").read_bytes())
    assert told["classes"] == ["..", HOSTILE, "b"]
    assert sorted(READERS[form](tmp_path / "out")) == [0, 1, 3, 4]
    assert read_numbers(form, tmp_path / "out") in ({0: 2, 1: 1, 3: 2, 4: 0}, None)
    for path in read_all(tmp_path / "out"):
        assert re.fullmatch(r"[A-Za-z0-9_./-]+", path)
    for name in ("README.md", "LICENCES.txt"):
        assert HOSTILE not in (tmp_path / "out" / name).read_text(encoding="utf-8")


def read_numbers(form: str, folder: Path) -> dict[int, int] | None:
    """Return the numbers of the classes, as a form has them."""
    if form == "npz":
        with np.load(folder / "uint16x1-000000.npz") as shard:
            assert shard["classes"].tolist() == ["..", HOSTILE, "b"]
            return dict(zip(shard["image"].tolist(), shard["label"].tolist(), strict=True))
    if form == "webdataset":
        with tarfile.open(folder / "images-000000.tar") as archive:
            return {
                int(member.name[:8]): int(archive.extractfile(member).read())  # type: ignore[union-attr]
                for member in archive
                if member.name.endswith(".cls")
            }
    if form == "huggingface":
        table = pq.read_table(folder / "data/train-00000-of-00001.parquet")
        told = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        assert told["label"] == {"names": ["..", HOSTILE, "b"], "_type": "ClassLabel"}
        assert told["image"] == {"_type": "Image"}
        assert sorted(told) == sorted(table.column_names)
        return dict(zip(table["image_id"].to_pylist(), table["label"].to_pylist(), strict=True))
    if form == "tfrecord":
        import tensorflow as tf

        records = tf.data.TFRecordDataset([str(folder / "uint16x1-000000.tfrecord")])
        spec = {name: tf.io.FixedLenFeature([], tf.int64) for name in ("image", "label")}
        parsed = [tf.io.parse_single_example(record, spec) for record in records]
        return {int(fields["image"]): int(fields["label"]) for fields in parsed}
    return None


def test_labels_that_are_wrong_are_refused(grey: ImageSet, tmp_path: Path) -> None:
    nothing = label_all(grey, *[None] * 5)
    with pytest.raises(UsageError, match="none of the 5 images"):
        export(grey, tmp_path / "out", "png", label="finding", labels=nothing)
    with pytest.raises(UsageError, match="goes with its values"):
        export(grey, tmp_path / "out", "png", label="finding")
    twice = pd.concat([label_all(grey, *"aabba"), label_all(grey, *"aabba")])
    with pytest.raises(UsageError, match="5 files have two labels"):
        export(grey, tmp_path / "out", "png", label="finding", labels=twice)


def test_folds_bring_their_label(grey: ImageSet, tmp_path: Path) -> None:
    table = grey.table[["image", "split_group"]].assign(label=list("abab-"), fold=[0, 0, 1, 1, 0])
    folds = Folds(table.iloc[:4], "grey", grey.id, "finding", 2, 0)
    done = export(grey, tmp_path / "out", "npz", folds=folds)
    assert done.left_out == {"in no fold": 1}
    with np.load(tmp_path / "out" / "uint16x1-000000.npz") as shard:
        assert shard["fold"].tolist() == [0, 0, 1, 1]
        assert shard["label"].tolist() == [0, 1, 0, 1]
        assert shard["split_group"].tolist() == grey.table["split_group"].tolist()[:4]
    other = Folds(table, "grey", "0" * 16, "finding", 2, 0)
    with pytest.raises(UsageError, match="are of the set 'grey' as it was"):
        export(grey, tmp_path / "other", "npz", folds=other)
    with pytest.raises(UsageError, match="of the label 'finding', not 'size'"):
        export(grey, tmp_path / "other", "npz", folds=folds, label="size")


# ---- What goes out beside the pixels -------------------------------------------------------------


def test_every_column_of_a_set_was_thought_about(mixed: ImageSet, tmp_path: Path) -> None:
    # A new column goes out unless it is listed: whoever adds one decides here.
    going = {"image", "source", "frame", "tile", "plane", "plane_index", "person", "volume",
             "Modality", "Manufacturer", "ManufacturerModelName", "SOPClassUID",
             "TransferSyntaxUID", "PhotometricInterpretation", "Rows", "Columns", "BitsStored",
             "PixelSpacing", "PatientAge", "PatientSex", "BurnedInAnnotation", "split_group",
             "slope", "intercept", "units", "full_low", "full_high", "WindowCenter",
             "WindowWidth", "VOILUTFunction", "fill_value", "polarity", "source_sha256",
             "pixels_sha256", "affine", "pad_box", "padding_share", "lossy",
             "constant"}  # fmt: skip
    assert set(IMAGES_SCHEMA.names) - {*IDENTIFIERS, *PLACES} - going == set()
    export(mixed, tmp_path / "out", "png")
    table = pq.read_table(tmp_path / "out" / "images.parquet")
    assert set(table.column_names) == going & set(IMAGES_SCHEMA.names) | {"file_name", "spacing"}
    assert table["PatientAge"].to_pylist()[:2] == ["090Y", "034Y"]
    assert [row["image"] for row in table.to_pylist()] == list(range(7))


@pytest.mark.parametrize(
    ("age", "told"),
    [("090Y", "090Y"), ("102Y", "090Y"), ("089Y", "089Y"), ("006M", "006M"), (None, None),
     ("95", None), ("95 years, Jane Doe", None), ("", None)],
)  # fmt: skip
def test_ages_are_ages(age: str | None, told: str | None, tmp_path: Path) -> None:
    image_set = make_set(tmp_path / "sets" / "odd", GREY)
    image_set.table.loc[0, "PatientAge"] = age
    export(image_set, tmp_path / "out", "npz")
    assert pq.read_table(tmp_path / "out" / "images.parquet")["PatientAge"][0].as_py() == told


def test_text_that_is_burned_in_is_told(tmp_path: Path) -> None:
    image_set = make_set(tmp_path / "sets" / "odd", GREY)
    image_set.table.loc[1:2, "BurnedInAnnotation"] = "YES"
    assert export(image_set, tmp_path / "out", "npz").burned_in == 2
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "**2 images say in their header" in page


@pytest.mark.parametrize("form", ["png", "npz", "webdataset", "huggingface"])
def test_no_person_and_no_disk_is_named_unless_asked(
    form: str, mixed: ImageSet, tmp_path: Path
) -> None:
    export(mixed, tmp_path / "out", form)
    content = b"".join(read_all(tmp_path / "out").values())
    assert not any(secret.encode() in content for secret in SECRETS.values())
    assert str(mixed.folder.parent).encode() not in content
    export(mixed, tmp_path / "kept", form, keep_identifiers=True)
    table = pq.read_table(tmp_path / "kept" / "images.parquet")
    assert {name: table[name][0].as_py() for name in IDENTIFIERS} == {
        name: SECRETS[name] for name in IDENTIFIERS
    }
    assert table["PatientAge"][0].as_py() == "095Y"
    assert not set(PLACES) & set(table.column_names)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        (None, True),
        ("Modality = 'CT' AND \"Rows\" > 5", True),
        ("Modality = 'PatientID'", True),
        ("Modality = 'CT' OR PatientID = 'X'", False),
        ("path LIKE '%Jane^Doe%'", False),
        ("Modality = 'it''s' or studydate = '2020'", False),
        ("Modality = 'CT' -- Jane Doe", False),
        ("Modality = 'CT' -- 4711", False),
        ("Modality = 'CT' /* 4711 */", False),
    ],
)
def test_a_condition_that_names_a_person_stays_here(where: str | None, told: bool) -> None:
    recipe = describe_recipe({"where": where}, ["Modality", "Rows"])
    assert (recipe["where"] == where) == told
    assert told or recipe["where"].startswith("left out")


def test_licences_are_what_fetch_noted(mixed: ImageSet, tmp_path: Path) -> None:
    noted = {"licence": "CC-BY-NC-4.0", "title": "A\x1b[31m set", "citation": "Someone\n2020"}
    home = Workspace(tmp_path / "home")
    write_json(home.source("clinic") / "provenance.json", noted)
    terms = read_terms(home, ["clinic", "by hand", "../x"])
    assert terms["by hand"].licence == terms["../x"].licence == UNKNOWN
    assert "nobody stated" in terms["by hand"].notice
    assert "conditions" in terms["clinic"].notice
    assert TERMS["clinic"].notice == ""
    done = export(mixed, tmp_path / "out", "huggingface", terms=terms)
    (source,) = done.sources
    assert (source["images"], source["licence"]) == (7, "CC-BY-NC-4.0")
    text = (tmp_path / "out" / "LICENCES.txt").read_text(encoding="utf-8")
    assert "clinic: 7 images" in text
    assert "    citation: Someone 2020\n" in text
    assert r"title: A\x1b[31m set" in text
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: cc-by-nc-4.0\n")
    assert "conditions" in card
    assert name_licence([TERMS["clinic"], terms["clinic"]]) == "other"


def test_sums_and_counts_fit(mixed: ImageSet, tmp_path: Path) -> None:
    done = export(mixed, tmp_path / "out", "png")
    content = read_all(tmp_path / "out")
    lines = content["SHA256SUMS"].decode().splitlines()
    sums = {line[66:]: line[:64] for line in lines}
    assert set(sums) == set(content) - {"SHA256SUMS", "dataset.json"}
    assert all(hashlib.sha256(content[name]).hexdigest() == value for name, value in sums.items())
    told = json.loads(content.pop("dataset.json"))
    assert (done.files, done.bytes) == (len(content), sum(map(len, content.values())))
    assert {**asdict(done), "built": None} == {name: told.get(name) for name in asdict(done)}
    assert told["set"] == {"name": "mixed", "id": mixed.id}


def test_a_folder_that_was_fetched_is_not_told_by_its_place(tmp_path: Path) -> None:
    home = Workspace(tmp_path / "home")
    (tmp_path / "Jane Doe").mkdir()
    fetch(plan_target(str(tmp_path / "Jane Doe"), name="mine", licence="CC0-1.0"), home)
    terms = read_terms(home, ["mine"])["mine"]
    assert (terms.licence, terms.title, terms.version) == ("CC0-1.0", "", "not stated")
    assert name_licence([terms]) == "cc0-1.0"


# ---- Whole or not at all -------------------------------------------------------------------------


class Killed(BaseException):
    pass


def stop_at(moment: int) -> Callable[[int, int | None, str], None]:
    def report(done: int, total: int | None, unit: str) -> None:
        if done == moment:
            raise Killed

    return report


@pytest.mark.parametrize("form", READERS)
def test_killed_anywhere_the_same_bytes_come(
    form: str, grey: ImageSet, tmp_path: Path, small_parts: None
) -> None:
    whole = export(grey, tmp_path / "whole", form, workers=0)
    for moment in range(len(GREY) + 1):
        with pytest.raises(Killed):
            export(grey, tmp_path / "out", form, progress=stop_at(moment))
        assert not (tmp_path / "out").exists()
    assert export(grey, tmp_path / "out", form) == whole
    assert read_all(tmp_path / "out") == read_all(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["out", "whole"]


def test_killed_before_any_file_takes_its_place_the_same_bytes_come(
    grey: ImageSet, tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = workspace.move_into_place
    export(grey, tmp_path / "whole", "png")
    for moves in itertools.count():
        left = iter(range(moves))

        def stop(beside: Path, path: Path, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise Killed
            move(beside, path)

        monkeypatch.setattr(workspace, "move_into_place", stop)
        try:
            export(grey, tmp_path / "out", "png")
            break
        except Killed:
            assert not (tmp_path / "out").exists()
    assert moves > 0
    assert read_all(tmp_path / "out") == read_all(tmp_path / "whole")


def test_a_part_that_is_there_is_not_written_again(
    grey: ImageSet, tmp_path: Path, small_parts: None
) -> None:
    with pytest.raises(Killed):
        export(grey, tmp_path / "out", "png", progress=stop_at(4))
    first = tmp_path / ".out.part/content/images/00000/00000000.png"
    before = first.stat()
    export(grey, tmp_path / "out", "png")
    after = (tmp_path / "out/images/00000/00000000.png").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_work_for_another_order_is_not_gone_on_with(grey: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        export(grey, tmp_path / "out", "png", progress=stop_at(len(GREY)))
    export(grey, tmp_path / "out", "png", window="full")
    assert read_files(tmp_path / "out")[0].dtype == np.uint8


def test_what_is_there_already_is_said_and_nothing_is_lost(grey: ImageSet, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()  # an empty folder is as good as none
    first = export(grey, folder, "png")
    content = read_all(folder)
    again = export(grey, folder, "png")
    assert (first.built, again.built) == (True, False)
    assert asdict(again) | {"built": True} == asdict(first)
    with pytest.raises(UsageError, match=r"differs in form.*--replace"):
        export(grey, folder, "npz")
    assert read_all(folder) == content
    for mine in (folder / "mine.txt", folder / "images" / "00000" / "mine.txt"):
        mine.write_text("mine")
        with pytest.raises(UsageError, match=r"mine.txt'.*would be lost"):
            export(grey, folder, "npz", replace=True)
        mine.unlink()
    (folder / "images" / "00000" / "00000003.png").unlink()
    with pytest.raises(UsageError, match=r"lacks 1 files.*00000003.png'.*--replace"):
        export(grey, folder, "png")
    assert export(grey, folder, "npz", replace=True).built
    assert not (folder / "images").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_of_something_else_is_left_alone(
    replace: bool, grey: ImageSet, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dataset.json").write_text('{"format": 7}')
    with pytest.raises(UsageError, match="did not export"):
        export(grey, tmp_path / "out", "png", replace=replace)
    assert len(read_all(tmp_path / "out")) == 1


# ---- The command and the documents ---------------------------------------------------------------


def test_the_verb_prints_what_became_of_the_images(tmp_path: Path) -> None:
    from medkit.catalog.scan import Root, scan
    from medkit.catalog.store import Catalog
    from medkit.images.normalisation import Recipe, normalise
    from medkit.testing import write_cohort

    home = Workspace(tmp_path / "home")
    tree = write_cohort(tmp_path / "tree", persons=2, per_person=2, size=8)
    scan(home.catalog, [Root("clinic", tree)], workers=0)
    normalise(Catalog.open(home.catalog), home.set("small"), Recipe(size=(8, 8)), workers=0)
    command = ["images", "small", "-w", str(home.root), "-o", str(tmp_path / "out")]
    shown = CliRunner().invoke(verb.app, [*command, "--format", "png"], catch_exceptions=False)
    assert "exported as uint16x1" in shown.stdout
    assert "unknown: not fetched by medkit" in shown.stdout
    assert "Split by split_group" in shown.stdout
    again = CliRunner().invoke(verb.app, [*command, "--format", "png", "--json"])
    told = json.loads(again.stdout)
    assert (told["exported"], told["built"], told["persons"]) == (4, False, 2)
    image_set = ImageSet.open(home.set("small"))
    found = read_files(tmp_path / "out")
    for number in range(4):
        np.testing.assert_array_equal(found[number], image_set.images().codes(number))


SKIPS = {"webdataset": "webdataset", "huggingface": "datasets"}


# WebDataset leaves a shard open that is not read to its end.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize(("form", "window"), list(itertools.product(READERS, [None, "full"])))
def test_the_readme_tells_how_to_read_it(
    form: str, window: str | None, grey: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form in SKIPS:
        pytest.importorskip(SKIPS[form])
    export(grey, tmp_path / "out", form, window=window)
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    code = textwrap.dedent(page.split("## How to read it\n\n")[1])
    monkeypatch.chdir(tmp_path / "out")
    names: dict[str, Any] = {}
    exec(code, names)
    pixels = np.asarray(names["pixels"]).squeeze()
    assert pixels.shape[:2] == SIZE
    if window is None:
        np.testing.assert_array_equal(pixels, draw("uint16x1", 0))
        expected = draw("uint16x1", 0) * 0.1 - 1024.3
        np.testing.assert_array_equal(np.asarray(names["values"]).squeeze(), expected)


@pytest.mark.parametrize("form", SNIPPETS)
def test_the_document_has_the_same_snippets(form: str) -> None:
    read, value = SNIPPETS[form]
    first = {"npz": "uint16x1-000000.npz", "tfrecord": "uint16x1-000000.tfrecord",
             "webdataset": "images-000000.tar"}.get(form, "")  # fmt: skip
    snippet = read.format(first=first, dtype="uint16") + value
    assert snippet in DOCUMENT.read_text(encoding="utf-8")


def test_the_verb_imports_nothing_heavy() -> None:
    script = (
        "import sys, medkit.cli.export; "
        "assert not {'numpy', 'pandas', 'pyarrow', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
