"""Packed rows: the same rows, in less memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkit.images.packing import pack_batches, pack_values, unpack, unpack_rows

SCHEMA = pa.schema(
    [
        pa.field("text", pa.string()),
        pa.field("whole", pa.int64()),
        pa.field("real", pa.float64()),
        pa.field("truth", pa.bool_()),
        pa.field("list", pa.list_(pa.float64())),
    ]
)
numbers = st.floats(allow_nan=False)
rows = st.fixed_dictionaries(
    {
        "text": st.none() | st.text(max_size=3),
        "whole": st.none() | st.integers(-(2**63), 2**63 - 1),
        "real": st.none() | numbers,
        "truth": st.none() | st.booleans(),
        "list": st.none() | st.lists(st.none() | numbers, max_size=2),
    }
)


def pack(parts: list[list[dict[str, Any]]]) -> pa.Table:
    batches = (pa.RecordBatch.from_pylist(part, schema=SCHEMA) for part in parts)
    return pack_batches(batches, SCHEMA)


@given(st.lists(st.lists(rows, max_size=12), max_size=4))
def test_packed_rows_are_the_same_rows(parts: list[list[dict[str, Any]]]) -> None:
    packed, wanted = pack(parts), [row for part in parts for row in part]
    assert list(unpack_rows(packed)) == wanted
    assert unpack(packed).cast(SCHEMA).to_pylist() == wanted
    order = np.arange(len(wanted))[::-1]
    assert list(unpack_rows(packed, order)) == wanted[::-1]
    assert all(column.num_chunks == 1 for column in packed.columns)


@pytest.mark.parametrize("distinct", [1, 128, 129, 1000])
def test_a_value_that_repeats_is_there_once(distinct: int) -> None:
    names = [f"a name of some length {number % distinct}" for number in range(8192)]
    batches = [pa.RecordBatch.from_pydict({"name": names[n : n + 500]}) for n in (0, 500, 1000)]
    packed = pack_batches(batches, batches[0].schema)
    assert packed["name"].type == pa.dictionary(
        pa.int8() if distinct <= 128 else pa.int16(), pa.string()
    ) or (distinct == 1000 and packed["name"].type == pa.string())
    assert unpack(packed)["name"].to_pylist() == names[:1500]


def test_a_column_of_nothing_takes_no_memory() -> None:
    packed = pack_values([None] * 1000, pa.int64())
    assert (packed.type, packed.nbytes, len(packed)) == (pa.null(), 0, 1000)
