"""The compiled reader says what pydicom says, of every file that it does not leave over."""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from pydicom.multival import MultiValue
from strategies import CHARACTER_SETS, Form, dicom_files, write_image, write_meta

from medkit.catalog import columns
from medkit.catalog.entries import Entries
from medkit.catalog.inspection import Tables, inspect_quickly, inspect_slowly
from medkit.catalog.schema import FRAMES, HEADER, IDENTIFIERS, READ_TABLES
from medkit.testing import EXPLICIT_LITTLE

PLAIN = (EXPLICIT_LITTLE, "1.2.840.10008.1.2")


def list_entries(root: Path, paths: Iterable[Path]) -> Entries:
    """What walking would find."""
    names = sorted(path.relative_to(root).as_posix() for path in paths)
    states = [(root / name).stat() for name in names]
    columns = [[state.st_size, state.st_mtime_ns, state.st_ino] for state in states]
    return Entries("test", str(root), names, *np.array(columns, np.int64).reshape(-1, 3).T)


def list_files(root: Path) -> Entries:
    """What walking would find of a whole tree."""
    return list_entries(root, (path for path in root.rglob("*") if path.is_file()))


def sort_rows(tables: Tables) -> dict[str, list[str]]:
    """Rows as texts, so that -0.0 is not 0.0, and 1 not 1.0."""
    return {name: sorted(map(repr, tables[name].to_pylist())) for name in READ_TABLES}


def agree(entries: Entries, keep_identifiers: bool = True) -> tuple[Tables, list[int]]:
    """Assert that both roads give the same rows of what the quick one takes; return its answer."""
    tables, left = inspect_quickly(entries, keep_identifiers)
    assert left == sorted(set(left))
    taken = [row for row in range(len(entries)) if row not in set(left)]
    expected = sort_rows(inspect_slowly(entries.take(taken), keep_identifiers))
    found = sort_rows(tables)
    for name, schema in READ_TABLES.items():
        assert tables[name].schema == schema
        assert found[name] == expected[name]
    return tables, left


def write_files(folder: Path, contents: Iterable[bytes]) -> Entries:
    """Write files of these contents in an empty folder."""
    paths = [folder / f"{number}.dcm" for number, _ in enumerate(contents)]
    for path in folder.iterdir():
        path.unlink()
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return list_entries(folder, paths)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples: making one costs more than reading a file."""
    return tmp_path_factory.mktemp("files")


def expect(header: pydicom.Dataset, name: str, kind: str) -> Any:
    """What pydicom itself says, in the column's type."""
    value = header.get(name)
    if value is None or value == "" or (isinstance(value, MultiValue) and not value):
        return None
    several = list(value) if isinstance(value, MultiValue) else [value]
    single = {"int64": int, "double": float}
    if kind in single:
        return single[kind](several[0])
    if kind == "string":
        return "\\".join(map(str, several))
    return [float(one) if "double" in kind else str(one) for one in several]


