"""What is in a catalog, on one screen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medkit.catalog.scan import Root, scan
from medkit.catalog.store import Catalog
from medkit.catalog.summary import describe, summarise
from medkit.testing import write_cohort, write_dicom


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("summary")
    tree = folder / "images"
    write_cohort(tree, persons=4, size=8)
    frames = np.zeros((2, 4, 5), np.uint8)
    write_dicom(
        tree / "multi.dcm", frames, PatientID="multi", Modality="US", Manufacturer="Maker, Inc.",
        StudyDate="19991231", LossyImageCompression="01",
    )  # fmt: skip
    write_dicom(tree / "nothing.dcm", frames[0], PatientID="P000", Modality=None, StudyDate="")
    (tree / "copy.dcm").write_bytes((tree / "multi.dcm").read_bytes())
    (tree / "gone.dcm").write_bytes((tree / "nothing.dcm").read_bytes())
    Image.new("L", (7, 6)).save(tree / "picture.png")
    (tree / "notes.txt").write_text("no image")
    (tree / "cut.dcm").write_bytes((tree / "multi.dcm").read_bytes()[:-8])
    scan(folder / "catalog", [Root("here", tree)], workers=0)
    (tree / "gone.dcm").unlink()
    scan(folder / "catalog", [Root("here", tree)], workers=0)
    return Catalog.open(folder / "catalog")


def test_every_count_adds_up(catalog: Catalog) -> None:
    summary = summarise(catalog)
    images = int(catalog.query("SELECT count(*) AS n FROM images")["n"][0])
    assert summary.images == images
    for name, rows in summary.shares.items():
        assert sum(row["images"] for row in rows) == images, name
    assert sum(row["images"] for row in summary.modalities) == images
    assert sum(row["files"] for row in summary.kinds) == len(catalog.table("files"))
    assert sum(row["instances"] for row in summary.instances) == len(catalog.table("instances"))
    assert sum(row["rows"] for row in summary.problems) == len(catalog.table("problems"))


def test_what_is_there_is_told(catalog: Catalog) -> None:
    summary = summarise(catalog)
    modalities = {row["value"]: row for row in summary.modalities}
    assert modalities["CT"] == {"value": "CT", "images": 6, "series": 2, "persons": 2}
    assert modalities[None]["images"] == 2  # the picture, and the image that says nothing
    shares = {
        name: {row["value"]: row["images"] for row in rows} for name, rows in summary.shares.items()
    }
    assert shares["sizes"]["8 x 8"] == 12
    assert shares["sizes"]["6 x 7"] == 1
    assert shares["transfer_syntaxes"]["Explicit VR Little Endian"] == summary.images - 1
    assert shares["transfer_syntaxes"]["png"] == 1
    assert shares["lossy"] == {"no": 14, "yes": 4}
    assert shares["manufacturers"]["Maker, Inc."] == 4
    assert (summary.first_date, summary.undated) == ("19991231", 2)
    assert {row["value"]: row["files"] for row in summary.kinds}["vanished"] == 1
    assert {row["value"]: row["instances"] for row in summary.instances}["alias"] == 1
    assert {row["value"] for row in summary.problems} >= {"pixel-cut"}
    assert json.loads(json.dumps(summary.to_json()))["images"] == summary.images


def test_a_person_reads_it_on_one_screen(catalog: Catalog) -> None:
    words = describe(summarise(catalog))
    assert len(words) <= 16
    assert words["lossy"] == "no (14); yes (4)"
    assert words["study dates"].startswith("1999-12-31 to 2")
    assert words["study dates"].endswith("; not given (2)")
    assert describe(summarise(catalog, anonymised=True))["study dates"].startswith("1999 to 2")


def test_a_catalog_without_images_has_a_summary(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "notes.txt").write_text("no image")
    scan(tmp_path / "catalog", [Root("here", tmp_path / "tree")], workers=0)
    summary = summarise(Catalog.open(tmp_path / "catalog"))
    assert (summary.images, summary.undated, summary.modalities) == (0, 0, [])
    assert summary.shares["sizes"] == []
    assert describe(summary)["rows x columns"] == "none"


def test_rare_values_are_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medkit.catalog import summary as module

    for size in range(1, 6):
        for number in range(size):
            pixels = np.full((size, 1), number, np.uint8)
            write_dicom(tmp_path / "tree" / f"{size}-{number}.dcm", pixels, PatientID="P")
    scan(tmp_path / "catalog", [Root("here", tmp_path / "tree")], workers=0)
    few = module._IMAGES.replace(f"<= {module._KEPT}", "<= 2")
    monkeypatch.setattr(module, "_IMAGES", few)
    sizes = summarise(Catalog.open(tmp_path / "catalog")).shares["sizes"]
    assert [(row["value"], row["images"]) for row in sizes] == [
        ("5 x 1", 5), ("4 x 1", 4), ("(others)", 6),
    ]  # fmt: skip
