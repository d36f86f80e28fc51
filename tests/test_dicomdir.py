"""What the directory of a medium says is compared with its files, and none outside is opened."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.config import disable_value_validation
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage, generate_uid

from medkit.catalog.dicomdir import check_dicomdir
from medkit.catalog.findings import Problem

NAMES = ["DICOMDIR", "DICOMDIR-bigEnd", "DICOMDIR-implicit", "DICOMDIR-nooffset"]


def write_directory(path: Path, files: list[Any], **columns: Any) -> Path:
    with disable_value_validation():
        directory = Dataset()
        directory.DirectoryRecordSequence = [
            make_record(number, name, columns) for number, name in enumerate(files)
        ]
        directory.file_meta = FileMetaDataset()
        directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
        directory.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dcmwrite(path, directory, enforce_file_format=True)
    return path


def make_record(number: int, name: Any, columns: Mapping[str, Any]) -> Dataset:
    record = Dataset()
    record.RecordInUseFlag = 0xFFFF
    record.DirectoryRecordType = "PRIVATE" if number % 2 else "IMAGE"
    record.add_new("ReferencedFileID", "CS", name)
    for keyword, value in columns.items():
        setattr(record, keyword, value)
    return record


def check(path: Path, folder: Path | None = None) -> tuple[str, list[Problem]]:
    with path.open("rb") as stream:
        return check_dicomdir(stream, folder)


@pytest.fixture
def medium(pydicom_files: Path, tmp_path: Path) -> Path:
    """The files of a real medium."""
    return Path(shutil.copytree(pydicom_files / "dicomdirtests", tmp_path / "medium"))


@pytest.mark.parametrize("name", NAMES)
def test_a_directory_that_is_right_has_no_problem(name: str, medium: Path) -> None:
    detail, problems = check(medium / name, medium)
    assert problems == []
    others = sum(path.is_file() for path in medium.rglob("*")) - 31 - 1
    assert detail == f"files listed: 31; others below it: {others}"
    assert check(medium / name) == ("files listed: 31", [])


def test_missing_and_changed_files_are_named(medium: Path) -> None:
    files = sorted(path for path in (medium / "98892001").rglob("*") if path.is_file())
    files[0].unlink()
    header = dcmread(files[1])
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    header.save_as(files[1])
    files[2].write_bytes(b"no DICOM")
    names = ["/".join(path.relative_to(medium).parts) for path in files]
    _, problems = check(medium / "DICOMDIR", medium)
    assert problems == [
        ("dicomdir-missing", f"{names[0]!r} is not there"),
        ("dicomdir-mismatch", f"{names[1]!r} has another UID"),
    ]


def test_names_are_those_of_a_medium(medium: Path, tmp_path: Path) -> None:
    """Neither letter case nor the versions of ISO 9660 make another file."""
    for path in sorted(medium.rglob("*"), key=lambda path: -len(path.parts)):
        if path.is_file() and "DICOMDIR" not in path.name:
            path.rename(path.with_name(f"{path.name.lower()}.;1"))
    assert check(medium / "DICOMDIR", medium)[1] == []


ESCAPES: list[Any] = [
    ["..", "secret"],
    ["..", "..", "etc", "passwd"],
    "../secret",
    "/etc/passwd",
    ["", "etc", "passwd"],
    ["A", "..", "..", "secret"],
    ["C:", "secret"],
    "C:/secret",
    ".",
    "a\x1b[2J",
    ["A", ".", "B"],
]


def test_a_path_that_leaves_the_folder_is_reported_and_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "medium"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    path = write_directory(folder / "DICOMDIR", ESCAPES, ReferencedSOPInstanceUIDInFile="1.2")
    content = path.read_bytes()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(Path, "open", refuse)
    _, problems = check_dicomdir(io.BytesIO(content), folder)
    assert [code for code, _ in problems] == ["dicomdir-escape"] * len(ESCAPES)
    assert not any("\x1b" in detail for _, detail in problems)


def test_links_are_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "medium"
    (folder / "real").mkdir(parents=True)
    (folder / "real" / "image").write_bytes(b"x")
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to(tmp_path)
    names = ["link", ["up", "secret"], ["up", "medium", "real", "image"], ["real", "image"], "real"]
    detail, problems = check(write_directory(folder / "DICOMDIR", names), folder)
    assert Counter(code for code, _ in problems) == {"dicomdir-missing": 4}
    assert detail == "files listed: 5; others below it: 0"


def test_many_problems_are_counted(tmp_path: Path) -> None:
    names = [f"I{number}" for number in range(50)]
    _, problems = check(write_directory(tmp_path / "DICOMDIR", names), tmp_path)
    assert len(problems) == 21
    assert problems[-1] == ("dicomdir-missing", "is not there: 30 more")


def test_records_that_are_not_in_use_or_name_no_file_are_passed_over(tmp_path: Path) -> None:
    path = write_directory(tmp_path / "DICOMDIR", ["", None, ["A", ""]])
    assert check(path)[0] == "files listed: 1"
    path = write_directory(tmp_path / "DICOMDIR", ["A", "B"], RecordInUseFlag=0)
    assert check(path)[0] == "files listed: 0"


@given(st.data())
def test_damage_is_a_problem_and_no_crash(pydicom_files: Path, data: st.DataObject) -> None:
    path = pydicom_files / "dicomdirtests" / data.draw(st.sampled_from(NAMES))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(200, len(content)))
    _, problems = check_dicomdir(io.BytesIO(content[:cut]), path.parent)
    assert {code for code, _ in problems} <= {
        "dicomdir-missing",
        "dicomdir-escape",
        "dicomdir-mismatch",
        "bad-value",
    }