def compare_with_pydicom(row: dict[str, Any], frame: dict[str, Any] | None, content: bytes) -> None:
    """Assert that a file's rows hold what dcmread reads; nothing of medkit's stands between."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Of compressed pixel data that are cut, dcmread would take the header along.
        native = row["pixel_keyword"] and not row["encapsulated"]
        header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=not native)
        fields = [(row, field) for field in (*HEADER, *IDENTIFIERS)]
        if frame is not None and not row["NumberOfFrames"]:
            fields += [(frame, field) for field in FRAMES if field.name[0].isupper()]
        for found, field in fields:
            # Which of two numbers the padding is depends on another element.
            if field.name in ("PixelPaddingValue", "PixelPaddingRangeLimit", "TransferSyntaxUID"):
                continue
            assert found[field.name] == expect(header, field.name, str(field.type)), field.name
        assert row["TransferSyntaxUID"] == header.file_meta.TransferSyntaxUID
        if native:
            start, end = row["pixel_offset"], row["pixel_offset"] + row["pixel_length"]
            assert content[start:end] == header.get_item(row["pixel_keyword"]).value


def compare_all_with_pydicom(tables: Tables, entries: Entries) -> int:
    """Compare every instance of the tables; return how many."""
    paths = dict(zip(entries.keys, entries.paths, strict=True))
    frames: dict[str, dict[str, Any]] = {}
    for frame in tables["frames"].to_pylist():
        frames.setdefault(frame["file"], frame)
    rows = tables["instances"].to_pylist()
    for row in rows:
        content = Path(entries.root, paths[row["file"]]).read_bytes()
        compare_with_pydicom(row, frames.get(row["file"]), content)
    return len(rows)


def count_plain(entries: Entries, rows: Iterable[int]) -> list[str]:
    """Those files, of some, that are in a plain transfer syntax."""
    found = []
    for row in rows:
        content = Path(entries.root, entries.paths[row]).read_bytes()
        if content[128:132] != b"DICM":
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            meta = pydicom.filereader.read_file_meta_info(Path(entries.root, entries.paths[row]))
        if meta.get("TransferSyntaxUID") in PLAIN:
            found.append(entries.paths[row])
    return found


def check_real_files(root: Path, most_left: float) -> None:
    entries = list_files(root)
    tables, left = agree(entries)
    assert compare_all_with_pydicom(tables, entries) == len(tables["instances"]) > 0
    plain = count_plain(entries, range(len(entries)))
    assert len(count_plain(entries, left)) <= most_left * len(plain)


def test_agrees_on_pydicoms_files(pydicom_files: Path) -> None:
    check_real_files(pydicom_files, 0.14)  # DICOMDIRs, and files broken on purpose


def test_agrees_on_the_files_of_pydicom_data() -> None:
    package = importlib.util.find_spec("data_store")
    if package is None or not package.submodule_search_locations:
        pytest.skip("pydicom-data is not installed")
    check_real_files(Path(package.submodule_search_locations[0]) / "data", 0.06)


def test_agrees_on_shared_files(shared_data: Path) -> None:
    check_real_files(shared_data / "dicom", 0.2)  # multi-frame objects of many kinds


def test_agrees_when_headers_are_read_in_small_parts(
    pydicom_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = list_files(pydicom_files)
    _, left = inspect_quickly(entries, True)
    monkeypatch.setattr(columns, "WINDOW", 200)
    assert agree(entries)[1] == left


@pytest.mark.parametrize("keep_identifiers", [False, True])
def test_identifiers_are_kept_only_when_asked_for(
    pydicom_files: Path, keep_identifiers: bool
) -> None:
    paths = [pydicom_files / name for name in ("CT_small.dcm", "MR_small_implicit.dcm")]
    tables, left = agree(list_entries(pydicom_files, paths), keep_identifiers)
    assert not left
    names = tables["instances"]["PatientName"].to_pylist()
    assert all(names) if keep_identifiers else names == [None, None]


@given(content=dicom_files())
def test_agrees_on_generated_files(scratch: Path, content: bytes) -> None:
    entries = write_files(scratch, [content])
    tables, _ = agree(entries)
    compare_all_with_pydicom(tables, entries)


def test_agrees_wherever_a_file_is_cut(scratch: Path, pydicom_files: Path) -> None:
    for name in ("MR_small.dcm", "MR_small_implicit.dcm", "JPEG2000.dcm"):
        whole = (pydicom_files / name).read_bytes()
        ends = [*range(0, 1700, 7), *range(1700, len(whole), 997)]
        entries = write_files(scratch, [whole[:end] for end in ends])
        tables, _ = agree(entries)
        assert not any(tables["files"].filter(tables["files"]["kind"].to_numpy() == "image"))


PLAIN_FORM = Form(False, CHARACTER_SETS[0])
WHOLE = write_meta(EXPLICIT_LITTLE) + write_image(PLAIN_FORM)

# What fuzzing found, made small.
FOUND: dict[str, bytes] = {
    "no prefix, and an image behind where it would be": WHOLE.replace(b"DICM", b"DICN", 1),
    "a transfer syntax that is not written as a UID": WHOLE.replace(
        b"\x02\0\x10\0UI", b"\x02\0\x10\0US", 1
    ),
    "two transfer syntaxes": write_meta(f"{EXPLICIT_LITTLE}\\1.2") + write_image(PLAIN_FORM),
}


def test_a_plain_file_is_taken(scratch: Path) -> None:
    tables, left = agree(write_files(scratch, [WHOLE]))
    assert (left, tables["files"]["kind"].to_pylist()) == ([], ["image"])


@pytest.mark.parametrize("content", FOUND.values(), ids=FOUND.keys())
def test_agrees_on_what_fuzzing_found(scratch: Path, content: bytes) -> None:
    agree(write_files(scratch, [content]))


def test_a_file_that_is_gone_is_left_over(scratch: Path) -> None:
    entries = write_files(scratch, [write_meta(EXPLICIT_LITTLE)])
    (scratch / "0.dcm").unlink()
    assert inspect_quickly(entries, False)[1] == [0]
