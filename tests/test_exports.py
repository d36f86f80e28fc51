"""Answers as CSV, JSON and Parquet."""

from __future__ import annotations

import csv
import io
import json
import math
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkit.catalog.exports import choose_form, export
from medkit.errors import UsageError

TABLE = pa.table(
    {
        "text": ["=cmd|'x'!A1", "", None, 'a "b",\r\nc'],
        "integer": pa.array([1, None, -3, 4], pa.int64()),
        "number": [0.1, math.nan, None, 1e300],
        "list": [["a", None], [], None, ["b\\c"]],
        "sum": [Decimal(2**70), None, Decimal(1), Decimal(0)],
        "half": [Decimal("0.50"), None, None, None],
        "blob": [b"\x00\xff", None, b"", b"x"],
        "day": [date(2020, 1, 2), None, None, None],
        "truth": [True, None, False, True],
    }
)


class Pipe(io.RawIOBase):
    """Takes bytes and can do nothing else."""

    def __init__(self) -> None:
        self.content = b""

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.content += bytes(content)
        return len(content)


def write(table: pa.Table, form: str, rows: int = 2) -> bytes:
    pipe = Pipe()
    batches = iter(table.to_batches(max_chunksize=rows))
    export(pa.RecordBatchReader.from_batches(table.schema, batches), form, pipe)
    return pipe.content


def test_csv_keeps_what_is_there() -> None:
    text = write(TABLE, "csv").decode()
    header, first, second, *_ = csv.reader(io.StringIO(text, newline=""))
    assert header == TABLE.column_names
    assert first == [
        *("=cmd|'x'!A1", "1", "0.1", '["a", null]', str(2**70), "0.50", "00ff"),
        *("2020-01-02", "true"),
    ]
    assert second == ["", "", "nan", "[]", "", "", "", "", ""]
    assert text.splitlines()[2].startswith('"",,')  # an empty text is not a missing one
    assert '"a ""b"",\r\nc"' in text


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_text_comes_back_from_csv(texts: list[str]) -> None:
    text = write(pa.table({"a": texts, "b": texts}), "csv").decode()
    assert list(csv.reader(io.StringIO(text, newline="")))[1:] == [[one, one] for one in texts]


def test_json_is_one_array_of_objects() -> None:
    content = write(TABLE, "json")
    assert content.isascii()
    rows = json.loads(content)
    assert list(rows[0]) == TABLE.column_names
    assert [row["number"] for row in rows] == [0.1, None, None, 1e300]
    assert [row["list"] for row in rows] == [["a", None], [], None, ["b\\c"]]
    assert rows[0]["sum"] == 2**70
    assert (rows[0]["half"], rows[0]["blob"], rows[0]["day"]) == (0.5, "00ff", "2020-01-02")
    assert [row["text"] for row in rows] == TABLE["text"].to_pylist()


def test_parquet_is_the_table() -> None:
    read = pq.read_table(io.BytesIO(write(TABLE, "parquet")))
    assert repr(read.to_pydict()) == repr(TABLE.to_pydict())  # NaN is no NaN's equal


@pytest.mark.parametrize("form", ["csv", "json"])
def test_the_bytes_do_not_depend_on_the_batches(form: str) -> None:
    assert write(TABLE, form, 1) == write(TABLE, form, 3) == write(TABLE, form, 4)


def test_an_empty_answer_still_has_its_columns() -> None:
    empty = TABLE.slice(0, 0)
    header = ",".join(f'"{name}"' for name in TABLE.column_names)
    assert write(empty, "csv").decode() == header + "\n"
    assert json.loads(write(empty, "json")) == []
    read = pq.read_table(io.BytesIO(write(empty, "parquet")))
    assert (read.num_rows, read.column_names) == (0, TABLE.column_names)


def test_a_type_that_a_form_lacks_is_said() -> None:
    interval = pa.table({"i": pa.array([(1, 2, 3)], pa.month_day_nano_interval())})
    with pytest.raises(UsageError, match="cast it to VARCHAR"):
        write(interval, "parquet")
    assert json.loads(write(interval, "json")) == [{"i": [1, 2, 3]}]


@pytest.mark.parametrize(
    ("form", "output", "as_json", "chosen"),
    [
        (None, None, False, "table"),
        (None, None, True, "json"),
        ("json", None, True, "json"),
        ("csv", "a.txt", False, "csv"),
        (None, "a.PARQUET", False, "parquet"),
        ("json", "a.csv", False, "json"),
    ],
)
def test_the_form_follows_from_the_options(
    form: str | None, output: str | None, as_json: bool, chosen: str
) -> None:
    assert choose_form(form, Path(output) if output else None, as_json) == chosen


@pytest.mark.parametrize(
    ("form", "output", "as_json", "words"),
    [
        ("csv", None, True, "two forms"),
        (None, "a.txt", False, "--format"),
        ("table", "a.csv", False, "terminal"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    form: str | None, output: str | None, as_json: bool, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        choose_form(form, Path(output) if output else None, as_json)
