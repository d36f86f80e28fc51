"""The parts of a multipart answer, however it is cut into chunks, and whatever the style."""

from __future__ import annotations

from collections.abc import Iterator
from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkit.errors import UsageError
from medkit.sources.matching import parse_condition
from medkit.sources.multipart import find_boundary, split_parts
from medkit.sources.plans import Unsteady

CHARACTERS = st.sampled_from("abcXYZ019'()+_,-./:=?")


def compose(parts: list[bytes], delimiter: bytes, end: bytes, headers: list[bytes]) -> bytes:
    head = b"".join(header + end for header in headers) + end
    body = b"".join(delimiter + end + head + part + end for part in parts)
    return body + delimiter + b"--" + end


def cut(content: bytes, sizes: list[int]) -> Iterator[bytes]:
    start = 0
    for size in sizes:
        if content[start : start + size]:
            yield content[start : start + size]
        start += size
    if content[start:]:
        yield content[start:]


def read(chunks: Iterator[bytes], boundary: str) -> list[bytes]:
    return [b"".join(part) for part in split_parts(chunks, boundary)]


@given(
    parts=st.lists(st.binary(max_size=80), max_size=4),
    boundary=st.text(CHARACTERS, min_size=1, max_size=30),
    style=st.sampled_from(["usual", "dashes in the header", "not named"]),
    end=st.sampled_from([b"\r\n", b"\n"]),
    headers=st.lists(st.sampled_from([b"Content-Type: application/dicom", b"X: y"]), max_size=2),
    preamble=st.sampled_from([b"", b"\r\n", b"a preamble\r\n"]),
    sizes=st.lists(st.integers(1, 9), max_size=60),
)
def test_every_part_is_read_as_it_was_sent(
    parts: list[bytes],
    boundary: str,
    style: str,
    end: bytes,
    headers: list[bytes],
    preamble: bytes,
    sizes: list[int],
) -> None:
    delimiter = b"--" + boundary.encode()
    parts = [part for part in parts if delimiter not in end + part]
    content = preamble + compose(parts, delimiter, end, headers)
    named = {"usual": boundary, "dashes in the header": f"--{boundary}", "not named": ""}[style]
    assert read(cut(content, sizes), named) == parts


@given(st.binary(min_size=1, max_size=60), st.integers(1, 200))
def test_an_answer_that_is_cut_is_never_taken_for_whole(part: bytes, length: int) -> None:
    content = compose([part.replace(b"--", b"__")] * 2, b"--b", b"\r\n", [b"A: b"])
    # What ends after the last boundary's dashes lacks nothing.
    whole = len(content) - 2
    if length < whole:
        with pytest.raises(Unsteady, match="ends in the middle"):
            read(cut(content[:length], [7] * 40), "b")


def test_parts_that_nobody_reads_are_passed_over() -> None:
    content = compose([b"first", b"second"], b"--b", b"\r\n", [])
    found = [next(part) for part in split_parts(iter([content]), "b")]
    assert found == [b"first", b"second"]


def test_what_has_no_parts_is_refused_before_memory_is_full() -> None:
    with pytest.raises(Unsteady, match="not in parts"):
        read(iter([b"x" * 40_000] * 40), "b")


@given(st.text(CHARACTERS, min_size=1, max_size=40))
def test_a_boundary_is_found_quoted(boundary: str) -> None:
    message = Message()
    message.add_header("Content-Type", "multipart/related", type="application/dicom")
    message.set_param("boundary", boundary)
    assert find_boundary(str(message["Content-Type"])) == boundary
    assert find_boundary("multipart/related; type=application/dicom") == ""


# ---- Conditions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("", {}),
        ("Modality='CT'", {"Modality": "CT"}),
        (' PatientID = "A B*"and StudyDate=20240101-20241231 ', {
            "PatientID": "A B*", "StudyDate": "20240101-20241231"}),
        ("PatientName='O''", None),
        ("Modality='CT' OR Modality='MR'", None),
        ("Modality='CT' AND", None),
        ("Modality='CT' AND Modality='MR'", None),
        ("Modalty='CT'", None),
        ("Modality>'CT'", None),
    ],
)  # fmt: skip
def test_a_condition_is_equations_joined_by_and(where: str, found: dict[str, str] | None) -> None:
    if found is not None:
        assert parse_condition(where) == found
        return
    with pytest.raises(UsageError, match="--where"):
        parse_condition(where)
