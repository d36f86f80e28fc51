"""Answers that come in the order of a key, some rows at a time, and what follows from each key.

DuckDB spills what it sorts, but not what it gathers for each of a million groups: so these are
taken from a sorted answer here, where only the rows of a few groups are held at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Integers = npt.NDArray[np.integer[Any]]


def find_starts(numbers: npt.NDArray[Any]) -> Integers:
    """Return where each run of equal numbers starts."""
    if not len(numbers):
        return np.empty(0, np.intp)
    return np.flatnonzero(np.concatenate([[True], numbers[1:] != numbers[:-1]]))


def cut_between(batches: Iterator[pa.RecordBatch], key: str) -> Iterator[pa.Table]:
    """Yield the same rows in tables that each end where a run of equal keys ends."""
    waiting: list[pa.RecordBatch] = []
    for batch in filter(len, batches):
        keys = batch.column(key).to_numpy()
        cut = int(find_starts(keys)[-1])
        if waiting and waiting[-1].column(key)[-1].as_py() != keys[0]:
            yield pa.Table.from_batches(waiting)
            waiting = []
        if cut:
            yield pa.Table.from_batches([*waiting, batch.slice(0, cut)])
            waiting = []
        waiting.append(batch.slice(cut))
    if waiting:
        yield pa.Table.from_batches(waiting)


def gather(table: pa.Table, key: str, wanted: Sequence[tuple[str, str, str]]) -> pa.Table:
    """Return a row for each key, ascending.

    Parameters
    ----------
    table : pyarrow.Table
        In the order of the key.
    key : str
        A column of integers.
    wanted : sequence of (name, column, function)
        The columns to return, and what each is made of: a function of Arrow (``first``, which
        passes over nulls, ``count``, ``sum``, ``min``, ``count_distinct``), or ``values`` for the
        sorted list of the values that are there.
    """
    simple = [(column, function) for _, column, function in wanted if function != "values"]
    made = table.group_by(key, use_threads=False).aggregate(simple)
    keys = made.column(key).to_numpy()
    columns = {
        name: _list_values(table, key, column, keys)
        if function == "values"
        else made.column(f"{column}_{function}")
        for name, column, function in wanted
    }
    return pa.table({key: made.column(key), **columns})


def _list_values(table: pa.Table, key: str, column: str, keys: Integers) -> pa.Array:
    """Return the values of each key, each once, sorted; nulls are none."""
    filled = table.select([key, column]).filter(table.column(column).is_valid())
    pairs = filled.group_by([key, column]).aggregate([])
    pairs = pairs.sort_by([(key, "ascending"), (column, "ascending")])
    starts = np.searchsorted(pairs.column(key).to_numpy(), keys)
    offsets = pa.array(np.append(starts, len(pairs)), pa.int32())
    return pa.ListArray.from_arrays(offsets, pairs.column(column).combine_chunks())
