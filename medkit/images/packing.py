"""Rows of the catalog by the million: packed, each value that repeats is there once.

A row has some eighty columns, and most have few values for many rows. Packed, it takes three
hundred bytes; in pandas it takes ten times that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Positions = npt.NDArray[np.int64]

_BATCH = 1024
_REPEATED = 4  # rows a value; where values are more nearly all different, they are kept as they are


def pack_batches(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """Return rows packed, each column in one piece, and of the type ``null`` where it is empty.

    Parameters
    ----------
    batches : iterable of RecordBatch
        At most one is held at a time, if its columns share no memory with what comes after it.
    schema : pyarrow.Schema
        Of them all.
    """
    pieces: dict[str, list[pa.Array]] = {name: [] for name in schema.names}
    for batch in batches:
        for name, found in pieces.items():
            found.append(_shorten(_encode(batch[name])))
    # A column at a time, for one that is joined is there twice.
    packed = pa.table({field.name: _join(pieces.pop(field.name), field.type) for field in schema})
    pa.default_memory_pool().release_unused()  # all that the batches took
    return packed


def pack_values(values: Iterable[Any], kind: pa.DataType) -> pa.Array:
    """Return the values of one column, packed."""
    return _shorten(_encode(pa.array(values, type=kind)))


def unpack_rows(rows: pa.Table, positions: Positions | None = None) -> Iterator[dict[str, Any]]:
    """Yield packed rows as plain values of Python, None where there is none; all by default."""
    wanted = np.arange(len(rows)) if positions is None else positions
    for first in range(0, len(wanted), _BATCH):
        yield from unpack(rows.take(wanted[first : first + _BATCH])).to_pylist()


def unpack(rows: pa.Table) -> pa.Table:
    """Return packed rows with their values written out."""
    kinds = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in rows.schema
    ]
    return rows.cast(pa.schema(kinds))


def _encode(values: pa.Array) -> pa.Array:
    """Return values with each of them once, where they have a type for which Arrow can."""
    kind = values.type
    if pa.types.is_nested(kind) or pa.types.is_boolean(kind) or pa.types.is_dictionary(kind):
        return values
    return values.dictionary_encode()


def _shorten(values: pa.Array) -> pa.Array:
    """Return encoded values in the least memory."""
    if values.null_count == len(values):
        return pa.nulls(len(values))
    if not pa.types.is_dictionary(values.type):
        return values
    if _REPEATED * len(values.dictionary) > len(values):
        return values.dictionary_decode()
    short = pa.from_numpy_dtype(np.min_scalar_type(-len(values.dictionary)))
    return values.cast(pa.dictionary(short, values.type.value_type))


def _join(pieces: list[pa.Array], kind: pa.DataType) -> pa.Array:
    """Return packed pieces of a column of some type as one."""
    encoded = _encode(pa.array([], kind)).type
    alike = [
        piece.cast(encoded) if pa.types.is_dictionary(piece.type) else _encode(piece.cast(kind))
        for piece in pieces
    ]
    return _shorten(pa.chunked_array(alike, encoded).unify_dictionaries().combine_chunks())
