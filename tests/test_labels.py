"""Labels: which images a table or a rule means, and what it must not do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medkit.catalog.database import Database
from medkit.catalog.journal import read_journal
from medkit.catalog.labels import ImageRule, Labelled, TableRule, choose_rule, label_images
from medkit.catalog.paths import find_paths
from medkit.catalog.scan import Root, scan
from medkit.catalog.store import Catalog
from medkit.errors import CatalogError, UsageError
from medkit.testing import make_uid, write_cohort, write_dicom

PIXELS = np.zeros((3, 4), np.uint16)
NO_RULE: dict[str, Any] = {
    "csv": None, "column": None, "on": None, "folder": False, "tag": None, "regex": None,
    "source": None,
}  # fmt: skip


class Clinic:
    """Three persons of three images each, and pictures in two folders."""

    def __init__(self, folder: Path, workplace: Path) -> None:
        self.folder = folder
        self.catalog = workplace / "catalog"
        self.table = workplace / "labels.csv"
        self.images = folder / "images"

    def draw(self) -> Clinic:
        folder = self.folder
        write_cohort(self.images, persons=3, size=8)
        image = pytest.importorskip("PIL.Image")
        for kind in ("well", "ill"):
            (folder / "eyes" / kind).mkdir(parents=True)
            for number in range(2):
                picture = image.new("L", (4, 4), number)
                picture.save(folder / "eyes" / kind / f"{kind}{number}_left.png")
        self.scan()
        return self

    def scan(self) -> list[str]:
        roots = [Root("clinic", self.images), Root("eyes", self.folder / "eyes")]
        return scan(self.catalog, roots, workers=0).warnings

    def label(self, text: str, name: str = "diagnosis", **options: Any) -> Labelled:
        self.table.write_text(text, encoding="utf-8")
        replace = options.pop("replace", False)
        rule = TableRule(self.table, **options)
        return label_images(self.catalog, name, rule, replace=replace)

    def values(self, name: str = "diagnosis") -> dict[str, str]:
        opened = Catalog.open(self.catalog)
        joined = opened.labels(name).merge(opened.table("files"), on="file")
        return dict(sorted(zip(joined["path"], joined["value"], strict=True)))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    folder = tmp_path_factory.mktemp("clinic")
    return Clinic(folder, folder).draw()


@pytest.fixture
def clinic(drawn: Clinic, tmp_path: Path) -> Clinic:
    """Images that no test may change, and a catalog of its own."""
    shutil.copytree(drawn.catalog, tmp_path / "catalog")
    return Clinic(drawn.folder, tmp_path)


@pytest.fixture
def own_clinic(tmp_path: Path) -> Clinic:
    """Images that a test may change."""
    return Clinic(tmp_path, tmp_path).draw()


def test_a_table_joins_on_patient_id(clinic: Clinic) -> None:
    done = clinic.label("patient_id,diagnosis\nP000,well\nP001,ill\nP000,well\nP002,\n")
    assert done.values == {"ill": 3, "well": 3}
    assert (done.unlabelled, done.blank, done.persons) == (3 + 4, 1, 0)
    assert clinic.values()["P001/2.dcm"] == "ill"
    assert "P002/0.dcm" not in clinic.values()


@pytest.mark.parametrize(
    ("key", "column"),
    [("study", "StudyInstanceUID"), ("series", "SeriesInstanceUID")],
)
def test_a_table_joins_on_any_uid(clinic: Clinic, key: str, column: str) -> None:
    uid = make_uid(f"{key} 0 P001")
    assert clinic.label(f"{column};label\n{uid};ill\n").values == {"ill": 3}
    assert set(clinic.values().values()) == {"ill"}


def test_a_study_date_narrows_a_patient(tmp_path: Path) -> None:
    for date in ("20200101", "20210202"):
        write_dicom(tmp_path / "t" / date, PIXELS, PatientID="7", StudyDate=date)
    scan(tmp_path / "catalog", [Root("s", tmp_path / "t")], workers=0)
    table = tmp_path / "labels.csv"
    table.write_text("PatientID,StudyDate,label\n7,2020-01-01,well\n7,20210202,ill\n")
    done = label_images(tmp_path / "catalog", "diagnosis", TableRule(table))
    assert done.values == {"ill": 1, "well": 1}


@pytest.mark.parametrize(
    "path",
    ["ill/ill0_left.png", "ill0_left.png", "eyes/ill/ill0_left.png", r"D:\eyes\ill\ill0_left.png"],
)
def test_a_table_joins_on_paths_of_any_kind(clinic: Clinic, path: str) -> None:
    clinic.label(f"file_name\tlabel\n{path}\till\n")
    assert clinic.values() == {"ill/ill0_left.png": "ill"}


def test_a_path_that_means_several_files_is_refused(clinic: Clinic) -> None:
    with pytest.raises(CatalogError, match=r"match several files each: 0\.dcm"):
        clinic.label("path,label\n0.dcm,ill\n")


def test_a_table_tells_the_person_of_pictures(clinic: Clinic) -> None:
    assert any("have no person" in warning for warning in clinic.scan())
    rows = "".join(f"{kind}{n}_left.png,E{n},{kind}\n" for kind in ("well", "ill") for n in (0, 1))
    done = clinic.label("path,patient_id,label\n" + rows)
    assert done.persons == 4
    assert done.warnings == []
    pictures = Catalog.open(clinic.catalog).select("format = 'png'")
    assert pictures.groupby("PatientID")["person"].nunique().tolist() == [1, 1]
    assert pictures["person"].nunique() == 2
    clinic.scan()
    assert Catalog.open(clinic.catalog).select("format = 'png'").equals(pictures)


def test_rows_that_match_nothing_are_listed_and_nothing_is_written(clinic: Clinic) -> None:
    before = Catalog.open(clinic.catalog).snapshot
    rows = "".join(f"X{number:02d},ill\n" for number in range(12))
    with pytest.raises(CatalogError, match=r"12 rows match no image .*X00, .*X09, and 2 more"):
        clinic.label("PatientID,label\nP000,ill\n" + rows)
    assert Catalog.open(clinic.catalog).snapshot == before
    assert all(record["type"] == "root" for record in read_journal(clinic.catalog))


@pytest.mark.parametrize(
    "text",
    [
        "PatientID,label\nP000,well\nP000,ill\n",
        "path,label\nP000/0.dcm,well\nP000/0.dcm,ill\n",
    ],
)
def test_two_labels_of_one_image_are_refused(clinic: Clinic, text: str) -> None:
    with pytest.raises(CatalogError, match=r"two labels: P000/0.dcm \(ill and well\)"):
        clinic.label(text)


def test_two_persons_of_one_picture_are_refused(clinic: Clinic) -> None:
    with pytest.raises(CatalogError, match="two patient ids"):
        clinic.label("path,patient,patient_id,label\nill0_left.png,a,b,x\nill0_left.png,a,c,x\n")


def test_labels_add_up_until_they_contradict(clinic: Clinic) -> None:
    clinic.label("PatientID,label\nP000,well\n")
    clinic.label("PatientID,label\nP001,ill\n")
    assert len(clinic.values()) == 6
    with pytest.raises(CatalogError, match="--replace"):
        clinic.label("PatientID,label\nP000,ill\n")
    assert clinic.label("PatientID,label\nP000,ill\n", replace=True).values == {"ill": 3}
    assert len(clinic.values()) == 3


def test_forgotten_labels_stay_forgotten(own_clinic: Clinic) -> None:
    own_clinic.label("PatientID,label\nP000,well\n")
    own_clinic.label("PatientID,label\nP001,ill\n", replace=True)
    own_clinic.label("PatientID,label\nP002,ill\n")
    write_dicom(own_clinic.images / "new.dcm", PIXELS, PatientID="P000")
    own_clinic.scan()
    assert {path[:4] for path in own_clinic.values()} == {"P001", "P002"}


def test_labels_survive_a_scan_and_reach_new_files(own_clinic: Clinic) -> None:
    own_clinic.label("PatientID,label\nP000,well\nP001,ill\n")
    write_dicom(own_clinic.images / "new.dcm", PIXELS, PatientID="P001")
    (own_clinic.images / "P000" / "0.dcm").unlink()
    own_clinic.scan()
    assert own_clinic.values()["new.dcm"] == "ill"
    images = Catalog.open(own_clinic.catalog).select("path LIKE 'P000/%'")
    assert len(images) == 2


def test_a_contradiction_found_by_a_scan_labels_nothing(own_clinic: Clinic) -> None:
    own_clinic.label("PatientID,label\nP000,well\n")
    own_clinic.label(f"StudyInstanceUID,label\n{make_uid('study 0 P001')},ill\n")
    write_dicom(
        own_clinic.images / "both.dcm",
        PIXELS,
        PatientID="P000",
        StudyInstanceUID=make_uid("study 0 P001"),
    )
    warnings = own_clinic.scan()
    assert any("two labels" in warning for warning in warnings)
    assert "both.dcm" not in own_clinic.values()
    problems = Catalog.open(own_clinic.catalog).table("problems")
    assert problems["code"].tolist() == ["label-conflict"] * 2


def test_a_label_of_a_copy_is_one_of_its_original(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "t" / "a.dcm", PIXELS)
    (tmp_path / "t" / "b.dcm").write_bytes(path.read_bytes())
    scan(tmp_path / "catalog", [Root("s", tmp_path / "t")], workers=0)
    table = tmp_path / "labels.csv"
    table.write_text("path,label\nb.dcm,ill\n")
    done = label_images(tmp_path / "catalog", "diagnosis", TableRule(table))
    assert (done.values, done.unlabelled) == ({"ill": 1}, 0)
    table.write_text("path,label\na.dcm,well\n")
    with pytest.raises(CatalogError, match="two labels"):
        label_images(tmp_path / "catalog", "diagnosis", TableRule(table))


def test_an_id_of_two_sources_needs_the_source(clinic: Clinic, tmp_path: Path) -> None:
    other = write_cohort(tmp_path / "other", persons=1, size=8, seed=9)
    scan(clinic.catalog, [Root("other", other)], workers=0)
    with pytest.raises(CatalogError, match="several sources"):
        clinic.label("PatientID,label\nP000,ill\n")
    done = clinic.label("PatientID,source,label\nP000,other,ill\nP000,clinic,well\n")
    assert done.values == {"ill": 3, "well": 3}


def test_rules_of_images(clinic: Clinic) -> None:
    def label(name: str, *rule: Any) -> dict[str, int]:
        return label_images(clinic.catalog, name, ImageRule(*rule)).values

    assert label("folder", "folder", None, "eyes") == {"ill": 2, "well": 2}
    assert label("modality", "tag", "Modality") == {"CT": 6, "MR": 3}
    assert label("kind", "tag", "ImageType") == {r"ORIGINAL\PRIMARY\AXIAL": 9}
    assert label("number", "regex", r"(\d)_left\.png$") == {"0": 2, "1": 2}
    assert label("side", "regex", "left") == {"left": 4}
    assert Catalog.open(clinic.catalog).label_names() == [
        "folder", "kind", "modality", "number", "side"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        (ImageRule("tag", "PatientShoeSize"), UsageError),
        (ImageRule("regex", "("), UsageError),
        (ImageRule("folder", None, "nowhere"), UsageError),
        (ImageRule("regex", "matches nothing at all"), CatalogError),
        (ImageRule("tag", "EchoTime"), CatalogError),
    ],
)
def test_rules_that_lead_nowhere(clinic: Clinic, rule: ImageRule, error: type[Exception]) -> None:
    with pytest.raises(error):
        label_images(clinic.catalog, "x", rule)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("PatientID,value\nP000,a\n", {}),
        ("PatientID,label\nP000,a\n", {"column": "diagnosis"}),
        ("who,label\nP000,a\n", {}),
        ("who,label\nP000,a\n", {"on": "who"}),
        ("who,label\nP000,a\n", {"on": "nobody=PatientID"}),
        ("who,label\nP000,a\n", {"on": "who=Shoe"}),
        ("", {}),
    ],
)
def test_columns_that_are_not_there(clinic: Clinic, text: str, options: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        clinic.label(text, **options)


def test_columns_may_be_named(clinic: Clinic) -> None:
    done = clinic.label("who,what\nP002,a\n", column="what", on="who=PatientID")
    assert done.values == {"a": 3}


def test_a_table_may_be_parquet(clinic: Clinic) -> None:
    path = clinic.table.with_suffix(".parquet")
    pd.DataFrame({"PatientID": ["P000", "P001"], "label": [0, 1]}).to_parquet(path)
    assert label_images(clinic.catalog, "x", TableRule(path)).values == {"0": 3, "1": 3}


@pytest.mark.parametrize(
    "text",
    [
        "PatientID;label;\r\nP000;ill;\r\nP001;well;\r\n",
        "PatientID;label\r\nP000;ill;;\r\nP001;well;;\r\n",
        "sep=;\r\nPatientID;label\r\nP000;ill\r\n\r\nP001;well\r\n",
        '\ufeff"PatientID","label"\n"P000","ill"\n"P001","well"\nP002\n,\n',
    ],
)
def test_what_spreadsheets_write_is_read_as_it_is_meant(clinic: Clinic, text: str) -> None:
    assert clinic.label(text, replace=True).values == {"ill": 3, "well": 3}


def test_a_table_may_be_utf_16(clinic: Clinic) -> None:
    clinic.table.write_bytes("PatientID\tlabel\nP000\tgrün\n".encode("utf-16"))
    done = label_images(clinic.catalog, "utf16", TableRule(clinic.table))
    assert done.values == {"grün": 3}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PatientID,label\nP000,ill,x\n", "line 2 has 3 cells, and the header 2"),
        (b"PatientID,label\nP000,gr\xfcn\n", "CSV UTF-8"),
        (b"PK\3\4 and so on", "CSV UTF-8"),
        (b"", "no names of columns"),
        (b'PatientID,label\nP000,"ill\nP001,well\n', "unexpected end"),
        (b"PatientID,label,Label\nP000,a,b\n", "several columns"),
        (b"PatientID,patient_id,label\nP000,P001,b\n", "several columns"),
        (b"PatientID,label\nP000,\n", "no row"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(
    clinic: Clinic, content: bytes, words: str
) -> None:
    clinic.table.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        label_images(clinic.catalog, "odd", TableRule(clinic.table))


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("P0O1", r"P0O1 \(perhaps P001\)"),
        ("p001.0", r"p001.0 \(perhaps P001\)"),
        ("", r"\(blank\)"),
        ("other", "it has, for example, P000"),
    ],
)
def test_a_key_that_matches_nothing_is_shown_beside_one_that_would(
    clinic: Clinic, cell: str, words: str
) -> None:
    with pytest.raises(CatalogError, match=words):
        clinic.label(f"PatientID,label\n{cell},a\n")


def test_text_is_text(clinic: Clinic) -> None:
    done = clinic.label("\ufeffPatientID,label\n P000 ,NA\nP001,=1+1\nP002,Ödem\n")
    assert done.values == {"=1+1": 3, "NA": 3, "Ödem": 3}


@pytest.mark.parametrize("name", ["../x", "", "con"])
def test_a_label_has_a_safe_name(clinic: Clinic, name: str) -> None:
    with pytest.raises(UsageError):
        clinic.label("PatientID,label\nP000,a\n", name=name)


@pytest.mark.parametrize("given", [{}, {"folder": True, "tag": "Modality"}])
def test_one_rule_must_be_chosen(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="give one of"):
        choose_rule(**NO_RULE | given)


@pytest.mark.parametrize(
    "given",
    [
        {"folder": True, "column": "x"},
        {"tag": "Rows", "on": "x"},
        {"csv": Path("x"), "source": "s"},
    ],
)
def test_an_option_that_would_be_passed_over_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--csv"):
        choose_rule(**NO_RULE | given)


def find(places: set[tuple[str, str]], paths: list[tuple[str, str | None]]) -> list[Any]:
    """How many files each path may mean, and which one that is."""
    columns = zip(*sorted(places), strict=True) if places else ([], [])
    with Database.open({}) as database:
        arrays = [pa.array(column, pa.string()) for column in columns]
        database.register("labellable", pa.table(arrays, names=["source", "path"]))
        found = find_paths(database, *map(list, zip(*paths, strict=True)))
    return [(row["files"], (row["source"], row["path"])) for row in found.to_pylist()]


tree = st.sets(
    st.tuples(st.sampled_from("st"), st.text("ab/", min_size=1, max_size=6)).filter(
        lambda place: bool(place[1].strip("/"))
    ),
    max_size=8,
)


@settings(max_examples=50)
@given(tree, st.lists(st.tuples(st.text("ab/\\", max_size=8), st.sampled_from([None, "s", "t"])),
                      min_size=1, max_size=6))  # fmt: skip
def test_a_path_means_what_ends_alike(
    places: set[tuple[str, str]], paths: list[tuple[str, str | None]]
) -> None:
    for (wanted, source), found in zip(paths, find(places, paths), strict=True):
        expected = mean(places, wanted.replace("\\", "/"), source)
        assert found[0] == len(expected)
        assert not expected or found[1] == expected[0]


def mean(places: set[tuple[str, str]], wanted: str, source: str | None) -> list[tuple[str, str]]:
    """The files that a path may mean, looking at one after the other."""
    own = sorted(place for place in places if source in (None, place[0]))
    parts = [part for part in wanted.split("/") if part]

    def splits(place: tuple[str, str]) -> list[str]:
        return [part for part in place[1].split("/") if part]

    named = [place for place in own if parts and splits(place)[-1] == parts[-1]]
    steps = (
        [place for place in named if splits(place) == parts],
        [
            place
            for place in named
            if (shorter := min(len(parts), len(splits(place))))
            and splits(place)[-shorter:] == parts[-shorter:]
        ],
        named,
    )
    if len(named) < 2 or len(parts) == 1:
        steps = (steps[0], named)
    return next((step for step in steps if step), [])


@settings(max_examples=30)
@given(tree.filter(bool))
def test_every_path_finds_itself(places: set[tuple[str, str]]) -> None:
    paths: list[tuple[str, str | None]] = [(path, source) for source, path in sorted(places)]
    for place, (files, found) in zip(sorted(places), find(places, paths), strict=True):
        assert files > 1 or found == place
        assert files >= 1


def test_a_name_may_lack_its_suffix() -> None:
    """As competitions write it: 10_left, of 10_left.jpeg. A name that is whole goes before."""
    places = {("s", "train/10_left.jpeg"), ("s", "b.nii.gz"), ("s", "c"), ("s", "c.dcm")}
    places |= {("s", "d.png"), ("s", "d.jpeg")}
    found = find(places, [(name, None) for name in ("10_left", "b", "c", "d", "10_lef")])
    assert [files for files, _ in found] == [1, 1, 1, 2, 0]
    assert found[2][1] == ("s", "c")
