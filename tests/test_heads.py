"""The quick road: what it reads, what it leaves over, and how much it looks at."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkit.catalog import cells, columns, heads
from medkit.catalog.entries import Entries
from medkit.catalog.inspection import inspect_quickly, inspect_slowly
from medkit.catalog.schema import READ_TABLES
from medkit.testing import write_dicom

PIXELS = np.arange(12, dtype=np.uint16).reshape(3, 4)


def entries_of(folder: Path) -> Entries:
    paths = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    states = [(folder / path).stat() for path in paths]
    return Entries(
        "local",
        str(folder),
        paths,
        np.array([state.st_size for state in states], np.int64),
        np.array([state.st_mtime_ns for state in states], np.int64),
        np.array([state.st_ino for state in states], np.int64),
    )


def look(folder: Path) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    entries = entries_of(folder)
    tables, left = inspect_quickly(entries)
    rows = {name: table.to_pylist() for name, table in tables.items()}
    return rows, [entries.paths[row] for row in left]


def insert(path: Path, element: bytes, before: bytes) -> None:
    content = path.read_bytes()
    at = content.index(before)
    path.write_bytes(content[:at] + element + content[at:])


def test_a_system_without_compiled_reading_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write_dicom(tmp_path / f"{number}.dcm", PIXELS, InstanceNumber=number)
    expected = look(tmp_path)
    monkeypatch.setattr(heads._Files, "_fill_compiled", None)
    monkeypatch.setattr(heads, "is_remote", lambda root: True)
    assert look(tmp_path) == expected


ROWS = struct.pack("<HH2s", 0x28, 0x10, b"US")  # where the element Rows begins


def test_both_roads_say_the_same(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", PIXELS, PatientID="P1", ImagePositionPatient=[1, 2.5, -3e-7])
    write_dicom(tmp_path / "b.dcm", np.stack([PIXELS] * 3), StudyDescription="Schädel")
    (tmp_path / "c.dcm").touch()
    (tmp_path / "README").write_text("text")
    (tmp_path / "d.dcm.part").write_bytes(b"x")
    entries = entries_of(tmp_path)
    quick, left = inspect_quickly(entries)
    slow = inspect_slowly(entries)
    assert left == []
    for name in READ_TABLES:
        order = [(one, "ascending") for one in ("file", "frame") if one in quick[name].schema.names]
        assert quick[name].sort_by(order).equals(slow[name].sort_by(order)), name


def test_what_is_left_over_is_read_by_the_slow_road(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", PIXELS)
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    entries = entries_of(tmp_path)
    quick, left = inspect_quickly(entries)
    slow = inspect_slowly(entries.take(left))
    assert quick["files"]["path"].to_pylist() == ["a.dcm"]
    assert slow["files"].select(["path", "kind"]).to_pylist() == [
        {"path": "b.png", "kind": "problem"}
    ]


@pytest.mark.parametrize("length", [0, 7_000, 9_000, 400_000])
def test_a_long_value_is_stepped_over(
    tmp_path: Path, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.dcm"
    write_dicom(path, PIXELS)
    private = struct.pack("<HH2sHI", 0x27, 0x1010, b"OB", 0, length) + b"\xff" * length
    insert(path, private, ROWS)
    read: list[int] = []
    fill = heads._Files.read

    def watch(files: Any, rows: Any, offsets: Any, widths: Any, data: Any) -> None:
        read.append(int(widths.sum()))
        fill(files, rows, offsets, widths, data)

    monkeypatch.setattr(heads._Files, "read", watch)
    rows, left = look(tmp_path)
    assert left == []
    assert rows["instances"][0]["Rows"] == 3
    assert sum(read) <= 2 * columns.WINDOW


def test_a_long_value_that_is_wanted_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    write_dicom(path, PIXELS)
    description = struct.pack("<HH2sH", 0x8, 0x1030, b"LO", 30_000) + b"x" * 30_000
    insert(path, description, struct.pack("<HH2s", 0x10, 0x20, b"LO"))
    rows, left = look(tmp_path)
    assert (left, rows["instances"][0]["StudyDescription"]) == ([], "x" * 30_000)


def sequence(content: bytes, length: int = 0xFFFFFFFF) -> bytes:
    return struct.pack("<HH2sHI", 0x27, 0x1020, b"SQ", 0, length) + content


ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
ITEM_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
TEXT = struct.pack("<HH2sH", 0x27, 0x1030, b"LO", 4) + b"text"


@pytest.mark.parametrize("depth", [1, 3, 16])
def test_nested_sequences_are_passed(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "a.dcm"
    write_dicom(path, PIXELS)
    content = b""
    for _ in range(depth):
        defined = struct.pack("<HHI", 0xFFFE, 0xE000, len(TEXT)) + TEXT
        content = sequence(defined + ITEM + TEXT + content + ITEM_END + END)
    insert(path, content, ROWS)
    rows, left = look(tmp_path)
    assert (left, rows["instances"][0]["Rows"]) == ([], 3)


BROKEN = {
    "an item that ends behind its sequence": sequence(
        struct.pack("<HHI", 0xFFFE, 0xE000, len(TEXT) + 2) + TEXT + END
    ),
    "no item": sequence(TEXT + END),
    "an end of an item that has a length": sequence(
        struct.pack("<HHI", 0xFFFE, 0xE000, len(TEXT) + 8) + TEXT + ITEM_END + END
    ),
    "too deep": sequence(ITEM) * 20 + (ITEM_END + END) * 20,
    "an unknown VR": struct.pack("<HH2sH", 0x27, 0x1030, b"ZZ", 4) + b"text",
    "no VR": struct.pack("<HH2sH", 0x27, 0x1030, b"\0\0", 4) + b"text",
    "a delimiter at the top": ITEM_END,
    "a length beyond the file": struct.pack("<HH2sH", 0x27, 0x1030, b"LO", 60_000),
    "no number": struct.pack("<HH2sH", 0x20, 0x13, b"IS", 4) + b"many",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_odd_is_left_over(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.dcm"
    write_dicom(path, PIXELS)
    insert(path, BROKEN[name], ROWS)
    rows, left = look(tmp_path)
    assert (rows["files"], left) == ([], ["a.dcm"])


def test_a_file_that_vanished_is_left_over(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", PIXELS)
    entries = entries_of(tmp_path)
    (tmp_path / "a.dcm").unlink()
    assert inspect_quickly(entries)[1] == [0]


def fill(values: list[bytes]) -> tuple[Any, Any, Any]:
    data = np.frombuffer(b"".join(values) + b"\0", np.uint8)
    lengths = np.array([len(value) for value in values])
    places = np.stack([np.cumsum(lengths) - lengths, lengths], axis=1)
    return data, places, np.empty(len(values), np.uint8)


numbers = st.floats(allow_nan=False, allow_infinity=False).map(lambda one: f"{one:.15g}")
decimals = st.from_regex(r"[+-]?([0-9]{1,15}(\.[0-9]{0,6})?|\.[0-9]{1,8})([eE][+-]?[0-9]{1,2})?")


@given(st.lists(st.one_of(numbers, decimals).map(str.encode), min_size=1))
def test_decimals_are_the_nearest_doubles(values: list[bytes]) -> None:
    data, places, states = fill(values)
    found = np.zeros((len(values), 1))
    cells.parse_decimals(data, places, 1, found, states)
    for value, number, state in zip(values, found[:, 0], states, strict=True):
        if state == cells.PLAIN:
            expected = float(value)
            assert (number, np.signbit(number)) == (expected, np.signbit(expected))


def test_usual_decimals_are_plain() -> None:
    values = [b"0.70312500 ", b"-163.58544921875", b" 1e-3\0", b"+5", b"1.", b".5", b"40\\400"]
    data, places, states = fill(values)
    found = np.zeros((len(values), 1))
    cells.parse_decimals(data, places, 1, found, states)
    assert states.tolist() == [cells.PLAIN] * len(values)
    assert found[:, 0].tolist() == [0.703125, -163.58544921875, 1e-3, 5, 1, 0.5, 40]


@given(st.lists(st.sampled_from([None, b"", b"1\\2", b"1\\3", b"1\\2 "]), min_size=1))
def test_what_the_file_before_says_too_is_not_fresh(values: list[bytes | None]) -> None:
    data, places, _ = fill([value or b"" for value in values])
    places[[value is None for value in values]] = -1
    fresh = np.empty(len(values), bool)
    cells.find_fresh(data, places, fresh)
    assert fresh.tolist() == [True, *(one != other for one, other in pairwise(values))]


def test_lists_that_are_said_again_and_again_are_those_of_each_file(tmp_path: Path) -> None:
    spacings = [[1, 2], [1, 2], None, None, [1, 2], [3, 4], [3, 4], [1, 2]]
    for number, spacing in enumerate(spacings):
        write_dicom(tmp_path / f"{number}.dcm", PIXELS, PixelSpacing=spacing)
    rows, left = look(tmp_path)
    assert left == []
    assert [row["PixelSpacing"] for row in rows["instances"]] == spacings


@given(st.lists(st.binary(max_size=20), min_size=1))
def test_integers_are_those_of_python_or_strange(values: list[bytes]) -> None:
    data, places, states = fill(values)
    found = np.zeros(len(values), np.int64)
    cells.parse_integers(data, places, found, states)
    for value, number, state in zip(values, found, states, strict=True):
        if state == cells.PLAIN:
            assert number == int(value.decode("ascii").rstrip(" \0"))
        if state == cells.MISSING:
            assert not value.rstrip(b" \0")
