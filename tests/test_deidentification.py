"""Nothing that names someone is left after ``pack --deidentify``, and the pixels stay."""

from __future__ import annotations

import csv
import io
import os
import re
import stat
import subprocess
import sys
from contextlib import suppress
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from archivetrees import describe_tree, real_folders
from hypothesis import given, settings
from hypothesis import strategies as st
from identifiers import (
    CT,
    MARK,
    Planter,
    find_planted,
    iterate_contents,
    make_pixels,
    write_codestream,
    write_planted,
)
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from medkit.archive import deidentification, remnants
from medkit.archive.archive import Archive
from medkit.archive.codecs import CODECS
from medkit.archive.deidentification import Rules, disguise
from medkit.archive.elements import OddFileError
from medkit.archive.members import pack_file
from medkit.archive.pack import pack
from medkit.archive.profile import OPTIONS, Action, decide
from medkit.archive.pseudonyms import Pseudonyms, shift
from medkit.archive.push import count_identified
from medkit.archive.unpack import unpack
from medkit.archive.verify import verify
from medkit.cli import app
from medkit.errors import UsageError
from medkit.testing import write_dicom
from medkit.workspace import hash_file

KEY = "5" * 64


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace whose key is known."""
    folder = tmp_path / "workspace"
    (folder / "catalog").mkdir(parents=True)
    (folder / "catalog" / "pseudonyms.key").write_text(KEY)
    return folder


@pytest.fixture
def rules(workspace: Path, tmp_path: Path) -> Rules:
    return Rules.load(workspace, tmp_path / "archive")


def disguise_header(rules: Rules, content: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(disguise(content, "x", rules).content))


def find_code(content: bytes, rules: Rules) -> str:
    """Return why a file is left out."""
    with pytest.raises(OddFileError) as caught:
        disguise(content, "x", rules)
    return caught.value.code


# --- what is planted -----------------------------------------------------------------------------


@pytest.fixture
def planter() -> Planter:
    return Planter()


@pytest.fixture
def tree(tmp_path: Path, planter: Planter) -> Path:
    """A tree with identifiers in files and names, and in files that are no images."""
    folder = tmp_path / "tree" / planter.text("name of a folder")
    for number in range(3):
        write_planted(folder / f"{planter.text('name of a file')}-{number}.dcm", planter)
    write_codestream(folder / "jpeg.dcm", planter, planter.text("comment of a JPEG").encode())
    (folder / "list.txt").write_text(planter.text("another file"))
    (folder / planter.text("name of an empty folder")).mkdir()
    (folder / planter.text("name of a link")).symlink_to("list.txt")
    return tmp_path / "tree"


def test_nothing_planted_is_left(
    tree: Path, tmp_path: Path, planter: Planter, rules: Rules
) -> None:
    assert len(planter.planted) > 120
    before = describe_tree(tree)
    summary = pack(tree, tmp_path / "archive", rules=rules, workers=0)
    assert describe_tree(tree) == before
    assert (summary.files, summary.left_out) == (4, {"not-dicom": 1, "link": 1})
    unpack(tmp_path / "archive", tmp_path / "back", workers=0)
    unpack(tmp_path / "archive", tmp_path / "packed", packed=True, workers=0)
    contents = [
        pair for name in ("archive", "back", "packed") for pair in iterate_contents(tmp_path / name)
    ]
    assert len(contents) > 20
    for name, content in contents:
        assert find_planted(content, planter) == [], name
        assert MARK.encode() not in content, name
        assert str(tmp_path).encode() not in content, name
    assert verify(tmp_path / "archive", restore=True, workers=0) == []


def test_the_planted_file_is_full_of_them(tmp_path: Path, planter: Planter) -> None:
    content = write_planted(tmp_path / "x.dcm", planter).read_bytes()
    assert find_planted(content, planter) == [*planter.planted]


def test_no_word_of_it_is_said(
    tree: Path, tmp_path: Path, workspace: Path, planter: Planter
) -> None:
    command = ["pack", str(tree), str(tmp_path / "archive"), "--deidentify", "-w", str(workspace)]
    (tree / planter.text("a file that is cut")).write_bytes(
        next(tree.rglob("*-0.dcm")).read_bytes()[:400]
    )
    done = subprocess.run(
        [sys.executable, "-m", "medkit", *command, "--workers", "0"],
        capture_output=True, check=True,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert b"4 files" in said and b"not the original files" in said.replace(b"\n", b" ")
    assert MARK.encode() not in said


def test_the_way_back_is_known_to_the_owner_alone(
    tree: Path, tmp_path: Path, planter: Planter, rules: Rules
) -> None:
    pack(tree, tmp_path / "archive", rules=rules, workers=0)
    if os.name == "posix":
        assert stat.S_IMODE(rules.map.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(rules.map.path.parent.stat().st_mode) == 0o700
    known = {
        (row["kind"], row["pseudonym"]): row["original"]
        for row in pq.read_table(rules.map.path).to_pylist()
    }
    unpack(tmp_path / "archive", tmp_path / "back", workers=0)
    originals = {path.relative_to(tree).as_posix() for path in tree.rglob("*.dcm")}
    found = set()
    for path in (tmp_path / "back").rglob("*.dcm"):
        original = known["path", path.relative_to(tmp_path / "back").as_posix()]
        header, old = pydicom.dcmread(path), pydicom.dcmread(tree / original)
        assert known["person", header.PatientID] == old.PatientID
        assert known["name", header.PatientID] == str(old.PatientName)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "DeviceUID"):
            assert known["uid", header[keyword].value] == old[keyword].value
        found.add(original)
    assert found == originals
    left = {original for (kind, _), original in known.items() if kind == "left-out: not-dicom"}
    assert [Path(path).name for path in left] == ["list.txt"]
    assert not [*rules.map.path.parent.glob(".*")]


TEXTS = [
    *("AccessionNumber", "PatientName", "PatientID", "StudyDescription", "ImageComments"),
    *("InstitutionAddress", "StationAETitle", "OperatorsName", "PatientTelephoneNumbers"),
    *("LabelText", "RetrieveURL", "TextValue", "DeviceSerialNumber", "ReasonForStudy"),
    *("PersonName", "PatientComments"),
]
SEQUENCES = [
    *("SourceImageSequence", "ReferencedImageSequence", "RequestAttributesSequence"),
    *("ContentSequence", "DerivationCodeSequence", "SharedFunctionalGroupsSequence"),
    *("AnatomicRegionSequence", "ReferencedStudySequence"),
    *("PersonIdentificationCodeSequence",),
]
# A text goes into an element by its keyword, into a private one, or, as a sequence, further down.
NESTED = st.recursive(
    st.dictionaries(st.sampled_from(TEXTS), st.none(), max_size=4),
    lambda inner: st.dictionaries(
        st.one_of(st.sampled_from([*TEXTS, *SEQUENCES]), st.integers(0x10, 0x1F)),
        st.lists(inner, max_size=2),
        max_size=4,
    ),
    max_leaves=12,
)


def fill(shape: dict[Any, Any], planter: Planter) -> Dataset:
    """Return a data set of a shape, with another text in each element."""
    made = Dataset()
    for key, items in shape.items():
        if isinstance(key, int):
            made.add_new(0x00290010, "LO", "MAKER")
            made.add_new(0x00291000 + key, "LO", planter.text(f"private {key}"))
        elif key.endswith("Sequence"):
            setattr(made, key, [fill(item, planter) for item in items or []])
        else:
            setattr(made, key, planter.text(key))
    return made


@settings(max_examples=60, deadline=None)
@given(shape=NESTED, implicit=st.booleans(), undefined=st.booleans())
def test_no_data_set_keeps_what_is_planted(
    shape: dict[Any, Any], implicit: bool, undefined: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    planter = Planter()
    folder = tmp_path_factory.getbasetemp()
    rules = Rules(Pseudonyms(KEY), (), deidentification.Map(str(folder), "none"))
    header = pydicom.dcmread(write_dicom(folder / "plain.dcm", make_pixels(), SOPClassUID=CT))
    header.update(fill(shape, planter))
    for element in header.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = undefined
    header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2" + (".1" * (not implicit))
    buffer = io.BytesIO()
    pydicom.dcmwrite(
        buffer, header, implicit_vr=implicit, little_endian=True, enforce_file_format=True
    )
    assert find_planted(buffer.getvalue(), planter) == [*planter.planted]
    disguised = disguise(buffer.getvalue(), "x", rules)
    assert find_planted(disguised.content, planter) == []
    again = pydicom.dcmread(io.BytesIO(disguised.content))
    np.testing.assert_array_equal(again.pixel_array, make_pixels())
    packed = pack_file(disguised.content, CODECS["jpeg-ls"], "normal")
    assert find_planted(bytes(packed.content) + packed.outside, planter) == []


# --- pixels --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [
        path for folder in real_folders() for path in sorted(folder.rglob("*")) if path.is_file()
    ]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("keep", [(), ("burned-in",)])
def test_real_pixels_stay_and_all_else_is_counted(
    keep: tuple[str, ...], real_files: list[Path], workspace: Path, tmp_path: Path
) -> None:
    rules, taken, left = Rules.load(workspace, tmp_path / "archive", keep), 0, set()
    for path in real_files:
        data = path.read_bytes()
        try:
            disguised = disguise(data, path.name, rules)
        except OddFileError as odd:
            left.add(odd.code)
            continue
        taken += 1
        if keep and len(data) < 2**18:
            compare_pixels(data, disguised.content, path)
    expected = {"byte-order", "document", "no-pixels", "not-dicom", "strange-header", "odd-pixels"}
    assert taken > (130 if keep else 60)
    assert left == expected | ({"private-class", "codestream"} & left) | (
        set() if keep else {"burned-in-unknown"}
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_more_real_pixels_stay(shared_data: Path, rules: Rules) -> None:
    taken = 0
    for path in sorted((shared_data / "dicom").rglob("*")):
        if path.is_file() and path.stat().st_size < 2**18:
            data = path.read_bytes()
            with suppress(OddFileError):
                compare_pixels(data, disguise(data, path.name, rules).content, path)
                taken += 1
    assert taken > 30


def compare_pixels(before: bytes, after: bytes, path: Path) -> None:
    """See that what can be decoded is decoded to the same."""
    one, other = (pydicom.dcmread(io.BytesIO(content)) for content in (before, after))
    try:
        expected = one.pixel_array
    except Exception as error:  # of any decoder
        with pytest.raises(type(error)):
            other.pixel_array  # noqa: B018 - the access is the test
        return
    found = other.pixel_array
    assert found.dtype == expected.dtype.newbyteorder("="), path
    np.testing.assert_array_equal(found, expected, err_msg=str(path))


def test_a_codestream_loses_its_words_and_no_pixel(
    tmp_path: Path, planter: Planter, rules: Rules
) -> None:
    path = write_codestream(tmp_path / "x.dcm", planter, planter.text("comment").encode())
    content = disguise(path.read_bytes(), "x", rules).content
    assert find_planted(content, planter) == []
    compare_pixels(path.read_bytes(), content, path)


def test_bits_that_are_not_shown_are_no_hiding_place(tmp_path: Path, rules: Rules) -> None:
    pixels = make_pixels() | np.uint16(0x8000)
    write_dicom(
        tmp_path / "tree" / "x.dcm", pixels, BitsStored=12, HighBit=11, SOPClassUID=CT
    )  # fmt: skip
    summary = pack(tmp_path / "tree", tmp_path / "archive", rules=rules, workers=0)
    assert (summary.files, summary.left_out) == (0, {"high-bits": 1})


# --- UIDs, dates, persons ------------------------------------------------------------------------


def test_references_and_persons_stay_together(tmp_path: Path, rules: Rules) -> None:
    contents = []
    for number in range(2):
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CT, "1.2.3.100"
        path = write_dicom(
            tmp_path / f"{number}.dcm", make_pixels(), SOPClassUID=CT, PatientID="p-1234",
            StudyInstanceUID="1.2.3.4", SeriesInstanceUID=f"1.2.3.4.{number}",
            SOPInstanceUID=f"1.2.3.10{number}", FrameOfReferenceUID="1.2.840.10008.1.4.1.1",
            ReferencedImageSequence=[reference], StudyDate="20200229",
            SeriesDate=f"2020030{1 + number}", StudyTime="1112",
            AcquisitionDateTime="20200229235959.5+0100",
        )  # fmt: skip
        contents.append(path.read_bytes())
    one, other = (disguise_header(rules, content) for content in contents)
    assert one.StudyInstanceUID == other.StudyInstanceUID != "1.2.3.4"
    assert one.SeriesInstanceUID != other.SeriesInstanceUID
    assert other.ReferencedImageSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID
    assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID
    assert other.ReferencedImageSequence[0].ReferencedSOPClassUID == CT == one.SOPClassUID
    assert one.FrameOfReferenceUID == "1.2.840.10008.1.4.1.1"
    assert re.fullmatch(r"2\.25\.\d{1,39}", one.SOPInstanceUID)
    assert (
        one.PatientID == other.PatientID == str(one.PatientName) == rules.pseudonyms.name("p-1234")
    )
    moved = [date.fromisoformat(header.SeriesDate) for header in (one, other)]
    assert (moved[1] - moved[0]).days == 1
    shifted = date.fromisoformat(one.StudyDate) - date(2020, 2, 29)
    assert -3650 <= shifted.days < 0 and (moved[0] - date.fromisoformat(one.StudyDate)).days == 1
    assert one.AcquisitionDateTime == f"{one.StudyDate}235959.5+0100"
    assert one.StudyTime == "1112"
    assert one.LongitudinalTemporalInformationModified == "MODIFIED"


def test_a_class_of_a_later_edition_stays(tmp_path: Path, rules: Rules) -> None:
    content = write_traits(tmp_path, SOPClassUID=f"{CT}.99.1", BurnedInAnnotation="NO")
    assert disguise_header(rules, content).SOPClassUID == f"{CT}.99.1"


def test_a_pseudonym_is_that_of_the_catalog(tmp_path: Path, rules: Rules) -> None:
    import duckdb

    from medkit.catalog.pseudonyms import _hash

    expected = duckdb.sql(f"SELECT {_hash(chr(39) + 'p-1234' + chr(39), KEY)}").fetchall()
    assert expected == [(rules.pseudonyms.name("p-1234"),)]


def test_another_key_gives_other_pseudonyms() -> None:
    one, other = Pseudonyms(KEY), Pseudonyms("6" * 64)
    assert one.uid("1.2.3") == Pseudonyms(KEY).uid("1.2.3") != other.uid("1.2.3")
    assert one.name("x") != other.name("x") and one.fingerprint != other.fingerprint
    assert {one.days(str(n)) for n in range(50)} != {other.days(str(n)) for n in range(50)}
    assert KEY not in repr(one)


@pytest.mark.parametrize(
    ("vr", "before", "after"),
    [
        (b"DA", b"20200301", b"20200229"),
        (b"DA", b"2020.03.01", b"20200229"),
        (b"DA", b"20200301\\20200302 ", b"20200229\\20200301"),
        (b"DA", b"20201301", b""),
        (b"DA", b"01.03.2020", b""),
        (b"DA", b"", b""),
        (b"DT", b"20200301101112.000001-0500", b"20200229101112.000001-0500"),
        (b"DT", b"202003", b"202002"),
        (b"DT", b"2020", b"2019"),
        (b"DT", b"2020030110", b"2020022910"),
        (b"DT", b"Mr Smith", b""),
        (b"TM", b"101112.123456", b"101112.123456"),
        (b"TM", b"Mr Smith", b""),
        (b"DA", b"00010101", b""),
    ],
)
def test_dates_move_by_a_day(vr: bytes, before: bytes, after: bytes) -> None:
    assert shift(before, vr, -1) == after


@given(st.dates(date(1900, 1, 1)), st.dates(date(1900, 1, 1)), st.integers(-3650, -1))
def test_dates_keep_their_distance(one: date, other: date, days: int) -> None:
    value = f"{one:%Y%m%d}\\{other:%Y%m%d}".encode()
    moved = [date.fromisoformat(part) for part in shift(value, b"DA", days).decode().split("\\")]
    assert moved[1] - moved[0] == other - one


# --- options, signs, and what stays behind -------------------------------------------------------


def write_traits(folder: Path, **keywords: Any) -> bytes:
    defaults = {
        "SOPClassUID": CT, "PatientID": "p-1234", "PatientAge": "093Y", "PatientSex": "F",
        "PatientWeight": "71.5", "InstitutionName": "St. Elsewhere", "StationName": "CT-ROOM-7",
        "DeviceSerialNumber": "sn-998877", "StudyDate": "20200301", "PatientBirthDate": "19270101",
        "SOPInstanceUID": "1.2.3.4", "KVP": "120", "Manufacturer": "Medkit",
    }  # fmt: skip
    return write_dicom(folder / "x.dcm", make_pixels(), **defaults | keywords).read_bytes()


def test_options_keep_what_they_name(workspace: Path, tmp_path: Path) -> None:
    content = write_traits(tmp_path)
    kept = {
        "characteristics": {"PatientSex", "PatientAge", "PatientWeight"},
        "institution": {"InstitutionName"},
        "device": {"StationName", "DeviceSerialNumber"},
        "dates": {"StudyDate"},
        "uids": {"SOPInstanceUID"},
    }
    before = pydicom.dcmread(io.BytesIO(content))
    for option, keywords in kept.items():
        rules = Rules.load(workspace, tmp_path / "archive", [option])
        after = disguise_header(rules, content)
        same = {
            keyword
            for keyword in set.union(*kept.values())
            if after.get(keyword) == before[keyword].value
        }
        assert same == keywords - {"PatientAge"}, option
        assert not after.get("PatientBirthDate")
        assert (after.KVP, after.Manufacturer) == (before.KVP, before.Manufacturer)
        assert after.PatientIdentityRemoved == "YES"
        items = after.DeidentificationMethodCodeSequence
        codes = [item.CodeValue for item in items]
        assert codes[0] == "113100" and OPTIONS[option][0] in codes
        assert ("113107" in codes) == (option != "dates")
        assert {
            item.CodingSchemeDesignator for item in after.DeidentificationMethodCodeSequence
        } == {"DCM"}
    rules = Rules.load(workspace, tmp_path / "archive", ["characteristics"])
    assert disguise_header(rules, content).PatientAge == "090Y"
    with pytest.raises(UsageError, match="characteristics, device"):
        Rules.load(workspace, tmp_path / "archive", ["everything"])


def test_what_is_still_identified_is_counted_by_push(workspace: Path, tmp_path: Path) -> None:
    write_traits(tmp_path / "tree")
    (tmp_path / "tree" / "note.txt").write_text("x")
    for keep, expected in (
        ((), 0),
        (("characteristics",), 0),
        (("institution",), 1),
        (("uids",), 1),
    ):
        out = tmp_path / f"archive-{len(keep)}-{expected}-{'-'.join(keep)}"
        pack(tmp_path / "tree", out, rules=Rules.load(workspace, out, keep), workers=0)
        assert count_identified(Archive.open(out).index) == (expected, 0), keep
        assert Archive.open(out).facts["deidentification"]["keep"] == [*keep]


@pytest.mark.parametrize(
    ("keywords", "code"),
    [
        ({"BurnedInAnnotation": "YES"}, "burned-in"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1", "Modality": "US"}, "burned-in-unknown"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "burned-in-unknown"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.12.1"}, "burned-in-unknown"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "burned-in-unknown"),
        ({"ConversionType": "WSD"}, "burned-in-unknown"),
        ({"SOPClassUID": "1.2.3.4"}, "private-class"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11"}, "document"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, "document"),
    ],
)
def test_what_may_show_a_name_stays_behind(
    keywords: dict[str, Any], code: str, rules: Rules, workspace: Path, tmp_path: Path
) -> None:
    content = write_traits(tmp_path, **keywords)
    assert find_code(content, rules) == code
    if code.startswith("burned-in"):
        assert disguise(
            write_traits(tmp_path, **keywords | {"BurnedInAnnotation": "NO"}), "x", rules
        ) or (code == "burned-in")
        kept = Rules.load(workspace, tmp_path / "archive", ["burned-in"])
        told = disguise(content, "x", kept).told
        assert told["burned_in"] == keywords.get("BurnedInAnnotation", "")


def test_a_value_that_stands_elsewhere_too_is_taken_out_there(tmp_path: Path, rules: Rules) -> None:
    content = write_traits(
        tmp_path, PatientName="Featherstone^Jane", Manufacturer="made for Featherstone",
        ImageType=["ORIGINAL", "PRIMARY", "FEATHERSTONE"], ConvolutionKernel="feather",
        SeriesDescription="CHEST", BodyPartExamined="CHEST",
    )  # fmt: skip
    disguised = disguise(content, "x", rules)
    assert b"featherstone" not in disguised.content.lower()
    header = pydicom.dcmread(io.BytesIO(disguised.content))
    assert (header.BodyPartExamined, header.ConvolutionKernel) == ("CHEST", "feather")
    assert header.ImageType == "REMOVED"


def test_what_cannot_be_taken_out_is_not_packed(
    tmp_path: Path, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_traits(tmp_path, PatientName="Featherstone^Jane", Manufacturer="Featherstone")
    assert disguise_header(rules, content).Manufacturer == "REMOVED"
    monkeypatch.setattr(deidentification._Cleaner, "_keep", lambda self, tag, vr, content: content)
    assert find_code(content, rules) == "identifier-left"


@pytest.mark.parametrize(
    ("part", "needle", "found"),
    [
        (b"dr smith", b"smith", True),
        (b"blacksmiths", b"smith", False),
        (b"1.2.3.45", b"1.2.3.4", False),
        (b"\0\x081.2.3.4\0", b"1.2.3.4", True),
        (b"afeatherstoneb", b"featherstone", True),
        (b"99123456", b"123456", False),
        (b"SMITH", b"smith", True),
    ],
)
def test_a_remnant_is_a_word_of_its_own(part: bytes, needle: bytes, found: bool) -> None:
    assert remnants.find_remnant([part], [needle]) is found


def test_the_table_is_that_of_the_standard() -> None:
    text = files("medkit.archive").joinpath("confidentiality.csv").read_text()
    rows = [*csv.DictReader(text.splitlines())]
    assert len(rows) == 652 and [row["tag"] for row in rows] == sorted(row["tag"] for row in rows)
    assert {row["basic"] for row in rows} == {
        "X",
        "Z",
        "D",
        "U",
        "X/Z",
        "X/D",
        "Z/D",
        "X/Z/D",
        "X/Z/U*",
    }
    assert decide(0x00100010, b"PN", ()) is Action.EMPTY
    assert decide(0x00100030, b"DA", ("dates",)) is Action.EMPTY
    assert decide(0x00080018, b"UI", ()) is Action.UID
    assert decide(0x00080020, b"DA", ()) is Action.SHIFT
    assert decide(0x00080020, b"DA", ("dates",)) is Action.KEEP
    assert decide(0x00091001, b"LO", ()) is Action.REMOVE
    assert decide(0x60003000, b"OW", ()) is Action.REMOVE


# --- runs ----------------------------------------------------------------------------------------


def hash_files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def long_tree(tmp_path: Path) -> Path:
    planter = Planter()
    for number in range(6):
        write_planted(tmp_path / "long" / f"{number}.dcm", planter)
    first = (tmp_path / "long" / "0.dcm").read_bytes()
    for number in range(250):
        (tmp_path / "long" / f"copy-{number}.dcm").write_bytes(first)
    return tmp_path / "long"


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_killed_run_goes_on_to_the_same_bytes(
    long_tree: Path, workspace: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    pack(long_tree, whole, rules=Rules.load(workspace, whole), workers=0)
    out = tmp_path / "out"
    command = [
        "pack",
        str(long_tree),
        str(out),
        "--deidentify",
        "-w",
        str(workspace),
        "--workers",
        "0",
    ]
    killed = 0
    for seconds in (1.0, 1.6):
        process = subprocess.Popen(
            [sys.executable, "-m", "medkit", *command],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
    subprocess.run([sys.executable, "-m", "medkit", *command], check=True, capture_output=True)
    assert killed
    assert hash_files(out) == hash_files(whole)
    maps = [Rules.load(workspace, folder).map.path for folder in (out, whole)]
    assert pq.read_table(maps[0]).equals(pq.read_table(maps[1]))


def test_commands_that_contradict_themselves_are_refused(tmp_path: Path, workspace: Path) -> None:
    write_traits(tmp_path / "tree")
    tree, out = str(tmp_path / "tree"), str(tmp_path / "archive")
    with pytest.raises(UsageError, match="--deidentify"):
        CliRunner().invoke(app, ["pack", tree, out, "--keep", "uids"], catch_exceptions=False)
    with pytest.raises(UsageError, match="holds the key"):
        Rules.load(tmp_path / "archive" / "inside", tmp_path / "archive")
    summary = pack(
        tmp_path / "tree",
        tmp_path / "archive",
        rules=Rules.load(workspace, tmp_path / "archive"),
        workers=0,
    )
    assert summary.made
    with pytest.raises(UsageError, match="other options"):
        pack(tmp_path / "tree", tmp_path / "archive", workers=0)
